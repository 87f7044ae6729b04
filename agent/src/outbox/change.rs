//! What makes two reports the same change: the id, which is computed and never drawn.

use pureboot_protocol::{
    AgentId, BootId, ChangeId, ChangePayload, ClockQuality, NodeEventKind, NodeId, Timestamp,
};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Two heartbeats of a node within the same minute of the site's clock are one and its retry.
const HEARTBEAT_SPAN_MS: i64 = 60_000;

/// A change before it has its place in the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewChange {
    /// The agent that makes it.
    pub agent: AgentId,
    /// The node.
    pub node: NodeId,
    /// The version of the node that the site knew; none for an observation.
    pub base_version: Option<u64>,
    /// When, by the site's clock. Not part of the id, but for the minute of a heartbeat.
    pub at: Timestamp,
    /// How good that clock was. Not part of the id.
    pub clock: ClockQuality,
    /// The boot session that it belongs to. A machine that reports the same in another session reports something new.
    pub session: Option<BootId>,
    /// What it is about.
    pub payload: ChangePayload,
}

/// The id of a change: the first 16 bytes of the SHA-256 over agent, node, boot session and payload, which has the kind in it.
///
/// A heartbeat says the same each time on purpose: its minute is part of the id, so that a later one is another change.
///
/// The payload is taken as JSON and not as our own type, so that the id of a stored change stays the same when a later version
/// of the program gives the type another field.
pub(super) fn id(
    agent: AgentId,
    node: NodeId,
    session: Option<BootId>,
    at: Timestamp,
    payload: &Value,
) -> ChangeId {
    let mut hash = Sha256::new_with_prefix("pureboot change 1");
    hash.update(agent.as_bytes());
    hash.update(node.as_bytes());
    match session {
        Some(session) => hash.update([&[1], session.as_bytes().as_slice()].concat()),
        None => hash.update([0]),
    }
    update_with_json(&mut hash, payload);
    if is_heartbeat(payload) {
        hash.update(at.unix_ms().div_euclid(HEARTBEAT_SPAN_MS).to_be_bytes());
    }
    let digest: [u8; 32] = hash.finalize().into();
    let mut first = [0; 16];
    for (to, from) in first.iter_mut().zip(digest) {
        *to = from;
    }
    ChangeId::from_bytes(first)
}

fn is_heartbeat(payload: &Value) -> bool {
    let word = |pointer| payload.pointer(pointer).and_then(Value::as_str);
    word("/kind") == Some("event")
        && word("/payload/event_type") == Some(NodeEventKind::Heartbeat.as_str())
}

/// Each value is its type, its length and its content, and objects are sorted: no two different values have the same bytes,
/// and the order of fields says nothing.
fn update_with_json(hash: &mut Sha256, value: &Value) {
    let mut tagged = |tag: u8, len: usize| {
        hash.update([tag]);
        hash.update(u64::try_from(len).unwrap_or(u64::MAX).to_be_bytes());
    };
    match value {
        Value::Null => tagged(b'n', 0),
        Value::Bool(value) => tagged(b'b', usize::from(*value)),
        Value::Number(number) => {
            let text = number.to_string();
            tagged(b'd', text.len());
            hash.update(text);
        }
        Value::String(text) => {
            tagged(b's', text.len());
            hash.update(text);
        }
        Value::Array(items) => {
            tagged(b'a', items.len());
            for item in items {
                update_with_json(hash, item);
            }
        }
        Value::Object(fields) => {
            tagged(b'o', fields.len());
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            for (name, value) in fields {
                hash.update(u64::try_from(name.len()).unwrap_or(u64::MAX).to_be_bytes());
                hash.update(name);
                update_with_json(hash, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn of(payload: &Value) -> ChangeId {
        of_at(0, payload)
    }

    fn of_at(ms: i64, payload: &Value) -> ChangeId {
        let at = Timestamp::from_unix_ms(ms);
        id(AgentId::from_random([1; 16]), NodeId::from_random([2; 16]), None, at, payload)
    }

    /// Values that look alike, so that different ones have a chance to collide.
    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0..12u64).prop_map(Value::from),
            "[a01]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                proptest::collection::btree_map("[a01]{0,2}", inner, 0..3)
                    .prop_map(|map| map.into_iter().collect::<Value>()),
            ]
        })
    }

    proptest! {
        #[test]
        fn two_payloads_have_one_id_if_and_only_if_they_are_equal(a in value(), b in value()) {
            prop_assert_eq!(of(&a) == of(&b), a == b);
        }
    }

    #[test]
    fn the_order_of_fields_says_nothing_and_their_borders_do() {
        let one: Value = serde_json::from_str(r#"{"a":1,"b":{"c":2,"d":3}}"#).unwrap();
        let other: Value = serde_json::from_str(r#"{"b":{"d":3,"c":2},"a":1}"#).unwrap();
        assert_eq!(of(&one), of(&other));
        assert_ne!(of(&json!(["ab", "c"])), of(&json!(["a", "bc"])));
        assert_ne!(of(&json!([["a"], "b"])), of(&json!(["a", ["b"]])));
    }

    #[test]
    fn each_part_makes_another_change() {
        let payload = json!({"kind": "event"});
        let of = |agent, node, session: Option<[u8; 16]>| {
            let (agent, node) = (AgentId::from_random(agent), NodeId::from_random(node));
            id(agent, node, session.map(BootId::from_random), Timestamp::from_unix_ms(0), &payload)
        };
        let [a, b] = [[1; 16], [2; 16]];
        let all =
            [of(a, a, None), of(b, a, None), of(a, b, None), of(a, a, Some(a)), of(a, a, Some(b))];
        let different: std::collections::HashSet<_> = all.into_iter().collect();
        assert_eq!(different.len(), all.len());
    }

    #[test]
    fn a_heartbeat_of_a_later_minute_is_another_change_and_its_retry_is_not() {
        let event = |kind| {
            let event = pureboot_protocol::NodeEvent::new(kind);
            serde_json::to_value(ChangePayload::Event(event)).unwrap()
        };
        let heartbeat = event(NodeEventKind::Heartbeat);
        assert_eq!(of_at(60_000, &heartbeat), of_at(119_999, &heartbeat));
        assert_ne!(of_at(119_999, &heartbeat), of_at(120_000, &heartbeat));
        let first_boot = event(NodeEventKind::FirstBoot);
        assert_eq!(of_at(0, &first_boot), of_at(120_000, &first_boot));
    }

    #[test]
    fn the_id_is_the_same_in_every_version_of_the_program() {
        // A retry may reach an agent that has been updated in between.
        assert_eq!(
            of(&json!({"kind": "event", "payload": {"n": 1}})).to_string(),
            "c2b2ebf4878a0429a8d1880872c8052f"
        );
    }
}
