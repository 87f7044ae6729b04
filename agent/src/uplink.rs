//! Everything that is said to the controller: who it is, whether it can be reached, joining, heartbeats, questions, changes.
//!
//! `connectivity.rs` and `url.rs` know no socket. `controller.rs` is the one place that knows the controller's paths; nothing that
//! comes from a machine reaches a path or a header there, only parsed ids do.

pub mod connectivity;
pub mod controller;
pub mod courier;
pub mod heartbeat;
pub mod join;
pub mod rotate;
pub mod run;
pub mod standing;
pub mod tls;
pub mod url;
