//! The table: exactly once, in order, within its quota.

use pureboot_protocol::{Autonomy, ConflictId, Outcome};
use smol::future::block_on;

use super::*;
use crate::store::tests::{at, close, event, mac, node_id, open, options, record};
use crate::store::{InstallGiven, StoreOptions};

fn seqs(store: &Store) -> Vec<u64> {
    let queued = block_on(store.pending(1_000, usize::MAX)).unwrap();
    queued.changes.iter().map(|change| change.seq).collect()
}

fn put(store: &Store, node: u8, session: u32) -> Recorded {
    block_on(store.record(event(node, session, 1), |_| {})).unwrap()
}

#[test]
fn i3_numbers_have_no_gaps_and_are_never_given_twice() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert_eq!([put(&store, 1, 1).seq, put(&store, 1, 2).seq], [1, 2]);
    block_on(store.run(|db| {
        let transaction = db.transaction()?;
        assert_eq!(append(&transaction, &Entry::new(&event(1, 3, 1))?)?, 3);
        // Dropped without commit, as by a power cut.
        Ok(())
    }))
    .unwrap();
    assert_eq!(put(&store, 1, 4).seq, 3);
    let epoch = block_on(store.pending(1, 1)).unwrap().epoch;
    block_on(store.acknowledge(epoch, 3, vec![], at(0))).unwrap();
    close(store);
    let store = open(dir.path());
    assert_eq!(put(&store, 1, 5).seq, 4, "an empty outbox goes on counting after a restart");
    assert_eq!(block_on(store.pending(1, 1)).unwrap().epoch, epoch);
}

#[test]
fn q2_a_repeated_report_is_one_change_with_one_effect() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    block_on(store.save_record(record(1, Lifecycle::Pending, 1), at(0))).unwrap();
    let count = |node: &mut CachedNode| {
        *node.install_given_version.get_or_insert(0) += 1;
    };
    let first = block_on(store.record(event(1, 1, 1), count)).unwrap();
    let mut repeated = event(1, 1, 1);
    repeated.at = at(500);
    let again = block_on(store.record(repeated, count)).unwrap();
    assert_eq!((again.seq, again.id, again.was_new), (first.seq, first.id, false));
    assert_eq!(again.node, first.node);
    assert_eq!(store.node(mac(1)).unwrap().install_given_version, Some(1));
    assert_eq!(seqs(&store), [1]);
}

#[test]
fn q1_a_change_and_its_effect_are_both_durable_or_neither() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    block_on(store.save_record(record(1, Lifecycle::Pending, 1), at(0))).unwrap();
    let before = store.node(mac(1));
    block_on(store.run(|db| {
        let refuse = "CREATE TEMP TRIGGER refuse BEFORE UPDATE ON main.nodes
                      BEGIN SELECT raise(ABORT, 'refused'); END";
        Ok(db.execute_batch(refuse)?)
    }))
    .unwrap();
    let seen = |node: &mut CachedNode| node.last_seen_at = Some(at(7));
    let refused = block_on(store.record(event(1, 1, 1), seen));
    assert!(matches!(refused, Err(StoreError::Other(_))), "{refused:?}");
    assert_eq!((seqs(&store), store.node(mac(1))), (vec![], before));
    close(store);
    let store = open(dir.path());
    assert_eq!(block_on(store.record(event(1, 1, 1), seen)).unwrap().seq, 1);
    close(store);
    let store = open(dir.path());
    assert_eq!(store.node(mac(1)).unwrap().last_seen_at, Some(at(7)));
}

