//! How the agent tells the one who runs it: `status`, and the socket behind it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pureboot_tests::http;
use pureboot_tests::site::{ARRIVAL_LIMIT, Site, text};
use pureboot_tests::wait;
use serde_json::Value;

use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(status_tells_a_person_and_a_program_how_it_goes),
        case!(a_wrong_question_on_the_socket_is_answered_with_a_problem),
    ]
}

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
