//! Heartbeats that arrive while others are being written wait here and are written together, next.
//!
//! A heartbeat is answered when it is in the database and not before. They are kept in the order in which they came.

use crate::store::{Beat, Heard, Store, StoreError};
use crate::together::{Together, Work};

/// The heartbeats on their way into the database. Clones share the way.
pub(crate) type Beats = Together<Keeping>;

/// Keeps heartbeats.
#[derive(Debug)]
pub(crate) struct Keeping(Store);

impl Keeping {
    /// In `store`.
    pub(crate) fn new(store: Store) -> Self {
        Self(store)
    }
}

impl Work for Keeping {
    type Question = Beat;
    type Answer = Heard;
    /// So long does another writer wait.
    const AT_ONCE: usize = 256;

    async fn answer(&self, beats: &[Beat]) -> Result<Vec<Result<Heard, StoreError>>, StoreError> {
        self.0.keep_beats(beats).await
    }
}
