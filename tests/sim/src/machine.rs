//! Machines: their firmware asks for a script and obeys it, their installer and their system report until they are heard.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use pureboot_agent::clock::{self, Timer};
use pureboot_agent::outbox::NewChange;
use pureboot_protocol::{
    BootId, BootRequest, Category, ChangePayload, ContentKey, HardwareFact, Lifecycle, Mac,
    NodeEvent, NodeEventKind,
};

use crate::faults::{Fault, Planted};
use crate::oracle::{Invariant, Stop, Wish, message, violated};
use crate::scenario::{DAY, Event, HOUR, Scenario};

/// How long firmware waits for its script.
const FIRMWARE_PATIENCE: Duration = Duration::from_secs(15);
/// How long a machine's script may take at the most (I4).
const SCRIPT_TIME_MAX: Duration = Duration::from_secs(2);
/// How often a machine reports the same before it gives up.
const TRIES_MAX: u32 = 60;

/// A machine of a site.
#[derive(Debug)]
pub struct Machine {
    /// Where it stands.
    pub site: usize,
    /// Its address.
    pub mac: Mac,
    /// How often its site has wished for an installation of it.
    pub own_wishes: u64,
    /// When the centre has wished for one last, as far as its site knows.
    pub wishes_seen: u64,
    /// The sum of both when its disk was written last: another wish makes it larger.
    pub installed_for: Option<u64>,
    /// Whether the controller has answered its site's question in this boot.
    pub was_asked: bool,
    /// What it does next.
    todo: VecDeque<Deed>,
    /// What it does next was planned in this turn.
    turn: u64,
    session: Option<BootId>,
    is_installed: bool,
}

/// Something that a machine does.
#[derive(Debug, Clone)]
enum Deed {
    Boot,
    FetchKernel,
    Report { number: Option<u64>, kind: NodeEventKind, tries: u32 },
}

impl Deed {
    fn report(kind: NodeEventKind) -> Self {
        Self::Report { number: None, kind, tries: 0 }
    }
}

/// What an agent has said.
#[derive(Debug)]
pub enum Heard {
    /// A script.
    Script {
        /// To whom.
        machine: usize,
        /// Which question of his it answers.
        turn: u64,
        /// What it says.
        text: String,
        /// How long it took.
        took: Duration,
        /// Whether the site knew the machine when it asked.
        was_known: bool,
    },
    /// What became of a report.
    Report {
        /// Whose.
        machine: usize,
        /// When it was made.
        turn: u64,
        /// Whether it was taken.
        is_taken: bool,
    },
    /// A wish of the site's operator was taken.
    Wish {
        /// Over which machine.
        machine: usize,
        /// For what.
        state: Lifecycle,
        /// The id of its change.
        id: String,
        /// The version of the node that he saw.
        base: u64,
    },
}

impl Machine {
    /// A machine that is off.
    pub fn new(number: usize, site: usize) -> Self {
        let [high, low] = u16::try_from(number).expect("few machines").to_be_bytes();
        let mac = Mac::from_bytes([0x52, 0x54, 0, 1, high, low]).expect("a unicast address");
        Self {
            site,
            mac,
            own_wishes: 0,
            wishes_seen: 0,
            installed_for: None,
            was_asked: false,
            todo: VecDeque::from([Deed::Boot]),
            turn: 0,
            session: None,
            is_installed: false,
        }
    }
}

/// What the first line after the head of a script tells of its kind.
fn is_installer(script: &str) -> bool {
    script.contains(" starts workflow ")
}

fn session_of(script: &str) -> Option<BootId> {
    let line = script.lines().find_map(|line| line.strip_prefix("echo Boot session "))?;
    line.trim().parse().ok()
}

impl Scenario {
    /// Has a machine go on once `pause` is over.
    pub fn machine_in(&mut self, number: usize, pause: Duration) {
        let machine = &mut self.machines[number];
        machine.turn += 1;
        let turn = machine.turn;
        self.after(pause, Event::Machine(number, turn));
    }

