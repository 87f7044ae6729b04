//! Heartbeats that arrive while others are being written wait here and are written together, next.
//!
//! A heartbeat is answered when it is in the database and not before. They are kept in the order in which they came.

use crate::metrics::Metrics;
use crate::store::{Beat, Heard, Store, StoreError};
use crate::together::{Together, Work};

/// The heartbeats on their way into the database. Clones share the way.
pub(crate) type Beats = Together<Keeping>;

/// Keeps heartbeats and counts them.
#[derive(Debug)]
pub(crate) struct Keeping {
    store: Store,
    metrics: Metrics,
}

impl Keeping {
    /// In `store`.
    pub(crate) fn new(store: Store, metrics: Metrics) -> Self {
        Self { store, metrics }
    }
}

impl Work for Keeping {
    type Question = Beat;
    type Answer = Heard;
    /// So long does another writer wait.
    const AT_ONCE: usize = 256;

    async fn answer(&self, beats: &[Beat]) -> Result<Vec<Result<Heard, StoreError>>, StoreError> {
        let outcomes = self.store.keep_beats(beats).await?;
        let kept = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        self.metrics.heartbeats(kept, beats.len());
        Ok(outcomes)
    }
}
