//! Other versions of the agent: real copies of it that say another version, and stand-ins that behave badly. The test is the
//! supervisor: it starts the agent again whenever that has ended.

mod cuts;

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pureboot_tests::disk::SmallDisk;
use pureboot_tests::process;
use pureboot_tests::site::{ARRIVAL_LIMIT, Ports, Site, boot_of, text};
use pureboot_tests::{is_long, noise, random_mac, wait};
use serde_json::{Value, json};

use crate::need::Need;
use crate::{Case, case};

/// The exit code by which an agent asks to be started again.
const RESTART: i32 = 75;

/// Until a program is fetched, laid down and the agent has ended, on a busy machine.
const FETCH_LIMIT: Duration = Duration::from_secs(60);

/// Until an order is given again to an agent that has forgotten it, and its outcome told.
const TOLD_LIMIT: Duration = Duration::from_secs(90);

/// How often a start may fail before a version serves.
const STARTS_MAX: usize = 5;

/// The bytes that programs have for the words that are written into them.
const PLACE_LEN: usize = 28;

const STRIP: Need = Need::Program("strip", "binutils");

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        case!(u3_u6_a_site_runs_another_version_and_an_older_one_only_when_that_is_meant, STRIP),
        case!(u1_a_program_that_is_damaged_on_its_way_or_at_rest_never_runs, STRIP),
        case!(
            u1_the_key_beside_the_data_directory_decides_and_not_the_one_in_it,
            STRIP,
            Need::Long
        ),
        case!(u2_a_version_that_fails_its_test_or_dies_is_gone_back_from_and_nothing_is_lost),
        case!(u2_a_version_that_the_controller_does_not_hear_gives_itself_up, STRIP, Need::Long),
        case!(u6_a_program_that_waits_lets_a_machine_finish_first, STRIP, Need::Long),
        case!(u5_without_room_for_it_the_version_before_runs_on, STRIP, Need::Root),
        case!(a_person_installs_a_program_and_goes_back, STRIP),
    ];
    cases.extend(cuts::cases());
    cases
}

/// A site whose agent is started as by a supervisor, and finds a new version good after a second.
fn site() -> Result<Site> {
    site_with_trial(1)
}

/// The same, where that takes so many seconds.
fn site_with_trial(seconds: u32) -> Result<Site> {
    supervised(Site::prepare("agent")?, seconds)
}

/// How an agent is started that is told that it has a supervisor, and where stand-ins find the agents that they become.
fn plain_words(agents: &Path) -> Result<Vec<PathBuf>> {
    let env = process::find("env").context("there is no program env")?;
    let agents = agents.to_str().context("a path of ASCII")?;
    Ok(vec![
        env,
        "PUREBOOT_SUPERVISED=1".into(),
        format!("PUREBOOT_TESTS_AGENTS={agents}").into(),
        process::own("pureboot-agent")?,
    ])
}

fn supervised(mut site: Site, trial_seconds: u32) -> Result<Site> {
    site.agent.started_by(plain_words(site.dir())?);
    let token = site.make_token()?;
    site.agent.init(&site.id, &site.controller.url(), &token, Ports::LOOPBACK)?;
    let settings = site.agent.data_dir().join("agent.toml");
    let wanted = format!("trial_seconds = {trial_seconds}\n");
    let text = fs::read_to_string(&settings)?.replace("trial_seconds = 600\n", &wanted);
    ensure!(text.contains(&wanted), "no such setting in {text}");
    fs::write(&settings, text)?;
    site.agent.start()?;
    site.wait_until_online()?;
    Ok(site)
}

/// Writes `words` behind `before` into `program`, in the place of what ends with a semicolon there.
fn patch(program: &mut [u8], before: &str, words: &str) -> Result<()> {
    let mut rest = &*program;
    let at = loop {
        // Some 80 MB, which only the C library searches fast in a debug build.
        let skipped = rest.skip_until(b':')?;
        ensure!(skipped > 0, "the program has no '{before}'");
        let at = program.len() - rest.len() + 1;
        let text = program.get(at..at + PLACE_LEN).unwrap_or_default();
        let is_behind = program.get(..at).is_some_and(|it| it.ends_with(before.as_bytes()));
        if is_behind && text.contains(&b';') && text.ends_with(b" ") {
            break at;
        }
    };
    let text = format!("{words};");
    let place = program.get_mut(at..at + PLACE_LEN).context("the program ends there")?;
    let end = place.iter().rposition(|byte| *byte == b';').context("no end of the words")?;
    place.get_mut(..=end).context("a place")?.fill(b' ');
    place.get_mut(..text.len()).context("longer than its place")?.copy_from_slice(text.as_bytes());
    Ok(())
}

