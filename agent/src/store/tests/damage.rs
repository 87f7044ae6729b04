//! FAULTS D8: whatever has happened to the file, the agent starts, keeps the evidence, and sends nothing that was not recorded.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use pureboot_protocol::Change;
use smol::future::block_on;

use super::*;
use crate::clock;

const CHANGES: u32 = 120;

/// A database with something of everything, closed.
fn filled(dir: &Path) -> (pureboot_protocol::Epoch, Vec<Change>) {
    let store = open(dir);
    block_on(store.save_identity(identity())).unwrap();
    for n in 1..=30 {
        block_on(store.save_record(record(n, Lifecycle::Installing, 1), at(0))).unwrap();
        begin(&store, n).unwrap();
    }
    block_on(store.run(|db| Ok(db.pragma_update(None, "synchronous", 0)?))).unwrap();
    for n in 0..CHANGES {
        let node = u8::try_from(n % 30 + 1).unwrap();
        block_on(store.record(event(node, n, 50), |_| {})).unwrap();
    }
    let queued = block_on(store.pending(1_000, usize::MAX)).unwrap();
    assert_eq!(queued.changes.len(), 120);
    close(store);
    (queued.epoch, queued.changes)
}

fn database(dir: &Path) -> PathBuf {
    dir.join("state/site.db")
}

fn quarantined(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir.join("state")).unwrap().map(|file| file.unwrap().path());
    let is_quarantined = |path: &PathBuf| path.to_string_lossy().contains("corrupt");
    files.filter(is_quarantined).collect()
}

/// What makes a change, without its place.
fn content(change: &Change) -> impl PartialEq + std::fmt::Debug {
    (change.node, change.session, change.payload.clone())
}

/// Opens, reads the outbox to its end, records something, and returns what was left of `before`.
fn survive(dir: &Path, before: &(pureboot_protocol::Epoch, Vec<Change>)) -> (bool, Vec<Change>) {
    let store = open(dir);
    // What is found only at work is reported once, and then the database is a new one.
    let survived = match block_on(work(&store, &before.1)) {
        Err(StoreError::Damaged(_)) => block_on(work(&store, &before.1)),
        survived => survived,
    };
    let (epoch, left) = survived.unwrap();
    close(store);
    (epoch != before.0, left)
}

async fn work(
    store: &Store,
    before: &[Change],
) -> Result<(pureboot_protocol::Epoch, Vec<Change>), StoreError> {
    let queued = store.pending(1_000, usize::MAX).await?;
    let by_id: HashMap<_, _> = before.iter().map(|change| (change.id, change)).collect();
    let mut last = 0;
    for (place, change) in (1..).zip(&queued.changes) {
        assert_eq!(change.seq, place, "no gaps");
        // The one that the first of two rounds has recorded.
        if change.session == event(1, 5_000, 1).session {
            continue;
        }
        let original = by_id[&change.id];
        assert_eq!(content(change), content(original));
        assert!(original.seq > last, "the order is kept");
        last = original.seq;
    }
    let recorded = store.record(event(1, 5_000, 1), |_| {}).await?;
    let expected = queued.changes.len() + usize::from(recorded.was_new);
    assert_eq!(usize::try_from(recorded.seq).unwrap(), expected);
    let session = BootId::from_random([99; 16]);
    store.begin_session(session, BootRequest::new(mac(99)), node_id(99), at(0)).await?;
    store.acknowledge(queued.epoch, recorded.seq, vec![], at(0)).await?;
    assert_eq!(store.counts().await?.pending, 0);
    Ok((queued.epoch, queued.changes))
}

#[test]
fn d8_a_damaged_file_is_kept_and_replaced_and_what_can_be_read_is_saved() {
    type Damage = fn(&mut Vec<u8>);
    let cases: [(&str, bool, Damage); 8] = [
        ("zero length", false, |bytes| bytes.clear()),
        ("cut in the header", false, |bytes| bytes.truncate(50)),
        ("cut in the first page", false, |bytes| bytes.truncate(2_000)),
        ("cut in the middle", false, |bytes| bytes.truncate(bytes.len() / 2)),
        ("garbage", false, |bytes| bytes.iter_mut().for_each(|byte| *byte = !*byte)),
        ("another program's", true, |bytes| bytes[68..72].copy_from_slice(b"mine")),
        ("a letter of the schema", true, |bytes| {
            let column = b"payload            TEXT";
            // Pages that were split have it twice, and one of the two is read by nobody.
            let is_here = |at: &usize| bytes.get(*at..*at + column.len()) == Some(&column[..]);
            let found: Vec<_> = (0..bytes.len()).filter(is_here).collect();
            assert!(!found.is_empty());
            found.into_iter().for_each(|at| bytes[at] ^= 1);
        }),
        ("a page of the nodes", true, |bytes| {
            let page = bytes.windows(6).position(|at| at == b"node-9").unwrap() / 4_096 * 4_096;
            bytes[page..page + 200].fill(0xff);
        }),
    ];
    for (name, saves_all, damage) in cases {
        let dir = tempfile::tempdir().unwrap();
        let before = filled(dir.path());
        let mut bytes = fs::read(database(dir.path())).unwrap();
        damage(&mut bytes);
        fs::write(database(dir.path()), &bytes).unwrap();
        let (is_new, saved) = survive(dir.path(), &before);
        assert!(is_new, "{name}: a new epoch");
        let aside = quarantined(dir.path());
        assert_eq!(aside.len(), 1, "{name}: {aside:?}");
        assert!(fs::read(&aside[0]).unwrap() == bytes, "{name}: the evidence is as it was");
        if saves_all {
            assert_eq!(saved.len(), before.1.len(), "{name}");
            // From the database itself, and not from its copy.
            fs::remove_file(dir.path().join("state/identity.json")).unwrap();
            let store = open(dir.path());
            let site = identity().config.site_id;
            assert_eq!(block_on(store.load_identity(site)).unwrap(), Some(identity()), "{name}");
            let session = BootId::from_random([3; 16]);
            assert_eq!(block_on(store.session_mac(session)).unwrap(), Some(mac(3)), "{name}");
        }
    }
}

