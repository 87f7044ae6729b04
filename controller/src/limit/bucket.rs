//! How many requests somebody may make: token buckets, without a clock of their own.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Buckets that are kept: more than there are agents. A bucket that is full again is as good as none.
const BUCKETS_MAX: usize = 65_536;
/// How often full buckets are looked for, at most.
const SWEEP_PERIOD: Duration = Duration::from_secs(1);

/// The buckets, by key. A request takes one token; tokens flow in at a constant rate until the bucket is full.
#[derive(Debug)]
pub(crate) struct Buckets<K> {
    per_second: f64,
    capacity: f64,
    buckets: HashMap<K, Bucket>,
    swept_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl<K: Copy + Eq + Hash> Buckets<K> {
    /// Buckets that `per_second` tokens flow into, and that hold what flows in `burst_seconds`. Without flow there is no limit.
    pub(crate) fn new(per_second: u32, burst_seconds: u32) -> Self {
        let (per_second, burst_seconds) = (f64::from(per_second), f64::from(burst_seconds));
        let capacity = per_second * burst_seconds;
        Self { per_second, capacity, buckets: HashMap::new(), swept_at: None }
    }

    /// Takes a token of `key`; if there is none, answers how long it takes until there is.
    pub(crate) fn take(&mut self, key: K, now: Instant) -> Option<Duration> {
        if self.per_second == 0.0 {
            return None;
        }
        if !self.buckets.contains_key(&key) && !self.has_place(now) {
            // So many are busy at once that counting one more would cost more than it saves.
            return None;
        }
        let full = Bucket { tokens: self.capacity, at: now };
        let level = self.level(self.buckets.get(&key).copied().unwrap_or(full), now);
        let (tokens, wait) = match level - 1.0 {
            left if left >= 0.0 => (left, None),
            debt => (level, Some(Duration::from_secs_f64(-debt / self.per_second))),
        };
        self.buckets.insert(key, Bucket { tokens, at: now });
        wait
    }

    fn level(&self, bucket: Bucket, now: Instant) -> f64 {
        let flown = now.saturating_duration_since(bucket.at).as_secs_f64() * self.per_second;
        (bucket.tokens + flown).min(self.capacity)
    }

    fn has_place(&mut self, now: Instant) -> bool {
        if self.buckets.len() < BUCKETS_MAX {
            return true;
        }
        if self.swept_at.is_some_and(|at| now.saturating_duration_since(at) < SWEEP_PERIOD) {
            return false;
        }
        self.swept_at = Some(now);
        let mut buckets = std::mem::take(&mut self.buckets);
        buckets.retain(|_, bucket| self.level(*bucket, now) < self.capacity);
        self.buckets = buckets;
        self.buckets.len() < BUCKETS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_let_through_and_then_what_flows_in() {
        let (mut buckets, start) = (Buckets::new(5, 2), Instant::now());
        for _ in 0..10 {
            assert_eq!(buckets.take('a', start), None);
        }
        assert_eq!(buckets.take('a', start), Some(Duration::from_millis(200)));
        assert_eq!(buckets.take('b', start), None, "everybody has a bucket of their own");
        let later = start + Duration::from_millis(400);
        assert_eq!([(); 3].map(|()| buckets.take('a', later).is_none()), [true, true, false]);
        let much_later = start + Duration::from_secs(3_600);
        let taken = (0..100).filter(|_| buckets.take('a', much_later).is_none()).count();
        assert_eq!(taken, 10, "a bucket holds no more than a burst");
    }

    #[test]
    fn without_a_rate_there_is_no_limit() {
        let (mut buckets, now) = (Buckets::new(0, 10), Instant::now());
        assert!((0..10_000).all(|_| buckets.take('a', now).is_none()));
        assert!(buckets.buckets.is_empty());
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_gives_nothing_away() {
        let (mut buckets, start) = (Buckets::new(1, 1), Instant::now());
        let later = start + Duration::from_secs(5);
        assert_eq!(buckets.take('a', later), None);
        assert!(buckets.take('a', later).is_some() && buckets.take('a', start).is_some());
    }

    #[test]
    fn i7_no_more_buckets_are_kept_than_the_limit_and_full_ones_make_place() {
        let (mut buckets, start) = (Buckets::new(1, 1), Instant::now());
        for number in 0..=BUCKETS_MAX {
            assert_eq!(buckets.take(number, start), None);
        }
        assert_eq!(buckets.buckets.len(), BUCKETS_MAX);
        buckets.take(usize::MAX, start + Duration::from_secs(2));
        assert_eq!(buckets.buckets.len(), 1);
    }
}
