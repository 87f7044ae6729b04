//! A policy on its way from an operator's hands to what a machine boots, with the real programs and the agent in its cage.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pureboot_tests::site::{ARRIVAL_LIMIT, Site};
use pureboot_tests::{process, random_mac, wait};
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![case!(an_assigned_policy_decides_also_while_the_controller_is_away)]
}

/// What one command may take; the controller compiles in one of them.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// What the policy says to every machine.
const REFUSAL: &str = "rack b-17 is being moved";
/// What a machine reads of whom nobody has decided anything.
const BUILT_IN: &str = "is listed as discovered";
/// Answers `refuse` with the text at 4096.
const REFUSE: &str = "(i32.store8 (i32.const 1028) (i32.const 8))
    (i32.store (i32.const 1032) (i32.const 4096)) (i32.store (i32.const 1036) (i32.const 24))";
/// Never answers.
const LOOP: &str = "(loop (br 0))";

/// A policy as its author's compiler leaves it.
fn policy(does: &str) -> Result<Vec<u8>> {
    let source = format!(
        r#"(module
            (memory (export "memory") 1)
            (data (i32.const 4096) "{REFUSAL}")
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 8192))
            (func (export "pureboot:policy/boot@0.1.0#decide") (param i32) (result i32) {does} (i32.const 1024)))"#
    );
    let mut module = wat::parse_str(source)?;
    let mut resolve = Resolve::default();
    let contract = concat!(env!("CARGO_MANIFEST_DIR"), "/../plugins/wit/since-0.1");
    let (package, _) = resolve.push_path(contract)?;
    let world = resolve.select_world(&[package], Some("pureboot:policy/boot-policy"))?;
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    Ok(module)
}

/// Runs a command of the controller as an operator would; answers what it prints.
fn operate(site: &Site, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(process::own("pureboot-controller")?);
    command.args(arguments).env("PUREBOOT_URL", site.controller.url());
    command.env("PUREBOOT_TOKEN", site.controller.token());
    let output = process::output(command, COMMAND_LIMIT)?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{arguments:?} failed:\n{said}");
    Ok(said)
}

fn add(site: &Site, version: &str, does: &str) -> Result<()> {
    let file = site.dir().join(format!("guard-{version}.wasm"));
    fs::write(&file, policy(does)?)?;
    let file = Path::to_str(&file).context("a path of the test's own")?;
    operate(site, &["plugin", "add", file, "--name", "guard", "--version", version]).map(|_| ())
}

/// What the agent's own command prints.
fn ask(site: &Site, arguments: &[&str]) -> Result<String> {
    let output = site.agent.run(arguments)?;
    Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn an_assigned_policy_decides_also_while_the_controller_is_away() -> Result<()> {
    let mut site = Site::start()?;
    let mac = random_mac();
    site.script_with(&mac, BUILT_IN)?;

    add(&site, "1.0.0", REFUSE)?;
    operate(&site, &["plugin", "assign", "guard", "--everywhere", "--mode", "on"])?;
    site.script_with(&mac, REFUSAL)?;
    let explained = ask(&site, &["explain", "--mac", &mac])?;
    ensure!(explained.contains("guard") && explained.contains(REFUSAL), "{explained}");
    let listed = ask(&site, &["plugin", "ls"])?;
    ensure!(listed.contains("guard") && listed.contains("running"), "{listed}");

    site.controller.stop();
    site.agent.stop();
    site.agent.start()?;
    site.script_with(&mac, REFUSAL)?;

    site.controller.resume()?;
    site.wait_until_online()?;
    add(&site, "1.0.1", LOOP)?;
    site.script_with(&mac, BUILT_IN)?;
    wait::until("the controller hears of the failure", ARRIVAL_LIMIT, || {
        let sites = site.controller.get("/plugins/guard/sites")?;
        let report = sites.pointer("/0/report").context("no report of a site")?;
        let has_failed = report["failures"].as_u64() > Some(0) || report["state"] != "running";
        Ok(has_failed.then_some(()))
    })?;

    operate(&site, &["plugin", "rollback", "guard"])?;
    site.script_with(&mac, REFUSAL)?;
    operate(&site, &["plugin", "mode", "guard", "off", "--everywhere"])?;
    site.script_with(&mac, BUILT_IN).map(|_| ())
}
