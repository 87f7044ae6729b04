//! From the question of a machine to its script.
//!
//! [`request`] reads the question, [`decide`] answers it from what is known, [`render`] puts the answer into words that iPXE
//! understands. None of them knows a socket, a clock or a database.

// In the order in which a question passes them, which is not the alphabet's.
pub mod request;

pub mod decide;

pub mod render;
