use pureboot_protocol::{AgentId, Assignment, BootRecord, Lifecycle};
use smol::future::block_on;

use super::*;
use crate::outbox::NewChange;
use crate::store::tests::{at, close, event, identity, mac, node_id, open, record};
use crate::store::{Identity, InstallGiven};

fn present(record: BootRecord) -> NodeChange {
    NodeChange::Present(Box::new(record))
}

fn part(since_version: u64, version: u64, data: Vec<NodeChange>) -> NodeChanges {
    let total = data.len() as u64;
    NodeChanges { data, total, since_version, version, has_more: false }
}

fn apply(store: &Store, since: u64, changes: NodeChanges, seconds: i64) -> Applied {
    block_on(store.apply_changes(since, changes, at(seconds))).unwrap().expect("applied")
}

fn version(store: &Store, n: u8) -> Option<u64> {
    Some(store.node(mac(n))?.known?.record.version)
}

fn held(store: &Store) -> u64 {
    block_on(store.feed_version()).unwrap()
}

/// A wish of the site that moves node `n`.
fn wish(store: &Store, n: u8) {
    let new = NewChange { node: node_id(n), ..event(n, 1, 10) };
    let moved = store.record(new, |node| {
        if let Some(known) = &mut node.known {
            known.record.state = Lifecycle::Installing;
        }
    });
    block_on(moved).unwrap();
}

#[test]
fn what_has_changed_is_there_with_its_number_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert_eq!(held(&store), 0);
    let changes =
        vec![present(record(1, Lifecycle::Active, 3)), present(record(2, Lifecycle::Pending, 1))];
    let applied = apply(&store, 0, part(0, 9, changes), 10);
    assert_eq!((applied.taken, applied.since_version), (2, 9));
    close(store);
    let store = open(dir.path());
    assert_eq!((held(&store), version(&store, 1), version(&store, 2)), (9, Some(3), Some(1)));
    let late = block_on(store.apply_changes(0, part(0, 20, vec![]), at(11))).unwrap();
    assert_eq!(
        (late, held(&store)),
        (None, 9),
        "an answer to a question that is no longer the site's"
    );
}

#[test]
fn a_node_that_has_left_is_forgotten_once_all_is_told_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let both = [1, 2].map(|n| present(record(n, Lifecycle::Pending, 1)));
    apply(&store, 0, part(0, 5, both.to_vec()), 10);
    wish(&store, 2);
    let left = [1, 2].map(|n| NodeChange::Left { node_id: node_id(n) });
    let applied = apply(&store, 5, part(5, 8, left.to_vec()), 20);
    assert_eq!((applied.forgotten, applied.due), (1, 1));
    assert_eq!((version(&store, 1), version(&store, 2)), (None, Some(1)));
    assert!(!block_on(store.forget(mac(2))).unwrap(), "it is yet to be told");
    let all = block_on(store.pending(10, 10_000)).unwrap();
    block_on(store.acknowledge(all.epoch, 1, Vec::new(), at(30))).unwrap();
    assert!(block_on(store.forget(mac(2))).unwrap());
    assert_eq!(version(&store, 2), None);
}

#[test]
fn what_the_site_has_seen_stands_and_is_asked_about_later() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    apply(&store, 0, part(0, 5, vec![present(record(1, Lifecycle::Pending, 1))]), 10);
    wish(&store, 1);
    let applied = apply(&store, 5, part(5, 8, vec![present(record(1, Lifecycle::Pending, 2))]), 20);
    assert_eq!((applied.due, applied.since_version), (1, 8));
    let node = store.node(mac(1)).unwrap();
    assert!(node.is_due);
    assert_eq!(node.known.unwrap().record.state, Lifecycle::Installing);
}

#[test]
fn c17_a_controller_that_was_restored_is_asked_for_everything_and_overwrites_nothing_newer() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let nodes = [1, 2, 3].map(|n| present(record(n, Lifecycle::Pending, 7)));
    apply(&store, 0, part(0, 50, nodes.to_vec()), 10);
    wish(&store, 2);
    // It has overtaken the number, and only the version of a node tells.
    let applied =
        apply(&store, 50, part(50, 60, vec![present(record(1, Lifecycle::Active, 3))]), 20);
    assert!(applied.is_restored);
    assert_eq!((held(&store), version(&store, 1)), (0, Some(3)));
    let applied = apply(
        &store,
        0,
        part(0, 60, [1, 2].map(|n| present(record(n, Lifecycle::Active, 3))).to_vec()),
        30,
    );
    assert_eq!((applied.is_restored, applied.due, held(&store)), (false, 1, 60));
    assert_eq!(store.node(mac(2)).unwrap().known.unwrap().record.state, Lifecycle::Installing);
    // What the whole answer does not name is asked about, and only then forgotten.
    let due: Vec<_> = [1, 2, 3].iter().filter(|n| store.node(mac(**n)).unwrap().is_due).collect();
    assert_eq!(due, [&2, &3]);
    assert!(block_on(store.forget(mac(3))).unwrap());
}

