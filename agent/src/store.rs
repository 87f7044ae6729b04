//! The thread that owns `state/site.db`.
