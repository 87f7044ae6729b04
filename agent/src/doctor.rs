//! `pureboot-agent doctor`: what is wrong with this host before a machine boots, and what went wrong after one did.
//!
//! Every check is a pure function from what was read (a file of `/proc`, an answer, a packet, a boot session) to [findings](finding::Finding), each of
//! which names the cause and the cure. [`probe`] is the shell that reads, and the one place where time limits stand.

pub mod central;
pub mod diagnose;
pub mod finding;
pub mod host;
pub mod ports;
pub mod probe;
mod proc;
pub mod servers;
