use std::os::unix::fs::symlink;

use pureboot_protocol::Timestamp;
use tempfile::TempDir;

use super::*;
use crate::session::ring::STEPS_MAX;
use crate::session::step::{Phase, Protocol, Step, What};

fn journal() -> (TempDir, Journal) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    let journal = Journal::new(&DataDir::create(&root).unwrap());
    (dir, journal)
}

fn session(number: u16) -> Session {
    let mut id = [0; 16];
    id[..2].copy_from_slice(&number.to_be_bytes());
    Session {
        id: BootId::from_random(id),
        mac: "52:54:00:12:34:56".parse().ok(),
        address: "10.73.0.50".parse().ok(),
        started_at: Timestamp::from_unix_ms(1_000 * i64::from(number)),
        reached: Phase::Asking,
        user_agents: Vec::new(),
        steps_folded: 0,
        steps: Vec::new(),
    }
}

/// A session of about 5 kB in JSON.
fn long_session(number: u16) -> Session {
    let what = What::Missing { by: Protocol::Tftp, name: "x".into() };
    let step = Step { number: 0, at_ms: 0, took_ms: None, times: 1, what };
    Session { steps: vec![step; STEPS_MAX], ..session(number) }
}

fn ids(loaded: &Loaded) -> Vec<BootId> {
    loaded.sessions.iter().map(|session| session.id).collect()
}

#[test]
fn what_is_written_is_read_back_and_the_last_word_counts() {
    let (_dir, journal) = journal();
    assert_eq!(journal.load().unwrap(), Loaded::default());
    journal.append(&[session(2), session(1)]).unwrap();
    let later = Session { reached: Phase::CalledBack, ..session(2) };
    journal.append(std::slice::from_ref(&later)).unwrap();
    assert_eq!(
        journal.load().unwrap(),
        Loaded { sessions: vec![session(1), later], skipped: vec![] }
    );
}

#[test]
fn d8_torn_and_foreign_lines_are_skipped() {
    let (_dir, journal) = journal();
    journal.append(&[session(1), session(2)]).unwrap();
    let mut bytes = fs::read(&journal.current).unwrap();
    bytes.truncate(bytes.len() - 40);
    bytes.splice(0..0, *b"\0\xff\xfe\n{\"id\": 7}\nnull\n");
    fs::write(&journal.current, bytes).unwrap();
    journal.append(&[session(3)]).unwrap();
    let loaded = journal.load().unwrap();
    assert_eq!(ids(&loaded), [session(1).id, session(3).id]);
    assert_eq!(loaded.skipped, [(journal.current.clone(), 4)]);
}

#[test]
fn d8_a_file_of_garbage_is_no_obstacle() {
    let (_dir, journal) = journal();
    let len = usize::try_from(2 * FILE_LEN_MAX).unwrap();
    fs::write(&journal.current, vec![0; len]).unwrap();
    let skipped = vec![(journal.current.clone(), 1)];
    assert_eq!(journal.load().unwrap(), Loaded { sessions: Vec::new(), skipped });
    journal.append(&[session(1)]).unwrap();
    assert_eq!(ids(&journal.load().unwrap()), [session(1).id]);
}

#[test]
fn two_files_keep_the_last_sessions_and_no_more_than_their_cap() {
    let (_dir, journal) = journal();
    for number in 0..1_500 {
        journal.append(&[long_session(number)]).unwrap();
    }
    for path in [&journal.current, &journal.old] {
        assert!(fs::metadata(path).unwrap().len() <= FILE_LEN_MAX);
    }
    let loaded = journal.load().unwrap();
    assert!((300..=SESSIONS_MAX).contains(&loaded.sessions.len()), "{}", loaded.sessions.len());
    assert_eq!(loaded.sessions.last().unwrap().id, session(1_499).id);
    assert_eq!(loaded.skipped, []);
}

#[test]
fn no_more_sessions_are_read_than_are_kept() {
    let (_dir, journal) = journal();
    let sessions: Vec<_> = (0..1_200).map(session).collect();
    journal.append(&sessions).unwrap();
    let loaded = journal.load().unwrap();
    assert_eq!(loaded.sessions, sessions[200..]);
}

#[test]
fn h18_machines_that_only_asked_do_not_take_the_place_of_others_when_they_are_read() {
    let (_dir, journal) = journal();
    let booted = |number| Session { reached: Phase::CalledBack, ..session(number) };
    let sessions: Vec<_> = (0..900).map(booted).chain((900..2_900).map(session)).collect();
    journal.append(&sessions).unwrap();
    let loaded = journal.load().unwrap();
    assert_eq!(loaded.sessions[..900], sessions[..900]);
    assert_eq!(loaded.sessions[900..], sessions[1_900..]);
}

#[test]
fn d15_what_is_no_plain_file_is_neither_read_nor_written() {
    let (dir, journal) = journal();
    let elsewhere = dir.path().join("elsewhere");
    symlink(&elsewhere, &journal.current).unwrap();
    assert!(journal.append(&[session(1)]).is_err());
    assert!(!elsewhere.exists());
    fs::remove_file(&journal.current).unwrap();
    nix::unistd::mkfifo(&journal.current, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let error = format!("{:#}", journal.load().unwrap_err());
    let named = format!("cannot read {}: it is no regular file", journal.path().display());
    assert!(error.starts_with(&named), "{error}");
    assert!(journal.append(&[session(1)]).is_err());
}
