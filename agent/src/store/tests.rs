//! The store as its callers see it, and what it does with a bad disk. Damage is in `damage.rs`, sudden ends in `crash.rs`.

mod crash;
mod damage;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use pureboot_protocol::{
    AgentId, Autonomy, BootId, BootRecord, BootRequest, CachePolicy, ChangePayload, ClockQuality,
    CommandId, ForeignBoot, ForeignNode, Lifecycle, Mac, NodeEvent, NodeEventKind, NodeId,
    NodeOrder, PendingCommand, SiteConfig, SiteId, Timestamp,
};
use smol::future::{block_on, poll_once};

use super::*;
use crate::outbox::NewChange;

pub(crate) fn options(dir: &Path) -> StoreOptions {
    StoreOptions { data_dir: dir.to_owned(), quota: Quota::default() }
}

pub(crate) fn open(dir: &Path) -> Store {
    block_on(Store::open(options(dir))).unwrap()
}

/// Waits until the thread has closed its files.
pub(crate) fn close(store: Store) {
    let Store { door, alive, .. } = store;
    drop(door);
    assert!(block_on(alive.recv()).is_err());
}

pub(crate) fn mac(n: u8) -> Mac {
    Mac::from_bytes([0x52, 0x54, 0, 0, 0, n]).unwrap()
}

pub(crate) fn node_id(n: u8) -> NodeId {
    NodeId::from_random([n; 16])
}

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_ms(1_800_000_000_000).plus_seconds(seconds)
}

pub(crate) fn record(n: u8, state: Lifecycle, version: u64) -> BootRecord {
    BootRecord {
        hostname: Some(format!("node-{n}")),
        ..BootRecord::new(node_id(n), mac(n), state, version)
    }
}

/// Progress in per cent makes different events of one node.
pub(crate) fn event(n: u8, session: u32, progress: u8) -> NewChange {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&session.to_be_bytes());
    let event =
        NodeEvent { progress: Some(progress), ..NodeEvent::new(NodeEventKind::InstallProgress) };
    NewChange {
        agent: AgentId::from_random([0xa; 16]),
        node: node_id(n),
        base_version: None,
        at: at(i64::from(session)),
        clock: ClockQuality::Synced,
        session: Some(BootId::from_random(bytes)),
        payload: ChangePayload::Event(event),
    }
}

pub(crate) fn identity() -> Identity {
    Identity {
        agent_id: AgentId::from_random([0xa; 16]),
        config: SiteConfig {
            site_id: SiteId::from_random([5; 16]),
            site_name: "Lab".to_owned(),
            autonomy_level: Autonomy::Limited,
            cache_policy: CachePolicy::Minimal,
            cache_patterns: vec![],
            cache_max_size_gb: None,
            cache_retention_days: 30,
            heartbeat_interval: 60,
        },
        config_version: 3,
        registered_at: at(0),
    }
}

fn begin(store: &Store, n: u8) -> Result<CachedNode, StoreError> {
    let session = BootId::from_random([n; 16]);
    block_on(store.begin_session(session, BootRequest::new(mac(n)), node_id(n), at(0)))
}

#[test]
fn what_was_saved_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert_eq!(block_on(store.load_identity(identity().config.site_id)).unwrap(), None);
    block_on(store.save_identity(identity())).unwrap();
    begin(&store, 1).unwrap();
    block_on(store.save_record(record(1, Lifecycle::Pending, 4), at(9))).unwrap();
    begin(&store, 2).unwrap();
    let nodes = [store.node(mac(1)).unwrap(), store.node(mac(2)).unwrap()];
    assert_eq!(nodes[0].known.as_ref().unwrap().record.version, 4);
    assert_eq!(nodes[1].known, None);
    close(store);
    let store = open(dir.path());
    assert_eq!(block_on(store.load_identity(identity().config.site_id)).unwrap(), Some(identity()));
    assert_eq!([store.node(mac(1)).unwrap(), store.node(mac(2)).unwrap()], nodes);
    assert_eq!(store.node_by_id(node_id(2)), Some(nodes[1].clone()));
    assert_eq!((store.node_count(), store.nodes().len()), (2, 2));
    let session = BootId::from_random([2; 16]);
    assert_eq!(block_on(store.session_mac(session)).unwrap(), Some(mac(2)));
    assert_eq!(block_on(store.session_mac(BootId::from_random([9; 16]))).unwrap(), None);
}

