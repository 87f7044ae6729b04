//! Backups of running controllers, and what comes of them: on either database, over kills, with the agents that go on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pureboot_tests::controller::{Controller, Options};
use pureboot_tests::postgres::{INITDB, Postgres};
use pureboot_tests::process::{self, Program};
use pureboot_tests::site::{ARRIVAL_LIMIT, Site, boot_of, text};
use pureboot_tests::{is_long, noise, random, random_mac, wait};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::bucket::Bucket;
use crate::content::peak_kib;
use crate::need::Need;
use crate::{Case, case};

const SERVER: Need = Need::Program(INITDB, "postgresql");
const SQLITE: Need = Need::Program("sqlite3", "sqlite3");
/// Rows of about [`ROW_LEN`] bytes that no buffer holds.
const ROWS: usize = 25_000;
const ROW_LEN: usize = 2_000;
/// What the memory of a backup or a restore may be greater by for such rows, in KiB.
const GROWTH_MAX_KIB: u64 = 16 << 10;
/// What a backup or a restore may take.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(n12_agents_go_on_with_a_controller_that_was_brought_back),
        case!(a_backup_under_load_is_whole_and_a_damaged_one_changes_nothing),
        case!(a_backup_goes_from_one_database_to_the_other_and_back, SERVER),
        case!(a_backup_takes_content_out_of_a_bucket_and_puts_it_into_one, Need::S3Server),
        case!(i7_memory_does_not_grow_with_the_number_of_rows, SQLITE),
        case!(k1_a_restore_that_is_killed_leaves_the_old_database_or_the_new_one),
        case!(two_databases_on_one_place_of_content_are_refused),
    ]
}

/// `pureboot-controller` with `arguments`, on the database `url` if there is one.
fn command(arguments: &[&str], data_dir: &Path, url: Option<&str>) -> Result<Command> {
    let mut command = Command::new(process::own("pureboot-controller")?);
    command.args(arguments).arg("--data-dir").arg(data_dir);
    command.envs(url.map(|url| ("PUREBOOT_DATABASE", url)));
    Ok(command)
}

fn run(arguments: &[&str], data_dir: &Path, url: Option<&str>) -> Result<Output> {
    process::output(command(arguments, data_dir, url)?, LIMIT)
}

