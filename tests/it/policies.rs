//! A policy on its way from an operator's hands to what a machine boots, with the real programs and the agent in its cage.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use pureboot_tests::site::{ARRIVAL_LIMIT, Site};
use pureboot_tests::tftp::Client;
use pureboot_tests::{http, noise, policy, process, random_mac, wait};
use serde_json::{Value, json};

use crate::sync::{assign, sync};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(an_assigned_policy_decides_also_while_the_controller_is_away),
        case!(a_policy_pins_what_tonights_installation_needs_and_drops_what_nobody_asked_for),
        case!(p1_a_boot_and_a_transfer_go_on_while_a_policy_loops),
        case!(p8_a_compile_bomb_ends_at_the_controller_and_costs_nobody_else_an_answer),
    ]
}

/// What one command may take: the controller compiles in one of them, and gives up after a minute on a machine that has much else to do.
const COMMAND_LIMIT: Duration = Duration::from_secs(180);
/// What the policy says to every machine.
const REFUSAL: &str = "rack b-17 is being moved";
/// What a machine reads of whom nobody has decided anything.
const BUILT_IN: &str = "is listed as discovered";
/// Answers `refuse` with the text at 4096.
pub(crate) const REFUSE: &str = "(i32.store8 (i32.const 1028) (i32.const 8))
    (i32.store (i32.const 1032) (i32.const 4096)) (i32.store (i32.const 1036) (i32.const 24))";
/// Never answers.
const LOOP: &str = "(loop (br 0))";

/// Runs a command of the controller as an operator would; answers what it prints.
fn operate(site: &Site, arguments: &[&str]) -> Result<String> {
    operate_at(&site.controller.url(), site.controller.token(), arguments)
}

/// The same at any controller.
pub(crate) fn operate_at(url: &str, token: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(process::own("pureboot-controller")?);
    command.args(arguments).env("PUREBOOT_URL", url).env("PUREBOOT_TOKEN", token);
    let output = process::output(command, COMMAND_LIMIT)?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{arguments:?} failed:\n{said}");
    Ok(said)
}

fn add(site: &Site, version: &str, does: &str) -> Result<()> {
    add_as(site, "guard", version, &policy::boot_policy(REFUSAL, does)?)
}

fn add_as(site: &Site, name: &str, version: &str, wasm: &[u8]) -> Result<()> {
    let file = site.dir().join(format!("{name}-{version}.wasm"));
    fs::write(&file, wasm)?;
    let file = Path::to_str(&file).context("a path of the test's own")?;
    operate(site, &["plugin", "add", file, "--name", name, "--version", version]).map(|_| ())
}

/// The signed package of a version of the policy, as it lies among the agent's content.
fn package(site: &Site, version: &str) -> Result<PathBuf> {
    let objects = site.agent.data_dir().join("cache/objects");
    let version = format!("\"version\":\"{version}\"");
    for dir in fs::read_dir(&objects)? {
        for file in fs::read_dir(dir?.path())? {
            let path = file?.path();
            let bytes = fs::read(&path)?;
            let is_it = bytes.windows(version.len()).any(|text| text == version.as_bytes());
            if bytes.starts_with(b"pureboot plugin 1\n") && is_it {
                return Ok(path);
            }
        }
    }
    bail!("no package of {version} is below {}", objects.display())
}

