//! A run: its phases, and the queue of what happens when.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use pureboot_agent::world;
use pureboot_protocol::RegistrationToken;
use serde_json::json;
use tempfile::TempDir;

use crate::centre::Centre;
use crate::dice::Dice;
use crate::faults::{Fault, Planted};
use crate::files::Image;
use crate::kernel::Kernel;
use crate::machine::{Heard, Machine};
use crate::network::{Arrival, Link, Post};
use crate::oracle::{Invariant, Oracle, Stop, Violation, violated};
use crate::site::{Mailbox, Site};
use crate::tally::Tally;

/// A day of virtual time.
pub const DAY: Duration = Duration::from_secs(86_400);
/// An hour of it.
pub const HOUR: Duration = Duration::from_secs(3_600);
/// How much longer agents sleep than they want to during chaos, which lasts for months.
const STRIDE: u32 = 120;
/// The same while machines boot once more at the end.
const STRIDE_AT_END: u32 = 12;
/// When everything has to be handed over, after everything was mended. Agents sleep as long as they want to.
const DRAIN: Duration = Duration::from_secs(2 * 3_600);
/// How long machines boot once more after that: as long as an installation takes.
const LAST_BOOTS: Duration = Duration::from_secs(12 * 3_600);
/// How large the database of a site may be, in bytes: its quota, and as much again for SQLite's log.
const SITE_BYTES_MAX: u64 = 16 << 20;
/// How often the controller's own jobs are done.
const WORK: Duration = Duration::from_secs(12 * 3_600);

/// What a run is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// All chance follows from it.
    pub seed: u64,
    /// How long chaos lasts, in days.
    pub days: u32,
    /// How many sites there are.
    pub sites: usize,
    /// How many machines each has.
    pub machines: usize,
    /// The faults that happen.
    pub faults: BTreeSet<Fault>,
    /// A bug on purpose.
    pub planted: Option<Planted>,
}

impl Options {
    /// What `seed` stands for: half of the faults, and as many sites, machines and days as it draws.
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed, "shape");
        let sites = 1 + dice.index(3);
        let machines = [3, 6, 12, 24][dice.index(4)];
        let days = [90, 180, 365][dice.index(3)];
        Self { seed, days, sites, machines, faults: Fault::swarm(seed), planted: None }
    }

    /// A run in which `bug` may show: a few machines, and the faults that bring the bug to light.
    pub fn with_bug(seed: u64, bug: Planted) -> Self {
        let faults = bug.faults();
        Self { seed, days: 182, sites: 2, machines: 3, faults, planted: Some(bug) }
    }

    /// How many node-years it has.
    pub fn node_years(&self) -> f64 {
        let nodes = u32::try_from(self.sites * self.machines).unwrap_or(u32::MAX);
        f64::from(nodes) * f64::from(self.days) / 365.0
    }
}

/// What has come of a run.
#[derive(Debug)]
pub struct Outcome {
    /// What does not hold, if anything.
    pub violation: Option<Violation>,
    /// Everything that has happened, in order.
    pub trace: String,
    /// How much has happened.
    pub tally: Tally,
}

/// What happens next.
#[derive(Debug)]
pub enum Event {
    /// A request or an answer arrives.
    Arrival(Arrival),
    /// A machine does what it does next, unless it has changed its mind since.
    Machine(usize, u64),
    /// An operator looks at a machine.
    Operator(usize),
    /// Operators look at conflicts and sites.
    Operators,
    /// A site's operator wishes for something.
    Wish(usize),
    /// A site's line changes.
    Link(usize),
    /// A fault happens at a site.
    Fault(Fault, usize),
    /// The agent of a site is started.
    Start(usize),
    /// The controller is started.
    StartCentre,
    /// A backup of the controller is made.
    BackUp,
    /// The controller does its jobs.
    Work,
    /// Somebody speaks about nodes of a site who may not.
    Impostor(usize),
}

