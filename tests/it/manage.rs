//! How the agent tells the one who runs it: `status`, and the socket behind it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pureboot_tests::http;
use pureboot_tests::site::{ARRIVAL_LIMIT, Site, boot_of, text};
use pureboot_tests::{random_mac, wait};
use serde_json::Value;

use crate::need::Need;
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(status_tells_a_person_and_a_program_how_it_goes),
        case!(
            status_is_degraded_while_changes_cannot_be_delivered,
            Need::Program("sqlite3", "sqlite3")
        ),
        case!(status_is_degraded_when_a_change_was_parked, Need::Program("sqlite3", "sqlite3")),
        case!(a_wrong_question_on_the_socket_is_answered_with_a_problem),
    ]
}

/// What a change in the agent's health may take: some heartbeats and a pause after a failed delivery.
const HEALTH_LIMIT: Duration = Duration::from_secs(60);

fn status_tells_a_person_and_a_program_how_it_goes() -> Result<()> {
    let mut site = Site::start()?;
    wait::until("the status is good", ARRIVAL_LIMIT, || {
        let output = site.agent.run(&["status"])?;
        let code = output.status.code();
        ensure!(code == Some(0), "exit {code:?}: {}", String::from_utf8_lossy(&output.stdout));
        Ok(Some(()))
    })?;
    let output = site.agent.run(&["status"])?;
    let said = String::from_utf8_lossy(&output.stdout).to_lowercase();
    let port = site.agent.boot().port().to_string();
    for word in ["site", "tftp", "http", "heartbeat", env!("CARGO_PKG_VERSION"), &port] {
        ensure!(said.contains(word), "no '{word}' in:\n{said}");
    }
    let output = site.agent.run(&["status", "--json"])?;
    let status: Value = serde_json::from_slice(&output.stdout).context("status --json")?;
    ensure!(status.to_string().contains(&site.id), "no site id in {status}");

    site.controller.stop();
    wait::until("the status is degraded", Duration::from_secs(60), || {
        let code = site.agent.run(&["status"])?.status.code();
        Ok((code == Some(1)).then_some(()))
    })?;
    site.agent.stop();
    let output = site.agent.run(&["status"])?;
    ensure!(output.status.code() == Some(3), "exit {:?} without agent", output.status.code());
    Ok(())
}

/// Waits until all is well again.
fn wait_until_well(site: &Site) -> Result<()> {
    wait::until("the status is good", HEALTH_LIMIT, || {
        let (code, status) = site.agent.status()?;
        ensure!(code == Some(0), "exit {code:?}: {status}");
        Ok(Some(()))
    })
}

/// Waits until `status` is degraded and gives a person the reason `wanted`, whatever it says of the line.
fn wait_until_degraded(site: &Site, wanted: &str) -> Result<()> {
    wait::until(&format!("the health has to do with {wanted}"), HEALTH_LIMIT, || {
        let output = site.agent.run(&["status"])?;
        let (code, said) = (output.status.code(), String::from_utf8_lossy(&output.stdout));
        let health = said.lines().find(|line| line.starts_with("health"));
        let health = health.with_context(|| format!("no health in:\n{said}"))?;
        ensure!(code == Some(1) && health.contains(wanted), "exit {code:?}:\n{said}");
        Ok(Some(()))
    })
}

/// How many changes `status` counts under `field`.
fn count(site: &Site, field: &str) -> Result<u64> {
    let (_, status) = site.agent.status()?;
    let count = status.get(field).and_then(Value::as_u64);
    count.with_context(|| format!("no number '{field}' in {status}"))
}

fn status_is_degraded_while_changes_cannot_be_delivered() -> Result<()> {
    let site = Site::start()?;
    wait_until_well(&site)?;
    // Heartbeats go on: it is the changes alone that the controller cannot take.
    site.controller.tamper(
        "CREATE TRIGGER stuck BEFORE INSERT ON changes BEGIN SELECT RAISE(ABORT, 'stuck'); END",
    )?;
    let mac = random_mac();
    site.agent.script(&mac)?;
    wait_until_degraded(&site, "change")?;
    ensure!(count(&site, "queue_pending")? > 0, "nothing waits");
    site.controller.tamper("DROP TRIGGER stuck")?;
    wait_until_well(&site)?;
    ensure!(count(&site, "queue_pending")? == 0, "well, and changes wait");
    site.controller.wait_for_state(&mac, "discovered").map(|_| ())
}

fn status_is_degraded_when_a_change_was_parked() -> Result<()> {
    let site = Site::start()?;
    wait_until_well(&site)?;
    let mac = random_mac();
    let boot = boot_of(&site.agent.script(&mac)?)?;
    site.controller.wait_for_state(&mac, "discovered")?;
    // What is told of a node that the controller has lost is kept aside for people.
    site.controller.tamper(&format!("DELETE FROM nodes WHERE mac_address = '{mac}'"))?;
    site.agent.report(&mac, &boot, "install_started", None)?;
    wait_until_degraded(&site, "parked")?;
    ensure!(count(&site, "queue_parked")? > 0, "nothing is parked");
    let to_be_healthy = site.agent.run(&["status", "--running"])?;
    ensure!(to_be_healthy.status.success(), "whoever would start it again would do so");
    Ok(())
}

fn a_wrong_question_on_the_socket_is_answered_with_a_problem() -> Result<()> {
    let site = Site::start()?;
    for (method, path, allowed) in [
        ("GET", "/api/v1/agent/none", [404, 404]),
        ("GET", "/", [404, 404]),
        ("GET", "/boot/52:54:00:00:00:01", [404, 404]),
        ("DELETE", "/api/v1/agent/status", [404, 405]),
        ("POST", "/api/v1/agent/cache", [404, 405]),
        ("FROB", "/api/v1/agent/status", [404, 405]),
    ] {
        let answer = http::ask_socket(&site.agent.socket(), method, path)?;
        ensure!(
            allowed.contains(&answer.status),
            "{method} {path} was answered {}: {}",
            answer.status,
            answer.text()
        );
        let kind = answer.field("content-type");
        ensure!(kind == Some("application/problem+json"), "{method} {path}: {kind:?}");
        let problem = answer.json()?;
        let code = text(&problem, "code").with_context(|| format!("{method} {path}"))?;
        ensure!(!code.is_empty(), "{method} {path}: an empty code in {problem}");
        let status = problem.get("status").and_then(Value::as_u64);
        ensure!(status == Some(answer.status.into()), "{method} {path}: {problem}");
    }
    http::ask_socket(&site.agent.socket(), "GET", "/api/v1/agent/status")?.expect(200)?;
    Ok(())
}