#[test]
fn c17_a_machines_question_notices_a_restore_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let nodes = [1, 2].map(|n| present(record(n, Lifecycle::Active, 7)));
    apply(&store, 0, part(0, 50, nodes.to_vec()), 10);
    block_on(store.save_record(record(1, Lifecycle::Active, 3), at(20))).unwrap();
    assert_eq!(held(&store), 0);
    assert!(store.node(mac(2)).unwrap().is_due);
    assert!(!store.node(mac(1)).unwrap().is_due);
}

#[test]
fn c17_a_number_that_the_controller_has_lost_leaves_every_node_in_doubt() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let nodes = [1, 2].map(|n| present(record(n, Lifecycle::Active, 7)));
    apply(&store, 0, part(0, 50, nodes.to_vec()), 10);
    let applied = apply(&store, 50, part(0, 4, vec![present(record(1, Lifecycle::Active, 7))]), 20);
    assert!(applied.is_restored);
    assert_eq!(held(&store), 4);
    assert!(!store.node(mac(1)).unwrap().is_due);
    assert!(store.node(mac(2)).unwrap().is_due, "nobody has said that it is gone");
}

#[test]
fn another_controller_begins_with_its_own_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    block_on(store.save_identity(identity())).unwrap();
    apply(&store, 0, part(0, 50, vec![present(record(1, Lifecycle::Active, 7))]), 10);
    block_on(store.save_identity(identity())).unwrap();
    assert_eq!(held(&store), 50);
    let agent_id = AgentId::from_random([9; 16]);
    block_on(store.save_identity(Identity { agent_id, ..identity() })).unwrap();
    assert_eq!(held(&store), 0);
}

#[test]
fn c15_what_is_invalidated_stays_until_there_is_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let nodes = [1, 2].map(|n| present(record(n, Lifecycle::Active, 7)));
    apply(&store, 0, part(0, 50, nodes.to_vec()), 10);
    assert!(!block_on(store.mark_due(mac(9))).unwrap());
    assert!(block_on(store.mark_due(mac(1))).unwrap());
    assert_eq!((held(&store), version(&store, 1)), (50, Some(7)));
    assert_eq!(block_on(store.mark_all_due()).unwrap(), 2);
    assert_eq!((held(&store), version(&store, 2)), (0, Some(7)));
    assert!(store.node(mac(2)).unwrap().is_due);
}

#[test]
fn i7_a_wish_that_has_got_another_number_is_still_the_wish_that_was_fulfilled() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let given = |version| block_on(store.mark_install_given(mac(1), version)).unwrap();
    apply(&store, 0, part(0, 5, vec![present(record(1, Lifecycle::Pending, 3))]), 10);
    assert_eq!(given(3), InstallGiven::Now);
    // The machine's own boot has raised the version, and the feed is faster than the acknowledgement.
    apply(&store, 5, part(5, 6, vec![present(record(1, Lifecycle::Pending, 4))]), 20);
    assert_eq!(given(4), InstallGiven::Before);
    let mut other = record(1, Lifecycle::Pending, 5);
    let (name, method) = ("other".to_owned(), "floppy".to_owned());
    other.workflow = Some(Assignment::Foreign { name, method });
    apply(&store, 6, part(6, 7, vec![present(other)]), 30);
    assert_eq!(given(5), InstallGiven::Now, "another workflow is another wish");
    apply(&store, 7, part(7, 8, vec![present(record(1, Lifecycle::Installing, 6))]), 40);
    apply(&store, 8, part(8, 9, vec![present(record(1, Lifecycle::Pending, 7))]), 50);
    assert_eq!(given(7), InstallGiven::Now, "it was installed, and is to be once more");
    close(store);
    let store = open(dir.path());
    let again = block_on(store.mark_install_given(mac(1), 7)).unwrap();
    assert_eq!(again, InstallGiven::Before, "killed before the script was sent");
}

