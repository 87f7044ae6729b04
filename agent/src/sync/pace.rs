//! How fast content may come over the line, so that it does not fill it. Times come in.

use std::time::{Duration, Instant};

/// How much may come at once after a rest.
const BURST: Duration = Duration::from_millis(250);

/// A limit in bytes per second, over all that share it.
#[derive(Debug)]
pub struct Pace {
    bytes_per_second: Option<u64>,
    /// When everything that has come would have come at the allowed pace.
    paid_until: Option<Instant>,
}

impl Pace {
    /// Without a limit nothing ever waits.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second: bytes_per_second.filter(|limit| *limit > 0), paid_until: None }
    }

    /// `len` bytes have come: how long to wait before more are read.
    pub fn handle_bytes(&mut self, len: usize, now: Instant) -> Duration {
        let Some(limit) = self.bytes_per_second else { return Duration::ZERO };
        let cost = Duration::from_secs_f64(len as f64 / limit as f64);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let paid_until = self.paid_until.map_or(earliest, |until| until.max(earliest)) + cost;
        self.paid_until = Some(paid_until);
        paid_until.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n10_content_comes_no_faster_than_it_may() {
        let (mut pace, start) = (Pace::new(Some(1_000)), crate::clock::monotonic());
        let mut now = start;
        for _ in 0..100 {
            now += pace.handle_bytes(100, now);
        }
        assert_eq!((now - start).as_millis(), 10_000 - BURST.as_millis());
        now += Duration::from_secs(3_600);
        assert_eq!(
            pace.handle_bytes(100, now),
            Duration::ZERO,
            "a rest is not saved up, but for a burst"
        );
        assert!(pace.handle_bytes(1_000, now) > Duration::from_millis(700));
    }

    #[test]
    fn without_a_limit_nothing_waits() {
        let now = crate::clock::monotonic();
        assert_eq!(Pace::new(None).handle_bytes(usize::MAX, now), Duration::ZERO);
        assert_eq!(Pace::new(Some(0)).handle_bytes(usize::MAX, now), Duration::ZERO);
    }
}
