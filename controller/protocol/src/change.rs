//! Changes made at a site, on their way to the controller: exactly once and in order.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::secret::{hex, unhex};
use crate::site::words;
use crate::{
    Autonomy, BootId, BootRequest, ConflictId, Lifecycle, NodeEvent, NodeId, Timestamp, TokenError,
};

macro_rules! hex16 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(extend("pattern" = "^[0-9a-f]{32}$")))]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; 16]);

        impl $name {
            /// The 16 bytes as computed or drawn by the caller.
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl TryFrom<String> for $name {
            type Error = TokenError;

            fn try_from(text: String) -> Result<Self, TokenError> {
                unhex(&text).map(Self).ok_or(TokenError::Hash)
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
    };
}

hex16!(
    /// The idempotency key of a change: the first 16 bytes of the SHA-256 over agent, node, kind, boot session and payload, so
    /// that a machine's own retry is the same change. For the event `heartbeat`, which repeats itself on purpose, it also covers
    /// the minute.
    ChangeId
);
hex16!(
    /// One life of an agent's outbox; sequence numbers are counted within it. A new database begins a new epoch.
    Epoch
);

words! {
    /// How far the site's clock could be trusted when a change was made.
    ClockQuality {
        /// Agreed with the controller within a minute at the last heartbeat.
        Synced = "synced",
        /// Not compared yet, or off.
        Unsynced = "unsynced",
    }
}

/// A node that a site saw for the first time, or saw again with new facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RegisterNode {
    /// What the machine said about itself.
    pub request: BootRequest,
    /// Where it booted from, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_address: Option<String>,
}

/// What a change is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", content = "payload", rename_all = "snake_case")]
pub enum ChangePayload {
    /// A machine was seen.
    Registration(RegisterNode),
    /// The site wants or saw another state.
    StateChange {
        /// The new state.
        state: Lifecycle,
        /// What allowed the site to decide.
        autonomy: Autonomy,
    },
    /// A machine reported.
    Event(NodeEvent),
}

/// One fact or wish about a node, made at a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Change {
    /// Its place in the epoch: 1, 2, 3, without gaps.
    pub seq: u64,
    /// What makes it the same change when it comes again.
    pub id: ChangeId,
    /// The node.
    pub node: NodeId,
    /// The version of the node that the site knew; none for an observation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_version: Option<u64>,
    /// The site's previous change of the same node in this epoch that was not acknowledged when this one was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev_seq_same_node: Option<u64>,
    /// When, by the site's clock.
    pub at: Timestamp,
    /// How good that clock was.
    pub clock: ClockQuality,
    /// The boot session that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<BootId>,
    /// What it is about.
    #[serde(flatten)]
    pub payload: ChangePayload,
}

/// Changes in order, at most 100. `I` is [`Change`] for who writes a batch; who reads one may take the items as raw JSON
/// first, so that one item that it does not understand is parked and not the end of the batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ChangeBatch<I = Change> {
    /// Drawn for this attempt; the receipt repeats it, so that a late answer to an older attempt is known as such.
    pub nonce: ChangeId,
    /// The life of the outbox that the sequence numbers count in.
    pub epoch: Epoch,
    /// The sequence number of the first item.
    pub first_seq: u64,
    /// The smallest sequence number of the epoch that may come again; none if the agent does not say. What came before it has
    /// not to be known for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low_water: Option<u64>,
    /// The changes.
    pub items: Vec<I>,
}

words! {
    /// What the controller did with a change. Whatever it did, the change is in its custody.
    Outcome {
        /// It took effect, or was kept as an observation.
        Applied = "applied",
        /// It had come before; the stored result is repeated.
        Duplicate = "duplicate",
        /// It met another change at the controller, whose side stands; both are kept.
        Conflict = "conflict",
        /// It could not be applied and is kept with its reason.
        Parked = "parked",
    }
}

/// What became of one change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ChangeResult {
    /// The change.
    pub id: ChangeId,
    /// What was done.
    pub outcome: Outcome,
    /// The node's version after it; none where it has not been applied, so that nobody takes the site's view for that version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_version: Option<u64>,
    /// The conflict that it is a part of, or follows. An applied change with one won by the site's strategy or was only seen
    /// in the meantime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict_id: Option<ConflictId>,
    /// Why, where it was not applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The controller's acknowledgement of a batch. The answer's status is none; only this body is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ChangeReceipt {
    /// The batch's nonce.
    pub nonce: ChangeId,
    /// The batch's epoch.
    pub epoch: Epoch,
    /// The last sequence number of the epoch up to which all are in the controller's custody; 0 for none.
    pub acked_through: u64,
    /// One result for each item that was taken, in the batch's order.
    pub results: Vec<ChangeResult>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeEventKind;

    #[test]
    fn a_change_has_its_kind_beside_its_payload() {
        let change = Change {
            seq: 7,
            id: ChangeId::from_bytes([0xaa; 16]),
            node: NodeId::from_random([0; 16]),
            base_version: None,
            prev_seq_same_node: None,
            at: Timestamp::from_unix_ms(0),
            clock: ClockQuality::Unsynced,
            session: None,
            payload: ChangePayload::Event(NodeEvent::new(NodeEventKind::BootStarted)),
        };
        let json = serde_json::to_value(&change).expect("a change can be written");
        assert_eq!(
            json,
            serde_json::json!({
                "seq": 7,
                "id": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                "node": "00000000-0000-4000-8000-000000000000",
                "at": "1970-01-01T00:00:00.000Z",
                "clock": "unsynced",
                "kind": "event",
                "payload": {"event_type": "boot_started"},
            })
        );
        assert_eq!(serde_json::from_value::<Change>(json).expect("and read"), change);
    }
}
