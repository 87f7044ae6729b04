//! One transfer of one file to one machine, without I/O (RFC 1350, 2347, 7440).
//!
//! Feed one input (`handle_*`), drain [`Transfer::poll_output`] to [`Output::WaitUntil`] or [`Output::Done`], feed the next.
//! The transfer knows no socket, no file and no clock: it asks for the file's bytes ahead of their need, and what is ready of a
//! window leaves as one buffer of equal datagrams.
//!
//! **Sending again.** With a window of one block only the timer resends, whatever ACKs arrive (RFC 1123 §4.2.3.1, the
//! Sorcerer's Apprentice). With a larger one an ACK that repeats itself or falls short of the window says that a block was lost,
//! and the blocks behind it are sent again, once: see `flight.rs`.

mod ahead;
mod flight;
mod rtt;

use std::time::Instant;

use self::ahead::ReadAhead;
pub use self::ahead::{PIECE_BYTES_MAX, Piece};
use self::flight::{Effect, Flight, Layout, SENDS_UNANSWERED_MAX, UNANSWERED_MAX, on_the_wire};
use self::rtt::RoundTrip;
use super::options::Agreement;
use super::packet::{DATA_HEADER_LEN, ErrorCode, Options, Packet, emit_data_header};

/// The transfer of one file to one machine.
#[derive(Debug)]
pub struct Transfer {
    layout: Layout,
    state: State,
    ahead: ReadAhead,
    tally: Tally,
    outgoing: Vec<u8>,
}

/// What the transfer wants done.
#[derive(Debug, PartialEq, Eq)]
pub enum Output<'a> {
    /// Read `len` bytes of the file at `offset`, and feed them to [`Transfer::handle_data`]. Asked once at a time; what else is
    /// to be done does not wait for it.
    Read {
        /// Where in the file.
        offset: u64,
        /// How many bytes.
        len: usize,
    },
    /// Put these datagrams on the wire.
    Send(Datagrams<'a>),
    /// Nothing until an input, or this time, when [`Transfer::handle_timeout`] is due.
    WaitUntil(Instant),
    /// The transfer is over.
    Done(Outcome),
}

/// Datagrams one behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagrams<'a> {
    /// All of them.
    pub bytes: &'a [u8],
    /// The length of each but the last, which may be shorter.
    pub datagram_len: usize,
}

/// How a transfer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every block was acknowledged.
    Complete,
    /// Every block was sent, and the last ACK did not come. Machines do not wait to see it arrive, so most likely it got lost.
    Unconfirmed,
    /// The machine wanted to know the size, or whether the file exists, and hung up as firmware does.
    Probe,
    /// The machine ended it.
    Refused(ErrorCode),
    /// The machine fell silent, or repeated itself without end.
    Silent,
    /// It had to make room for another.
    Displaced,
    /// The file could not be read.
    ReadFailed,
}

/// What a transfer has cost so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Bytes of the file that the machine has acknowledged.
    pub acked_bytes: u64,
    /// Datagrams put on the wire.
    pub datagrams: u64,
    /// How many of them had been sent before.
    pub resends: u64,
}

#[derive(Debug)]
enum State {
    /// The OACK is on the wire, or about to be; ACK 0 accepts it.
    Offering(Offer),
    /// Blocks are on the wire.
    Sending(Flight),
    /// The machine has to be told that the file cannot be read.
    Failing,
    Finished(Outcome),
}

#[derive(Debug)]
struct Offer {
    answer: Options,
    round_trip: RoundTrip,
    is_due: bool,
    sends: u8,
    began: Instant,
    /// When it was last sent, and when it will be again.
    sent_at: Instant,
    deadline: Instant,
}

impl Transfer {
    /// Begins the transfer of a file of `size_bytes`, read `piece_bytes` at a time (at most [`PIECE_BYTES_MAX`]).
    pub fn new(agreement: &Agreement, size_bytes: u64, piece_bytes: usize, now: Instant) -> Self {
        let Agreement { block_len, window, timeout, answer } = *agreement;
        let last = size_bytes / u64::from(block_len.max(1)) + 1;
        let round_trip = RoundTrip::new(timeout);
        let layout = Layout { size_bytes, block_len, window, last };
        let state = if answer.is_empty() {
            State::Sending(Flight::new(layout, false, round_trip, now))
        } else {
            State::Offering(Offer {
                answer,
                round_trip,
                is_due: true,
                sends: 0,
                began: now,
                sent_at: now,
                deadline: now,
            })
        };
        Self {
            layout,
            state,
            ahead: ReadAhead::new(size_bytes, piece_bytes),
            tally: Tally::default(),
            outgoing: Vec::new(),
        }
    }

    /// What it has cost so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Whether the machine has answered, which proves that the request bore its own address.
    pub fn is_answered(&self) -> bool {
        match &self.state {
            State::Offering(_) => false,
            State::Sending(flight) => flight.is_answered(),
            State::Failing | State::Finished(_) => true,
        }
    }

