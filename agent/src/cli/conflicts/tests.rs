use expect_test::expect;
use pureboot_protocol::{ClockQuality, ConflictEnding, Decider, Mac, NodeId, SiteId, SiteSide};

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_ms(seconds * 1_000)
}

fn view() -> ConflictView {
    ConflictView {
        conflict: Conflict {
            id: ConflictId::from_random([1; 16]),
            site_id: SiteId::from_random([2; 16]),
            node_id: NodeId::from_random([3; 16]),
            kind: ConflictKind::StateMismatch,
            cause: "the site knew version 2, the controller has version 3".to_owned(),
            base: Some(BaseSide { state: Lifecycle::Active, version: 2 }),
            site: SiteSide {
                state: Some(Lifecycle::Reprovision),
                base_version: Some(2),
                at: at(10),
                clock: ClockQuality::Synced,
                changes: 2,
            },
            central: Some(CentralSide {
                state: Lifecycle::Active,
                version: 3,
                changed_at: Some(at(5)),
            }),
            created_at: at(30),
            outcome: None,
        },
        mac_address: Mac::from_bytes([0x52, 0x54, 0, 0, 0, 1]).ok(),
        hostname: Some("web-1".to_owned()),
        state: Some(Lifecycle::Active),
        heard_at: at(85),
    }
}

fn ended() -> ConflictView {
    let mut view = view();
    view.conflict.outcome = Some(ConflictEnding {
        resolution: Resolution::KeepCentral,
        by: Decider::Site,
        name: Some("berlin".to_owned()),
        fields: None,
        node_version: Some(4),
        at: at(60),
    });
    view
}

#[test]
fn conflicts_are_listed_with_both_sides() {
    let listing = Listing { heard_at: Some(at(85)), conflicts: vec![view(), ended()] };
    expect![[r#"
        CONFLICT                              MACHINE                    THIS SITE                  CONTROLLER         SINCE          STATE
        01010101-0101-4101-8101-010101010101  web-1 (52:54:00:00:00:01)  reprovision, on version 2  active, version 3  1 min 0 s ago  waits for a person
        01010101-0101-4101-8101-010101010101  web-1 (52:54:00:00:00:01)  reprovision, on version 2  active, version 3  1 min 0 s ago  keep_central by site
    "#]].assert_eq(&table(&listing, at(90)));
    let nothing = Listing { heard_at: Some(at(90)), conflicts: Vec::new() };
    assert_eq!(table(&nothing, at(90)), "site and controller disagree about nothing\n");
}

#[test]
fn a_list_that_is_old_says_so() {
    let old = Listing { heard_at: Some(at(0)), conflicts: Vec::new() };
    assert!(table(&old, at(3_600)).ends_with("the controller is away: as it was 1 h 0 min ago\n"));
    let never = Listing { heard_at: None, conflicts: Vec::new() };
    assert!(table(&never, at(0)).contains("has not been asked since the start"));
}

#[test]
fn a_conflict_is_shown_with_base_cause_and_cure() {
    expect![[r#"
        conflict   01010101-0101-4101-8101-010101010101 (state_mismatch)
        machine    web-1 (52:54:00:00:00:01)
        cause      the site knew version 2, the controller has version 3
        base       active, version 2; only this site has changed the state since
        this site  reprovision, on version 2 (1 min 20 s ago, clock synced, 2 changes)
        controller active, version 3 (changed 1 min 25 s ago)
        now        the site goes by active
        begun      1970-01-01T00:00:30.000Z (1 min 0 s ago)
        state      it waits for a person; until then the machine boots its disk
        cure       `conflicts resolve ID --keep-local`, --keep-central, or --merge state=local
        heard      5 s ago
    "#]]
    .assert_eq(&block(&view(), at(90)));
    expect![[r#"
        conflict   01010101-0101-4101-8101-010101010101 (state_mismatch)
        machine    web-1 (52:54:00:00:00:01)
        cause      the site knew version 2, the controller has version 3
        base       active, version 2; only this site has changed the state since
        this site  reprovision, on version 2 (1 min 20 s ago, clock synced, 2 changes)
        controller active, version 3 (changed 1 min 25 s ago)
        now        the site goes by active
        begun      1970-01-01T00:00:30.000Z (1 min 0 s ago)
        state      ended 30 s ago: keep_central by site (berlin), version 4
        heard      5 s ago
    "#]]
    .assert_eq(&block(&ended(), at(90)));
}

fn decide(arguments: &[&str]) -> String {
    let resolve = Resolve::from_args(&["resolve"], &[&["01"], arguments].concat());
    let resolve = match resolve {
        Ok(resolve) => resolve,
        Err(early) => return early.output.trim().to_owned(),
    };
    match resolve.decision(&view()) {
        Ok(SiteResolution { resolution, state: Some(state), .. }) => {
            format!("{resolution} {state}")
        }
        Ok(SiteResolution { resolution, .. }) => resolution.to_string(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_decision_is_said_in_one_way() {
    for (arguments, expected) in [
        (vec!["--keep-local"], "keep_local"),
        (vec!["--keep-central"], "keep_central"),
        (vec!["--merge", "state=local"], "merge reprovision"),
        (vec!["--merge", "state=central", "--merge", "tags=central"], "merge active"),
        (vec!["--merge", "hostname=central"], "keep_central"),
        (vec!["--merge", "state=base"], "merge active"),
    ] {
        assert_eq!(decide(&arguments), expected, "{arguments:?}");
    }
    for (arguments, expected) in [
        (vec![], "say how it is to end"),
        (vec!["--keep-local", "--keep-central"], "exclude each other"),
        (vec!["--keep-local", "--merge", "state=local"], "exclude each other"),
        (vec!["--merge", "state=local", "--merge", "state=central"], "more than once"),
        (vec!["--merge", "state=mine"], "none of local, central, base"),
        (vec!["--merge", "state"], "not field=local"),
        (vec!["--merge", "colour=local"], "none of state, hostname"),
        (vec!["--merge", "hostname=local"], "no hostname of its own"),
    ] {
        assert!(decide(&arguments).contains(expected), "{arguments:?}: {}", decide(&arguments));
    }
}

#[test]
fn who_has_left_the_base_is_said() {
    use Lifecycle::{Active, Reprovision, Retired};
    for (site, central, expected) in [
        (Some(Reprovision), Some(Active), "only this site has"),
        (Some(Reprovision), Some(Retired), "both have"),
        (Some(Active), Some(Retired), "only the controller has"),
        (None, Some(Active), "neither has"),
        (Some(Reprovision), None, "only this site has"),
    ] {
        let mut conflict = view().conflict;
        conflict.site.state = site;
        conflict.central = central.map(|state| CentralSide { state, version: 3, changed_at: None });
        let said = base_side(&conflict).expect("a base");
        assert!(said.contains(expected), "{site:?} {central:?}: {said}");
    }
    let mut unknown = view().conflict;
    unknown.base = None;
    assert_eq!(base_side(&unknown), None);
    let view = ConflictView { conflict: unknown, ..view() };
    let resolve = Resolve::from_args(&["resolve"], &["01", "--merge", "state=base"]);
    assert!(resolve.expect("arguments").decision(&view).is_err());
}
