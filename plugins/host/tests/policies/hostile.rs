//! FAULTS §9: what policies do to the host, and what comes of it.

use std::pin::pin;
use std::time::Duration;

use pureboot_plugin_host::answer::BadAnswer;
use pureboot_plugin_host::facts::{CacheContext, CacheItem, Decision, Vars};
use pureboot_plugin_host::package::Hook;
use pureboot_plugin_host::plugin::{Called, FUEL, Failure, LoadError, Said};
use pureboot_plugin_host::state::LOG_LINES_MAX;

use crate::guest::{component, decide, load};

/// Far more than any call takes, even on a machine that does much else: what is meant is that it ends.
const END: Duration = Duration::from_secs(20);

fn called(case: &str) -> Called<Decision> {
    let plugin = load(&component("boot-policy", &format!("hostile/{case}")), &[Hook::Boot]);
    let called = decide(&plugin.unwrap());
    println!("{case}: {:?}", called.cost);
    assert!(called.cost.took < END, "{case} took {:?}", called.cost.took);
    called
}

fn failure(case: &str) -> Failure {
    called(case).said.expect_err(case)
}

fn refused_start(case: &str) -> Failure {
    match load(&component("boot-policy", &format!("hostile/{case}")), &[Hook::Boot]) {
        Err(LoadError::Start(failure)) => failure,
        Err(error) => panic!("{case}: {error}"),
        Ok(_) => panic!("{case} was loaded"),
    }
}

/// A trap whose text says this.
fn assert_trap(case: &str, what: &str) {
    match failure(case) {
        Failure::Trap(text) if text.contains(what) => {}
        other => panic!("{case}: {other:?} is not a trap with {what:?}"),
    }
}

#[test]
fn p1_an_endless_loop_ends_with_its_fuel() {
    let called = called("p1-loop");
    assert_eq!((called.said, called.cost.fuel), (Err(Failure::Fuel(FUEL)), FUEL));
}

#[test]
fn p1_an_endless_start_is_refused_when_it_is_installed() {
    assert_eq!(refused_start("p1-loop-in-start"), Failure::Fuel(FUEL));
}

#[test]
fn p1_others_have_their_turn_while_a_policy_loops() {
    // One turn for each 20,000 of 20 million fuel would be 1,000.
    for case in ["p1-loop", "p9-log-flood"] {
        let turns = turns_during(case);
        assert!(turns > 500, "{case}: another task had {turns} turns");
    }
}

/// How often another task of the same thread had its turn while this one used up its fuel.
fn turns_during(case: &str) -> u64 {
    let plugin =
        load(&component("boot-policy", &format!("hostile/{case}")), &[Hook::Boot]).unwrap();
    let turns = std::cell::Cell::new(0_u64);
    let executor = smol::LocalExecutor::new();
    let others = executor.spawn(async {
        loop {
            turns.set(turns.get() + 1);
            smol::future::yield_now().await;
        }
    });
    let (facts, vars) = (crate::guest::facts(), Vars::new());
    let call = plugin.decide(&facts, &vars, &crate::guest::Anything);
    let said = smol::block_on(executor.run(call)).unwrap().said;
    drop(others);
    assert_eq!(said, Err(Failure::Fuel(FUEL)));
    turns.get()
}

#[test]
fn a_call_that_nobody_waits_for_any_more_ends_with_its_instance() {
    let plugin = load(&component("boot-policy", "hostile/p1-loop"), &[Hook::Boot]).unwrap();
    let (facts, settings) = (crate::guest::facts(), Vars::new());
    for turns in 1..20 {
        let mut call = pin!(plugin.decide(&facts, &settings, &crate::guest::Anything));
        for _ in 0..turns {
            let first = smol::block_on(smol::future::poll_once(call.as_mut()));
            assert!(first.is_none(), "it is a loop");
        }
    }
    assert_eq!(decide(&plugin).said, Err(Failure::Fuel(FUEL)));
}

#[test]
fn p2_a_memory_bomb_gets_no_more_than_its_limit() {
    let called = called("p2-memory-bomb");
    assert_eq!(called.said, Err(Failure::Memory(16)));
    assert!(called.cost.memory <= 16 << 20, "{} bytes", called.cost.memory);
}

