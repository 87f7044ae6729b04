//! The start of the installed program: it serves itself, or becomes the program that came by an update.
//!
//! It comes before the cage and before anything is bound, with the rights of the agent's user. What it does next is written down before
//! it is done, so that a program that dies at once has been counted by the one before it.
#![expect(clippy::disallowed_methods, reason = "shell: waits for a child")]

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::unistd::alarm;
use pureboot_protocol::{ContentHash, SiteId};

use super::files::{Trusted, UpdateDir};
use super::journal::{Slot, Step};
use super::pin::Pin;
use super::release;
use crate::cage::rights;
use crate::data_dir::{self, DataDir};
use crate::{clock, store};

/// What a program is told by that came by an update, and has become what was installed: its own hash.
const LAUNCHED: &str = "PUREBOOT_LAUNCHED";

/// How long a program may take to say whether it could serve. Machines wait meanwhile.
const TEST_LIMIT: Duration = Duration::from_secs(20);

/// How long a program on trial may take until it serves, in seconds; it sets another limit then.
const START_LIMIT_S: u32 = 120;

/// How often the end of a test is looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The longest part of what a failed test has said that is told, in bytes.
const WORDS_LEN_MAX: usize = 160;

/// What copies for tests are called, with the number of the process that made them behind it.
const REHEARSAL: &str = "rehearsal-";

/// What of the data directory a program is tested on: all that decides about a boot, and nothing that is large.
const REHEARSED: [&str; 6] = [
    "agent.toml",
    "controller-key",
    "state/site.db",
    "state/site.db-wal",
    "state/manifest.json",
    "state/policies.json",
];

/// Becomes the program that is to run, if that is another one, and does not return then. Returns which update this program is; none
/// for the one that was installed.
pub fn hand_over(data_dir: &DataDir) -> Option<ContentHash> {
    if let Some(launched) = std::env::var(LAUNCHED).ok().and_then(|hash| hash.parse().ok()) {
        return Some(launched);
    }
    let dir = UpdateDir::of(data_dir);
    if !dir.root().exists() {
        return None;
    }
    // Where another agent is at work the start fails, and says so itself.
    let _lock = store::lock_data_dir(data_dir.root()).ok()?;
    let mut journal = dir.load();
    let mut on_disk = journal.clone();
    loop {
        let step = journal.step(release::version(), clock::now());
        if journal != on_disk {
            if let Err(error) = dir.save(&journal) {
                log::error!("no update is tried, because it cannot be written down: {error:#}");
                if let Some(slot) = on_disk.settled() {
                    let error = become_it(data_dir, &dir, slot, None);
                    log::error!("version {} does not start: {error:#}", slot.version);
                }
                return None;
            }
            on_disk.clone_from(&journal);
        }
        match step {
            Step::RunInstalled => return None,
            Step::Test(slot) => match test(data_dir, &dir, &slot) {
                Ok(()) => {
                    log::info!("version {} has passed its test", slot.version);
                    journal.pass();
                }
                Err(error) => {
                    log::error!("version {} is refused: {error:#}", slot.version);
                    journal.fail(format!("{error:#}"), clock::now());
                }
            },
            Step::Run(slot) => {
                let error = become_it(data_dir, &dir, &slot, None);
                log::error!("version {} does not start: {error:#}", slot.version);
                journal.lose(&slot, format!("{error:#}"), clock::now());
            }
            Step::Try(slot) => {
                log::info!("version {} is on trial", slot.version);
                let error = become_it(data_dir, &dir, &slot, Some(START_LIMIT_S));
                log::error!("version {} does not start: {error:#}", slot.version);
                journal.lose(&slot, format!("{error:#}"), clock::now());
            }
        }
    }
}

