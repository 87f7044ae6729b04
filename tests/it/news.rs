//! What brings content: a heartbeat that tells of it, a schedule that fires, a person who looks; and how that shows on a terminal.

use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use nix::pty::openpty;
use pureboot_tests::site::{ARRIVAL_LIMIT, Site};
use pureboot_tests::{http, noise, process, sha256, wait};
use serde_json::{Value, json};

use crate::sync::{assign, site_with, sync};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(a_heartbeat_brings_what_came_to_the_controller_and_nobody_asks_for_it),
        case!(a_schedule_fires_at_its_time_and_not_before),
        case!(d7_what_a_person_finds_damaged_is_fetched_again_at_once),
        case!(
            a_name_that_is_evicted_says_what_that_frees_and_stays_while_nothing_could_bring_it_back
        ),
        case!(a_terminal_shows_a_bar_and_a_pipe_gets_lines),
    ]
}

/// A day: whoever asks so seldom learns otherwise, or not within a test.
const NEVER_S: u32 = 86_400;

/// What an agent may take to start and look at its schedule; where it is not enough, the next attempt has twice as much.
const LEAD: Duration = Duration::from_secs(8);

fn object(site: &Site, content: &[u8]) -> PathBuf {
    let hash = sha256(content);
    let objects = site.agent.data_dir().join("cache/objects");
    objects.join(hash.get(..2).unwrap_or_default()).join(hash)
}

fn wait_for(site: &Site, content: &[u8]) -> Result<()> {
    let path = object(site, content);
    wait::until("the content is here", 3 * ARRIVAL_LIMIT, || Ok(path.exists().then_some(())))
}

/// Exit code and standard output of the agent's command.
fn said(site: &Site, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let output = site.agent.run(arguments)?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
}

fn a_heartbeat_brings_what_came_to_the_controller_and_nobody_asks_for_it() -> Result<()> {
    let site = site_with("interval_s = 60", &format!("interval_s = {NEVER_S}"))?;
    for round in 0..2 {
        let content = noise(100_000);
        site.controller.upload("images/one", &content)?;
        assign(&site, &["images/one"])?;
        wait_for(&site, &content).with_context(|| format!("round {round}"))?;
    }
    wait::until("nothing is missing", ARRIVAL_LIMIT, || {
        let (_, status) = site.agent.status()?;
        Ok((status.pointer("/content/names_missing") == Some(&json!(0))).then_some(()))
    })
}

fn a_schedule_fires_at_its_time_and_not_before() -> Result<()> {
    let mut site = site_with("schedule_jitter_s = 600", "schedule_jitter_s = 0")?;
    let content = noise(100_000);
    site.agent.stop();
    site.controller.upload("images/one", &content)?;
    assign(&site, &["images/one"])?;
    let settings = fs::read_to_string(site.agent.data_dir().join("agent.toml"))?;
    for attempt in 0..4 {
        let due = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)? + LEAD * (1 << attempt);
        let due_s = due.as_secs();
        // A zone in which the time that is meant is the beginning of a minute, because schedules know no seconds.
        let ahead_s = (60 - due_s % 60) % 60;
        let local_s = due_s + ahead_s;
        let line = format!("{} {} * * *", local_s / 60 % 60, local_s / 3_600 % 24);
        let with_schedule =
            settings.replace("[sync]\n", &format!("[sync]\nschedule = \"{line}\"\n"));
        ensure!(with_schedule != settings, "no [sync] in:\n{settings}");
        fs::write(site.agent.data_dir().join("agent.toml"), with_schedule)?;
        site.agent.start_in_zone(&format!("SITE-00:00:{ahead_s:02}"))?;
        let told = wait::until("the next time is told", ARRIVAL_LIMIT, || next_time(&site))?;
        if !told.starts_with(&time(due_s)?) {
            // It has begun too late for this time.
            site.agent.stop();
            continue;
        }
        wait_for(&site, &content)?;
        let came = fs::metadata(object(&site, &content))?.modified()?;
        let came = came.duration_since(SystemTime::UNIX_EPOCH)?;
        // Files are dated by a clock that is up to a tick behind.
        let is_after = came + Duration::from_millis(100) >= Duration::from_secs(due_s);
        ensure!(is_after, "it came at {came:?}, and not at {due_s}");
        let tomorrow = time(due_s + 86_400)?;
        wait::until("the next time is tomorrow's", ARRIVAL_LIMIT, || {
            Ok(next_time(&site)?.filter(|next| next.starts_with(&tomorrow)))
        })?;
        return Ok(());
    }
    bail!("no agent began in time")
}

/// When the agent says that its schedule is due next.
fn next_time(site: &Site) -> Result<Option<String>> {
    let (_, status) = site.agent.status()?;
    Ok(status.pointer("/content/next_sync_at").and_then(Value::as_str).map(str::to_owned))
}

/// The time as the API writes it, to the second.
fn time(unix_s: u64) -> Result<String> {
    let mut date = process::system("date")?;
    date.args(["--utc", "+%FT%T", "--date"]).arg(format!("@{unix_s}"));
    Ok(process::succeed(date)?.trim().to_owned())
}

