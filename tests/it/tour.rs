//! README's tour, gone through as it is written: its commands are taken out of the text and run, in order, by a shell.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pureboot_tests::process::{self, Program};
use pureboot_tests::site::{ARRIVAL_LIMIT, boot_of};
use pureboot_tests::tftp::Client;
use pureboot_tests::{http, noise, wait};
use serde_json::json;

use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![case!(the_tour_of_the_readme_installs_a_machine)]
}

/// The machine of the tour.
const MAC: &str = "52:54:00:12:34:56";
/// What a program may take until it listens, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(20);
/// What the commands of one block may take, on a busy machine.
const BLOCK_LIMIT: Duration = Duration::from_secs(60);

/// The tour's blocks of commands.
fn blocks() -> Result<Vec<String>> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("README.md");
    let readme = fs::read_to_string(readme)?;
    let (_, tour) = readme.split_once("\n## A tour\n").context("README has no tour")?;
    let (tour, _) = tour.split_once("\n## ").context("the tour does not end")?;
    let fences = tour.split("\n```").skip(1).step_by(2);
    let blocks: Option<Vec<_>> =
        fences.map(|block| block.strip_prefix("sh\n").map(str::to_owned)).collect();
    blocks.context("a block of the tour is no block of commands")
}

/// The place that the tour is gone through in: what it takes for granted of the machine, and what it has started.
struct Tour {
    dir: PathBuf,
    /// What earlier blocks have exported.
    exports: String,
    agent: Option<(Program, SocketAddr, SocketAddr)>,
    controller: Option<Program>,
    url: String,
}

impl Tour {
    /// With both programs in a directory for `PATH`, where they are given free ports and directories of this test's own.
    fn prepare(dir: &Path) -> Result<Self> {
        let bin = dir.join("bin");
        fs::create_dir(&bin)?;
        let agent = format!(
            "verb=$1; shift\ncase $verb in init) set -- \"$@\" --boot-listen 127.0.0.1:0 --tftp-listen 127.0.0.1:0;; esac\n\
             exec {} \"$verb\" \"$@\" --data-dir {}",
            process::own("pureboot-agent")?.display(),
            dir.join("agent").display()
        );
        let controller = format!(
            "case $1 in serve) set -- \"$@\" --listen 127.0.0.1:0;; esac\nexec {} \"$@\"",
            process::own("pureboot-controller")?.display()
        );
        for (name, text) in [("pureboot-agent", agent), ("pureboot-controller", controller)] {
            let path = bin.join(name);
            fs::write(&path, format!("#!/bin/sh\n{text}\n"))?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        }
        for (name, len) in [("linux", 300_000), ("initrd.gz", 100_000), ("undionly.kpxe", 70_000)] {
            fs::write(dir.join(name), noise(len))?;
        }
        let dir = dir.to_owned();
        Ok(Self { dir, exports: String::new(), agent: None, controller: None, url: String::new() })
    }

    /// The commands of a block with this machine's places in them.
    fn here(&self, block: &str) -> String {
        let data_dir = self.dir.join("controller").display().to_string();
        block
            .replace("/var/lib/pureboot-controller", &data_dir)
            .replace("/usr/lib/ipxe/undionly.kpxe", "undionly.kpxe")
            .replace("http://127.0.0.1:8000", &self.url)
    }

    fn shell(&self, commands: &str) -> Result<Command> {
        let mut command = process::system("bash")?;
        let path = std::env::var("PATH").unwrap_or_default();
        command.args(["-euo", "pipefail", "-c", &format!("{}{commands}", self.exports)]);
        command.current_dir(&self.dir);
        command.env("PATH", format!("{}:{path}", self.dir.join("bin").display()));
        if !self.url.is_empty() {
            command.env("PUREBOOT_URL", &self.url);
        }
        Ok(command)
    }

    /// Starts the program that a block of one command starts.
    fn start(&mut self, block: &str) -> Result<()> {
        let command = self.shell(&format!("exec {}", self.here(block)))?;
        if block.starts_with("pureboot-controller") {
            let program = Program::spawn("controller", command, &self.dir)?;
            self.url = program.line("listening on ", START_LIMIT)?;
            self.controller = Some(program);
        } else {
            let program = Program::spawn("agent", command, &self.dir)?;
            let line = program.line("listening on tftp://", START_LIMIT)?;
            let (tftp, boot) = line.trim().split_once(" http://").context("two addresses")?;
            self.agent = Some((program, tftp.parse()?, boot.parse()?));
        }
        Ok(())
    }

