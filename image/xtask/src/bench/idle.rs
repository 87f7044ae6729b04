//! `cargo xtask bench idle`: what both programs hold and do while nothing happens.

use std::path::PathBuf;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result};
use argh::FromArgs;
use pureboot_tests::site::{HEARTBEAT_INTERVAL_SECONDS, Site};
use pureboot_tests::{process, random_mac};

use super::budget::Budgets;
use super::flash::Flash;
use super::{median, proc};

/// Threads, descriptors, memory, size and start of the idle programs; what the idle agent wakes up for and writes.
#[derive(FromArgs)]
#[argh(subcommand, name = "idle")]
pub(super) struct Idle {
    /// the agent to measure, such as target/dist/pureboot-agent-x86_64 (default: the release build)
    #[argh(option)]
    agent: Option<PathBuf>,
    /// how long the agent is watched, in seconds (default 60)
    #[argh(option, default = "60")]
    seconds: u64,
}

/// Long enough for the work of the start to be over, and for a heartbeat.
const SETTLE: Duration = Duration::from_secs(7);
/// After the last boot its session is written down, once.
const SESSION_REST: Duration = Duration::from_secs(25);

const STARTS: usize = 5;

/// What an agent may hold, in MB, may take to its first answer, in ms, and may write, by the hour.
const RESIDENT_MAX: f64 = 12.0;
const START_MAX: f64 = 100.0;
const WRITES_MAX: f64 = 60.0;

impl Idle {
    pub(super) fn run(self) -> Result<()> {
        let mut site = Site::start_by(self.agent.clone().into_iter().collect())?;
        let mac = random_mac();
        site.agent.script(&mac)?;
        let (mut listening_ms, mut answer_ms) = (Vec::new(), Vec::new());
        for _ in 0..STARTS {
            site.agent.program()?.terminate()?;
            let started = Instant::now();
            site.agent.start()?;
            listening_ms.push(milliseconds(started));
            site.agent.script(&mac)?;
            answer_ms.push(milliseconds(started));
        }
        thread::sleep(SETTLE);
        let program = match &self.agent {
            Some(path) => path.clone(),
            None => process::own("pureboot-agent")?,
        };
        let agent = site.agent.program()?.pid();
        let programs = [
            ("pureboot-agent", agent, program),
            (
                "pureboot-controller",
                site.controller.program()?.pid(),
                process::own("pureboot-controller")?,
            ),
        ];
        println!("idle, joined to each other on loopback");
        println!(
            "{:<20} {:>7} {:>11} {:>12} {:>12} {:>12} {:>10}",
            "program", "threads", "descriptors", "VmRSS", "RssAnon", "VmHWM", "binary"
        );
        for (name, pid, path) in &programs {
            let size_bytes = fs::metadata(path).with_context(|| path.display().to_string())?.len();
            println!(
                "{name:<20} {:>7} {:>11} {:>12} {:>12} {:>12} {:>7.2} MB",
                proc::status(*pid, "Threads")?,
                proc::descriptors(*pid)?,
                proc::status(*pid, "VmRSS")?,
                proc::status(*pid, "RssAnon")?,
                proc::status(*pid, "VmHWM")?,
                size_bytes as f64 / 1e6,
            );
        }
        println!("agent, from its start to \"listening\": {:.0} ms", median(listening_ms));
        let mut budgets = Budgets::default();
        budgets.hold("resident", proc::megabytes(agent, "VmRSS")?, "MB", RESIDENT_MAX);
        budgets.hold("start to the first script", median(answer_ms), "ms", START_MAX);

        thread::sleep(SESSION_REST);
        let flash = Flash::below(site.agent.data_dir())?;
        let (wakes, written) = (proc::wakes(agent)?, proc::written_bytes(agent)?);
        let writes = flash.count(Duration::from_secs(self.seconds))?;
        let by_hour = 3_600.0 / self.seconds as f64;
        println!(
            "agent, watched for {} s with a heartbeat every {HEARTBEAT_INTERVAL_SECONDS} s: {:.0} wake-ups an hour, {:.1} kB to disk an hour",
            self.seconds,
            (proc::wakes(agent)? - wakes) as f64 * by_hour,
            (proc::written_bytes(agent)? - written) as f64 / 1e3 * by_hour,
        );
        budgets.hold("writes to flash", writes as f64 * by_hour, "an hour", WRITES_MAX);
        budgets.end();
        Ok(())
    }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1_000.0
}