/// A run on its way.
pub struct Scenario {
    /// What it is made of.
    pub options: Options,
    /// Time and chance.
    pub kernel: Kernel,
    /// The controller.
    pub centre: Centre,
    /// Sites with their agents.
    pub sites: Vec<Site>,
    /// The line of each.
    pub links: Vec<Link>,
    /// Machines.
    pub machines: Vec<Machine>,
    /// What agents have sent and nobody has carried yet.
    pub mailbox: Mailbox,
    /// What machines have heard and not yet understood.
    pub heard: Rc<RefCell<Vec<Heard>>>,
    /// What is on its way.
    pub post: Post,
    /// Judges.
    pub oracle: Oracle,
    /// The workflow that everything is installed with.
    pub workflow: String,
    /// The controller's last backup, with what the oracle knew then.
    pub(crate) backup: Option<Backup>,
    /// What happens to the controller when it has taken the next batch, before it can say so.
    pub doom: Option<Fault>,
    /// Whether faults still happen.
    pub is_chaos: bool,
    /// How much has happened.
    pub tally: Tally,
    /// How much longer agents sleep than they want to.
    stride: u32,
    events: BTreeMap<(Duration, u64), Event>,
    next_event: u64,
    dice: BTreeMap<&'static str, Dice>,
    trace: String,
    dir: TempDir,
}

/// A backup of the controller.
pub(crate) struct Backup {
    pub(crate) image: Image,
    pub(crate) oracle: Oracle,
}

/// Runs what `options` says, from the beginning to the verdict.
///
/// # Errors
/// The simulation itself has failed; what the product breaks is in the outcome.
pub fn run(options: &Options) -> Result<Outcome> {
    let mut scenario = Scenario::begin(options)?;
    let ended = scenario.play();
    world::enter(None);
    let violation = match ended {
        Ok(()) => None,
        Err(Stop::Violated(violation)) => {
            scenario.note(&format!("VIOLATED {violation}"));
            Some(violation)
        }
        Err(Stop::Broken(error)) => {
            return Err(error.context(format!("seed {}\n{}", options.seed, scenario.last_lines())));
        }
    };
    Ok(Outcome { violation, trace: std::mem::take(&mut scenario.trace), tally: scenario.tally })
}

/// Memory where there is some to keep files in: nothing of a run has to outlive the machine.
fn scratch() -> Result<TempDir> {
    let memory = std::path::Path::new("/dev/shm");
    let made = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
    made.context("cannot make a directory for the databases")
}

impl Scenario {
    fn begin(options: &Options) -> Result<Self> {
        let kernel = Kernel::new(options.seed);
        world::enter(Some(Rc::new(kernel.clone())));
        let dir = scratch()?;
        let centre = Centre::start(dir.path(), kernel.clock(), options.seed)?;
        let mut scenario = Self {
            options: options.clone(),
            kernel,
            centre,
            sites: Vec::new(),
            links: Vec::new(),
            machines: Vec::new(),
            mailbox: Mailbox::default(),
            heard: Rc::default(),
            post: Post::default(),
            oracle: Oracle::default(),
            workflow: String::new(),
            backup: None,
            doom: None,
            is_chaos: true,
            stride: STRIDE,
            tally: Tally::default(),
            events: BTreeMap::new(),
            next_event: 0,
            dice: BTreeMap::new(),
            trace: String::new(),
            dir,
        };
        scenario.settle()?;
        Ok(scenario)
    }

    /// Sites, agents and machines, and the first of everything that happens again and again.
    fn settle(&mut self) -> Result<()> {
        let faults: Vec<_> = self.options.faults.iter().map(|fault| fault.as_str()).collect();
        let planted = self.options.planted.map_or("nothing", Planted::as_str);
        let line = format!(
            "seed {}: {} sites of {} machines for {} days; faults {}; planted {planted}",
            self.options.seed,
            self.options.sites,
            self.options.machines,
            self.options.days,
            faults.join(","),
        );
        self.note(&line);
        let workflow = json!({
            "name": "debian", "method": "kernel", "kernel": "images/debian/linux",
            "initrd": ["images/debian/initrd.gz"], "command_line": "auto=true",
        });
        let workflow =
            self.centre.data("POST", "/api/v1/workflows?allow_missing=true", Some(workflow))?;
        self.workflow = workflow["id"].as_str().context("a workflow has an id")?.to_owned();
        for number in 0..self.options.sites {
            self.settle_site(number)?;
        }
        for number in 0..self.options.sites * self.options.machines {
            self.machines.push(Machine::new(number, number % self.options.sites));
            let first = self.draw("machines").span(HOUR, 20 * DAY);
            self.machine_in(number, first);
            if self.has(Fault::SiteWishes) {
                let at = self.draw("wishes").span(DAY, 40 * DAY);
                self.after(at, Event::Wish(number));
            }
        }
        self.after(DAY, Event::Operators);
        self.after(WORK, Event::Work);
        if self.has(Fault::CentreRestore) {
            self.after(2 * DAY, Event::BackUp);
        }
        self.schedule_faults();
        Ok(())
    }