fn succeed(arguments: &[&str], data_dir: &Path, url: Option<&str>) -> Result<String> {
    let output = run(arguments, data_dir, url)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{arguments:?} ended with {}: {said}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What `arguments` are refused with.
fn refused(arguments: &[&str], data_dir: &Path, url: Option<&str>) -> Result<String> {
    let output = run(arguments, data_dir, url)?;
    ensure!(output.status.code() == Some(1), "{arguments:?} ended with {}", output.status);
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A controller under `dir` with some of everything, and a place for its backup.
fn scene() -> Result<(TempDir, Controller, PathBuf)> {
    let dir = tempfile::Builder::new().prefix("pureboot-").tempdir()?;
    let controller = Controller::start(dir.path())?;
    fill(&controller)?;
    let file = dir.path().join("backup.tar");
    Ok((dir, controller, file))
}

fn fill(controller: &Controller) -> Result<()> {
    controller.upload("images/debian/linux", &noise(3 << 20))?;
    controller.upload("images/empty", b"")?;
    let site =
        text(&controller.post("/sites", &json!({ "name": "berlin", "tags": ["a"] }))?, "id")?;
    controller
        .post("/groups", &json!({ "name": "racks", "parent_id": null, "auto_provision": true }))?;
    let workflow = json!({ "name": "debian", "method": "kernel", "kernel": "images/debian/linux" });
    let workflow = text(&controller.post("/workflows", &workflow)?, "id")?;
    for _ in 0..30 {
        let node = json!({ "mac_address": random_mac(), "home_site_id": site });
        let node = text(&controller.post("/nodes", &node)?, "id")?;
        controller.order_install(&node, &workflow)?;
    }
    let secret = json!({ "value": "correct horse \u{1f40e}" });
    let put = controller.call(minreq::Method::Put, "/secrets/root", Some(&secret))?;
    ensure!(put.status == 201, "{}", put.text());
    Ok(())
}

/// All that an operator can read that must come back as it was.
fn readable(controller: &Controller) -> Result<Vec<Value>> {
    let paths = ["/sites", "/groups", "/nodes?limit=500", "/workflows", "/content", "/secrets"];
    paths.into_iter().map(|path| controller.get(path)).collect()
}

/// A controller that is started on what was restored under `dir`, with the token of the one before.
fn restart(dir: &Path, token: &str, url: Option<String>) -> Result<Controller> {
    let environment = url.map(|url| ("PUREBOOT_DATABASE", url)).into_iter().collect();
    restart_with(dir, token, Options { environment, ..Options::default() })
}

fn restart_with(dir: &Path, token: &str, options: Options) -> Result<Controller> {
    let file = dir.join("controller/operator-token");
    fs::write(&file, token)?;
    fs::set_permissions(file, fs::Permissions::from_mode(0o600))?;
    Controller::start_with(dir, options)
}

/// Fails unless every file of content comes with the bytes that its hash says.
fn ensure_content(controller: &Controller) -> Result<()> {
    let content = controller.get("/content?limit=500")?;
    for entry in content.as_array().context("a list")? {
        let name = format!("{}/{}", text(entry, "category")?, text(entry, "path")?);
        let answer = controller.call(minreq::Method::Get, &format!("/content/{name}"), None)?;
        ensure!(answer.status == 200, "{name}: {}", answer.status);
        ensure!(pureboot_tests::sha256(&answer.body) == text(entry, "sha256")?, "{name}");
    }
    Ok(())
}

fn n12_agents_go_on_with_a_controller_that_was_brought_back() -> Result<()> {
    let mut site = Site::start()?;
    let mac = random_mac();
    let script = site.agent.script(&mac)?;
    site.controller.wait_for_state(&mac, "discovered")?;
    let boot = boot_of(&script)?;
    let data_dir = site.controller.data_dir();
    let file = site.dir().join("backup.tar");
    let file = file.to_str().context("a path in Unicode")?;
    let manifest = format!("/content/manifest?site_id={}", site.id);
    site.controller.upload("bootloaders/one", b"one")?;
    succeed(&["backup", file], &data_dir, None)?;
    let seen = |site: &Site, progress: u64| -> Result<bool> {
        let node = site.controller.node(&mac)?.context("no node")?;
        let events = site.controller.get(&format!("/nodes/{}/events", text(&node, "id")?))?;
        let events = events.as_array().cloned().unwrap_or_default();
        Ok(events
            .iter()
            .any(|event| event.get("progress").and_then(Value::as_u64) == Some(progress)))
    };
    for progress in 1..=5 {
        site.agent.report(&mac, &boot, "install_progress", Some(progress))?;
    }
    wait::until("what comes after the backup arrives", ARRIVAL_LIMIT, || {
        Ok(seen(&site, 5)?.then_some(()))
    })?;
    site.controller.upload("bootloaders/two", b"two")?;
    let after = site.controller.get(&manifest)?;
    site.controller.stop();
    let said = refused(&["restore", file], &data_dir, None)?;
    ensure!(said.contains("--force replaces it"), "{said}");
    succeed(&["restore", file, "--force"], &data_dir, None)?;
    site.controller.resume()?;
    ensure!(!seen(&site, 5)?, "the backup is older");
    site.agent.report(&mac, &boot, "install_progress", Some(6))?;
    wait::until("the agent goes on", ARRIVAL_LIMIT, || Ok(seen(&site, 6)?.then_some(())))?;
    for progress in 1..=5 {
        ensure!(
            seen(&site, progress)?,
            "{progress} came after the backup, and the agent has it still"
        );
    }
    let lost = site.controller.get("/audit?action=changes.lost")?;
    ensure!(lost.pointer("/0").is_none(), "nothing is lost: {lost}");
    let now = site.controller.get(&manifest)?;
    let version = |manifest: &Value| manifest.get("version").and_then(Value::as_u64);
    ensure!(version(&now) > version(&after), "versions do not go back: {after} {now}");
    Ok(())
}

fn a_backup_under_load_is_whole_and_a_damaged_one_changes_nothing() -> Result<()> {
    let (dir, controller, file) = scene()?;
    let path = file.to_str().context("a path in Unicode")?;
    let data_dir = controller.data_dir();
    let is_over = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&is_over);
    let writing = thread::spawn(move || -> Result<(Controller, u64)> {
        let mut writes = 0;
        while !ends.load(Ordering::Relaxed) {
            controller.post("/nodes", &json!({ "mac_address": random_mac() }))?;
            controller.upload(&format!("images/{writes}"), &noise(10_000))?;
            writes += 1;
        }
        Ok((controller, writes))
    });
    let made =
        (0..3).try_for_each(|_| succeed(&["backup", path, "--force"], &data_dir, None).map(|_| ()));
    is_over.store(true, Ordering::Relaxed);
    let written = writing.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?;
    let (controller, writes) = made.and(written)?;
    ensure!(writes > 3, "there was load: {writes}");
    let said = refused(&["backup", path], &data_dir, None)?;
    ensure!(said.contains("is there already; --force replaces it"), "{said}");
    ensure!(file.metadata()?.permissions().mode() & 0o777 == 0o600, "it is the owner's alone");
    succeed(&["restore", path, "--check"], &data_dir, None)?;

    let whole = fs::read(&file)?;
    let other = dir.path().join("other");
    let target = other.join("controller");
    let damaged = dir.path().join("damaged.tar");
    for _ in 0..5 {
        let mut bytes = whole.clone();
        let at = usize::try_from(random())? % bytes.len();
        if random().is_multiple_of(2) {
            bytes.truncate(at)
        } else {
            *bytes.get_mut(at).context("a byte")? ^= 1;
        }
        fs::write(&damaged, bytes)?;
        let damaged = damaged.to_str().context("a path in Unicode")?;
        let said = refused(&["restore", damaged], &target, None)?;
        ensure!(said.contains("cannot use"), "{said}");
        ensure!(!target.exists(), "nothing is touched");
    }
    let token = controller.token().to_owned();
    drop(controller);
    fs::create_dir(&other)?;
    succeed(&["restore", path], &target, None)?;
    let restored = restart(&other, &token, None)?;
    ensure_content(&restored)
}

fn a_backup_goes_from_one_database_to_the_other_and_back() -> Result<()> {
    let (dir, controller, file) = scene()?;
    let before = readable(&controller)?;
    let path = file.to_str().context("a path in Unicode")?;
    succeed(&["backup", path], &controller.data_dir(), None)?;
    let token = controller.token().to_owned();
    drop(controller);

    let server = Postgres::start()?;
    let on_server = dir.path().join("server");
    fs::create_dir(&on_server)?;
    let data_dir = on_server.join("controller");
    succeed(&["restore", path], &data_dir, Some(&server.url()))?;
    let mut moved = restart(&on_server, &token, Some(server.url()))?;
    ensure!(readable(&moved)? == before, "what was in SQLite is in PostgreSQL");
    moved.post("/nodes", &json!({ "mac_address": random_mac() }))?;
    let node = moved.get("/nodes?limit=1")?;
    let node = text(node.get(0).context("a node")?, "id")?;
    moved.call(minreq::Method::Delete, &format!("/nodes/{node}"), None)?.expect(200)?;
    let after = readable(&moved)?;
    let said = refused(&["restore", path, "--force"], &data_dir, Some(&server.url()))?;
    ensure!(said.contains("another controller runs on"), "{said}");
    let elsewhere = dir.path().join("elsewhere");
    let said = refused(&["restore", path, "--force"], &elsewhere, Some(&server.url()))?;
    ensure!(said.contains("stop them first"), "{said}");

    let again = dir.path().join("again.tar");
    let again = again.to_str().context("a path in Unicode")?;
    succeed(&["backup", again], &data_dir, Some(&server.url()))?;
    moved.program()?.terminate()?;
    drop(moved);
    let said = refused(&["restore", path], &dir.path().join("third"), Some(&server.url()))?;
    ensure!(said.contains("is not empty; --force"), "{said}");
    let back = dir.path().join("back");
    fs::create_dir(&back)?;
    succeed(&["restore", again], &back.join("controller"), None)?;
    let back = restart(&back, &token, None)?;
    ensure!(readable(&back)? == after, "what was in PostgreSQL is in SQLite");
    succeed(&["restore", path, "--force"], &data_dir, Some(&server.url()))?;
    let moved = restart(&on_server, &token, Some(server.url()))?;
    ensure!(readable(&moved)? == before, "what was in PostgreSQL is replaced");
    Ok(())
}

fn a_backup_takes_content_out_of_a_bucket_and_puts_it_into_one() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("pureboot-").tempdir()?;
    let bucket = Bucket::start(dir.path())?;
    let controller = Controller::start_with(dir.path(), bucket.options("old"))?;
    fill(&controller)?;
    let (before, token) = (readable(&controller)?, controller.token().to_owned());
    let file = dir.path().join("backup.tar");
    let file = file.to_str().context("a path in Unicode")?;
    let run = |arguments: &[&str], data_dir: &Path, prefix: &str| {
        let place = Bucket::place(prefix);
        let mut command = command(&[arguments, &["--content", &place]].concat(), data_dir, None)?;
        command.envs(bucket.environment());
        process::succeed(command)
    };
    run(&["backup", file], &controller.data_dir(), "old")?;
    drop(controller);
    let other = dir.path().join("other");
    fs::create_dir(&other)?;
    run(&["restore", file], &other.join("controller"), "new")?;
    let [old, new] = [bucket.keys("old/objects/")?.len(), bucket.keys("new/objects/")?.len()];
    ensure!((old, new) == (2, 2), "{old} objects became {new}");
    let restored = restart_with(&other, &token, bucket.options("new"))?;
    ensure!(readable(&restored)? == before, "another database");
    ensure_content(&restored)
}

