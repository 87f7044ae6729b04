//! `sim`: one run by its seed, or many, for people; `cargo xtask sim` starts it.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "what it prints is its purpose")]

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};
use argh::FromArgs;
use pureboot_sim::faults::{Fault, Planted};
use pureboot_sim::scenario::{self, Options};
use pureboot_sim::shrink;
use pureboot_sim::swarm::{self, Amount, Finished};

/// The most sites of a run, and the most machines of a site.
const COUNT_MAX: usize = 200;

/// Run agents, controller, network, clock and crashes in one process, by a seed. The same seed gives the same run.
#[derive(FromArgs)]
struct Arguments {
    /// the seed of the first run (default 1)
    #[argh(option, default = "1")]
    seed: u64,

    /// how many seeds to run, one after the other, until one fails (default 1)
    #[argh(option)]
    seeds: Option<u64>,

    /// run as many seeds as make so many node-years: one machine for 365 days is one
    #[argh(option)]
    years: Option<f64>,

    /// print everything that happens; with one seed only
    #[argh(switch)]
    trace: bool,

    /// how many sites with an agent, in place of what the seed says
    #[argh(option)]
    agents: Option<usize>,

    /// how many machines each site has, in place of what the seed says
    #[argh(option)]
    machines: Option<usize>,

    /// how many days pass with faults, in place of what the seed says
    #[argh(option)]
    days: Option<u32>,

    /// the faults in place of those that the seed enables, with commas between; `none` for none
    #[argh(option)]
    faults: Option<String>,

    /// a bug to plant, to see it found
    #[argh(option)]
    planted: Option<Planted>,

    /// do not look for a smaller run where one fails
    #[argh(switch)]
    no_shrink: bool,
}

/// What stands in the place of what a seed says.
struct Stated {
    agents: Option<usize>,
    machines: Option<usize>,
    days: Option<u32>,
    faults: Option<Vec<Fault>>,
    planted: Option<Planted>,
}

impl Stated {
    fn options(&self, seed: u64) -> Options {
        let mut options =
            self.planted.map_or_else(|| Options::of(seed), |bug| Options::with_bug(seed, bug));
        options.sites = self.agents.unwrap_or(options.sites);
        options.machines = self.machines.unwrap_or(options.machines);
        options.days = self.days.unwrap_or(options.days).max(1);
        if let Some(faults) = &self.faults {
            options.faults = faults.iter().copied().collect();
        }
        options
    }
}

impl Arguments {
    fn stated(&self) -> Result<Stated> {
        for (name, number) in [("agents", self.agents), ("machines", self.machines)] {
            let number = number.unwrap_or(1);
            ensure!(
                (1..=COUNT_MAX).contains(&number),
                "--{name} {number} is not between 1 and {COUNT_MAX}"
            );
        }
        let parse = |words: &String| {
            let words = words.split(',').filter(|word| *word != "none" && !word.is_empty());
            words
                .map(str::parse::<Fault>)
                .collect::<Result<Vec<_>, _>>()
                .map_err(anyhow::Error::msg)
        };
        Ok(Stated {
            agents: self.agents,
            machines: self.machines,
            days: self.days,
            faults: self.faults.as_ref().map(parse).transpose()?,
            planted: self.planted,
        })
    }

    fn amount(&self) -> Result<Amount> {
        ensure!(
            self.seeds.is_none() || self.years.is_none(),
            "--seeds and --years both say how much to run; leave one out"
        );
        let amount = match self.years {
            Some(years) => Amount::NodeYears(years),
            None => Amount::Seeds(self.seeds.unwrap_or(1)),
        };
        ensure!(!self.trace || amount == Amount::Seeds(1), "--trace is for one seed");
        Ok(amount)
    }

    fn run(&self) -> Result<ExitCode> {
        let (stated, amount) = (self.stated()?, self.amount()?);
        if self.trace {
            return trace(&stated.options(self.seed));
        }
        let started = Instant::now();
        let failed = match swarm::run(self.seed, amount, |seed| stated.options(seed), tell) {
            Ok(sum) => {
                let seconds = started.elapsed().as_secs_f64();
                println!(
                    "{} runs, {:.1} node-years in {seconds:.1} s: {}; nothing broken",
                    sum.runs, sum.node_years, sum.tally
                );
                return Ok(ExitCode::SUCCESS);
            }
            Err(failed) => failed,
        };
        println!("{}", failed.tell());
        if failed.cause.is_ok() && !self.no_shrink {
            println!("looking for a smaller run that breaks the same, which takes a while");
            println!("{}", swarm::explain(shrink::shrink(&failed.options)?));
        }
        Ok(ExitCode::FAILURE)
    }
}

fn trace(options: &Options) -> Result<ExitCode> {
    let outcome = scenario::run(options)?;
    print!("{}", outcome.trace);
    Ok(if outcome.violation.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell(finished: &Finished) {
    let Finished { options, tally, took, so_far } = finished;
    println!(
        "seed {}: {:.1} node-years in {:.1} s: {tally}; {:.0} node-years so far",
        options.seed,
        options.node_years(),
        took.as_secs_f64(),
        so_far.node_years
    );
}

fn main() -> ExitCode {
    let arguments: Arguments = argh::from_env();
    arguments.run().unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
