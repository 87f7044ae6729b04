//! How long one connection is waited for, without clock and without socket.
//!
//! The wire reports what happens; [`Patience::deadline`] says until when the next thing must have happened. Between requests
//! and before an answer the connection is *quiet*: nothing that the service said is on its way, so what hyper writes then is
//! its own.

use std::time::Instant;

use super::Limits;

/// How many bytes of an answer a peer takes at least in [`Limits::stall_time`], so that a reader of single bytes does not
/// hold a connection for ever.
pub(super) const PROGRESS_LEN_MIN: usize = 16_384;

/// The deadlines of one connection.
#[derive(Debug)]
pub(super) struct Patience {
    limits: Limits,
    phase: Phase,
    stall: Option<Stall>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No byte of the next request has come.
    Idle { until: Instant },
    /// The head of a request is to be whole by then.
    Head { until: Instant },
    /// The service has the request, or is still making the body of its answer.
    Answering,
    /// The whole answer is in hyper's buffer.
    Flushing,
}

/// The peer's receive window is full.
#[derive(Debug, Clone, Copy)]
struct Stall {
    since: Instant,
    /// Bytes that the peer took since then.
    taken_len: usize,
}

impl Patience {
    /// A connection that was accepted at `now`.
    pub(super) fn new(limits: Limits, now: Instant) -> Self {
        Self { limits, phase: Phase::Head { until: now + limits.head_time }, stall: None }
    }

    /// Bytes came in.
    pub(super) fn handle_input(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Idle { .. }) {
            self.phase = Phase::Head { until: now + self.limits.head_time };
        }
    }

    /// The head is whole and the service has it.
    pub(super) fn handle_request(&mut self) {
        self.phase = Phase::Answering;
    }

    /// The service gave the last byte of its answer.
    pub(super) fn handle_answer_end(&mut self) {
        self.phase = Phase::Flushing;
    }

    /// The peer takes no byte at the moment.
    pub(super) fn handle_full_window(&mut self, now: Instant) {
        self.stall.get_or_insert(Stall { since: now, taken_len: 0 });
    }

    /// The peer's kernel took `len` bytes.
    pub(super) fn handle_output(&mut self, len: usize) {
        if let Some(stall) = &mut self.stall {
            stall.taken_len = stall.taken_len.saturating_add(len);
            if stall.taken_len >= PROGRESS_LEN_MIN {
                self.stall = None;
            }
        }
    }

    /// Everything that hyper had to write is written.
    pub(super) fn handle_flushed(&mut self, now: Instant) {
        self.stall = None;
        if self.phase == Phase::Flushing {
            self.phase = Phase::Idle { until: now + self.limits.idle_time };
        }
    }

    /// Whether nothing that the service said is on its way.
    pub(super) fn is_quiet(&self) -> bool {
        matches!(self.phase, Phase::Idle { .. } | Phase::Head { .. })
    }

    /// Until when the peer may be idle; none while it is not.
    pub(super) fn idle_until(&self) -> Option<Instant> {
        match self.phase {
            Phase::Idle { until } => Some(until),
            Phase::Head { .. } | Phase::Answering | Phase::Flushing => None,
        }
    }

    /// Whether a request began and its head is not whole.
    pub(super) fn awaits_head(&self) -> bool {
        matches!(self.phase, Phase::Head { .. })
    }

    /// When the peer has been waited for long enough.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let phase_deadline = match self.phase {
            Phase::Idle { until } | Phase::Head { until } => Some(until),
            // The service has its own deadlines, for bodies as for answers.
            Phase::Answering | Phase::Flushing => None,
        };
        let stall_deadline = self.stall.map(|stall| stall.since + self.limits.stall_time);
        [phase_deadline, stall_deadline].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test needs some moment to begin at")]

    use std::time::Duration;

    use super::*;

    fn check(steps: &[(u64, &str)], expected_s: &[Option<u64>]) {
        let start = Instant::now();
        let mut patience = Patience::new(Limits::default(), start);
        let mut seen = vec![];
        for (second, step) in steps {
            let now = start + Duration::from_secs(*second);
            match step.split_once(' ').unwrap_or((step, "")) {
                ("in", _) => patience.handle_input(now),
                ("request", _) => patience.handle_request(),
                ("end", _) => patience.handle_answer_end(),
                ("full", _) => patience.handle_full_window(now),
                ("out", len) => patience.handle_output(len.parse().unwrap()),
                ("flushed", _) => patience.handle_flushed(now),
                other => panic!("no such step: {other:?}"),
            }
            seen.push(patience.deadline().map(|deadline| (deadline - start).as_secs()));
        }
        assert_eq!(seen, expected_s, "{steps:?}");
    }

    #[test]
    fn h1_a_head_has_five_seconds_however_it_drips() {
        check(&[(1, "in"), (2, "in"), (4, "in")], &[Some(5), Some(5), Some(5)]);
    }

    #[test]
    fn between_requests_a_connection_may_be_idle_for_thirty_seconds() {
        check(
            &[(1, "request"), (2, "end"), (3, "flushed"), (20, "in"), (24, "in")],
            &[None, None, Some(33), Some(25), Some(25)],
        );
    }

    #[test]
    fn h9_a_reader_of_single_bytes_is_given_up() {
        check(
            &[(0, "request"), (1, "full"), (20, "out 1"), (21, "full"), (30, "out 1")],
            &[None, Some(31), Some(31), Some(31), Some(31)],
        );
    }

    #[test]
    fn h9_a_slow_reader_that_makes_progress_is_waited_for() {
        check(
            &[(0, "request"), (1, "full"), (20, "out 16384"), (21, "full"), (22, "flushed")],
            &[None, Some(31), None, Some(51), None],
        );
    }

    #[test]
    fn a_service_that_thinks_is_not_the_peers_fault() {
        check(&[(0, "request"), (0, "flushed"), (100, "in")], &[None, None, None]);
    }
}