fn d7_what_a_person_finds_damaged_is_fetched_again_at_once() -> Result<()> {
    // Neither the schedule nor a question of its own brings it back.
    let settings = format!("interval_s = {NEVER_S}\nschedule = \"0 0 29 2 *\"");
    let site = site_with("interval_s = 60", &settings)?;
    let content = noise(100_000);
    site.controller.upload("images/one", &content)?;
    assign(&site, &["images/one"])?;
    sync(&site)?;
    site.agent.cache_add("images/mine", &noise(50_000))?;
    let mut damaged = content.clone();
    if let Some(byte) = damaged.get_mut(50_000) {
        *byte ^= 1;
    }
    fs::write(object(&site, &content), damaged)?;
    let (code, verified) = said(&site, &["cache", "verify"])?;
    let is_told =
        verified.contains("images/one was damaged and is set aside; it is fetched again at once");
    ensure!(code == Some(1) && is_told, "{verified}");
    wait::until("it is sound again", 3 * ARRIVAL_LIMIT, || {
        let (code, verified) = said(&site, &["cache", "verify", "images/one"])?;
        Ok((code == Some(0) && verified == "1 object is sound\n").then_some(()))
    })
}

fn a_name_that_is_evicted_says_what_that_frees_and_stays_while_nothing_could_bring_it_back()
-> Result<()> {
    let mut site = Site::start()?;
    let empty = said(&site, &["cache", "ls"])?;
    ensure!(empty.0 == Some(0) && empty.1.starts_with("nothing is held; "), "{empty:?}");
    let empty = said(&site, &["cache", "verify"])?;
    ensure!(empty == (Some(0), "nothing is held that could be verified\n".to_owned()), "{empty:?}");
    let empty = said(&site, &["cache", "evict"])?;
    ensure!(empty.0 == Some(0) && empty.1.starts_with("nothing went: "), "{empty:?}");
    let content = noise(100_000);
    site.controller.upload("images/one", &content)?;
    assign(&site, &["images/one"])?;
    sync(&site)?;
    site.agent.cache_add("images/mine", &noise(50_000))?;
    let went = said(&site, &["cache", "evict", "images/mine"])?;
    ensure!(went == (Some(0), "images/mine went, 50.0 kB are free\n".to_owned()), "{went:?}");
    let (code, went) = said(&site, &["cache", "evict", "images/one", "--json"])?;
    let went: Value = serde_json::from_str(&went)?;
    ensure!(code == Some(0) && went.get("in_manifest") == Some(&json!(true)), "{went}");
    sync(&site)?;
    for wrong in
        [&["cache", "evict", "images/none"][..], &["cache", "evict", "images/one", "--max", "1"]]
    {
        ensure!(site.agent.run(wrong)?.status.code() == Some(1), "{wrong:?} is done");
    }
    site.controller.stop();
    site.wait_until_offline()?;
    let refused = site.agent.run(&["cache", "evict", "images/one"])?;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(1) && why.contains("the controller is away"), "{why}");
    let kept = said(&site, &["cache", "evict", "--policy", "all"])?;
    ensure!(kept.1.contains("1 object of the site's manifest stay"), "{kept:?}");
    let url = site.agent.url("/files/images/one");
    ensure!(http::get(&url)?.expect(200)?.body == content, "it is not there any more");
    Ok(())
}

fn a_terminal_shows_a_bar_and_a_pipe_gets_lines() -> Result<()> {
    // Slow enough to be watched, and by nobody's order but the person's.
    let settings = "rate_max_kib_s = 512\nschedule = \"0 0 29 2 *\"";
    let site = site_with("rate_max_kib_s = 0", settings)?;
    site.controller.upload("images/one", &noise(2_000_000))?;
    assign(&site, &["images/one"])?;
    let terminal = openpty(None, None)?;
    let mut command = site.agent.command(&["sync"])?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(terminal.slave);
    let child = command.spawn()?;
    // Its end of the terminal is the only one from here on, so that reading ends with it.
    drop(command);
    let screen = thread::spawn(move || {
        let (mut screen, mut buffer) = (Vec::new(), [0; 4_096]);
        let mut master = File::from(terminal.master);
        while let Ok(read @ 1..) = master.read(&mut buffer) {
            screen.extend_from_slice(buffer.get(..read).unwrap_or_default());
        }
        String::from_utf8_lossy(&screen).into_owned()
    });
    let output = child.wait_with_output()?;
    let screen = screen.join().ok().context("the reader panicked")?;
    ensure!(output.status.success(), "{screen}");
    let outcome = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(outcome.starts_with("1 file, 2.0 MB"), "{outcome}");
    let frames: Vec<_> = screen.split('\r').filter(|frame| frame.starts_with('[')).collect();
    ensure!(frames.len() > 1, "it is not drawn again and again: {screen:?}");
    let is_frame = |frame: &&&str| {
        frame.contains("0 of 1 files, ")
            && frame.contains(" of 2.0 MB")
            && frame.ends_with("\x1b[K")
    };
    ensure!(frames.iter().any(|frame| is_frame(&frame)), "{screen:?}");
    let moves =
        |frame: &&&str| frame.contains('#') && frame.contains("/s, ") && frame.contains(" left");
    ensure!(
        frames.iter().any(|frame| moves(&frame)),
        "neither bar nor rate nor time left: {screen:?}"
    );
    ensure!(screen.ends_with("\r\x1b[K"), "the last line is left standing: {screen:?}");
    ensure!(!screen.contains('\n'), "the line is not written over: {screen:?}");

    let other = noise(1_500_000);
    site.controller.upload("images/one", &other)?;
    let output = site.agent.run(&["sync"])?;
    let lines = String::from_utf8_lossy(&output.stderr).into_owned();
    let is_plain = lines.ends_with('\n') && !lines.contains(['\r', '\x1b', '[']);
    ensure!(is_plain && lines.contains("0 of 1 files, "), "{lines:?}");
    Ok(())
}
