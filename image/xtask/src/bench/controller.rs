//! `cargo xtask bench controller`: heartbeats and change batches of many sites.

use std::time::{Duration, Instant};

use anyhow::Result;
use argh::FromArgs;
use pureboot_tests::controller::{Controller, Options};
use pureboot_tests::postgres::Postgres;

use super::fleet::{Fleet, Pace, Say};
use super::proc::{self, CpuMeter};

/// Heartbeats and change batches a second, with their latency, and the memory that they cost. The agents are simulated in
/// this process, on the same processors.
#[derive(FromArgs)]
#[argh(subcommand, name = "controller")]
pub(super) struct Bench {
    /// simulated agents, one to a site (default: 5000)
    #[argh(option, default = "5_000")]
    agents: usize,

    /// seconds of each row (default: 10)
    #[argh(option, default = "10")]
    seconds: u64,

    /// also how the cost grows with the number of agents: 100, 1,000, 10,000 and 50,000
    #[argh(switch)]
    growth: bool,

    /// sqlite, postgres or both (default: sqlite)
    #[argh(option, default = "Databases::Sqlite", from_str_fn(databases))]
    database: Databases,
}

/// Which databases the controller is measured on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Databases {
    Sqlite,
    Postgres,
    Both,
}

fn databases(text: &str) -> Result<Databases, String> {
    match text {
        "sqlite" => Ok(Databases::Sqlite),
        "postgres" => Ok(Databases::Postgres),
        "both" => Ok(Databases::Both),
        _ => Err(format!("'{text}' is no choice; expected sqlite, postgres or both")),
    }
}

/// The rate of the row that is about latency.
const STEADY_RATE: u32 = 2_000;
/// The sizes of the table of growth.
const GROWTH: [usize; 4] = [100, 1_000, 10_000, 50_000];

impl Bench {
    pub(super) fn run(self) -> Result<()> {
        if self.database != Databases::Postgres {
            println!("SQLite:");
            self.measure(None)?;
        }
        if self.database != Databases::Sqlite {
            let server = Postgres::start_durable()?;
            println!("PostgreSQL, which waits for the disk:");
            self.measure(Some(server.url()))?;
        }
        Ok(())
    }

    /// The table of a controller on one database.
    fn measure(&self, database: Option<String>) -> Result<()> {
        let dir = tempfile::tempdir()?;
        // One operator and one address make the whole fleet here.
        let arguments = ["--rate-per-credential", "0", "--rate-per-address", "0"];
        let options = Options {
            arguments: arguments.map(str::to_owned).into(),
            environment: database.map(|url| ("PUREBOOT_DATABASE", url)).into_iter().collect(),
        };
        let mut controller = Controller::start_with(dir.path(), options)?;
        let pid = controller.program()?.pid();
        std::thread::sleep(Duration::from_secs(2));
        println!("idle: VmRSS {}", proc::status(pid, "VmRSS")?);
        let mut fleet = Fleet::of(&controller);
        header();
        let sizes = if self.growth { &GROWTH[..] } else { &[self.agents] };
        let mut joined = 0;
        for &size in sizes {
            let started = Instant::now();
            fleet.grow(&controller, size - joined)?;
            eprintln!("{size} agents have joined after {:.1} s", started.elapsed().as_secs_f64());
            joined = size;
            // With its first heartbeat after anything of the content changed, a site's manifest is looked at.
            self.row(&fleet, pid, size, Say::Heartbeat, Pace::Once)?;
            self.row(&fleet, pid, size, Say::Heartbeat, Pace::Fast)?;
            self.row(&fleet, pid, size, Say::Heartbeat, Pace::PerSecond(STEADY_RATE))?;
            self.row(&fleet, pid, size, Say::Changes, Pace::Fast)?;
        }
        Ok(())
    }

    fn row(&self, fleet: &Fleet, pid: u32, agents: usize, say: Say, pace: Pace) -> Result<()> {
        let meter = CpuMeter::new(pid);
        let cpu = meter.seconds()?;
        let figures = fleet.speak(say, pace, Duration::from_secs(self.seconds))?;
        let cpu_us = (meter.seconds()? - cpu) * 1e6 / figures.answers() as f64;
        let what = match (say, pace) {
            (Say::Heartbeat, Pace::Once) => "first heartbeats".to_owned(),
            (Say::Heartbeat, Pace::Fast) => "heartbeats".to_owned(),
            (Say::Heartbeat, Pace::PerSecond(rate)) => format!("heartbeats at {rate}/s"),
            (Say::Changes, Pace::Once | Pace::Fast) => "batches of 10 changes".to_owned(),
            (Say::Changes, Pace::PerSecond(rate)) => format!("batches of 10 changes at {rate}/s"),
        };
        println!(
            "{agents:>7} {what:<24} {:>9.0} {:>9.1} {:>9.1} {:>9} {cpu_us:>10.0} {:>12}",
            figures.rate(),
            figures.within_ms(50),
            figures.within_ms(99),
            figures.refused,
            proc::status(pid, "VmRSS")?,
        );
        Ok(())
    }
}

fn header() {
    println!(
        "{:>7} {:<24} {:>9} {:>9} {:>9} {:>9} {:>10} {:>12}",
        "agents", "row", "per s", "p50 ms", "p99 ms", "refused", "CPU us", "VmRSS"
    );
}
