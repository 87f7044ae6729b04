//! What is kept, and what is written down when.

use super::super::live::cost;
use super::super::room::Share;
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

/// A machine by its number, and the id of its session.
fn machine(number: u32) -> (Who, BootId) {
    let [_, b, c, d] = number.to_be_bytes();
    let mac = Mac::from_bytes([0x52, 0x54, 0, b, c, d]).unwrap();
    let mut id = [0; 16];
    id[..4].copy_from_slice(&number.to_be_bytes());
    (Who { mac: Some(mac), ..Who::default() }, BootId::from_random(id))
}

/// A ring on which machines with consecutive addresses have acted.
fn crowd(machines: u32, act: impl Fn(&mut Sessions, Who, Moment, BootId)) -> Sessions {
    let mut sessions = Sessions::default();
    let start = crate::clock::monotonic();
    for number in 0..machines {
        let (who, id) = machine(number);
        let moment = Moment { at: Timestamp::from_unix_ms(0), now: start };
        act(&mut sessions, who, moment, id);
    }
    sessions
}

fn refused() -> What {
    What::Refused { xid: 1, port: 67, reason: "PC98".into() }
}

/// The machines with the numbers below 1,000 boot; then come others for some seconds, each with as many packets.
fn flood(others: u32, packets: u32, seconds: u64) -> Sessions {
    let mut sessions = crowd(1_000, |sessions, who, moment, id| {
        sessions.observe(&who, refused(), moment, || id);
        sessions.observe(&who, What::Script { answer: None }, moment, || id);
    });
    assert_eq!(booting(&sessions), SESSIONS_MAX);
    let start = crate::clock::monotonic() + Duration::from_secs(60);
    for number in 0..others {
        let elapsed = Duration::from_secs(seconds) * number / others;
        let moment = Moment { at: Timestamp::from_unix_ms(0), now: start + elapsed };
        for _ in 0..packets {
            let (who, id) = machine(1_000_000 + number);
            sessions.observe(&who, refused(), moment, || id);
        }
    }
    sessions
}

fn booting(sessions: &Sessions) -> usize {
    sessions.newest_first().filter(|(session, _)| session.reached == Phase::Script).count()
}

#[test]
fn h18_ten_thousand_made_up_machines_in_three_seconds_push_out_no_machine_that_boots() {
    for packets in [1, 3] {
        let mut sessions = flood(10_000, packets, 3);
        assert_eq!(booting(&sessions), SESSIONS_MAX);
        let taken_up = sessions.len() - SESSIONS_MAX;
        assert!((ASKING_MAX - 100..=ASKING_MAX).contains(&taken_up), "{taken_up}");
        // A machine that was seen to boot is heard at once when it boots again.
        let (who, id) = machine(7);
        let now = crate::clock::monotonic() + Duration::from_secs(120);
        let moment = Moment { at: Timestamp::from_unix_ms(0), now };
        let boot = BootId::from_random([0xff; 16]);
        assert_ne!(id, boot);
        let step = sessions.observe(&who, refused(), moment, || boot);
        assert_eq!(step.map(|step| step.session), Some(boot));
        assert_eq!(booting(&sessions), SESSIONS_MAX);
    }
}

#[test]
fn h18_of_machines_that_only_asked_those_of_a_single_packet_go_first() {
    let mut sessions = crowd(100, |sessions, who, moment, id| {
        sessions.observe(&who, refused(), moment, || id);
        sessions.observe(&who, refused(), moment, || id);
    });
    let start = crate::clock::monotonic();
    for number in 0..2_000 {
        let (who, id) = machine(1_000 + number);
        let now = start + Duration::from_secs(number.into());
        let moment = Moment { at: Timestamp::from_unix_ms(0), now };
        sessions.observe(&who, refused(), moment, || id);
    }
    assert_eq!(sessions.len(), ASKING_MAX);
    let asked_twice = |(session, _): &(&Session, u64)| session.steps.iter().any(|it| it.times > 1);
    assert_eq!(sessions.newest_first().filter(asked_twice).count(), 100);
}