    /// Runs a block to its end; returns what it printed.
    fn run(&mut self, block: &str) -> Result<String> {
        let block = self.here(block);
        let output = process::output(self.shell(&block)?, BLOCK_LIMIT)?;
        let (said, why) = (String::from_utf8(output.stdout)?, output.stderr);
        let why = String::from_utf8_lossy(&why);
        ensure!(output.status.success(), "{block}\nended with {}: {said}{why}", output.status);
        for export in block.lines().filter(|line| line.starts_with("export ")) {
            self.exports = format!("{}{export}\n", self.exports);
        }
        Ok(said)
    }

    /// Waits until the controller, asked as the tour asks it, has the machine in `state`.
    fn wait_for(&mut self, state: &str) -> Result<()> {
        wait::until(&format!("{MAC} is {state}"), ARRIVAL_LIMIT, || {
            let said = self.run(&format!("pureboot-controller node show {MAC} --field state"))?;
            ensure!(said.trim() == state, "it is {said}");
            Ok(Some(()))
        })
    }

    /// The addresses of the agent's TFTP and HTTP.
    fn agent(&self) -> Result<(SocketAddr, SocketAddr)> {
        let (_, tftp, boot) = self.agent.as_ref().context("the tour has not started the agent")?;
        Ok((*tftp, *boot))
    }

    /// Switches the machine on; returns the script that it gets.
    fn switch_on(&self) -> Result<String> {
        let (tftp, boot) = self.agent()?;
        let loader = Client::new(tftp, Ipv4Addr::LOCALHOST)?.read("undionly.kpxe", &[])?;
        ensure!(loader.bytes == fs::read(self.dir.join("undionly.kpxe"))?, "another loader came");
        let url = format!("http://{boot}/boot/{MAC}?arch=x86_64&platform=pcbios");
        Ok(http::get(&url)?.expect(200)?.text())
    }

    /// Lets the machine be installed, and report.
    fn install(&mut self) -> Result<()> {
        let script = wait::until("the installer's script", ARRIVAL_LIMIT, || {
            let script = self.switch_on()?;
            ensure!(script.contains("ip=dhcp auto=true"), "no installer:\n{script}");
            Ok(Some(script))
        })?;
        let (_, boot) = self.agent()?;
        let kernel = script.split_whitespace().find(|word| word.contains("/images/debian/linux"));
        let kernel = http::get(kernel.context("the script names no kernel")?)?.expect(200)?;
        ensure!(kernel.body == fs::read(self.dir.join("linux"))?, "another kernel came");
        self.wait_for("installing")?;
        let session = boot_of(&script)?;
        for event in ["install_started", "install_complete", "first_boot"] {
            let body = json!({"mac_address": MAC, "boot": session, "event_type": event});
            let answer = http::post(&format!("http://{boot}/api/v1/report"), &body)?;
            ensure!((200..300).contains(&answer.status), "{event}: {}", answer.text());
        }
        self.wait_for("active")
    }
}

fn the_tour_of_the_readme_installs_a_machine() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("pureboot-").tempdir()?;
    let mut tour = Tour::prepare(dir.path())?;
    let mut said = Vec::new();
    for block in blocks()? {
        if block.starts_with("pureboot-controller serve")
            || block.starts_with("pureboot-agent start")
        {
            tour.start(block.trim())?;
            continue;
        }
        // What the text between the blocks tells the reader to do.
        if block.contains("node ls") {
            tour.switch_on()?;
            tour.wait_for("discovered")?;
        }
        if block.contains("node history") {
            tour.install()?;
        }
        said.push(tour.run(&block)?);
    }
    let last = said.last().context("the tour has no commands")?;
    for expected in ["first installation", "install_complete", "installing", "active", MAC] {
        ensure!(last.contains(expected), "the tour does not end with '{expected}':\n{last}");
    }
    let preview = said.iter().find(|said| said.contains("get_hostname string web1"));
    ensure!(preview.is_some(), "no preview for web1: {said:?}");
    Ok(())
}
