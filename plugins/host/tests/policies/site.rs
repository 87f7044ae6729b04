//! The policies of a site together: versions, failures, turns.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use pureboot_plugin_host::chain::{Mode, OnFailure, Outcome, Silence};
use pureboot_plugin_host::compile;
use pureboot_plugin_host::facts::{Action, Vars};
use pureboot_plugin_host::package::{Header, Hook, PluginId, SuccessionError};
use pureboot_plugin_host::plugin::{Failure, Plugin};
use pureboot_plugin_host::policies::{Assignment, Event, Policies, RollbackError, WAITING_MAX};

use crate::guest::{Anything, ENGINE, component, facts, header, load_code};

fn id(id: &str) -> PluginId {
    id.parse().unwrap()
}

fn version(case: &str, name: &str, version: &str) -> Plugin {
    let component = component("boot-policy", &format!("hostile/{case}"));
    let code = compile::compile(&ENGINE, &component).unwrap();
    let header = Header {
        id: id(name),
        version: version.parse().unwrap(),
        ..header(&component, &[Hook::Boot])
    };
    load_code(&header, &code, None).unwrap()
}

fn on(on_failure: OnFailure) -> Assignment {
    Assignment { mode: Mode::On, on_failure, settings: Vars::new() }
}

fn site() -> Policies {
    Policies::new(Box::new(|_, _, _| {}))
}

fn boot(site: &Policies) -> Option<Action> {
    smol::block_on(site.decide(&facts(), &Anything, far())).action
}

/// A deadline that no test waits for.
fn far() -> Instant {
    Instant::now() + Duration::from_secs(600)
}

/// Has no opinion, after some work.
const GOOD: &str = "p9-log-many";
const BAD: &str = "p5-unreachable";

#[test]
fn p14_a_policy_that_fails_three_times_is_set_aside_and_the_built_in_decision_stands() {
    let site = site();
    site.activate(version(BAD, "a", "1.0.0"), on(OnFailure::Builtin)).unwrap();
    for _ in 0..4 {
        assert_eq!(boot(&site), None);
    }
    let [Event::SetAside { id: aside, failure, .. }] = &site.take_events()[..] else {
        panic!("no event")
    };
    assert!(*aside == id("a") && failure.contains("unreachable"), "{failure}");
    let status = &site.status()[0];
    assert_eq!((status.counts.failures, status.counts.skipped), (3, 1));
    assert!(status.aside_for.is_some());
    let verdict = smol::block_on(site.decide(&facts(), &Anything, far()));
    assert_eq!(verdict.notes[0].outcome, Outcome::Silent(Silence::SetAside));
    assert!(site.reset(&id("a")));
    assert!(site.status()[0].aside_for.is_none());
}

#[test]
fn p14_a_new_version_that_fails_gives_way_to_the_one_before() {
    let site = site();
    site.activate(version(GOOD, "a", "1.0.0"), on(OnFailure::Hold)).unwrap();
    site.activate(version(BAD, "a", "1.1.0"), on(OnFailure::Hold)).unwrap();
    for _ in 0..3 {
        assert_eq!(boot(&site), Some(Action::Hold(30)));
    }
    let events = site.take_events();
    let back = Event::RolledBack {
        id: id("a"),
        from: "1.1.0".parse().unwrap(),
        to: "1.0.0".parse().unwrap(),
    };
    assert_eq!(events.last(), Some(&back));
    assert_eq!(boot(&site), None, "the earlier version has no opinion");
    assert_eq!(site.status()[0].version, "1.0.0".parse().unwrap());
}

#[test]
fn p11_an_older_version_does_not_displace_a_newer_one_but_a_roll_back_does() {
    let site = site();
    assert_eq!(site.roll_back(&id("a")), Err(RollbackError::Unknown(id("a"))));
    site.activate(version(GOOD, "a", "1.0.0"), on(OnFailure::Builtin)).unwrap();
    assert_eq!(site.roll_back(&id("a")), Err(RollbackError::First(id("a"))));
    site.activate(version("memory-of-calls", "a", "1.0.1"), on(OnFailure::Builtin)).unwrap();
    let older = site.activate(version(GOOD, "a", "1.0.0"), on(OnFailure::Builtin));
    assert!(matches!(older, Err(SuccessionError::Older { .. })));
    assert_eq!(site.roll_back(&id("a")), Ok("1.0.0".parse().unwrap()));
    assert_eq!(site.roll_back(&id("a")), Ok("1.0.1".parse().unwrap()), "and forward again");
}

#[test]
fn policies_are_asked_in_their_order_and_those_that_are_off_are_not() {
    let site = site();
    for name in ["a", "b", "c"] {
        site.activate(version(GOOD, name, "1.0.0"), on(OnFailure::Builtin)).unwrap();
    }
    site.arrange(&[id("c"), id("a")]);
    assert!(site.assign(&id("a"), Assignment { mode: Mode::Shadow, ..on(OnFailure::Builtin) }));
    assert!(!site.assign(&id("b"), Assignment::default()), "it is forgotten");
    let notes = || smol::block_on(site.decide(&facts(), &Anything, far())).notes;
    let told: Vec<_> = notes().iter().map(ToString::to_string).collect();
    assert_eq!(told, ["c: no opinion", "a: no opinion (shadow)"]);
    site.assign(&id("c"), Assignment { mode: Mode::Off, ..on(OnFailure::Builtin) });
    assert_eq!(notes().len(), 1);
}

