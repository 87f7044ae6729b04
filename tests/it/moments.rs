//! Ends at named moments, with the real programs: where in the exchange of agent and controller a kill falls, a disk that turns
//! read-only under the agent, and a machine that sleeps.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use pureboot_tests::disk::CrashDisk;
use pureboot_tests::far::FarLine;
use pureboot_tests::machines::Machine;
use pureboot_tests::site::{ARRIVAL_LIMIT, Autonomy, Ports, Site, text};
use pureboot_tests::{is_long, process, random_mac, wait};
use serde_json::Value;

use crate::endurance::MKFS;
use crate::failing::{Injection, STRACE};
use crate::need::Need;
use crate::{Case, case};

/// What handing over may take on a busy machine, pauses after failures included.
const HEAL_LIMIT: Duration = Duration::from_secs(120);

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(k3_an_agent_that_is_killed_before_the_answer_hands_over_once),
        case!(
            k5_an_acknowledgement_that_is_cut_anywhere_is_noted_whole_or_not_at_all,
            Need::Root,
            STRACE,
            Need::Program("sqlite3", "sqlite3")
        ),
        case!(k9_a_registration_whose_answer_is_lost_in_a_kill_is_the_same_registration),
        case!(d4_a_disk_that_turns_read_only_costs_no_boot_and_no_report, Need::Root, MKFS),
        case!(t4_a_machine_that_slept_serves_and_beats_on_once),
    ]
}

/// A site on a line that a test has in its hands; its agent has not been started.
fn site_on_a_line() -> Result<(Site, FarLine)> {
    let site = Site::prepare_with("agent", Autonomy::Limited)?;
    let line = FarLine::open(site.controller.address(), Duration::ZERO)?;
    let token = site.make_token()?;
    site.agent.init(&site.id, &line.url(), &token, Ports::LOOPBACK)?;
    Ok((site, line))
}

fn wait_until_empty(site: &Site) -> Result<()> {
    wait::until("all is handed over", HEAL_LIMIT, || Ok((site.agent.pending()? == 0).then_some(())))
}

/// A machine that both sides know.
fn machine(site: &Site) -> Result<Machine> {
    let machine = Machine::boot(&site.agent)?;
    site.controller.wait_for_state(machine.mac(), "discovered")?;
    wait_until_empty(site)?;
    Ok(machine)
}

/// Reports `number` and returns once the controller has it, while its answer is held. The machine is not answered, and says it again
/// when the agent lives.
fn report_into_silence(
    site: &Site,
    line: &FarLine,
    machine: &Machine,
    number: usize,
) -> Result<()> {
    line.hold_answers();
    let (agent, told) = (site.agent.boot(), machine.clone());
    thread::spawn(move || told.report(agent, number));
    wait::until(&format!("report {number} arrives"), HEAL_LIMIT, || {
        Ok(machine.arrived(&site.controller)?.contains(&number).then_some(()))
    })
}

/// The agent starts again; the machine, which was not answered, says the same again.
fn live_again(site: &mut Site, machine: &Machine, number: usize) -> Result<()> {
    site.agent.start()?;
    ensure!(machine.report(site.agent.boot(), number), "report {number} is not taken");
    wait_until_empty(site)
}

fn k3_an_agent_that_is_killed_before_the_answer_hands_over_once() -> Result<()> {
    const REPORTS: usize = 3;
    let (mut site, line) = site_on_a_line()?;
    site.agent.start()?;
    site.wait_until_online()?;
    let machine = machine(&site)?;
    for number in 1..=REPORTS {
        report_into_silence(&site, &line, &machine, number)?;
        ensure!(site.agent.pending()? > 0, "report {number} was acknowledged by nobody");
        site.agent.stop();
        line.mend();
        live_again(&mut site, &machine, number)?;
    }
    machine.check(&site.controller, REPORTS, REPORTS)
}

/// What the agent's database says of its outbox, read from a copy of what a kill has left.
#[derive(Debug)]
struct Left {
    /// Changes up to the last that is acknowledged without a note of what became of them, and changes behind it with one.
    misplaced: u64,
    waiting: u64,
}

