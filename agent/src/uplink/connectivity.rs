//! Whether the controller seems to be in reach. Advice, never a gate: changes go to the outbox in every state.

use pureboot_protocol::Timestamp;

/// Failed calls in a row after which the controller counts as away.
const FAILURES_MAX: u32 = 3;

/// What the last calls to the controller say about the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// Nobody has called yet.
    Untried,
    /// The last call was answered.
    Connected,
    /// Some calls failed, fewer than make it offline.
    Degraded {
        /// Failed calls in a row.
        failures: u32,
        /// When the first of them failed.
        since: Timestamp,
    },
    /// The controller is away.
    Offline {
        /// When the first of the failed calls failed.
        since: Timestamp,
    },
}

/// Counts answered and failed calls.
#[derive(Debug)]
pub struct Connectivity {
    line: Line,
    last_online_at: Option<Timestamp>,
}

impl Connectivity {
    /// Knows nothing but when the controller was last heard, if a former life of the agent did.
    pub fn new(last_online_at: Option<Timestamp>) -> Self {
        Self { line: Line::Untried, last_online_at }
    }

    /// The line as it is.
    pub fn line(&self) -> Line {
        self.line
    }

    /// When the controller last answered.
    pub fn last_online_at(&self) -> Option<Timestamp> {
        self.last_online_at
    }

    /// The controller has answered: one answer ends every trouble. Returns the line as it was if that is news.
    pub fn handle_answer(&mut self, now: Timestamp) -> Option<Line> {
        self.last_online_at = Some(now);
        let before = std::mem::replace(&mut self.line, Line::Connected);
        (before != Line::Connected).then_some(before)
    }

    /// A call has failed for the line's sake. Returns the line as it is if that is news.
    pub fn handle_failure(&mut self, now: Timestamp) -> Option<Line> {
        let (failures, since) = match self.line {
            Line::Untried | Line::Connected => (1, now),
            Line::Degraded { failures, since } => (failures + 1, since),
            Line::Offline { .. } => return None,
        };
        self.line = if failures < FAILURES_MAX {
            Line::Degraded { failures, since }
        } else {
            Line::Offline { since }
        };
        (failures == 1 || failures == FAILURES_MAX).then_some(self.line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_ms(seconds * 1_000)
    }

    #[test]
    fn three_failures_in_a_row_make_it_offline_since_the_first() {
        let mut connectivity = Connectivity::new(None);
        assert_eq!(connectivity.handle_answer(at(1)), Some(Line::Untried));
        let degraded = Line::Degraded { failures: 1, since: at(2) };
        assert_eq!(connectivity.handle_failure(at(2)), Some(degraded));
        assert_eq!(connectivity.handle_failure(at(3)), None);
        assert_eq!(connectivity.handle_failure(at(4)), Some(Line::Offline { since: at(2) }));
        assert_eq!(connectivity.handle_failure(at(5)), None);
        assert_eq!(connectivity.line(), Line::Offline { since: at(2) });
        assert_eq!(connectivity.last_online_at(), Some(at(1)));
    }

    #[test]
    fn one_answer_ends_every_trouble() {
        let mut connectivity = Connectivity::new(Some(at(0)));
        for second in 1..=5 {
            connectivity.handle_failure(at(second));
        }
        assert_eq!(connectivity.handle_answer(at(6)), Some(Line::Offline { since: at(1) }));
        assert_eq!(connectivity.line(), Line::Connected);
        assert_eq!(connectivity.handle_answer(at(7)), None);
        assert_eq!(connectivity.last_online_at(), Some(at(7)));
    }

    #[test]
    fn failures_with_an_answer_between_them_do_not_add_up() {
        let mut connectivity = Connectivity::new(None);
        for second in 0..10 {
            connectivity.handle_failure(at(3 * second));
            connectivity.handle_failure(at(3 * second + 1));
            connectivity.handle_answer(at(3 * second + 2));
        }
        assert_eq!(connectivity.line(), Line::Connected);
    }
}
