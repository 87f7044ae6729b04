//! The blocks between what a machine has and what was sent to it: which go out next, and when again.
//!
//! An ACK below the end of the window makes the flight go back to the block behind it, but only once for each number, and not
//! if the machine merely acknowledges blocks that it got twice because the flight went back before. Both limits keep a machine
//! that acknowledges every block that it did not expect from multiplying the traffic (F7).

use std::ops::Range;
use std::time::{Duration, Instant};

use super::Outcome;
use super::ahead::ReadAhead;
use super::rtt::RoundTrip;
use crate::tftp::packet::DATA_HEADER_LEN;

/// The most datagrams in one [`super::Output::Send`]: `UDP_MAX_SEGMENTS` of Linux.
const BURST_DATAGRAMS_MAX: u64 = 64;
/// The most bytes in one [`super::Output::Send`]: what fits one IPv4 packet, which is what Linux cuts into datagrams.
const BURST_LEN_MAX: usize = 65_507;

/// How often anything is sent at least before the machine is given up.
const SENDS_MAX: u8 = 5;
/// The same before the machine has answered at all: the request may bear somebody else's address (F10).
pub(super) const SENDS_UNANSWERED_MAX: u8 = 3;
/// How long a machine may leave the first answer unacknowledged.
pub(super) const UNANSWERED_MAX: Duration = Duration::from_secs(5);
/// The shortest silence after which a machine is given up: a switch port that comes back needs a few seconds.
const SILENCE_MIN: Duration = Duration::from_secs(10);
/// How long a machine may repeat itself without getting on.
const STANDSTILL_MAX: Duration = Duration::from_secs(60);
/// How long a read may take.
const READ_MAX: Duration = Duration::from_secs(10);

/// The file as blocks. They are counted from 1, without roll-over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(super) size_bytes: u64,
    pub(super) block_len: u16,
    pub(super) window: u16,
    /// The number of the last block, the first one shorter than `block_len`, even an empty one (RFC 1350 §6).
    pub(super) last: u64,
}

impl Layout {
    /// Where in the file `block` begins.
    pub(super) fn offset(&self, block: u64) -> u64 {
        self.size_bytes.min((block - 1).saturating_mul(self.block_len.into()))
    }

    /// Where in the file `block` ends.
    pub(super) fn end(&self, block: u64) -> u64 {
        self.offset(block + 1)
    }

    /// The last block that may be on the wire while `acked` is the last one acknowledged.
    pub(super) fn window_end(&self, acked: u64) -> u64 {
        self.last.min(acked + u64::from(self.window))
    }
}

/// What is on the wire, and what goes there next.
#[derive(Debug)]
pub(super) struct Flight {
    layout: Layout,
    /// The last block that the machine has, with all before it.
    acked: u64,
    /// The block to put on the wire next.
    next: u64,
    /// The last block that was ever put on the wire.
    highest: u64,
    /// Whether the machine has answered yet.
    is_answered: bool,
    /// How often the block after `acked` was sent since the machine was last heard.
    sends_unheard: u8,
    /// How many waits in vain there were for the block after `acked`.
    doublings: u32,
    heard_at: Instant,
    progress_at: Instant,
    round_trip: RoundTrip,
    /// A block that was sent once and when, to measure the round trip by.
    timed: Option<(u64, Instant)>,
    /// Whether an ACK made the flight go back to the block after `acked` already.
    is_restarted: bool,
    doubled: Doubled,
    /// The time of the last input.
    now: Instant,
    deadline: Instant,
}

/// The blocks that were on the wire when the flight went back, so that the machine may get them twice.
#[derive(Debug, Clone, Copy, Default)]
struct Doubled {
    first: u64,
    last: u64,
    /// How many repeated ACKs they still explain: EDK2 acknowledges every block that it did not expect.
    acks: u64,
}

/// What an input leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// There may be something to send.
    Continue,
    /// The machine has all blocks, or is not there any more.
    Ended(Outcome),
    /// The disk does not answer.
    Stalled,
}

impl Flight {
    /// Everything is still to be sent.
    pub(super) fn new(
        layout: Layout,
        is_answered: bool,
        round_trip: RoundTrip,
        now: Instant,
    ) -> Self {
        Self {
            layout,
            acked: 0,
            next: 1,
            highest: 0,
            is_answered,
            sends_unheard: 0,
            doublings: 0,
            heard_at: now,
            progress_at: now,
            round_trip,
            timed: None,
            is_restarted: false,
            doubled: Doubled::default(),
            now,
            deadline: now + READ_MAX,
        }
    }

    /// Whether the machine has answered yet.
    pub(super) fn is_answered(&self) -> bool {
        self.is_answered
    }

    /// Where in the file what the machine has ends.
    pub(super) fn acked_end(&self) -> u64 {
        self.layout.end(self.acked)
    }

    /// Where in the file what may go on the wire ends.
    pub(super) fn needed_end(&self) -> u64 {
        self.layout.end(self.window_end())
    }