impl Left {
    fn read(site: &Site) -> Result<Self> {
        let copy = tempfile::tempdir_in(site.dir())?;
        for file in ["site.db", "site.db-wal"] {
            let from = site.agent.data_dir().join("state").join(file);
            if from.exists() {
                fs::copy(from, copy.path().join(file))?;
            }
        }
        let mut sqlite = process::system("sqlite3")?;
        sqlite.arg(copy.path().join("site.db")).arg(
            "SELECT (SELECT count(*) FROM outbox WHERE (seq <= acked_through) <> (outcome IS NOT NULL)),
                (SELECT count(*) FROM outbox WHERE seq > acked_through) FROM meta",
        );
        let said = process::succeed(sqlite)?;
        let mut numbers = said.trim().split('|').map(str::parse);
        let mut next = || numbers.next().with_context(|| format!("two numbers in {said}"));
        Ok(Self { misplaced: next()??, waiting: next()?? })
    }
}

fn k5_an_acknowledgement_that_is_cut_anywhere_is_noted_whole_or_not_at_all() -> Result<()> {
    /// The calls at which it is cut in every run; a long one has each.
    const USUAL: [u32; 6] = [1, 2, 5, 9, 14, 20];
    /// More than an acknowledgement takes.
    const CALLS_MAX: u32 = 60;
    let counts: Vec<_> = if is_long() { (1..=CALLS_MAX).collect() } else { USUAL.to_vec() };
    let (mut site, line) = site_on_a_line()?;
    site.agent.start()?;
    site.wait_until_online()?;
    let machine = machine(&site)?;
    let (mut number, mut cut) = (0, 0);
    for call in ["/^pwrite", "/^f(data)?sync"] {
        for count in &counts {
            number += 1;
            let step = || format!("killed at number {count} of {call}");
            report_into_silence(&site, &line, &machine, number).with_context(step)?;
            let pid = site.agent.program()?.pid();
            let fault = format!("signal=SIGKILL:when={count}");
            let killing = Injection::begin(pid, call, &fault, &site)?;
            line.mend();
            let is_killed = wait::until("it is killed, or has noted all", HEAL_LIMIT, || {
                let is_killed = !site.agent.program()?.is_running()?;
                let has_noted = site.agent.pending().is_ok_and(|pending| pending == 0);
                Ok((is_killed || has_noted).then_some(is_killed))
            })
            .with_context(step)?;
            drop(killing);
            site.agent.stop();
            let left = Left::read(&site)?;
            ensure!(left.misplaced == 0, "{}: half is noted: {left:?}", step());
            cut += usize::from(is_killed && left.waiting > 0);
            live_again(&mut site, &machine, number).with_context(step)?;
            if !is_killed {
                break;
            }
        }
    }
    ensure!(cut > 0, "no kill fell into an acknowledgement");
    machine.check(&site.controller, number, number)
}

fn k9_a_registration_whose_answer_is_lost_in_a_kill_is_the_same_registration() -> Result<()> {
    let (mut site, line) = site_on_a_line()?;
    let agent_id =
        |site: &Site| Ok::<_, anyhow::Error>(site.agent_status()?.get("agent_id").cloned());
    for life in 0..2 {
        line.hold_answers();
        site.agent.start()?;
        wait::until("the controller has redeemed the token", ARRIVAL_LIMIT, || {
            Ok(site.agent_status().ok().map(|_| ()))
        })?;
        ensure!(site.agent.data_dir().join("token").exists(), "life {life} has heard the answer");
        site.agent.stop();
        line.mend();
    }
    let before = agent_id(&site)?;
    site.agent.start()?;
    site.wait_until_online()?;
    ensure!(agent_id(&site)? == before, "it has joined as another one: {before:?}");
    ensure!(!site.agent.data_dir().join("token").exists(), "the token is kept after it was used");
    let machine = machine(&site)?;
    ensure!(machine.report(site.agent.boot(), 1), "a report is not taken");
    wait_until_empty(&site)?;
    machine.check(&site.controller, 1, 1)
}

