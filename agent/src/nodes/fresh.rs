//! How long a record holds: a function of times, without a clock.

use std::time::Duration;

use pureboot_protocol::Timestamp;

use crate::store::CachedNode;

/// When the controller last stood by what the site knows of `node`; none if it never has. `confirmed_at` is when it last said that
/// nothing has changed of any node.
pub fn word_at(node: &CachedNode, confirmed_at: Option<Timestamp>) -> Option<Timestamp> {
    let known = node.known.as_ref()?;
    let confirmed = confirmed_at.filter(|_| !node.is_due && known.record.version > 0);
    Some(known.fetched_at.max(confirmed.unwrap_or(known.fetched_at)))
}

/// How long ago that was.
pub fn age(then: Timestamp, now: Timestamp) -> Duration {
    Duration::from_secs(u64::try_from(now.seconds_since(then)).unwrap_or(0))
}

/// Whether a machine need not wait for another word of the controller where that is slow to come.
pub fn is_fresh(node: &CachedNode, confirmed_at: Option<Timestamp>, now: Timestamp) -> bool {
    let Some((known, at)) = node.known.as_ref().zip(word_at(node, confirmed_at)) else {
        return false;
    };
    !node.is_due && age(at, now).as_secs() < known.record.valid_for_seconds
}

#[cfg(test)]
mod tests {
    use pureboot_protocol::Lifecycle;

    use super::*;
    use crate::store::KnownRecord;
    use crate::store::tests::{at, mac, node_id, record};

    fn node(version: u64) -> CachedNode {
        let record = record(1, Lifecycle::Active, version);
        let known = Some(KnownRecord { record, fetched_at: at(0) });
        CachedNode { known, ..CachedNode::new(mac(1), node_id(1)) }
    }

    #[test]
    fn a_record_holds_for_its_time_after_the_controllers_last_word() {
        let node = node(3);
        assert!(is_fresh(&node, None, at(299)));
        assert!(!is_fresh(&node, None, at(300)));
        assert!(is_fresh(&node, Some(at(300)), at(599)), "nothing has changed of it since");
        assert!(is_fresh(&node, Some(at(-50)), at(299)), "an older word takes nothing away");
        assert_eq!(word_at(&node, Some(at(300))), Some(at(300)));
    }

    #[test]
    fn what_is_doubted_or_the_sites_own_is_not_confirmed_by_silence() {
        let doubted = CachedNode { is_due: true, ..node(3) };
        assert!(!is_fresh(&doubted, Some(at(300)), at(301)));
        assert_eq!(word_at(&doubted, Some(at(300))), Some(at(0)));
        assert!(!is_fresh(&node(0), Some(at(300)), at(301)));
        assert_eq!(word_at(&CachedNode::new(mac(1), node_id(1)), Some(at(300))), None);
    }
}