    /// When [`Flight::handle_timeout`] is due.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The blocks that can leave in one burst now.
    pub(super) fn ready(&self, ahead: &ReadAhead) -> Range<u64> {
        let datagram_len = DATA_HEADER_LEN + usize::from(self.layout.block_len);
        let fitting = u64::try_from(BURST_LEN_MAX / datagram_len).unwrap_or(1);
        let burst_end = self.next + fitting.min(BURST_DATAGRAMS_MAX);
        let end = burst_end.min(self.window_end() + 1);
        let is_read = |block: &u64| ahead.reaches(self.layout.end(*block));
        let last = (self.next..end).rev().find(is_read);
        self.next..last.map_or(self.next, |last| last + 1)
    }

    /// Notes that the blocks before `end` are on the wire, and tells how many of them were before.
    pub(super) fn handle_sent(&mut self, end: u64) -> u64 {
        if self.next == self.acked + 1 {
            self.sends_unheard = self.sends_unheard.saturating_add(1);
        }
        let resends = (self.highest + 1).min(end).saturating_sub(self.next);
        self.next = end;
        if end > self.highest + 1 {
            self.highest = end - 1;
            self.timed = self.timed.or(Some((self.highest, self.now)));
        }
        self.wait();
        resends
    }

    /// Notes the time.
    pub(super) fn handle_read(&mut self, now: Instant) {
        self.now = now;
    }

    /// Learns that it is `now`.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Effect {
        if now < self.deadline {
            return Effect::Continue;
        }
        self.now = now;
        if self.is_reading() {
            return Effect::Stalled;
        }
        if self.is_hopeless() {
            return Effect::Ended(self.given_up());
        }
        self.doublings += 1;
        self.is_restarted = false;
        self.go_back();
        Effect::Continue
    }

    /// Takes an ACK by the number on the wire.
    pub(super) fn handle_ack(&mut self, number: u16, now: Instant) -> Effect {
        // The window is far smaller than the numbers, so the distance from the last ACK tells one roll-over from the next.
        let distance = u64::from(number.wrapping_sub(on_the_wire(self.acked)));
        let acked = self.acked + distance;
        if acked > self.highest {
            return Effect::Continue;
        }
        self.now = now;
        self.heard_at = now;
        if distance == 0 {
            self.handle_repeated_ack();
            return Effect::Continue;
        }
        self.acked = acked;
        self.next = self.next.max(acked + 1);
        self.is_answered = true;
        self.sends_unheard = 0;
        self.doublings = 0;
        self.progress_at = now;
        self.is_restarted = false;
        if let Some((block, sent_at)) = self.timed
            && acked >= block
        {
            self.round_trip.measure(now - sent_at);
            self.timed = None;
        }
        if acked <= self.doubled.last {
            self.doubled.acks = self.doubled.last + 1 - self.doubled.first;
        } else {
            self.doubled = Doubled::default();
            if acked < self.highest {
                self.is_restarted = true;
                self.go_back();
            }
        }
        self.wait();
        if acked == self.layout.last { Effect::Ended(Outcome::Complete) } else { Effect::Continue }
    }

    fn handle_repeated_ack(&mut self) {
        if self.sends_unheard >= SENDS_MAX {
            // The machine was about to be given up, but it is there.
            self.sends_unheard = 1;
            self.wait();
        }
        self.sends_unheard = self.sends_unheard.min(1);
        if self.layout.window == 1 || self.is_restarted {
            return;
        }
        if self.doubled.acks > 0 {
            self.doubled.acks -= 1;
        } else {
            self.is_restarted = true;
            self.go_back();
        }
    }

    /// Sends everything behind `acked` again.
    fn go_back(&mut self) {
        self.doubled = Doubled { first: self.acked + 1, last: self.highest, acks: 0 };
        self.next = self.acked + 1;
        self.timed = None;
    }

    fn window_end(&self) -> u64 {
        self.layout.window_end(self.acked)
    }

    /// Whether the window has blocks that are not sent, which can only wait for a read.
    fn is_reading(&self) -> bool {
        self.next <= self.window_end()
    }

    /// Sets the deadline by what is waited for.
    fn wait(&mut self) {
        let wait = self.round_trip.wait(self.doublings);
        self.deadline = if self.is_reading() {
            self.now + READ_MAX
        } else if !self.is_answered {
            let end = self.progress_at + UNANSWERED_MAX;
            let is_last = self.sends_unheard >= SENDS_UNANSWERED_MAX;
            if is_last { end } else { end.min(self.now + wait) }
        } else {
            self.now + wait
        };
    }

    /// Whether to give the machine up rather than send again.
    fn is_hopeless(&self) -> bool {
        let patience = self.round_trip.wait(self.doublings) * u32::from(SENDS_MAX);
        if !self.is_answered {
            return self.now >= self.progress_at + UNANSWERED_MAX;
        }
        // On a LAN the first five are over within two seconds, so they go on until the silence has been long enough.
        let is_silent = self.now >= self.heard_at + SILENCE_MIN;
        self.sends_unheard >= SENDS_MAX && is_silent
            || self.now >= self.progress_at + patience.max(STANDSTILL_MAX)
    }

    /// How it ends if the machine is not there any more.
    pub(super) fn given_up(&self) -> Outcome {
        if self.highest == self.layout.last { Outcome::Unconfirmed } else { Outcome::Silent }
    }
}

/// The number of `block` in a datagram: it rolls over from 65,535 to 0.
pub(super) fn on_the_wire(block: u64) -> u16 {
    u16::try_from(block & 0xffff).unwrap_or_default()
}
