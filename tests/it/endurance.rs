//! Sudden ends by the hundred, with the real programs: kill -9 of agent and controller at any moment, and power cuts of the agent's
//! disk. Meanwhile machines boot and report. In the end the controller has each report that was taken, once and in order (FAULTS I1 to
//! I3).
//!
//! A power cut is one: the agent's data lies on an ext4 of its own, which is shut down as the kernel does it for tests of file systems
//! (`EXT4_IOC_SHUTDOWN` without a flush): what was not made durable is gone, and the next mount finds a journal to be played back.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pureboot_tests::controller::Controller;
use pureboot_tests::disk::CrashDisk;
use pureboot_tests::machines::Machine;
use pureboot_tests::process::{self, Program};
use pureboot_tests::site::{Agent, Autonomy, Ports, Site};
use pureboot_tests::{is_long, noise, random, wait};

use crate::need::Need;
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(k_no_report_is_lost_doubled_or_out_of_place_through_hundreds_of_kills),
        case!(k_a_machine_that_nobody_was_told_of_before_the_end_is_known_when_it_reports),
        case!(l_what_was_taken_outlives_dozens_of_power_cuts, Need::Root, MKFS, PERL),
    ]
}

pub(crate) const MKFS: Need = Need::Program("mkfs.ext4", "e2fsprogs");
const PERL: Need = Need::Program("perl", "perl-base");

/// Kills, of agent or controller, in every run and in a long one.
const KILLS: [usize; 2] = [500, 20_000];
/// Power cuts, likewise.
const CUTS: [usize; 2] = [50, 2_000];
/// Pairs of programs that are killed beside each other.
const PAIRS: usize = 4;
/// Machines of a site that report at the same time.
const MACHINES: usize = 6;
/// Reports of a machine before another one takes its turn: the controller keeps the latest 1,000.
const REPORTS: usize = 300;
/// Of so many kills one is the controller's: it takes longer to start.
const CONTROLLER_TURN: u64 = 8;
/// Of so many kills one comes while the program is starting.
const EARLY_TURN: u64 = 5;
/// Of so many lives one lasts until a report has been taken.
const LIVED_TURN: u64 = 4;
/// What passes at the most between a start, or that report, and a kill.
const LIFE_MAX_MS: u64 = 300;
/// What a start may take at the most that is cut short.
const BIRTH_MAX_MS: u64 = 30;
/// After which a machine tries again.
const PATIENCE: Duration = Duration::from_millis(5);
/// How long it takes until nothing waits any more, on a busy machine: pauses after failures included.
const HEAL_LIMIT: Duration = Duration::from_secs(180);
/// After so many cycles the logs of programs that have ended are let go.
const FORGET_LOGS: usize = 40;

fn of(counts: [usize; 2]) -> usize {
    let [usual, long] = counts;
    if is_long() { long } else { usual }
}

/// Chance that a failed run can be repeated with (xorshift64, Marsaglia 2003).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 8) % bound
    }

    fn sleep(&mut self, bound_ms: u64) {
        thread::sleep(Duration::from_micros(self.below(bound_ms * 1_000)));
    }
}

/// What machines know of their agent, and what they were told.
struct Ground {
    agent: Mutex<SocketAddr>,
    /// Reports that were taken, of all machines.
    taken: AtomicUsize,
    is_over: AtomicBool,
}

/// A machine, how many of its reports were taken, and how many it made.
struct Told {
    machine: Machine,
    taken: usize,
    tried: usize,
}