/// What the agent's own command prints.
fn ask(site: &Site, arguments: &[&str]) -> Result<String> {
    let output = site.agent.run(arguments)?;
    Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn an_assigned_policy_decides_also_while_the_controller_is_away() -> Result<()> {
    let mut site = Site::start()?;
    let mac = random_mac();
    site.script_with(&mac, BUILT_IN)?;

    add(&site, "1.0.0", REFUSE)?;
    operate(&site, &["plugin", "assign", "guard", "--everywhere", "--mode", "on"])?;
    site.script_with(&mac, REFUSAL)?;
    let explained = ask(&site, &["explain", "--mac", &mac])?;
    ensure!(explained.contains("guard") && explained.contains(REFUSAL), "{explained}");
    let listed = ask(&site, &["plugin", "ls"])?;
    ensure!(listed.contains("guard") && listed.contains("running"), "{listed}");

    let session = wait::until("the boot is written down", ARRIVAL_LIMIT, || {
        let replayed = site.agent.run(&["plugin", "replay", "--json"])?.stdout;
        let replayed: Value = serde_json::from_slice(&replayed)?;
        Ok(replayed.pointer("/boots/0/session").and_then(Value::as_str).map(ToOwned::to_owned))
    })?;

    site.controller.stop();
    site.agent.stop();
    site.agent.start()?;
    site.script_with(&mac, REFUSAL)?;
    let explained = ask(&site, &["explain", "--session", &session])?;
    ensure!(explained.contains("the same answers, the same fuel, the same script"), "{explained}");

    site.controller.resume()?;
    site.wait_until_online()?;
    add(&site, "1.0.1", LOOP)?;
    site.script_with(&mac, BUILT_IN)?;
    wait::until("the controller hears of the failure", ARRIVAL_LIMIT, || {
        let sites = site.controller.get("/plugins/guard/sites")?;
        let report = sites.pointer("/0/report").context("no report of a site")?;
        let has_failed = report["failures"].as_u64() > Some(0) || report["state"] != "running";
        Ok(has_failed.then_some(()))
    })?;

    let earlier = package(&site, "1.0.0")?;
    let earlier = Path::to_str(&earlier).context("a path of the test's own")?;
    wait::until("the earlier version would have said something else", ARRIVAL_LIMIT, || {
        let replayed = ask(&site, &["plugin", "replay", "--against", earlier])?;
        let differs =
            format!("guard said: failed: it used up its fuel of 20000000; now: refuse: {REFUSAL}");
        Ok((replayed.contains(&differs) || replayed.contains("its time was up; now: refuse"))
            .then_some(()))
    })?;

    operate(&site, &["plugin", "rollback", "guard"])?;
    site.script_with(&mac, REFUSAL)?;
    operate(&site, &["plugin", "mode", "guard", "off", "--everywhere"])?;
    site.script_with(&mac, BUILT_IN).map(|_| ())
}

/// Every name of an image that the agent holds, and why it stays.
fn kept(site: &Site) -> Result<Vec<(String, String)>> {
    let output = site.agent.run(&["cache", "ls", "--category", "images", "--json"])?;
    let entries: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    let word = |entry: &Value, field| entry[field].as_str().unwrap_or_default().to_owned();
    Ok(entries.iter().map(|entry| (word(entry, "path"), word(entry, "kept"))).collect())
}

fn a_policy_pins_what_tonights_installation_needs_and_drops_what_nobody_asked_for() -> Result<()> {
    let site = Site::start()?;
    let spare = noise(30_000);
    for (name, content) in [("flow/kernel", &noise(20_000)), ("flow/initrd", &noise(20_000))] {
        site.controller.upload(&format!("images/{name}"), content)?;
    }
    site.controller.upload("images/spare", &spare)?;
    assign(&site, &["images/flow/kernel", "images/flow/initrd", "images/spare"])?;
    let mac = random_mac();
    site.discover_and_order(&mac, "flow")?;
    site.script_with(&mac, "images/flow/kernel")?;
    ensure!(sync(&site)?.get("status") == Some(&json!("completed")));
    ensure!(kept(&site)?.len() == 3, "{:?}", kept(&site)?);

    add_as(&site, "tonight", "1.0.0", &policy::case("cache-policy", "content/tonight")?)?;
    operate(&site, &["plugin", "assign", "tonight", "--everywhere", "--mode", "shadow"])?;
    wait::until("the policy is heard", ARRIVAL_LIMIT, || {
        let listed = ask(&site, &["cache", "ls"])?;
        Ok(listed.contains("images/spare: tonight would give it up (shadow)").then_some(()))
    })?;
    ensure!(kept(&site)?.len() == 3, "a shadow has had an effect: {:?}", kept(&site)?);

    operate(&site, &["plugin", "mode", "tonight", "on", "--everywhere"])?;
    let pinned = ["flow/initrd", "flow/kernel"].map(|name| (name.to_owned(), "policy".to_owned()));
    wait::until("the policy's word counts", ARRIVAL_LIMIT, || {
        Ok((kept(&site)? == pinned).then_some(()))
    })?;
    let listed = ask(&site, &["cache", "ls"])?;
    for told in [
        "images/flow/kernel: tonight pins it",
        "images/spare is left out until a machine asks: tonight gives it up",
        "ago: tonight gave it up",
    ] {
        ensure!(listed.contains(told), "'{told}' is not in:\n{listed}");
    }
    let stats = ask(&site, &["cache", "stats"])?;
    ensure!(stats.contains("policies: 2 names pinned"), "{stats}");
    let (_, status) = site.agent.status()?;
    let content =
        (status.pointer("/content/names_missing"), status.pointer("/content/names_left_out"));
    ensure!(content == (Some(&json!(0)), Some(&json!(1))), "{status}");
    ensure!(
        sync(&site)?.get("files_synced") == Some(&json!(0)),
        "what is given up is fetched ahead"
    );

    let url = site.agent.url("/files/images/spare");
    ensure!(http::get(&url)?.expect(200)?.body == spare, "a machine that asks gets it");

    operate(&site, &["plugin", "mode", "tonight", "off", "--everywhere"])?;
    wait::until("the built-in rules count again", ARRIVAL_LIMIT, || {
        let kept = kept(&site)?;
        Ok((kept.len() == 3 && kept.iter().all(|(_, why)| why == "manifest")).then_some(()))
    })
}

#[expect(clippy::print_stdout, reason = "the ratio is there to be seen")]
fn p1_a_boot_and_a_transfer_go_on_while_a_policy_loops() -> Result<()> {
    /// What a boot may take on a machine that has much else to do; two seconds are what `cargo xtask bench policies` holds it to.
    const BOOT_LIMIT: Duration = Duration::from_secs(10);
    let site = Site::start()?;
    let file = noise(2_000_000);
    site.agent.cache_add("images/file", &file)?;
    let tftp = site.agent.tftp();
    let read = || -> Result<Duration> {
        let client = Client::new(tftp, Ipv4Addr::LOCALHOST)?;
        let began = Instant::now();
        let options = [("blksize", "1428"), ("windowsize", "16")];
        ensure!(client.read("images/file", &options)?.bytes == file, "another file came");
        Ok(began.elapsed())
    };
    let mac = random_mac();
    site.script_with(&mac, BUILT_IN)?;
    let alone = read()?;
    add(&site, "1.0.0", LOOP)?;
    operate(&site, &["plugin", "assign", "guard", "--everywhere", "--mode", "on"])?;
    wait::until("the policy runs", ARRIVAL_LIMIT, || {
        Ok(ask(&site, &["plugin", "ls"])?.contains("running").then_some(()))
    })?;
    let url = site.agent.url(&format!("/boot/{mac}"));
    let (beside, boots) = thread::scope(|scope| -> Result<_> {
        let boots = scope.spawn(|| -> Result<Vec<Duration>> {
            let boot = |_| {
                let began = Instant::now();
                let script = http::get(&url)?.expect(200)?.text();
                ensure!(script.contains(BUILT_IN), "{script}");
                Ok(began.elapsed())
            };
            (0..3).map(boot).collect()
        });
        let beside = read()?;
        let boots = boots.join().map_err(|_| anyhow::anyhow!("a boot has panicked"))??;
        Ok((beside, boots))
    })?;
    let slowest = boots.iter().max().context("there were boots")?;
    ensure!(*slowest < BOOT_LIMIT, "a boot took {slowest:?}");
    let ratio = alone.as_secs_f64() / beside.as_secs_f64();
    println!(
        "while a policy loops: slowest boot {slowest:.0?}, TFTP at {ratio:.2} of its speed alone"
    );
    let report: Value =
        serde_json::from_slice(&site.agent.run(&["plugin", "ls", "--json"])?.stdout)?;
    let failures = report.pointer("/policies/0/failures");
    ensure!(failures == Some(&json!(3)), "{report}");
    ensure!(report.pointer("/policies/0/state") == Some(&json!("set_aside")), "{report}");
    Ok(())
}

fn p8_a_compile_bomb_ends_at_the_controller_and_costs_nobody_else_an_answer() -> Result<()> {
    /// What others may wait on a machine that has much else to do, while one of its processors compiles.
    const ANSWER_LIMIT: Duration = Duration::from_secs(10);
    let site = Site::start()?;
    let bomb = bomb()?;
    let url = format!("{}/healthz", site.controller.url());
    let is_over = AtomicBool::new(false);
    let answers = thread::scope(|scope| -> Result<u32> {
        let asking = scope.spawn(|| -> Result<u32> {
            let mut answers = 0;
            while !is_over.load(Ordering::Relaxed) {
                let began = Instant::now();
                http::get(&url)?.expect(200)?;
                ensure!(began.elapsed() < ANSWER_LIMIT, "an answer took {:?}", began.elapsed());
                answers += 1;
                thread::sleep(Duration::from_millis(50));
            }
            Ok(answers)
        });
        let refused = add_as(&site, "bomb", "1.0.0", &bomb);
        is_over.store(true, Ordering::Relaxed);
        let answers = asking.join().map_err(|_| anyhow::anyhow!("a question has panicked"))??;
        let why = format!("{:#}", refused.err().context("a bomb was taken")?);
        ensure!(why.contains("compil"), "{why}");
        Ok(answers)
    })?;
    ensure!(answers > 1, "nobody was answered while it compiled");
    add(&site, "1.0.0", REFUSE).context("an honest policy after the bomb")
}

/// One function of so many blocks and sums that no compiler gets through it within its limits.
fn bomb() -> Result<Vec<u8>> {
    let sum = "(local.set 0 (i32.add (i32.mul (local.get 0) (local.get 1)) (i32.xor (local.get 1) (local.get 0))))\
               (if (local.get 0) (then (local.set 1 (i32.sub (local.get 0) (local.get 1)))))";
    let text = format!("(component (core module (func (param i32 i32) {})))", sum.repeat(20_000));
    Ok(wat::parse_str(text)?)
}
