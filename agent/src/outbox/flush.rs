//! When which batch is sent, and what follows from its receipt: one flusher, strictly first in, first out (FAULTS Q3 to Q11).
//! Which receipt counts is in `receipt`, how a change is sent that nobody takes as it is in `letter`.
//!
//! Feed one input, drain [`Flush::poll_output`] until it answers [`Output::Wait`], or carry out the one order that needs an
//! answer ([`Output::Load`], [`Output::Deliver`], [`Output::Acknowledge`], [`Output::Rewind`], [`Output::BeginEpoch`]) and feed
//! that. No clock, no socket, no database.

mod letter;
mod receipt;

use std::time::{Duration, Instant};

use pureboot_protocol::{
    BatchLimits, ChainHash, ChangeBatch, ChangeId, ChangeReceipt, ChangeResult, Epoch, Instance,
    Outcome,
};

use self::letter::Letter;
pub use self::receipt::ReceiptError;
use self::receipt::{Sent, Verdict};
use super::record::Queued;
use crate::rng::Rng;

/// The largest batch that the agent makes, however much the controller takes: it is held in memory, and what of it is acknowledged is
/// one transaction. A change that is larger goes alone.
pub const LIMITS: BatchLimits = BatchLimits { items_max: 1_000, bytes_max: 1 << 20 };
/// What a batch has around its changes, in bytes at the most.
const ENVELOPE_LEN_MAX: u32 = 512;
/// Batches grow for as long as each is answered within this, counted from when the one before was: one of twice the size is then still
/// answered before the agent gives it up.
const GROWS_WITHIN: Duration = Duration::from_secs(3);

/// After a failure, at the least and at the most.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// What a controller, or something between, may ask for (FAULTS T8, C2).
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(900);

/// After so many receipts in a row that speak of other changes than the outbox holds, the controller's view of the epoch is another
/// one: the disk is from a backup (FAULTS D10).
const DISPUTES_MAX: u32 = 2;

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
    /// 409 `outbox_forked`: the controller has other changes under these numbers.
    #[error("the outbox has forked: {0}")]
    Forked(String),
    /// 409 `identity_in_use`: another machine lives under this agent's identity. Boots go on.
    #[error("another machine uses this agent's identity: {0}")]
    InUse(String),
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

impl DeliveryError {
    /// Whether what was sent is to blame, and a smaller batch, or another form of it, may be taken.
    fn is_about_content(&self) -> bool {
        matches!(self, Self::Refused { status: 400 | 413 | 422, .. })
    }
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
    /// One change alone is refused. It is sent on as a dead letter, so that those behind it go on (FAULTS Q10).
    Enclosed {
        /// Its place in the epoch.
        seq: u64,
        /// What the controller said.
        error: DeliveryError,
    },
    /// Not even a dead letter is taken. It stays at the head and keeps those behind it waiting, because their order would be lost.
    Blocked {
        /// Its place in the epoch.
        seq: u64,
        /// What the controller said.
        error: DeliveryError,
    },
    /// A receipt does not count.
    BadReceipt(ReceiptError),
    /// The controller has lost what it had acknowledged: it is from a backup (FAULTS N12).
    Behind {
        /// How far it has come.
        acked_through: u64,
        /// What it was sent.
        first_seq: u64,
    },
    /// The epoch has gone two ways; what is not acknowledged is sent anew in another (FAULTS D10).
    Forked {
        /// The epoch that ends.
        epoch: Epoch,
    },
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Read the head of the outbox; feed [`Flush::handle_loaded`].
    Load {
        /// At most so many changes.
        items_max: usize,
        /// At most so many bytes, as JSON.
        bytes_max: usize,
    },
    /// Send; feed [`Flush::handle_receipt`] or [`Flush::handle_failure`].
    Deliver(ChangeBatch),
    /// Note that the controller has the prefix; feed [`Flush::handle_acknowledged`].
    Acknowledge {
        /// The life of the outbox.
        epoch: Epoch,
        /// The last change that it has.
        through: u64,
        /// What became of each.
        results: Vec<ChangeResult>,
    },
    /// Put back what is kept of the changes after this one; feed [`Flush::handle_rewound`].
    Rewind {
        /// The life of the outbox.
        epoch: Epoch,
        /// The last change that the controller has.
        through: u64,
        /// The controller's link of it.
        hash: ChainHash,
    },
    /// Give all that is kept new numbers in another epoch; feed [`Flush::handle_epoch_begun`].
    BeginEpoch {
        /// The epoch that ends.
        from: Epoch,
        /// The one that begins.
        to: Epoch,
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
    /// The receipt counts; the prefix is to be noted.
    Acknowledging { epoch: Epoch, through: u64, results: Vec<ChangeResult> },
    /// The controller is behind what it had acknowledged.
    Rewinding { epoch: Epoch, through: u64, hash: ChainHash },
    /// The controller has another outbox under this epoch.
    Renewing { from: Epoch, to: Epoch },
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
    instance: Option<Instance>,
    reports: Vec<Report>,
    /// What both sides bear, as far as the controller has said.
    limits: BatchLimits,
    /// The next batch is no larger: less than `limits` where something on the way does not carry as much.
    items_max: usize,
    /// The last moment that is known, as long as there was something to send ever since.
    busy_since: Option<Instant>,
    /// In a row.
    failures: u32,
    /// Receipts in a row that speak of other changes.
    disputes: u32,
    sent: Sent,
    letter: Option<Letter>,
}

impl Flush {
    /// A flusher that begins by reading the outbox: a restart may have left something.
    pub fn new(rng: Rng) -> Self {
        Self {
            state: State::Loading,
            rng,
            instance: None,
            reports: Vec::new(),
            limits: BatchLimits::UNTOLD,
            items_max: size(BatchLimits::UNTOLD.items_max),
            busy_since: None,
            failures: 0,
            disputes: 0,
            sent: Sent::default(),
            letter: None,
        }
    }

