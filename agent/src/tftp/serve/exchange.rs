//! What the thread of TFTP and the executor say to each other.
//!
//! The thread owns sockets and transfers and never waits for a disk. The executor looks files up, reads what is not in memory,
//! and is told how transfers ended.

use std::io;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::poller::Bell;
use super::{Finished, Request};
use crate::tftp::limits::TransferId;

/// What the thread wants of the executor.
pub(super) enum Order<S> {
    /// A request was admitted: the file, please. Answered by [`Answer::Found`]; the transfer counts as under way.
    Find { id: TransferId, request: Request },
    /// Bytes that are not in memory, please. Answered by [`Answer::Data`].
    Read { id: TransferId, source: Arc<S>, offset: u64, len: usize },
    /// Nothing is under way for a request any more. Those that never became a transfer say nothing of it.
    Ended(Option<Box<Finished>>),
}

/// What the executor answers.
pub(super) enum Answer<S> {
    /// The file, or that there is none. An error means that it cannot be told at the moment.
    Found { id: TransferId, found: io::Result<Option<S>> },
    /// The bytes.
    Data { id: TransferId, data: io::Result<Vec<u8>> },
}

/// Answers that the thread has not taken yet: at most two for each transfer, as many as it asked for.
pub(super) struct Inbox<S> {
    answers: Mutex<Vec<Answer<S>>>,
    is_closed: AtomicBool,
    bell: Bell,
}

impl<S> Inbox<S> {
    pub(super) fn new(bell: Bell) -> Self {
        Self { answers: Mutex::default(), is_closed: AtomicBool::new(false), bell }
    }

    pub(super) fn push(&self, answer: Answer<S>) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.push(answer);
        if answers.len() == 1 {
            self.bell.ring();
        }
    }

    /// Tells the thread to end.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.bell.ring();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Everything since the last time.
    pub(super) fn take(&self) -> Vec<Answer<S>> {
        // Silenced first: what is pushed from here on rings again, or is taken below.
        self.bell.quiet();
        mem::take(&mut self.answers.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
