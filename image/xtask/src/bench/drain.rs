//! `cargo xtask bench drain`: how long a full outbox takes to reach the controller on a line with a long way.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use argh::FromArgs;
use pureboot_tests::far::FarLine;
use pureboot_tests::machines::Machine;
use pureboot_tests::postgres::Postgres;
use pureboot_tests::site::{Autonomy, Ports, Site};
use pureboot_tests::wait;

use super::median;
use super::proc::CpuMeter;

/// Changes that wait at an agent, handed over on a line with a long way: seconds from the first batch's departure to the moment
/// when the agent knows that nothing waits any more. Then every report is looked for at the controller.
#[derive(FromArgs)]
#[argh(subcommand, name = "drain")]
pub(super) struct Drain {
    /// changes (default: 10000)
    #[argh(option, default = "10_000")]
    changes: usize,

    /// milliseconds of the way there and back (default: 100)
    #[argh(option, default = "100")]
    round_trip: u64,

    /// rounds on each database (default: 3)
    #[argh(option, default = "3")]
    rounds: usize,
}

/// Reports of each machine.
const REPORTS: usize = 40;
/// Machines that report at the same time.
const AT_ONCE: usize = 8;
/// When a round is given up.
const LIMIT: Duration = Duration::from_secs(300);
/// How often it is looked whether it is over.
const LOOK: Duration = Duration::from_millis(5);

/// One round.
struct Round {
    seconds: f64,
    batches: usize,
    agent_cpu: f64,
    controller_cpu: f64,
}

impl Drain {
    pub(super) fn run(self) -> Result<()> {
        println!(
            "{} changes of {} machines, {} ms there and back, both programs and the line on this machine",
            self.changes,
            self.changes / REPORTS,
            self.round_trip
        );
        println!(
            "{:<12} {:>8} {:>8} {:>10} {:>14} {:>14}",
            "database", "s", "batches", "changes/s", "agent CPU s", "controller s"
        );
        let mut server = None;
        for name in ["SQLite", "PostgreSQL"] {
            if name == "PostgreSQL" {
                server = Some(Postgres::start_durable()?);
            }
            let mut field = Field::prepare(server.as_ref().map(Postgres::url), self.round_trip)?;
            let mut seconds = Vec::new();
            for _ in 0..self.rounds {
                let round = field.round(self.changes / REPORTS)?;
                println!(
                    "{name:<12} {:>8.2} {:>8} {:>10.0} {:>14.2} {:>14.2}",
                    round.seconds,
                    round.batches,
                    self.changes as f64 / round.seconds,
                    round.agent_cpu,
                    round.controller_cpu
                );
                seconds.push(round.seconds);
            }
            println!("{name:<12} {:>8.2} median", median(seconds));
        }
        Ok(())
    }
}

/// A site at the end of a long line.
struct Field {
    site: Site,
    line: FarLine,
}

impl Field {
    fn prepare(database: Option<String>, round_trip_ms: u64) -> Result<Self> {
        let mut site = Site::prepare_on(database, "agent", Autonomy::Limited)?;
        let round_trip = Duration::from_millis(round_trip_ms);
        let line = FarLine::open(site.controller.address(), round_trip)?;
        let token = site.make_token()?;
        site.agent.init(&site.id, &line.url(), &token, Ports::LOOPBACK)?;
        site.agent.start()?;
        site.wait_until_online()?;
        Ok(Self { site, line })
    }

    fn wait_until_empty(&self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while self.site.agent.pending()? > 0 {
            ensure!(Instant::now() < deadline, "{} changes still wait", self.site.agent.pending()?);
            thread::sleep(LOOK);
        }
        Ok(())
    }

    fn round(&mut self, machines: usize) -> Result<Round> {
        let machines: Vec<_> =
            (0..machines).map(|_| Machine::boot(&self.site.agent)).collect::<Result<_>>()?;
        self.wait_until_empty()?;
        self.line.cut();
        self.site.wait_until_offline()?;
        let agent = self.site.agent.boot();
        thread::scope(|scope| {
            for some in machines.chunks(machines.len().div_ceil(AT_ONCE)) {
                scope.spawn(move || {
                    for (machine, number) in
                        some.iter().flat_map(|machine| (1..=REPORTS).map(move |it| (machine, it)))
                    {
                        while !machine.report(agent, number) {}
                    }
                });
            }
        });
        let waiting = self.site.agent.pending()?;
        ensure!(waiting == machines.len() * REPORTS, "{waiting} changes wait");
        let meters = [
            CpuMeter::new(self.site.agent.program()?.pid()),
            CpuMeter::new(self.site.controller.program()?.pid()),
        ];
        let seconds = || meters.iter().map(CpuMeter::seconds).collect::<Result<Vec<_>>>();
        let (before, sent) = (seconds()?, self.line.batches().len());
        self.line.mend();
        wait::until("the first batch sets out", LIMIT, || {
            Ok((self.line.batches().len() > sent).then_some(()))
        })?;
        self.wait_until_empty()?;
        let ended = Instant::now();
        let cpu: Vec<_> =
            seconds()?.iter().zip(before).map(|(after, before)| after - before).collect();
        let batches = self.line.batches();
        let first = batches.get(sent).context("a first batch")?;
        machines.iter().try_for_each(|it| it.check(&self.site.controller, REPORTS, REPORTS))?;
        Ok(Round {
            seconds: ended.duration_since(*first).as_secs_f64(),
            batches: batches.len() - sent,
            agent_cpu: cpu.first().copied().unwrap_or(f64::NAN),
            controller_cpu: cpu.last().copied().unwrap_or(f64::NAN),
        })
    }
}
