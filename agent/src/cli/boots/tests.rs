use expect_test::expect;

use super::*;
use crate::session::step::{Phase, Protocol, Role, Session, Transfer, What};

fn view() -> BootView {
    let transfer = Transfer::new(Protocol::Tftp, Role::Loader, "x\x1b[2J.efi", Some(9));
    let step =
        Step { number: 0, at_ms: 0, took_ms: None, times: 1, what: What::Transfer(transfer) };
    let session = Session {
        id: BootId::from_random([1; 16]),
        mac: "52:54:00:12:34:56".parse().ok(),
        address: None,
        started_at: Timestamp::from_unix_ms(0),
        reached: Phase::Asking,
        user_agents: Vec::new(),
        steps_folded: 0,
        steps: vec![step],
    };
    BootView::new(session, Some("web1".to_owned()), Timestamp::from_unix_ms(1))
}

/// The transfer of [`view`] has ended.
fn ended() -> BootView {
    let mut view = view();
    for step in &mut view.session.steps {
        if let What::Transfer(transfer) = &mut step.what {
            transfer.ending = Some(crate::session::step::Ending::Whole);
            transfer.sent_bytes = 9;
        }
        step.took_ms = Some(3);
    }
    view
}

#[test]
fn a_step_is_told_when_it_begins_and_when_it_is_over_and_not_again() {
    let mut told = Told::default();
    let looks = [view(), view(), ended(), ended()];
    let news: String = looks.iter().map(|view| told.news(view, false).unwrap()).collect();
    expect![[r#"
        52:54:00:12:34:56  web1  1970-01-01T00:00:00.000Z  0.000 s  under way
          +   0.000 s  TFTP: loader x?[2J.efi                                          9 B  under way
          +   0.000 s  TFTP: loader x?[2J.efi                                          9 B     0.003 s     3.0 kB/s
    "#]].assert_eq(&news);
}

#[test]
fn programs_get_one_line_for_each_step() {
    let mut told = Told::default();
    let news = told.news(&view(), true).unwrap() + &told.news(&view(), true).unwrap();
    let lines: Vec<serde_json::Value> =
        news.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    expect![[r#"[{"at_ms":0,"boot":"01010101-0101-4101-8101-010101010101","by":"tftp","ending":null,"hostname":"web1","mac":"52:54:00:12:34:56","name":"x\u001b[2J.efi","number":0,"outcome":{"state":"under_way"},"role":"loader","sent_bytes":0,"size_bytes":9,"started_at":"1970-01-01T00:00:00.000Z","step":"transfer","times":1,"took_ms":null}]"#]].assert_eq(&serde_json::to_string(&lines).unwrap());
}

#[test]
fn only_a_terminal_gets_what_only_a_terminal_understands() {
    assert!(!block(&view(), false).contains('\x1b'));
    assert!(block(&view(), true).starts_with("\x1b[1m52:54:00"));
}

#[test]
fn a_machine_without_a_session_does_not_mean_that_none_has_booted() {
    let mac = "52:54:00:12:34:56".parse().ok();
    let text = "52:54:00:12:34:56 is in none of the boot sessions that are kept\n";
    assert_eq!(nothing(mac), text);
    assert_eq!(nothing(None), "no machine has booted yet\n");
}

#[test]
fn a_number_of_sessions_that_cannot_be_is_named_with_those_that_can() {
    assert_eq!(parse_limit("1").map(NonZeroUsize::get), Ok(1));
    assert_eq!(parse_limit("2000").map(NonZeroUsize::get), Ok(2_000));
    for text in ["0", "2001", "-1", "ten", "99999999999999999999"] {
        let error = parse_limit(text).expect_err(text);
        let expected = format!("'{text}' is not a number of sessions: from 1 to 2000");
        assert!(error.starts_with(&expected), "{error}");
    }
}
