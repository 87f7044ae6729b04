//! The controller is away, or hangs: the site boots all the same, and nothing that it was told is lost.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use pureboot_tests::http;
use pureboot_tests::site::{ARRIVAL_LIMIT, Site, boot_of};
use pureboot_tests::{noise, random, random_mac, wait};

use crate::join::first_url;
use crate::{Case, case};

/// What the design promises for a node that the site knows (DESIGN §12.2).
const SCRIPT_LIMIT: Duration = Duration::from_secs(2);

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(a_restarted_agent_serves_a_known_node_without_controller),
        case!(a_hung_controller_does_not_hold_up_a_known_node),
        case!(a_machine_is_installed_without_controller_and_only_once),
        case!(an_unknown_machine_gets_a_script_without_controller),
        case!(events_made_offline_arrive_once_and_in_order),
        case!(k2_a_repeated_report_is_one_event),
        case!(an_agent_that_never_saw_its_controller_joins_when_it_comes),
    ]
}

fn script_in_time(site: &Site, mac: &str) -> Result<String> {
    let asked = Instant::now();
    let script = site.agent.script(mac)?;
    ensure!(asked.elapsed() < SCRIPT_LIMIT, "the script took {:?}", asked.elapsed());
    Ok(script)
}

/// A site with one node that is ordered to be installed and that the agent knows to be.
fn site_with_pending_node() -> Result<(Site, String, String)> {
    let site = Site::start()?;
    let (mac, name) = (random_mac(), format!("offline-{:08x}", random() >> 32));
    site.agent.cache_add(&format!("images/{name}/kernel"), &noise(10_000))?;
    site.agent.cache_add(&format!("images/{name}/initrd"), &noise(1_000))?;
    site.discover_and_order(&mac, &name)?;
    site.script_with(&mac, &format!("nonce={name}"))?;
    Ok((site, mac, name))
}

fn a_restarted_agent_serves_a_known_node_without_controller() -> Result<()> {
    let (mut site, mac, name) = site_with_pending_node()?;
    site.controller.stop();
    site.agent.stop();
    site.agent.start()?;
    let script = script_in_time(&site, &mac)?;
    ensure!(script.contains(&format!("nonce={name}")), "it is not the installer:\n{script}");
    Ok(())
}

fn a_hung_controller_does_not_hold_up_a_known_node() -> Result<()> {
    let (mut site, mac, name) = site_with_pending_node()?;
    site.controller.program()?.signal(Signal::SIGSTOP)?;
    let script = script_in_time(&site, &mac)?;
    ensure!(script.contains(&format!("nonce={name}")), "it is not the installer:\n{script}");
    script_in_time(&site, &random_mac())?;
    site.agent.stop();
    site.agent.start()?;
    script_in_time(&site, &mac)?;
    site.controller.program()?.signal(Signal::SIGCONT)
}

fn a_machine_is_installed_without_controller_and_only_once() -> Result<()> {
    let (mut site, mac, name) = site_with_pending_node()?;
    site.controller.stop();
    let nonce = format!("nonce={name}");
    let script = script_in_time(&site, &mac)?;
    ensure!(script.contains(&nonce), "it is not the installer:\n{script}");
    http::get(&first_url(&script, "kernel")?)?.expect(200)?;
    wait::until("the installation counts as started", ARRIVAL_LIMIT, || {
        Ok((!site.agent.script(&mac)?.contains(&nonce)).then_some(()))
    })?;
    site.agent.stop();
    site.agent.start()?;
    let script = script_in_time(&site, &mac)?;
    ensure!(!script.contains(&nonce), "one wish, two installations:\n{script}");
    site.controller.resume()?;
    site.controller.wait_for_state(&mac, "installing").map(|_| ())
}

fn an_unknown_machine_gets_a_script_without_controller() -> Result<()> {
    let mut site = Site::start()?;
    site.controller.stop();
    let mac = random_mac();
    let script = script_in_time(&site, &mac)?;
    ensure!(!script.contains("\nkernel"), "nobody ordered an installation:\n{script}");
    site.controller.resume()?;
    site.controller.wait_for_state(&mac, "discovered").map(|_| ())
}

