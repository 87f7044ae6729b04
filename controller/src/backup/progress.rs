//! How far it is, for a person at a terminal.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often it is told.
const PERIOD: Duration = Duration::from_millis(500);

/// Tells how much has been done, where standard error is a terminal.
pub(super) struct Progress {
    verb: &'static str,
    bytes: u64,
    is_shown: bool,
    shown_at: Instant,
}

impl Progress {
    pub(super) fn new(verb: &'static str) -> Self {
        let is_shown = std::io::stderr().is_terminal();
        Self { verb, bytes: 0, is_shown, shown_at: Instant::now() }
    }

    /// So many more bytes are done.
    pub(super) fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        if self.is_shown && self.shown_at.elapsed() >= PERIOD {
            self.shown_at = Instant::now();
            let megabytes = self.bytes / 1_000_000;
            // A terminal that is gone needs no news.
            _ = write!(std::io::stderr(), "\r\x1b[K{}: {megabytes} MB", self.verb);
        }
    }

    /// Leaves the line free.
    pub(super) fn end(self) {
        if self.is_shown {
            _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
