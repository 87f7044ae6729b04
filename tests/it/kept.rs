//! What the site keeps on its disk: read back as it came, told as it is, fetched by its difference, pinned by a person.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pureboot_tests::site::{ARRIVAL_LIMIT, Site, text};
use pureboot_tests::{http, noise, random_mac, sha256, wait};
use serde_json::{Value, json};

use crate::faults::boots_and_reports;
use crate::sync::{assign, site_without_haste, sync};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(d7_a_machine_is_never_given_a_flipped_byte_and_gets_the_right_one_soon),
        case!(a_new_version_of_an_image_costs_its_difference),
        case!(heartbeats_and_metrics_tell_what_is_on_the_disk),
        case!(what_a_person_pins_stays),
        case!(c15_what_is_invalidated_is_served_on_until_its_replacement_is_here),
        case!(d8_a_damaged_database_costs_the_site_no_boot),
    ]
}

/// What quarantine, a sync and a fetch may take on a busy machine.
const MENDING_LIMIT: Duration = Duration::from_secs(120);

fn d7_a_machine_is_never_given_a_flipped_byte_and_gets_the_right_one_soon() -> Result<()> {
    let site = Site::start()?;
    let content = noise(3_000_000);
    site.controller.upload("images/one", &content)?;
    assign(&site, &["images/one"])?;
    sync(&site)?;
    let hash = sha256(&content);
    let object = format!("cache/objects/{}/{hash}", hash.get(..2).unwrap_or_default());
    let mut damaged = content.clone();
    if let Some(byte) = damaged.get_mut(2_000_000) {
        *byte ^= 1;
    }
    fs::write(site.agent.data_dir().join(object), damaged)?;
    let url = site.agent.url("/files/images/one");
    wait::until("the right bytes", MENDING_LIMIT, || {
        // An answer that ends before its length is an error here, and the machine asks again.
        let Ok(answer) = http::get(&url) else { return Ok(None) };
        ensure!([200, 503].contains(&answer.status), "{}: {}", answer.status, answer.text());
        ensure!(answer.status == 503 || answer.body == content, "a flipped byte was given");
        Ok((answer.status == 200).then_some(()))
    })?;
    let set_aside = site.agent.data_dir().join("cache/quarantine").join(hash);
    ensure!(set_aside.exists(), "what was damaged is not in quarantine");
    Ok(())
}

fn a_new_version_of_an_image_costs_its_difference() -> Result<()> {
    let site = site_without_haste()?;
    let before = noise(8_000_000);
    site.controller.upload("images/debian/initrd", &before)?;
    assign(&site, &["images/debian/initrd"])?;
    sync(&site)?;
    let mut after = before;
    after.splice(4_000_000..4_000_010, *b"other, longer text");
    site.controller.upload("images/debian/initrd", &after)?;
    let outcome = sync(&site)?;
    let bytes = |field: &str| outcome.get(field).and_then(Value::as_u64).context("no count");
    let (came, reused) = (bytes("bytes_transferred")?, bytes("bytes_reused")?);
    // Two of the longest chunks, and what lies between.
    ensure!(came > 0 && came <= 1_500_000, "{outcome}");
    ensure!(came + reused == after.len() as u64, "{outcome}");
    let answer = http::get(&site.agent.url("/files/images/debian/initrd"))?.expect(200)?;
    ensure!(answer.body == after, "another file came");
    Ok(())
}

/// The bytes of all files below a directory.
fn bytes_below(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        bytes += match entry.file_type()?.is_dir() {
            true => bytes_below(&entry.path())?,
            false => entry.metadata()?.len(),
        };
    }
    Ok(bytes)
}

fn heartbeats_and_metrics_tell_what_is_on_the_disk() -> Result<()> {
    let site = Site::start()?;
    site.controller.upload("images/one", &noise(100_000))?;
    let two = noise(700_000);
    site.controller.upload("images/two", &two)?;
    site.controller.upload("images/two-again", &two)?;
    assign(&site, &["images/one", "images/two", "images/two-again"])?;
    sync(&site)?;
    let on_disk = bytes_below(&site.agent.data_dir().join("cache/objects"))?;
    ensure!(on_disk == 800_000, "{on_disk} bytes: one object for two names");
    let told = wait::until("a heartbeat tells of the sync", ARRIVAL_LIMIT, || {
        let status = site.agent_status()?;
        let heartbeat = status.get("heartbeat").cloned().unwrap_or_default();
        let is_after = heartbeat.get("cache_entries") == Some(&json!(3));
        Ok(is_after.then_some(heartbeat))
    })?;
    ensure!(told.get("cache_size_bytes") == Some(&json!(on_disk)), "{told}");
    let answer = http::ask_socket(&site.agent.socket(), "GET", "/metrics")?.expect(200)?;
    let page = answer.text();
    for line in [
        "pureboot_agent_cache_size_bytes 800000",
        "pureboot_agent_cache_entries{category=\"images\"} 3",
        "pureboot_agent_sync_names_missing 0",
        "pureboot_agent_sync_received_bytes_total 800000",
        "# TYPE pureboot_agent_cache_hits_total counter",
    ] {
        ensure!(page.lines().any(|told| told == line), "no '{line}' in:\n{page}");
    }
    let cache =
        http::ask_socket(&site.agent.socket(), "GET", "/api/v1/agent/cache")?.expect(200)?;
    let cache = cache.json()?;
    let mut fields: Vec<&str> = cache
        .get("data")
        .and_then(Value::as_object)
        .map(|data| data.keys().map(String::as_str).collect())
        .unwrap_or_default();
    fields.sort_unstable();
    let wanted = [
        "categories",
        "manifest_coming",
        "manifest_version",
        "max_size_bytes",
        "node_cache",
        "patterns",
        "policies",
        "policy",
        "settings_heard_at",
        "settings_version",
        "total_size_bytes",
        "usage_percent",
    ];
    ensure!(fields == wanted, "{cache}");
    Ok(())
}

