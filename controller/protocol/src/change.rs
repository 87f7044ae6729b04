//! Changes made at a site, on their way to the controller: exactly once and in order.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::hex::hex_bytes;
use crate::secret::{hex, unhex};
use crate::site::words;
use crate::{
    Autonomy, BootId, BootRequest, ConflictId, ContentHash, Lifecycle, NodeEvent, NodeId,
    Timestamp, TokenError,
};

/// The code of the problem that a batch is answered with whose epoch has gone another way at the controller: the agent's disk is
/// from a backup, or two machines have written one outbox. The agent begins a new epoch.
pub const OUTBOX_FORKED: &str = "outbox_forked";
/// The code of the problem that an agent is answered with while another machine lives under its identity.
pub const IDENTITY_IN_USE: &str = "identity_in_use";
/// The largest payload, in bytes of JSON, that goes along with a [`DeadLetter`].
pub const DEAD_LETTER_PAYLOAD_MAX: usize = 4 << 10;

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
hex16!(
    /// One life of an agent's process, drawn when it starts.
    InstanceId
);

hex_bytes! {
    /// A link of an outbox's chain: the SHA-256 of what [`ChangeHead::link`] writes. Who has the same link after a change has
    /// the same changes before it.
    ChainHash[32] = "a link of a chain (SHA-256)"
}

impl ChainHash {
    /// What the first change of an epoch follows.
    pub const GENESIS: Self = Self([0; 32]);

    /// The digest as computed by the caller.
    pub fn from_digest(digest: [u8; 32]) -> Self {
        Self(digest)
    }
}

/// Which process speaks for an agent: two machines with one identity are told apart by it, and a restart is known as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Instance {
    /// This life.
    pub id: InstanceId,
    /// The last life of the same data directory that the controller has answered, or the first one, which it may have; none for that
    /// one itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub succeeds: Option<InstanceId>,
}

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
    /// Stands in the place of a change that the controller, or something on the way, refuses to read.
    DeadLetter(DeadLetter),
}

/// A change that cannot be handed over as it is: enough of it to be kept and looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DeadLetter {
    /// The kind of the change.
    pub kind: String,
    /// Its payload's length as JSON.
    pub size_bytes: u64,
    /// The SHA-256 of its payload as JSON.
    pub sha256: ContentHash,
    /// Why it was refused.
    pub reason: String,
    /// The payload as JSON, of at most [`DEAD_LETTER_PAYLOAD_MAX`] bytes; none where it is longer, or is what is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
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

impl Change {
    /// All but the payload.
    pub fn head(&self) -> ChangeHead {
        ChangeHead {
            seq: self.seq,
            id: self.id,
            node: self.node.to_string(),
            base_version: self.base_version,
            prev_seq_same_node: self.prev_seq_same_node,
            at: self.at.to_string(),
            clock: self.clock.to_string(),
            session: self.session.map(|session| session.to_string()),
        }
    }
}

/// What a change says besides its payload, in the words that it comes with: read also of a change that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ChangeHead {
    /// Its place in the epoch.
    pub seq: u64,
    /// Its id, which stands for the payload.
    pub id: ChangeId,
    /// As [`Change::node`].
    #[serde(default)]
    pub node: String,
    /// As [`Change::base_version`].
    #[serde(default)]
    pub base_version: Option<u64>,
    /// As [`Change::prev_seq_same_node`].
    #[serde(default)]
    pub prev_seq_same_node: Option<u64>,
    /// As [`Change::at`].
    #[serde(default)]
    pub at: String,
    /// As [`Change::clock`].
    #[serde(default)]
    pub clock: String,
    /// As [`Change::session`].
    #[serde(default)]
    pub session: Option<String>,
}

