use std::net::IpAddr;

use super::*;
use crate::clock;
use crate::session::recorder::Recorder;

fn mac(number: u8) -> Mac {
    Mac::from_bytes([0x52, 0x54, 0, 0, 0, number]).unwrap()
}

/// Machines from 0 have asked what to boot, one after the other.
fn recorder(machines: u8) -> Recorder {
    let recorder = Recorder::default();
    for number in 0..machines {
        ask(&recorder, number);
    }
    recorder
}

fn ask(recorder: &Recorder, number: u8) {
    let address = IpAddr::from([10, 0, 0, number]);
    recorder.begin_script(mac(number), None, Some(address));
}

fn get(recorder: &Recorder, query: &str) -> Result<BootsPage, Vec<FieldError>> {
    let uri = format!("/api/v1/agent/boots?{query}").parse().unwrap();
    let query = Query::parse(&Target::parse(&uri).unwrap())?;
    let name_of = |of| (of == mac(3)).then(|| "web3".to_owned());
    Ok(page(recorder, name_of, &query, clock::now()))
}

fn machines(page: &BootsPage) -> Vec<Mac> {
    page.data.iter().filter_map(|view| view.session.mac).collect()
}

#[test]
fn the_newest_come_first_and_pages_lead_to_the_rest() {
    let recorder = recorder(5);
    let first = get(&recorder, "limit=2").unwrap();
    assert_eq!((machines(&first), first.total), (vec![mac(4), mac(3)], 5));
    assert_eq!(first.data[1].hostname.as_deref(), Some("web3"));
    let second = get(&recorder, &format!("limit=9&cursor={}", first.next_cursor.unwrap())).unwrap();
    assert_eq!(machines(&second), [mac(2), mac(1), mac(0)]);
    assert_eq!(second.next_cursor, None);
    assert_eq!(machines(&get(&recorder, "").unwrap()).len(), 5);
}

#[test]
fn one_machine_can_be_asked_for_in_any_form() {
    let recorder = recorder(3);
    assert_eq!(machines(&get(&recorder, "mac=52-54-00-00-00-01").unwrap()), [mac(1)]);
    assert_eq!(get(&recorder, "mac=52:54:00:00:00:99").unwrap().total, 0);
}

#[test]
fn only_what_has_changed_since_is_told() {
    let recorder = recorder(3);
    let revision = get(&recorder, "").unwrap().revision;
    assert_eq!(get(&recorder, &format!("since={revision}")).unwrap().data, []);
    ask(&recorder, 7);
    assert_eq!(machines(&get(&recorder, &format!("since={revision}")).unwrap()), [mac(7)]);
    let of_an_earlier_run = format!("since={}", revision + 1_000);
    assert_eq!(get(&recorder, &of_an_earlier_run).unwrap().total, 4);
}

#[test]
fn a_page_fits_into_an_answer() {
    let recorder = Recorder::default();
    for number in 0..=255 {
        let address = IpAddr::from([10, 0, 0, number]);
        for file in 0..60 {
            let name = format!("{file}{}", "x".repeat(200));
            let by = crate::session::step::Protocol::Tftp;
            recorder.note_missing(None, address, by, &name);
        }
    }
    let page = get(&recorder, "limit=500").unwrap();
    let bytes = serde_json::to_vec(&page).unwrap().len();
    assert!(bytes < crate::exchange::ANSWER_LEN_MAX, "{bytes}");
    assert!(page.next_cursor.is_some());
}

#[test]
fn a_question_that_is_not_understood_is_told_which_word() {
    let recorder = recorder(1);
    for (query, field) in [
        ("mac=me", "mac"),
        ("limit=0", "limit"),
        ("limit=-1", "limit"),
        ("cursor=7", "cursor"),
        ("since=yesterday", "since"),
    ] {
        let errors = get(&recorder, query).expect_err(query);
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].field, field);
    }
}

#[test]
fn a_view_survives_its_json() {
    let page = get(&recorder(2), "").unwrap();
    let json = serde_json::to_string(&page).unwrap();
    assert_eq!(serde_json::from_str::<BootsPage>(&json).unwrap(), page);
}
