//! When which batch is sent, and which receipt counts: one flusher, strictly first in, first out (FAULTS Q3 to Q5, Q11).
//!
//! Feed one input, drain [`Flush::poll_output`] until it answers [`Output::Wait`], or carry out the one order that needs an
//! answer ([`Output::Load`], [`Output::Deliver`], [`Output::Acknowledge`]) and feed that. No clock, no socket, no database.

use std::time::{Duration, Instant};

use pureboot_protocol::{
    Change, ChangeBatch, ChangeId, ChangeReceipt, ChangeResult, Epoch, Outcome,
};

use super::record::Queued;
use crate::rng::Rng;

/// The most changes in a batch.
pub const BATCH_ITEMS_MAX: usize = 100;
/// The most bytes of payload in a batch; a change that is larger goes alone.
pub const BATCH_BYTES_MAX: usize = 256 << 10;

/// After a failure, at the least and at the most.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// What a controller, or something between, may ask for (FAULTS T8, C2).
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(900);

/// Why a batch has no receipt. None of them counts against a change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// No connection, or it broke.
    #[error("the controller cannot be reached: {0}")]
    Unreachable(String),
    /// No complete answer in time. A path that swallows large packets looks like this, so the next batch is smaller.
    #[error("the controller did not answer in time")]
    TimedOut,
    /// 5xx or 429.
    #[error("the controller answers {status}")]
    Unavailable {
        /// The status.
        status: u16,
        /// How long it asks to be left alone, as far as that could be understood.
        retry_after: Option<Duration>,
    },
    /// 401 or 403. Boots go on.
    #[error("the controller does not accept the agent's credential ({status})")]
    Unauthorized {
        /// The status.
        status: u16,
    },
    /// Another 4xx: the controller understood enough not to take it.
    #[error("the controller refuses the changes with {status}: {detail}")]
    Refused {
        /// The status.
        status: u16,
        /// Its reason.
        detail: String,
    },
    /// An answer that is not a receipt: a captive portal, a truncated body.
    #[error("the answer is not a receipt: {0}")]
    Unusable(String),
}

/// Why a receipt does not count. Nothing of it does, and the batch is sent again (FAULTS C8).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// An answer to an older attempt.
    #[error("the receipt answers another attempt")]
    Nonce,
    /// Another life of the outbox.
    #[error("the receipt is for epoch {0}")]
    Epoch(Epoch),
    /// It acknowledges what was never sent.
    #[error(
        "the receipt acknowledges change {acked_through}, and {last_sent} was the last that was sent"
    )]
    Ahead {
        /// What it says.
        acked_through: u64,
        /// What was sent.
        last_sent: u64,
    },
    /// It does not know changes that were acknowledged before: the controller has lost them (FAULTS N12).
    #[error(
        "the controller has nothing after change {acked_through}, and had acknowledged those before {first_seq}"
    )]
    Behind {
        /// What it says.
        acked_through: u64,
        /// The oldest change that the agent still has.
        first_seq: u64,
    },
    /// The results are not those of the changes that it acknowledges.
    #[error(
        "the receipt acknowledges {acked} changes with {results} results that are not theirs in order"
    )]
    Results {
        /// How many changes.
        acked: u64,
        /// How many results.
        results: usize,
    },
}

/// What a person should know; it changes nothing by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// The controller has taken changes into its custody.
    Delivered {
        /// How many.
        changes: usize,
    },
    /// It has taken this one and parked it, or a conflict waits for a decision.
    SetAside {
        /// Its place in the epoch.
        seq: u64,
        /// What the controller did.
        result: ChangeResult,
    },
    /// A batch has not been delivered and is tried again.
    Failed(DeliveryError),
    /// One change alone is refused. It stays at the head and keeps those behind it waiting, because their order would be lost.
    Blocked {
        /// Its place in the epoch.
        seq: u64,
        /// What the controller said.
        error: DeliveryError,
    },
    /// A receipt does not count.
    BadReceipt(ReceiptError),
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Read the head of the outbox; feed [`Flush::handle_loaded`].
    Load {
        /// At most so many changes.
        items_max: usize,
        /// At most so many bytes.
        bytes_max: usize,
    },
    /// Send; feed [`Flush::handle_receipt`] or [`Flush::handle_failure`].
    Deliver(ChangeBatch),
    /// Delete the prefix; feed [`Flush::handle_acknowledged`].
    Acknowledge {
        /// The life of the outbox.
        epoch: Epoch,
        /// The last change that goes.
        through: u64,
        /// What became of each.
        results: Vec<ChangeResult>,
    },
    /// Tell somebody.
    Report(Report),
    /// Nothing to do until something is queued, or until the time, if one is named; feed [`Flush::handle_queued`],
    /// [`Flush::handle_online`] or [`Flush::handle_timeout`].
    Wait(Option<Instant>),
}

