//! The sockets of TFTP: one that hears requests, and one of its own for each transfer.
//!
//! What may be answered is decided by [`super::limits`], how a transfer goes by [`super::transfer`]; where files come from is
//! behind [`Library`]. Nothing that arrives ends [`serve`].

mod drive;
mod listener;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use smol::LocalExecutor;
use smol::channel::{self, Receiver, Sender};

pub use self::listener::Listener;
use self::listener::Received;
use super::limits::{Admission, Limits, TransferId};
use super::name::Name;
use super::packet::{self, ErrorCode, Mode, Packet};
use super::transfer::{Outcome, Tally};
use crate::clock;

/// Where the files come from.
#[expect(async_fn_in_trait, reason = "one thread: no future has to be Send")]
pub trait Library {
    /// A file that was found.
    type Source: Source + 'static;

    /// The file for a request, if there is one. Found or not, the sooner the better: firmware that asks for a file that is
    /// missing waits for the answer.
    async fn find(&self, request: &Request) -> Option<Self::Source>;

    /// Learns that a transfer is over.
    fn handle_finished(&self, finished: &Finished) {
        _ = finished;
    }
}

/// A file that stays the same until it is dropped.
#[expect(async_fn_in_trait, reason = "one thread: no future has to be Send")]
pub trait Source {
    /// Its length in bytes.
    fn size_bytes(&self) -> u64;

    /// The `len` bytes at `offset`, or fewer but some. Both lie within the file.
    ///
    /// # Errors
    /// The bytes cannot be read; the transfer ends.
    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>>;
}

/// A machine's question for a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What it asks for.
    pub name: Name,
    /// Where it asks from.
    pub peer: SocketAddr,
    /// The address that it asked, and from which it is answered.
    pub local: IpAddr,
}

/// A transfer that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// What was asked.
    pub request: Request,
    /// The length of the file in bytes.
    pub size_bytes: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// What it cost.
    pub tally: Tally,
    /// From the request to the end.
    pub duration: Duration,
}

/// Answers requests for as long as it is polled. Transfers are tasks on `executor`, which has to run on the same thread;
/// `active` counts them.
pub async fn serve<L: Library + 'static>(
    listener: Listener,
    library: Rc<L>,
    executor: Rc<LocalExecutor<'static>>,
    limits: Limits,
    active: Rc<Cell<usize>>,
) -> Infallible {
    let server = Rc::new(Server {
        listener,
        library,
        active,
        admission: RefCell::new(Admission::new(limits, clock::monotonic())),
        displace: RefCell::default(),
    });
    let _end = EndTransfers(server.clone());
    server.listener.receive(|received| server.handle_datagram(&executor, &received)).await
}

struct Server<L> {
    listener: Listener,
    library: Rc<L>,
    active: Rc<Cell<usize>>,
    admission: RefCell<Admission>,
    /// For each transfer what displaces it when it is dropped.
    displace: RefCell<HashMap<TransferId, Sender<Infallible>>>,
}

/// Ends all transfers with [`serve`], which they would keep alive.
struct EndTransfers<L>(Rc<Server<L>>);

impl<L> Drop for EndTransfers<L> {
    fn drop(&mut self) {
        self.0.displace.take();
    }
}

/// A place among the transfers, given back however the transfer ends.
struct Place<L> {
    server: Rc<Server<L>>,
    id: TransferId,
    /// Closed when the transfer is displaced.
    displaced: Receiver<Infallible>,
}

impl<L> Place<L> {
    fn new(server: Rc<Server<L>>, id: TransferId) -> Self {
        let (displace, displaced) = channel::bounded(1);
        server.active.set(server.active.get() + 1);
        server.displace.borrow_mut().insert(id, displace);
        Self { server, id, displaced }
    }
}

impl<L> Drop for Place<L> {
    fn drop(&mut self) {
        self.server.active.set(self.server.active.get() - 1);
        self.server.admission.borrow_mut().handle_end(self.id);
        self.server.displace.borrow_mut().remove(&self.id);
    }
}

impl<L: Library + 'static> Server<L> {
    fn handle_datagram(
        self: &Rc<Self>,
        executor: &LocalExecutor<'static>,
        received: &Received<'_>,
    ) {
        let Received { peer, local, datagram, .. } = *received;
        let parsed = Packet::parse(datagram);
        match &parsed {
            Ok(Packet::ReadRequest(_) | Packet::WriteRequest(_)) => {}
            Err(error) if error.is_answered() => {}
            Ok(_) => return log::trace!(peer:%; "dropped a datagram that belongs to no transfer"),
            Err(error) => return log::trace!(peer:%, error:%; "dropped what is not TFTP"),
        }
        let now = clock::monotonic();
        if let Err(refusal) = self.admission.borrow_mut().handle_datagram(peer, local, now) {
            return log::debug!(peer:%; "dropped a request: {refusal}");
        }
        match parsed {
            Ok(Packet::ReadRequest(request)) => {
                self.handle_read_request(executor, received, &request);
            }
            Ok(_) => {
                log::info!(peer:%; "{peer} wants to write, which nobody may");
                self.refuse(received, ErrorCode::ACCESS_VIOLATION, "read only");
            }
            Err(error) => {
                log::debug!(peer:%, error:%; "refused a request that is malformed");
                self.refuse(received, ErrorCode::ILLEGAL_OPERATION, &error.to_string());
            }
        }
    }

    fn handle_read_request(
        self: &Rc<Self>,
        executor: &LocalExecutor<'static>,
        received: &Received<'_>,
        asked: &packet::Request<'_>,
    ) {
        let Received { peer, local, datagram, .. } = *received;
        if asked.mode != Mode::Octet {
            let mode = asked.mode.as_str();
            log::info!(peer:%, mode; "{peer} asks in mode {mode}, only octet is served");
            // The one text longer than what was asked: whoever types at a client has to learn what to type instead.
            let text = b"only mode octet is served, ask for it (tftp-hpa: -m binary)";
            return self.listener.send_error(received, ErrorCode::NOT_DEFINED, text);
        }
        let name = match Name::parse(asked.name) {
            Ok(name) => name,
            Err(error) => {
                log::info!(peer:%, error:%; "{peer} asks for what nothing is called");
                return self.refuse(received, ErrorCode::FILE_NOT_FOUND, "file not found");
            }
        };
        let admitted =
            self.admission.borrow_mut().handle_request(peer, datagram, clock::monotonic());
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) => return log::debug!(peer:%; "dropped a request: {refusal}"),
        };
        if let Some(ended) = admitted.ended {
            self.displace.borrow_mut().remove(&ended);
        }
        let place = Place::new(self.clone(), admitted.id);
        let request = Request { name, peer, local };
        let options = asked.options;
        let answer_to = received.answer_to();
        executor.spawn(place.answer(request, options, answer_to)).detach();
    }

    /// Answers with an error no longer than what was asked, so that nobody gains by asking in another's name (F10).
    fn refuse(&self, received: &Received<'_>, code: ErrorCode, text: &str) {
        const FRAME_LEN: usize = 5;
        let room = received.datagram.len().saturating_sub(FRAME_LEN);
        let text = text.as_bytes();
        self.listener.send_error(received, code, text.get(..room).unwrap_or(text));
    }
}

#[cfg(test)]
mod tests;
