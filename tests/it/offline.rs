//! The controller is away, or hangs: the site boots all the same, and nothing that it was told is lost.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use pureboot_tests::http;
use pureboot_tests::site::{ARRIVAL_LIMIT, Autonomy, Ports, Site, boot_of, text};
use pureboot_tests::{noise, random, random_mac, wait};
use serde_json::{Value, json};

use crate::join::first_url;
use crate::{Case, case};

/// What the design promises for a node that the site knows (DESIGN §12.2).
const SCRIPT_LIMIT: Duration = Duration::from_secs(2);

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(a_machine_that_never_booted_here_is_served_by_the_record_that_came_by_itself),
        case!(a_discovered_machine_is_served_without_controller),
        case!(an_installed_machine_boots_its_disk_without_controller),
        case!(an_installer_given_online_is_not_given_again_without_controller),
        case!(a_kernel_fetched_without_controller_starts_one_installation),
        case!(a_hung_controller_holds_nobody_up),
        case!(an_unknown_machine_is_taken_up_where_the_site_may),
        case!(an_unknown_machine_comes_back_later_where_the_site_may_not),
        case!(what_a_machine_reports_moves_the_sites_own_record),
        case!(events_made_offline_arrive_once_and_in_order),
        case!(k2_a_repeated_report_is_one_event),
        case!(an_agent_that_never_saw_its_controller_joins_when_it_comes),
        case!(since_when_a_site_is_alone_survives_a_restart),
    ]
}

/// Runs a trial at a site as the controller makes it and at one that may do more alone: it must hold at both.
fn with_each_autonomy(trial: impl Fn(Site) -> Result<()>) -> Result<()> {
    for autonomy in [Autonomy::Default, Autonomy::Limited] {
        let site = Site::start_with(autonomy)?;
        trial(site).with_context(|| format!("autonomy {autonomy:?}"))?;
    }
    Ok(())
}

fn script_in_time(site: &Site, mac: &str) -> Result<String> {
    let asked = Instant::now();
    let script = site.agent.script(mac)?;
    ensure!(asked.elapsed() < SCRIPT_LIMIT, "the script took {:?}", asked.elapsed());
    Ok(script)
}

/// The script in time, which must say `wanted`: scripts give their reasons.
fn says(site: &Site, mac: &str, wanted: &str) -> Result<()> {
    let script = script_in_time(site, mac)?;
    ensure!(script.contains(wanted), "it does not say '{wanted}':\n{script}");
    ensure!(!script.contains("\nkernel"), "'{wanted}', and an installer all the same:\n{script}");
    Ok(())
}

/// The agent dies as in a power cut and comes back alone.
fn restart_alone(site: &mut Site) -> Result<()> {
    site.controller.stop();
    site.agent.stop();
    site.agent.start()
}

/// A machine that an operator has ordered to be installed and that was given its installer while the controller was there.
struct Given {
    mac: String,
    nonce: String,
    script: String,
}

impl Given {
    fn at(site: &Site) -> Result<Self> {
        let (mac, name) = (random_mac(), format!("offline-{:08x}", random() >> 32));
        site.agent.cache_add(&format!("images/{name}/kernel"), &noise(10_000))?;
        site.agent.cache_add(&format!("images/{name}/initrd"), &noise(1_000))?;
        site.discover_and_order(&mac, &name)?;
        let nonce = format!("nonce={name}");
        let script = site.script_with(&mac, &nonce)?;
        Ok(Self { mac, nonce, script })
    }

    fn fetch_kernel(&self) -> Result<()> {
        http::get(&first_url(&self.script, "kernel")?)?.expect(200).map(|_| ())
    }

    /// Waits until the agent has written down that the installer was started.
    fn wait_until_started(&self, site: &Site) -> Result<()> {
        wait::until("the installation counts as started", ARRIVAL_LIMIT, || {
            says(site, &self.mac, "has already started its installer").map(Some)
        })
    }
}