fn what_a_person_pins_stays() -> Result<()> {
    let site = Site::start()?;
    site.controller.upload("images/one", &noise(100_000))?;
    site.controller.upload("images/two", &noise(200_000))?;
    assign(&site, &["images/one", "images/two"])?;
    sync(&site)?;
    let said = |arguments: &[&str]| -> Result<String> {
        let output = site.agent.run(arguments)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{arguments:?}: {said}");
        Ok(said)
    };
    let pinned = said(&["cache", "pin", "images/one"])?;
    ensure!(pinned == "images/one is pinned: it stays\n", "{pinned}");
    let evicted = said(&["cache", "evict", "--policy", "all"])?;
    ensure!(evicted.starts_with("1 object went, 200.0 kB"), "{evicted}");
    let listed = said(&["cache", "ls", "--category", "images"])?;
    ensure!(listed.contains("pinned by you") && !listed.contains("images/two"), "{listed}");
    let refused =
        http::ask_socket(&site.agent.socket(), "DELETE", "/api/v1/agent/cache/images/one")?;
    ensure!(refused.status == 409 && refused.text().contains("unpin"), "{}", refused.text());
    said(&["cache", "unpin", "images/one"])?;
    let evicted = said(&["cache", "evict", "--policy", "all"])?;
    ensure!(evicted.starts_with("1 object went, 100.0 kB"), "{evicted}");
    Ok(())
}

fn c15_what_is_invalidated_is_served_on_until_its_replacement_is_here() -> Result<()> {
    let mut site = site_without_haste()?;
    let [before, after] = [noise(3_000_000), noise(3_000_000)];
    site.controller.upload("images/one", &before)?;
    assign(&site, &["images/one"])?;
    sync(&site)?;
    let mac = random_mac();
    site.agent.script(&mac)?;
    site.controller.wait_for_state(&mac, "discovered")?;
    site.controller.upload("images/one", &after)?;
    let commands = format!("/sites/{}/commands", site.id);
    for about in [json!({ "mac": mac }), json!({ "category": "images", "path": "one" })] {
        let order = json!({ "command": "invalidate", "params": about });
        let command = site.controller.post(&commands, &order)?;
        let command = format!("{commands}/{}", text(&command, "id")?);
        wait::until("the agent is given the order", ARRIVAL_LIMIT, || {
            Ok((text(&site.controller.get(&command)?, "status")? != "queued").then_some(()))
        })?;
    }
    // The line goes as soon as the orders have come, and the power with it.
    site.controller.stop();
    for life in ["that obeyed", "after it"] {
        let answer = http::get(&site.agent.url("/files/images/one"))?.expect(200)?;
        ensure!([&before, &after].contains(&&answer.body), "the life {life}: another file");
        let script = site.agent.script(&mac)?;
        ensure!(script.contains("is listed as discovered"), "the life {life}:\n{script}");
        site.agent.stop();
        site.agent.start()?;
    }
    site.controller.resume()?;
    site.wait_until_online()?;
    sync(&site)?;
    let answer = http::get(&site.agent.url("/files/images/one"))?.expect(200)?;
    ensure!(answer.body == after, "the replacement does not come");
    Ok(())
}

fn d8_a_damaged_database_costs_the_site_no_boot() -> Result<()> {
    /// What a machine waits at a start with a damaged database; of several starts on a busy machine the quickest counts.
    const BOOT_LIMIT: Duration = Duration::from_secs(3);
    let mut site = Site::start()?;
    let mac = random_mac();
    site.agent.script(&mac)?;
    site.controller.wait_for_state(&mac, "discovered")?;
    site.controller.stop();
    let state = site.agent.data_dir().join("state");
    let database = state.join("site.db");
    let mut quickest = Duration::MAX;
    for damage in ["of zero length", "garbage", "cut short", "with another header"] {
        site.agent.stop();
        let mut bytes = fs::read(&database)?;
        match damage {
            "of zero length" => bytes.clear(),
            "garbage" => bytes = noise(20_000),
            "cut short" => bytes.truncate(bytes.len() / 2),
            _ => bytes.iter_mut().take(64).for_each(|byte| *byte ^= 0x55),
        }
        fs::write(&database, bytes)?;
        let begun = Instant::now();
        site.agent.start().with_context(|| format!("a database {damage}"))?;
        let script = site.agent.script(&mac).with_context(|| format!("a database {damage}"))?;
        quickest = quickest.min(begun.elapsed());
        ensure!(
            !script.contains("\nkernel"),
            "a database {damage} leads to an installer:\n{script}"
        );
    }
    ensure!(quickest < BOOT_LIMIT, "no start was quicker than {quickest:?}");
    for number in 1..=3 {
        let kept = state.join(format!("site.db.corrupt-{number}"));
        ensure!(kept.exists(), "{} is not kept", kept.display());
    }
    site.controller.resume()?;
    site.wait_until_online()?;
    boots_and_reports(&site)
}
