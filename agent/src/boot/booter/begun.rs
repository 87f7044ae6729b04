//! Boot sessions whose beginning is on disk already, so that a machine which asks again in the same one costs no write.
//!
//! It holds no decision: whoever gives an installer writes that down in any case, before it is given.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use pureboot_protocol::{BootId, BootRequest, Mac};

/// For how long a beginning counts as written: after that the machine is written down as seen once more.
const LIFETIME: Duration = Duration::from_secs(60);

/// How many machines are remembered; what is forgotten is written once more.
const MACHINES_MAX: usize = 4_096;

/// The last session of each machine that was written down by this run.
#[derive(Debug, Default)]
pub(super) struct Begun(HashMap<Mac, Beginning>);

#[derive(Debug)]
struct Beginning {
    session: BootId,
    request: BootRequest,
    written_at: Instant,
}

impl Begun {
    /// Whether nothing would be new on disk if `session` began with this request now.
    pub(super) fn has(&self, session: BootId, request: &BootRequest, now: Instant) -> bool {
        self.0.get(&request.mac).is_some_and(|beginning| {
            beginning.session == session
                && beginning.request == *request
                && now.saturating_duration_since(beginning.written_at) < LIFETIME
        })
    }

    /// All of it is on disk.
    pub(super) fn note(&mut self, session: BootId, request: BootRequest, now: Instant) {
        if self.0.len() >= MACHINES_MAX {
            self.0.clear();
        }
        self.0.insert(request.mac, Beginning { session, request, written_at: now });
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test needs some moment to begin at")]

    use super::*;

    fn request(last: u8) -> BootRequest {
        BootRequest::new(Mac::from_bytes([0x52, 0x54, 0, 0, 0, last]).expect("unicast"))
    }

    #[test]
    fn only_the_same_question_in_the_same_session_is_nothing_new() {
        let (now, session) = (Instant::now(), BootId::from_random([1; 16]));
        let mut begun = Begun::default();
        begun.note(session, request(1), now);
        assert!(begun.has(session, &request(1), now));
        assert!(!begun.has(BootId::from_random([2; 16]), &request(1), now), "another session");
        assert!(!begun.has(session, &request(2), now), "another machine");
        let mut more = request(1);
        more.learn("serial", "A1");
        assert!(!begun.has(session, &more, now), "it says more about itself");
        assert!(!begun.has(session, &request(1), now + LIFETIME), "it is seen again");
        begun.note(BootId::from_random([2; 16]), request(1), now);
        assert!(!begun.has(session, &request(1), now), "an earlier session of the machine");
    }

    #[test]
    fn i7_machines_that_are_made_up_take_no_more_room() {
        let mut begun = Begun::default();
        for number in 0..2 * u32::try_from(MACHINES_MAX).expect("a few") {
            let [a, b, c, d] = number.to_be_bytes();
            let mac = Mac::from_bytes([0x52, a, b, c, d, 0]).expect("unicast");
            begun.note(BootId::from_random([1; 16]), BootRequest::new(mac), Instant::now());
            assert!(begun.0.len() <= MACHINES_MAX);
        }
    }
}