/// What the site remembers of a machine.
pub(crate) fn remembered(site: &Site, mac: &str) -> Result<Option<Value>> {
    let output = site.agent.run(&["cache", "nodes", "--json"])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let nodes: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    Ok(nodes.into_iter().find(|node| text(node, "mac_address").is_ok_and(|found| found == mac)))
}

fn a_machine_that_never_booted_here_is_served_by_the_record_that_came_by_itself() -> Result<()> {
    with_each_autonomy(|mut site| {
        let (mac, name) = (random_mac(), format!("unseen-{:08x}", random() >> 32));
        let node = json!({ "mac_address": mac, "home_site_id": site.id });
        let node = text(&site.controller.post("/nodes", &node)?, "id")?;
        let workflow = site.controller.make_workflow(&name, &format!("nonce={name}"))?;
        site.controller.order_install(&node, &workflow)?;
        let is_known = || -> Result<Option<()>> {
            site.agent.run(&["cache", "nodes", "invalidate", "--all"])?;
            let known = remembered(&site, &mac)?;
            Ok(known
                .filter(|node| text(node, "state").is_ok_and(|state| state == "pending"))
                .map(|_| ()))
        };
        wait::until("the record comes by itself", ARRIVAL_LIMIT, is_known)?;
        restart_alone(&mut site)?;
        let script = script_in_time(&site, &mac)?;
        for wanted in
            ["\nkernel", &format!("nonce={name}"), "this is record version", "this is that time"]
        {
            ensure!(script.contains(wanted), "it does not say '{wanted}':\n{script}");
        }
        restart_alone(&mut site)?;
        says(&site, &mac, "the installer was given before")
    })
}

fn a_discovered_machine_is_served_without_controller() -> Result<()> {
    with_each_autonomy(|mut site| {
        let mac = random_mac();
        site.agent.script(&mac)?;
        site.controller.wait_for_state(&mac, "discovered")?;
        restart_alone(&mut site)?;
        says(&site, &mac, "is listed as discovered")
    })
}

fn an_installed_machine_boots_its_disk_without_controller() -> Result<()> {
    with_each_autonomy(|mut site| {
        let given = Given::at(&site)?;
        given.fetch_kernel()?;
        site.controller.wait_for_state(&given.mac, "installing")?;
        let boot = boot_of(&given.script)?;
        site.agent.report(&given.mac, &boot, "install_complete", None)?;
        site.controller.wait_for_state(&given.mac, "installed")?;
        restart_alone(&mut site)?;
        says(&site, &given.mac, " is installed")?;
        site.controller.resume()?;
        site.agent.report(&given.mac, &boot, "first_boot", None)?;
        site.controller.wait_for_state(&given.mac, "active")?;
        restart_alone(&mut site)?;
        says(&site, &given.mac, " is active")
    })
}

fn an_installer_given_online_is_not_given_again_without_controller() -> Result<()> {
    with_each_autonomy(|mut site| {
        // The machine has not fetched anything: what was given is all that the agent can know.
        let given = Given::at(&site)?;
        site.controller.stop();
        says(&site, &given.mac, "the installer was given before")?;
        restart_alone(&mut site)?;
        says(&site, &given.mac, "the installer was given before")?;
        // An operator who still wants it can say so again.
        site.controller.resume()?;
        site.controller.wait_for_state(&given.mac, "pending")?;
        site.script_with(&given.mac, &given.nonce).map(|_| ())
    })
}

fn a_kernel_fetched_without_controller_starts_one_installation() -> Result<()> {
    with_each_autonomy(|mut site| {
        let given = Given::at(&site)?;
        site.controller.stop();
        site.wait_until_offline()?;
        given.fetch_kernel()?;
        given.wait_until_started(&site)?;
        given.fetch_kernel()?;
        restart_alone(&mut site)?;
        // Not "given before": that it was started is a fact of its own, and outlives the power cut as well.
        says(&site, &given.mac, "has already started its installer")?;
        site.controller.resume()?;
        site.controller.wait_for_state(&given.mac, "installing")?;
        let arrived = events(&site, &given.mac)?;
        let starts = arrived.iter().filter(|event| *event == "install_started").count();
        ensure!(starts == 1, "one installation was started {starts} times: {arrived:?}");
        Ok(())
    })
}

