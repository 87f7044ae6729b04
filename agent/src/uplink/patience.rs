//! How long a heartbeat may take. Values in, values out.

use std::time::Duration;

use super::controller::{CHECK, UNHURRIED};

/// As long as a check, which finds out soon that the controller is away; on a line on which that is too short to be answered at all,
/// up to what nobody waits for (FAULTS N10: 5 s there and back).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patience(Duration);

impl Default for Patience {
    fn default() -> Self {
        Self(CHECK)
    }
}

impl Patience {
    /// For the next heartbeat.
    pub(super) fn budget(self) -> Duration {
        self.0
    }

    /// No answer came in time.
    pub(super) fn handle_late(&mut self) {
        self.0 = (2 * self.0).min(UNHURRIED);
    }

    /// An answer came after `took`.
    pub(super) fn handle_answer(&mut self, took: Duration) {
        if took < CHECK / 2 {
            self.0 = CHECK;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n10_a_line_that_needs_longer_is_waited_for_and_a_quick_one_is_not() {
        let mut patience = Patience::default();
        assert_eq!(patience.budget(), CHECK);
        patience.handle_late();
        patience.handle_late();
        assert_eq!(patience.budget(), UNHURRIED, "N3: a call ends after 10 s");
        patience.handle_answer(CHECK);
        assert_eq!(patience.budget(), UNHURRIED, "it is as slow as it was");
        patience.handle_answer(CHECK / 5);
        assert_eq!(patience.budget(), CHECK);
    }
}