#[test]
fn a_change_is_read_as_it_was_written_and_knows_the_one_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut new = event(1, 1, 42);
    new.base_version = Some(7);
    new.clock = ClockQuality::Unsynced;
    let id = block_on(store.record(new.clone(), |_| {})).unwrap().id;
    put(&store, 2, 2);
    let wish = NewChange {
        payload: ChangePayload::StateChange {
            state: Lifecycle::Installed,
            autonomy: pureboot_protocol::Autonomy::Full,
        },
        session: None,
        ..new.clone()
    };
    block_on(store.record(wish.clone(), |_| {})).unwrap();
    close(store);
    let changes = block_on(open(dir.path()).pending(9, usize::MAX)).unwrap().changes;
    let expected = Change {
        seq: 1,
        id,
        node: node_id(1),
        base_version: Some(7),
        prev_seq_same_node: None,
        at: new.at,
        clock: ClockQuality::Unsynced,
        session: new.session,
        payload: new.payload,
    };
    assert_eq!(changes[0], expected);
    assert_eq!((changes[2].session, &changes[2].payload), (None, &wish.payload));
    let previous: Vec<_> = changes.iter().map(|change| change.prev_seq_same_node).collect();
    assert_eq!(previous, [None, None, Some(1)]);
}

#[test]
fn an_acknowledgement_deletes_exactly_the_prefix_of_its_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    (1..=5).for_each(|session| _ = put(&store, 1, session));
    let epoch = block_on(store.pending(1, 1)).unwrap().epoch;
    let counts = block_on(store.counts()).unwrap();
    assert_eq!(counts, Counts { pending: 5, oldest_at: Some(at(1)), ..Counts::default() });
    block_on(store.acknowledge(Epoch::from_bytes([0; 16]), 5, vec![], at(0))).unwrap();
    assert_eq!(seqs(&store), [1, 2, 3, 4, 5]);
    block_on(store.acknowledge(epoch, 0, vec![], at(0))).unwrap();
    assert_eq!(seqs(&store), [1, 2, 3, 4, 5]);
    block_on(store.acknowledge(epoch, 3, vec![], at(0))).unwrap();
    assert_eq!(seqs(&store), [4, 5]);
    let counts = block_on(store.counts()).unwrap();
    assert_eq!(counts, Counts { pending: 2, oldest_at: Some(at(4)), ..Counts::default() });
    block_on(store.acknowledge(epoch, 5, vec![], at(0))).unwrap();
    assert_eq!(block_on(store.counts()).unwrap(), Counts::default());
}

#[test]
fn i5_a_version_is_taken_over_only_if_nobody_else_has_changed_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    block_on(store.save_record(record(1, Lifecycle::Pending, 5), at(0))).unwrap();
    let results: Vec<_> = [(1, 6), (2, 7), (3, 9), (4, 10)]
        .map(|(session, version)| ChangeResult {
            id: put(&store, 1, session).id,
            outcome: Outcome::Applied,
            node_version: Some(version),
            conflict_id: None,
            reason: None,
        })
        .into();
    let epoch = block_on(store.pending(1, 1)).unwrap().epoch;
    block_on(store.acknowledge(epoch, 4, results, at(0))).unwrap();
    let version = |store: &Store| store.node(mac(1)).unwrap().known.unwrap().record.version;
    assert_eq!(version(&store), 7, "version 8 is another's work");
    close(store);
    assert_eq!(version(&open(dir.path())), 7);
}

