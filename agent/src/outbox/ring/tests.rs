//! What is kept of acknowledged changes, and what comes of it when somebody comes back from the past.

use pureboot_protocol::{ChangeResult, Lifecycle, Outcome};
use smol::future::block_on;

use super::*;
use crate::outbox::record::{Queued, Recorded};
use crate::store::tests::{at, close, event, mac, open, record};

fn put(store: &Store, node: u8, session: u32) -> Recorded {
    block_on(store.record(event(node, session, 1), |_| {})).unwrap()
}

fn pending(store: &Store) -> Queued {
    block_on(store.pending(1_000, usize::MAX)).unwrap()
}

fn seqs(store: &Store) -> Vec<u64> {
    pending(store).changes.iter().map(|change| change.seq).collect()
}

fn applied(recorded: &Recorded) -> ChangeResult {
    ChangeResult {
        id: recorded.id,
        outcome: Outcome::Applied,
        node_version: None,
        conflict_id: None,
        reason: None,
    }
}

/// Acknowledges the changes that wait, up to `through`, at `seconds`.
fn acknowledge(store: &Store, through: u64, seconds: i64) {
    let queued = pending(store);
    let taken = queued.changes.iter().filter(|change| change.seq <= through);
    let results = taken.map(|change| ChangeResult {
        id: change.id,
        outcome: Outcome::Applied,
        node_version: None,
        conflict_id: None,
        reason: None,
    });
    block_on(store.acknowledge(queued.epoch, through, results.collect(), at(seconds))).unwrap();
}

fn link_of(store: &Store, seq: u64) -> Option<ChainHash> {
    block_on(store.run(move |db| Ok(Borders::load(db)?.link_at(db, seq)?))).unwrap()
}

fn kept(store: &Store) -> (u64, u64) {
    block_on(store.run(|db| Ok(ring_use(db)?))).unwrap()
}

fn counted(store: &Store) -> Vec<(bool, u64, u64)> {
    block_on(store.run(|db| {
        let mut statement = db.prepare("SELECT * FROM outbox_use ORDER BY is_event")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?)
    }))
    .unwrap()
}

#[test]
fn q9_what_is_acknowledged_is_kept_for_a_week_and_waits_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    (1..=4).for_each(|session| _ = put(&store, 1, session));
    acknowledge(&store, 3, 0);
    assert_eq!((seqs(&store), kept(&store).0), (vec![4], 3));
    assert_eq!(pending(&store).low_water, 1);
    // A change that follows one that is acknowledged follows it in the chain, and in nothing else.
    acknowledge(&store, 4, RING_DAYS * DAY_S);
    assert_eq!(put(&store, 1, 5).seq, 5);
    assert_eq!(pending(&store).changes[0].prev_seq_same_node, None);
    assert_eq!(pending(&store).low_water, 1, "a week is not over");
    acknowledge(&store, 5, RING_DAYS * DAY_S + 1);
    assert_eq!((pending(&store).low_water, kept(&store).0), (4, 2));
    close(store);
    let store = open(dir.path());
    assert_eq!(put(&store, 1, 6).seq, 6);
    assert_eq!((seqs(&store), kept(&store).0), (vec![6], 2));
}

#[test]
fn q9_the_ring_has_a_limit_in_bytes_and_gives_way_to_what_is_new() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    (1..=10).for_each(|session| _ = put(&store, 1, session));
    acknowledge(&store, 10, 0);
    let (rows, size_bytes) = kept(&store);
    assert_eq!(rows, 10);
    block_on(store.run(move |db| {
        let borders = Borders::load(db)?;
        borders.prune(db, None, size_bytes / 10 * 7, PRUNED_MAX)?;
        Ok(())
    }))
    .unwrap();
    assert_eq!((kept(&store).0, pending(&store).low_water), (7, 4));
    block_on(store.run(|db| Ok(yield_space(db)?))).unwrap();
    assert_eq!((kept(&store).0, pending(&store).low_water), (0, 11));
    assert_eq!(pending(&store).before, link_of(&store, 10).unwrap());
}

#[test]
fn q2_a_machine_that_repeats_what_is_acknowledged_hears_what_became_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let first = put(&store, 1, 1);
    acknowledge(&store, 1, 0);
    let again = put(&store, 1, 1);
    assert_eq!((again.seq, again.was_new, again.result), (1, false, Some(applied(&first))));
    assert_eq!(seqs(&store), [0; 0]);
}