    /// Names `instance` as the sender of its batches.
    pub fn speaking_as(self, instance: Instance) -> Self {
        Self { instance: Some(instance), ..self }
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
            self.busy_since = Some(now);
            self.state = State::Loading;
        }
    }

    /// The head of the outbox, as it was read.
    pub fn handle_loaded(&mut self, queued: Queued) {
        if !matches!(self.state, State::Loading) {
            return;
        }
        let Queued { epoch, low_water, before, mut changes } = queued;
        let Some(first_seq) = changes.first().map(|first| first.seq) else {
            self.busy_since = None;
            self.state = State::Idle;
            return;
        };
        self.letter.take_if(|letter| !letter.is_for(epoch, first_seq));
        if let Some(letter) = &self.letter {
            changes.truncate(1);
            changes.iter_mut().for_each(|change| letter.enclose(change));
        }
        self.sent.note(epoch, before, &changes);
        let batch = ChangeBatch {
            nonce: ChangeId::from_bytes(self.draw()),
            epoch,
            instance: self.instance,
            prev_hash: Some(before),
            first_seq,
            low_water: Some(low_water),
            items: changes,
        };
        self.state = State::Delivering(batch);
    }

    /// The answer to the batch.
    pub fn handle_receipt(&mut self, receipt: ChangeReceipt, now: Instant) {
        let State::Delivering(batch) = &self.state else {
            // Whoever sends one batch at a time has no answer but to the last one.
            return;
        };
        match self.sent.judge(batch, &receipt) {
            // It took none and gave no reason.
            Ok(Verdict::Taken(0)) => self.pause(now, None),
            Ok(Verdict::Taken(taken)) => {
                let set_aside = batch.items.iter().zip(&receipt.results).filter(|(_, result)| {
                    matches!(result.outcome, Outcome::Parked | Outcome::Conflict)
                });
                self.reports.extend(set_aside.map(|(item, result)| Report::SetAside {
                    seq: item.seq,
                    result: result.clone(),
                }));
                self.reports.push(Report::Delivered { changes: taken });
                // What an earlier attempt has brought besides is sent once more: only results tell what became of it.
                let last_sent = batch.items.last().map_or(0, |last| last.seq);
                (self.failures, self.disputes, self.letter) = (0, 0, None);
                self.limits = receipt.takes.unwrap_or(BatchLimits::UNTOLD).and(LIMITS);
                self.grow(now);
                self.state = State::Acknowledging {
                    epoch: receipt.epoch,
                    through: last_sent.min(receipt.acked_through),
                    results: receipt.results,
                };
            }
            Ok(Verdict::Behind) => {
                let (epoch, through) = (receipt.epoch, receipt.acked_through);
                let first_seq = batch.first_seq;
                self.reports.push(Report::Behind { acked_through: through, first_seq });
                self.state = State::Rewinding { epoch, through, hash: receipt.hash };
            }
            Err(error) => {
                let epoch = batch.epoch;
                self.disputes += u32::from(error.is_dispute());
                self.reports.push(Report::BadReceipt(error));
                if self.disputes < DISPUTES_MAX {
                    self.pause(now, None);
                } else {
                    self.renew(epoch);
                }
            }
        }
    }

