//! Heartbeats that arrive while others are being written wait here and are written together, next.
//!
//! A heartbeat is answered when it is in the database and not before. They are kept in the order in which they came.

use tokio::sync::{mpsc, oneshot};

use crate::store::{Beat, Heard, Store, StoreError};

/// Heartbeats that wait, at most: as many as there are connections.
const WAITING_MAX: usize = 1_024;
/// Heartbeats of one transaction, at most; so long does another writer wait.
const BATCH_MAX: usize = 256;

/// The heartbeats on their way into the database. Clones share the way.
#[derive(Debug, Clone)]
pub(crate) struct Beats {
    waiting: mpsc::Sender<Order>,
}

enum Order {
    /// Keep it and say what became of it, if somebody still wants to know.
    Keep(Beat, oneshot::Sender<Result<Heard, StoreError>>),
    /// Take no more, and say when everything is written.
    End(oneshot::Sender<()>),
}

impl Beats {
    /// Starts to write into `store`, until [`Beats::end`] or until all clones are gone.
    pub(crate) fn start(store: Store) -> Self {
        let (waiting, orders) = mpsc::channel(WAITING_MAX);
        tokio::spawn(write(store, orders));
        Self { waiting }
    }

    /// Keeps `beat`.
    ///
    /// # Errors
    /// Too many wait, the agent is none any more, or the database fails.
    pub(crate) async fn keep(&self, beat: Beat) -> Result<Heard, StoreError> {
        let (answer, answered) = oneshot::channel();
        let order = Order::Keep(beat, answer);
        self.waiting.try_send(order).map_err(|_| StoreError::Busy)?;
        answered.await.unwrap_or(Err(StoreError::Busy))
    }

    /// Writes what waits, and takes no more.
    pub(crate) async fn end(&self) {
        let (ended, has_ended) = oneshot::channel();
        if self.waiting.send(Order::End(ended)).await.is_ok() {
            _ = has_ended.await;
        }
    }
}

async fn write(store: Store, mut orders: mpsc::Receiver<Order>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    let mut ends = Vec::new();
    while orders.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let (mut beats, mut answers) = (Vec::new(), Vec::new());
        for order in batch.drain(..) {
            match order {
                Order::Keep(beat, answer) => {
                    beats.push(beat);
                    answers.push(answer);
                }
                Order::End(ended) => {
                    orders.close();
                    ends.push(ended);
                }
            }
        }
        keep(&store, &beats, answers).await;
    }
    // Whoever waits for the end is told by this being dropped.
    drop(ends);
}

/// Keeps `beats` together, or each for itself if that fails, so that one which the database does not take is alone in it.
async fn keep(
    store: &Store,
    beats: &[Beat],
    answers: Vec<oneshot::Sender<Result<Heard, StoreError>>>,
) {
    if beats.is_empty() {
        return;
    }
    match store.keep_beats(beats).await {
        Ok(outcomes) => {
            for (answer, outcome) in answers.into_iter().zip(outcomes) {
                _ = answer.send(outcome);
            }
        }
        Err(StoreError::Busy) => {
            for answer in answers {
                _ = answer.send(Err(StoreError::Busy));
            }
        }
        Err(error) => {
            tracing::warn!(error = %error, "keeping {} heartbeats one by one: {error}", beats.len());
            for (answer, beat) in answers.into_iter().zip(beats) {
                let outcome = store.keep_beats(std::slice::from_ref(beat)).await;
                let missing = || Err(StoreError::Busy);
                let outcome = outcome.and_then(|mut kept| kept.pop().unwrap_or_else(missing));
                _ = answer.send(outcome);
            }
        }
    }
}
