//! `cargo xtask bench policies`: what policies cost, and what a site notices of one that never ends.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use argh::FromArgs;
use pureboot_tests::site::{ARRIVAL_LIMIT, Site};
use pureboot_tests::tftp::Client;
use pureboot_tests::{http, noise, policy, process, random_mac, wait};

use super::median;
use crate::cargo;

/// What policies cost, and TFTP and boots beside one that loops.
#[derive(FromArgs)]
#[argh(subcommand, name = "policies")]
pub(super) struct Policies {
    /// only what a site notices of a policy that loops
    #[argh(switch)]
    loop_only: bool,
}

/// What a machine waits for its script.
const BOOT_LIMIT: Duration = Duration::from_secs(2);
/// Turns alone and beside the loop.
const ROUNDS: usize = 5;
/// What the transfers read.
const FILE_LEN: usize = 32 << 20;
const OPTIONS: [(&str, &str); 2] = [("blksize", "1428"), ("windowsize", "16")];
/// Counts for about 16 M fuel of its 20 M, and then has no opinion: it works as long as a policy can that is never set aside.
const BUSY: &str = "(local $left i32) (local.set $left (i32.const 2600000)) \
    (loop $on (br_if $on (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))";

impl Policies {
    pub(super) fn run(self) -> Result<()> {
        if !self.loop_only {
            costs()?;
            sizes()?;
        }
        beside_a_loop()
    }
}

/// The host's own bench: loading, deciding, judging, memory.
fn costs() -> Result<()> {
    let mut bench = cargo::command(&["bench", "--quiet", "--locked"])?;
    bench.args(["--package", "pureboot-plugin-host", "--features", "compile"]);
    let status = bench.status()?;
    ensure!(status.success(), "the bench of the host has failed: {status}");
    Ok(())
}

/// What the engine adds to a program.
fn sizes() -> Result<()> {
    let build = |arguments: &[&str]| -> Result<()> {
        let mut command = cargo::command(&["build", "--quiet", "--locked", "--release"])?;
        let status = command.args(arguments).status()?;
        ensure!(status.success(), "{arguments:?} does not build: {status}");
        Ok(())
    };
    build(&["--package", "pureboot-plugin-host", "--examples"])?;
    let size = |name: &str| -> Result<f64> {
        let path = target_dir()?.join("release/examples").join(name);
        Ok(fs::metadata(&path).with_context(|| path.display().to_string())?.len() as f64 / 1e6)
    };
    let (without, with) = (size("without_engine")?, size("with_engine")?);
    println!("a program that runs policies: {with:.2} MB, and one that does not: {without:.2} MB");
    Ok(())
}

fn target_dir() -> Result<PathBuf> {
    let own = process::own("pureboot-agent")?;
    let dir = own.parent().and_then(Path::parent).context("programs lie below target")?;
    Ok(dir.to_owned())
}

/// Boots one machine after the other whose policy works as long as it can, and reads by TFTP meanwhile.
fn beside_a_loop() -> Result<()> {
    let site = Site::start()?;
    let file = noise(FILE_LEN);
    site.agent.cache_add("images/file", &file)?;
    let tftp = site.agent.tftp();
    let read = || -> Result<f64> {
        let client = Client::new(tftp, Ipv4Addr::LOCALHOST)?;
        let began = Instant::now();
        ensure!(client.read("images/file", &OPTIONS)?.bytes == file, "another file came");
        Ok(FILE_LEN as f64 / 1e6 / began.elapsed().as_secs_f64())
    };
    let mac = random_mac();
    site.agent.script(&mac)?;
    site.controller.wait_for_state(&mac, "discovered")?;
    let url = site.agent.url(&format!("/boot/{mac}"));
    let boots = |is_over: &AtomicBool| -> Result<Vec<f64>> {
        let mut times = Vec::new();
        while !is_over.load(Ordering::Relaxed) {
            let began = Instant::now();
            http::get(&url)?.expect(200)?;
            let took = began.elapsed();
            ensure!(took <= BOOT_LIMIT, "a boot took {took:?}");
            times.push(took.as_secs_f64() * 1e3);
        }
        Ok(times)
    };
    let turn = || -> Result<(f64, Vec<f64>)> {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let booting = scope.spawn(|| boots(&is_over));
            let speeds = (0..ROUNDS).map(|_| read()).collect::<Result<Vec<_>>>();
            is_over.store(true, Ordering::Relaxed);
            let times = booting.join().map_err(|_| anyhow::anyhow!("a boot has panicked"))??;
            Ok((median(speeds?), times))
        })
    };
    let (idle, quiet) = turn()?;
    assign(&site)?;
    let (busy, looped) = turn()?;
    let told = |times: &[f64]| {
        let slowest = times.iter().copied().fold(0.0, f64::max);
        format!(
            "{} boots, {:.1} ms median, {slowest:.1} ms slowest",
            times.len(),
            median(times.to_vec())
        )
    };
    println!("boots one after the other, TFTP with blocks of 1,428 and windows of 16 meanwhile");
    println!("  without policy:        TFTP {idle:>7.1} MB/s; {}", told(&quiet));
    println!("  each boot a long loop: TFTP {busy:>7.1} MB/s; {}", told(&looped));
    println!(
        "  TFTP beside the loop at {:.2} of its speed beside boots without policy",
        busy / idle
    );
    Ok(())
}

fn assign(site: &Site) -> Result<()> {
    let path = site.dir().join("busy.wasm");
    fs::write(&path, policy::boot_policy("", BUSY)?)?;
    let operate = |arguments: &[&str]| -> Result<()> {
        let mut command = Command::new(process::own("pureboot-controller")?);
        command.args(arguments).env("PUREBOOT_URL", site.controller.url());
        command.env("PUREBOOT_TOKEN", site.controller.token());
        let output = process::output(command, ARRIVAL_LIMIT)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{arguments:?} failed:\n{said}");
        Ok(())
    };
    let file = path.to_str().context("a path of the bench's own")?;
    operate(&["plugin", "add", file, "--name", "busy", "--version", "1.0.0"])?;
    operate(&["plugin", "assign", "busy", "--everywhere", "--mode", "on"])?;
    wait::until("the policy runs", ARRIVAL_LIMIT, || {
        let listed = site.agent.run(&["plugin", "ls"])?.stdout;
        Ok(String::from_utf8_lossy(&listed).contains("running").then_some(()))
    })
}