/// Returns only where that fails. The kernel ends the new program after `limit_s` seconds, unless it says otherwise: an alarm stays
/// set across the change of programs (execve(2)).
fn become_it(
    data_dir: &DataDir,
    dir: &UpdateDir,
    slot: &Slot,
    limit_s: Option<u32>,
) -> anyhow::Error {
    let exec = || -> anyhow::Result<()> {
        let program = dir.vouch(slot, trusted(data_dir)?)?;
        rights::hand_on()?;
        if let Some(limit_s) = limit_s {
            alarm::set(limit_s);
        }
        let mut command = Command::new(&program);
        command.args(std::env::args_os().skip(1)).env(LAUNCHED, slot.sha256.to_string());
        let error = command.exec();
        alarm::cancel();
        Err(error).with_context(|| {
            format!("cannot run {} (is its file system mounted noexec?)", program.display())
        })
    };
    match exec() {
        Err(error) => error,
        Ok(()) => anyhow::anyhow!("the system has not changed programs, and says nothing"),
    }
}

/// Who is believed about programs.
fn trusted(data_dir: &DataDir) -> anyhow::Result<Trusted> {
    let key = Pin::open(data_dir).key()?;
    // The settings may have words that only the other program knows.
    let text = data_dir::read_private(&data_dir.config_file())?.unwrap_or_default();
    let settings: toml::Table = text.parse().context("agent.toml is not TOML")?;
    let site_id = settings.get("site_id").and_then(toml::Value::as_str);
    let site_id: SiteId = site_id.context("agent.toml names no site_id")?.parse()?;
    Ok(Trusted { key, site_id })
}

fn test(data_dir: &DataDir, dir: &UpdateDir, slot: &Slot) -> anyhow::Result<()> {
    let program = dir.vouch(slot, trusted(data_dir)?)?;
    rehearse(&program, data_dir, true)
}

/// Has `program` say whether it could serve with the settings and, if `with_database`, with what is remembered here: on a copy, without
/// binding a port that is in use, and within `TEST_LIMIT`.
///
/// # Errors
/// It says no, or nothing in time.
pub fn rehearse(program: &Path, data_dir: &DataDir, with_database: bool) -> anyhow::Result<()> {
    let stage = Rehearsal::set_up(data_dir, with_database)?;
    let said = stage.dir.join("said");
    let stderr = File::create(&said).context("cannot make a file for what it says")?;
    let mut child = Command::new(program)
        .args([OsStr::new("start"), OsStr::new("--self-test"), OsStr::new("--data-dir")])
        .arg(&stage.dir)
        .env_remove("NOTIFY_SOCKET")
        .env_remove(LAUNCHED)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .with_context(|| {
            format!("cannot run {} (is its file system mounted noexec?)", program.display())
        })?;
    let deadline = Instant::now() + TEST_LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait().context("cannot wait for it")? {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill().and_then(|()| child.wait()).context("cannot end it")?;
            bail!("its self-test did not end within {} s", TEST_LIMIT.as_secs());
        }
        std::thread::sleep(LOOK_INTERVAL);
    };
    if status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&fs::read(&said).unwrap_or_default()).into_owned();
    let last =
        said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("no word of why");
    bail!("its self-test ended with {status}: {}", &last[..last.floor_char_boundary(WORDS_LEN_MAX)])
}

/// A copy of what decides about boots, until it is dropped.
struct Rehearsal {
    dir: PathBuf,
}

impl Rehearsal {
    fn set_up(data_dir: &DataDir, with_database: bool) -> anyhow::Result<Self> {
        let update = data_dir.update();
        for entry in fs::read_dir(&update).into_iter().flatten().flatten() {
            // Left by a start that was cut short; its child may still be there, and has nothing to say any more.
            if entry.file_name().to_string_lossy().starts_with(REHEARSAL) {
                _ = clear(&entry.path());
            }
        }
        let dir = update.join(format!("{REHEARSAL}{}", std::process::id()));
        let make = |dir: &Path| DirBuilder::new().recursive(true).mode(0o700).create(dir);
        make(&dir.join("state")).with_context(|| format!("cannot make {}", dir.display()))?;
        let stage = Self { dir };
        for name in REHEARSED {
            if name.contains("site.db") && !with_database {
                continue;
            }
            match fs::copy(data_dir.root().join(name), stage.dir.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot copy {name} for the test"));
                }
                _ => {}
            }
        }
        Ok(stage)
    }
}

impl Drop for Rehearsal {
    fn drop(&mut self) {
        if let Err(error) = clear(&self.dir) {
            log::warn!("{} stays: {error:#}", self.dir.display());
        }
    }
}

fn clear(dir: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}
