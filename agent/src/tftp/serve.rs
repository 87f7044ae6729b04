//! The sockets of TFTP: one that hears requests, and one of its own for each transfer.
//!
//! They have a thread of their own (`engine`), which never waits for anything but them. What may be answered is decided by
//! [`super::limits`], how a transfer goes by [`super::transfer`]; where files come from is behind [`Library`], which stays on
//! the executor (`exchange`). Nothing that arrives ends [`serve`].

mod engine;
mod exchange;
mod link;
mod listener;
mod networks;
mod pieces;
mod poller;
mod sending;

use std::cell::Cell;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use smol::LocalExecutor;
use smol::channel::{self, Receiver};

use self::engine::{Engine, Judges};
use self::exchange::{Answer, Inbox, Order};
pub use self::listener::Listener;
use super::limits::{Limits, Weight};
use super::name::Name;
use super::refusals::Refusals;
use super::transfer::{Outcome, Tally};

/// Where the files come from.
#[expect(async_fn_in_trait, reason = "one thread: no future has to be Send")]
pub trait Library {
    /// A file that was found.
    type Source: Source;

    /// The file for a request, if there is one. Found or not, the sooner the better: firmware that asks for a file that is
    /// missing waits for the answer.
    ///
    /// # Errors
    /// It cannot be told at the moment, so the machine gets no answer and asks again. "File not found" would end its boot.
    async fn find(&self, request: &Request) -> io::Result<Option<Self::Source>>;

    /// What a request for `name` is for, as far as limits tell that apart. It is asked before anything is looked up.
    fn weigh(name: &Name) -> Weight {
        _ = name;
        Weight::Content
    }

    /// Learns that a transfer is over.
    fn handle_finished(&self, finished: &Finished) {
        _ = finished;
    }
}

/// Names content: two sources of the same identity hold the same bytes.
pub type Identity = [u8; 32];

/// A file that stays the same until it is dropped.
#[expect(
    async_fn_in_trait,
    reason = "read on the executor's thread only: no future has to be Send"
)]
pub trait Source: Send + Sync + 'static {
    /// Its length in bytes.
    fn size_bytes(&self) -> u64;

    /// What it holds, if that has a name; then transfers share what they have read of it.
    fn identity(&self) -> Option<Identity> {
        None
    }

    /// The `len` bytes at `offset`, or fewer but some, or none if that would mean to wait for a disk. Both lie within the file.
    ///
    /// # Errors
    /// The bytes cannot be read; the transfer ends.
    fn read_now(&self, offset: u64, len: usize) -> io::Result<Option<Vec<u8>>>;

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

/// Answers requests for as long as it is polled. Files are looked up by tasks on `executor`, which has to run on the same thread;
/// `active` counts transfers, `refusals` the requests that get no answer.
pub async fn serve<L: Library + 'static>(
    listener: Listener,
    library: Rc<L>,
    executor: Rc<LocalExecutor<'static>>,
    limits: Limits,
    active: Rc<Cell<usize>>,
    refusals: Arc<Refusals>,
) -> Infallible {
    let (orders, ordered) = channel::bounded(1);
    let inbox = Arc::new(Inbox::new(listener.bell.clone()));
    let engine_inbox = Arc::clone(&inbox);
    let judges = Judges { limits, refusals, weigh: L::weigh };
    let thread = thread::Builder::new()
        .name("tftp".to_owned())
        .spawn(move || Engine::new(listener, judges, orders, engine_inbox).run())
        .expect("a thread can be started at boot");
    let mut desk = Desk { library, inbox, ordered, active, thread: Some(thread) };
    while let Ok(orders) = desk.ordered.recv().await {
        for order in orders {
            desk.handle_order(order, &executor);
        }
    }
    // The thread runs until it is told to end, so it has panicked.
    match desk.thread.take().map(JoinHandle::join) {
        Some(Err(cause)) => panic::resume_unwind(cause),
        _ => pending().await,
    }
}

/// The executor's side.
struct Desk<L: Library> {
    library: Rc<L>,
    inbox: Arc<Inbox<L::Source>>,
    ordered: Receiver<Vec<Order<L::Source>>>,
    active: Rc<Cell<usize>>,
    thread: Option<JoinHandle<()>>,
}

impl<L: Library + 'static> Desk<L> {
    fn handle_order(&self, order: Order<L::Source>, executor: &LocalExecutor<'static>) {
        let inbox = Arc::clone(&self.inbox);
        match order {
            Order::Find { id, request } => {
                self.begin();
                let library = Rc::clone(&self.library);
                let find = async move {
                    let found = library.find(&request).await;
                    request.log(&found);
                    inbox.push(Answer::Found { id, found });
                };
                executor.spawn(find).detach();
            }
            Order::Read { id, source, offset, len } => {
                let read = async move {
                    let data = source.read_at(offset, len).await;
                    inbox.push(Answer::Data { id, data });
                };
                executor.spawn(read).detach();
            }
            Order::Ended(finished) => self.end(finished.as_deref()),
        }
    }
}

impl<L: Library> Desk<L> {
    fn begin(&self) {
        self.active.set(self.active.get() + 1);
    }

    fn end(&self, finished: Option<&Finished>) {
        self.active.set(self.active.get() - 1);
        if let Some(finished) = finished {
            finished.log();
            self.library.handle_finished(finished);
        }
    }
}

impl<L: Library> Drop for Desk<L> {
    /// Ends the thread and all transfers.
    fn drop(&mut self) {
        self.inbox.close();
        // The thread closes its end with its last order.
        while let Ok(orders) = self.ordered.recv_blocking() {
            for order in orders {
                match order {
                    Order::Find { .. } => self.begin(),
                    Order::Read { .. } => {}
                    Order::Ended(finished) => self.end(finished.as_deref()),
                }
            }
        }
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed, and this is the end of the server anyway.
            _ = thread.join();
        }
    }
}

impl Request {
    fn log<S>(&self, found: &io::Result<Option<S>>) {
        let Self { name, peer, .. } = self;
        match found {
            Ok(Some(_)) => {}
            Ok(None) => {
                log::info!(peer:%, file:% = name; "{peer} asks for {name}, which is not here");
            }
            Err(error) => {
                log::warn!(peer:%, file:% = name, error:%; "cannot look up {name} for {peer}, which has to ask again: {error}");
            }
        }
    }
}

impl Finished {
    fn log(&self) {
        let Self { request: Request { name: file, peer, .. }, tally, .. } = self;
        let bytes = tally.acked_bytes;
        let resends = tally.resends;
        let duration_ms = u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX);
        let text = match self.outcome {
            Outcome::Complete => format!("sent {file} to {peer}"),
            Outcome::Unconfirmed => format!("sent {file} to {peer}, the last ACK did not come"),
            Outcome::Probe => format!("told {peer} the size of {file}"),
            Outcome::Refused(code) => format!("{peer} ended {file} with error {code}"),
            Outcome::Silent => format!("{peer} fell silent while reading {file}"),
            Outcome::Displaced => format!("stopped sending {file} to {peer} for another request"),
            Outcome::ReadFailed => format!("stopped sending {file} to {peer}: cannot read it"),
        };
        // Requests under made-up addresses displace each other by the thousand.
        let level = match self.outcome {
            Outcome::Displaced => log::Level::Debug,
            _ => log::Level::Info,
        };
        log::log!(level, peer:%, file:%, bytes, duration_ms, resends, outcome:? = self.outcome; "{text}");
    }
}

#[cfg(test)]
mod tests;