fn target() -> &'static str {
    if cfg!(target_arch = "aarch64") { "aarch64" } else { "x86_64" }
}

/// The real agent as another version, in a file of some 80 MB.
fn agent_of(dir: &Path, version: &str) -> Result<PathBuf> {
    static STRIPPED: OnceLock<Vec<u8>> = OnceLock::new();
    let path = dir.join(format!("pureboot-agent-{version}"));
    let mut program = match STRIPPED.get() {
        Some(program) => program.clone(),
        None => {
            let mut strip = process::system("strip")?;
            strip.arg("-o").arg(&path).arg(process::own("pureboot-agent")?);
            process::succeed(strip)?;
            STRIPPED.get_or_init(|| fs::read(&path).unwrap_or_default()).clone()
        }
    };
    patch(&mut program, "pureboot-agent release: ", &format!("{version} {}", target()))?;
    fs::write(&path, program)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// A small program that becomes the real agent as another version when it is started, in a file.
fn small_agent_of(dir: &Path, version: &str) -> Result<PathBuf> {
    agent_of(dir, version)?;
    stand_in(dir, version, "becomes an agent")
}

/// A program that behaves like `manner`, in a file.
fn stand_in(dir: &Path, version: &str, manner: &str) -> Result<PathBuf> {
    let mut program = fs::read(process::own("pureboot-standin")?)?;
    patch(&mut program, "pureboot-agent release: ", &format!("{version} {}", target()))?;
    patch(&mut program, "manner of the stand-in: ", manner)?;
    let path = dir.join(format!("standin-{version}"));
    fs::write(&path, program)?;
    Ok(path)
}

/// The operator's program with these arguments.
fn operate(site: &Site, arguments: &[&OsStr]) -> Result<String> {
    let mut command = Command::new(process::own("pureboot-controller")?);
    command.args(arguments).args(["--url", &site.controller.url(), "--data-dir"]);
    process::succeed({
        command.arg(site.controller.data_dir());
        command
    })
}

fn upload(site: &Site, program: &Path) -> Result<()> {
    operate(site, &["agent".as_ref(), "upload".as_ref(), program.as_os_str()]).map(|_| ())
}

/// Orders an update; returns where the command is.
fn order(site: &Site, body: &Value) -> Result<String> {
    let command = site.controller.post(&format!("/sites/{}/agent-update", site.id), body)?;
    Ok(format!("/sites/{}/commands/{}", site.id, text(&command, "id")?))
}

/// As [`order`]; the agent is started anew meanwhile, because the first heartbeat of its life comes at once.
fn order_at_start(site: &mut Site, body: &Value) -> Result<String> {
    site.agent.stop();
    let command = order(site, body)?;
    ensure!(start(site)? == 0, "a start has failed");
    Ok(command)
}

/// Waits until the agent has ended to be started again.
fn wait_for_end(site: &mut Site) -> Result<()> {
    let status = site.agent.program()?.wait(FETCH_LIMIT)?;
    ensure!(status.code() == Some(RESTART), "the agent ended with {status}");
    site.agent.stop();
    Ok(())
}

/// Starts the agent until it serves; returns how many starts have failed.
fn start(site: &mut Site) -> Result<usize> {
    for failed in 0..STARTS_MAX {
        match site.agent.start() {
            Ok(()) => return Ok(failed),
            Err(error) if failed + 1 == STARTS_MAX => return Err(error),
            Err(_) => {}
        }
    }
    Ok(STARTS_MAX)
}

/// Waits until a command has ended, and returns its status and detail; the agent is started again whenever it ends meanwhile.
fn outcome(site: &mut Site, command: &str) -> Result<(String, String)> {
    let ended = wait::until(&format!("{command} has ended"), TOLD_LIMIT, || {
        if !site.agent.program()?.is_running()? {
            site.agent.stop();
            start(site)?;
        }
        let command = site.controller.get(command)?;
        Ok(command.get("finished_at").is_some_and(|at| !at.is_null()).then_some(command))
    })?;
    Ok((text(&ended, "status")?, text(&ended, "detail")?))
}

/// What the agent that runs says of itself: its version, and how it stands with others.
fn running(site: &Site) -> Result<(String, Value)> {
    let (_, status) = site.agent.status()?;
    let update = status.get("update").cloned().context("no word of updates")?;
    Ok((text(&status, "agent_version")?, update))
}

fn u3_u6_a_site_runs_another_version_and_an_older_one_only_when_that_is_meant() -> Result<()> {
    let mut site = site()?;
    let installed = running(&site)?.0;
    let mac = random_mac();
    site.agent.script(&mac)?;
    upload(&site, &agent_of(site.dir(), "7.2.0")?)?;
    let command = order_at_start(&mut site, &json!({}))?;
    wait_for_end(&mut site)?;
    ensure!(start(&mut site)? == 0, "it serves at the first start");
    // The machine asks again within the time that firmware gives it, and is answered.
    site.agent.script(&mac)?;
    let (status, detail) = outcome(&mut site, &command)?;
    ensure!(
        (status.as_str(), detail.as_str()) == ("completed", "version 7.2.0 runs"),
        "{status}: {detail}"
    );
    let (version, update) = running(&site)?;
    ensure!(
        version == "7.2.0" && update.get("state") == Some(&json!("updated")),
        "{version}: {update}"
    );
    wait::until("the centre knows", ARRIVAL_LIMIT, || {
        let status = site.agent_status()?;
        let version = status.pointer("/heartbeat/agent_version").cloned();
        let state = status.pointer("/heartbeat/update/state").cloned();
        Ok((version == Some(json!("7.2.0")) && state == Some(json!("updated"))).then_some(()))
    })?;

    upload(&site, &small_agent_of(site.dir(), "7.1.0")?)?;
    let path = format!("/sites/{}/agent-update", site.id);
    let refused =
        site.controller.call(minreq::Method::Post, &path, Some(&json!({ "version": "7.1.0" })))?;
    ensure!(refused.status == 409, "an older version was ordered unawares: {}", refused.text());
    let command =
        order_at_start(&mut site, &json!({ "version": "7.1.0", "allow_downgrade": true }))?;
    wait_for_end(&mut site)?;
    ensure!(start(&mut site)? == 0, "it serves at the first start");
    ensure!(outcome(&mut site, &command)?.0 == "completed");
    ensure!(running(&site)?.0 == "7.1.0");

    // It stays so, and a person goes back twice: to the version before, and to what was installed.
    site.agent.stop();
    start(&mut site)?;
    ensure!(running(&site)?.0 == "7.1.0");
    for expected in ["7.2.0", installed.as_str()] {
        site.agent.stop();
        process::succeed(site.agent.command(&["update", "rollback"])?)?;
        start(&mut site)?;
        let version = running(&site)?.0;
        ensure!(version == expected, "{version} runs in the place of {expected}");
    }
    site.agent.script(&mac)?;
    Ok(())
}

fn u1_a_program_that_is_damaged_on_its_way_or_at_rest_never_runs() -> Result<()> {
    let mut site = site()?;
    let installed = running(&site)?.0;
    upload(&site, &small_agent_of(site.dir(), "7.2.0")?)?;
    // The controller's copy is another one than it has signed.
    let objects = site.controller.data_dir().join("content");
    let program = largest(&objects)?;
    let sound = fs::read(&program)?;
    let mut damaged = sound.clone();
    let middle = damaged.len() / 2;
    *damaged.get_mut(middle).context("a byte")? ^= 1;
    fs::write(&program, damaged)?;
    let command = order_at_start(&mut site, &json!({}))?;
    let (status, detail) = outcome(&mut site, &command)?;
    ensure!(status == "failed", "{status}: {detail}");
    ensure!(running(&site)?.0 == installed);

    fs::write(&program, &sound)?;
    let command = order_at_start(&mut site, &json!({}))?;
    wait_for_end(&mut site)?;
    // What lies at the site is changed, by whoever could write there.
    let staged = largest(&site.agent.data_dir().join("update"))?;
    let mut changed = fs::read(&staged)?;
    *changed.last_mut().context("a byte")? ^= 1;
    fs::write(&staged, changed)?;
    start(&mut site)?;
    let (status, detail) = outcome(&mut site, &command)?;
    ensure!(status == "failed" && detail.contains("have changed"), "{status}: {detail}");
    let (version, update) = running(&site)?;
    ensure!(version == installed, "{version} runs");
    ensure!(update.pointer("/last/fate") == Some(&json!("refused")), "{update}");
    Ok(())
}

fn u1_the_key_beside_the_data_directory_decides_and_not_the_one_in_it() -> Result<()> {
    let mut site = site()?;
    let installed = running(&site)?.0;
    let own = site.agent.data_dir().join("controller-key");
    let pinned = site.dir().join("agent.pin");
    let sound = fs::read(&pinned)?;
    ensure!(sound == fs::read(&own)?, "another key is pinned than the controller's");
    let other = "ab".repeat(sound.len() / 2);
    upload(&site, &small_agent_of(site.dir(), "7.2.0")?)?;

    let command = order_at_start(&mut site, &json!({}))?;
    wait_for_end(&mut site)?;
    fs::write(&pinned, &other)?;
    start(&mut site)?;
    let (status, detail) = outcome(&mut site, &command)?;
    ensure!(status == "failed" && detail.contains("is signed by key"), "{status}: {detail}");
    ensure!(running(&site)?.0 == installed);

    site.agent.stop();
    fs::write(&pinned, &sound)?;
    start(&mut site)?;
    let command = order_at_start(&mut site, &json!({}))?;
    wait_for_end(&mut site)?;
    fs::write(&own, &other)?;
    start(&mut site)?;
    let (status, detail) = outcome(&mut site, &command)?;
    ensure!(status == "completed", "{status}: {detail}");
    ensure!(running(&site)?.0 == "7.2.0", "another version runs");
    Ok(())
}

/// The largest file beneath `dir`.
fn largest(dir: &Path) -> Result<PathBuf> {
    fn collect(dir: &Path, files: &mut Vec<(u64, PathBuf)>) -> Result<()> {
        for entry in fs::read_dir(dir)? {
            let (path, metadata) = {
                let entry = entry?;
                (entry.path(), entry.metadata()?)
            };
            if metadata.is_dir() {
                collect(&path, files)?;
            } else {
                files.push((metadata.len(), path));
            }
        }
        Ok(())
    }
    let mut files = Vec::new();
    collect(dir, &mut files)?;
    files.sort();
    Ok(files.pop().with_context(|| format!("no file in {}", dir.display()))?.1)
}

fn u2_a_version_that_fails_its_test_or_dies_is_gone_back_from_and_nothing_is_lost() -> Result<()> {
    let mut site = site()?;
    let installed = running(&site)?.0;
    let mac = random_mac();
    let boot = boot_of(&site.agent.script(&mac)?)?;
    let mut manners = vec![
        ("fails its test", 0, "refused", "nothing of this can work"),
        ("dies", 3, "gone_back", "ended 3 times"),
    ];
    if is_long() {
        manners.push(("ends", 3, "gone_back", "ended 3 times"));
        manners.push(("hangs in its test", 0, "refused", "did not end within"));
    }
    for (number, (manner, failed, fate, why)) in (1..).zip(manners) {
        upload(&site, &stand_in(site.dir(), &format!("7.0.{number}"), manner)?)?;
        let command = order_at_start(&mut site, &json!({}))?;
        wait_for_end(&mut site)?;
        // Meanwhile the centre is away, and what machines report has to wait.
        site.controller.stop();
        ensure!(
            start(&mut site)? == failed,
            "{manner}: another number of starts failed than {failed}"
        );
        site.agent.report(&mac, &boot, "install_progress", Some(10 * number))?;
        ensure!(site.agent.pending()? > 0, "nothing waits");
        site.controller.resume()?;
        let (status, detail) = outcome(&mut site, &command)?;
        ensure!(status == "failed" && detail.contains(why), "{manner}: {status}: {detail}");
        let (version, update) = running(&site)?;
        ensure!(version == installed, "{manner}: {version} runs");
        ensure!(update.pointer("/last/fate") == Some(&json!(fate)), "{manner}: {update}");
        wait::until("what waited has arrived", ARRIVAL_LIMIT, || {
            Ok((site.agent.pending()? == 0).then_some(()))
        })?;
    }
    Ok(())
}

fn u2_a_version_that_the_controller_does_not_hear_gives_itself_up() -> Result<()> {
    let mut site = site()?;
    let installed = running(&site)?.0;
    upload(&site, &small_agent_of(site.dir(), "7.2.0")?)?;
    let command = order_at_start(&mut site, &json!({}))?;
    wait_for_end(&mut site)?;
    site.controller.stop();
    start(&mut site)?;
    wait_for_end(&mut site)?;
    start(&mut site)?;
    let (version, update) = running(&site)?;
    ensure!(version == installed, "{version} runs");
    ensure!(update.pointer("/last/fate") == Some(&json!("gone_back")), "{update}");
    site.controller.resume()?;
    let (status, detail) = outcome(&mut site, &command)?;
    ensure!(status == "failed" && detail.contains("has not been heard"), "{status}: {detail}");
    Ok(())
}

fn u6_a_program_that_waits_lets_a_machine_finish_first() -> Result<()> {
    /// More than a machine takes in ten minutes that is as slow as this one, and more than sockets hold.
    const IMAGE_LEN: usize = 48 << 20;
    const PIECE_LEN: usize = 4 << 10;
    const PAUSE: Duration = Duration::from_millis(50);
    let mut site = site()?;
    site.agent.cache_add("images/large", &noise(IMAGE_LEN))?;
    let mut machine = TcpStream::connect(site.agent.boot())?;
    machine.write_all(
        b"GET /files/images/large HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n",
    )?;
    let hurries = Arc::new(AtomicBool::new(false));
    let machine = thread::spawn({
        let hurries = Arc::clone(&hurries);
        move || -> std::io::Result<usize> {
            let mut taken = 0;
            let mut piece = [0; PIECE_LEN];
            while !hurries.load(Ordering::Relaxed) {
                machine.read_exact(&mut piece)?;
                taken += piece.len();
                thread::sleep(PAUSE);
            }
            let mut rest = Vec::new();
            Ok(taken + machine.read_to_end(&mut rest)?)
        }
    });
    upload(&site, &small_agent_of(site.dir(), "7.2.0")?)?;
    let command = order(&site, &json!({}))?;
    wait::until("the program is here and waits", FETCH_LIMIT, || {
        let said = site.controller.get(&command)?;
        let detail = said.get("detail").and_then(Value::as_str).unwrap_or_default();
        Ok(detail.contains("waits until no machine is being served").then_some(()))
    })?;
    ensure!(site.agent.program()?.is_running()?, "the agent ended in the middle of a transfer");
    hurries.store(true, Ordering::Relaxed);
    let taken = machine.join().ok().context("the machine has panicked")??;
    ensure!(taken > IMAGE_LEN, "the machine has {taken} bytes");
    wait_for_end(&mut site)
}

fn u5_without_room_for_it_the_version_before_runs_on() -> Result<()> {
    let site = Site::prepare("agent")?;
    let disk = SmallDisk::mount(site.agent.data_dir(), 32)?;
    let mut site = supervised(site, 1)?;
    let installed = running(&site)?.0;
    upload(&site, &small_agent_of(site.dir(), "7.2.0")?)?;
    disk.fill()?;
    let command = order(&site, &json!({}))?;
    let (status, detail) = outcome(&mut site, &command)?;
    ensure!(status == "failed", "{status}: {detail}");
    disk.free()?;
    ensure!(running(&site)?.0 == installed);
    site.agent.script(&random_mac())?;
    drop(site);
    drop(disk);
    Ok(())
}

fn a_person_installs_a_program_and_goes_back() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("pureboot-update-").tempdir()?;
    let installed = dir.path().join("pureboot-agent");
    let first = agent_of(dir.path(), "7.1.0")?;
    fs::rename(first, &installed)?;
    let second = agent_of(dir.path(), "7.2.0")?;
    let data_dir = dir.path().join("data");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&installed);
        command.args(arguments).arg("--data-dir").arg(&data_dir);
        process::output(command, Duration::from_secs(60))
    };
    let version = || -> Result<String> {
        let mut command = Command::new(&installed);
        command.arg("--version");
        process::succeed(command)
    };
    let second = second.to_str().context("a path of ASCII")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let checked = run(&["update", "check", second])?;
    ensure!(checked.status.success(), "{}", text(&checked.stderr));
    ensure!(text(&checked.stdout).contains("7.2.0 for"), "{}", text(&checked.stdout));
    let done = run(&["update", "install", second])?;
    ensure!(done.status.success(), "{}", text(&done.stderr));
    ensure!(version()?.contains("7.2.0"));
    let mut back = Command::new(&installed);
    back.args(["update", "rollback", "--installed"]);
    process::succeed(back)?;
    ensure!(version()?.contains("7.1.0"));
    let script = dir.path().join("script");
    fs::write(&script, "#!/bin/sh\n")?;
    let refused = run(&["update", "install", script.to_str().context("a path of ASCII")?])?;
    ensure!(!refused.status.success() && text(&refused.stderr).contains("no program for Linux"));
    ensure!(version()?.contains("7.1.0"));
    Ok(())
}
