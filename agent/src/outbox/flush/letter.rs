//! How a change is sent that nobody takes as it is: as a dead letter, first with its payload and then without (FAULTS Q10).

use pureboot_protocol::{
    Change, ChangePayload, ContentHash, DEAD_LETTER_PAYLOAD_MAX, DeadLetter, Epoch,
};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::DeliveryError;

/// The longest reason that goes along, in characters.
const REASON_LEN_MAX: usize = 300;

/// In which form one change is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Letter {
    epoch: Epoch,
    seq: u64,
    reason: String,
    is_bare: bool,
}

impl Letter {
    /// The next form, after `former` was refused with `error`; none if there is no other.
    pub(super) fn after(
        former: Option<Self>,
        epoch: Epoch,
        seq: u64,
        error: &DeliveryError,
    ) -> Option<Self> {
        match former.filter(|letter| letter.is_for(epoch, seq)) {
            None => Some(Self { is_bare: false, ..Self::bare(epoch, seq, error) }),
            Some(Self { is_bare: true, .. }) => None,
            Some(letter) => Some(Self { is_bare: true, ..letter }),
        }
    }

    /// The last form: without the payload.
    pub(super) fn bare(epoch: Epoch, seq: u64, error: &DeliveryError) -> Self {
        let reason = error.to_string().chars().take(REASON_LEN_MAX).collect();
        Self { epoch, seq, reason, is_bare: true }
    }

    pub(super) fn is_for(&self, epoch: Epoch, seq: u64) -> bool {
        (self.epoch, self.seq) == (epoch, seq)
    }

    /// Puts `change` into the letter; all but its payload stays.
    pub(super) fn enclose(&self, change: &mut Change) {
        let value = serde_json::to_value(&change.payload)
            .expect("every type of the protocol can be written as JSON");
        let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        let payload = value.get("payload").map(Value::to_string).unwrap_or_default();
        change.payload = ChangePayload::DeadLetter(DeadLetter {
            kind,
            size_bytes: u64::try_from(payload.len()).unwrap_or(u64::MAX),
            sha256: ContentHash::from_digest(Sha256::digest(&payload).into()),
            reason: self.reason.clone(),
            payload: (!self.is_bare && payload.len() <= DEAD_LETTER_PAYLOAD_MAX).then_some(payload),
        });
    }
}
