//! Many runs, on all processors, and what is told of the one that fails.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread;
use std::time::{Duration, Instant};

use crate::oracle::Violation;
use crate::scenario::{self, Options};
use crate::shrink::Smallest;
use crate::tally::Tally;

/// How many lines of a trace are told.
const LINES_MAX: usize = 60;

/// How much is run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    /// So many seeds.
    Seeds(u64),
    /// As many seeds as make so many node-years.
    NodeYears(f64),
}

impl Amount {
    fn is_begun(self, sum: &Sum) -> bool {
        match self {
            Self::Seeds(seeds) => sum.runs >= seeds,
            Self::NodeYears(node_years) => sum.node_years >= node_years,
        }
    }
}

/// What many runs have come to.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Sum {
    /// How many runs.
    pub runs: u64,
    /// How many node-years.
    pub node_years: f64,
    /// What happened in them.
    pub tally: Tally,
}

impl Sum {
    fn add(&mut self, options: &Options) {
        self.runs += 1;
        self.node_years += options.node_years();
    }
}

/// A run that has come to its end without breaking anything.
#[derive(Debug, Clone)]
pub struct Finished {
    /// What it was made of.
    pub options: Options,
    /// What happened in it.
    pub tally: Tally,
    /// How long it took on this machine.
    pub took: Duration,
    /// All runs that have ended so far.
    pub so_far: Sum,
}

/// A run that has not.
#[derive(Debug)]
pub struct Failed {
    /// What it is made of.
    pub options: Options,
    /// What it breaks, or how the simulation itself has failed.
    pub cause: Result<Violation, anyhow::Error>,
}

impl Failed {
    /// What a person is told at once.
    pub fn tell(&self) -> String {
        let replay = replay(&self.options);
        match &self.cause {
            Ok(violation) => format!("seed {}: {violation}\nagain: {replay}", self.options.seed),
            Err(error) => format!("the simulation itself fails: {error:#}\nagain: {replay}"),
        }
    }
}

/// What the threads share.
struct Shared {
    next: u64,
    begun: Sum,
    ended: Sum,
    failed: Option<Failed>,
}

/// Runs seed after seed from `first` on, each made of what `make` says, until there are enough; `tell` hears of each that ends.
///
/// # Errors
/// A run breaks something, or the simulation fails; no other is begun then.
pub fn run(
    first: u64,
    amount: Amount,
    make: impl Fn(u64) -> Options + Sync,
    tell: impl Fn(&Finished) + Sync,
) -> Result<Sum, Box<Failed>> {
    let (begun, ended, failed) = Default::default();
    let shared = Mutex::new(Shared { next: first, begun, ended, failed });
    let lock = || shared.lock().unwrap_or_else(PoisonError::into_inner);
    let take = || {
        let mut shared = lock();
        if amount.is_begun(&shared.begun) || shared.failed.is_some() {
            return None;
        }
        let options = make(shared.next);
        shared.next += 1;
        shared.begun.add(&options);
        Some(options)
    };
    let work = || {
        while let Some(options) = take() {
            let started = Instant::now();
            let outcome = scenario::run(&options);
            let mut shared = lock();
            let cause = match outcome {
                Ok(outcome) => match outcome.violation {
                    None => {
                        let tally = outcome.tally;
                        shared.ended.add(&options);
                        shared.ended.tally += tally;
                        let so_far = shared.ended;
                        let took = started.elapsed();
                        tell(&Finished { options, tally, took, so_far });
                        continue;
                    }
                    Some(violation) => Ok(violation),
                },
                Err(error) => Err(error),
            };
            // Of two that fail at once the smaller seed is told, whichever thread was quicker.
            let is_first = |failed: &Failed| options.seed < failed.options.seed;
            if shared.failed.as_ref().is_none_or(is_first) {
                shared.failed = Some(Failed { options, cause });
            }
            return;
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let Shared { ended, failed, .. } = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    match failed {
        None => Ok(ended),
        Some(failed) => Err(Box::new(failed)),
    }
}

/// What a person is told of the least run that breaks something.
pub fn explain(smallest: Option<Smallest>) -> String {
    let Some(Smallest { options, violation, trace }) = smallest else {
        return "the same run breaks nothing now: something in it does not follow from the seed"
            .to_owned();
    };
    let lines: Vec<_> = trace.lines().collect();
    let left_out = lines.len().saturating_sub(LINES_MAX);
    let shown = lines.get(left_out..).unwrap_or_default().join("\n");
    let replay = replay(&options);
    format!(
        "{violation}\nthe last lines of the smallest run that was found ({left_out} before them):\n{shown}\nagain: {replay}"
    )
}

/// The command that runs `options` again.
pub fn replay(options: &Options) -> String {
    let faults: Vec<_> = options.faults.iter().map(|fault| fault.as_str()).collect();
    let faults = if faults.is_empty() { "none".to_owned() } else { faults.join(",") };
    let planted = options.planted.map(|bug| format!(" --planted {bug}")).unwrap_or_default();
    format!(
        "cargo xtask sim --seed {} --agents {} --machines {} --days {} --faults {faults}{planted} --trace",
        options.seed, options.sites, options.machines, options.days
    )
}