    fn settle_site(&mut self, number: usize) -> Result<()> {
        let strategies = ["central_wins", "site_wins", "last_write", "manual"];
        let autonomies = ["readonly", "limited", "full"];
        let dice = self.draw("sites");
        let strategy = strategies[dice.index(strategies.len())];
        let autonomy = autonomies[dice.index(autonomies.len())];
        let site = json!({
            "name": format!("site-{number}"), "heartbeat_interval": 3_600,
            "conflict_resolution": strategy, "autonomy_level": autonomy,
        });
        let site = self.centre.data("POST", "/api/v1/sites", Some(site))?;
        let id = site["id"].as_str().context("a site has an id")?;
        let token = self.make_token(id)?;
        self.note(&format!("site {number} is {id}, {strategy}, {autonomy}"));
        let dir = self.dir.path().join(format!("site-{number}"));
        let (seed, planted) = (self.options.seed, self.options.planted);
        let mut site = Site::new(number, id.parse()?, token, dir, seed, planted);
        site.start(&self.mailbox)?;
        self.sites.push(site);
        self.links.push(Link::default());
        Ok(())
    }

    fn schedule_faults(&mut self) {
        for site in 0..self.options.sites {
            if self.has(Fault::LineDown) {
                let at = self.draw("lines").span(HOUR, 30 * DAY);
                self.after(at, Event::Link(site));
            }
            for fault in [
                Fault::Crash,
                Fault::DiskFull,
                Fault::DiskFails,
                Fault::DiskDamaged,
                Fault::ClockJumps,
                Fault::CentreCrash,
                Fault::CentreRestore,
            ] {
                if self.has(fault) {
                    self.schedule(fault, site);
                }
            }
            if self.has(Fault::Impostor) {
                self.after(10 * DAY, Event::Impostor(site));
            }
        }
    }

    /// Has `fault` happen at `site` some time.
    pub fn schedule(&mut self, fault: Fault, site: usize) {
        let (soonest, latest) = match fault {
            Fault::Crash => (HOUR, 20 * DAY),
            Fault::DiskDamaged => (20 * DAY, 160 * DAY),
            _ => (DAY, 60 * DAY),
        };
        let at = self.draw("faults").span(soonest, latest);
        self.after(at, Event::Fault(fault, site));
    }

    fn play(&mut self) -> Result<(), Stop> {
        self.go_on_until(self.options.days * DAY)?;
        self.mend()?;
        let end = self.kernel.elapsed() + DRAIN;
        self.go_on_until(end)?;
        self.stride = STRIDE_AT_END;
        self.boot_all();
        let end = self.kernel.elapsed() + LAST_BOOTS;
        self.go_on_until(end)?;
        self.judge()
    }

    /// Ends all faults.
    fn mend(&mut self) -> Result<(), Stop> {
        self.note("everything is mended");
        (self.is_chaos, self.stride, self.doom) = (false, 1, None);
        self.kernel.rouse();
        self.centre.restart()?;
        for site in 0..self.sites.len() {
            self.links[site] = Link::default();
            self.sites[site].skew_ms = 0;
            if let Some(life) = &self.sites[site].life {
                life.bench.with(|disk| {
                    (disk.ends_in, disk.is_full, disk.fails) = (None, false, 0);
                });
            }
            self.start_agent(site)?;
        }
        Ok(())
    }

    /// Starts the agent of a site, with a new token where its disk has lost who it is.
    fn start_agent(&mut self, number: usize) -> Result<(), Stop> {
        if self.sites[number].life.is_some() {
            return Ok(());
        }
        if self.sites[number].needs_token {
            if !self.centre.is_up() {
                self.after(HOUR, Event::Start(number));
                return Ok(());
            }
            self.sites[number].token = self.make_token(&self.sites[number].id.to_string())?;
            self.sites[number].needs_token = false;
        }
        self.note(&format!("agent {number} starts"));
        self.tally.starts += 1;
        Ok(self.sites[number].start(&self.mailbox)?)
    }

    fn make_token(&self, site: &str) -> Result<RegistrationToken> {
        let path = format!("/api/v1/sites/{site}/agent-token");
        let made = self.centre.data("POST", &path, Some(json!({})))?;
        Ok(made["token"].as_str().context("a token")?.parse()?)
    }