#[test]
fn d8_what_the_controller_was_given_lately_is_saved_with_what_waits() {
    let dir = tempfile::tempdir().unwrap();
    let (epoch, before) = filled(dir.path());
    let store = open(dir.path());
    block_on(store.acknowledge(epoch, 60, vec![], clock::now())).unwrap();
    let (long_ago, unknown) = ("acked_at = 0 WHERE seq <= 20", "acked_at = NULL WHERE seq = 7");
    for set in [long_ago, unknown] {
        block_on(store.run(move |db| Ok(db.execute(&format!("UPDATE outbox SET {set}"), [])?)))
            .unwrap();
    }
    close(store);
    let mut bytes = fs::read(database(dir.path())).unwrap();
    bytes[68..72].copy_from_slice(b"mine");
    fs::write(database(dir.path()), &bytes).unwrap();
    let store = open(dir.path());
    let saved = block_on(store.pending(1_000, usize::MAX)).unwrap().changes;
    let ids = |changes: &[Change]| changes.iter().map(|change| change.id).collect::<Vec<_>>();
    assert_eq!(ids(&saved), [&ids(&before[6..7])[..], &ids(&before[20..])].concat());
    close(store);
}

#[test]
fn d8_a_database_without_its_log_opens_and_a_log_without_its_database_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let before = filled(dir.path());
    let log = dir.path().join("state/site.db-wal");
    fs::write(&log, b"not a log").unwrap();
    assert!(!survive(dir.path(), &before).0);
    fs::rename(database(dir.path()), dir.path().join("gone")).unwrap();
    fs::write(&log, b"orphan").unwrap();
    let (is_new, left) = survive(dir.path(), &before);
    assert_eq!((is_new, left.len()), (true, 0));
    assert_eq!(fs::read(dir.path().join("state/site.db.corrupt-1-wal")).unwrap(), b"orphan");
}

#[test]
fn d8_damage_found_at_work_replaces_the_database_and_forgets_no_node() {
    let dir = tempfile::tempdir().unwrap();
    let before = filled(dir.path());
    let store = open(dir.path());
    let nodes = store.node_count();
    let spoil = "UPDATE outbox SET payload = replace(payload, '50', '51') WHERE seq = 7";
    block_on(store.run(move |db| Ok(db.execute_batch(&format!("DELETE FROM nodes; {spoil}"))?)))
        .unwrap();
    let found = block_on(store.pending(100, usize::MAX));
    assert!(matches!(found, Err(StoreError::Damaged(_))), "{found:?}");
    assert_eq!(store.node_count(), nodes, "the mirror stays");
    let queued = block_on(store.pending(1_000, usize::MAX)).unwrap();
    assert_ne!(queued.epoch, before.0);
    assert_eq!(queued.changes.len(), before.1.len() - 1);
    close(store);
    assert_eq!(open(dir.path()).node_count(), nodes, "and is written to the new database");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 16, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn d8_flipped_bits_never_make_a_change_that_was_not_recorded(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..6),
    ) {
        thread_local! {
            static FILLED: (Vec<u8>, (pureboot_protocol::Epoch, Vec<Change>)) = {
                let dir = tempfile::tempdir().unwrap();
                let before = filled(dir.path());
                (fs::read(database(dir.path())).unwrap(), before)
            };
        }
        FILLED.with(|(bytes, before)| {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("state")).unwrap();
            let mut bytes = bytes.clone();
            for (at, bit) in flips {
                let at = at.index(bytes.len());
                // The version of the schema has no copy to be told wrong by: a newer program's database is refused.
                if !(60..64).contains(&at) {
                    bytes[at] ^= 1 << bit;
                }
            }
            fs::write(database(dir.path()), &bytes).unwrap();
            survive(dir.path(), before);
        });
    }
}
