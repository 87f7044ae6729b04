//! What must hold for any bytes that a machine sends, one module for each door: `check` panics where it does not.
//!
//! libFuzzer calls these from `targets/`; `agent/tests/fuzz.rs` calls them in every run of the gate with the corpus and
//! seeded mutations of it.

pub mod boot_request;
pub mod dhcp_packet;
pub mod http_head;
pub mod tftp_packet;