#[test]
fn what_was_said_of_a_node_of_another_site_outlives_a_restart_and_ends_with_a_record() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let said = ForeignNode { boots: ForeignBoot::Refuse, claim_id: None };
    block_on(store.note_elsewhere(mac(1), Some(said), at(1))).unwrap();
    assert_eq!(store.node(mac(1)), None, "a machine that was never seen");
    begin(&store, 1).unwrap();
    block_on(store.save_record(record(1, Lifecycle::Discovered, 0), at(0))).unwrap();
    block_on(store.note_elsewhere(mac(1), Some(said), at(2))).unwrap();
    close(store);
    let store = open(dir.path());
    let node = store.node(mac(1)).unwrap();
    assert_eq!(node.elsewhere, Some(Elsewhere { node: said, told_at: at(2) }));
    assert_eq!((node.known, store.elsewhere_count()), (None, 1));
    block_on(store.save_record(record(1, Lifecycle::Active, 3), at(3))).unwrap();
    close(store);
    let store = open(dir.path());
    assert_eq!((store.node(mac(1)).unwrap().elsewhere, store.elsewhere_count()), (None, 0));
    block_on(store.note_elsewhere(mac(1), Some(said), at(4))).unwrap();
    assert!(
        store.node(mac(1)).unwrap().known.is_some(),
        "what the controller has told is not the site's own"
    );
    block_on(store.note_elsewhere(mac(1), None, at(5))).unwrap();
    assert_eq!(store.elsewhere_count(), 0);
}

#[test]
fn a_machine_that_says_less_does_not_unsay_what_it_said() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut request = BootRequest::new(mac(1));
    request.learn("serial", "C02XK1");
    request.learn("arch", "x86_64");
    let session = BootId::from_random([1; 16]);
    block_on(store.begin_session(session, request.clone(), node_id(1), at(1))).unwrap();
    let node = begin(&store, 1).unwrap();
    assert_eq!(node.facts, request);
    assert_eq!(node.last_seen_at, Some(at(0)));
    let mut moved = BootRequest::new(mac(1));
    moved.learn("arch", "arm64");
    let node = block_on(store.begin_session(session, moved, node_id(7), at(2))).unwrap();
    assert_eq!(node.facts.arch, Some(pureboot_protocol::Arch::Arm64));
    assert_eq!(node.facts.serial, request.serial);
    assert_eq!(node.node_id, node_id(1), "a node keeps the id of its first day");
}

#[test]
fn an_installation_is_given_once_for_each_version_even_across_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let given =
        |store: &Store, version| block_on(store.mark_install_given(mac(1), version)).unwrap();
    assert_eq!(given(&store, 4), InstallGiven::Before, "nobody knows this machine");
    block_on(store.save_record(record(1, Lifecycle::Pending, 4), at(0))).unwrap();
    assert_eq!(given(&store, 4), InstallGiven::Now);
    assert_eq!(given(&store, 4), InstallGiven::Before);
    close(store);
    let store = open(dir.path());
    assert_eq!(given(&store, 4), InstallGiven::Before);
    block_on(store.save_record(record(1, Lifecycle::Installing, 5), at(1))).unwrap();
    block_on(store.save_record(record(1, Lifecycle::Pending, 6), at(2))).unwrap();
    assert_eq!(given(&store, 6), InstallGiven::Now);
    assert_eq!(given(&store, 4), InstallGiven::Before, "an older wish than the last one");
}

