//! An object that is on its way, as those see it who wait for it.
//!
//! Whoever fetches it says how far it can be believed; everybody else reads up to there and waits for more. Nobody reads a byte
//! that has not been verified.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::Object;

/// One object on its way. Its clones are the same arrival.
#[derive(Clone, Default)]
pub struct Arrival {
    shared: Rc<RefCell<Shared>>,
}

#[derive(Default)]
struct Shared {
    state: State,
    received_len: u64,
    waiting: Vec<Waker>,
}

#[derive(Default, Clone)]
enum State {
    /// Nothing of it can be believed yet.
    #[default]
    Awaited,
    /// Its first bytes can be read.
    Growing { object: Object, believed_len: u64 },
    /// All of it is in the cache.
    Whole(Object),
    /// It does not come.
    Failed(Failure),
}

/// Why an object does not come.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The controller is away, or does not answer.
    #[error("{0}")]
    Line(String),
    /// The controller does not give it.
    #[error("{0}")]
    Refused(String),
    /// What came is not what the manifest says.
    #[error("{0}")]
    Corrupt(String),
    /// The disk has no room for it.
    #[error("{0}")]
    NoSpace(String),
    /// The disk fails.
    #[error("{0}")]
    Storage(String),
}

impl Arrival {
    /// So many bytes are here, believed or not.
    pub fn note_received(&self, len: u64) {
        self.shared.borrow_mut().received_len = len;
    }

    /// How many bytes are here, believed or not.
    pub fn received_len(&self) -> u64 {
        self.shared.borrow().received_len
    }

    /// The first `believed_len` bytes of `object` can be read. Never less than before.
    pub fn advance(&self, object: &Object, believed_len: u64) {
        self.set(State::Growing { object: object.clone(), believed_len });
    }

    /// It has come, or does not come.
    pub fn end(&self, outcome: Result<Object, Failure>) {
        self.set(match outcome {
            Ok(object) => State::Whole(object),
            Err(failure) => State::Failed(failure),
        });
    }

    fn set(&self, state: State) {
        let waiting = {
            let mut shared = self.shared.borrow_mut();
            shared.state = state;
            std::mem::take(&mut shared.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// The object as soon as a byte of it can be read.
    ///
    /// # Errors
    /// It does not come.
    pub async fn readable(&self) -> Result<Object, Failure> {
        poll_fn(|context| {
            self.poll(context, |state| match state {
                State::Awaited => None,
                State::Growing { object, .. } | State::Whole(object) => Some(Ok(object.clone())),
                State::Failed(failure) => Some(Err(failure.clone())),
            })
        })
        .await
    }

    /// The object once all of it is in the cache.
    ///
    /// # Errors
    /// It does not come.
    pub async fn whole(&self) -> Result<Object, Failure> {
        poll_fn(|context| {
            self.poll(context, |state| match state {
                State::Awaited | State::Growing { .. } => None,
                State::Whole(object) => Some(Ok(object.clone())),
                State::Failed(failure) => Some(Err(failure.clone())),
            })
        })
        .await
    }

    /// How far the object can be read, once that is beyond `offset`.
    ///
    /// # Errors
    /// It does not come.
    pub async fn beyond(&self, offset: u64) -> io::Result<u64> {
        poll_fn(|context| {
            self.poll(context, |state| match state {
                State::Growing { believed_len, .. } if *believed_len > offset => {
                    Some(Ok(*believed_len))
                }
                State::Awaited | State::Growing { .. } => None,
                State::Whole(object) => Some(Ok(object.size_bytes)),
                State::Failed(failure) => Some(Err(io::Error::other(failure.clone()))),
            })
        })
        .await
    }

    fn poll<T>(&self, context: &Context<'_>, read: impl Fn(&State) -> Option<T>) -> Poll<T> {
        let mut shared = self.shared.borrow_mut();
        match read(&shared.state) {
            Some(found) => Poll::Ready(found),
            None => {
                if !shared.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                    shared.waiting.push(context.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}
