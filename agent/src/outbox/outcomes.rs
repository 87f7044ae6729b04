//! What became of changes: for the caller that waits for one, and for the person who asks how the flusher does.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pureboot_protocol::{ChangeBatch, ChangeResult, Epoch, Outcome};
use smol::channel::{Receiver, Sender, bounded};

use super::flush::Report;

/// A caller that begins to wait after its change was acknowledged still finds the result among so many.
const RESULTS_MAX: usize = 256;

/// How the flusher does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trouble {
    /// Changes that met another one at the controller, since the start of the agent.
    pub conflicts: u64,
    /// Why the last attempt has failed; none after one that did not.
    pub last_error: Option<String>,
}

/// The changes that are on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flight {
    pub(super) first_seq: u64,
    pub(super) last_seq: u64,
}

impl Flight {
    pub(super) fn of(batch: &ChangeBatch) -> Self {
        let last_seq = batch.items.last().map_or(batch.first_seq, |last| last.seq);
        Self { first_seq: batch.first_seq, last_seq }
    }

    pub(super) fn len(self) -> u64 {
        (self.last_seq + 1).saturating_sub(self.first_seq)
    }
}

/// Shared by the flusher and those who wait.
#[derive(Debug, Clone)]
pub(super) struct Outcomes {
    inner: Arc<Mutex<Inner>>,
    set_aside: (Sender<()>, Receiver<()>),
}

impl Default for Outcomes {
    fn default() -> Self {
        // One signal that waits is as good as many.
        Self { inner: Arc::default(), set_aside: bounded(1) }
    }
}

#[derive(Debug, Default)]
struct Inner {
    epoch: Option<Epoch>,
    results: VecDeque<(u64, ChangeResult)>,
    waiting: Vec<(u64, Sender<ChangeResult>)>,
    in_flight: Option<Flight>,
    trouble: Trouble,
}

impl Outcomes {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gets the result of change `seq` when it comes, or at once if it has come.
    pub(super) fn wait_for(&self, seq: u64) -> Receiver<ChangeResult> {
        let (sender, receiver) = bounded(1);
        let mut inner = self.lock();
        // Those who gave up have dropped their end; who waits is limited by the connections that wait.
        inner.waiting.retain(|(_, sender)| !sender.is_closed());
        match inner.results.iter().find(|(found, _)| *found == seq) {
            Some((_, result)) => _ = sender.try_send(result.clone()),
            None => inner.waiting.push((seq, sender)),
        }
        receiver
    }

    /// The result of change `seq`, which came before and is found by whoever repeats it.
    pub(super) fn repeat(&self, seq: u64, result: &ChangeResult) {
        let mut inner = self.lock();
        if !inner.results.iter().any(|(found, _)| *found == seq) {
            inner.results.push_back((seq, result.clone()));
            let excess = inner.results.len().saturating_sub(RESULTS_MAX);
            inner.results.drain(..excess);
        }
    }

    pub(super) fn set_in_flight(&self, flight: Option<Flight>) {
        self.lock().in_flight = flight;
    }

    pub(super) fn in_flight(&self) -> Option<Flight> {
        self.lock().in_flight
    }

    /// The results of the changes up to `through`, in order.
    pub(super) fn publish(&self, epoch: Epoch, through: u64, results: &[ChangeResult]) {
        let mut inner = self.lock();
        if inner.epoch.replace(epoch) != Some(epoch) {
            inner.results.clear();
        }
        for (seq, result) in (0..=through).rev().zip(results.iter().rev()) {
            inner.waiting.retain(|(waits_for, sender)| {
                if *waits_for == seq {
                    // It may have given up.
                    let _ = sender.try_send(result.clone());
                }
                *waits_for != seq
            });
            inner.results.push_back((seq, result.clone()));
        }
        let excess = inner.results.len().saturating_sub(RESULTS_MAX);
        inner.results.drain(..excess);
    }

    /// Returns when the controller has set a change aside that it had not before.
    pub(super) async fn set_aside(&self) {
        // The sender lives as long as this does.
        _ = self.set_aside.1.recv().await;
    }

    pub(super) fn note(&self, report: &Report) {
        if let Report::SetAside { .. } = report {
            _ = self.set_aside.0.try_send(());
        }
        let mut inner = self.lock();
        match report {
            Report::Delivered { .. } => inner.trouble.last_error = None,
            Report::SetAside { result, .. } if result.outcome == Outcome::Conflict => {
                inner.trouble.conflicts += 1;
            }
            // It is in the table, where it is counted; or something is being done about it.
            Report::SetAside { .. } | Report::Behind { .. } | Report::Forked { .. } => {}
            Report::Failed(error) => inner.trouble.last_error = Some(error.to_string()),
            Report::Enclosed { seq, error } | Report::Blocked { seq, error } => {
                inner.trouble.last_error = Some(format!("change {seq}: {error}"));
            }
            Report::BadReceipt(error) => inner.trouble.last_error = Some(error.to_string()),
        }
    }

    pub(super) fn trouble(&self) -> Trouble {
        self.lock().trouble.clone()
    }
}
