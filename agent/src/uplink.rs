//! Everything that is said to the controller.
