//! Orders of the centre: carried out once, however suddenly the agent ends, and told of soon.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pureboot_tests::site::{ARRIVAL_LIMIT, Ports, Site, boot_of, text};
use pureboot_tests::{http, is_long, random, random_mac, wait};
use serde_json::{Value, json};

use crate::{Case, case};

/// What the lease of a command, two heartbeats, and the next one may take on a busy machine.
const REDELIVERY_LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(what_became_of_an_order_is_told_before_the_next_heartbeat_is_due),
        case!(k10_an_agent_that_is_killed_while_it_obeys_changes_its_credential_once),
        case!(a_machine_is_told_what_to_do_until_it_acknowledges_it),
    ]
}

/// Orders something of the agent of `site`; returns where the command is.
fn order(site: &Site, body: &Value) -> Result<String> {
    let path = format!("/sites/{}/commands", site.id);
    Ok(format!("{path}/{}", text(&site.controller.post(&path, body)?, "id")?))
}

/// Waits until a command has come as far as `status`.
fn wait_for(site: &Site, command: &str, status: &str, limit: Duration) -> Result<Value> {
    wait::until(&format!("{command} is {status}"), limit, || {
        let command = site.controller.get(command)?;
        ensure!(text(&command, "status")? == status, "{command}");
        Ok(Some(command))
    })
}

fn what_became_of_an_order_is_told_before_the_next_heartbeat_is_due() -> Result<()> {
    let mut site = Site::prepare("agent")?;
    site.controller
        .patch(&format!("/sites/{}", site.id), &json!({ "heartbeat_interval": 3_600 }))?;
    let settings = order(&site, &json!({ "command": "update_config" }))?;
    let rotation = order(&site, &json!({ "command": "rotate_credential" }))?;
    let sync = site.controller.post(&format!("/sites/{}/sync", site.id), &json!({}))?;
    let sync = format!("/sites/{}/commands/{}", site.id, text(&sync, "sync_id")?);
    let token = site.make_token()?;
    site.agent.init(&site.id, &site.controller.url(), &token, Ports::LOOPBACK)?;
    site.agent.start()?;
    wait_for(&site, &settings, "completed", ARRIVAL_LIMIT)?;
    wait_for(&site, &rotation, "completed", ARRIVAL_LIMIT)?;
    // Whether this agent brings content up to date or not: it says so.
    wait::until("the order to bring content up to date has an end", ARRIVAL_LIMIT, || {
        let sync = site.controller.get(&sync)?;
        Ok(sync.get("finished_at").is_some_and(|at| !at.is_null()).then_some(()))
    })
}

fn k10_an_agent_that_is_killed_while_it_obeys_changes_its_credential_once() -> Result<()> {
    let mut site = Site::start()?;
    for round in 1..=if is_long() { 30 } else { 3 } {
        let command = order(&site, &json!({ "command": "rotate_credential" }))?;
        let given = || -> Result<bool> {
            let status = text(&site.controller.get(&command)?, "status")?;
            Ok(status != "queued")
        };
        wait::until("the agent is given it", ARRIVAL_LIMIT, || Ok(given()?.then_some(())))?;
        // From before the order is written down to after the change.
        thread::sleep(Duration::from_millis(random() % 60));
        site.agent.stop();
        let credential = fs::read_to_string(site.agent.data_dir().join("credential"))?;
        let url = format!("{}/api/v1/agents/nodes", site.controller.url());
        let request =
            minreq::get(url).with_header("authorization", format!("Bearer {}", credential.trim()));
        ensure!(http::send(request)?.status == 200, "the agent's credential is none");
        site.agent.start()?;
        wait_for(&site, &command, "completed", REDELIVERY_LIMIT)?;
        let audit = site.controller.call(
            minreq::Method::Get,
            "/audit?action=agent.credential_rotated",
            None,
        )?;
        let changes = audit.json()?.get("total").and_then(Value::as_u64);
        ensure!(changes == Some(round), "{changes:?} changes for {round} orders");
    }
    site.wait_until_online()
}

fn a_machine_is_told_what_to_do_until_it_acknowledges_it() -> Result<()> {
    let site = Site::start()?;
    let mac = random_mac();
    let boot = boot_of(&site.agent.script(&mac)?)?;
    let node = site.controller.wait_for_state(&mac, "discovered")?;
    let report = |acknowledged: Option<&Value>| -> Result<Value> {
        let mut body = json!({ "mac_address": mac, "boot": boot, "event_type": "heartbeat" });
        if let (Some(id), Some(fields)) = (acknowledged, body.as_object_mut()) {
            fields.insert("acknowledged_command".to_owned(), id.clone());
        }
        let answer = http::post(&site.agent.url("/api/v1/report"), &body)?.json()?;
        Ok(answer.pointer("/data/pending_command").cloned().unwrap_or_default())
    };
    ensure!(report(None)?.is_null(), "nobody has ordered anything");
    let path = format!("/nodes/{}", text(&node, "id")?);
    site.controller.post(&format!("{path}/command"), &json!({ "command": "reboot" }))?;
    let told = wait::until("the machine is told to reboot", ARRIVAL_LIMIT, || {
        Ok(Some(report(None)?).filter(|told| !told.is_null()))
    })?;
    ensure!(told.get("command") == Some(&json!("reboot")), "{told}");
    ensure!(report(told.get("id"))?.is_null(), "it is told again what it has acknowledged");
    wait::until("the controller knows that it was acknowledged", ARRIVAL_LIMIT, || {
        let node = site.controller.get(&path)?;
        let pending = node.get("pending_command").context("no field for it")?;
        Ok(pending.is_null().then_some(()))
    })?;
    ensure!(report(None)?.is_null(), "it is told again what it has acknowledged");
    Ok(())
}
