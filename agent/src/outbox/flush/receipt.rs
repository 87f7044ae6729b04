//! Which receipt counts: one that answers this very attempt, and speaks of the changes that were sent and of no others (FAULTS Q5).

use std::collections::BTreeMap;

use pureboot_protocol::{ChainHash, Change, ChangeBatch, ChangeReceipt, Epoch};

use crate::outbox::chain;

/// Why a receipt does not count. Nothing of it does, and the batch is sent again (FAULTS C8).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// An answer to an older attempt.
    #[error("the receipt answers another attempt")]
    Nonce,
    /// Another life of the outbox.
    #[error("the receipt is for epoch {0}")]
    Epoch(Epoch),
    /// It names changes that were never sent.
    #[error(
        "the receipt acknowledges change {acked_through}, and {last_sent} is the last that was sent"
    )]
    Ahead {
        /// What it acknowledges.
        acked_through: u64,
        /// What was sent.
        last_sent: u64,
    },
    /// The controller has other changes before or under this number.
    #[error("the receipt's hash at change {acked_through} is not that of the outbox")]
    Hash {
        /// What it acknowledges.
        acked_through: u64,
    },
    /// Its results do not fit what it acknowledges.
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

impl ReceiptError {
    /// Whether it answers this attempt and speaks of other changes.
    pub(super) fn is_dispute(&self) -> bool {
        matches!(self, Self::Ahead { .. } | Self::Hash { .. })
    }
}

/// What a receipt says that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// So many of the batch are in the controller's custody.
    Taken(usize),
    /// The controller waits for changes before the batch.
    Behind,
}

/// The links of the changes that any attempt has carried and that are not acknowledged. A smaller batch may follow a larger one whose
/// answer was lost, and the controller has the larger one. As many as the largest batch, because each begins at the head.
#[derive(Debug, Default)]
pub(super) struct Sent {
    epoch: Option<Epoch>,
    links: BTreeMap<u64, ChainHash>,
}

impl Sent {
    /// `changes`, which follow `before`, are about to be sent.
    pub(super) fn note(&mut self, epoch: Epoch, before: ChainHash, changes: &[Change]) {
        let Some(first) = changes.first() else { return };
        if self.epoch.replace(epoch) != Some(epoch) || !self.links.contains_key(&first.seq) {
            self.links.clear();
        }
        self.links = self.links.split_off(&first.seq);
        let mut link = before;
        for change in changes {
            link = chain::link(link, &change.head());
            self.links.insert(change.seq, link);
        }
    }

    /// What `receipt` says of `batch`, which was noted last.
    pub(super) fn judge(
        &self,
        batch: &ChangeBatch,
        receipt: &ChangeReceipt,
    ) -> Result<Verdict, ReceiptError> {
        if receipt.nonce != batch.nonce {
            return Err(ReceiptError::Nonce);
        }
        if receipt.epoch != batch.epoch {
            return Err(ReceiptError::Epoch(receipt.epoch));
        }
        let ChangeReceipt { acked_through, .. } = *receipt;
        let first_seq = batch.first_seq;
        let results = receipt.results.len();
        let Some(before_first) = acked_through.saturating_add(1).checked_sub(first_seq) else {
            return match results {
                0 => Ok(Verdict::Behind),
                _ => Err(ReceiptError::Results { acked: 0, results }),
            };
        };
        let link = match before_first {
            0 => batch.prev_hash.as_ref(),
            _ => self.links.get(&acked_through),
        };
        let last_sent = self.links.keys().next_back().copied().unwrap_or(first_seq);
        if acked_through > last_sent {
            return Err(ReceiptError::Ahead { acked_through, last_sent });
        }
        if link != Some(&receipt.hash) {
            return Err(ReceiptError::Hash { acked_through });
        }
        let acked = before_first.min(u64::try_from(batch.items.len()).unwrap_or(u64::MAX));
        let are_theirs =
            batch.items.iter().zip(&receipt.results).all(|(item, result)| item.id == result.id);
        if usize::try_from(acked) != Ok(results) || !are_theirs {
            return Err(ReceiptError::Results { acked, results });
        }
        Ok(Verdict::Taken(results))
    }
}
