//! Whether the controller seems to be in reach. Advice, never a gate: changes go to the outbox in every state.

use pureboot_protocol::Timestamp;

/// Failed checks in a row after which the controller counts as away.
const FAILURES_MAX: u32 = 3;

/// What the last calls to the controller say about the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// Nobody has called yet.
    Untried,
    /// The last call was answered.
    Connected {
        /// Since when all calls were.
        since: Timestamp,
    },
    /// Some calls failed, fewer than make it offline.
    Degraded {
        /// Failed checks in a row.
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

/// What a failed call proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// It had all the time that an answer may take.
    Check,
    /// The line may be no worse than slow: the call was cut short because a machine waited, or the controller answered that
    /// something fails there.
    Hint,
}

/// What a former life of the agent has left behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Remembered {
    /// Since when the controller was away; none if it answered.
    pub offline_since: Option<Timestamp>,
    /// When it last answered, as of the last time that it was lost.
    pub last_online_at: Option<Timestamp>,
}

/// Counts answered and failed calls.
#[derive(Debug)]
pub struct Connectivity {
    line: Line,
    last_online_at: Option<Timestamp>,
    /// Since when the controller was away before this life began.
    was_away_since: Option<Timestamp>,
}

impl Default for Connectivity {
    fn default() -> Self {
        Self::resume(Remembered::default())
    }
}

impl Connectivity {
    /// Nobody has called yet in this life. Where the controller was away in the last one, the first failed check shows that it
    /// still is, and since when.
    pub fn resume(remembered: Remembered) -> Self {
        let Remembered { offline_since, last_online_at } = remembered;
        Self { line: Line::Untried, last_online_at, was_away_since: offline_since }
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
        if let Line::Connected { .. } = self.line {
            return None;
        }
        Some(std::mem::replace(&mut self.line, Line::Connected { since: now }))
    }

    /// A call has failed for the line's sake. Returns the line as it is if that is news.
    pub fn handle_failure(&mut self, weight: Weight, now: Timestamp) -> Option<Line> {
        let (failures, since) = match self.line {
            Line::Untried => {
                self.was_away_since.take().map_or((0, now), |since| (FAILURES_MAX - 1, since))
            }
            Line::Connected { .. } => (0, now),
            Line::Degraded { failures, since } => (failures, since),
            Line::Offline { .. } => return None,
        };
        let failures = match weight {
            Weight::Check => failures + 1,
            Weight::Hint => failures,
        };
        let was_degraded = matches!(self.line, Line::Degraded { .. });
        self.line = if failures < FAILURES_MAX {
            Line::Degraded { failures, since }
        } else {
            Line::Offline { since }
        };
        (!was_degraded || failures == FAILURES_MAX).then_some(self.line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_ms(seconds * 1_000)
    }

    #[test]
    fn three_failed_checks_in_a_row_make_it_offline_since_the_first() {
        let mut connectivity = Connectivity::default();
        assert_eq!(connectivity.handle_answer(at(1)), Some(Line::Untried));
        let degraded = Line::Degraded { failures: 1, since: at(2) };
        assert_eq!(connectivity.handle_failure(Weight::Check, at(2)), Some(degraded));
        assert_eq!(connectivity.handle_failure(Weight::Check, at(3)), None);
        let offline = Line::Offline { since: at(2) };
        assert_eq!(connectivity.handle_failure(Weight::Check, at(4)), Some(offline));
        assert_eq!(connectivity.handle_failure(Weight::Check, at(5)), None);
        assert_eq!(connectivity.line(), offline);
        assert_eq!(connectivity.last_online_at(), Some(at(1)));
    }

    #[test]
    fn a_controller_that_was_away_before_the_restart_is_away_since_then() {
        let remembered = Remembered { offline_since: Some(at(5)), last_online_at: Some(at(4)) };
        let mut connectivity = Connectivity::resume(remembered);
        assert_eq!(
            (connectivity.line(), connectivity.last_online_at()),
            (Line::Untried, Some(at(4)))
        );
        // A machine in a hurry proves nothing; the first check does.
        connectivity.handle_failure(Weight::Hint, at(100));
        assert_eq!(connectivity.line(), Line::Degraded { failures: 2, since: at(5) });
        let offline = Line::Offline { since: at(5) };
        assert_eq!(connectivity.handle_failure(Weight::Check, at(101)), Some(offline));
        // Once it has answered, what was is over.
        connectivity.handle_answer(at(102));
        connectivity.handle_failure(Weight::Check, at(103));
        assert_eq!(connectivity.line(), Line::Degraded { failures: 1, since: at(103) });
        let mut answered = Connectivity::resume(remembered);
        answered.handle_answer(at(100));
        answered.handle_failure(Weight::Check, at(101));
        assert_eq!(answered.line(), Line::Degraded { failures: 1, since: at(101) });
    }

    #[test]
    fn machines_in_a_hurry_make_no_line_offline() {
        let mut connectivity = Connectivity::default();
        connectivity.handle_answer(at(1));
        for second in 2..100 {
            connectivity.handle_failure(Weight::Hint, at(second));
        }
        assert_eq!(connectivity.line(), Line::Degraded { failures: 0, since: at(2) });
    }

    #[test]
    fn one_answer_ends_every_trouble() {
        let mut connectivity = Connectivity::default();
        for second in 1..=5 {
            connectivity.handle_failure(Weight::Check, at(second));
        }
        assert_eq!(connectivity.handle_answer(at(6)), Some(Line::Offline { since: at(1) }));
        assert_eq!(connectivity.line(), Line::Connected { since: at(6) });
        assert_eq!(connectivity.handle_answer(at(7)), None);
        assert_eq!(connectivity.line(), Line::Connected { since: at(6) });
        assert_eq!(connectivity.last_online_at(), Some(at(7)));
    }

    #[test]
    fn failures_with_an_answer_between_them_do_not_add_up() {
        let mut connectivity = Connectivity::default();
        for second in 0..10 {
            connectivity.handle_failure(Weight::Check, at(3 * second));
            connectivity.handle_failure(Weight::Check, at(3 * second + 1));
            connectivity.handle_answer(at(3 * second + 2));
        }
        assert!(matches!(connectivity.line(), Line::Connected { .. }));
    }
}
