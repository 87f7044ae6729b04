//! What is kept, and what is written down when.

use super::*;

#[test]
fn steps_beyond_the_cap_are_folded_in_the_middle() {
    let mut bench = Bench::new();
    bench.obey("0 ask A 5");
    for number in 0..200 {
        bench.obey(&format!("{} http #1 images/{number} whole 1", 10 + number));
    }
    let session = &bench.sessions.ring.values().next().unwrap().session;
    assert_eq!(session.steps.len(), STEPS_MAX);
    assert_eq!(session.steps_folded as usize, 201 - STEPS_MAX);
    assert_eq!(session.steps[0].number, 0);
    assert_eq!(session.steps[STEPS_MAX - 1].number, 200);
    let told = bench.tell();
    assert!(told.contains(&format!("…  {} more steps", 201 - STEPS_MAX)), "{told}");
}

/// A ring on which machines with consecutive addresses have acted.
fn crowd(machines: u32, act: impl Fn(&mut Sessions, Who, Moment, BootId)) -> Sessions {
    let mut sessions = Sessions::default();
    let start = crate::clock::monotonic();
    for number in 0..machines {
        let [_, b, c, d] = number.to_be_bytes();
        let mac = Mac::from_bytes([0x52, 0x54, 0, b, c, d]).unwrap();
        let mut id = [0; 16];
        id[..4].copy_from_slice(&number.to_be_bytes());
        let moment = Moment { at: Timestamp::from_unix_ms(0), now: start };
        let who = Who { mac: Some(mac), ..Who::default() };
        act(&mut sessions, who, moment, BootId::from_random(id));
    }
    sessions
}

#[test]
fn h18_made_up_machines_do_not_push_out_those_that_boot() {
    let asks = |sessions: &mut Sessions, who: Who, moment, id| {
        let what = if who.mac.unwrap().as_bytes()[4] < 2 {
            What::Script { answer: None }
        } else {
            What::Refused { xid: 1, port: 67, reason: "PC98".into() }
        };
        sessions.observe(&who, what, moment, || id);
    };
    let sessions = crowd(4_000, asks);
    assert_eq!(sessions.len(), SESSIONS_MAX);
    let booting = sessions.newest_first().filter(|(session, _)| session.reached == Phase::Script);
    assert_eq!(booting.count(), 500, "of 512, the oldest made room while few were made up");
    assert_eq!(sessions.machines.len(), SESSIONS_MAX);
}

#[test]
fn long_sessions_are_fewer() {
    let sessions = crowd(1_000, |sessions, who, moment, id| {
        for number in 0..STEPS_MAX {
            let name = format!("{number}{}", "x".repeat(4_000));
            let what = What::Missing { by: Protocol::Tftp, name: name.into() };
            sessions.observe(&who, what, moment, || id);
        }
    });
    assert!(sessions.bytes <= BYTES_MAX, "{}", sessions.bytes);
    assert!(sessions.len() < 100, "{}", sessions.len());
    let counted: usize = sessions.ring.values().map(|live| cost(&live.session)).sum();
    assert_eq!(sessions.bytes, counted);
}

#[test]
fn one_machine_does_not_push_out_the_others() {
    let mut bench = Bench::new();
    bench.obey("0 ask B 6");
    for number in 0..150 {
        bench.obey(&format!("{} ask A 5", 1_000 + number));
    }
    assert_eq!(bench.sessions.len(), 1 + SESSIONS_PER_MACHINE_MAX);
}

#[test]
fn a_boot_is_written_down_once_when_it_has_come_to_rest() {
    let mut bench = Bench::new();
    let mut written = Vec::new();
    bench.obey("0 dhcp A 1 loader");
    bench.obey("1000 ask A 5");
    bench.obey("1001 told disk");
    for ms in (0..3_600_000).step_by(30_000) {
        bench.now_ms = ms;
        written.extend(bench.sessions.take_unsaved(bench.moment().now).into_iter().map(|_| ms));
    }
    assert_eq!(written, [30_000]);
}

#[test]
fn an_installer_that_reports_all_the_time_costs_a_write_in_five_minutes() {
    let mut bench = Bench::new();
    bench.obey("0 ask A 5");
    let mut written = 0;
    for second in (30..3_600).step_by(30) {
        bench.obey(&format!("{}000 report #1 A install_progress", second - 25));
        bench.now_ms = second * 1_000;
        written += bench.sessions.take_unsaved(bench.moment().now).len();
    }
    assert!((11..=13).contains(&written), "{written}");
}

#[test]
fn what_could_not_be_written_is_written_later() {
    let mut bench = Bench::new();
    bench.obey("0 ask A 5");
    let lost = bench.sessions.take_all_unsaved();
    assert_eq!(bench.sessions.take_all_unsaved(), []);
    bench.sessions.put_back_unsaved(&lost, bench.moment().now);
    assert_eq!(bench.sessions.take_all_unsaved(), lost);
}