#[test]
fn h18_machines_that_nobody_knows_are_limited_and_known_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    begin(&store, 1).unwrap();
    block_on(store.save_record(record(2, Lifecycle::Active, 1), at(0))).unwrap();
    let mirror = store.mirror();
    block_on(store.run(move |db| {
        let transaction = db.transaction()?;
        for n in 1..u16::try_from(UNKNOWN_NODES_MAX).unwrap() {
            let [high, low] = n.to_be_bytes();
            let mac = Mac::from_bytes([0x52, 0x54, 1, 0, high, low]).unwrap();
            let mut node = CachedNode::new(mac, node_id(9));
            // Every other one has the record that the site writes for a machine that it has discovered.
            if n % 2 == 0 {
                let record = BootRecord { mac_address: mac, ..record(9, Lifecycle::Discovered, 0) };
                node.known = Some(KnownRecord { record, fetched_at: at(0) });
            }
            save(&transaction, &node)?;
            mirror.put(node);
        }
        Ok(transaction.commit()?)
    }))
    .unwrap();
    assert!(matches!(begin(&store, 3), Err(StoreError::Full)));
    begin(&store, 1).unwrap();
    begin(&store, 2).unwrap();
    block_on(store.save_record(record(4, Lifecycle::Active, 1), at(0))).unwrap();
}

fn session_id(n: u32) -> BootId {
    BootId::from_random([n.to_be_bytes(); 4].concat().try_into().unwrap())
}

#[test]
fn the_last_sessions_are_remembered_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    block_on(store.run(|db| {
        let transaction = db.transaction()?;
        for n in 0..SESSIONS_MAX {
            let session =
                sessions::BootSession { id: session_id(n), mac: mac(1), started_at: at(0) };
            sessions::save(&transaction, session)?;
        }
        // Each is another machine's.
        transaction.execute(
            "UPDATE sessions SET mac = printf('52:54:02:00:%02x:%02x', number >> 8, number & 255)",
            [],
        )?;
        Ok(transaction.commit()?)
    }))
    .unwrap();
    let is_known = |n| block_on(store.session_mac(session_id(n))).unwrap().is_some();
    assert!(is_known(0));
    let request = BootRequest::new(mac(1));
    let last = session_id(SESSIONS_MAX);
    block_on(store.begin_session(last, request, node_id(1), at(0))).unwrap();
    assert_eq!([is_known(0), is_known(1), is_known(SESSIONS_MAX)], [false, true, true]);
}

#[test]
fn a_machine_that_boots_over_and_over_forgets_only_its_own_sessions() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    // Numbers beyond the cap, of which only a few sessions are left.
    block_on(store.run(|db| {
        let old = "INSERT INTO sessions (number, id, mac, started_at) VALUES (1, ?1, ?2, 0), (?3, 'x', ?2, 0)";
        Ok(db.execute(old, (Word(session_id(1)), Word(mac(1)), SESSIONS_MAX + 9))?)
    }))
    .unwrap();
    let machine = BootRequest::new(mac(2));
    for n in 2..SESSIONS_PER_MACHINE_MAX + 4 {
        block_on(store.begin_session(session_id(n), machine.clone(), node_id(2), at(0))).unwrap();
    }
    let known: Vec<_> = (1..SESSIONS_PER_MACHINE_MAX + 4)
        .filter(|n| block_on(store.session_mac(session_id(*n))).unwrap().is_some())
        .collect();
    let expected: Vec<_> = [1].into_iter().chain(4..SESSIONS_PER_MACHINE_MAX + 4).collect();
    assert_eq!(known, expected);
}

#[test]
fn the_settings_that_durability_rests_on_are_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let settings = block_on(store.run(|db| {
        let mut settings = Vec::new();
        for name in
            ["journal_mode", "synchronous", "locking_mode", "foreign_keys", "max_page_count"]
        {
            settings.push(
                db.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0))?,
            );
        }
        Ok(settings)
    }))
    .unwrap();
    let text = |text: &str| rusqlite::types::Value::from(text.to_owned());
    let number = |number: i64| rusqlite::types::Value::from(number);
    assert_eq!(
        settings,
        [text("wal"), number(2), text("exclusive"), number(1), number((96 << 20) / 4_096)]
    );
    assert!(!dir.path().join("state/site.db-shm").exists(), "d13: no shared memory");
}

