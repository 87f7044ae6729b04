//! From the question of a machine to its script.
//!
//! [`request`] reads the question. It knows no socket, clock or database.

pub mod request;
