use pureboot_protocol::{ChangeId, ChangePayload, Mac, NodeEvent, NodeEventKind, NodeId};

use super::*;
use crate::node;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_ms(seconds * 1_000)
}

#[test]
fn each_strategy_takes_the_side_that_it_is_named_after() {
    use ConflictResolution::*;
    use Verdict::*;
    for (strategy, is_possible, wished_at, expected) in [
        (CentralWins, true, Some(99), Centre),
        (CentralWins, false, None, Centre),
        (SiteWins, true, Some(1), Site),
        (SiteWins, true, None, Site),
        (SiteWins, false, Some(99), Person),
        (LastWrite, true, Some(51), Site),
        (LastWrite, true, Some(50), Centre),
        (LastWrite, true, Some(49), Centre),
        (LastWrite, true, None, Centre),
        (LastWrite, false, Some(51), Person),
        (LastWrite, false, Some(49), Centre),
        (Manual, true, Some(99), Person),
        (Manual, false, None, Person),
    ] {
        let verdict = decide(strategy, is_possible, wished_at.map(at), at(50));
        assert_eq!(verdict, expected, "{strategy} {is_possible} {wished_at:?}");
    }
}

#[test]
fn a_time_is_corrected_by_the_offset_and_an_unsynced_clock_has_none() {
    for (clock, offset_ms, expected) in [
        (ClockQuality::Synced, 0, Some(100)),
        (ClockQuality::Synced, 30_000, Some(130)),
        (ClockQuality::Synced, -30_000, Some(70)),
        (ClockQuality::Synced, 60_000, Some(150)),
        (ClockQuality::Synced, 60_001, None),
        (ClockQuality::Synced, i64::MIN, None),
        (ClockQuality::Unsynced, 0, None),
    ] {
        let change = Change {
            seq: 1,
            id: ChangeId::from_bytes([0; 16]),
            node: NodeId::from_random([0; 16]),
            base_version: None,
            prev_seq_same_node: None,
            at: at(100),
            clock,
            session: None,
            payload: ChangePayload::Event(NodeEvent::new(NodeEventKind::BootStarted)),
        };
        assert_eq!(corrected(&change, offset_ms, at(150)), expected.map(at), "{clock} {offset_ms}");
    }
}

#[test]
fn a_conflict_is_named_after_what_is_missing() {
    let site = SiteId::from_random([1; 16]);
    let mac = Mac::from_bytes([2, 0, 0, 0, 0, 1]).expect("a unicast address");
    let here =
        Node { home_site_id: Some(site), ..node::new(NodeId::from_random([2; 16]), mac, at(0)) };
    let away = Node { home_site_id: Some(SiteId::from_random([3; 16])), ..here.clone() };
    let homeless = Node { home_site_id: None, ..here.clone() };
    let retired = Node { state: Lifecycle::Retired, ..here.clone() };
    for (base, central, expected) in [
        (Some(3), Some(&here), ConflictKind::StateMismatch),
        (Some(3), Some(&homeless), ConflictKind::StateMismatch),
        (Some(0), Some(&here), ConflictKind::MissingLocal),
        (None, Some(&here), ConflictKind::MissingLocal),
        (Some(3), Some(&retired), ConflictKind::MissingCentral),
        (Some(3), None, ConflictKind::MissingCentral),
        (Some(3), Some(&away), ConflictKind::SiteMismatch),
        (None, Some(&away), ConflictKind::SiteMismatch),
    ] {
        assert_eq!(kind(site, base, central), expected, "{base:?} {central:?}");
    }
}
