//! Changes that the controller has not acknowledged yet.
