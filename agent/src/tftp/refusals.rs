//! How often requests got no answer, why, and whom that hit last: for the log, for `status` and for the doctor.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pureboot_protocol::Timestamp;
use serde::{Deserialize, Serialize};

use super::limits::Refusal;

/// How often the log tells of refusals for one reason.
const NEWS_REST: Duration = Duration::from_secs(60);

/// Refusals for one reason since the agent's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The reason.
    pub reason: Refusal,
    /// How many.
    pub count: u64,
    /// Who asked last.
    pub last_from: IpAddr,
    /// When.
    pub last_at: Timestamp,
}

/// Counts by reason; told by the thread of TFTP, read by whoever wants to know.
#[derive(Debug, Default)]
pub struct Refusals {
    /// With when the log was told last. Held for moments only.
    counts: Mutex<BTreeMap<Refusal, (Refused, Instant)>>,
}

impl Refusals {
    /// Counts one that an operator can do something about; answers whether it is time for a line in the log.
    pub fn note(&self, reason: Refusal, from: IpAddr, last_at: Timestamp, now: Instant) -> bool {
        if reason.cure().is_none() {
            return false;
        }
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((refused, told_at)) = counts.get_mut(&reason) else {
            counts.insert(reason, (Refused { reason, count: 1, last_from: from, last_at }, now));
            return true;
        };
        let count = refused.count.saturating_add(1);
        *refused = Refused { reason, count, last_from: from, last_at };
        let is_news = now.saturating_duration_since(*told_at) >= NEWS_REST;
        if is_news {
            *told_at = now;
        }
        is_news
    }

    /// All of them by reason.
    pub fn entries(&self) -> Vec<Refused> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.values().map(|(refused, _)| *refused).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::monotonic;

    #[test]
    fn a_flood_is_counted_and_fills_no_log() {
        let refusals = Refusals::default();
        let start = monotonic();
        let note = |reason, last: u8, second: u64| {
            let now = start + Duration::from_secs(second);
            refusals.note(reason, [10, 0, 0, last].into(), Timestamp::from_unix_ms(0), now)
        };
        assert!(note(Refusal::Elsewhere, 1, 0));
        assert!((0..1_000).all(|_| !note(Refusal::Elsewhere, 2, 59)));
        assert!(note(Refusal::ClientRate, 3, 59), "another reason is news");
        assert!(note(Refusal::Elsewhere, 4, 60));
        assert!(!note(Refusal::Repeated, 5, 60));
        let entries: Vec<_> =
            refusals.entries().iter().map(|it| (it.reason, it.count, it.last_from)).collect();
        assert_eq!(
            entries,
            [
                (Refusal::Elsewhere, 1_002, [10, 0, 0, 4].into()),
                (Refusal::ClientRate, 1, [10, 0, 0, 3].into())
            ]
        );
    }
}
