//! The cage: what the running agent cannot do, whoever has got hold of it.
//!
//! Once every socket is bound, and before there is a second thread, the agent gives up what it will not need again: the rights of root
//! and all capabilities (`rights`), files outside of its data directory and connections to anything but its controller (`ground`), and
//! system calls that it never makes, so also to start a program (`calls`). Each wall is put up as far as the kernel can; what it
//! cannot is told in `status` and in the log, and the agent serves all the same.
//!
//! Nothing here knows what is served. Whoever adds something that opens late, from a new place or by a new system call has to let
//! it through here; the trials in `tests/it/cage.rs` run all of the agent inside.

mod calls;
mod ground;
pub mod rights;

use std::path::Path;

use serde::{Deserialize, Serialize};

use self::rights::Kept;

/// `[cage]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CageConfig {
    /// Off only to find out whether the cage is what stands in the way.
    pub enabled: bool,
}

impl Default for CageConfig {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// What the agent needs of the world once its sockets are bound.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// The one place where it may write.
    pub data_dir: &'a Path,
    /// Certificate authorities that it reads.
    pub ca_file: Option<&'a Path>,
    /// The controller's TCP port.
    pub controller_port: u16,
    /// What it may need to bind again.
    pub kept: Kept,
}

/// How the running agent is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Confinement {
    /// Not at all: switched off by a person.
    Off,
    /// By every wall that is not a gap.
    Closed {
        /// The number of the user whose rights it has.
        user: u32,
        /// The capabilities that it has kept, as the system names them.
        capabilities: Vec<String>,
        /// What this kernel could not do.
        gaps: Vec<Gap>,
    },
}

/// A wall that does not stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Which.
    pub wall: Wall,
    /// Why.
    pub reason: String,
}

/// What the cage is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wall {
    /// No rights beyond those of a plain user.
    Rights,
    /// No file outside of the data directory is written, and few are read.
    Files,
    /// No TCP connection goes anywhere but to the controller's port.
    Connections,
    /// No system call but those that the agent makes.
    Calls,
}

impl Wall {
    /// What is not limited where the wall does not stand.
    fn subject(self) -> &'static str {
        match self {
            Self::Rights => "rights",
            Self::Files => "files",
            Self::Connections => "connections",
            Self::Calls => "system calls",
        }
    }
}

/// Shuts the calling thread, and all that it will start, in. There is no way back.
pub fn close(plan: &Plan<'_>) -> Confinement {
    let mut gaps = Vec::new();
    gaps.extend(rights::drop_all_but(plan.kept).err());
    gaps.extend(ground::stay_on(plan));
    // Last, because the walls above are put up by system calls that nothing needs afterwards.
    gaps.extend(calls::limit().err());
    for Gap { wall, reason } in &gaps {
        log::warn!("the cage is open for {}: {reason}", wall.subject());
    }
    Confinement::Closed { user: rights::user(), capabilities: rights::names(), gaps }
}

impl Confinement {
    /// The cage in one line for a person.
    pub fn describe(&self) -> String {
        match self {
            Self::Off => "OPEN: switched off by [cage] in agent.toml or by --no-cage".to_owned(),
            Self::Closed { user, capabilities, gaps } => {
                let may = match capabilities.as_slice() {
                    [] => format!("as user {user}, without capabilities"),
                    some => format!("as user {user}, with {}", some.join(", ")),
                };
                let open: Vec<_> = gaps
                    .iter()
                    .map(|Gap { wall, reason }| format!("{} ({reason})", wall.subject()))
                    .collect();
                match open.as_slice() {
                    [] => format!("closed, {may}"),
                    open => format!("OPEN for {}; {may}", open.join(" and ")),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
