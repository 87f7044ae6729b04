//! FAULTS K1 to K6, D1, D5: the end comes at any moment. The real ones happen in a child process: this test binary, started
//! again with [`CHILD`] set to the data directory and [`ENDING`] to what is to become of it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use pureboot_protocol::{Change, ChangeResult, Outcome};
use smol::future::block_on;

use super::*;

const CHILD: &str = "PUREBOOT_TEST_CHILD";
const ENDING: &str = "PUREBOOT_TEST_ENDING";

/// Records changes and says so for as long as it lives; a parent that only runs the suite gets nothing from it.
#[test]
fn child() {
    let (Some(dir), Ok(ending)) = (std::env::var_os(CHILD), std::env::var(ENDING)) else { return };
    let store = open(Path::new(&dir));
    let mut session = u32::try_from(figures(&store).rows).unwrap();
    let mut refusals = 0;
    loop {
        session += 1;
        let dies = ending == "before commit" && session == 5;
        let effect = move |node: &mut CachedNode| {
            if dies {
                std::process::abort();
            }
            node.last_seen_at = Some(at(i64::from(session)));
        };
        match block_on(store.record(event(1, session, 1), effect)) {
            Ok(recorded) => println!("acked {}", recorded.seq),
            Err(error) => {
                println!("refused {error:?}");
                refusals += 1;
                if refusals == 3 {
                    std::process::abort();
                }
                session -= 1;
            }
        }
        if ending == "after commit" && session == 5 {
            std::process::abort();
        }
        if ending == "acknowledging" {
            acknowledge_all(&store);
        }
    }
}

/// Notes all that waits as applied, each change with the next version of its node.
fn acknowledge_all(store: &Store) {
    let queued = block_on(store.pending(100, usize::MAX)).unwrap();
    let through = queued.changes.last().unwrap().seq;
    let mut version = figures(store).version;
    let result = |change: Change| {
        version += 1;
        ChangeResult {
            id: change.id,
            outcome: Outcome::Applied,
            node_version: Some(version),
            conflict_id: None,
            reason: None,
        }
    };
    let results = queued.changes.into_iter().map(result).collect();
    block_on(store.acknowledge(queued.epoch, through, results, at(0))).unwrap();
}

/// What one acknowledgement moves together.
#[derive(Debug)]
struct Figures {
    rows: u64,
    acked_through: u64,
    with_outcome: u64,
    waiting: u64,
    kept: u64,
    version: u64,
}

fn figures(store: &Store) -> Figures {
    let version = store.node(mac(1)).and_then(|node| Some(node.known?.record.version));
    let sql = "SELECT (SELECT count(*) FROM outbox), (SELECT acked_through FROM meta),
        (SELECT count(*) FROM outbox WHERE outcome IS NOT NULL AND acked_at IS NOT NULL),
        (SELECT sum(row_count) FROM outbox_use), (SELECT row_count FROM ring_use)";
    block_on(store.run(move |db| {
        Ok(db.query_row(sql, [], |row| {
            Ok(Figures {
                rows: row.get(0)?,
                acked_through: row.get(1)?,
                with_outcome: row.get(2)?,
                waiting: row.get(3)?,
                kept: row.get(4)?,
                version: version.unwrap_or(0),
            })
        })?)
    }))
    .unwrap()
}

