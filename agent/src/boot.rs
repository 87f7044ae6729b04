//! From the question of a machine to its script.
//!
//! [`request`] reads the question, [`decide`] answers it from what is known. Neither knows a socket, a clock or a database.

pub mod request;

pub mod decide;