    /// Takes a datagram of the machine.
    pub fn handle_packet(&mut self, packet: Packet<'_>, now: Instant) {
        match (&mut self.state, packet) {
            (State::Offering(offer), Packet::Ack { block: 0 }) => {
                // Karn: the answer to something sent twice measures nothing.
                if offer.sends == 1 {
                    offer.round_trip.measure(now - offer.sent_at);
                }
                self.state = State::Sending(Flight::new(self.layout, true, offer.round_trip, now));
            }
            (State::Offering(_), Packet::Error { code, .. })
                if code == ErrorCode::OPTION_REFUSED || code == ErrorCode::NOT_DEFINED =>
            {
                self.state = State::Finished(Outcome::Probe);
            }
            (State::Offering(_) | State::Sending(_), Packet::Error { code, .. }) => {
                self.state = State::Finished(Outcome::Refused(code));
            }
            (State::Sending(flight), Packet::Ack { block }) => {
                let effect = flight.handle_ack(block, now);
                self.tally.acked_bytes = flight.acked_end();
                self.ahead.release(flight.acked_end());
                self.apply(effect);
            }
            // An ACK of a block that was never sent; the timer sends the OACK again.
            (State::Offering(_), Packet::Ack { .. }) => {}
            // Nothing that a machine that reads has to say. An answer could be answered for ever.
            (
                _,
                Packet::ReadRequest(_)
                | Packet::WriteRequest(_)
                | Packet::Data { .. }
                | Packet::OptionAck(_),
            ) => {}
            (State::Failing | State::Finished(_), _) => {}
        }
    }

    /// Takes what a read brought; other transfers may hold it too. Fewer bytes than asked are fine, none are not.
    pub fn handle_data(&mut self, piece: impl Into<Piece>, now: Instant) {
        if let State::Sending(flight) = &mut self.state {
            flight.handle_read(now);
        }
        if self.ahead.extend(piece.into()).is_err() {
            self.handle_read_error();
        }
    }

    /// Learns that the file cannot be read.
    pub fn handle_read_error(&mut self) {
        if let State::Offering(_) | State::Sending(_) = self.state {
            self.state = State::Failing;
        }
    }

    /// Learns that nobody listens at the machine's port any more.
    pub fn handle_unreachable(&mut self) {
        match &self.state {
            State::Offering(_) => self.state = State::Finished(Outcome::Silent),
            State::Sending(flight) => {
                self.state = State::Finished(flight.given_up());
            }
            State::Failing | State::Finished(_) => {}
        }
    }

    /// Learns that it has to make room for another transfer, perhaps to the same machine.
    pub fn handle_displaced(&mut self) {
        let is_all_sent = |flight: &Flight| flight.given_up() == Outcome::Unconfirmed;
        match &self.state {
            State::Sending(flight) if is_all_sent(flight) => {
                self.state = State::Finished(Outcome::Unconfirmed);
            }
            State::Offering(_) | State::Sending(_) => {
                self.state = State::Finished(Outcome::Displaced);
            }
            State::Failing | State::Finished(_) => {}
        }
    }

    /// Learns that it is `now`, which may be earlier than asked for.
    pub fn handle_timeout(&mut self, now: Instant) {
        match &mut self.state {
            State::Offering(offer) if now >= offer.deadline => {
                if now >= offer.began + UNANSWERED_MAX {
                    self.state = State::Finished(Outcome::Silent);
                } else {
                    offer.is_due = true;
                    offer.sent_at = now;
                }
            }
            State::Sending(flight) => {
                let effect = flight.handle_timeout(now);
                self.apply(effect);
            }
            // The time has not come, or there is nothing to wait for.
            State::Offering(_) | State::Failing | State::Finished(_) => {}
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Output<'_> {
        match &mut self.state {
            State::Offering(offer) if offer.is_due => {
                offer.handle_sent();
                self.tally.datagrams += 1;
                self.tally.resends += u64::from(offer.sends > 1);
                self.outgoing.clear();
                Packet::OptionAck(offer.answer).emit(&mut self.outgoing);
                Output::Send(Datagrams::one(&self.outgoing))
            }
            State::Offering(offer) => Output::WaitUntil(offer.deadline),
            State::Sending(flight) => {
                if let Some((offset, len)) = self.ahead.next_read(flight.needed_end()) {
                    return Output::Read { offset, len };
                }
                let blocks = flight.ready(&self.ahead);
                if blocks.is_empty() {
                    return Output::WaitUntil(flight.deadline());
                }
                self.outgoing.clear();
                for block in blocks.clone() {
                    let offset = self.layout.offset(block);
                    let len = usize::try_from(self.layout.end(block) - offset).unwrap_or(0);
                    emit_data_header(on_the_wire(block), &mut self.outgoing);
                    self.ahead.copy(offset, len, &mut self.outgoing);
                }
                self.tally.datagrams += blocks.end - blocks.start;
                self.tally.resends += flight.handle_sent(blocks.end);
                Output::Send(Datagrams {
                    bytes: &self.outgoing,
                    datagram_len: DATA_HEADER_LEN + usize::from(self.layout.block_len),
                })
            }
            State::Failing => {
                self.state = State::Finished(Outcome::ReadFailed);
                self.tally.datagrams += 1;
                self.outgoing.clear();
                let text = b"the file can no longer be read, see the agent's log";
                Packet::Error { code: ErrorCode::NOT_DEFINED, text }.emit(&mut self.outgoing);
                Output::Send(Datagrams::one(&self.outgoing))
            }
            State::Finished(outcome) => Output::Done(*outcome),
        }
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Continue => {}
            Effect::Ended(outcome) => self.state = State::Finished(outcome),
            Effect::Stalled => self.state = State::Failing,
        }
    }
}

impl<'a> Datagrams<'a> {
    fn one(bytes: &'a [u8]) -> Self {
        Self { bytes, datagram_len: bytes.len() }
    }
}

impl Offer {
    /// Notes that the OACK is on the wire.
    fn handle_sent(&mut self) {
        let wait = self.round_trip.wait(self.sends.into());
        self.is_due = false;
        self.sends += 1;
        let end = self.began + UNANSWERED_MAX;
        let is_last = self.sends >= SENDS_UNANSWERED_MAX;
        self.deadline = if is_last { end } else { end.min(self.sent_at + wait) };
    }
}

#[cfg(test)]
mod tests;
