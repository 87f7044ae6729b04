//! Everything that is said to the controller.

pub mod url;
