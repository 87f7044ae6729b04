//! What is owed to a session that has changed: to be written down, to be told.

use std::time::{Duration, Instant};

/// How long a session is left alone after its last step: most of a boot is then done at once.
const QUIET: Duration = Duration::from_secs(20);

/// One thing that is to be done whenever a session has changed and has come to rest.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Duty {
    /// Since when it is owed.
    since: Option<Instant>,
    /// When it was last done.
    done_at: Option<Instant>,
}

impl Duty {
    /// The session has changed.
    pub(super) fn owe(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// What was taken could not be done: it is owed as if it had never been taken.
    pub(super) fn put_back(&mut self, now: Instant) {
        self.done_at = None;
        self.owe(now);
    }

    /// Whether it is to be done now, to a session whose last step was at `last`; it then counts as done.
    /// While the session does not come to rest, it is done again after `rest`.
    pub(super) fn take(&mut self, last: Instant, now: Instant, rest: Duration) -> bool {
        let is_older = |then: Instant, limit| now.saturating_duration_since(then) >= limit;
        let is_first = self.done_at.is_none_or(|done| is_older(done, rest));
        let is_due = |since| is_first && is_older(last, QUIET) || is_older(since, rest);
        let is_taken = self.since.is_some_and(is_due);
        if is_taken {
            *self = Self { since: None, done_at: Some(now) };
        }
        is_taken
    }

    /// Whether it is owed at all; it then counts as done.
    pub(super) fn take_always(&mut self) -> bool {
        self.since.take().is_some()
    }
}