fn a_hung_controller_holds_nobody_up() -> Result<()> {
    with_each_autonomy(|mut site| {
        let discovered = random_mac();
        site.agent.script(&discovered)?;
        site.controller.wait_for_state(&discovered, "discovered")?;
        let given = Given::at(&site)?;
        site.controller.program()?.signal(Signal::SIGSTOP)?;
        says(&site, &discovered, "is listed as discovered")?;
        says(&site, &given.mac, "the installer was given before")?;
        script_in_time(&site, &random_mac())?;
        site.agent.stop();
        site.agent.start()?;
        says(&site, &discovered, "is listed as discovered")?;
        says(&site, &given.mac, "the installer was given before")?;
        site.controller.program()?.signal(Signal::SIGCONT)
    })
}

fn an_unknown_machine_is_taken_up_where_the_site_may() -> Result<()> {
    let mut site = Site::start_with(Autonomy::Limited)?;
    restart_alone(&mut site)?;
    let mac = random_mac();
    says(&site, &mac, "is listed as discovered")?;
    site.controller.resume()?;
    site.controller.wait_for_state(&mac, "discovered").map(|_| ())
}

fn an_unknown_machine_comes_back_later_where_the_site_may_not() -> Result<()> {
    let mut site = Site::start_with(Autonomy::Default)?;
    restart_alone(&mut site)?;
    let mac = random_mac();
    for _ in 0..2 {
        says(&site, &mac, "is not known here and cannot be taken up now")?;
        says(&site, &mac, "Asking again in ")?;
    }
    site.controller.resume()?;
    site.script_with(&mac, "is listed as discovered")?;
    site.controller.wait_for_state(&mac, "discovered").map(|_| ())
}

fn what_a_machine_reports_moves_the_sites_own_record() -> Result<()> {
    with_each_autonomy(|mut site| {
        let given = Given::at(&site)?;
        let boot = boot_of(&given.script)?;
        site.controller.stop();
        site.wait_until_offline()?;
        for (event, consequence) in [
            ("install_started", "has already started its installer"),
            ("install_complete", " is installed"),
            ("first_boot", " is active"),
        ] {
            site.agent.report(&given.mac, &boot, event, None)?;
            says(&site, &given.mac, consequence)?;
        }
        restart_alone(&mut site)?;
        says(&site, &given.mac, " is active")?;
        site.controller.resume()?;
        site.controller.wait_for_state(&given.mac, "active").map(|_| ())
    })
}

/// The marks of the node's events at the controller, in its order.
fn events(site: &Site, mac: &str) -> Result<Vec<String>> {
    let node = site.controller.node(mac)?.context("the controller does not know the node")?;
    let list = site.controller.get(&format!("/nodes/{}/events?limit=500", text(&node, "id")?))?;
    let list = list.as_array().context("a list of events")?;
    let mark = |event: &Value| {
        let kind = event.get("event_type").and_then(serde_json::Value::as_str)?;
        let progress = event.get("progress").and_then(serde_json::Value::as_u64);
        Some(progress.map_or_else(|| kind.to_owned(), |progress| format!("{kind} {progress}")))
    };
    Ok(list.iter().filter_map(mark).collect())
}