#[test]
fn a_wish_that_the_controller_followed_moves_the_state_with_the_version() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let wish = |n, state| {
        let autonomy = Autonomy::Limited;
        let payload = ChangePayload::StateChange { state, autonomy };
        let change = NewChange { base_version: Some(5), payload, ..event(n, 1, 1) };
        block_on(store.record(change, |_| {})).unwrap().id
    };
    let mut results = Vec::new();
    for (n, from, to) in [
        (1, Lifecycle::Pending, Lifecycle::Retired),
        (2, Lifecycle::Active, Lifecycle::Pending),
        (3, Lifecycle::Pending, Lifecycle::Retired),
    ] {
        block_on(store.save_record(record(n, from, 5), at(0))).unwrap();
        let is_parked = n == 3;
        results.push(ChangeResult {
            id: wish(n, to),
            outcome: if is_parked { Outcome::Parked } else { Outcome::Applied },
            node_version: (!is_parked).then_some(6),
            conflict_id: None,
            reason: None,
        });
    }
    let epoch = block_on(store.pending(1, 1)).unwrap().epoch;
    block_on(store.acknowledge(epoch, 3, results, at(7))).unwrap();
    close(store);
    let store = open(dir.path());
    let known = |n| {
        let node = store.node(mac(n)).unwrap();
        let record = node.known.unwrap().record;
        (record.state, record.version, node.is_due)
    };
    assert_eq!(known(1), (Lifecycle::Retired, 6, false));
    assert_eq!(known(2), (Lifecycle::Active, 5, true), "only its record says which wish it is");
    assert_eq!(known(3), (Lifecycle::Pending, 5, true), "the controller has not followed");
}

#[test]
fn an_acknowledgement_carries_the_given_installation_to_the_new_version() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    // One node was given its installer for this wish, the other for an older one.
    for (n, given) in [(1, 5), (2, 4)] {
        block_on(store.save_record(record(n, Lifecycle::Pending, 5), at(0))).unwrap();
        block_on(store.mark_install_given(mac(n), given)).unwrap();
    }
    let results = [1, 2].map(|n| ChangeResult {
        id: put(&store, n, 1).id,
        outcome: Outcome::Applied,
        node_version: Some(6),
        conflict_id: None,
        reason: None,
    });
    let epoch = block_on(store.pending(1, 1)).unwrap().epoch;
    block_on(store.acknowledge(epoch, 2, results.into(), at(7))).unwrap();
    close(store);
    let store = open(dir.path());
    let node = |n| store.node(mac(n)).unwrap();
    assert_eq!((node(1).install_given_version, node(2).install_given_version), (Some(6), Some(4)));
    assert_eq!(node(1).known.unwrap().fetched_at, at(7), "it is the controller's word as of then");
    assert_eq!(block_on(store.mark_install_given(mac(1), 6)).unwrap(), InstallGiven::Before);
    assert_eq!(block_on(store.mark_install_given(mac(2), 6)).unwrap(), InstallGiven::Now);
}

#[test]
fn an_answer_that_an_acknowledgement_has_overtaken_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    block_on(store.save_record(record(1, Lifecycle::Pending, 5), at(0))).unwrap();
    let result = ChangeResult {
        id: put(&store, 1, 1).id,
        outcome: Outcome::Applied,
        node_version: Some(6),
        conflict_id: None,
        reason: None,
    };
    let epoch = block_on(store.pending(1, 1)).unwrap().epoch;
    block_on(store.acknowledge(epoch, 1, vec![result], at(7))).unwrap();
    let answered = |version, asked_at| {
        let answer = record(1, Lifecycle::Pending, version);
        block_on(store.save_record(answer, asked_at)).unwrap().known.unwrap().record.version
    };
    assert_eq!(answered(5, at(6)), 6);
    assert_eq!(answered(5, at(7)), 6);
    assert_eq!(answered(5, at(8)), 5, "c17: the controller was restored from a backup");
    assert_eq!(answered(9, at(3)), 9, "a higher version is newer whenever it was asked for");
}

#[test]
fn a_batch_is_limited_in_number_and_size_but_never_empty() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    (1..=5).for_each(|session| _ = put(&store, 1, session));
    let len = |items, bytes| block_on(store.pending(items, bytes)).unwrap().changes.len();
    let one = block_on(store.run(|db| {
        Ok(db.query_row("SELECT length(payload) FROM outbox", [], |row| row.get::<_, usize>(0))?)
    }))
    .unwrap()
        + HEAD_LEN_MAX;
    assert_eq!([len(3, usize::MAX), len(9, 1), len(9, 2 * one), len(9, 3 * one - 1)], [3, 1, 2, 2]);
}