/// The most memory that a command has while it does what it must, in KiB.
fn peak_of(arguments: &[&str], data_dir: &Path, dir: &Path) -> Result<u64> {
    let mut program = Program::spawn("command", command(arguments, data_dir, None)?, dir)?;
    let mut peak = 0;
    wait::until(&format!("{arguments:?} ends"), LIMIT, || {
        // One that has ended has none.
        peak = peak_kib(&program).map_or(peak, |now| peak.max(now));
        Ok((!program.is_running()?).then_some(()))
    })?;
    let status = program.wait(LIMIT)?;
    ensure!(status.success(), "{arguments:?} ended with {status}: {}", program.log());
    Ok(peak)
}

fn i7_memory_does_not_grow_with_the_number_of_rows() -> Result<()> {
    let (dir, controller, file) = scene()?;
    let path = file.to_str().context("a path in Unicode")?;
    let [few, many] = ["few", "many"].map(|name| dir.path().join(name));
    let both = |place: &Path| -> Result<(u64, u64)> {
        fs::create_dir(place)?;
        let made = peak_of(&["backup", path, "--force"], &controller.data_dir(), dir.path())?;
        Ok((made, peak_of(&["restore", path], &place.join("controller"), dir.path())?))
    };
    let before = both(&few)?;
    controller.tamper(&format!(
        "INSERT INTO audit (entry, at, actor_kind, actor_name, action, correlation_id, detail)
         WITH RECURSIVE row(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM row WHERE number < {ROWS})
         SELECT 'row ' || number, unixepoch() * 1000, 'nobody', '', 'one.of.many', 'c', '{{\"noise\":\"' || hex(randomblob({})) || '\"}}' FROM row",
        ROW_LEN / 2
    ))?;
    let after = both(&many)?;
    for (before, after) in [(before.0, after.0), (before.1, after.1)] {
        ensure!(after < before + GROWTH_MAX_KIB, "{before} KiB became {after} KiB");
    }
    let restored = restart(&many, controller.token(), None)?;
    let listed = restored.call(minreq::Method::Get, "/audit?action=one.of.many&limit=1", None)?;
    let listed = listed.expect(200)?.json()?;
    ensure!(listed.get("total") == Some(&json!(ROWS)), "{listed}");
    Ok(())
}

