//! Content comes by itself: the controller's signed manifest, what is missing of it, and one fetch for all who ask.

pub mod config;
pub mod demand;
pub mod fetch;
pub mod flights;
pub mod housekeeper;
pub mod jury;
pub mod keeper;
pub mod line;
pub mod manifest;
mod obedience;
pub mod pace;
pub mod pieces;
pub mod pinned;
pub mod plan;
pub mod report;
pub mod rhythm;
pub mod run;
pub mod schedule;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod through;
pub mod verdicts;
pub mod wishes;
