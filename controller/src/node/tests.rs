use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn node(state: Lifecycle) -> Node {
    let mac = Mac::from_bytes([2, 0, 0, 0, 0, 1]).expect("a unicast address");
    let now = Timestamp::from_unix_ms(0);
    Node { state, version: 7, ..new(NodeId::from_random([1; 16]), mac, now) }
}

fn now() -> Timestamp {
    Timestamp::from_unix_ms(1_000)
}

#[test]
fn three_failed_installations_end_the_attempts_and_only_force_begins_them_anew() {
    let mut node = node(Lifecycle::Installing);
    let failed = NodeEvent {
        message: HardwareFact::new("no disk"),
        ..NodeEvent::new(NodeEventKind::InstallFailed)
    };
    for attempt in 1..=3 {
        let moved = observe(&mut node, &failed, now(), now());
        assert_eq!((node.install_attempts, moved.is_some()), (attempt, attempt == 3));
    }
    assert_eq!(node.state, Lifecycle::InstallFailed);
    assert_eq!(node.last_install_error.as_deref(), Some("no disk"));
    assert_eq!(order(&mut node, Lifecycle::Pending, false, now()), Err(OrderError::NeedsForce));
    assert_eq!(node.state, Lifecycle::InstallFailed);
    assert!(order(&mut node, Lifecycle::Pending, true, now()).is_ok());
    assert_eq!((node.install_attempts, node.last_install_error), (0, None));
}

#[test]
fn an_attempt_is_overdue_when_its_time_is_over_and_the_site_has_been_heard_of_since() {
    let at = |seconds: i64| Timestamp::from_unix_ms(seconds * 1_000);
    for (state, started, heard, now, expected) in [
        (Lifecycle::Installing, Some(0), None, 120, false),
        (Lifecycle::Installing, Some(0), None, 121, true),
        (Lifecycle::Installing, Some(0), Some(121), 121, true),
        (Lifecycle::Installing, Some(0), Some(120), 9_999, false),
        (Lifecycle::Installing, Some(60), Some(121), 121, false),
        (Lifecycle::Installing, None, None, 9_999, false),
        (Lifecycle::Installed, Some(0), None, 9_999, false),
        (Lifecycle::Pending, Some(0), None, 9_999, false),
    ] {
        let node = Node { install_started_at: started.map(at), ..node(state) };
        let patience = Patience { timeout_minutes: 2, site_heard_at: heard.map(at) };
        let case = format!("{state} {started:?} {heard:?} {now}");
        assert_eq!(is_overdue(&node, patience, at(now)), expected, "{case}");
    }
}

#[test]
fn each_attempt_has_its_own_time_whoever_says_that_the_one_before_failed() {
    let at = |seconds: i64| Timestamp::from_unix_ms(seconds * 1_000);
    let patience = Patience { timeout_minutes: 2, site_heard_at: None };
    let mut node = node(Lifecycle::Pending);
    let started = NodeEvent::new(NodeEventKind::InstallStarted);
    observe(&mut node, &started, at(10), at(10));
    assert_eq!(node.install_started_at, Some(at(10)));
    observe(&mut node, &started, at(20), at(20));
    assert_eq!(node.install_started_at, Some(at(10)), "saying so again wins no time");
    observe(&mut node, &NodeEvent::new(NodeEventKind::InstallFailed), at(30), at(30));
    assert_eq!((node.install_started_at, node.install_attempts), (Some(at(30)), 1));
    assert!(!is_overdue(&node, patience, at(150)) && is_overdue(&node, patience, at(151)));
    assert!(is_stalled(&node, patience, at(131)) && !is_stalled(&node, patience, at(130)));
    let version = node.version;
    assert_eq!(expire(&mut node, patience, at(151)), None);
    assert_eq!((node.install_attempts, node.version), (2, version + 1));
    let (from, to) = (Lifecycle::Installing, Lifecycle::InstallFailed);
    assert_eq!(expire(&mut node, patience, at(272)), Some(Move { from, to }));
    assert_eq!(node.last_install_error.as_deref(), Some("not installed within 2 minutes"));
}

