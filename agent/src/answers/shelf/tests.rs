use pureboot_protocol::{BootId, TemplateKind};
use smol::future::block_on;

use super::super::sheet::tests::{sheet, texts};
use super::*;
use crate::store::tests::{at, close, mac, open};

const FILE: &str = "answers";

fn digest(byte: u8) -> ContentHash {
    ContentHash::from_digest([byte; 32])
}

fn file() -> FileName {
    FILE.parse().expect("a name")
}

fn grant(number: u8) -> Grant {
    let session = BootId::from_random([number; 16]);
    Grant { session, address: [192, 0, 2, number].into(), granted_at: at(0) }
}

fn asker(number: u8) -> Asker {
    let Grant { session, address, .. } = grant(number);
    Asker { session: Some(session), address, is_machine: false }
}

fn take(shelf: &Shelf, number: u8, seconds: i64, taken: bool) -> Result<(), Hidden> {
    let state = Some(Lifecycle::Installing);
    block_on(shelf.open(mac(1), file(), asker(number), state, at(seconds), taken)).expect("a disk")
}

#[test]
fn h23_who_had_a_file_is_known_after_a_sudden_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let shelf = Shelf::new(store.clone());
    block_on(shelf.grant(mac(1), grant(1))).expect("kept");
    assert_eq!(take(&shelf, 1, 10, false), Ok(()));
    assert_eq!(take(&shelf, 1, 10, true), Ok(()));
    drop(shelf);
    close(store);
    let shelf = Shelf::new(open(dir.path()));
    assert_eq!(take(&shelf, 1, 60, true), Ok(()), "a broken connection");
    assert_eq!(take(&shelf, 2, 60, true), Err(Hidden::OtherSession));
    assert_eq!(take(&shelf, 1, 131, true), Err(Hidden::GivenBefore(at(10))));
}

#[test]
fn h23_a_head_takes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let shelf = Shelf::new(open(dir.path()));
    block_on(shelf.grant(mac(1), grant(1))).expect("kept");
    assert_eq!(take(&shelf, 1, 0, false), Ok(()));
    assert_eq!(take(&shelf, 1, 1_000, true), Ok(()), "the head has not begun the time");
}

#[test]
fn h23_the_latest_session_that_was_given_an_installer_is_the_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let shelf = Shelf::new(open(dir.path()));
    block_on(shelf.grant(mac(1), grant(1))).expect("kept");
    assert_eq!(take(&shelf, 1, 10, true), Ok(()));
    block_on(shelf.grant(mac(1), grant(2))).expect("kept");
    assert_eq!(take(&shelf, 1, 11, true), Err(Hidden::OtherSession));
    assert_eq!(take(&shelf, 2, 500, true), Ok(()), "it has not had it");
    assert_eq!(block_on(shelf.granted(mac(1))).expect("a disk"), Some(grant(2)));
}

#[test]
fn a_sheet_is_kept_beside_its_texts_which_go_with_the_last_sheet_that_names_them() {
    let dir = tempfile::tempdir().expect("a directory");
    let shelf = Shelf::new(open(dir.path()));
    let templates = [("t", "one"), ("part", "shared")];
    let first = sheet(TemplateKind::Script, &templates, &["root"]);
    let put = |sheet: &AnswerSheet, had: &[(&str, &str)], digest| {
        block_on(shelf.put(sheet.clone(), digest, texts(had), at(0)))
    };
    put(&first, &templates, digest(1)).expect("kept");
    let second =
        AnswerSheet { mac_address: mac(2), ..sheet(TemplateKind::Script, &templates[1..], &[]) };
    put(&second, &[], digest(2)).expect("its text is here");
    let held = block_on(shelf.held(mac(1))).expect("a disk").expect("kept");
    assert_eq!((held.digest, held.secrets.as_ref()), (digest(1), Some(&first.secrets)));
    assert!(held.sheet.secrets.is_empty());
    assert_eq!(block_on(shelf.texts(&held.sheet)).expect("a disk"), texts(&templates));
    put(&sheet(TemplateKind::Script, &[("t", "two")], &[]), &[("t", "two")], digest(3))
        .expect("kept");
    assert_eq!(block_on(shelf.text_names()).expect("a disk").len(), 2, "'one' is gone");
    assert_eq!(block_on(shelf.texts(&second)).expect("a disk"), texts(&templates[1..]));
    assert_eq!(block_on(shelf.all()).expect("a disk").len(), 2);
}

#[test]
fn secrets_are_let_go_and_the_sheet_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let shelf = Shelf::new(open(dir.path()));
    let templates = [("t", "{{ secret.root }}")];
    let with = sheet(TemplateKind::Script, &templates, &["root"]);
    let without =
        AnswerSheet { mac_address: mac(2), ..sheet(TemplateKind::Script, &templates, &[]) };
    for sheet in [with, without] {
        block_on(shelf.put(sheet, digest(1), texts(&templates), at(0))).expect("kept");
    }
    block_on(shelf.let_secrets_go(BTreeSet::from([mac(1)]))).expect("a disk");
    let secrets = block_on(shelf.held(mac(1))).expect("a disk").expect("kept").secrets;
    assert!(secrets.is_some_and(|secrets| secrets.contains_key("root")), "it may be installed");
    block_on(shelf.let_secrets_go(BTreeSet::new())).expect("a disk");
    let held = |number| block_on(shelf.held(mac(number))).expect("a disk").expect("kept");
    assert_eq!(held(1).secrets, None);
    assert!(held(2).is_whole(), "there is nothing to let go");
}

#[test]
fn what_would_be_too_much_is_refused_and_what_was_there_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let shelf = Shelf::new(open(dir.path()));
    let templates = [("t", "one")];
    let small = sheet(TemplateKind::Script, &templates, &[]);
    block_on(shelf.put(small, digest(1), texts(&templates), at(0))).expect("kept");
    let body = "x".repeat(17 << 20);
    let templates = [("t", body.as_str())];
    let large = sheet(TemplateKind::Script, &templates, &[]);
    let refused = block_on(shelf.put(large, digest(2), texts(&templates), at(0)));
    assert!(matches!(refused, Err(StoreError::Full)), "{refused:?}");
    let held = block_on(shelf.held(mac(1))).expect("a disk").expect("kept");
    assert_eq!(held.digest, digest(1));
}
