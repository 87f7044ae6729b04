//! What `cargo xtask dist` has made, on the processor that it is for: each boots a machine.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use pureboot_tests::http;
use pureboot_tests::process;
use pureboot_tests::site::Site;
use pureboot_tests::tftp::Client;
use pureboot_tests::{noise, random_mac};

use crate::need::Need;
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(the_agent_for_x86_64_boots_a_machine, Need::Long, Need::Shipped("x86_64")),
        case!(the_agent_for_aarch64_boots_a_machine, Need::Long, Need::Shipped("aarch64")),
        case!(the_agent_for_armv7_boots_a_machine, Need::Long, Need::Shipped("armv7")),
    ]
}

fn the_agent_for_x86_64_boots_a_machine() -> Result<()> {
    boots("x86_64")
}

fn the_agent_for_aarch64_boots_a_machine() -> Result<()> {
    boots("aarch64")
}

fn the_agent_for_armv7_boots_a_machine() -> Result<()> {
    boots("armv7")
}

/// Where a program for `target` lies.
pub(crate) fn program(target: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.join("target/dist").join(format!("pureboot-agent-{target}"))
}

/// What runs programs for `target` here, if this processor does not.
pub(crate) fn emulator(target: &str) -> Option<&'static str> {
    match target {
        _ if target == std::env::consts::ARCH => None,
        "aarch64" => Some("qemu-aarch64-static"),
        "armv7" => Some("qemu-arm-static"),
        _ => Some("qemu-x86_64-static"),
    }
}

fn boots(target: &str) -> Result<()> {
    let mut words = Vec::new();
    if let Some(name) = emulator(target) {
        words.push(process::find(name).with_context(|| format!("{name} is not installed"))?);
    }
    words.push(program(target));
    let (first, others) = words.split_first().context("a program has a name")?;
    let mut command = Command::new(first);
    command.args(others).arg("--version");
    let said = process::succeed(command)?;
    ensure!(said.trim() == concat!("pureboot-agent ", env!("CARGO_PKG_VERSION")), "{said}");

    let site = Site::start_by(words)?;
    let (mac, loader) = (random_mac(), noise(300_000));
    site.agent.cache_add("bootloaders/undionly.kpxe", &loader)?;
    let client = Client::new(site.agent.tftp(), Ipv4Addr::LOCALHOST)?;
    for options in [[].as_slice(), &[("blksize", "1432"), ("windowsize", "4")]] {
        ensure!(client.read("undionly.kpxe", options)?.bytes == loader, "another file by TFTP");
    }
    let file = http::get(&site.agent.url("/files/bootloaders/undionly.kpxe"))?.expect(200)?;
    ensure!(file.body == loader, "another file by HTTP");
    site.discover_and_order(&mac, "shipped")?;
    let script = site.script_with(&mac, "nonce=shipped")?;
    ensure!(script.starts_with("#!ipxe\n"), "{script}");
    Ok(())
}