fn k1_a_restore_that_is_killed_leaves_the_old_database_or_the_new_one() -> Result<()> {
    let (_dir, mut controller, file) = scene()?;
    let path = file.to_str().context("a path in Unicode")?;
    let data_dir = controller.data_dir();
    let (new, limit) = (readable(&controller)?, if is_long() { 60 } else { 8 });
    succeed(&["backup", path], &data_dir, None)?;
    let started = Instant::now();
    controller.stop();
    succeed(&["restore", path, "--force"], &data_dir, None)?;
    let took = started.elapsed();
    controller.resume()?;
    let (mut were_old, mut were_new) = (0, 0);
    for _ in 0..limit {
        controller.post("/nodes", &json!({ "mac_address": random_mac() }))?;
        let old = readable(&controller)?;
        controller.stop();
        let mut restoring = command(&["restore", path, "--force"], &data_dir, None)?;
        let mut restoring = restoring.stdout(std::process::Stdio::null()).spawn()?;
        thread::sleep(took.mul_f64(random() as f64 / u64::MAX as f64 * 1.2));
        restoring.kill()?;
        restoring.wait()?;
        controller.resume()?;
        let found = readable(&controller)?;
        if found == old {
            were_old += 1;
        } else {
            ensure!(found == new, "neither the old nor the new one");
            were_new += 1;
        }
    }
    ensure!(were_old > 0 || !is_long(), "never killed before the end: {were_new}");
    Ok(())
}

fn two_databases_on_one_place_of_content_are_refused() -> Result<()> {
    let (dir, controller, _) = scene()?;
    let content = controller.data_dir().join("content");
    let content = content.to_str().context("a path in Unicode")?;
    let other = dir.path().join("other");
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--content", content];
    let said = refused(&arguments, &other, None)?;
    ensure!(said.contains("belongs to the database") && said.contains("--content"), "{said}");
    Ok(())
}