#[test]
fn a_batch_as_json_is_no_longer_than_it_was_counted() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, 1, 1);
    let mut longest = block_on(store.pending(1, usize::MAX)).unwrap().changes.remove(0);
    longest.seq = u64::MAX;
    (longest.base_version, longest.prev_seq_same_node) = (Some(u64::MAX), Some(u64::MAX));
    longest.clock = ClockQuality::Unsynced;
    assert!(longest.session.is_some());
    let payload = serde_json::to_string(&longest.payload).unwrap();
    let whole = serde_json::to_string(&longest).unwrap();
    assert!(whole.len() < payload.len() + HEAD_LEN_MAX, "{whole}");
    assert!(whole.len() > payload.len() + HEAD_LEN_MAX / 2, "{whole}");
}

#[test]
fn i5_what_the_controller_has_set_aside_is_in_doubt_from_that_moment_on() {
    let conflict = ConflictId::from_random([9; 16]);
    for (outcome, conflict_id, doubted) in [
        (Outcome::Conflict, Some(conflict), (Some(conflict), true)),
        (Outcome::Duplicate, Some(conflict), (Some(conflict), true)),
        (Outcome::Parked, None, (None, true)),
        (Outcome::Duplicate, None, (None, false)),
        (Outcome::Applied, None, (None, false)),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        block_on(store.save_record(record(1, Lifecycle::Pending, 4), at(0))).unwrap();
        let id = block_on(store.record(event(1, 1, 1), |_| {})).unwrap().id;
        let epoch = block_on(store.pending(1, 1)).unwrap().epoch;
        let result = ChangeResult { id, outcome, node_version: None, conflict_id, reason: None };
        block_on(store.acknowledge(epoch, 1, vec![result], at(1))).unwrap();
        close(store);
        let node = open(dir.path()).node(mac(1)).unwrap();
        let record = node.known.unwrap().record;
        assert_eq!((record.conflict_id, node.is_due), doubted, "{outcome}");
        assert_eq!(record.version, 4, "{outcome}");
    }
}

#[test]
fn h22_events_leave_room_for_what_machines_become() {
    let dir = tempfile::tempdir().unwrap();
    let wish = |session: u32| NewChange {
        payload: ChangePayload::StateChange {
            state: Lifecycle::Installed,
            autonomy: pureboot_protocol::Autonomy::Full,
        },
        ..event(1, session, 1)
    };
    let by_rows = Quota { outbox_rows: 10, ..Quota::default() };
    let size = 10 * serde_json::to_string(&event(1, 1, 1).payload).unwrap().len();
    let by_bytes = Quota { outbox_bytes: size.try_into().unwrap(), ..Quota::default() };
    for (name, quota) in [("rows", by_rows), ("bytes", by_bytes)] {
        let data_dir = dir.path().join(name);
        let store = block_on(Store::open(StoreOptions { quota, ..options(&data_dir) })).unwrap();
        let mut session = 0;
        let mut fill = |make: &dyn Fn(u32) -> NewChange| {
            (0..20)
                .take_while(|_| {
                    session += 1;
                    match block_on(store.record(make(session), |_| {})) {
                        Ok(_) => true,
                        Err(StoreError::Full) => false,
                        Err(error) => panic!("{error}"),
                    }
                })
                .count()
        };
        assert_eq!(fill(&|session| event(1, session, 1)), 6, "{name}: 60 %");
        assert!(fill(&wish) >= 3, "{name}");
        assert_eq!(fill(&|session| event(1, session, 1)), 0, "{name}");
        let queued = block_on(store.pending(99, usize::MAX)).unwrap();
        assert_eq!(queued.changes[5].seq, 6, "{name}: nothing was dropped to make room");
        block_on(store.acknowledge(queued.epoch, 6, vec![], at(0))).unwrap();
        assert!(fill(&|session| event(1, session, 1)) >= 6, "{name}");
    }
}
