//! Established TFTP servers, started beside the agent.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use pureboot_tests::process::{self, Program};
use pureboot_tests::tftp::{Client, read_request};
use pureboot_tests::wait;

use super::proc::CpuMeter;
use crate::packages;

/// A server under test.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) name: &'static str,
    pub(super) address: SocketAddr,
    /// Keeps a peer alive; the agent belongs to its site. Declared before the meter, whose group must be empty at its end.
    pub(super) _program: Option<Program>,
    pub(super) cpu: CpuMeter,
}

fn free_address() -> Result<SocketAddr> {
    Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn start(name: &'static str, command: Command, address: SocketAddr, dir: &Path) -> Result<Server> {
    let program = Program::spawn(name, command, dir)?;
    wait::until("the peer answers", Duration::from_secs(10), || {
        let client = Client::new(address, Ipv4Addr::LOCALHOST)?;
        client.send(&read_request("no-such-file", &[]))?;
        client.receive().map(Some)
    })?;
    let cpu = CpuMeter::new(program.pid());
    Ok(Server { name, address, _program: Some(program), cpu })
}

fn tftpd_hpa(root: &Path, dir: &Path) -> Result<Server> {
    let address = free_address()?;
    // Its package cannot be installed beside atftpd's.
    let mut command = Command::new(packages::unpacked("tftpd-hpa")?.join("usr/sbin/in.tftpd"));
    command.args(["--listen", "--foreground", "--address", &address.to_string(), "--secure"]);
    command.arg(root);
    start("tftpd-hpa", command, address, dir)
}

fn atftpd(root: &Path, dir: &Path) -> Result<Server> {
    let address = free_address()?;
    let program = match process::find("atftpd") {
        Some(program) => program,
        None => packages::unpacked("atftpd")?.join("usr/sbin/atftpd"),
    };
    let mut command = Command::new(program);
    command.args(["--daemon", "--no-fork", "--logfile", "-", "--verbose=3", "--maxthread", "4000"]);
    command.args(["--bind-address", &address.ip().to_string()]);
    command.args(["--port", &address.port().to_string()]).arg(root);
    start("atftpd", command, address, dir)
}

fn dnsmasq(root: &Path, dir: &Path) -> Result<Server> {
    // Its TFTP has one port, so it gets an address of its own.
    let address = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 69), 69));
    let mut command = process::system("dnsmasq")?;
    command.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--port=0",
        "--bind-interfaces",
    ]);
    command.arg(format!("--listen-address={}", address.ip()));
    command.args(["--enable-tftp", "--tftp-max=4000", "--quiet-tftp", "--user=root"]);
    command
        .args(["--log-facility=-", "--pid-file="])
        .arg(format!("--tftp-root={}", root.display()));
    start("dnsmasq", command, address, dir)
}

/// Starts every peer that can be had; one that cannot is named with the reason.
pub(super) fn start_all(root: &Path, dir: &Path) -> Vec<Server> {
    let attempts = [
        ("tftpd-hpa", tftpd_hpa(root, dir)),
        ("atftpd", atftpd(root, dir)),
        ("dnsmasq", dnsmasq(root, dir)),
    ];
    let started = attempts.into_iter().filter_map(|(name, attempt)| {
        attempt.map_err(|error| println!("without {name}: {error:#}")).ok()
    });
    started.collect()
}
