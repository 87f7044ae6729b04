//! `cargo xtask bench idle`: what both programs hold while nothing happens.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use argh::FromArgs;
use pureboot_tests::process;
use pureboot_tests::site::Site;

use super::{median, proc};

/// Threads, descriptors, memory, size and start of the idle programs.
#[derive(FromArgs)]
#[argh(subcommand, name = "idle")]
pub(super) struct Idle {}

/// Long enough for the work of the start to be over, and for a heartbeat.
const SETTLE: Duration = Duration::from_secs(7);

const STARTS: usize = 5;

impl Idle {
    pub(super) fn run(self) -> Result<()> {
        let mut site = Site::start()?;
        let mut starts_ms = Vec::new();
        for _ in 0..STARTS {
            site.agent.program()?.terminate()?;
            let started = Instant::now();
            site.agent.start()?;
            starts_ms.push(started.elapsed().as_secs_f64() * 1_000.0);
        }
        thread::sleep(SETTLE);
        let agent = ("pureboot-agent", site.agent.program()?.pid());
        let controller = ("pureboot-controller", site.controller.program()?.pid());
        println!("idle, release build, joined to each other on loopback");
        println!(
            "{:<20} {:>7} {:>11} {:>12} {:>12} {:>12} {:>10}",
            "program", "threads", "descriptors", "VmRSS", "RssAnon", "VmHWM", "binary"
        );
        for (name, pid) in [agent, controller] {
            let size_bytes = std::fs::metadata(process::own(name)?).context(name)?.len();
            println!(
                "{name:<20} {:>7} {:>11} {:>12} {:>12} {:>12} {:>7.1} MB",
                proc::status(pid, "Threads")?,
                proc::descriptors(pid)?,
                proc::status(pid, "VmRSS")?,
                proc::status(pid, "RssAnon")?,
                proc::status(pid, "VmHWM")?,
                size_bytes as f64 / 1e6,
            );
        }
        println!(
            "agent, from its start to \"listening\": {:.0} ms (median of {STARTS})",
            median(starts_ms)
        );
        Ok(())
    }
}
