//! The thread that owns `state/site.db`: what must outlive a power cut, and nothing else.
//!
//! One named thread has the one connection; the rest of the agent holds a [`Store`] and awaits. Everything that a boot has to
//! read is in the mirror of nodes ([`Store::node`]), which changes only after its transaction is durable, so that a slow or
//! broken disk delays no script. The database is opened, checked and, where it is damaged, set aside by `open.rs`; the outbox
//! keeps its table here and its rules in [`crate::outbox`].

mod column;
mod conflicts;
mod feed;
mod identity;
mod inline;
mod line;
mod lock;
mod migrate;
mod nodes;
mod open;
mod salvage;
mod sessions;
mod thread;

use std::convert::Infallible;
use std::path::PathBuf;

use rusqlite::{Connection, ErrorCode};
use smol::channel::{Receiver, RecvError, Sender, TrySendError, bounded};
use smol::future::FutureExt;

pub(crate) use self::column::{Json, Word};
pub use self::conflicts::{HeardConflict, OPEN_CONFLICTS_MAX};
pub use self::feed::Applied;
pub use self::identity::Identity;
pub use self::inline::{Fate, Judge};
pub use self::lock::{DataDirLock, LockError, is_volatile, lock_data_dir};
pub use self::nodes::{CachedNode, Elsewhere, InstallGiven, KnownRecord, UNKNOWN_NODES_MAX};
pub(crate) use self::nodes::{load_all, load_by_id, save};
pub use self::open::{OpenError, check_way_back};
pub use self::sessions::{SESSIONS_MAX, SESSIONS_PER_MACHINE_MAX};

/// How many jobs may wait for the thread before callers are told [`StoreError::Busy`].
const JOBS_MAX: usize = 64;

/// Where the database is and how large it may grow.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The agent's data directory; the database is `state/site.db` in it.
    pub data_dir: PathBuf,
    /// The limits.
    pub quota: Quota,
}

/// Limits of the database. What would exceed them is refused with [`StoreError::Full`]; nothing is ever dropped to make room.
#[derive(Debug, Clone, Copy)]
pub struct Quota {
    /// Of the database file.
    pub file_bytes: u64,
    /// Changes in the outbox; events may use 60 % of them.
    pub outbox_rows: u64,
    /// Bytes of payload in the outbox; events may use 60 % of them.
    pub outbox_bytes: u64,
}

impl Default for Quota {
    fn default() -> Self {
        Self { file_bytes: 96 << 20, outbox_rows: 100_000, outbox_bytes: 24 << 20 }
    }
}

/// Why the store did not do what it was asked. Nothing of the job has happened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Too many jobs wait. A node gets 503.
    #[error("the store is busy: {JOBS_MAX} jobs wait for the disk")]
    Busy,
    /// The disk, the database or the caller's share of the outbox is full. A node gets 507, never a false 2xx.
    #[error(
        "the disk or the quota of the database is full; free some space or let the outbox drain"
    )]
    Full,
    /// The disk refused to write or to read. A node gets 507; the database is opened and checked anew before it is used again.
    #[error("the disk failed: {0}")]
    Io(String),
    /// The database was found damaged. It has been set aside and replaced; the job may be tried again. A node gets 503.
    #[error("the database is damaged and is being replaced: {0}")]
    Damaged(String),
    /// The thread has ended, and the agent is about to.
    #[error("the thread of the store has ended")]
    Stopped,
    /// A mistake in a statement. A node gets 500.
    #[error("the database refused: {0}")]
    Other(#[source] rusqlite::Error),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::SystemIoFailure | ErrorCode::ReadOnly | ErrorCode::CannotOpen) => {
                Self::Io(error.to_string())
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Damaged(error.to_string())
            }
            _ => Self::Other(error),
        }
    }
}

/// The way to the database. Clones lead to the same thread, which ends when the last of them is gone.
#[derive(Debug, Clone)]
pub struct Store {
    door: Door,
    nodes: nodes::Mirror,
    quota: Quota,
    identity_copy: PathBuf,
    /// Never carries anything; it closes when the thread ends.
    alive: Receiver<Infallible>,
}

/// Where jobs go.
#[derive(Debug, Clone)]
enum Door {
    Thread(Sender<thread::Job>),
    Inline(inline::Inline),
}

impl Store {
    /// Starts the thread and waits until the database is open, checked and brought to this program's schema.
    ///
    /// A damaged database is set aside as `site.db.corrupt-<n>` and replaced by one that holds what could be read of it.
    ///
    /// # Errors
    /// The database cannot be opened and cannot be replaced either: the agent must not start, because it could keep nothing.
    pub async fn open(options: StoreOptions) -> Result<Self, OpenError> {
        let (jobs, waiting) = bounded(JOBS_MAX);
        let (pulse, alive) = bounded(1);
        let nodes = nodes::Mirror::default();
        let quota = options.quota;
        let identity_copy = identity::copy_in(&options.data_dir);
        thread::spawn(options, nodes.clone(), waiting, pulse).await?;
        Ok(Self { door: Door::Thread(jobs), nodes, quota, identity_copy, alive })
    }

    /// As [`Store::open`] without a thread: whoever asks for a job does it, and `judge` says what becomes of it.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_inline(options: StoreOptions, judge: Box<dyn Judge>) -> Result<Self, OpenError> {
        let (pulse, alive) = bounded(1);
        let nodes = nodes::Mirror::default();
        let quota = options.quota;
        let identity_copy = identity::copy_in(&options.data_dir);
        let door = Door::Inline(inline::Inline::open(options, nodes.clone(), judge, pulse)?);
        Ok(Self { door, nodes, quota, identity_copy, alive })
    }

    /// Runs `work` on the thread, after everything that was asked for earlier.
    ///
    /// A transaction that `work` leaves open is rolled back.
    ///
    /// # Errors
    /// See [`StoreError`]; in each case nothing of `work` is to be relied on.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = bounded(1);
        let job: thread::Job = Box::new(move |db| {
            let result = match db {
                Ok(db) => work(db),
                Err(error) => Err(error),
            };
            let afterwards = thread::Afterwards::of(&result);
            // The caller may have given up; what was done is done.
            let _ = reply.try_send(result);
            afterwards
        });
        match &self.door {
            Door::Thread(jobs) => jobs.try_send(job).map_err(|error| match error {
                TrySendError::Full(_) => StoreError::Busy,
                TrySendError::Closed(_) => StoreError::Stopped,
            })?,
            Door::Inline(inline) => {
                if !inline.work(job) {
                    return std::future::pending().await;
                }
            }
        }
        // A job that is still in the channel when the thread ends is never dropped, so its answer would never come.
        let ended = async {
            self.stopped().await;
            Err(RecvError)
        };
        answer.recv().or(ended).await.map_err(|_| StoreError::Stopped)?
    }

    /// Returns when the thread has ended; the agent then has to end as well.
    pub async fn stopped(&self) {
        // Nothing is ever sent: this is the end of the channel.
        let _ = self.alive.recv().await;
    }

    /// For those who change nodes in a transaction of their own.
    pub(crate) fn mirror(&self) -> nodes::Mirror {
        self.nodes.clone()
    }

    /// The limits that it was opened with.
    pub fn quota(&self) -> Quota {
        self.quota
    }
}

#[cfg(test)]
pub(crate) mod tests;