fn d4_a_disk_that_turns_read_only_costs_no_boot_and_no_report() -> Result<()> {
    // The cache leaves 64 MiB of it alone.
    const DISK_MIB: u32 = 160;
    let mut site = Site::prepare_with("agent", Autonomy::Limited)?;
    let mut disk = CrashDisk::mount(site.agent.data_dir(), DISK_MIB)?;
    let token = site.make_token()?;
    site.agent.init(&site.id, &site.controller.url(), &token, Ports::LOOPBACK)?;
    site.agent.start()?;
    site.wait_until_online()?;
    let machine = machine(&site)?;
    ensure!(machine.report(site.agent.boot(), 1), "a report is not taken");
    wait_until_empty(&site)?;
    disk.turn_read_only()?;
    for _ in 0..5 {
        let refused = machine.try_report(site.agent.boot(), 2)?;
        ensure!(matches!(refused.status, 503 | 507), "{}: {}", refused.status, refused.text());
        let script = site.agent.script(machine.mac())?;
        ensure!(script.contains("discovered"), "another script:\n{script}");
        site.agent.script(&random_mac())?;
    }
    ensure!(site.agent.program()?.is_running()?, "the agent has ended");
    let said = site.agent.run(&["status"])?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    ensure!(said.contains("can be written down"), "the status does not say why:\n{said}");
    disk.mend(|| site.agent.stop())?;
    site.agent.start()?;
    ensure!(machine.report(site.agent.boot(), 2), "a report is not taken on a disk that is well");
    wait_until_empty(&site)?;
    machine.check(&site.controller, 2, 2)
}

/// When the controller had the site's heartbeats, from the oldest: by its clock, in seconds of the day.
fn heartbeats(site: &Site) -> Result<Vec<f64>> {
    let told = site.controller.get(&format!("/agents/{}/heartbeats?limit=100", site.id))?;
    let told = told.as_array().context("a list of heartbeats")?;
    let mut times: Vec<_> =
        told.iter().map(|beat| text(beat, "received_at")).collect::<Result<_>>()?;
    times.sort_unstable();
    times.iter().map(|time| second_of_day(time)).collect()
}

/// Of a time such as `2026-11-22T02:44:06.123Z`.
fn second_of_day(time: &str) -> Result<f64> {
    let clock = time.split_once('T').and_then(|(_, clock)| clock.strip_suffix('Z'));
    let clock = clock.with_context(|| format!("{time} is no time"))?;
    clock.split(':').try_fold(0.0, |sum, part| Ok(60.0 * sum + part.parse::<f64>()?))
}

fn t4_a_machine_that_slept_serves_and_beats_on_once() -> Result<()> {
    let mut site = Site::start()?;
    let machine = machine(&site)?;
    let agent = site.agent.program()?;
    agent.signal(Signal::SIGSTOP)?;
    let seen_as = |site: &Site, wanted: &str| {
        wait::until(&format!("the agent is {wanted}"), HEAL_LIMIT, || {
            let status = site.agent_status()?;
            Ok((status.get("status") == Some(&Value::from(wanted))).then_some(()))
        })
    };
    seen_as(&site, "degraded")?;
    let missed = heartbeats(&site)?.len();
    site.agent.program()?.signal(Signal::SIGCONT)?;
    site.agent.script(machine.mac())?;
    ensure!(machine.report(site.agent.boot(), 1), "a report is not taken");
    seen_as(&site, "online")?;
    let two = wait::until("it beats on", HEAL_LIMIT, || {
        Ok(heartbeats(&site)?.get(missed..missed + 2).map(<[_]>::to_vec))
    })?;
    // Midnight may lie between them.
    let between = two.iter().rev().copied().reduce(|later, earlier| later - earlier);
    let between = between.context("two heartbeats")?.rem_euclid(86_400.0);
    ensure!(
        between >= 3.0,
        "it made up for what it had missed: {between} s between two heartbeats"
    );
    wait_until_empty(&site)?;
    machine.check(&site.controller, 1, 1)
}