fn events_made_offline_arrive_once_and_in_order() -> Result<()> {
    with_each_autonomy(|mut site| {
        let given = Given::at(&site)?;
        given.fetch_kernel()?;
        let mac = &given.mac;
        site.controller.wait_for_state(mac, "installing")?;
        let boot = boot_of(&given.script)?;
        site.controller.stop();
        site.wait_until_offline()?;
        for progress in 1..=20 {
            site.agent.report(mac, &boot, "install_progress", Some(progress))?;
            if progress == 10 {
                restart_alone(&mut site)?;
            }
        }
        site.agent.report(mac, &boot, "install_complete", None)?;
        site.agent.report(mac, &boot, "first_boot", None)?;
        restart_alone(&mut site)?;
        site.controller.resume()?;
        site.controller.wait_for_state(mac, "active")?;
        let told = (1..=20).map(|progress| format!("install_progress {progress}"));
        let told = told.chain(["install_complete".to_owned(), "first_boot".to_owned()]);
        let told: Vec<_> = told.collect();
        let mut arrived = events(&site, mac)?;
        arrived.retain(|event| told.contains(event));
        // The list may be newest first: the order must hold, not the direction.
        if arrived.first().is_some_and(|event| event == "first_boot") {
            arrived.reverse();
        }
        ensure!(arrived == told, "told {told:?}, arrived {arrived:?}");
        Ok(())
    })
}

fn k2_a_repeated_report_is_one_event() -> Result<()> {
    with_each_autonomy(|mut site| {
        let Given { mac, script, .. } = Given::at(&site)?;
        let boot = boot_of(&script)?;
        site.controller.stop();
        for _ in 0..3 {
            site.agent.report(&mac, &boot, "install_progress", Some(42))?;
        }
        restart_alone(&mut site)?;
        site.agent.report(&mac, &boot, "install_progress", Some(42))?;
        site.agent.report(&mac, &boot, "install_progress", Some(43))?;
        site.controller.resume()?;
        wait::until("the last report has arrived", ARRIVAL_LIMIT, || {
            Ok(events(&site, &mac)?.contains(&"install_progress 43".to_owned()).then_some(()))
        })?;
        let arrived = events(&site, &mac)?;
        let count = arrived.iter().filter(|event| *event == "install_progress 42").count();
        ensure!(count == 1, "one report told four times became {count} events");
        Ok(())
    })
}

fn an_agent_that_never_saw_its_controller_joins_when_it_comes() -> Result<()> {
    let mut site = Site::prepare_with("agent", Autonomy::Default)?;
    let token = site.make_token()?;
    let url = site.controller.url();
    site.controller.stop();
    site.agent.init(&site.id, &url, &token, Ports::LOOPBACK)?;
    site.agent.start()?;
    script_in_time(&site, &random_mac())?;
    site.controller.resume()?;
    wait::until("the agent has joined", Duration::from_secs(90), || {
        Ok(site.agent_status()?.to_string().contains("\"online\"").then_some(()))
    })
}

fn since_when_a_site_is_alone_survives_a_restart() -> Result<()> {
    let mut site = Site::start()?;
    let mac = random_mac();
    site.agent.script(&mac)?;
    site.controller.wait_for_state(&mac, "discovered")?;
    site.controller.stop();
    site.wait_until_offline()?;
    let since = |site: &Site| -> Result<Value> {
        let (_, status) = site.agent.status()?;
        Ok(status.pointer("/line/since").cloned().unwrap_or_default())
    };
    let before = since(&site)?;
    site.agent.stop();
    site.agent.start()?;
    // One failed check shows that it is as it was; three would take a minute.
    site.wait_until_offline()?;
    let after = since(&site)?;
    ensure!(after == before, "away since {before}, and after the restart since {after}");
    let said = format!("OFFLINE since {}", before.as_str().unwrap_or_default());
    says(&site, &mac, &said)?;
    // It is advice: what the line is called keeps nobody from trying.
    site.controller.resume()?;
    wait::until("the controller answers again", ARRIVAL_LIMIT * 3, || {
        let (_, status) = site.agent.status()?;
        Ok((status.pointer("/line/state") == Some(&json!("connected"))).then_some(()))
    })
}
