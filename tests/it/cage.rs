//! The running agent in its cage: what holds it is there, in every thread, and it serves all the same.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use pureboot_tests::process::{self, Program};
use pureboot_tests::site::{ARRIVAL_LIMIT, Site};
use pureboot_tests::tftp::Client;
use pureboot_tests::{noise, random_mac};
use serde_json::{Value, json};

use crate::need::Need;
use crate::{Case, case};

/// A user that nobody is.
const USER: u32 = 64_321;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(no_thread_of_the_running_agent_has_a_right_or_a_way_out, Need::Root),
        case!(started_by_root_the_agent_becomes_the_owner_of_its_data, Need::Root),
        case!(the_cage_can_be_switched_off_and_says_so),
    ]
}

/// The lines of `/proc/<pid>/task/*/status` that begin with `name`, one for each thread.
fn of_threads(pid: u32, name: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let Ok(text) = fs::read_to_string(thread?.path().join("status")) else { continue };
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        found.push(line.with_context(|| format!("no {name} in:\n{text}"))?.trim().to_owned());
    }
    Ok(found)
}

fn all_are(pid: u32, name: &str, wanted: &str) -> Result<()> {
    let found = of_threads(pid, name)?;
    ensure!(found.iter().all(|it| it == wanted), "{name} of the threads: {found:?}, not {wanted}");
    Ok(())
}

fn boots_go_on(site: &Site) -> Result<()> {
    let (mac, loader) = (random_mac(), noise(70_000));
    site.agent.cache_add("bootloaders/undionly.kpxe", &loader)?;
    let client = Client::new(site.agent.tftp(), Ipv4Addr::LOCALHOST)?;
    ensure!(client.read("undionly.kpxe", &[])?.bytes == loader, "another file was sent");
    site.discover_and_order(&mac, "caged")?;
    site.script_with(&mac, "nonce=caged").map(|_| ())
}

fn no_thread_of_the_running_agent_has_a_right_or_a_way_out() -> Result<()> {
    let mut site = Site::start()?;
    boots_go_on(&site)?;
    let confinement = confinement(&site)?;
    let gaps = confinement.get("gaps").context("gaps")?;
    let pid = site.agent.program()?.pid();
    for name in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
        all_are(pid, name, "0000000000000000")?;
    }
    if gaps.as_array().is_some_and(Vec::is_empty) {
        all_are(pid, "NoNewPrivs", "1")?;
        all_are(pid, "Seccomp", "2")?;
    }
    Ok(())
}

/// What `status` tells of the cage.
fn confinement(site: &Site) -> Result<Value> {
    let (_, status) = site.agent.status()?;
    status.get("confinement").cloned().context("status tells nothing of the cage")
}

fn give_away(path: &Path, user: u32) -> Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            give_away(&entry?.path(), user)?;
        }
    }
    chown(path, Some(user), Some(user)).with_context(|| path.display().to_string())
}

/// Whose the files and directories below `path` are.
fn owners(path: &Path) -> Result<Vec<u32>> {
    let mut owners = vec![fs::symlink_metadata(path)?.uid()];
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            // SQLite's own come and go.
            owners.extend(self::owners(&entry?.path()).unwrap_or_default());
        }
    }
    Ok(owners)
}

fn started_by_root_the_agent_becomes_the_owner_of_its_data() -> Result<()> {
    let mut site = Site::start()?;
    site.agent.stop();
    fs::set_permissions(site.dir(), fs::Permissions::from_mode(0o711))?;
    give_away(site.agent.data_dir(), USER)?;
    site.agent.start()?;
    site.wait_until_online()?;
    boots_go_on(&site)?;
    let pid = site.agent.program()?.pid();
    all_are(pid, "Uid", &[USER.to_string().as_str(); 4].join("\t"))?;
    all_are(pid, "Groups", "")?;
    all_are(pid, "CapPrm", "0000000000000000")?;
    let confinement = confinement(&site)?;
    ensure!(confinement.get("user") == Some(&json!(USER)), "{confinement}");
    // The loader is among them, which came while it ran.
    let objects = site.agent.data_dir().join("cache/objects");
    ensure!(owners(&objects)?.len() > 1, "there is no object");
    let owners = owners(site.agent.data_dir())?;
    ensure!(owners.iter().all(|owner| *owner == USER), "the files belong to {owners:?}");
    Ok(())
}

fn the_cage_can_be_switched_off_and_says_so() -> Result<()> {
    let mut site = Site::start()?;
    site.agent.stop();
    let program =
        Program::spawn("agent", site.agent.command(&["start", "--no-cage"])?, site.dir())?;
    program.line("listening on tftp://", ARRIVAL_LIMIT)?;
    let output = process::output(site.agent.command(&["status"])?, ARRIVAL_LIMIT)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(said.contains("cage        OPEN: switched off"), "{said}");
    all_are(program.pid(), "Seccomp", "0")
}