impl Ground {
    fn new(agent: &Agent) -> Self {
        let (taken, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
        Self { agent: Mutex::new(agent.boot()), taken, is_over }
    }

    fn agent(&self) -> SocketAddr {
        *self.agent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn moves_to(&self, agent: SocketAddr) {
        *self.agent.lock().unwrap_or_else(PoisonError::into_inner) = agent;
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// Waits until one more report has been taken: on a busy machine every life may be too short for one otherwise.
    fn wait_for_report(&self) -> Result<()> {
        let before = self.taken.load(Ordering::SeqCst);
        wait::until("a report is taken", HEAL_LIMIT, || {
            Ok((self.taken.load(Ordering::SeqCst) > before).then_some(()))
        })
    }

    /// Machines boot, one after the other, and report until each report is taken.
    fn play(&self) -> Vec<Told> {
        let mut told = Vec::new();
        while !self.is_over() {
            let Ok(machine) = Machine::boot_at(self.agent()) else {
                thread::sleep(PATIENCE);
                continue;
            };
            let mut new = Told { machine, taken: 0, tried: 0 };
            while new.taken < REPORTS && !self.is_over() {
                new.tried = new.taken + 1;
                match new.machine.try_report(self.agent(), new.tried).map(|answer| answer.status) {
                    Ok(200..=299) => {
                        new.taken = new.tried;
                        self.taken.fetch_add(1, Ordering::SeqCst);
                    }
                    // The power failed while its script was given, which waits for no disk: it boots again.
                    Ok(403 | 404) if new.taken == 0 => break,
                    _ => thread::sleep(PATIENCE),
                }
            }
            told.push(new);
        }
        told
    }
}

/// Lets machines report for as long as `harm` goes on, and looks for all of it at the controller.
fn outlives(site: &mut Site, harm: impl FnOnce(&mut Site, &Ground) -> Result<()>) -> Result<()> {
    let ground = Ground::new(&site.agent);
    let (told, harmed) = thread::scope(|scope| {
        let players: Vec<_> = (0..MACHINES).map(|_| scope.spawn(|| ground.play())).collect();
        let harmed = harm(site, &ground);
        ground.is_over.store(true, Ordering::SeqCst);
        let told = players.into_iter().flat_map(|it| it.join().unwrap_or_default());
        (told.collect::<Vec<_>>(), harmed)
    });
    harmed?;
    wait::until("all is handed over", HEAL_LIMIT, || {
        Ok((site.agent.pending()? == 0).then_some(()))
    })?;
    check(&site.controller, &told)
}

fn check(controller: &Controller, told: &[Told]) -> Result<()> {
    for Told { machine, taken, tried } in told.iter().filter(|told| told.taken > 0) {
        machine.check(controller, *taken, *tried)?;
    }
    Ok(())
}

/// Kills a program at some moment of its start.
fn cut_short(agent: &Agent, dir: &std::path::Path, chance: &mut Chance) -> Result<()> {
    let _program = Program::spawn("agent", agent.command(&["start"])?, dir)?;
    chance.sleep(BIRTH_MAX_MS);
    Ok(())
}

fn kill(site: &mut Site, ground: &Ground, kills: usize, chance: &mut Chance) -> Result<()> {
    let dir = site.dir().to_owned();
    let mut done = 0;
    while done < kills {
        if chance.below(LIVED_TURN) == 0 {
            ground.wait_for_report()?;
        }
        chance.sleep(LIFE_MAX_MS);
        if chance.below(CONTROLLER_TURN) == 0 {
            site.controller.stop();
            chance.sleep(LIFE_MAX_MS);
            site.controller.resume()?;
        } else {
            site.agent.stop();
            if chance.below(EARLY_TURN) == 0 {
                cut_short(&site.agent, &dir, chance)?;
                done += 1;
            }
            site.agent.start()?;
            ground.moves_to(site.agent.boot());
        }
        done += 1;
        if done.is_multiple_of(FORGET_LOGS) {
            process::take_logs();
        }
    }
    Ok(())
}

fn k_no_report_is_lost_doubled_or_out_of_place_through_hundreds_of_kills() -> Result<()> {
    let seed = random() | 1;
    let pairs: Vec<_> = (0..PAIRS)
        .map(|pair| {
            thread::spawn(move || {
                let mut chance = Chance(seed ^ (pair as u64 + 1));
                let mut site = Site::start_with(Autonomy::Limited)?;
                let lived = outlives(&mut site, |site, ground| {
                    kill(site, ground, of(KILLS).div_ceil(PAIRS), &mut chance)
                });
                // The logs of this thread, which nobody else can take.
                lived.map_err(|error| {
                    let logs = process::take_logs().join("\n");
                    anyhow::anyhow!("pair {pair} of seed {seed}: {error:#}\n{logs}")
                })
            })
        })
        .collect();
    for pair in pairs {
        pair.join().map_err(|_| anyhow::anyhow!("a pair's thread panicked"))??;
    }
    Ok(())
}

fn k_a_machine_that_nobody_was_told_of_before_the_end_is_known_when_it_reports() -> Result<()> {
    // Alone, such a site takes up no machine: it has a session, and the controller hears nothing of it. So it is, too, where the agent
    // is killed between the script and telling of the machine.
    let mut site = Site::start_with(Autonomy::Default)?;
    site.controller.stop();
    site.wait_until_offline()?;
    let machine = Machine::boot(&site.agent)?;
    site.agent.stop();
    site.agent.start()?;
    for number in [1, 2] {
        ensure!(machine.report(site.agent.boot(), number), "report {number} is not taken");
    }
    site.controller.resume()?;
    site.controller.wait_for_state(machine.mac(), "discovered")?;
    wait::until("all is handed over", HEAL_LIMIT, || {
        Ok((site.agent.pending()? == 0).then_some(()))
    })?;
    machine.check(&site.controller, 2, 2)
}

/// The cache must hold what it held, and nothing that is damaged.
fn ensure_cache_is_sound(agent: &Agent) -> Result<()> {
    let verified = agent.run(&["cache", "verify"])?;
    ensure!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    Ok(())
}

fn l_what_was_taken_outlives_dozens_of_power_cuts() -> Result<()> {
    // The cache leaves 64 MiB of it alone.
    const DISK_MIB: u32 = 160;
    let seed = random() | 1;
    let mut chance = Chance(seed);
    let mut site = Site::prepare_with("agent", Autonomy::Limited)?;
    let mut disk = CrashDisk::mount(site.agent.data_dir(), DISK_MIB)?;
    let token = site.make_token()?;
    site.agent.init(&site.id, &site.controller.url(), &token, Ports::LOOPBACK)?;
    site.agent.start()?;
    site.wait_until_online()?;
    let (mut content, mut felt) = (0, 0);
    outlives(&mut site, |site, ground| {
        for cut in 1..=of(CUTS) {
            if cut % 5 == 0 {
                content += 1;
                site.agent.cache_add(&format!("images/{content}"), &noise(50_000))?;
            }
            chance.sleep(LIFE_MAX_MS);
            felt += usize::from(disk.cut_power(|| site.agent.stop())?);
            site.agent.start().with_context(|| format!("after cut {cut} of seed {seed}"))?;
            ground.moves_to(site.agent.boot());
            if cut % 5 == 0 {
                ensure_cache_is_sound(&site.agent)?;
                process::take_logs();
            }
        }
        Ok(())
    })
    .with_context(|| format!("seed {seed}"))?;
    // The kernel may have written what nobody asked it to, now and then.
    ensure!(felt > 0, "what nobody had made durable outlived every cut");
    Ok(())
}
