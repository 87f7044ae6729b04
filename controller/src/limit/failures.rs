//! How often somebody may fail: a count within a sliding time, without a clock of its own.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Keys that are remembered; the one that failed longest ago is forgotten for a further one.
const KEYS_MAX: usize = 4_096;

/// The failures of the last time, by key.
#[derive(Debug)]
pub(crate) struct FailureLimit<K> {
    failures_max: usize,
    window: Duration,
    failures: HashMap<K, VecDeque<Instant>>,
}

impl<K: Copy + Eq + Hash> FailureLimit<K> {
    /// At most `failures_max` of a key within `window`.
    pub(crate) fn new(failures_max: usize, window: Duration) -> Self {
        Self { failures_max: failures_max.max(1), window, failures: HashMap::new() }
    }

    /// How long `key` has to wait before it may try again; none if it may now.
    pub(crate) fn wait(&self, key: K, now: Instant) -> Option<Duration> {
        let times = self.failures.get(&key)?;
        let counted = times.len().checked_sub(self.failures_max)?;
        let oldest = *times.get(counted)?;
        (oldest + self.window).checked_duration_since(now).filter(|wait| !wait.is_zero())
    }

    /// Counts a failure of `key`.
    pub(crate) fn fail(&mut self, key: K, now: Instant) {
        if !self.failures.contains_key(&key) && self.failures.len() >= KEYS_MAX {
            let latest = |times: &VecDeque<Instant>| times.back().copied();
            let oldest = self.failures.iter().min_by_key(|(_, times)| latest(times));
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                self.failures.remove(&oldest);
            }
        }
        let times = self.failures.entry(key).or_default();
        times.push_back(now);
        if times.len() > self.failures_max {
            times.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    #[test]
    fn a9_the_tenth_failure_of_a_minute_closes_the_door_until_the_first_is_a_minute_old() {
        let (mut limit, start) = (FailureLimit::new(10, WINDOW), Instant::now());
        for second in 0..10 {
            let now = start + Duration::from_secs(second);
            assert_eq!(limit.wait(1, now), None);
            limit.fail(1, now);
        }
        let later = start + Duration::from_secs(20);
        assert_eq!(limit.wait(1, later), Some(Duration::from_secs(40)));
        assert_eq!(limit.wait(2, later), None);
        assert_eq!(limit.wait(1, start + WINDOW), None);
        limit.fail(1, start + WINDOW);
        assert_eq!(limit.wait(1, start + WINDOW), Some(Duration::from_secs(1)));
    }

    #[test]
    fn i7_no_more_keys_are_remembered_than_the_limit() {
        let (mut limit, start) = (FailureLimit::new(10, WINDOW), Instant::now());
        for number in 0..5_000_u32 {
            limit.fail(number, start + Duration::from_millis(number.into()));
        }
        assert_eq!(limit.failures.len(), KEYS_MAX);
        assert!(limit.failures.contains_key(&4_999));
    }
}