    /// Has every machine that is not in the middle of something boot.
    pub fn boot_all(&mut self) {
        for number in 0..self.machines.len() {
            self.machines[number].todo.clear();
            self.machines[number].todo.push_back(Deed::Boot);
            let pause = self.draw("machines").span(Duration::from_secs(1), HOUR);
            self.machine_in(number, pause);
        }
    }

    /// A machine does what it does next.
    pub fn act(&mut self, number: usize, turn: u64) -> Result<(), Stop> {
        if self.machines[number].turn != turn {
            return Ok(());
        }
        match self.machines[number].todo.front().cloned() {
            None | Some(Deed::Boot) => self.ask(number),
            Some(Deed::FetchKernel) => self.fetch(number),
            Some(Deed::Report { number: report, kind, tries }) => {
                self.report(number, report, kind, tries);
            }
        }
        Ok(())
    }

    fn ask(&mut self, number: usize) {
        self.machines[number].was_asked = false;
        // Whoever hears nothing asks again.
        self.machine_in(number, FIRMWARE_PATIENCE);
        let machine = &self.machines[number];
        let (turn, mac, named) = (machine.turn, machine.mac, machine.session);
        let site = &self.sites[machine.site];
        let Some(life) = &site.life else { return };
        let (booter, heard) = (Rc::clone(&life.booter), Rc::clone(&self.heard));
        let was_known = life.store.node(mac).is_some_and(|node| node.known.is_some());
        let (base, address) = (site.address.into(), site.address.ip());
        let asking = async move {
            let asked_at = clock::monotonic();
            let mut request = BootRequest::new(mac);
            request.serial = HardwareFact::new(&format!("serial {mac}"));
            let text = booter.script(request, named, Some(address), base).await;
            let took = clock::monotonic() - asked_at;
            heard.borrow_mut().push(Heard::Script { machine: number, turn, text, took, was_known });
        };
        life.executor.spawn(asking).detach();
    }

    fn fetch(&mut self, number: usize) {
        self.machines[number].todo.pop_front();
        let pause = self.draw("machines").span(Duration::from_secs(10), Duration::from_secs(300));
        self.machine_in(number, pause);
        let machine = &self.machines[number];
        let (Some(session), Some(life)) = (machine.session, &self.sites[machine.site].life) else {
            return;
        };
        let reporter = Rc::clone(&life.reporter);
        let kernel = ContentKey::new(Category::Images, "debian/linux").expect("a good name");
        let noting = async move { reporter.note_fetched(session, &kernel).await };
        life.executor.spawn(noting).detach();
    }

    fn report(&mut self, number: usize, report: Option<u64>, kind: NodeEventKind, tries: u32) {
        // A heartbeat that nobody answers is not repeated: the next one is another.
        let repeated = report.filter(|_| kind != NodeEventKind::Heartbeat);
        let report = repeated.unwrap_or_else(|| {
            self.tally.reports += 1;
            self.oracle.begin(number)
        });
        if tries > TRIES_MAX {
            self.note(&format!("machine {number} gives report {report} up"));
            self.machines[number].todo.pop_front();
            return self.go_on(number);
        }
        let again = Deed::Report { number: Some(report), kind, tries: tries + 1 };
        self.machines[number].todo[0] = again;
        let pause = Duration::from_secs(30) * 2_u32.pow(tries.min(9));
        self.machine_in(number, pause);
        let machine = &self.machines[number];
        let (turn, mac) = (machine.turn, machine.mac);
        let late = match self.options.planted {
            Some(Planted::WriteBehind) => {
                Some(self.draw("machines").span(Duration::from_secs(1), 2 * HOUR))
            }
            _ => None,
        };
        let machine = &self.machines[number];
        let (Some(session), Some(life)) = (machine.session, &self.sites[machine.site].life) else {
            return;
        };
        let mut event = NodeEvent::new(kind);
        event.message = HardwareFact::new(&message(report));
        if self.options.planted == Some(Planted::RetryWithoutId) {
            event.status = HardwareFact::new(&format!("try {tries}"));
        }
        let (reporter, heard) = (Rc::clone(&life.reporter), Rc::clone(&self.heard));
        let reporting = async move {
            if let Some(late) = late {
                heard.borrow_mut().push(Heard::Report { machine: number, turn, is_taken: true });
                Timer::after(late).await;
            }
            let is_taken = reporter.report(mac, session, event).await.is_ok();
            heard.borrow_mut().push(Heard::Report { machine: number, turn, is_taken });
        };
        life.executor.spawn(reporting).detach();
    }

