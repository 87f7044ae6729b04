//! Ends in the middle of an update: kills and cuts of the power, at named steps and at any moment.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use pureboot_tests::disk::CrashDisk;
use pureboot_tests::process::Program;
use pureboot_tests::site::{Site, text};
use pureboot_tests::{process, random, random_mac, wait};
use serde_json::json;

use super::{
    FETCH_LIMIT, STRIP, order, outcome, plain_words, running, site, site_with_trial,
    small_agent_of, start, supervised, upload, wait_for_end,
};
use crate::endurance::MKFS;
use crate::failing::{Injection, STRACE};
use crate::need::Need;
use crate::{Case, case};

const PERL: Need = Need::Program("perl", "perl-base");

/// The file system of a site whose power fails: two programs, the one on its way, the database, and what the cache leaves alone.
const DISK_MIB: u32 = 512;

/// How often a kill falls at any moment, in a long run.
const RANDOM_KILLS: u64 = 20;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            k18_an_update_that_is_killed_at_every_step_ends_in_the_new_version,
            STRIP,
            STRACE,
            Need::Root
        ),
        case!(
            k18_kill_9_at_any_moment_of_an_update_leaves_a_version_that_serves,
            STRIP,
            Need::Long
        ),
        case!(
            u4_power_that_fails_in_an_update_leaves_a_version_that_serves,
            STRIP,
            STRACE,
            Need::Root,
            Need::Long,
            MKFS,
            PERL
        ),
    ]
}

/// The agent's own files of updates.
fn update_file(site: &Site, name: &str) -> PathBuf {
    site.agent.data_dir().join("update").join(name)
}

/// The agent is started, and killed by strace when it is about to make its `count`th `call` that names `path`.
fn start_and_die(site: &mut Site, call: &str, path: &Path, count: u32) -> Result<()> {
    let strace = process::find("strace").context("strace is not installed")?;
    let output = site.dir().join("killed.output");
    let option = |name: &str, value: &str| PathBuf::from(format!("--{name}={value}"));
    let text = |path: &Path| path.to_str().map(ToOwned::to_owned).context("a path of ASCII");
    let mut words = vec![
        strace,
        option("output", &text(&output)?),
        option("trace-path", &text(path)?),
        option("trace", call),
        option("inject", &format!("{call}:signal=SIGKILL:when={count}")),
    ];
    words.extend(plain_words(site.dir())?);
    site.agent.started_by(words);
    let mut program = Program::spawn("agent", site.agent.command(&["start"])?, site.dir())?;
    site.agent.started_by(plain_words(site.dir())?);
    let status = program.wait(FETCH_LIMIT)?;
    let traced = fs::read_to_string(&output)?;
    ensure!(
        status.signal() == Some(Signal::SIGKILL as i32)
            && traced.contains("+++ killed by SIGKILL +++"),
        "it was not killed at {call} of {}, but ended with {status}: {traced}",
        path.display()
    );
    Ok(())
}

