//! One transfer on its socket: the transfer is fed until it has to wait.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use quinn_udp::UdpSocketState;

use super::exchange::Order;
use super::link::{Ear, Heard, Link, Unreachable};
use super::listener::Raw;
use super::pieces::Pieces;
use super::{Finished, Request, Source};
use crate::tftp::limits::TransferId;
use crate::tftp::name::Name;
use crate::tftp::options::negotiate;
use crate::tftp::packet::{self, Options, Packet};
use crate::tftp::transfer::{Outcome, Output, PIECE_BYTES_MAX, Transfer};

/// The memory for reading ahead that all transfers share, in bytes, and the least that each gets of it.
const READ_AHEAD_BYTES: usize = 4 << 20;
const PIECE_BYTES_MIN: usize = 8 << 10;

/// A request that was admitted.
pub(super) struct Asked {
    pub(super) request: Request,
    pub(super) options: Options,
    pub(super) answer_to: Raw,
    pub(super) began: Instant,
}

/// A transfer, its file and its socket.
pub(super) struct Sending<S> {
    id: TransferId,
    request: Request,
    began: Instant,
    source: Arc<S>,
    transfer: Transfer,
    link: Link,
    /// When it will be woken, if nothing comes before: at its deadline or earlier. Deadlines mostly move away, so this is set
    /// again only once it is over.
    pub(super) wakes_at: Option<Instant>,
}

/// What all transfers use.
pub(super) struct Means<'a, S> {
    pub(super) orders: &'a mut Vec<Order<S>>,
    pub(super) pieces: &'a mut Pieces,
    pub(super) offload: &'a UdpSocketState,
    /// How many transfers there are.
    pub(super) active: usize,
}

/// What a transfer waits for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// An input, or this time.
    Input(Instant),
    /// Nothing, it is over.
    Nothing(Outcome),
}

impl<S: Source> Sending<S> {
    pub(super) fn new(
        id: TransferId,
        asked: Asked,
        source: S,
        mut link: Link,
        active: usize,
        now: Instant,
    ) -> Self {
        let size_bytes = source.size_bytes();
        let agreement = negotiate(&asked.options, link.egress(), size_bytes);
        if agreement.window > 1 {
            link.offload();
        }
        let transfer = Transfer::new(&agreement, size_bytes, piece_bytes(active), now);
        let Asked { request, began, .. } = asked;
        Self { id, request, began, source: Arc::new(source), transfer, link, wakes_at: None }
    }

    /// Whether the machine has answered, which proves that the request bore its own address.
    pub(super) fn is_answered(&self) -> bool {
        self.transfer.is_answered()
    }

    /// Takes one datagram that has arrived, or tells that there is none.
    pub(super) fn receive(&mut self, now: Instant) -> bool {
        match self.link.receive(&mut Ear::new()) {
            // With a single port, one that has turned to another file says it here. It asks again where it is heard.
            Heard::Packet(Packet::ReadRequest(asked)) if self.is_another(&asked) => {
                self.transfer.handle_displaced();
            }
            Heard::Packet(packet) => self.transfer.handle_packet(packet, now),
            Heard::Unreachable => self.transfer.handle_unreachable(),
            Heard::Noise => {}
            Heard::Nothing => return false,
        }
        true
    }

    /// Whether a request is no repetition of the one that is being answered.
    fn is_another(&self, asked: &packet::Request<'_>) -> bool {
        self.is_answered() || Name::parse(asked.name).as_ref() != Ok(&self.request.name)
    }

    /// Takes what a read brought.
    pub(super) fn handle_data(&mut self, data: std::io::Result<Vec<u8>>, now: Instant) {
        match data {
            Ok(bytes) => self.transfer.handle_data(bytes, now),
            Err(error) => {
                let file = &self.request.name;
                log::warn!(file:%, error:%; "cannot read {file}, which is being sent");
                self.transfer.handle_read_error();
            }
        }
    }

    /// Learns that it is `now`.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.transfer.handle_timeout(now);
    }

    /// Learns that it has to make room.
    pub(super) fn handle_displaced(&mut self) {
        self.transfer.handle_displaced();
    }

    /// Does all that can be done now.
    pub(super) fn advance(&mut self, means: &mut Means<'_, S>, now: Instant) -> Next {
        loop {
            match self.transfer.poll_output() {
                Output::Read { offset, len } => self.read(offset, len, means, now),
                Output::Send(datagrams) => {
                    if self.link.send(datagrams, means.offload) == Err(Unreachable) {
                        self.transfer.handle_unreachable();
                    }
                }
                Output::WaitUntil(deadline) => return Next::Input(deadline),
                Output::Done(outcome) => return Next::Nothing(outcome),
            }
        }
    }

    /// Reads what is in memory at once, and has others read what is not.
    fn read(&mut self, offset: u64, len: usize, means: &mut Means<'_, S>, now: Instant) {
        let is_shared = means.active > 1;
        let place = self.source.identity().filter(|_| is_shared).map(|of| (of, offset, len));
        if let Some(piece) = place.and_then(|place| means.pieces.find(&place)) {
            return self.transfer.handle_data(piece, now);
        }
        match self.source.read_now(offset, len) {
            Ok(Some(bytes)) => {
                let piece = Rc::new(bytes);
                if let Some(place) = place {
                    means.pieces.share(place, &piece);
                }
                self.transfer.handle_data(piece, now);
            }
            Ok(None) => {
                let source = Arc::clone(&self.source);
                means.orders.push(Order::Read { id: self.id, source, offset, len });
            }
            Err(error) => self.handle_data(Err(error), now),
        }
    }

    /// What is to be told of it, now that it is over.
    pub(super) fn finish(self, outcome: Outcome, now: Instant) -> Finished {
        Finished {
            request: self.request,
            size_bytes: self.source.size_bytes(),
            outcome,
            tally: self.transfer.tally(),
            duration: now.saturating_duration_since(self.began),
        }
    }
}

/// How much of a file to read at a time while `active` transfers run.
fn piece_bytes(active: usize) -> usize {
    let share = READ_AHEAD_BYTES / active.max(1);
    // A power of two, so that transfers that began at other times can share what they read.
    let piece = (share + 1).next_power_of_two() / 2;
    piece.clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_shrink_as_transfers_grow_and_stay_alike() {
        for (active, piece_kib) in
            [(0, 64), (1, 64), (64, 64), (65, 32), (128, 32), (200, 16), (300, 8), (9_999, 8)]
        {
            assert_eq!(piece_bytes(active), piece_kib << 10, "{active}");
        }
    }
}
