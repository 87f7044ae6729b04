//! Credentials while they are in use: revoked, rotated, and people who sign in.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use pureboot_tests::site::{ARRIVAL_LIMIT, Site};
use pureboot_tests::{http, process, random_mac, wait};
use serde_json::json;

use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(a6_a_revoked_agent_says_so_and_goes_on_serving),
        case!(a18_a_rotation_that_was_cut_short_is_finished_at_the_next_start),
        case!(people_are_made_at_the_command_line_and_sign_in),
    ]
}

/// What the controller answers to a request for `path` with a bearer.
fn ask(site: &Site, path: &str, bearer: &str) -> Result<u16> {
    let url = format!("{}/api/v1{path}", site.controller.url());
    let request = minreq::get(url).with_header("authorization", format!("Bearer {bearer}"));
    Ok(http::send(request)?.status)
}

fn a6_a_revoked_agent_says_so_and_goes_on_serving() -> Result<()> {
    let mut site = Site::start()?;
    let mac = random_mac();
    site.script_with(&mac, "discovered")?;
    site.wait_until_online()?;
    site.controller.post(&format!("/agents/{}/revoke", site.id), &json!({}))?;
    site.agent.stop();
    site.agent.start()?;
    wait::until("the agent says that it is refused", ARRIVAL_LIMIT, || {
        let (_, status) = site.agent.status()?;
        let text = status.get("membership").map(ToString::to_string).unwrap_or_default();
        Ok(text.contains("revoked by an operator").then_some(()))
    })?;
    site.agent.script(&mac).map(|_| ())
}

fn a18_a_rotation_that_was_cut_short_is_finished_at_the_next_start() -> Result<()> {
    let mut site = Site::start()?;
    site.wait_until_online()?;
    site.agent.stop();
    let (current, next) =
        (site.agent.data_dir().join("credential"), site.agent.data_dir().join("credential.next"));
    let (old, new) = (fs::read_to_string(&current)?, "5".repeat(64));
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next)?;
    file.write_all(new.as_bytes())?;
    site.agent.start()?;
    wait::until("the next credential is the agent's own", ARRIVAL_LIMIT, || {
        Ok((fs::read_to_string(&current)?.trim() == new && !next.exists()).then_some(()))
    })?;
    let nodes = "/agents/nodes";
    wait::until("the old credential has ended", ARRIVAL_LIMIT, || {
        // The agent's own first use ends it, or this one.
        ensure!(ask(&site, nodes, &new)? == 200, "the next credential opens nothing");
        Ok((ask(&site, nodes, old.trim())? == 401).then_some(()))
    })?;
    site.script_with(&random_mac(), "discovered").map(|_| ())
}

fn people_are_made_at_the_command_line_and_sign_in() -> Result<()> {
    let site = Site::start()?;
    let run = |arguments: &[&str], input: &str| -> Result<(bool, String)> {
        let mut command = Command::new(process::own("pureboot-controller")?);
        command.args(arguments).arg("--data-dir").arg(site.controller.data_dir());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start the controller's command line")?;
        // One that refuses its arguments reads nothing.
        _ = child.stdin.take().context("a pipe")?.write_all(input.as_bytes());
        let output = child.wait_with_output()?;
        let (stdout, stderr) = (output.stdout, output.stderr);
        Ok((output.status.success(), String::from_utf8([stdout, stderr].concat())?))
    };
    let (is_made, said) = run(&["user", "add", "--admin", "ada"], "correct horse\n")?;
    ensure!(is_made && said.contains("ada may sign in as admin"), "{said}");
    let (is_made, said) = run(&["user", "add", "grace"], "short\n")?;
    ensure!(!is_made && said.contains("12 to 256 bytes"), "{said}");
    let sign_in = |password: &str| -> Result<u16> {
        let body = json!({"username": "ada", "password": password}).to_string();
        let request = minreq::post(format!("{}/api/v1/session", site.controller.url()));
        let request = request.with_header("content-type", "application/json").with_body(body);
        Ok(http::send(request)?.status)
    };
    ensure!(sign_in("wrong horse")? == 401 && sign_in("correct horse")? == 200, "the wrong one");
    let (_, list) = run(&["user", "list"], "")?;
    ensure!(list.lines().next().is_some_and(|head| head.starts_with("NAME")), "{list}");
    let (_, list) = run(&["user", "list", "--json"], "")?;
    let list: serde_json::Value = serde_json::from_str(&list)?;
    ensure!(list.pointer("/0/role") == Some(&json!("admin")), "{list}");
    let (_, token) = run(&["token", "new", "--role", "viewer"], "")?;
    let token = token.trim();
    ensure!(ask(&site, "/nodes", token)? == 200 && ask(&site, "/users", token)? == 403, "viewer");
    let (_, tokens) = run(&["token", "list", "--json"], "")?;
    ensure!(!tokens.contains(token), "the list shows the secret");
    let tokens: Vec<serde_json::Value> = serde_json::from_str(&tokens)?;
    let made = tokens.iter().find(|token| token.get("name") == Some(&json!("command line")));
    let id = made.and_then(|token| token.get("id")?.as_str()).context("the token has no id")?;
    let (is_done, said) = run(&["token", "revoke", id], "")?;
    ensure!(is_done && ask(&site, "/nodes", token)? == 401, "{said}");
    let audit = site.controller.get("/audit?action=user%20add")?;
    ensure!(audit.pointer("/0/actor/kind") == Some(&json!("command_line")), "{audit}");
    Ok(())
}
