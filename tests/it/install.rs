//! How the agent comes onto a machine, and what those who start programs there make of it.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pureboot_tests::process::{self, Program};
use pureboot_tests::site::Site;
use tempfile::TempDir;

use crate::need::Need;
use crate::{Case, case};

/// The highest exposure that `systemd-analyze security` may find, in tenths.
const EXPOSURE_MAX: &str = "18";

/// What a datagram from a busy agent may take.
const NEWS_LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(nothing_is_done_before_it_is_wished),
        case!(a_router_gets_all_that_it_needs_and_loses_it_again, Need::Root),
        case!(a_machine_with_systemd_gets_a_unit_that_starts, Need::Root),
        case!(the_unit_lets_little_in, Need::Program("systemd-analyze", "systemd")),
        case!(the_service_manager_hears_that_machines_are_served_and_that_the_agent_lives),
    ]
}

/// The tree of a machine, with the files that tell what starts its programs.
fn tree(marks: &[(&str, &str)]) -> Result<TempDir> {
    let dir = tempfile::Builder::new().prefix("pureboot-root-").tempdir()?;
    for (path, text) in marks {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().context("a file lies in a directory")?)?;
        fs::write(path, text)?;
    }
    Ok(dir)
}

fn router() -> Result<TempDir> {
    tree(&[
        ("etc/openwrt_release", "DISTRIB_ID='OpenWrt'\n"),
        ("etc/passwd", "root:x:0:0:root:/root:/bin/ash\n"),
        ("etc/group", "root:x:0:\n"),
        ("etc/shadow", "root:$1$secret:0:0:99999:7:::\n"),
    ])
}

fn run(arguments: &[&str], root: &Path) -> Result<String> {
    let mut command = std::process::Command::new(process::own("pureboot-agent")?);
    command.args(arguments).arg("--root").arg(root);
    process::succeed(command)
}

/// Where programs lock the files of users; it is the system's and stays.
const LOCK: &str = "etc/.pwd.lock";

/// Every file of a tree with its rights, but for the lock.
fn files(root: &Path) -> Result<Vec<(PathBuf, u32)>> {
    let (mut found, mut dirs) = (Vec::new(), vec![root.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir)? {
            let (path, metadata) = {
                let entry = entry?;
                (entry.path(), entry.metadata()?)
            };
            if metadata.is_dir() {
                dirs.push(path);
            } else if path != root.join(LOCK) {
                found.push((path.strip_prefix(root)?.to_owned(), metadata.mode() & 0o7777));
            }
        }
    }
    found.sort();
    Ok(found)
}

fn mode_of(root: &Path, path: &str) -> Result<u32> {
    let metadata = fs::metadata(root.join(path)).with_context(|| path.to_owned())?;
    Ok(metadata.permissions().mode() & 0o7777)
}

fn nothing_is_done_before_it_is_wished() -> Result<()> {
    let root = router()?;
    let before = files(root.path())?;
    for command in ["install", "uninstall"] {
        let said = run(&[command], root.path())?;
        ensure!(said.contains("would") && said.contains("--yes"), "{said}");
        ensure!(files(root.path())? == before, "{command} has done something");
    }
    Ok(())
}