#[test]
fn d15_only_the_agent_can_read_its_state() {
    let dir = tempfile::tempdir().unwrap();
    let mode =
        |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
    let store = open(&dir.path().join("new"));
    begin(&store, 1).unwrap();
    assert_eq!((mode("new"), mode("new/state")), (0o700, 0o700));
    assert_eq!((mode("new/state/site.db"), mode("new/state/site.db-wal")), (0o600, 0o600));
    close(store);
    for (name, loose) in [("new/state", 0o755), ("new/state/site.db", 0o644)] {
        fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(loose)).unwrap();
    }
    let _store = open(&dir.path().join("new"));
    assert_eq!((mode("new/state"), mode("new/state/site.db")), (0o700, 0o600));
}

#[test]
fn d15_what_is_planted_in_place_of_the_database_is_refused() {
    type Plant = fn(&Path);
    let planted: [(&str, Plant); 6] = [
        ("site.db", |path| {
            fs::rename(path, path.with_extension("moved")).unwrap();
            symlink(path.with_extension("moved"), path).unwrap();
        }),
        ("site.db", |path| fs::hard_link(path, path.with_extension("other")).unwrap()),
        ("site.db", |path| {
            fs::remove_file(path).unwrap();
            nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        }),
        ("site.db", |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
        ("site.db-wal", |path| symlink("/dev/null", path).unwrap()),
        ("", |path| {
            let moved = path.parent().unwrap().join("moved");
            fs::rename(path, &moved).unwrap();
            symlink(moved, path.parent().unwrap().join("state")).unwrap();
        }),
    ];
    for (case, (name, plant)) in planted.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        close(open(dir.path()));
        plant(&dir.path().join("state").join(name).components().collect::<std::path::PathBuf>());
        let refused = block_on(Store::open(options(dir.path())));
        assert!(matches!(refused, Err(OpenError::NotAFile(_))), "case {case}: {refused:?}");
    }
}

#[test]
fn d16_a_second_opener_is_refused_even_without_the_lock() {
    let dir = tempfile::tempdir().unwrap();
    let _first = open(dir.path());
    let second = block_on(Store::open(options(dir.path())));
    assert!(matches!(second, Err(OpenError::Locked)), "{second:?}");
}

#[test]
fn u3_a_newer_database_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    block_on(store.run(|db| Ok(db.pragma_update(None, "user_version", 99)?))).unwrap();
    close(store);
    let refused = block_on(Store::open(options(dir.path())));
    assert!(matches!(refused, Err(OpenError::Newer { found: 99, .. })), "{refused:?}");
    assert_eq!(fs::read_dir(dir.path().join("state")).unwrap().count(), 1);
}

#[test]
fn a_full_channel_is_answered_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (started, has_started) = bounded::<()>(1);
    let mut holder = Box::pin(store.run(move |_| {
        started.try_send(()).unwrap();
        // The thread is held up as by a disk that does not answer.
        held.recv().unwrap();
        Ok(())
    }));
    block_on(async {
        assert!(poll_once(&mut holder).await.is_none());
        has_started.recv().await.unwrap();
        let mut waiting: Vec<_> = (0..JOBS_MAX).map(|_| Box::pin(store.run(|_| Ok(())))).collect();
        for job in &mut waiting {
            assert!(poll_once(job).await.is_none());
        }
        assert!(matches!(store.run(|_| Ok(())).await, Err(StoreError::Busy)));
        release.send(()).unwrap();
        holder.await.unwrap();
        for job in waiting {
            job.await.unwrap();
        }
        store.run(|_| Ok(())).await.unwrap();
    });
}

#[test]
fn the_end_of_the_thread_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    block_on(async {
        let mut stopped = Box::pin(store.stopped());
        assert!(poll_once(&mut stopped).await.is_none());
        let died = store.run(|_| -> Result<(), _> { panic!("a job that fails by design") }).await;
        assert!(matches!(died, Err(StoreError::Stopped)));
        stopped.await;
        assert!(matches!(store.run(|_| Ok(())).await, Err(StoreError::Stopped)));
    });
}

