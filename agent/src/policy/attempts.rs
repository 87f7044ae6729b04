//! How often each machine has asked lately, so that a policy can tell one that boots in a loop. Pure.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use pureboot_protocol::Mac;

/// For how long a question counts.
const WINDOW: Duration = Duration::from_secs(600);

/// How many machines are remembered; beyond that all begin anew.
const MACHINES_MAX: usize = 4_096;

/// How many questions of one machine are remembered.
const ATTEMPTS_MAX: usize = 64;

/// The last questions of each machine.
#[derive(Debug, Default)]
pub struct Attempts(HashMap<Mac, VecDeque<Instant>>);

impl Attempts {
    /// Counts a question, and tells how many there were within ten minutes, this one included; 64 at most.
    pub fn note(&mut self, mac: Mac, now: Instant) -> u32 {
        if self.0.len() >= MACHINES_MAX && !self.0.contains_key(&mac) {
            self.0.clear();
        }
        let asked = self.0.entry(mac).or_default();
        asked.retain(|at| now.saturating_duration_since(*at) < WINDOW);
        if asked.len() == ATTEMPTS_MAX {
            asked.pop_front();
        }
        asked.push_back(now);
        u32::try_from(asked.len()).unwrap_or(u32::MAX)
    }

    /// How many there were within ten minutes, with the one that is thought of.
    pub fn next(&self, mac: Mac, now: Instant) -> u32 {
        let is_recent = |at: &&Instant| now.saturating_duration_since(**at) < WINDOW;
        let before = self.0.get(&mac).map_or(0, |asked| asked.iter().filter(is_recent).count());
        u32::try_from(before + 1).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test needs some moment to begin at")]

    use super::*;

    fn mac(number: u16) -> Mac {
        let [high, low] = number.to_be_bytes();
        Mac::from_bytes([0x52, 0x54, 0, 0, high, low]).expect("unicast")
    }

    #[test]
    fn questions_of_the_last_ten_minutes_count() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        assert_eq!(attempts.note(mac(1), now), 1);
        assert_eq!(attempts.note(mac(1), now + WINDOW / 2), 2);
        assert_eq!(attempts.next(mac(1), now + WINDOW / 2), 3);
        assert_eq!(attempts.note(mac(2), now + WINDOW / 2), 1);
        assert_eq!(attempts.note(mac(1), now + WINDOW), 2, "the first one is long ago");
    }

    #[test]
    fn i7_machines_that_are_made_up_take_no_more_room() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        for number in 0..u16::MAX {
            attempts.note(mac(number), now);
            assert!(attempts.0.len() <= MACHINES_MAX);
        }
        for _ in 0..2 * ATTEMPTS_MAX {
            attempts.note(mac(1), now);
        }
        assert_eq!(attempts.note(mac(1), now), 64);
    }
}