/// A record of a controller that numbers wishes.
fn wished(state: Lifecycle, version: u64, wish: u64) -> NodeChange {
    present(BootRecord { wish_version: Some(wish), ..record(1, state, version) })
}

/// What was handed out so far, asked for what the site goes by now.
fn ask(store: &Store) -> InstallGiven {
    let wish = store.node(mac(1)).unwrap().known.unwrap().record.wish();
    block_on(store.mark_install_given(mac(1), wish)).unwrap()
}

#[test]
fn i7_a_wish_is_known_by_its_number_whatever_else_has_changed_and_whatever_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    apply(&store, 0, part(0, 5, vec![wished(Lifecycle::Pending, 3, 3)]), 10);
    assert_eq!(ask(&store), InstallGiven::Now);
    apply(&store, 5, part(5, 6, vec![wished(Lifecycle::Pending, 4, 3)]), 20);
    assert_eq!(ask(&store), InstallGiven::Before, "another name");
    // The site has seen that the installer began, and the controller could not take the report.
    apply(&store, 6, part(6, 7, vec![wished(Lifecycle::Installing, 5, 3)]), 30);
    apply(&store, 7, part(7, 8, vec![wished(Lifecycle::Pending, 6, 3)]), 40);
    assert_eq!(ask(&store), InstallGiven::Before);
    let store = {
        close(store);
        open(dir.path())
    };
    assert_eq!(ask(&store), InstallGiven::Before);
    apply(&store, 8, part(8, 9, vec![wished(Lifecycle::Pending, 9, 9)]), 50);
    assert_eq!(ask(&store), InstallGiven::Now, "wished anew while nobody looked");
}

#[test]
fn u2_a_controller_that_begins_to_number_wishes_wants_no_disk_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    apply(&store, 0, part(0, 5, vec![present(record(1, Lifecycle::Pending, 4))]), 10);
    assert_eq!(ask(&store), InstallGiven::Now);
    // It was brought up when the node had version 6, which is all that it knows of the wish.
    apply(&store, 5, part(5, 6, vec![wished(Lifecycle::Pending, 7, 6)]), 20);
    assert_eq!(ask(&store), InstallGiven::Before);
    apply(&store, 6, part(6, 7, vec![wished(Lifecycle::Pending, 8, 6)]), 30);
    assert_eq!(ask(&store), InstallGiven::Before);
    apply(&store, 7, part(7, 8, vec![present(record(1, Lifecycle::Pending, 8))]), 40);
    assert_eq!(ask(&store), InstallGiven::Before, "the older program is back");
}

#[test]
fn i7_a_wish_of_the_sites_own_is_given_one_installer_whatever_number_it_gets() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let own = |store: &Store, session, state| {
        let effect = move |node: &mut CachedNode| {
            node.known.as_mut().unwrap().record.state = state;
            node.own_wish_given = Some(false);
        };
        block_on(store.record(event(1, session, 1), effect)).unwrap();
        let queued = block_on(store.pending(9, 9_999)).unwrap();
        (queued.epoch, queued.changes.last().unwrap().seq)
    };
    apply(&store, 0, part(0, 5, vec![wished(Lifecycle::Pending, 3, 3)]), 10);
    assert_eq!(ask(&store), InstallGiven::Now);
    let (epoch, seq) = own(&store, 1, Lifecycle::Pending);
    assert_eq!(ask(&store), InstallGiven::Now, "the site's own");
    assert_eq!(ask(&store), InstallGiven::Before);
    block_on(store.acknowledge(epoch, seq, Vec::new(), at(20))).unwrap();
    apply(&store, 5, part(5, 6, vec![wished(Lifecycle::Pending, 9, 8)]), 30);
    assert_eq!(ask(&store), InstallGiven::Before, "it has a number now");
    apply(&store, 6, part(6, 7, vec![wished(Lifecycle::Pending, 11, 11)]), 40);
    assert_eq!(ask(&store), InstallGiven::Now);
    // One that comes to nothing does not make the centre's a new one.
    let (epoch, seq) = own(&store, 2, Lifecycle::Installed);
    block_on(store.acknowledge(epoch, seq, Vec::new(), at(50))).unwrap();
    apply(&store, 7, part(7, 8, vec![wished(Lifecycle::Pending, 12, 11)]), 60);
    assert_eq!(ask(&store), InstallGiven::Before);
}