fn start(dir: &Path, ending: &str, limit: &str) -> Child {
    Command::new("/bin/sh")
        .args(["-c", &format!(r#"{limit} exec "$0" "$@""#)])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "store::tests::crash::child", "--nocapture", "--test-threads=1"])
        .env(CHILD, dir)
        .env(ENDING, ending)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Lets a child work on `dir` until it dies or has acknowledged `kill_after` changes, and returns what it has said.
fn play(dir: &Path, ending: &str, limit: &str, kill_after: usize) -> Vec<String> {
    let mut child = start(dir, ending, limit);
    let mut lines = Vec::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while output.read_line(&mut line).unwrap() > 0 {
        // The harness writes on the same lines.
        if let Some(at) = ["acked", "refused"].iter().find_map(|word| line.find(word)) {
            lines.push(line[at..].trim().to_owned());
        }
        line.clear();
        if lines.len() == kill_after {
            child.kill().unwrap();
            // What it wrote before it died counts.
            let mut rest = String::new();
            output.read_to_string(&mut rest).unwrap();
            let whole = rest.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            lines.extend(
                whole.filter(|line| line.starts_with("acked")).map(|line| line.trim().to_owned()),
            );
            break;
        }
    }
    child.wait().unwrap();
    lines
}

fn known(dir: &Path) {
    let store = open(dir);
    block_on(store.save_record(record(1, Lifecycle::Installing, 1), at(0))).unwrap();
    close(store);
}

/// The numbers in the outbox, and the time that the last change has set.
fn left(dir: &Path) -> (Vec<u64>, Option<Timestamp>) {
    let store = open(dir);
    let changes = block_on(store.pending(100_000, usize::MAX)).unwrap().changes;
    let seqs = changes.iter().map(|change| change.seq).collect();
    let seen = store.node(mac(1)).unwrap().last_seen_at;
    close(store);
    (seqs, seen)
}

fn numbered(lines: &[String]) -> Vec<u64> {
    lines.iter().filter_map(|line| line.strip_prefix("acked ")?.parse().ok()).collect()
}

#[test]
fn k1_a_change_whose_commit_was_cut_has_not_happened_and_leaves_no_gap() {
    let dir = tempfile::tempdir().unwrap();
    known(dir.path());
    let lines = play(dir.path(), "before commit", "", usize::MAX);
    assert_eq!(numbered(&lines), [1, 2, 3, 4]);
    assert_eq!(left(dir.path()), (vec![1, 2, 3, 4], Some(at(4))));
    let retried = block_on(open(dir.path()).record(event(1, 5, 1), |_| {})).unwrap();
    assert_eq!((retried.seq, retried.was_new), (5, true));
}

#[test]
fn k2_a_change_that_was_committed_is_the_same_when_it_is_repeated() {
    let dir = tempfile::tempdir().unwrap();
    known(dir.path());
    play(dir.path(), "after commit", "", usize::MAX);
    assert_eq!(left(dir.path()), (vec![1, 2, 3, 4, 5], Some(at(5))));
    let retried =
        block_on(open(dir.path()).record(event(1, 5, 1), |_| panic!("applied twice"))).unwrap();
    assert_eq!((retried.seq, retried.was_new), (5, false));
}

#[test]
fn k6_kill_9_at_any_moment_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    known(dir.path());
    // Some of these fall into a checkpoint, which comes every 400 pages.
    for kill_after in [1, 90, 33, 150, 7, 120] {
        let lines = play(dir.path(), "", "", kill_after);
        let acked = numbered(&lines).last().copied().unwrap();
        let (seqs, seen) = left(dir.path());
        assert_eq!(seqs, (1..=u64::try_from(seqs.len()).unwrap()).collect::<Vec<_>>());
        assert!(seqs.len() as u64 >= acked, "{acked} acknowledged, {} kept", seqs.len());
        assert_eq!(seen, Some(at(i64::try_from(seqs.len()).unwrap())), "with its effect");
    }
}

#[test]
fn k5_an_acknowledgement_that_was_cut_has_happened_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    known(dir.path());
    for kill_after in [3, 40, 1, 25, 60, 10] {
        let lines = play(dir.path(), "acknowledging", "", kill_after);
        let store = open(dir.path());
        let found = figures(&store);
        let acked = found.acked_through;
        assert!(found.rows >= numbered(&lines).last().copied().unwrap(), "{found:?}");
        assert_eq!([found.with_outcome, found.kept, found.version - 1], [acked; 3], "{found:?}");
        assert_eq!(found.waiting, found.rows - acked, "{found:?}");
        assert!(found.waiting <= 2, "one is being noted, and one may be recorded: {found:?}");
        close(store);
    }
}

#[test]
fn d5_after_a_write_that_failed_nothing_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    known(dir.path());
    // Every write beyond this many blocks of 512 bytes in a file fails.
    let lines = play(dir.path(), "", "trap '' XFSZ; ulimit -f 600;", usize::MAX);
    let refused = lines.iter().position(|line| line.starts_with("refused Io")).expect("a refusal");
    let acked = numbered(&lines);
    assert!(refused > 5 && acked.len() > refused, "it looks again and goes on: {lines:?}");
    assert_eq!(left(dir.path()).0, acked, "{lines:?}");
}

#[test]
fn k_a_creation_or_replacement_that_was_cut_is_carried_on() {
    // What each step leaves behind: (present before, expected to be set aside).
    let cases: [(&[(&str, &str)], usize); 5] = [
        (&[("site.db.building", "half")], 0),
        (&[("site.db.new", "whole")], 0),
        (&[("site.db.new", "whole"), ("site.db", "damaged"), ("site.db-wal", "log")], 2),
        (&[("site.db.new", "whole"), ("site.db", "damaged")], 1),
        (&[("site.db.new", "whole"), ("site.db-wal", "log")], 1),
    ];
    for (files, set_aside) in cases {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        known(dir.path());
        let whole = fs::read(state.join("site.db")).unwrap();
        fs::remove_file(state.join("site.db")).unwrap();
        let was_complete = files.iter().any(|(_, content)| *content == "whole");
        for (name, content) in files {
            let content = if *content == "whole" { &whole } else { content.as_bytes() };
            fs::write(state.join(name), content).unwrap();
        }
        let store = open(dir.path());
        assert_eq!(store.node_count(), usize::from(was_complete), "{files:?}");
        close(store);
        let names: Vec<_> = fs::read_dir(&state)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(names.len(), 1 + set_aside, "{files:?}: {names:?}");
    }
}

#[test]
fn d1_a_full_database_refuses_and_recovers_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let quota = Quota { file_bytes: 192 << 10, ..Quota::default() };
    let small = StoreOptions { data_dir: dir.path().to_owned(), quota };
    let store = block_on(Store::open(small)).unwrap();
    let mut acked = 0;
    let refused = loop {
        match block_on(store.record(event(1, acked + 1, 1), |_| {})) {
            Ok(_) => acked += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::Full), "{refused:?}");
    assert!(acked > 20);
    let queued = block_on(store.pending(100_000, usize::MAX)).unwrap();
    assert_eq!(u32::try_from(queued.changes.len()), Ok(acked), "nothing was overwritten");
    block_on(store.acknowledge(queued.epoch, u64::from(acked / 2), vec![], at(0))).unwrap();
    let next = block_on(store.record(event(1, acked + 1, 1), |_| {})).unwrap();
    assert_eq!(next.seq, u64::from(acked) + 1, "what was refused has left no gap");
}