#[test]
fn h18_a_single_packet_is_not_written_down_while_the_agent_runs() {
    let mut sessions = flood(500, 1, 1);
    let later = crate::clock::monotonic() + 2 * UNSAVED_MAX;
    assert_eq!(sessions.take_unsaved(later).len(), SESSIONS_MAX);
}

#[test]
fn what_is_counted_is_what_is_there() {
    let mut sessions = flood(3_000, 2, 1);
    for number in (0..1_000).step_by(3) {
        sessions.limit_machine(machine(number).0.mac.unwrap());
        sessions.forget(i64::from(number));
    }
    let (mut asking, mut proven) = (Share::default(), Share::default());
    for live in sessions.ring.values() {
        let is_asking = live.session.reached == Phase::Asking;
        let share = if is_asking { &mut asking } else { &mut proven };
        share.count += 1;
        share.bytes += cost(&live.session);
    }
    assert_eq!((sessions.room.asking, sessions.room.proven), (asking, proven));
}

#[test]
fn long_sessions_are_fewer() {
    let long = |reached: fn(&mut Sessions, &Who, Moment)| {
        crowd(1_000, move |sessions, who, moment, id| {
            sessions.observe(&who, refused(), moment, || id);
            reached(sessions, &who, moment);
            for number in 0..STEPS_MAX {
                let reason = format!("{number}{}", "x".repeat(4_000));
                let what = What::Refused { xid: 1, port: 67, reason: reason.into() };
                sessions.observe(&who, what, moment, || id);
            }
        })
    };
    let asking = long(|_, _, _| {});
    assert!(asking.room.asking.bytes <= ASKING_BYTES_MAX, "{:?}", asking.room);
    assert!((10..60).contains(&asking.len()), "{}", asking.len());
    let proven = long(|sessions, who, moment| {
        let script = What::Script { answer: None };
        sessions.observe(who, script, moment, || BootId::from_random([0; 16]));
    });
    assert!(proven.room.proven.bytes <= BYTES_MAX, "{:?}", proven.room);
    assert!((20..100).contains(&proven.len()), "{}", proven.len());
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

#[test]
fn a_session_is_told_when_it_has_come_to_rest_and_again_when_it_goes_on() {
    let mut bench = Bench::new();
    let mut told = Vec::new();
    bench.obey("0 dhcp A 1 loader");
    bench.obey("1000 ask A 5");
    bench.obey("1001 told install");
    for ms in (0..600_000).step_by(5_000) {
        if ms == 200_000 {
            bench.obey("200000 report #1 A install_started");
        }
        bench.now_ms = ms;
        told.extend(bench.sessions.take_untold(50, bench.moment().now).into_iter().map(|_| ms));
    }
    assert_eq!(told, [25_000, 220_000]);
}

#[test]
fn what_could_not_be_told_is_told_soon_and_no_more_than_is_wanted() {
    let mut sessions = flood(100, 2, 2);
    let later = crate::clock::monotonic() + 2 * UNTOLD_MAX;
    let told = sessions.take_untold(30, later);
    assert_eq!(told.len(), 30);
    sessions.put_back_untold(&told[20..], later);
    let rest: usize = (0..50).map(|_| sessions.take_untold(30, later).len()).sum();
    assert_eq!(20 + rest, sessions.len());
}

#[test]
fn of_an_earlier_run_what_is_not_old_is_told_again() {
    let mut bench = Bench::new();
    bench.obey("0 dhcp A 1 loader");
    bench.obey("1000 ask A 5");
    let kept = bench.sessions.take_all_unsaved();
    for (days, count) in [(6, 1), (8, 0)] {
        let moment = bench.moment();
        let at = moment.at.plus_seconds(days * 24 * 3_600);
        let mut sessions = Sessions::default();
        sessions.restore(kept.clone(), Moment { at, ..moment });
        assert_eq!(sessions.take_untold(50, moment.now).len(), count, "{days} days");
    }
}