/// The marks of the node's events at the controller, in its order.
fn events(site: &Site, mac: &str) -> Result<Vec<String>> {
    let node = site.controller.node(mac)?.context("the controller does not know the node")?;
    let id = pureboot_tests::site::text(&node, "id")?;
    let list = site.controller.get(&format!("/nodes/{id}/events?limit=500"))?;
    let list = list.as_array().context("a list of events")?;
    let mark = |event: &serde_json::Value| {
        let kind = event.get("event_type").and_then(serde_json::Value::as_str)?;
        let progress = event.get("progress").and_then(serde_json::Value::as_u64);
        Some(progress.map_or_else(|| kind.to_owned(), |progress| format!("{kind} {progress}")))
    };
    Ok(list.iter().filter_map(mark).collect())
}

fn events_made_offline_arrive_once_and_in_order() -> Result<()> {
    let (mut site, mac, _) = site_with_pending_node()?;
    let script = site.agent.script(&mac)?;
    http::get(&first_url(&script, "kernel")?)?.expect(200)?;
    site.controller.wait_for_state(&mac, "installing")?;
    let boot = boot_of(&script)?;
    site.controller.stop();
    for progress in 1..=20 {
        site.agent.report(&mac, &boot, "install_progress", Some(progress))?;
        if progress == 10 {
            site.agent.stop();
            site.agent.start()?;
        }
    }
    site.agent.report(&mac, &boot, "install_complete", None)?;
    site.agent.report(&mac, &boot, "first_boot", None)?;
    site.agent.stop();
    site.agent.start()?;
    site.controller.resume()?;
    site.controller.wait_for_state(&mac, "active")?;
    let told: Vec<_> = (1..=20).map(|progress| format!("install_progress {progress}")).collect();
    let told = [told, vec!["install_complete".to_owned(), "first_boot".to_owned()]].concat();
    let mut arrived = events(&site, &mac)?;
    arrived.retain(|event| told.contains(event));
    // The list may be newest first: the order must hold, not the direction.
    if arrived.first().is_some_and(|event| event == "first_boot") {
        arrived.reverse();
    }
    ensure!(arrived == told, "told {told:?}, arrived {arrived:?}");
    Ok(())
}

fn k2_a_repeated_report_is_one_event() -> Result<()> {
    let (mut site, mac, _) = site_with_pending_node()?;
    let boot = boot_of(&site.agent.script(&mac)?)?;
    site.controller.stop();
    for _ in 0..3 {
        site.agent.report(&mac, &boot, "install_progress", Some(42))?;
    }
    site.agent.stop();
    site.agent.start()?;
    site.agent.report(&mac, &boot, "install_progress", Some(42))?;
    site.agent.report(&mac, &boot, "install_progress", Some(43))?;
    site.controller.resume()?;
    wait::until("the last report has arrived", ARRIVAL_LIMIT, || {
        Ok(events(&site, &mac)?.contains(&"install_progress 43".to_owned()).then_some(()))
    })?;
    let count = events(&site, &mac)?.iter().filter(|event| *event == "install_progress 42").count();
    ensure!(count == 1, "one report told four times became {count} events");
    Ok(())
}

fn an_agent_that_never_saw_its_controller_joins_when_it_comes() -> Result<()> {
    let mut site = Site::prepare("agent")?;
    let token = site.make_token()?;
    let url = site.controller.url();
    site.controller.stop();
    site.agent.init(&site.id, &url, &token, pureboot_tests::site::Ports::LOOPBACK)?;
    site.agent.start()?;
    script_in_time(&site, &random_mac())?;
    site.controller.resume()?;
    wait::until("the agent has joined", Duration::from_secs(90), || {
        Ok(site.agent_status()?.to_string().contains("\"online\"").then_some(()))
    })
}