#[test]
fn n12_a_rewind_lets_wait_what_the_controller_has_lost_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    (1..=6).for_each(|session| _ = put(&store, 1, session));
    let before = (pending(&store), counted(&store));
    acknowledge(&store, 5, 0);
    let epoch = before.0.epoch;
    let rewind = |through, hash| block_on(store.rewind(epoch, through, hash)).unwrap();
    let link = |seq| link_of(&store, seq).unwrap();
    assert!(!rewind(2, link(3)), "another change is there under this number");
    assert!(!rewind(5, link(5)), "it has lost nothing");
    assert_eq!(seqs(&store), [6]);
    assert!(rewind(2, link(2)));
    assert_eq!((seqs(&store), kept(&store).0), (vec![3, 4, 5, 6], 2));
    assert_eq!(pending(&store).before, link(2));
    assert!(rewind(0, ChainHash::GENESIS));
    assert_eq!((pending(&store), counted(&store), kept(&store)), (before.0, before.1, (0, 0)));
    // What nobody has any more cannot be checked and cannot be sent.
    acknowledge(&store, 3, 0);
    acknowledge(&store, 4, RING_DAYS * DAY_S + 1);
    assert_eq!(pending(&store).low_water, 4);
    assert!(rewind(1, ChainHash::from_digest([9; 32])));
    assert_eq!(seqs(&store), [4, 5, 6]);
    assert!(!rewind(1, ChainHash::from_digest([9; 32])), "nothing is left to put back");
}

#[test]
fn q8_an_epoch_begins_with_all_that_is_kept_under_new_numbers_and_the_old_ids() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    block_on(store.save_record(record(1, Lifecycle::Pending, 1), at(0))).unwrap();
    (1..=3).for_each(|session| _ = put(&store, 2, session));
    acknowledge(&store, 2, 0);
    acknowledge(&store, 3, RING_DAYS * DAY_S + 1);
    let install = |node: &mut CachedNode| {
        node.known.as_mut().unwrap().record.state = Lifecycle::Installing;
    };
    block_on(store.record(event(1, 4, 1), install)).unwrap();
    (5..=6).for_each(|session| _ = put(&store, 1, session));
    assert_eq!(store.node(mac(1)).unwrap().state_seq, Some(4));
    let old = pending(&store);
    assert_eq!((old.low_water, seqs(&store)), (3, vec![4, 5, 6]));
    let to = Epoch::from_bytes([9; 16]);
    let begin = |from| block_on(store.begin_epoch(from, to, at(RING_DAYS * DAY_S + 2))).unwrap();
    begin(to);
    assert_eq!(pending(&store), old, "that was another epoch's fork");
    begin(old.epoch);
    let new = pending(&store);
    assert_eq!((new.epoch, new.low_water, new.before), (to, 1, ChainHash::GENESIS));
    assert_eq!(seqs(&store), [1, 2, 3, 4], "with what is kept in case");
    let ids = |queued: &Queued| queued.changes.iter().map(|it| it.id).collect::<Vec<_>>();
    assert_eq!(ids(&new)[1..], ids(&old));
    let previous: Vec<_> = new.changes.iter().map(|change| change.prev_seq_same_node).collect();
    assert_eq!(previous, [None, None, Some(2), Some(3)]);
    assert_eq!(store.node(mac(1)).unwrap().state_seq, Some(2));
    assert_eq!((counted(&store)[1].1, kept(&store)), (4, (0, 0)));
    close(store);
    let store = open(dir.path());
    assert_eq!(pending(&store), new);
    assert_eq!(put(&store, 1, 7).seq, 5);
}

#[test]
fn d10_what_is_too_old_for_the_controller_to_know_is_not_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    (1..=3).for_each(|session| _ = put(&store, 1, session));
    acknowledge(&store, 2, 0);
    let epoch = pending(&store).epoch;
    let to = Epoch::from_bytes([9; 16]);
    block_on(store.begin_epoch(epoch, to, at(60 * DAY_S))).unwrap();
    assert_eq!(seqs(&store), [1], "the disk is from a backup of two months ago");
}

#[test]
fn u3_changes_of_a_program_that_knew_no_chain_go_in_an_epoch_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    (1..=3).for_each(|session| _ = put(&store, 1, session));
    let old = pending(&store);
    block_on(store.run(|db| Ok(db.execute_batch("UPDATE outbox SET hash = ''")?))).unwrap();
    close(store);
    let store = open(dir.path());
    let new = pending(&store);
    assert_ne!(new.epoch, old.epoch);
    assert_eq!(new.changes, old.changes);
}

#[test]
fn d8_a_change_that_does_not_fit_the_chain_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    (1..=3).for_each(|session| _ = put(&store, 1, session));
    // What the id does not cover.
    block_on(
        store.run(|db| Ok(db.execute_batch("UPDATE outbox SET base_version = 7 WHERE seq = 2")?)),
    )
    .unwrap();
    let found = block_on(store.pending(9, usize::MAX));
    assert!(matches!(found, Err(StoreError::Damaged(_))), "{found:?}");
    assert_eq!(seqs(&store), [1, 2, 3], "and the database is replaced");
}