impl ChangeHead {
    /// The bytes whose SHA-256 is the link of this change, which follows `before`. No two different heads have the same bytes.
    pub fn link(&self, before: ChainHash) -> Vec<u8> {
        let mut bytes = b"pureboot chain 1".to_vec();
        bytes.extend_from_slice(before.as_bytes());
        bytes.extend_from_slice(&self.seq.to_be_bytes());
        bytes.extend_from_slice(&self.id.0);
        for number in [self.base_version, self.prev_seq_same_node] {
            bytes.push(u8::from(number.is_some()));
            bytes.extend_from_slice(&number.unwrap_or(0).to_be_bytes());
        }
        bytes.push(u8::from(self.session.is_some()));
        let session = self.session.as_deref().unwrap_or_default();
        for text in [&self.node, &self.at, &self.clock, session] {
            bytes.extend_from_slice(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes
    }
}

/// How much a controller takes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BatchLimits {
    /// Changes in a batch.
    pub items_max: u32,
    /// Bytes of a batch as JSON, before it is compressed.
    pub bytes_max: u32,
}

impl BatchLimits {
    /// What is sent to a controller that has not said what it takes.
    pub const UNTOLD: Self = Self { items_max: 100, bytes_max: 256 << 10 };

    /// What both sides bear.
    pub fn and(self, other: Self) -> Self {
        Self {
            items_max: self.items_max.min(other.items_max),
            bytes_max: self.bytes_max.min(other.bytes_max),
        }
    }
}

/// Changes in order, as many as the last [`ChangeReceipt::takes`] allows. `I` is [`Change`] for who writes a batch; who reads one may
/// take the items as raw JSON first, so that one item that it does not understand is parked and not the end of the batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ChangeBatch<I = Change> {
    /// Drawn for this attempt; the receipt repeats it, so that a late answer to an older attempt is known as such.
    pub nonce: ChangeId,
    /// The life of the outbox that the sequence numbers count in.
    pub epoch: Epoch,
    /// Which process sends it; none if the agent does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Instance>,
    /// The link that the first item follows; none if the agent does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev_hash: Option<ChainHash>,
    /// The sequence number of the first item.
    pub first_seq: u64,
    /// The smallest sequence number of the epoch that the agent still has and may send again; none if it does not say. What came
    /// before it has not to be known for ever, and is not waited for.
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
    /// The link of that change at the controller; [`ChainHash::GENESIS`] for none.
    pub hash: ChainHash,
    /// One result for each item that was taken, in the batch's order.
    pub results: Vec<ChangeResult>,
    /// What the next batch may be; none from a controller that takes [`BatchLimits::UNTOLD`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takes: Option<BatchLimits>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeEventKind;

    fn change() -> Change {
        Change {
            seq: 7,
            id: ChangeId::from_bytes([0xaa; 16]),
            node: NodeId::from_random([0; 16]),
            base_version: None,
            prev_seq_same_node: None,
            at: Timestamp::from_unix_ms(0),
            clock: ClockQuality::Unsynced,
            session: None,
            payload: ChangePayload::Event(NodeEvent::new(NodeEventKind::BootStarted)),
        }
    }

    #[test]
    fn q5_who_writes_a_change_and_who_reads_it_have_the_same_link() {
        let written = change();
        let mut json = serde_json::to_value(&written).expect("a change can be written");
        json["kind"] = "of a newer program".into();
        json["new"] = 1.into();
        let read: ChangeHead = serde_json::from_value(json).expect("a head can be read");
        assert_eq!(read.link(ChainHash::GENESIS), written.head().link(ChainHash::GENESIS));
    }

    #[test]
    fn q5_every_part_of_a_head_is_in_its_link() {
        let head = change().head();
        let link = head.link(ChainHash::GENESIS);
        assert_ne!(head.link(ChainHash([1; 32])), link);
        type Alter = fn(&mut ChangeHead);
        let alterations: [Alter; 9] = [
            |it| it.seq = 8,
            |it| it.id = ChangeId::from_bytes([0xab; 16]),
            |it| it.node.push('1'),
            |it| it.base_version = Some(0),
            |it| it.prev_seq_same_node = Some(0),
            |it| it.at.push('1'),
            |it| it.clock.push('1'),
            |it| it.session = Some(String::new()),
            |it| it.node.push_str(&std::mem::take(&mut it.at)),
        ];
        for (number, alter) in alterations.iter().enumerate() {
            let mut other = head.clone();
            alter(&mut other);
            assert_ne!(other.link(ChainHash::GENESIS), link, "alteration {number}");
        }
    }

    #[test]
    fn a_change_has_its_kind_beside_its_payload() {
        let change = change();
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
