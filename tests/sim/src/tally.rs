//! How much has happened.

use std::fmt;
use std::ops::AddAssign;

/// What was counted in a run, or in many. Each of them went through the product's own code, and none is an estimate.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Scripts that machines got.
    pub scripts: u64,
    /// Reports that machines made; one that is repeated counts once.
    pub reports: u64,
    /// Requests of agents that the controller has answered.
    pub requests: u64,
    /// Changes that the controller has taken, as often as they were sent.
    pub changes: u64,
    /// Starts of agents.
    pub starts: u64,
    /// Faults that happened.
    pub faults: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.scripts += other.scripts;
        self.reports += other.reports;
        self.requests += other.requests;
        self.changes += other.changes;
        self.starts += other.starts;
        self.faults += other.faults;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scripts, reports, requests, changes, starts, faults } = self;
        write!(
            f,
            "{scripts} scripts, {reports} reports, {requests} requests, {changes} changes, {starts} starts, {faults} faults"
        )
    }
}
