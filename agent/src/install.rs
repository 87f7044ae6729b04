//! Where the agent lives on a machine: its program, its user, its directory, and who starts it.
//!
//! `plan` is pure: what is found on the machine in, steps out. `machine` looks and does, and `lock` keeps others from the files of
//! users meanwhile.

mod lock;
pub mod machine;
pub mod plan;
mod users;
