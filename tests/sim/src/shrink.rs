//! The least that still fails: fewer faults, fewer machines, a shorter time.

use anyhow::Result;

use crate::oracle::Violation;
use crate::scenario::{self, Options};

/// A run is not repeated more often than this to make it smaller.
const RUNS_MAX: usize = 60;

/// A failing run, made as small as could be done.
#[derive(Debug)]
pub struct Smallest {
    /// What it is made of.
    pub options: Options,
    /// What it breaks: the same invariant as the run that was begun with.
    pub violation: Violation,
    /// Everything that happens in it.
    pub trace: String,
}

/// Makes a run smaller that breaks something; none if it breaks nothing.
///
/// # Errors
/// The simulation itself fails.
pub fn shrink(options: &Options) -> Result<Option<Smallest>> {
    let Some(mut smallest) = attempt(options, None)? else { return Ok(None) };
    let mut runs = 0;
    loop {
        let mut has_shrunk = false;
        for candidate in candidates(&smallest.options) {
            runs += 1;
            if runs > RUNS_MAX {
                return Ok(Some(smallest));
            }
            if let Some(smaller) = attempt(&candidate, Some(&smallest.violation))? {
                smallest = smaller;
                has_shrunk = true;
                break;
            }
        }
        if !has_shrunk {
            return Ok(Some(smallest));
        }
    }
}

fn attempt(options: &Options, wanted: Option<&Violation>) -> Result<Option<Smallest>> {
    let outcome = scenario::run(options)?;
    let violation = outcome
        .violation
        .filter(|found| wanted.is_none_or(|wanted| wanted.invariant == found.invariant));
    Ok(violation.map(|violation| Smallest {
        options: options.clone(),
        violation,
        trace: outcome.trace,
    }))
}

/// What is a little less than `options`, the largest steps first.
fn candidates(options: &Options) -> Vec<Options> {
    let mut candidates = Vec::new();
    for days in [options.days / 2, options.days * 3 / 4, options.days * 9 / 10] {
        if days > 0 && days < options.days {
            candidates.push(Options { days, ..options.clone() });
        }
    }
    if options.sites > 1 {
        candidates.push(Options { sites: options.sites - 1, ..options.clone() });
    }
    if options.machines > 1 {
        candidates.push(Options { machines: options.machines - 1, ..options.clone() });
    }
    for fault in &options.faults {
        let mut fewer = options.clone();
        fewer.faults.remove(fault);
        candidates.push(fewer);
    }
    candidates
}
