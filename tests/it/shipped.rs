//! What `cargo xtask dist` has made, on the processor that it is for: each boots a machine. Also from a container that holds nothing else,
//! and from a machine that it was copied to.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pureboot_tests::http;
use pureboot_tests::process::{self, Program};
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
        case!(
            the_container_of_the_agent_boots_a_machine,
            Need::Long,
            Need::Root,
            Need::Shipped("x86_64"),
            Need::Program("buildah", "buildah"),
        ),
        case!(
            a_machine_that_has_nothing_becomes_an_appliance,
            Need::Long,
            Need::Root,
            Need::Shipped("x86_64"),
        ),
    ]
}

/// What a program may take until it listens, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(30);

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

/// The whole file system of a program.
struct Tree {
    root: PathBuf,
    program: &'static str,
    /// Who it is, where it is not root.
    user: Option<String>,
}

impl Tree {
    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = process::system("chroot")?;
        command.args(self.user.iter().map(|user| format!("--userspec={user}")));
        command.arg(&self.root).arg(self.program).args(arguments).env_clear();
        Ok(command)
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        process::succeed(self.command(arguments)?)
    }

    /// Puts a file into the tree that everybody may read; returns how the program names it.
    fn put(&self, name: &str, content: &[u8]) -> Result<String> {
        let path = self.root.join(name);
        fs::write(&path, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        Ok(format!("/{name}"))
    }

    /// Gives the agent its site, starts it and boots a machine.
    fn boots(&self, site: &Site, data_dir: &str) -> Result<()> {
        let token = self.put("token", site.make_token()?.as_bytes())?;
        let loader = noise(100_000);
        let file = self.put("loader", &loader)?;
        let url = site.controller.url();
        let mut init = vec!["init", "--site-id", &site.id, "--central-url", &url];
        init.extend(["--token-file", &token]);
        init.extend(["--boot-listen", "127.0.0.1:0", "--tftp-listen", "127.0.0.1:0"]);
        self.run(&init)?;
        let agent = Program::spawn("agent", self.command(&["start"])?, site.dir())?;
        let line = agent.line("listening on tftp://", START_LIMIT)?;
        let (tftp, boot) = line.split_once(" http://").with_context(|| line.clone())?;
        let (tftp, boot): (SocketAddr, SocketAddr) = (tftp.parse()?, boot.trim().parse()?);
        site.wait_until_online()?;
        self.run(&["status", "--running"])?;
        self.run(&["cache", "add", "bootloaders/undionly.kpxe", &file])?;
        let client = Client::new(tftp, Ipv4Addr::LOCALHOST)?;
        ensure!(client.read("undionly.kpxe", &[])?.bytes == loader, "another file by TFTP");
        let script = format!("http://{boot}/boot/{}?arch=x86_64&platform=efi", random_mac());
        let script = http::get(&script)?.expect(200)?.text();
        ensure!(script.starts_with("#!ipxe\n"), "{script}");
        let owner = fs::metadata(self.root.join(data_dir))?.uid();
        let who = fs::metadata(format!("/proc/{}", agent.pid()))?.uid();
        ensure!(who == owner && who != 0, "it is {who}, and its data are {owner}'s");
        Ok(())
    }
}

fn the_container_of_the_agent_boots_a_machine() -> Result<()> {
    let site = Site::prepare("agent")?;
    let storage = tempfile::tempdir()?;
    let buildah = |arguments: &[&str], last: &[&Path]| {
        let mut command = process::system("buildah")?;
        command.args(["--storage-driver", "vfs", "--root"]).arg(storage.path().join("root"));
        command.arg("--runroot").arg(storage.path().join("run"));
        let said = process::succeed({
            command.args(arguments).args(last);
            command
        })?;
        Ok::<_, anyhow::Error>(said.trim().to_owned())
    };
    let dist = program("x86_64").parent().context("a program lies in a directory")?.to_owned();
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../image/Containerfile");
    let build = ["build", "--quiet", "--isolation", "chroot", "--format", "docker"];
    let what = ["--target", "agent", "--build-arg", "ARCH=x86_64", "--tag", "agent", "--file"];
    buildah(&[build.as_slice(), &what].concat(), &[&recipe, &dist])?;
    let container = buildah(&["from", "--pull-never", "agent"], &[])?;
    let root = PathBuf::from(buildah(&["mount", &container], &[])?);
    let asked = "{{.Docker.Config.User}} {{.Docker.Config.Healthcheck.Test}}";
    let told = buildah(&["inspect", "--type", "image", "--format", asked, "agent"], &[])?;
    let (user, health) = told.split_once(' ').with_context(|| told.clone())?;
    ensure!(health == "[CMD /usr/bin/pureboot-agent status --running]", "{told}");
    let tree = Tree { root, program: "/usr/bin/pureboot-agent", user: Some(user.to_owned()) };
    let booted = tree.boots(&site, "var/lib/pureboot");
    buildah(&["umount", &container], &[])?;
    booted
}

fn a_machine_that_has_nothing_becomes_an_appliance() -> Result<()> {
    let site = Site::prepare("agent")?;
    let root = tempfile::tempdir()?;
    // Everybody may go through a root.
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755))?;
    let mut install = Command::new(program("x86_64"));
    install.args(["install", "--yes", "--root"]).arg(root.path());
    let said = process::succeed(install)?;
    ensure!(
        said.contains("done      copy this program to /usr/local/bin/pureboot-agent"),
        "{said}"
    );
    ensure!(said.contains("Next: pureboot-agent init"), "{said}");
    let program = "/usr/local/bin/pureboot-agent";
    let tree = Tree { root: root.path().to_owned(), program, user: None };
    tree.boots(&site, "var/lib/pureboot")
}
