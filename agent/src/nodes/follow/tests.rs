use pureboot_protocol::{BootRecord, Lifecycle, NodeChange, NodeChanges, SiteId, Told};
use smol::LocalExecutor;
use smol::future::block_on;

use super::*;
use crate::data_dir::DataDir;
use crate::store::tests::{at, identity, mac, open, record};
use crate::uplink::testing::{Centre, KEY, about, signed, site};

fn changes(since: u64, version: u64, has_more: bool, records: &[BootRecord]) -> Told {
    let present = |record: &BootRecord| NodeChange::Present(Box::new(record.clone()));
    let data: Vec<_> = records.iter().map(present).collect();
    let total = data.len() as u64;
    Told::Changes(NodeChanges { data, total, since_version: since, version, has_more })
}

fn part(since: u64, version: u64, has_more: bool, records: &[BootRecord]) -> (u16, String) {
    (200, signed(changes(since, version, has_more, records), site(), KEY))
}

/// Follows a controller that gives `answers`, from where `prepare` leaves the store.
fn follow(
    answers: Vec<(u16, String)>,
    prepare: impl AsyncFnOnce(&Store),
    then: impl FnOnce(&Follower, &Store, Result<(), Behind>, Vec<String>),
) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let executor = Rc::new(LocalExecutor::new());
    let centre = Centre::start(answers);
    let controller = Rc::new(centre.client(&executor));
    let standing = Rc::new(Standing::new(Some(identity())));
    let data_dir = DataDir::create(&dir.path().join("data")).expect("made");
    let answers =
        Answers::new(store.clone(), data_dir, site(), Rc::clone(&controller), Rc::clone(&standing));
    let follower = Follower::new(controller, store.clone(), standing, Rc::new(answers));
    let outcome = block_on(executor.run(async {
        prepare(&store).await;
        follower.follow().await
    }));
    let heard = centre.heard();
    let asked = heard.iter().filter_map(|request| {
        Some(request.lines().next()?.split("nodes?").nth(1)?.split(' ').next()?.to_owned())
    });
    then(&follower, &store, outcome, asked.collect());
}

fn versions(store: &Store) -> Vec<u64> {
    let mut nodes = store.nodes();
    nodes.sort_by_key(CachedNode::mac);
    nodes.iter().filter_map(|node| Some(node.known.as_ref()?.record.version)).collect()
}

#[test]
fn it_asks_until_there_is_no_more_and_goes_on_from_there() {
    let answers = vec![
        part(0, 4, true, &[record(1, Lifecycle::Active, 3)]),
        part(4, 9, false, &[record(2, Lifecycle::Pending, 1)]),
    ];
    follow(
        answers,
        async |_| {},
        |follower, store, outcome, asked| {
            assert!(outcome.is_ok(), "{outcome:?}");
            assert_eq!(asked, ["since_version=0&limit=200", "since_version=4&limit=200"]);
            assert_eq!(versions(store), [3, 1]);
            assert!(follower.confirmed_at().is_some());
            follower.hear(Some(9), at(9_999_999));
            assert_eq!(follower.confirmed_at(), Some(at(9_999_999)), "nothing is new");
            assert!(follower.wishes.1.is_empty());
            follower.hear(Some(10), at(10_000_000));
            assert_eq!(follower.confirmed_at(), Some(at(9_999_999)));
            assert_eq!(follower.wishes.1.len(), 1, "there is more");
        },
    );
}

#[test]
fn c16_n7_what_the_controller_has_not_signed_for_this_site_is_not_kept() {
    let records = [record(1, Lifecycle::Pending, 3)];
    let told = || changes(0, 4, false, &records);
    let mut touched = signed(told(), site(), KEY);
    touched = touched.replace("pending", "active");
    for answer in [
        signed(told(), site(), KEY + 1),
        signed(told(), SiteId::from_random([9; 16]), KEY),
        touched,
        about(mac(1), Some(record(1, Lifecycle::Pending, 3))),
        signed(changes(3, 4, false, &records), site(), KEY),
        signed(changes(0, 0, true, &records), site(), KEY),
        "<html>sign in to the hotel's network</html>".to_owned(),
    ] {
        follow(
            vec![(200, answer.clone())],
            async |_| {},
            |follower, store, outcome, _| {
                assert!(matches!(outcome, Err(Behind::Call(CallError::Foreign(_)))), "{answer}");
                assert_eq!(store.node_count(), 0, "{answer}");
                assert_eq!(follower.confirmed_at(), None);
            },
        );
    }
}

#[test]
fn c16_another_sites_node_is_left_out_and_the_others_are_kept() {
    let home_site_id = Some(SiteId::from_random([9; 16]));
    let foreign = BootRecord { home_site_id, ..record(1, Lifecycle::Pending, 3) };
    let own = BootRecord { home_site_id: Some(site()), ..record(2, Lifecycle::Active, 5) };
    follow(
        vec![part(0, 4, false, &[foreign, own])],
        async |_| {},
        |_, store, outcome, _| {
            assert!(outcome.is_ok(), "{outcome:?}");
            assert_eq!(versions(store), [5]);
            assert!(store.node(mac(1)).is_none());
        },
    );
}

#[test]
fn c17_what_a_restored_controller_does_not_name_is_asked_about_and_forgotten() {
    let known = [1, 2].map(|n| record(n, Lifecycle::Active, 7));
    let prepare = async |store: &Store| {
        let Told::Changes(changes) = changes(0, 50, false, &known) else { unreachable!() };
        let long_ago = Timestamp::from_unix_ms(0);
        store.apply_changes(0, changes, long_ago).await.expect("kept");
    };
    let answers =
        vec![part(0, 4, false, &[record(1, Lifecycle::Active, 2)]), (200, about(mac(2), None))];
    follow(answers, prepare, |_, store, outcome, asked| {
        assert!(outcome.is_ok(), "{outcome:?}");
        assert_eq!(asked, ["since_version=50&limit=200", "mac=52:54:00:00:00:02"]);
        assert_eq!(versions(store), [2]);
    });
}

#[test]
fn c15_a_doubted_record_stays_while_the_controller_does_not_answer() {
    let prepare = async |store: &Store| {
        store.save_record(record(1, Lifecycle::Active, 7), at(0)).await.expect("kept");
        store.mark_due(mac(1)).await.expect("marked");
    };
    for (answer, expected) in [
        ((500, "broken".to_owned()), (true, 7)),
        ((200, about(mac(1), Some(record(1, Lifecycle::Active, 8)))), (false, 8)),
    ] {
        follow(vec![part(0, 0, false, &[]), answer], prepare, |_, store, _, _| {
            let node = store.node(mac(1)).expect("it stays");
            assert_eq!((node.is_due, node.known.expect("a record").record.version), expected);
        });
    }
}