enum State {
    /// The outbox was empty when it was last read.
    Idle,
    /// The head of the outbox has to be read.
    Loading,
    /// The batch is to be sent, or sent and not yet answered.
    Delivering(ChangeBatch),
    /// The receipt counts; the prefix is to be deleted.
    Acknowledging { epoch: Epoch, through: u64, results: Vec<ChangeResult> },
    /// Something failed.
    Pausing {
        until: Instant,
        /// The controller asked for it; that the line is back does not end it.
        is_asked_for: bool,
    },
}

/// The one flusher of an outbox.
pub struct Flush {
    state: State,
    rng: Rng,
    reports: Vec<Report>,
    /// The next batch is no larger.
    items_max: usize,
    /// In a row.
    failures: u32,
    /// The last change that any attempt has carried, and the life of the outbox that it belongs to. A smaller batch may follow a
    /// larger one whose answer was lost, and the controller has the larger one.
    furthest_sent: Option<(Epoch, u64)>,
}

impl Flush {
    /// A flusher that begins by reading the outbox: a restart may have left something.
    pub fn new(rng: Rng) -> Self {
        let items_max = BATCH_ITEMS_MAX;
        Self {
            state: State::Loading,
            rng,
            reports: Vec::new(),
            items_max,
            failures: 0,
            furthest_sent: None,
        }
    }

    /// A change has been written to the outbox.
    pub fn handle_queued(&mut self) {
        // In every other state the outbox is read again before the flusher rests.
        if matches!(self.state, State::Idle) {
            self.state = State::Loading;
        }
    }

    /// The line is back: there is no reason to wait longer, unless the controller asked for it.
    pub fn handle_online(&mut self) {
        if matches!(self.state, State::Pausing { is_asked_for: false, .. }) {
            self.failures = 0;
            self.state = State::Loading;
        }
    }