    /// Machines hear what was said to them; answers whether there was anything.
    pub fn listen(&mut self) -> Result<bool, Stop> {
        let heard = std::mem::take(&mut *self.heard.borrow_mut());
        let was_any = !heard.is_empty();
        for heard in heard {
            match heard {
                Heard::Script { machine, turn, text, took, was_known } => {
                    self.check_script(machine, &text, took, was_known)?;
                    if self.machines[machine].turn == turn && !self.is_lost_on_lan() {
                        self.obey(machine, &text)?;
                    }
                }
                Heard::Report { machine, turn, is_taken } => {
                    let is_heard = self.machines[machine].turn == turn && is_taken;
                    if is_heard && !self.is_lost_on_lan() {
                        self.heard_report(machine);
                    }
                }
                Heard::Wish { machine, state, id, base } => {
                    self.note(&format!("machine {machine} is wished {state} by its site"));
                    let site = self.machines[machine].site;
                    if state == Lifecycle::Pending {
                        self.machines[machine].own_wishes += 1;
                    }
                    self.oracle.wishes.insert(id, Wish::new(machine, site, base));
                }
            }
        }
        Ok(was_any)
    }

    fn is_lost_on_lan(&mut self) -> bool {
        self.befalls(Fault::LanLoses, "lan", 15)
    }

    fn heard_report(&mut self, number: usize) {
        let machine = &mut self.machines[number];
        let Some(Deed::Report { number: Some(report), kind, .. }) = machine.todo.pop_front() else {
            return;
        };
        if kind == NodeEventKind::InstallComplete {
            machine.is_installed = true;
        }
        self.note(&format!("machine {number} is told that report {report} ({kind}) is taken"));
        self.oracle.tell(report);
        self.go_on(number);
    }

    fn go_on(&mut self, number: usize) {
        let is_running = self.machines[number].todo.is_empty();
        let dice = self.draw("machines");
        let pause = match is_running {
            true => dice.span(5 * DAY, 60 * DAY),
            false => dice.span(Duration::from_secs(5), HOUR),
        };
        self.machine_in(number, pause);
    }

    fn check_script(
        &self,
        number: usize,
        text: &str,
        took: Duration,
        was_known: bool,
    ) -> Result<(), Stop> {
        let wrong =
            |text: String| Err(violated(Invariant::Boot, format!("machine {number}: {text}")));
        if took > SCRIPT_TIME_MAX {
            return wrong(format!("its script took {} ms", took.as_millis()));
        }
        if !text.starts_with("#!ipxe\n") {
            return wrong(format!("it got no script, but {text:?}"));
        }
        if was_known && text.contains("is not known here") {
            return wrong("its site knows it, and it was told to come back later".to_owned());
        }
        Ok(())
    }

