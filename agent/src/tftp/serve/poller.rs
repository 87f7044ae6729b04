//! What the thread of TFTP sleeps on: every socket of it, and a bell that other threads ring.
//!
//! Each socket is registered once and stays so, which is what an own poller is for: the executor's registers anew for every wait,
//! and a transfer waits once for each window.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;

/// What is noticed in one wait.
const EVENTS_MAX: usize = 128;

/// The numbers of the socket that hears requests and of the bell; transfers are counted from 0.
pub(super) const REQUESTS: u64 = u64::MAX;
pub(super) const BELL: u64 = u64::MAX - 1;

/// Sockets, each with a number.
#[derive(Debug)]
pub(super) struct Poller(OwnedFd);

/// The sockets that have something to read.
pub(super) struct Ready(Vec<epoll::Event>);

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// Reports `number` whenever `socket` has something to read, until it is closed.
    pub(super) fn add(&self, socket: impl AsFd, number: u64) -> io::Result<()> {
        Ok(epoll::add(&self.0, socket, EventData::new_u64(number), EventFlags::IN)?)
    }

    /// Waits until a socket has something to read, at most as long as `limit`.
    pub(super) fn wait(&self, limit: Option<Duration>, ready: &mut Ready) -> io::Result<()> {
        let limit = limit.map(|limit| {
            // The system counts milliseconds here, and to wake up early is to wake up twice.
            let limit_ms = u64::try_from(limit.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX);
            Timespec::try_from(Duration::from_millis(limit_ms)).unwrap_or_default()
        });
        let Ready(events) = ready;
        events.clear();
        match epoll::wait(&self.0, spare_capacity(events), limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Ready {
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(EVENTS_MAX))
    }

    /// Their numbers.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.0.iter().map(|event| event.data.u64())
    }
}

/// Wakes the thread of TFTP. Its clones are the same bell.
#[derive(Debug, Clone)]
pub(super) struct Bell(Arc<OwnedFd>);

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(Arc::new(eventfd(0, flags)?)))
    }

    pub(super) fn ring(&self) {
        // It fails only where it has rung four thousand million times unheard.
        _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }

    pub(super) fn quiet(&self) {
        let mut count = [0; 8];
        // It fails only where it has not rung.
        _ = rustix::io::read(&*self.0, &mut count);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