    /// The time named by [`Output::Wait`] may have come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if matches!(self.state, State::Pausing { until, .. } if until <= now) {
            self.state = State::Loading;
        }
    }

    /// The head of the outbox, as it was read.
    pub fn handle_loaded(&mut self, queued: Queued) {
        if !matches!(self.state, State::Loading) {
            return;
        }
        let Some(first) = queued.changes.first() else {
            self.state = State::Idle;
            return;
        };
        let first_seq = first.seq;
        let last_seq = queued.changes.last().map_or(first_seq, |last| last.seq);
        let before = self.furthest_sent.filter(|(epoch, _)| *epoch == queued.epoch);
        let furthest = before.map_or(last_seq, |(_, seq)| seq.max(last_seq));
        self.furthest_sent = Some((queued.epoch, furthest));
        let batch = ChangeBatch {
            nonce: self.draw_nonce(),
            epoch: queued.epoch,
            first_seq,
            // The head is the oldest that is kept: what is acknowledged is deleted.
            low_water: Some(first_seq),
            items: queued.changes,
        };
        self.state = State::Delivering(batch);
    }

    /// The answer to the batch.
    pub fn handle_receipt(&mut self, receipt: ChangeReceipt, now: Instant) {
        let State::Delivering(batch) = &self.state else {
            // Whoever sends one batch at a time has no answer but to the last one.
            return;
        };
        let furthest_sent = self.furthest_sent.map_or(0, |(_, seq)| seq);
        match check(batch, furthest_sent, &receipt) {
            // It took none and gave no reason.
            Ok(0) => self.pause(now, None),
            Ok(taken) => {
                let set_aside = batch.items.iter().zip(&receipt.results).filter(|(_, result)| {
                    matches!(result.outcome, Outcome::Parked | Outcome::Conflict)
                });
                self.reports.extend(set_aside.map(|(item, result)| Report::SetAside {
                    seq: item.seq,
                    result: result.clone(),
                }));
                self.reports.push(Report::Delivered { changes: taken });
                self.failures = 0;
                self.items_max = (self.items_max * 2).min(BATCH_ITEMS_MAX);
                self.state = State::Acknowledging {
                    epoch: receipt.epoch,
                    // What an earlier attempt has brought besides is sent once more: only results tell what became of it.
                    through: batch
                        .items
                        .last()
                        .map_or(0, |last| last.seq)
                        .min(receipt.acked_through),
                    results: receipt.results,
                };
            }
            Err(error) => {
                self.reports.push(Report::BadReceipt(error));
                self.pause(now, None);
            }
        }
    }

    /// The batch has no answer that counts.
    pub fn handle_failure(&mut self, error: DeliveryError, now: Instant) {
        let State::Delivering(batch) = &self.state else { return };
        let len = batch.items.len();
        match &error {
            DeliveryError::Refused { .. } => {
                if len > 1 {
                    // One of them may be what is refused: those before it go on at once (FAULTS C10).
                    self.items_max = len / 2;
                    self.state = State::Loading;
                } else {
                    let seq = batch.first_seq;
                    self.reports.push(Report::Blocked { seq, error });
                    return self.pause(now, None);
                }
            }
            DeliveryError::TimedOut => {
                self.items_max = (len / 2).max(1);
                self.pause(now, None);
            }
            DeliveryError::Unavailable { retry_after, .. } => self.pause(now, *retry_after),
            DeliveryError::Unreachable(_)
            | DeliveryError::Unauthorized { .. }
            | DeliveryError::Unusable(_) => self.pause(now, None),
        }
        self.reports.push(Report::Failed(error));
    }

    /// The prefix has been deleted.
    pub fn handle_acknowledged(&mut self) {
        if matches!(self.state, State::Acknowledging { .. }) {
            self.state = State::Loading;
        }
    }

    /// The outbox could not be read or its prefix not be deleted; what was sent is sent again, and is a duplicate then.
    pub fn handle_store_failure(&mut self, now: Instant) {
        self.pause(now, None);
    }

    /// What is to be done next.
    pub fn poll_output(&mut self) -> Output {
        if !self.reports.is_empty() {
            return Output::Report(self.reports.remove(0));
        }
        match &self.state {
            State::Idle => Output::Wait(None),
            State::Loading => {
                Output::Load { items_max: self.items_max, bytes_max: BATCH_BYTES_MAX }
            }
            State::Delivering(batch) => Output::Deliver(batch.clone()),
            State::Acknowledging { epoch, through, results } => {
                Output::Acknowledge { epoch: *epoch, through: *through, results: results.clone() }
            }
            State::Pausing { until, .. } => Output::Wait(Some(*until)),
        }
    }

    /// Full jitter under a ceiling that doubles: many sites that lose one controller do not come back in one moment.
    fn pause(&mut self, now: Instant, asked_for: Option<Duration>) {
        self.failures = self.failures.saturating_add(1);
        let ceiling = PAUSE_MIN.saturating_mul(1 << self.failures.min(16)).min(PAUSE_MAX);
        let own = self.rng.duration_between(PAUSE_MIN, ceiling);
        let pause = asked_for.map_or(own, |pause| pause.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX));
        self.state = State::Pausing { until: now + pause, is_asked_for: asked_for.is_some() };
    }

    fn draw_nonce(&mut self) -> ChangeId {
        let (high, low) = (u128::from(self.rng.next_u64()), u128::from(self.rng.next_u64()));
        ChangeId::from_bytes((high << 64 | low).to_be_bytes())
    }
}

/// How many changes of the batch the receipt acknowledges.
fn check(
    batch: &ChangeBatch,
    furthest_sent: u64,
    receipt: &ChangeReceipt,
) -> Result<usize, ReceiptError> {
    if receipt.nonce != batch.nonce {
        return Err(ReceiptError::Nonce);
    }
    if receipt.epoch != batch.epoch {
        return Err(ReceiptError::Epoch(receipt.epoch));
    }
    let ChangeReceipt { acked_through, .. } = *receipt;
    let first_seq = batch.first_seq;
    let last_sent = batch.items.last().map_or(first_seq, |item: &Change| item.seq);
    if acked_through > last_sent.max(furthest_sent) {
        return Err(ReceiptError::Ahead { acked_through, last_sent: last_sent.max(furthest_sent) });
    }
    let Some(acked) = (acked_through.min(last_sent) + 1).checked_sub(first_seq) else {
        return Err(ReceiptError::Behind { acked_through, first_seq });
    };
    let results = receipt.results.len();
    let are_theirs =
        batch.items.iter().zip(&receipt.results).all(|(item, result)| item.id == result.id);
    if usize::try_from(acked) != Ok(results) || !are_theirs {
        return Err(ReceiptError::Results { acked, results });
    }
    Ok(results)
}

#[cfg(test)]
mod tests;
