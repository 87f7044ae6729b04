//! Disks that come back from the past, are lost, or run twice: nothing is doubled, and nothing is lost that one side still has.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use pureboot_tests::site::{ARRIVAL_LIMIT, Agent, Site, boot_of, text};
use pureboot_tests::{process, random_mac, wait};
use serde_json::{Value, json};

use crate::{Case, case};

/// What two machines may take until it is clear which of them is listened to: ten seconds' patience with what comes late, three
/// heartbeats of silence, and pauses between, on a busy machine.
const FENCE_LIMIT: Duration = Duration::from_secs(90);

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(n13_a_machine_and_its_copy_both_serve_and_one_is_listened_to),
        case!(k21_an_agent_that_is_killed_and_started_at_once_is_never_fenced),
        case!(d10_a_disk_from_a_backup_doubles_nothing_and_hands_over_what_it_has),
        case!(d9_a_lost_database_costs_neither_the_identity_nor_a_machine_that_is_being_installed),
        case!(q_the_queue_tells_what_waits_and_why),
    ]
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut command = process::system("cp")?;
    command.arg("-a").args([from, to]);
    process::succeed(command).map(|_| ())
}

/// A machine of the site with its boot session.
struct Machine {
    mac: String,
    boot: String,
}

impl Machine {
    fn at(site: &Site) -> Result<Self> {
        let mac = random_mac();
        let boot = boot_of(&site.agent.script(&mac)?)?;
        site.controller.wait_for_state(&mac, "discovered")?;
        Ok(Self { mac, boot })
    }

    fn report(&self, agent: &Agent, progress: u8) -> Result<()> {
        agent.report(&self.mac, &self.boot, "install_progress", Some(progress))
    }

    /// What the controller has of its reports, from the oldest.
    fn arrived(&self, site: &Site) -> Result<Vec<u64>> {
        let node = site.controller.node(&self.mac)?.context("the controller does not know it")?;
        let path = format!("/nodes/{}/events?limit=500", text(&node, "id")?);
        let events = site.controller.get(&path)?;
        let events = events.as_array().context("a list of events")?;
        let mut told: Vec<_> =
            events.iter().filter_map(|it| it.get("progress")?.as_u64()).collect();
        told.reverse();
        Ok(told)
    }

    fn wait_for(&self, site: &Site, progress: u64, limit: Duration) -> Result<()> {
        wait::until(&format!("report {progress} arrives"), limit, || {
            Ok(self.arrived(site)?.contains(&progress).then_some(()))
        })
    }
}

