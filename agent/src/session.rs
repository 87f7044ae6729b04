//! Boot sessions: everything that is seen of one attempt of one machine, from its first packet to the call-back of its
//! operating system, under one id.
//!
//! | module | what it is |
//! |---|---|
//! | [`step`] | what a session and its steps are, as they are kept and told |
//! | [`outcome`] | how a session stands: called back, left to its disk, or stuck, and where |
//! | [`ring`] | the last sessions, and which of them an observation belongs to; without I/O |
//! | [`render`] | the timeline as a person reads it |
//! | [`recorder`] | the shell that the servers tell what they see: clock, chance, the neighbour table |
//! | [`journal`] | the files that keep sessions over a restart |
//! | [`teller`] | hands sessions to the controller, best effort |
//! | [`route`] | `GET /api/v1/agent/boots` |

pub mod journal;
mod neighbours;
pub(crate) mod recall;
pub mod recorder;
pub mod ring;
pub mod route;
pub mod teller;

pub use pureboot_protocol::session::{outcome, render, step};