fn k18_an_update_that_is_killed_at_every_step_ends_in_the_new_version() -> Result<()> {
    // Long enough for strace to come in time.
    let mut site = site_with_trial(5)?;
    let mac = random_mac();
    site.agent.script(&mac)?;
    upload(&site, &small_agent_of(site.dir(), "7.2.0")?)?;
    let sha256 = sha256_of(&site, "7.2.0")?;
    let (program, journal) = (update_file(&site, &sha256), update_file(&site, "journal.json"));
    let unfinished =
        |path: &Path, extension: &str| path.with_file_name(format!("{}.{extension}", name(path)));
    let (program_new, journal_new) = (unfinished(&program, "new"), unfinished(&journal, "new"));

    // The running agent: before the program is written, when it is, and when it is to be remembered.
    for (call, path) in
        [("openat", &program_new), ("/^rename", &program_new), ("/^rename", &journal_new)]
    {
        let step = || format!("killed at {call} of {}", path.display());
        let pid = site.agent.program()?.pid();
        let killing = Injection::begin_at(pid, path, call, "signal=SIGKILL:when=1", &site)?;
        order(&site, &json!({}))?;
        wait::until(&step(), FETCH_LIMIT, || {
            Ok((!site.agent.program()?.is_running()?).then_some(()))
        })?;
        drop(killing);
        site.agent.stop();
        ensure!(!journal.exists(), "{}: the update is remembered", step());
        ensure!(start(&mut site)? == 0, "{}: a start has failed", step());
        site.agent.script(&mac).with_context(step)?;
    }
    let command = order(&site, &json!({}))?;
    wait_for_end(&mut site)?;

    // Its next starts: before the test is counted, before the trial is, and before the new program takes over.
    start_and_die(&mut site, "/^rename", &journal_new, 1)?;
    start_and_die(&mut site, "/^rename", &journal_new, 2)?;
    start_and_die(&mut site, "execve", &program, 1)?;
    ensure!(start(&mut site)? == 0, "a start has failed");
    site.agent.script(&mac)?;

    // The new program: when it has proven itself and is about to say so.
    let pid = site.agent.program()?.pid();
    let killing =
        Injection::begin_at(pid, &journal_new, "/^rename", "signal=SIGKILL:when=1", &site)?;
    wait::until("the new program is killed, or has proven itself", FETCH_LIMIT, || {
        let is_killed = !site.agent.program()?.is_running()?;
        let has_proven = || running(&site).is_ok_and(|(_, it)| it.get("candidate").is_none());
        Ok((is_killed || has_proven()).then_some(()))
    })?;
    drop(killing);
    site.agent.stop();
    ensure!(start(&mut site)? == 0, "a start has failed");
    let (status, detail) = outcome(&mut site, &command)?;
    ensure!(status == "completed", "{status}: {detail}");
    ensure!(running(&site)?.0 == "7.2.0", "another version runs");
    site.agent.script(&mac)?;
    Ok(())
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What the program of a version hashes to.
fn sha256_of(site: &Site, version: &str) -> Result<String> {
    let releases = site.controller.get("/agents/releases")?;
    let mut releases = releases.as_array().into_iter().flatten();
    let release = releases.find(|release| release.get("version") == Some(&json!(version)));
    text(release.with_context(|| format!("no release {version}"))?, "sha256")
}

fn k18_kill_9_at_any_moment_of_an_update_leaves_a_version_that_serves() -> Result<()> {
    let mut site = site()?;
    let mac = random_mac();
    site.agent.script(&mac)?;
    for round in 1..=RANDOM_KILLS {
        let version = format!("7.{round}.0");
        upload(&site, &small_agent_of(site.dir(), &version)?)?;
        let command = order(&site, &json!({}))?;
        // From before it is fetched until it has proven itself; the agent ends by itself on the way.
        for _ in 0..2 {
            thread::sleep(Duration::from_millis(random() % 4_000));
            site.agent.stop();
            ensure!(start(&mut site)? <= 3, "too many starts have failed");
            site.agent.script(&mac)?;
        }
        let (status, detail) = outcome(&mut site, &command)?;
        let runs = running(&site)?.0;
        match status.as_str() {
            "completed" => ensure!(runs == version, "{runs} runs, and {version} is said to"),
            _ => ensure!(runs != version, "{version} runs, and is said not to: {detail}"),
        }
        site.agent.script(&mac)?;
    }
    Ok(())
}

fn u4_power_that_fails_in_an_update_leaves_a_version_that_serves() -> Result<()> {
    /// Longer than all that happens meanwhile.
    const DELAY: &str = "100000000";
    let site = Site::prepare("agent")?;
    let mut disk = CrashDisk::mount(site.agent.data_dir(), DISK_MIB)?;
    let mut site = supervised(site, 1)?;
    let mac = random_mac();
    site.agent.script(&mac)?;
    let program = small_agent_of(site.dir(), "7.1.0")?;
    let len = fs::metadata(&program)?.len();
    upload(&site, &program)?;
    let (program_new, journal) = (
        update_file(&site, &format!("{}.new", sha256_of(&site, "7.1.0")?)),
        update_file(&site, "journal.json"),
    );
    let journal_new = update_file(&site, "journal.json.new");
    let is_written = || fs::metadata(&program_new).is_ok_and(|metadata| metadata.len() == len);
    let is_renamed = || journal.exists();
    // The whole program is written and has not its name; the journal has its name, and the directory does not keep it.
    let cuts: [(&str, &Path, &dyn Fn() -> bool); 2] =
        [("delay_enter", &program_new, &is_written), ("delay_exit", &journal_new, &is_renamed)];
    for (delay, path, is_reached) in cuts {
        let pid = site.agent.program()?.pid();
        let fault = format!("{delay}={DELAY}");
        let slow = Injection::begin_at(pid, path, "/^rename", &fault, &site)?;
        order(&site, &json!({}))?;
        wait::until(&format!("{delay} at {}", path.display()), FETCH_LIMIT, || {
            Ok(is_reached().then_some(()))
        })?;
        // Where something outlived it that nobody had made durable it was a kill; what must hold is the same.
        disk.cut_power(|| {
            drop(slow);
            site.agent.stop();
        })?;
        ensure!(start(&mut site)? == 0, "{delay}: a start has failed");
        site.agent.script(&mac)?;
    }
    let command = order(&site, &json!({}))?;
    let (status, detail) = outcome(&mut site, &command)?;
    ensure!(status == "completed", "{status}: {detail}");
    ensure!(running(&site)?.0 == "7.1.0", "another version runs");

    // The next version is remembered, and the agent has ended; it is on trial.
    upload(&site, &small_agent_of(site.dir(), "7.2.0")?)?;
    let command = order(&site, &json!({}))?;
    wait_for_end(&mut site)?;
    disk.cut_power(|| {})?;
    ensure!(start(&mut site)? == 0, "a start has failed");
    disk.cut_power(|| site.agent.stop())?;
    ensure!(start(&mut site)? == 0, "a start has failed");
    site.agent.script(&mac)?;
    let (status, detail) = outcome(&mut site, &command)?;
    ensure!(status == "completed", "{status}: {detail}");
    ensure!(running(&site)?.0 == "7.2.0", "another version runs");
    Ok(())
}