#[test]
fn d9_who_the_agent_is_outlives_its_database_and_is_never_another_sites() {
    let dir = tempfile::tempdir().unwrap();
    let site = identity().config.site_id;
    let database = dir.path().join("state/site.db");
    let lose = |store| {
        close(store);
        fs::remove_file(&database).unwrap();
        open(dir.path())
    };
    let store = open(dir.path());
    block_on(store.save_identity(identity())).unwrap();
    let store = lose(store);
    assert_eq!(block_on(store.load_identity(SiteId::from_random([9; 16]))).unwrap(), None);
    assert_eq!(block_on(store.load_identity(site)).unwrap(), Some(identity()));
    // A data directory of an earlier version has no copy, and gets one.
    let copy = dir.path().join("state/identity.json");
    fs::remove_file(&copy).unwrap();
    assert_eq!(block_on(store.load_identity(site)).unwrap(), Some(identity()));
    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    let store = lose(store);
    assert_eq!(block_on(store.load_identity(site)).unwrap(), Some(identity()));
    // A copy that is damaged is none.
    let store = {
        fs::write(&copy, "{").unwrap();
        lose(store)
    };
    assert_eq!(block_on(store.load_identity(site)).unwrap(), None);
}

#[test]
fn d9_sessions_that_something_else_has_kept_are_known_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert!(!block_on(store.has_sessions()).unwrap());
    let id = BootId::from_random([2; 16]);
    block_on(store.remember_sessions(vec![(id, mac(2), at(1))])).unwrap();
    assert!(block_on(store.has_sessions()).unwrap());
    assert_eq!(block_on(store.session_mac(id)).unwrap(), Some(mac(2)));
}

#[test]
fn a_job_that_leaves_its_transaction_open_has_done_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    block_on(store.save_identity(identity())).unwrap();
    block_on(store.run(|db| Ok(db.execute_batch("BEGIN; DELETE FROM identity")?))).unwrap();
    assert_eq!(block_on(store.load_identity(identity().config.site_id)).unwrap(), Some(identity()));
    block_on(store.save_identity(identity())).unwrap();
}

#[test]
fn an_answer_that_does_not_know_of_the_sites_own_move_does_not_undo_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    block_on(store.save_record(record(1, Lifecycle::Installing, 4), at(0))).unwrap();
    let installed = |node: &mut CachedNode| {
        node.known.as_mut().unwrap().record.state = Lifecycle::Installed;
    };
    block_on(store.record(event(1, 1, 100), installed)).unwrap();
    // A second report that moves nothing does not change which one did.
    let second = block_on(store.record(event(1, 1, 101), |_| {})).unwrap();
    assert_eq!((second.seq, second.node.unwrap().state_seq), (2, Some(1)));
    let stale = record(1, Lifecycle::Installing, 4);
    let node = block_on(store.save_record(stale, at(1))).unwrap();
    assert_eq!(node.known.unwrap().record.state, Lifecycle::Installed);
    let epoch = block_on(store.pending(9, 9)).unwrap().epoch;
    block_on(store.acknowledge(epoch, 1, vec![], at(0))).unwrap();
    let node = block_on(store.save_record(record(1, Lifecycle::Active, 6), at(2))).unwrap();
    assert_eq!(node.known.unwrap().record.state, Lifecycle::Active);
    assert_eq!(node.state_seq, None);
}

#[test]
fn an_answer_that_does_not_know_of_an_acknowledgement_does_not_repeat_the_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let pending =
        PendingCommand { id: CommandId::from_random([1; 16]), command: NodeOrder::Reboot };
    let ordered = BootRecord { pending_command: Some(pending), ..record(1, Lifecycle::Active, 4) };
    block_on(store.save_record(ordered.clone(), at(0))).unwrap();
    let acknowledged = |node: &mut CachedNode| {
        node.known.as_mut().unwrap().record.pending_command = None;
    };
    block_on(store.record(event(1, 1, 1), acknowledged)).unwrap();
    let node = block_on(store.save_record(ordered, at(1))).unwrap();
    assert_eq!(node.known.unwrap().record.pending_command, None);
    let epoch = block_on(store.pending(9, 9)).unwrap().epoch;
    block_on(store.acknowledge(epoch, 1, vec![], at(0))).unwrap();
    let next = PendingCommand { id: CommandId::from_random([2; 16]), ..pending };
    let next = BootRecord { pending_command: Some(next), ..record(1, Lifecycle::Active, 6) };
    let node = block_on(store.save_record(next.clone(), at(2))).unwrap();
    assert_eq!(node.known.unwrap().record, next);
}
