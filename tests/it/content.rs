//! Content at the controller, with files of a size that memory must not grow with, disks that fill, and an S3 server.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pureboot_tests::controller::{Controller, Options};
use pureboot_tests::disk::SmallDisk;
use pureboot_tests::process::{self, Program};
use pureboot_tests::site::{Site, text};
use pureboot_tests::{noise, sha256};

use crate::bucket::Bucket;
use crate::need::Need;
use crate::{Case, case};

const CURL: Need = Need::Program("curl", "curl");

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(an_agent_pins_the_key_that_its_manifest_is_signed_with),
        case!(i7_memory_does_not_grow_with_the_size_of_a_file, CURL),
        case!(d2_a_full_disk_is_told_and_leaves_what_was_there, CURL, Need::Root),
        case!(content_may_be_kept_by_an_s3_server, CURL, Need::S3Server),
    ]
}

/// What a transfer of [`LARGE_LEN`] may take on a busy machine.
const TRANSFER_LIMIT: Duration = Duration::from_secs(120);
/// A file that no buffer holds, in bytes.
const LARGE_LEN: u64 = 200 << 20;
/// What the controller's memory may grow by while such a file passes, in KiB.
const GROWTH_MAX_KIB: u64 = 24 << 10;

fn an_agent_pins_the_key_that_its_manifest_is_signed_with() -> Result<()> {
    let site = Site::start()?;
    let pinned = fs::read_to_string(site.agent.data_dir().join("controller-key"))?;
    let manifest = site.controller.get(&format!("/content/manifest?site_id={}", site.id))?;
    let key_id = text(&manifest, "key_id")?;
    ensure!(
        pinned.len() == 64 && pinned.starts_with(&key_id),
        "pinned {pinned}, signed by {key_id}"
    );
    Ok(())
}

/// Runs curl as the operator; the last line of what it prints is the status.
fn curl(controller: &Controller, name: &str, arguments: &[&str]) -> Result<Output> {
    let mut command = process::system("curl")?;
    command.args(["--silent", "--show-error", "--write-out", "\n%{http_code}"]).args(arguments);
    command.args(["--header", &format!("Authorization: Bearer {}", controller.token())]);
    command.arg(format!("{}/api/v1/content/{name}", controller.url()));
    process::output(command, TRANSFER_LIMIT)
}

fn upload(controller: &Controller, name: &str, file: &Path) -> Result<(String, String)> {
    let output = curl(controller, name, &["--upload-file", &file.display().to_string()])?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = said.rsplit_once('\n').context("no status")?;
    Ok((status.to_owned(), body.to_owned()))
}

/// The most memory that the program has had, in KiB.
pub(crate) fn peak_kib(program: &Program) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", program.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn i7_memory_does_not_grow_with_the_size_of_a_file() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut controller = Controller::start(dir.path())?;
    let (small, large) = (dir.path().join("small"), dir.path().join("large"));
    fs::write(&small, noise(1_000))?;
    let mut file = File::create(&large)?;
    let block = noise(1 << 20);
    for _ in 0..LARGE_LEN >> 20 {
        file.write_all(&block)?;
    }
    // What a first upload and download bring into memory is not what a large one adds.
    let copy = dir.path().join("copy");
    let to_copy = ["--output", &copy.display().to_string()];
    ensure!(upload(&controller, "images/small", &small)?.0 == "201", "the small file is refused");
    curl(&controller, "images/small", &to_copy)?;
    let before = peak_kib(controller.program()?)?;
    let (status, body) = upload(&controller, "images/large", &large)?;
    ensure!(status == "201", "{status}: {body}");
    ensure!(body.contains(&sha256(&fs::read(&large)?)), "another hash: {body}");
    curl(&controller, "images/large", &to_copy)?;
    ensure!(fs::read(&copy)? == fs::read(&large)?, "another file came back");
    let growth = peak_kib(controller.program()?)? - before;
    ensure!(growth <= GROWTH_MAX_KIB, "memory has grown by {growth} KiB");
    Ok(())
}

fn d2_a_full_disk_is_told_and_leaves_what_was_there() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let place = dir.path().join("content");
    let _disk = SmallDisk::mount(&place, 4)?;
    let arguments = vec!["--content".to_owned(), place.display().to_string()];
    let options = Options { arguments, ..Options::default() };
    let controller = Controller::start_with(dir.path(), options)?;
    controller.upload("images/kernel", b"old")?;
    let large = dir.path().join("large");
    fs::write(&large, noise(6 << 20))?;
    let (status, body) = upload(&controller, "images/kernel", &large)?;
    ensure!(status == "507" && body.contains("storage_full"), "{status}: {body}");
    let kept = curl(&controller, "images/kernel", &[])?.stdout;
    ensure!(kept == b"old\n200", "what was there: {:?}", String::from_utf8_lossy(&kept));
    fs::write(&large, noise(3 << 20))?;
    let (status, body) = upload(&controller, "images/kernel", &large)?;
    ensure!(status == "200", "there is room again: {status}: {body}");
    Ok(())
}

fn content_may_be_kept_by_an_s3_server() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let bucket = Bucket::start(dir.path())?;
    let controller = Controller::start_with(dir.path(), bucket.options("site-a"))?;
    let file = dir.path().join("file");
    // In one request, and in parts of which the last is a short one.
    for len in [0, 1_000, (33 << 20) + 5] {
        let bytes = noise(len);
        fs::write(&file, &bytes)?;
        let (status, body) = upload(&controller, "images/kernel", &file)?;
        ensure!(matches!(status.as_str(), "200" | "201"), "{len} bytes: {status}: {body}");
        ensure!(body.contains(&sha256(&bytes)), "another hash: {body}");
        let whole = curl(&controller, "images/kernel", &["--write-out", ""])?.stdout;
        ensure!(whole == bytes, "{} bytes came back of {len}", whole.len());
        if len > 100 {
            let range = ["--write-out", "", "--range", &format!("10-{}", len - 11)];
            let part = curl(&controller, "images/kernel", &range)?.stdout;
            ensure!(Some(part.as_slice()) == bytes.get(10..len - 10), "another part");
        }
    }
    let listed = bucket.keys("site-a/objects/")?.len();
    ensure!(listed == 3, "{listed} objects are in the bucket");
    Ok(())
}