    /// A machine does what its script says.
    fn obey(&mut self, number: usize, script: &str) -> Result<(), Stop> {
        self.tally.scripts += 1;
        let is_installer = is_installer(script);
        let machine = &mut self.machines[number];
        machine.session = session_of(script);
        machine.todo.clear();
        let what = if is_installer { "its installer" } else { "its disk" };
        let asked = if machine.was_asked { "" } else { ", the controller not asked" };
        let line = format!("machine {number} boots {what}{asked}");
        if is_installer {
            let wishes = machine.own_wishes + machine.wishes_seen;
            let is_second = machine.installed_for.replace(wishes) >= Some(wishes);
            if is_second && !machine.was_asked {
                let text = format!(
                    "machine {number} is installed twice for one wish, and nobody asked the controller"
                );
                return Err(violated(Invariant::OneWish, text));
            }
            machine.is_installed = false;
            let last = match self.draw("machines").percent(80) {
                true => NodeEventKind::InstallComplete,
                false => NodeEventKind::InstallFailed,
            };
            let course = [
                Deed::FetchKernel,
                Deed::report(NodeEventKind::InstallStarted),
                Deed::report(NodeEventKind::InstallProgress),
                Deed::report(last),
                Deed::Boot,
            ];
            // Some are switched off before the first byte of the kernel.
            let is_cut_short = self.draw("machines").percent(25);
            let course = course.into_iter().skip(if is_cut_short { 4 } else { 0 });
            self.machines[number].todo.extend(course);
        } else if machine.is_installed {
            machine.todo.push_back(Deed::report(NodeEventKind::FirstBoot));
            machine.todo.push_back(Deed::report(NodeEventKind::Heartbeat));
        }
        self.note(&line);
        let is_cut_short = is_installer && self.machines[number].todo.len() == 1;
        let operator = self.draw("operators").span(HOUR, 40 * DAY);
        self.after(operator, Event::Operator(number));
        if is_cut_short {
            let pause = self.draw("machines").span(HOUR, 30 * DAY);
            self.machine_in(number, pause);
        } else {
            self.go_on(number);
        }
        Ok(())
    }

    /// A site's operator wishes for another state of a machine.
    pub fn wish(&mut self, number: usize) -> Result<(), Stop> {
        if !self.is_chaos {
            return Ok(());
        }
        let pause = self.draw("wishes").span(DAY, 60 * DAY);
        self.after(pause, Event::Wish(number));
        let (site, mac) = (self.machines[number].site, self.machines[number].mac);
        let mut session = [0; 16];
        self.draw("wishes").fill(&mut session);
        let which = self.draw("wishes").draw();
        let newest = match (self.options.planted, self.centre.is_up()) {
            (Some(Planted::VersionNotCompared), true) => {
                self.node(number)?.and_then(|node| node["version"].as_u64())
            }
            _ => None,
        };
        let Some(life) = &self.sites[site].life else { return Ok(()) };
        let Some(node) = life.store.node(mac) else { return Ok(()) };
        let Some(known) = node.known.filter(|known| known.record.version > 0) else {
            return Ok(());
        };
        let (Some(agent), autonomy) = (life.standing.agent_id(), life.standing.autonomy()) else {
            return Ok(());
        };
        let ways = known.record.state.successors().filter(|to| *to != Lifecycle::Retired);
        let ways: Vec<_> = ways.collect();
        let way = usize::try_from(which).unwrap_or(0).checked_rem(ways.len());
        let Some(state) = way.and_then(|way| ways.get(way).copied()) else { return Ok(()) };
        let base = known.record.version;
        let (outbox, executor) = (life.outbox.clone(), &life.executor);
        let change = NewChange {
            agent,
            node: node.node_id,
            base_version: Some(newest.unwrap_or(base)),
            at: clock::now(),
            clock: life.standing.clock(),
            // Another wish for the same is another change.
            session: Some(BootId::from_random(session)),
            payload: ChangePayload::StateChange { state, autonomy },
        };
        let heard = Rc::clone(&self.heard);
        let wishing = async move {
            // The agent has no path by which a wish would move what it remembers: it is told by the controller what has come of it.
            if let Ok(recorded) = outbox.record(change, |_| {}).await {
                let id = recorded.id.to_string();
                heard.borrow_mut().push(Heard::Wish { machine: number, state, id, base });
            }
        };
        executor.spawn(wishing).detach();
        Ok(())
    }
}
