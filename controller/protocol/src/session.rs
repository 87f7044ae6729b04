//! Boot sessions as both programs tell them: everything that was seen of one attempt of one machine.
//!
//! The agent writes them and keeps the last ones; it hands them to the controller, best effort, so that an operator of forty
//! sites can read why a machine did not boot. They explain the past and decide nothing.

pub mod mode;
pub mod outcome;
pub mod render;
pub mod step;

use serde::{Deserialize, Serialize};

use crate::session::step::Session;

/// How many sessions an agent hands over at a time.
pub const REPORT_SESSIONS_MAX: usize = 50;
/// The longest session, in bytes of JSON: 64 steps with the longest texts that an agent keeps.
pub const SESSION_LEN_MAX: usize = 64 << 10;

/// Sessions as an agent hands them over: those that have come to rest since, and those that have changed. The same session
/// handed over again takes the place of what was said of it before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BootReport {
    /// At most [`REPORT_SESSIONS_MAX`], oldest first.
    pub sessions: Vec<Session>,
}

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BootReceipt {
    /// How many sessions are kept now.
    pub kept: u64,
    /// How many were not understood, or are too long, and need not be handed over again.
    pub skipped: u64,
}
