//! A store without a thread: each job is done at once, by whoever asks. For a simulation, which decides when the process ends and
//! when the disk fails.

use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use smol::channel::Sender;

use super::nodes::Mirror;
use super::open::OpenError;
use super::thread::{Job, Keeper};
use super::{StoreError, StoreOptions};

/// What becomes of a job.
#[derive(Debug)]
pub enum Fate {
    /// It is done.
    Done,
    /// The disk refuses it.
    Refused(StoreError),
    /// The process ends before it: nobody is ever answered.
    EndBefore,
    /// The process ends after its commit and before its answer.
    EndAfter,
}

/// Who decides over the jobs of a store without a thread.
pub trait Judge: Send {
    /// What is to become of the next job.
    fn decide(&mut self) -> Fate;
    /// A job is done; `db` is as it has left it.
    fn look(&mut self, db: &mut Connection);
}

/// The keeper of a database, on the thread of those who ask.
#[derive(Clone)]
pub(super) struct Inline(Arc<Mutex<Inner>>);

struct Inner {
    keeper: Keeper,
    judge: Box<dyn Judge>,
    has_ended: bool,
    _pulse: Sender<Infallible>,
}

impl Inline {
    /// Opens the database; `pulse` is dropped with the last clone.
    pub(super) fn open(
        options: StoreOptions,
        nodes: Mirror,
        judge: Box<dyn Judge>,
        pulse: Sender<Infallible>,
    ) -> Result<Self, OpenError> {
        let keeper = Keeper::new(options, nodes)?;
        let inner = Inner { keeper, judge, has_ended: false, _pulse: pulse };
        Ok(Self(Arc::new(Mutex::new(inner))))
    }

    /// Does `job`; answers whether the process lives on to say so.
    pub(super) fn work(&self, job: Job) -> bool {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.has_ended {
            return false;
        }
        match inner.judge.decide() {
            Fate::Done => inner.work(job),
            Fate::Refused(error) => _ = job(Err(error)),
            Fate::EndBefore => inner.has_ended = true,
            Fate::EndAfter => {
                inner.work(job);
                inner.has_ended = true;
            }
        }
        !inner.has_ended
    }
}

impl Inner {
    fn work(&mut self, job: Job) {
        self.keeper.work(job);
        if let Some(db) = self.keeper.connection() {
            self.judge.look(db);
        }
    }
}

impl fmt::Debug for Inline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inline")
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::store::Store;
    use crate::store::tests::{event, options};

    /// Gives out fates, the last one first, and the best when there is none left.
    struct Fates(Vec<Fate>);

    impl Judge for Fates {
        fn decide(&mut self) -> Fate {
            self.0.pop().unwrap_or(Fate::Done)
        }

        fn look(&mut self, _: &mut Connection) {}
    }

    fn open(dir: &Path, fates: Vec<Fate>) -> Store {
        Store::open_inline(options(dir), Box::new(Fates(fates))).unwrap()
    }

    fn pending(dir: &Path) -> u64 {
        smol::future::block_on(open(dir, Vec::new()).counts()).unwrap().pending
    }

    /// What somebody hears who records a change; none if he is never answered.
    fn record(store: &Store) -> Option<Result<(), StoreError>> {
        let recording = std::pin::pin!(store.record(event(1, 1, 1), |_| {}));
        let recorded = smol::future::block_on(smol::future::poll_once(recording))?;
        Some(recorded.map(|_| ()))
    }

    #[test]
    fn k1_a_process_that_ends_before_the_commit_answers_nobody_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), vec![Fate::EndBefore]);
        assert!(record(&store).is_none());
        assert!(record(&store).is_none(), "it has ended");
        drop(store);
        assert_eq!(pending(dir.path()), 0);
    }

    #[test]
    fn k2_a_process_that_ends_after_the_commit_answers_nobody_and_leaves_the_change() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), vec![Fate::EndAfter]);
        assert!(record(&store).is_none());
        drop(store);
        assert_eq!(pending(dir.path()), 1);
    }

    #[test]
    fn d1_what_the_disk_refuses_is_refused_and_the_next_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), vec![Fate::Refused(StoreError::Full)]);
        assert!(matches!(record(&store), Some(Err(StoreError::Full))));
        assert!(matches!(record(&store), Some(Ok(()))));
        drop(store);
        assert_eq!(pending(dir.path()), 1);
    }
}