#[test]
fn h20_an_address_that_is_none_is_not_kept() {
    let mut node = node(Lifecycle::Discovered);
    for (said, known) in [
        ("192.0.2.7", Some("192.0.2.7")),
        ("evil\nchain http://x", Some("192.0.2.7")),
        ("2001:DB8::1", Some("2001:db8::1")),
    ] {
        let request = pureboot_protocol::BootRequest::new(node.mac_address);
        let seen = RegisterNode { request, ip_address: Some(said.to_owned()) };
        learn(&mut node, &seen, now(), now());
        assert_eq!(node.ip_address.as_deref(), known);
    }
}

#[test]
fn a_failure_report_counts_only_while_installing() {
    for state in Lifecycle::ALL.iter().filter(|state| **state != Lifecycle::Installing) {
        let mut node = node(*state);
        observe(&mut node, &NodeEvent::new(NodeEventKind::InstallFailed), now(), now());
        assert_eq!((node.state, node.install_attempts), (*state, 0));
    }
}

#[test]
fn i5_a_base_within_the_sites_own_run_agrees_and_one_before_it_does_not() {
    for (base, run_base, agrees) in [
        (Some(7), None, true),
        (Some(6), None, false),
        (Some(8), None, false),
        (None, None, false),
        (Some(5), Some(5), true),
        (Some(4), Some(5), false),
        (Some(8), Some(5), false),
    ] {
        let mut node = node(Lifecycle::Pending);
        let result = wish(&mut node, Lifecycle::Installing, base, run_base, now());
        assert_eq!(result.is_ok(), agrees, "{base:?} {run_base:?}");
        assert_eq!(node.version, if agrees { 8 } else { 7 });
    }
}

#[test]
fn a_site_that_wishes_what_is_so_already_disagrees_with_nobody() {
    let mut node = node(Lifecycle::Installed);
    assert_eq!(wish(&mut node, Lifecycle::Installed, Some(1), None, now()), Ok(None));
}

proptest! {
    #[test]
    fn a_site_never_moves_a_node_but_along_the_lifecycle(
        from in select(Lifecycle::ALL),
        to in select(Lifecycle::ALL),
    ) {
        let mut node = node(from);
        match wish(&mut node, to, Some(7), None, now()) {
            Ok(Some(moved)) => {
                prop_assert_eq!(moved, Move { from, to });
                prop_assert!(from.transition(to).is_ok());
                prop_assert!((from, to) != (Lifecycle::InstallFailed, Lifecycle::Pending));
            }
            Ok(None) => prop_assert_eq!(from, to),
            Err(_) => prop_assert_eq!((node.state, node.version), (from, 7)),
        }
    }
}

#[test]
fn a_machines_health_is_its_own_last_word_until_it_is_installed_anew_or_gone() {
    let mut node = node(Lifecycle::Active);
    let say = |node: &mut Node, kind, status: Option<&str>| {
        let status = status.and_then(HardwareFact::new);
        let event = NodeEvent { status, ..NodeEvent::new(kind) };
        observe(node, &event, now(), now());
        node.health_status
    };
    use NodeEventKind::{BootStarted, Heartbeat};
    assert_eq!(say(&mut node, BootStarted, Some("healthy")), HealthStatus::Unknown);
    assert_eq!(say(&mut node, Heartbeat, None), HealthStatus::Healthy);
    assert_eq!(say(&mut node, Heartbeat, Some("degraded")), HealthStatus::Degraded);
    assert_eq!(say(&mut node, BootStarted, None), HealthStatus::Degraded);
    assert_eq!(say(&mut node, Heartbeat, Some("unhealthy")), HealthStatus::Unhealthy);
    assert_eq!(say(&mut node, Heartbeat, Some("tired")), HealthStatus::Unknown);
    for ways in [&[Lifecycle::Reprovision, Lifecycle::Pending][..], &[Lifecycle::Retired]] {
        let mut node = Node { health_status: HealthStatus::Healthy, ..node.clone() };
        for to in ways {
            order(&mut node, *to, false, now()).expect("a move");
        }
        assert_eq!(node.health_status, HealthStatus::Unknown);
    }
}