#[test]
fn p2_memory_beyond_the_limit_is_refused_before_it_is_taken() {
    assert_eq!(refused_start("p2-memory-declared"), Failure::Memory(16));
    assert_eq!(refused_start("p2-many-memories"), Failure::Memory(16));
}

#[test]
fn p3_endless_recursion_ends_with_the_stack() {
    assert_eq!(failure("p3-recursion"), Failure::Stack);
}

#[test]
fn p4_instructions_that_move_much_cost_much() {
    for case in ["p4-memory-fill", "p4-table-fill"] {
        assert_eq!(failure(case), Failure::Fuel(FUEL), "{case}");
    }
    assert_eq!(failure("p4-table-bomb"), Failure::Memory(16));
}

#[test]
fn p5_a_trap_ends_the_call_and_nothing_else() {
    assert_trap("p5-unreachable", "unreachable");
    assert_trap("p5-division", "divide by zero");
    assert_trap("p5-out-of-bounds", "out of bounds");
}

#[test]
fn p6_an_answer_that_is_no_value_of_the_contract_is_a_failure() {
    assert_trap("p6-pointer", "");
    assert_trap("p6-variant", "discriminant");
    assert_trap("p6-four-gib", "out of bounds");
    assert_trap("p6-not-utf8", "utf-8");
}

#[test]
fn p6_an_answer_that_is_too_large_is_not_copied() {
    assert_eq!(failure("p6-megabyte"), Failure::Size);
    assert_eq!(failure("p6-aliases"), Failure::Size);
}

#[test]
fn p6_a_text_with_a_second_line_is_a_bad_answer() {
    assert_eq!(failure("p6-two-lines"), Failure::Answer(BadAnswer::Line("refusal")));
}

#[test]
fn p9_a_flood_of_log_lines_is_cut_and_paid_for() {
    let flood = called("p9-log-flood");
    assert_eq!(flood.said, Err(Failure::Fuel(FUEL)));
    assert_eq!(flood.log.lines.len(), LOG_LINES_MAX);
    assert!((1_000..20_000).contains(&flood.log.dropped), "{} dropped", flood.log.dropped);
    let many = called("p9-log-many");
    assert_eq!(many.said, Ok(Said::Answer(Decision::default())));
    assert_eq!(many.log.dropped, 1_000 - 32);
}

#[test]
fn p12_a_policy_that_drops_everything_drops_nothing_that_is_required() {
    let policy = component("cache-policy", "hostile/p12-drop-everything");
    let plugin = load(&policy, &[Hook::Cache]).unwrap();
    let item = |key: &str, required| {
        let key = key.parse().unwrap();
        CacheItem { key, size_kib: None, required, assigned: false, hits: 0, idle: None }
    };
    let judge = |items: &[CacheItem]| {
        let (context, settings) = (CacheContext::default(), Vars::new());
        smol::block_on(plugin.judge(&context, &settings, items)).unwrap().said
    };
    let required = item("bootloaders/ipxe.efi", true);
    let judged = judge(&[item("images/old", false), required.clone()]);
    assert_eq!(judged, Err(Failure::Answer(BadAnswer::Required(required.key))));
    let Ok(Said::Answer(verdicts)) = judge(&[item("images/old", false)]) else {
        panic!("no verdict")
    };
    assert!(!verdicts[0].unwrap().store);
    assert_eq!(judge(&vec![item("images/old", false); 257]), Err(Failure::Items(257)));
}

#[test]
fn no_call_finds_what_another_one_left() {
    let plugin = load(&component("boot-policy", "hostile/memory-of-calls"), &[Hook::Boot]).unwrap();
    let first = decide(&plugin);
    assert_eq!(first.said, Ok(Said::Answer(Decision::default())));
    assert_eq!(decide(&plugin).said, first.said);
}

#[test]
fn the_same_call_burns_the_same_fuel_twice() {
    for case in ["p9-log-many", "p2-memory-bomb", "p3-recursion", "p6-aliases"] {
        assert_eq!(called(case).cost.fuel, called(case).cost.fuel, "{case}");
    }
}