fn queue(agent: &Agent, arguments: &[&str]) -> Result<Value> {
    let arguments = [&["queue"], arguments, &["--json"]].concat();
    let output = agent.run(&arguments)?;
    let told = serde_json::from_slice(&output.stdout);
    told.with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

fn pending(agent: &Agent) -> Result<u64> {
    let stats = queue(agent, &["stats"])?;
    stats.get("pending").and_then(Value::as_u64).context("no number that waits")
}

fn epoch(agent: &Agent) -> Result<String> {
    text(&queue(agent, &["stats"])?, "epoch")
}

fn membership(agent: &Agent) -> Result<String> {
    let (_, status) = agent.status()?;
    text(status.get("membership").context("no membership")?, "state")
}

/// The last life of an agent that the controller has answered.
fn life(agent: &Agent) -> Result<String> {
    Ok(fs::read_to_string(agent.data_dir().join("state/instance"))?.trim().to_owned())
}

/// What the controller has written down of two machines under one identity.
fn rivals(site: &Site) -> Result<Value> {
    site.controller.get("/audit?action=agent.identity_in_use")
}

fn n13_a_machine_and_its_copy_both_serve_and_one_is_listened_to() -> Result<()> {
    let mut site = Site::start()?;
    let machine = Machine::at(&site)?;
    let mut twin = Agent::new(site.dir(), "twin");
    // An image of a disk is of one moment.
    site.agent.program()?.signal(Signal::SIGSTOP)?;
    let copied = copy(site.agent.data_dir(), twin.data_dir());
    site.agent.program()?.signal(Signal::SIGCONT)?;
    copied?;
    twin.start()?;
    wait::until("the machine is listened to, and its copy is not", FENCE_LIMIT, || {
        let (first, second) = (membership(&site.agent)?, membership(&twin)?);
        ensure!(first == "joined" && second == "fenced", "{first}, {second}");
        Ok(Some(()))
    })?;
    let said = twin.run(&["status"])?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    ensure!(said.contains("IDENTITY IN USE"), "{said}");
    let log = twin.program()?.log();
    ensure!(log.contains("another machine uses this agent's identity"), "{log}");
    let alerts = site.controller.get(&format!("/sites/{}/health", site.id))?;
    let alerts = alerts.get("alerts").context("no alerts")?.to_string();
    for word in ["identity_in_use", &life(&site.agent)?, &life(&twin)?, "127.0.0.1"] {
        ensure!(alerts.contains(word), "no {word} in {alerts}");
    }

    machine.report(&twin, 9)?;
    for agent in [&site.agent, &twin] {
        agent.script(&machine.mac)?;
        agent.script(&random_mac())?;
    }
    machine.report(&site.agent, 7)?;
    machine.wait_for(&site, 7, ARRIVAL_LIMIT)?;
    ensure!(machine.arrived(&site)? == [7], "the copy was listened to");
    ensure!(membership(&twin)? == "fenced" && pending(&twin)? > 0, "the copy has no queue");
    wait::until("the machine has handed over all", ARRIVAL_LIMIT, || {
        Ok((pending(&site.agent)? == 0).then_some(()))
    })?;

    // The copy stays: what it was told comes too, beside what the other one was told.
    site.agent.stop();
    machine.wait_for(&site, 9, FENCE_LIMIT)?;
    wait::until("the copy has handed over all", ARRIVAL_LIMIT, || {
        Ok((pending(&twin)? == 0 && membership(&twin)? == "joined").then_some(()))
    })?;
    ensure!(machine.arrived(&site)? == [7, 9], "{:?}", machine.arrived(&site)?);
    Ok(())
}

fn k21_an_agent_that_is_killed_and_started_at_once_is_never_fenced() -> Result<()> {
    const KILLS: u8 = 6;
    let mut site = Site::start()?;
    let machine = Machine::at(&site)?;
    for number in 1..=KILLS {
        machine.report(&site.agent, number)?;
        if number.is_multiple_of(2) {
            machine.wait_for(&site, number.into(), ARRIVAL_LIMIT)?;
        }
        let log = site.agent.program()?.log();
        ensure!(!log.contains("another machine uses"), "{log}");
        site.agent.stop();
        site.agent.start()?;
    }
    machine.wait_for(&site, KILLS.into(), ARRIVAL_LIMIT)?;
    let all: Vec<u64> = (1..=KILLS).map(u64::from).collect();
    ensure!(machine.arrived(&site)? == all, "{:?}", machine.arrived(&site)?);
    wait::until("the agent is a member", ARRIVAL_LIMIT, || {
        Ok((membership(&site.agent)? == "joined").then_some(()))
    })?;
    let rivals = rivals(&site)?;
    ensure!(rivals.get(0).is_none(), "{rivals}");
    Ok(())
}

/// The agent's disk as it is, taken while the agent does not run; it runs again afterwards.
fn save_disk(site: &mut Site, name: &str) -> Result<PathBuf> {
    let saved = site.dir().join(name);
    site.agent.stop();
    copy(site.agent.data_dir(), &saved)?;
    site.agent.start()?;
    Ok(saved)
}

fn bring_back_disk(site: &mut Site, saved: &Path) -> Result<()> {
    site.agent.stop();
    fs::remove_dir_all(site.agent.data_dir())?;
    copy(saved, site.agent.data_dir())?;
    site.agent.start()
}

fn d10_a_disk_from_a_backup_doubles_nothing_and_hands_over_what_it_has() -> Result<()> {
    let mut site = Site::start()?;
    let machine = Machine::at(&site)?;
    site.controller.stop();
    (1..=3).try_for_each(|number| machine.report(&site.agent, number))?;
    let saved = save_disk(&mut site, "saved")?;
    site.controller.resume()?;
    machine.wait_for(&site, 3, FENCE_LIMIT)?;
    (4..=5).try_for_each(|number| machine.report(&site.agent, number))?;
    machine.wait_for(&site, 5, ARRIVAL_LIMIT)?;
    let before = epoch(&site.agent)?;
    // To this disk 1 to 3 wait, and 4 and 5 never were: 6 has the place that 4 had.
    bring_back_disk(&mut site, &saved)?;
    machine.report(&site.agent, 6)?;
    machine.wait_for(&site, 6, FENCE_LIMIT)?;
    ensure!(machine.arrived(&site)? == [1, 2, 3, 4, 5, 6], "{:?}", machine.arrived(&site)?);
    let after = epoch(&site.agent)?;
    ensure!(after != before, "the fork goes on in epoch {before}");

    // What only the lost disk had is lost with it, and that is no fork.
    site.controller.stop();
    let saved = save_disk(&mut site, "saved-again")?;
    machine.report(&site.agent, 7)?;
    bring_back_disk(&mut site, &saved)?;
    site.controller.resume()?;
    machine.report(&site.agent, 8)?;
    machine.wait_for(&site, 8, FENCE_LIMIT)?;
    ensure!(machine.arrived(&site)? == [1, 2, 3, 4, 5, 6, 8], "{:?}", machine.arrived(&site)?);
    ensure!(epoch(&site.agent)? == after, "it was a fork");
    let rivals = rivals(&site)?;
    ensure!(rivals.get(0).is_none(), "{rivals}");
    Ok(())
}

fn d9_a_lost_database_costs_neither_the_identity_nor_a_machine_that_is_being_installed()
-> Result<()> {
    let mut site = Site::start()?;
    let machine = Machine::at(&site)?;
    machine.report(&site.agent, 1)?;
    machine.wait_for(&site, 1, ARRIVAL_LIMIT)?;
    let before = epoch(&site.agent)?;
    site.agent.program()?.terminate()?;
    for file in fs::read_dir(site.agent.data_dir().join("state"))? {
        let file = file?;
        if file.file_name().to_string_lossy().starts_with("site.db") {
            fs::remove_file(file.path())?;
        }
    }
    site.agent.start()?;
    ensure!(epoch(&site.agent)? != before, "the epoch of a lost database goes on");
    // It is the agent that it was, asks for its nodes anew, and believes the machine that goes on where it was.
    wait::until("the machine's report is taken", ARRIVAL_LIMIT, || {
        machine.report(&site.agent, 1).map(Some)
    })?;
    machine.report(&site.agent, 2)?;
    machine.wait_for(&site, 2, ARRIVAL_LIMIT)?;
    ensure!(membership(&site.agent)? == "joined", "it is {}", membership(&site.agent)?);
    ensure!(machine.arrived(&site)? == [1, 2], "{:?}", machine.arrived(&site)?);
    let nodes = site.controller.get(&format!("/nodes?mac={}", machine.mac))?;
    ensure!(nodes.as_array().is_some_and(|nodes| nodes.len() == 1), "{nodes}");
    Ok(())
}

fn q_the_queue_tells_what_waits_and_why() -> Result<()> {
    const REPORTS: u8 = 50;
    let mut site = Site::start()?;
    let machine = Machine::at(&site)?;
    wait::until("nothing waits", ARRIVAL_LIMIT, || Ok((pending(&site.agent)? == 0).then_some(())))?;
    ensure!(queue(&site.agent, &["ls"])? == json!([]), "{}", queue(&site.agent, &["ls"])?);
    site.controller.stop();
    (1..=REPORTS).try_for_each(|number| machine.report(&site.agent, number))?;
    let list = queue(&site.agent, &["ls"])?;
    let list = list.as_array().context("a list")?;
    let told = |item: &Value| item.pointer("/payload/progress").and_then(Value::as_u64);
    let progress: Vec<_> = list.iter().filter_map(told).collect();
    ensure!(progress == (1..=u64::from(REPORTS)).collect::<Vec<_>>(), "{list:?}");
    let words = |arguments: &[&str]| -> Result<String> {
        let output = site.agent.run(arguments)?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let first = list.first().and_then(|item| item.get("seq")).context("a number")?.to_string();
    let shown = words(&["queue", "show", &first])?;
    ensure!(shown.contains("install_progress 1 %") && shown.contains(&machine.mac), "{shown}");
    let some = words(&["queue", "ls", "--limit", "7"])?;
    ensure!(some.lines().count() == 9 && some.contains("there are more"), "{some}");
    wait::until("it tells why", ARRIVAL_LIMIT, || {
        let stats = words(&["queue", "stats"])?;
        ensure!(stats.contains("50 changes") && stats.contains("cannot be reached"), "{stats}");
        Ok(Some(()))
    })?;
    let refused = site.agent.run(&["queue", "show", "999999"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(1) && said.contains("999999"), "{said}");
    site.controller.resume()?;
    wait::until("all is handed over", FENCE_LIMIT, || {
        Ok((pending(&site.agent)? == 0).then_some(()))
    })?;
    ensure!(machine.arrived(&site)?.len() == usize::from(REPORTS), "{:?}", machine.arrived(&site)?);
    let all = queue(&site.agent, &["ls", "--all"])?.to_string();
    ensure!(all.contains("\"applied\""), "{all}");
    Ok(())
}
