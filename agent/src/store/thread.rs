//! The thread: one job after the other, and no connection that has once failed to write is trusted again.

use std::convert::Infallible;
use std::thread::Builder;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use smol::channel::{Receiver, Sender, bounded};

use super::nodes::{self, Mirror};
use super::open::{self, OpenError};
use super::{StoreError, StoreOptions};
use crate::clock;

/// After a failure of the disk the database is opened anew, but not more often than this: opening reads all of it.
const REOPEN_PAUSE: Duration = Duration::from_secs(5);

/// Gets the connection, or why there is none, and says what it has learnt about it.
pub(super) type Job = Box<dyn FnOnce(Result<&mut Connection, StoreError>) -> Afterwards + Send>;

/// What a job's result says about the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Afterwards {
    /// It is as good as before.
    Keep,
    /// After a failed write or fsync nobody knows what is on the disk: look again.
    Reopen(String),
    /// The content is damaged.
    Replace(String),
}

impl Afterwards {
    pub(super) fn of<T>(result: &Result<T, StoreError>) -> Self {
        match result {
            Err(StoreError::Io(error)) => Self::Reopen(error.clone()),
            Err(StoreError::Damaged(error)) => Self::Replace(error.clone()),
            _ => Self::Keep,
        }
    }
}

/// Starts the thread and returns when the database is open; `pulse` is dropped with the thread.
///
/// # Errors
/// The database cannot be opened; the thread has ended.
pub(super) async fn spawn(
    options: StoreOptions,
    nodes: Mirror,
    jobs: Receiver<Job>,
    pulse: Sender<Infallible>,
) -> Result<(), OpenError> {
    let (reply, opened) = bounded(1);
    let main = move || {
        let _pulse = pulse;
        let mut keeper = match Keeper::new(options, nodes) {
            Ok(keeper) => {
                _ = reply.try_send(Ok(()));
                keeper
            }
            Err(error) => {
                let _ = reply.try_send(Err(error));
                return;
            }
        };
        while let Ok(job) = jobs.recv_blocking() {
            keeper.work(job);
        }
    };
    Builder::new().name("store".to_owned()).spawn(main).map_err(OpenError::Thread)?;
    opened.recv().await.unwrap_or(Err(OpenError::Died))
}

pub(super) struct Keeper {
    options: StoreOptions,
    nodes: Mirror,
    /// None while the disk does not let it be opened.
    db: Option<Connection>,
    reopen_at: Instant,
    /// Why it was closed, or could not be opened again.
    failure: String,
}

impl Keeper {
    /// Opens the database.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(super) fn new(options: StoreOptions, nodes: Mirror) -> Result<Self, OpenError> {
        let (reopen_at, failure) = (clock::monotonic(), String::new());
        let mut keeper = Self { options, nodes, db: None, reopen_at, failure };
        keeper.open()?;
        Ok(keeper)
    }

    /// The connection, while there is one.
    pub(super) fn connection(&mut self) -> Option<&mut Connection> {
        self.db.as_mut()
    }

    fn open(&mut self) -> Result<(), OpenError> {
        let opened = open::open(&self.options, &self.nodes.all())?;
        self.nodes.replace(nodes::load_all(&opened)?);
        self.db = Some(opened);
        Ok(())
    }

    fn reopen(&mut self) {
        if clock::monotonic() < self.reopen_at {
            return;
        }
        self.reopen_at = clock::monotonic() + REOPEN_PAUSE;
        match self.open() {
            Ok(()) => log::info!("opened the database again"),
            Err(error) => {
                log::error!(error:%; "cannot open the database again");
                self.failure = error.to_string();
            }
        }
    }

    pub(super) fn work(&mut self, job: Job) {
        if self.db.is_none() {
            self.reopen();
        }
        let connection = self.db.as_mut().ok_or_else(|| {
            StoreError::Io(format!("the database is closed since it failed: {}", self.failure))
        });
        let was_open = connection.is_ok();
        let afterwards = job(connection);
        if !was_open {
            return;
        }
        match afterwards {
            Afterwards::Keep => self.end_transaction(),
            Afterwards::Reopen(error) => {
                log::error!(error:%; "the disk failed, opening the database anew");
                self.failure = error;
                self.db = None;
            }
            Afterwards::Replace(error) => {
                self.db = None;
                self.replace(&error);
                self.failure = error;
            }
        }
    }

    /// A job that forgets its transaction must not make the next one part of it.
    fn end_transaction(&mut self) {
        let Some(db) = &self.db else { return };
        if !db.is_autocommit() && db.execute_batch("ROLLBACK").is_err() {
            self.db = None;
        }
    }

    fn replace(&mut self, error: &str) {
        // Damage that comes back at once is not cured by replacing; each attempt would leave a copy on the disk.
        if clock::monotonic() < self.reopen_at {
            return;
        }
        self.reopen_at = clock::monotonic() + REOPEN_PAUSE;
        let replaced = open::replace(&self.options, error, &self.nodes.all());
        if let Err(error) = replaced {
            log::error!(error:%; "cannot replace the damaged database");
            return;
        }
        if let Err(error) = self.open() {
            log::error!(error:%; "cannot open the database that replaces the damaged one");
        }
    }
}
