//! Everything that is said to the controller: who it is, whether it can be reached, joining, heartbeats, questions, changes.
//!
//! `connectivity.rs`, `orders.rs` and `url.rs` know no socket; `floor.rs` says what time it is at the least. `controller.rs` is the one place that knows the controller's paths; nothing that
//! comes from a machine reaches a path or a header there, only parsed ids do. `orders.rs` says what of the centre's orders is to be
//! carried out and what is told of them; `obey.rs` carries them out.

pub mod connectivity;
pub mod controller;
pub mod courier;
pub mod floor;
pub mod heartbeat;
pub mod join;
pub mod memory;
pub mod obey;
pub mod orders;
mod patience;
pub mod rotate;
pub mod run;
pub mod standing;
pub mod tenure;
#[cfg(test)]
pub(crate) mod testing;
pub mod tls;
pub mod url;