    /// Lets everything happen that happens before `end`.
    fn go_on_until(&mut self, end: Duration) -> Result<(), Stop> {
        loop {
            self.run_agents()?;
            let event = self.events.keys().next().map(|(at, _)| *at);
            let wake = self.kernel.next_wake();
            let next = [event, wake].into_iter().flatten().min().filter(|next| *next < end);
            let Some(next) = next else {
                self.kernel.pass_until(end);
                return Ok(());
            };
            self.kernel.pass_until(next);
            // Sleepers first: whoever waits for an answer until now has waited long enough.
            if wake == Some(next) {
                continue;
            }
            if let Some((_, event)) = self.events.pop_first() {
                self.happen(event)?;
            }
        }
    }

    /// Lets the agents run until none of them has anything left to do.
    fn run_agents(&mut self) -> Result<(), Stop> {
        loop {
            let mut is_idle = true;
            for number in 0..self.sites.len() {
                let site = &self.sites[number];
                let Some(life) = &site.life else { continue };
                self.kernel.run_as(site.skew_ms, self.stride);
                while life.executor.try_tick() {
                    is_idle = false;
                }
                self.kernel.run_as(0, 1);
                let has_ended = life.bench.with(|disk| disk.has_ended);
                if let Some((epoch, through)) = self.sites[number].newly_forgotten() {
                    self.oracle.forget(epoch, through)?;
                }
                if has_ended {
                    self.end_agent(number)?;
                }
            }
            is_idle &= !self.carry()?;
            is_idle &= !self.listen()?;
            if is_idle {
                return Ok(());
            }
        }
    }

    /// The agent of a site has ended, and is started again after a while.
    pub fn end_agent(&mut self, number: usize) -> Result<(), Stop> {
        self.note(&format!("agent {number} ends"));
        self.sites[number].kill()?;
        let pause = self.draw("faults").span(Duration::from_secs(1), HOUR);
        self.after(pause, Event::Start(number));
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), Stop> {
        match event {
            Event::Arrival(arrival) => self.arrive(arrival),
            Event::Machine(number, turn) => self.act(number, turn),
            Event::Operator(number) => self.look_at(number),
            Event::Operators => self.look_around(),
            Event::Wish(number) => self.wish(number),
            Event::Link(site) => {
                self.change_link(site);
                Ok(())
            }
            Event::Fault(fault, site) if self.is_chaos => self.strike(fault, site),
            Event::Fault(..) => Ok(()),
            Event::Start(site) => self.start_agent(site),
            Event::StartCentre => {
                self.note("the controller starts");
                Ok(self.centre.restart()?)
            }
            Event::BackUp => {
                if self.is_chaos {
                    let oracle = self.oracle.clone();
                    self.backup = Some(Backup { image: self.centre.back_up()?, oracle });
                    self.after(7 * DAY, Event::BackUp);
                }
                Ok(())
            }
            Event::Work => {
                self.after(WORK, Event::Work);
                Ok(self.centre.work()?)
            }
            Event::Impostor(site) => self.pretend(site),
        }
    }

    /// Whether `fault` is one of this run's.
    pub fn has(&self, fault: Fault) -> bool {
        self.options.faults.contains(&fault)
    }

    /// The chance of one part of the run.
    pub fn draw(&mut self, name: &'static str) -> &mut Dice {
        let seed = self.options.seed;
        self.dice.entry(name).or_insert_with(|| Dice::new(seed, name))
    }

    /// Has `event` happen once `pause` is over.
    pub fn after(&mut self, pause: Duration, event: Event) {
        self.next_event += 1;
        self.events.insert((self.kernel.elapsed() + pause, self.next_event), event);
    }

    /// Writes down what happens.
    pub fn note(&mut self, text: &str) {
        let elapsed = self.kernel.elapsed();
        let seconds = elapsed.as_secs();
        let (day, hour, minute) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
        let (second, ms) = (seconds % 60, elapsed.subsec_millis());
        _ = writeln!(self.trace, "{day:>4} {hour:02}:{minute:02}:{second:02}.{ms:03} {text}");
    }

    fn last_lines(&self) -> String {
        let lines: Vec<_> = self.trace.lines().rev().take(30).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// A site's database is larger than it may be.
    pub fn check_size(&self, site: usize) -> Result<(), Stop> {
        let size_bytes = self.sites[site].size_bytes();
        if size_bytes <= SITE_BYTES_MAX {
            return Ok(());
        }
        Err(violated(
            Invariant::Bounded,
            format!("the database of site {site} has {size_bytes} bytes"),
        ))
    }
}