    /// The batch has no answer that counts.
    pub fn handle_failure(&mut self, error: DeliveryError, now: Instant) {
        let State::Delivering(batch) = &self.state else { return };
        let (epoch, first_seq, len) = (batch.epoch, batch.first_seq, batch.items.len());
        match &error {
            DeliveryError::Forked(_) => {
                self.reports.push(Report::Failed(error));
                return self.renew(epoch);
            }
            refused if refused.is_about_content() && len > 1 => {
                // One of them may be what is refused: those before it go on at once (FAULTS C10).
                self.items_max = len / 2;
                self.state = State::Loading;
            }
            refused if refused.is_about_content() => {
                return self.enclose(epoch, first_seq, error, now);
            }
            // The answer to a large batch may be what does not get through.
            DeliveryError::TimedOut | DeliveryError::Unusable(_) => {
                self.items_max = (len / 2).max(1);
                self.pause(now, None);
            }
            DeliveryError::Unavailable { retry_after, .. } => self.pause(now, *retry_after),
            DeliveryError::Unreachable(_)
            | DeliveryError::Unauthorized { .. }
            | DeliveryError::InUse(_)
            | DeliveryError::Refused { .. } => self.pause(now, None),
        }
        self.reports.push(Report::Failed(error));
    }

    /// The prefix has been noted.
    pub fn handle_acknowledged(&mut self) {
        if matches!(self.state, State::Acknowledging { .. }) {
            self.state = State::Loading;
        }
    }

    /// What is kept after the controller's last change waits again; `has_more` is false if nothing is kept that did not wait already.
    pub fn handle_rewound(&mut self, has_more: bool) {
        let State::Rewinding { epoch, .. } = self.state else { return };
        if has_more {
            self.state = State::Loading;
        } else {
            // The controller waits for what nobody has any more.
            self.renew(epoch);
        }
    }

    /// All that is kept has its place in the new epoch.
    pub fn handle_epoch_begun(&mut self) {
        if matches!(self.state, State::Renewing { .. }) {
            self.state = State::Loading;
        }
    }

    /// The outbox could not be read or written; what was sent is sent again, and is a duplicate then.
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
            State::Loading => Output::Load {
                items_max: self.items_max,
                bytes_max: size(self.limits.bytes_max.saturating_sub(ENVELOPE_LEN_MAX)),
            },
            State::Delivering(batch) => Output::Deliver(batch.clone()),
            State::Acknowledging { epoch, through, results } => {
                Output::Acknowledge { epoch: *epoch, through: *through, results: results.clone() }
            }
            State::Rewinding { epoch, through, hash } => {
                Output::Rewind { epoch: *epoch, through: *through, hash: *hash }
            }
            State::Renewing { from, to } => Output::BeginEpoch { from: *from, to: *to },
            State::Pausing { until, .. } => Output::Wait(Some(*until)),
        }
    }

    /// Lets the next batch be larger, unless the line is so slow that this one took long.
    fn grow(&mut self, now: Instant) {
        let was_quick =
            self.busy_since.is_none_or(|since| now.saturating_duration_since(since) < GROWS_WITHIN);
        let wished = if was_quick { self.items_max * 2 } else { self.items_max };
        self.items_max = wished.min(size(self.limits.items_max).max(1));
        self.busy_since = Some(now);
    }

    /// Sends the head on in a form that says less.
    fn enclose(&mut self, epoch: Epoch, seq: u64, error: DeliveryError, now: Instant) {
        let Some(letter) = Letter::after(self.letter.take(), epoch, seq, &error) else {
            self.letter = Some(Letter::bare(epoch, seq, &error));
            self.reports.push(Report::Blocked { seq, error });
            return self.pause(now, None);
        };
        self.letter = Some(letter);
        self.reports.push(Report::Enclosed { seq, error });
        self.state = State::Loading;
    }

    fn renew(&mut self, from: Epoch) {
        (self.disputes, self.letter) = (0, None);
        self.reports.push(Report::Forked { epoch: from });
        self.state = State::Renewing { from, to: Epoch::from_bytes(self.draw()) };
    }

    /// Full jitter under a ceiling that doubles: many sites that lose one controller do not come back in one moment.
    fn pause(&mut self, now: Instant, asked_for: Option<Duration>) {
        self.failures = self.failures.saturating_add(1);
        let ceiling = PAUSE_MIN.saturating_mul(1 << self.failures.min(16)).min(PAUSE_MAX);
        let own = self.rng.duration_between(PAUSE_MIN, ceiling);
        let pause = asked_for.map_or(own, |pause| pause.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX));
        self.state = State::Pausing { until: now + pause, is_asked_for: asked_for.is_some() };
    }

    fn draw(&mut self) -> [u8; 16] {
        let (high, low) = (u128::from(self.rng.next_u64()), u128::from(self.rng.next_u64()));
        (high << 64 | low).to_be_bytes()
    }
}

fn size(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
