//! How often something may happen: a token bucket. Without a clock: the time comes in.

use std::time::Instant;

/// How often something may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// In the long run.
    pub per_second: u32,
    /// At once.
    pub burst: u32,
}

/// How often it may happen still.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    /// As much as may happen at once.
    pub fn full(rate: Rate, now: Instant) -> Self {
        Self { left: rate.burst.into(), at: now }
    }

    fn level(&self, rate: Rate, now: Instant) -> f64 {
        let gained =
            now.saturating_duration_since(self.at).as_secs_f64() * f64::from(rate.per_second);
        (self.left + gained).min(rate.burst.into())
    }

    /// Whether so much may happen at once as ever: then it need not be remembered.
    pub fn is_full(&self, rate: Rate, now: Instant) -> bool {
        self.level(rate, now) >= f64::from(rate.burst)
    }

    /// Whether it may happen once more now; it then has.
    pub fn take(&mut self, rate: Rate, now: Instant) -> bool {
        *self = Self { left: self.level(rate, now), at: now };
        let is_left = self.left >= 1.0;
        if is_left {
            self.left -= 1.0;
        }
        is_left
    }
}