fn a_router_gets_all_that_it_needs_and_loses_it_again() -> Result<()> {
    let root = router()?;
    let before = files(root.path())?;
    let said = run(&["install", "--yes"], root.path())?;
    ensure!(said.contains("/etc/init.d/pureboot-agent restart"), "{said}");
    for (path, mode) in [
        ("usr/sbin/pureboot-agent", 0o755),
        ("etc/init.d/pureboot-agent", 0o755),
        ("etc/pureboot-agent.conf", 0o644),
        ("srv/pureboot", 0o700),
    ] {
        let found = mode_of(root.path(), path)?;
        ensure!(found == mode, "{path} has mode {found:o}");
    }
    let link = fs::read_link(root.path().join("etc/rc.d/S95pureboot-agent"))?;
    ensure!(link == Path::new("../init.d/pureboot-agent"), "{}", link.display());
    let passwd = fs::read_to_string(root.path().join("etc/passwd"))?;
    ensure!(passwd.starts_with("root:x:0:0:root:/root:/bin/ash\n"), "{passwd}");
    let user = passwd.lines().find_map(|line| line.strip_prefix("pureboot:x:")?.split(':').next());
    let user: u32 = user.with_context(|| passwd.clone())?.parse()?;
    ensure!(fs::metadata(root.path().join("srv/pureboot"))?.uid() == user, "it is not {user}'s");
    let shadow = fs::read_to_string(root.path().join("etc/shadow"))?;
    ensure!(shadow.contains("root:$1$secret:") && shadow.contains("\npureboot:!:"), "{shadow}");

    // Once more changes nothing, and what a person has set stays.
    let conf = root.path().join("etc/pureboot-agent.conf");
    fs::write(&conf, "DATA_DIR=/mnt/disk/pureboot\n")?;
    let installed = files(root.path())?;
    let said = run(&["install", "--yes"], root.path())?;
    ensure!(files(root.path())? == installed, "{said}");
    ensure!(fs::read_to_string(&conf)?.contains("/mnt/disk"), "the settings were written over");

    fs::write(root.path().join("srv/pureboot/agent.toml"), "")?;
    run(&["uninstall", "--yes"], root.path())?;
    ensure!(root.path().join("srv/pureboot/agent.toml").exists(), "the data went unasked");
    ensure!(!root.path().join("usr/sbin/pureboot-agent").exists(), "the program stays");
    run(&["uninstall", "--yes", "--purge"], root.path())?;
    let after = files(root.path())?;
    ensure!(after == before, "left: {after:?}");
    ensure!(!fs::read_to_string(root.path().join("etc/passwd"))?.contains("pureboot"));
    Ok(())
}

fn a_machine_with_systemd_gets_a_unit_that_starts() -> Result<()> {
    let root = tree(&[("usr/lib/systemd/systemd", ""), ("etc/passwd", ""), ("etc/group", "")])?;
    run(&["install", "--yes"], root.path())?;
    let unit = root.path().join("etc/systemd/system/pureboot-agent.service");
    let text = fs::read_to_string(&unit)?;
    let program = text.lines().find_map(|line| line.strip_prefix("ExecStart=")?.split(' ').next());
    let program = program.context("no ExecStart")?.trim_start_matches('/');
    ensure!(mode_of(root.path(), program)? == 0o755, "the unit starts what is not there");
    let wants = "etc/systemd/system/multi-user.target.wants/pureboot-agent.service";
    ensure!(fs::symlink_metadata(root.path().join(wants))?.is_symlink(), "it does not start");
    Ok(())
}

fn the_unit_lets_little_in() -> Result<()> {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../image/systemd/pureboot-agent.service");
    let mut command = process::system("systemd-analyze")?;
    command.args(["security", "--no-pager", "--offline=true", "--threshold", EXPOSURE_MAX, unit]);
    process::succeed(command).map(|_| ())
}

fn the_service_manager_hears_that_machines_are_served_and_that_the_agent_lives() -> Result<()> {
    let mut site = Site::start()?;
    site.agent.stop();
    let path = site.dir().join("notify");
    let manager = UnixDatagram::bind(&path)?;
    manager.set_read_timeout(Some(NEWS_LIMIT))?;
    let mut command = site.agent.command(&["start"])?;
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "100000");
    let mut program = Program::spawn("agent", command, site.dir())?;
    let hear = |what: &str| {
        let mut words = [0; 128];
        let len = manager.recv(&mut words).with_context(|| format!("nothing of {what}"))?;
        let words = String::from_utf8_lossy(words.get(..len).unwrap_or_default()).into_owned();
        Ok::<_, anyhow::Error>(words)
    };
    let first = hear("READY")?;
    ensure!(first.starts_with("READY=1\n"), "{first}");
    for _ in 0..3 {
        let next = hear("WATCHDOG")?;
        ensure!(next == "WATCHDOG=1\n", "{next}");
    }
    program.terminate()?;
    while !hear("STOPPING")?.starts_with("STOPPING=1\n") {}
    Ok(())
}
