//! Other versions of the agent.
//!
//! [`journal`] is what is remembered of them, and all decisions; it knows no file, no clock and no process. [`files`] is where they lie.

pub mod files;
pub mod journal;
pub mod release;
