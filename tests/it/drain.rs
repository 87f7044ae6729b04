//! The line between outbox and controller is long, breaks, or is half of one: all arrives, each change once and in order.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use pureboot_tests::far::FarLine;
use pureboot_tests::machines::Machine;
use pureboot_tests::site::{ARRIVAL_LIMIT, Autonomy, Ports, Site};
use pureboot_tests::wait;
use serde_json::json;

use crate::{Case, case};

/// What handing over may take on a busy machine, pauses after each cut included.
const DRAIN_LIMIT: Duration = Duration::from_secs(120);

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(q3_n2_k3_batches_grow_and_arrive_once_in_order_though_the_line_breaks),
        case!(n3_a_line_that_takes_connections_and_says_nothing_costs_no_boot_and_no_descriptor),
        case!(n11_where_all_is_well_but_the_batches_nothing_is_lost_and_the_status_says_so),
    ]
}

/// A site whose controller is so far away.
fn far_site(round_trip: Duration) -> Result<(Site, FarLine)> {
    let mut site = Site::prepare_with("agent", Autonomy::Limited)?;
    let line = FarLine::open(site.controller.address(), round_trip)?;
    let token = site.make_token()?;
    site.agent.init(&site.id, &line.url(), &token, Ports::LOOPBACK)?;
    site.agent.start()?;
    site.wait_until_online()?;
    Ok((site, line))
}

fn wait_until_empty(site: &Site) -> Result<()> {
    wait::until(
        "all is handed over",
        DRAIN_LIMIT,
        || Ok((site.agent.pending()? == 0).then_some(())),
    )
}

/// What ends while a batch is under way.
enum Harm {
    Line,
    Agent,
}

fn q3_n2_k3_batches_grow_and_arrive_once_in_order_though_the_line_breaks() -> Result<()> {
    const MACHINES: usize = 8;
    const REPORTS: usize = 100;
    let (mut site, line) = far_site(Duration::from_millis(40))?;
    let machines: Vec<_> =
        (0..MACHINES).map(|_| Machine::boot(&site.agent)).collect::<Result<_>>()?;
    wait_until_empty(&site)?;
    line.cut();
    site.wait_until_offline()?;
    let agent = site.agent.boot();
    thread::scope(|scope| {
        for machine in &machines {
            scope
                .spawn(|| (1..=REPORTS).for_each(|number| while !machine.report(agent, number) {}));
        }
    });
    ensure!(site.agent.pending()? == MACHINES * REPORTS, "{} wait", site.agent.pending()?);
    for harm in [Harm::Line, Harm::Agent, Harm::Line] {
        let before = line.batches().len();
        line.mend();
        wait::until("a batch sets out", DRAIN_LIMIT, || {
            Ok((line.batches().len() > before).then_some(()))
        })?;
        match harm {
            Harm::Line => line.cut(),
            Harm::Agent => {
                site.agent.stop();
                site.agent.start()?;
            }
        }
    }
    line.mend();
    wait_until_empty(&site)?;
    machines.iter().try_for_each(|machine| machine.check(&site.controller, REPORTS, REPORTS))?;
    let log = site.agent.program()?.log();
    let delivered = log.lines().filter_map(|line| line.split("delivered ").nth(1));
    let delivered: Vec<usize> =
        delivered.filter_map(|rest| rest.split(' ').next()?.parse().ok()).collect();
    ensure!(delivered.iter().any(|changes| *changes > 100), "no batch was large: {delivered:?}");
    Ok(())
}

fn n3_a_line_that_takes_connections_and_says_nothing_costs_no_boot_and_no_descriptor() -> Result<()>
{
    /// Fewer than the sessions of a machine that are remembered.
    const BOOTS: usize = 5;
    /// Connections of machines, and one to the controller that is given up.
    const MORE_MAX: usize = 8;
    let (mut site, line) = far_site(Duration::ZERO)?;
    let machine = Machine::boot(&site.agent)?;
    wait_until_empty(&site)?;
    let descriptors = format!("/proc/{}/fd", site.agent.program()?.pid());
    let count = || Ok::<_, std::io::Error>(fs::read_dir(&descriptors)?.count());
    let before = count()?;
    line.mute();
    for _ in 0..BOOTS {
        site.agent.script(machine.mac())?;
    }
    ensure!(machine.report(site.agent.boot(), 1), "a report is not taken");
    site.wait_until_offline()?;
    site.agent.script(machine.mac())?;
    let after = count()?;
    ensure!(after <= before + MORE_MAX, "{before} descriptors have become {after}");
    line.mend();
    wait_until_empty(&site)?;
    machine.check(&site.controller, 1, 1)
}

fn n11_where_all_is_well_but_the_batches_nothing_is_lost_and_the_status_says_so() -> Result<()> {
    let (site, line) = far_site(Duration::ZERO)?;
    let machine = Machine::boot(&site.agent)?;
    wait_until_empty(&site)?;
    line.refuse_batches();
    ensure!(machine.report(site.agent.boot(), 1), "a report is not taken");
    // Heartbeats pass and say that all is well, in between.
    wait::until("the line counts as degraded", ARRIVAL_LIMIT, || {
        let (_, status) = site.agent.status()?;
        Ok((status.pointer("/line/state") == Some(&json!("degraded"))).then_some(()))
    })?;
    site.agent.script(machine.mac())?;
    ensure!(machine.report(site.agent.boot(), 2), "a report is not taken");
    // That the machine asked for its script is one more.
    ensure!(site.agent.pending()? >= 2, "{} changes wait", site.agent.pending()?);
    line.mend();
    wait_until_empty(&site)?;
    machine.check(&site.controller, 2, 2)
}
