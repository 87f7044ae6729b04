//! How long to wait for an answer, from how long answers took (RFC 6298).

use std::time::Duration;

/// What is waited before any answer was measured.
const WAIT_FIRST: Duration = Duration::from_secs(1);
const WAIT_MIN: Duration = Duration::from_millis(100);
/// The longest wait, doubled or not.
const WAIT_MAX: Duration = Duration::from_secs(3);

/// The round trip to one machine: what it asked for, else what was measured.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RoundTrip {
    asked: Option<Duration>,
    measured: Option<Measured>,
}

#[derive(Debug, Clone, Copy)]
struct Measured {
    smoothed: Duration,
    variation: Duration,
}

impl RoundTrip {
    /// Nothing measured yet. A machine that `asked` for a wait gets exactly that.
    pub(super) fn new(asked: Option<Duration>) -> Self {
        Self { asked, measured: None }
    }

    /// Takes the time from a datagram that was sent once to its answer.
    pub(super) fn measure(&mut self, sample: Duration) {
        self.measured = Some(match self.measured.take() {
            None => Measured { smoothed: sample, variation: sample / 2 },
            Some(Measured { smoothed, variation }) => Measured {
                smoothed: (smoothed * 7 + sample) / 8,
                variation: (variation * 3 + smoothed.abs_diff(sample)) / 4,
            },
        });
    }

    /// How long to wait for an answer after `doublings` waits in vain.
    pub(super) fn wait(&self, doublings: u32) -> Duration {
        if let Some(asked) = self.asked {
            return asked;
        }
        let wait = self.measured.as_ref().map_or(WAIT_FIRST, |measured| {
            (measured.smoothed + measured.variation * 4).max(WAIT_MIN)
        });
        wait.saturating_mul(1 << doublings.min(8)).min(WAIT_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(samples_ms: &[u64]) -> RoundTrip {
        let mut round_trip = RoundTrip::default();
        for sample_ms in samples_ms {
            round_trip.measure(Duration::from_millis(*sample_ms));
        }
        round_trip
    }

    #[test]
    fn a_wait_that_was_asked_is_kept_exactly() {
        let mut round_trip = RoundTrip::new(Some(Duration::from_secs(7)));
        round_trip.measure(Duration::from_millis(1));
        assert_eq!(round_trip.wait(4), Duration::from_secs(7));
    }

    #[test]
    fn the_wait_follows_the_round_trip_within_bounds() {
        for (samples_ms, doublings, wait_ms) in [
            (&[][..], 0, 1_000),
            (&[], 1, 2_000),
            (&[], 2, 3_000),
            (&[1], 0, 100),
            (&[1], 3, 800),
            (&[1], 200, 3_000),
            (&[200], 0, 600),
            (&[200, 200], 0, 500),
            (&[10_000], 0, 3_000),
        ] {
            assert_eq!(after(samples_ms).wait(doublings), Duration::from_millis(wait_ms));
        }
    }
}