#[test]
fn a_call_that_is_under_way_ends_on_the_version_that_it_began_with() {
    let site = site();
    site.activate(version("p1-loop", "a", "1.0.0"), on(OnFailure::Hold)).unwrap();
    let (facts, ground) = (facts(), Anything);
    let executor = smol::LocalExecutor::new();
    let call = executor.spawn(site.decide(&facts, &ground, far()));
    while site.status()[0].counts.failures == 0 && executor.try_tick() {
        if site.status()[0].version == "1.0.0".parse().unwrap() {
            site.activate(version(GOOD, "a", "2.0.0"), on(OnFailure::Hold)).unwrap();
        }
    }
    let verdict = smol::block_on(executor.run(call));
    assert_eq!(verdict.action, Some(Action::Hold(30)), "the old version ran into its end");
    let status = &site.status()[0];
    assert_eq!(
        (status.version, status.counts.failures),
        ("2.0.0".parse().unwrap(), 0),
        "and the new one is not blamed"
    );
}

#[test]
fn so_many_wait_for_a_policy_and_those_beyond_are_answered_at_once() {
    let site = site();
    site.activate(version("p9-log-flood", "a", "1.0.0"), on(OnFailure::Builtin)).unwrap();
    let (facts, ground) = (facts(), Anything);
    let executor = smol::LocalExecutor::new();
    let calls: Vec<_> = (0..WAITING_MAX + 10)
        .map(|_| executor.spawn(site.decide(&facts, &ground, far())))
        .collect();
    let verdicts = smol::block_on(executor.run(async {
        let mut verdicts = Vec::new();
        for call in calls {
            verdicts.push(call.await);
        }
        verdicts
    }));
    let is_busy = |outcome: &Outcome| *outcome == Outcome::Silent(Silence::Busy);
    let busy = verdicts
        .iter()
        .filter(|verdict| verdict.notes.iter().any(|note| is_busy(&note.outcome)))
        .count();
    // One has its turn, 64 wait; the policy is set aside meanwhile, so the others are not busy but skipped.
    assert!((9..=WAITING_MAX + 9).contains(&busy), "{busy} found it busy");
    assert_eq!(site.status()[0].counts.failures, 3);
}

#[test]
fn what_a_policy_logs_is_told_with_its_name() {
    let told = Rc::new(RefCell::new(Vec::new()));
    let sink = Rc::clone(&told);
    let site = Policies::new(Box::new(move |id, lines, dropped| {
        sink.borrow_mut().push((id.to_string(), lines.len(), dropped));
    }));
    site.activate(version(GOOD, "a", "1.0.0"), on(OnFailure::Builtin)).unwrap();
    boot(&site);
    assert_eq!(*told.borrow(), [("a".to_owned(), 32, 968)]);
}

#[test]
fn p1_a_policy_that_has_not_answered_when_its_time_is_up_has_failed() {
    let site = site();
    site.activate(version("p1-loop", "a", "1.0.0"), on(OnFailure::Hold)).unwrap();
    let verdict = smol::block_on(site.decide(&facts(), &Anything, Instant::now()));
    assert_eq!(verdict.action, Some(Action::Hold(30)));
    assert_eq!(verdict.notes[0].outcome, Outcome::Silent(Silence::Failed(Failure::Time)));
    assert_eq!(site.status()[0].counts.failures, 1);
}

#[test]
fn a_question_waits_for_its_turn_no_longer_than_it_has_time() {
    let site = site();
    site.activate(version("p1-loop", "a", "1.0.0"), on(OnFailure::Builtin)).unwrap();
    let (facts, ground) = (facts(), Anything);
    let mut first = std::pin::pin!(site.decide(&facts, &ground, far()));
    assert!(smol::block_on(smol::future::poll_once(first.as_mut())).is_none(), "it is a loop");
    let verdict = smol::block_on(site.decide(&facts, &ground, Instant::now()));
    assert_eq!(verdict.notes[0].outcome, Outcome::Silent(Silence::Busy));
}

#[test]
fn a_policy_that_was_set_aside_before_a_restart_still_is_and_the_next_failure_doubles_its_pause() {
    let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3_600));
    let site = site();
    site.activate(version(GOOD, "a", "1.0.0"), on(OnFailure::Builtin)).unwrap();
    assert!(site.set_aside(&id("a"), minute, hour));
    let status = &site.status()[0];
    assert!(status.aside_for.is_some_and(|rest| rest <= minute), "{:?}", status.aside_for);
    assert_eq!(status.pause, Some(hour));
    assert!(site.set_aside(&id("a"), Duration::ZERO, minute));
    assert_eq!(site.status()[0].aside_for, None, "a trial is due");
    boot(&site);
    assert_eq!(site.status()[0].pause, None);
    assert_eq!(site.take_events(), [Event::Back { id: id("a") }]);
}

#[test]
fn the_sites_own_list_may_name_an_older_version() {
    let site = site();
    site.activate(version(GOOD, "a", "2.0.0"), on(OnFailure::Builtin)).unwrap();
    assert!(site.activate(version(BAD, "a", "1.0.0"), on(OnFailure::Builtin)).is_err());
    site.replace(version(BAD, "a", "1.0.0"), on(OnFailure::Builtin));
    let status = &site.status()[0];
    let versions = (status.version.to_string(), status.previous.map(|version| version.to_string()));
    assert_eq!(versions, ("1.0.0".to_owned(), Some("2.0.0".to_owned())));
}
