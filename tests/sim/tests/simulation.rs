//! The simulation of itself: that it is one, and that it would notice if the product did not hold. That the product does hold is a
//! step of the gate of its own, `cargo xtask sim --years N`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use pureboot_protocol::{ChangeBatch, ChangeReceipt, Outcome};
use pureboot_sim::faults::{Fault, Planted};
use pureboot_sim::oracle::{Invariant, Oracle, Stop, Wish};
use pureboot_sim::scenario::{self, Options};
use pureboot_sim::shrink;
use pureboot_sim::swarm::{self, Amount};
use serde_json::json;

/// A planted bug has to show within so many seeds.
const SEEDS_MAX: u64 = 12;

#[test]
fn the_same_seed_gives_the_same_trace_byte_for_byte() {
    let faults = Fault::ALL.iter().copied().collect();
    for options in [
        Options { days: 30, machines: 4, faults, ..Options::of(1) },
        Options { days: 60, machines: 4, ..Options::of(2) },
    ] {
        let [one, other] = [&options; 2].map(|options| scenario::run(options).unwrap());
        assert!(one.tally.faults > 5 && one.tally.changes > 5, "{:?}", one.tally);
        let (one, other) = (one.trace, other.trace);
        let differ = one.lines().zip(other.lines()).find(|(one, other)| one != other);
        assert!(one == other, "seed {}: {differ:?}", options.seed);
    }
}

#[test]
fn another_seed_gives_another_trace() {
    let [one, other] = [1, 2].map(|seed| {
        let faults = Default::default();
        let options = Options { days: 30, sites: 1, machines: 2, seed, faults, planted: None };
        scenario::run(&options).unwrap().trace
    });
    assert_ne!(one.lines().nth(2), other.lines().nth(2));
}

/// With which seed a planted bug shows, and what it breaks.
fn find(bug: Planted) -> Result<(u64, Invariant), String> {
    for seed in 1..=SEEDS_MAX {
        let options = Options::with_bug(seed, bug);
        let broken = scenario::run(&options).expect("the simulation runs").violation;
        let Some(violation) = broken else { continue };
        let without = Options { planted: None, ..options };
        return match scenario::run(&without).expect("the simulation runs").violation {
            None => Ok((seed, violation.invariant)),
            Some(other) => Err(format!("{bug}: seed {seed} breaks without it, too: {other}")),
        };
    }
    Err(format!("{bug} is not found within {SEEDS_MAX} seeds"))
}

#[test]
fn each_planted_bug_is_found_and_nothing_is_where_there_is_none() {
    assert!(Planted::ALL.len() >= 10);
    let todo = Mutex::new(Planted::ALL.iter().copied());
    let work = || {
        let next = || todo.lock().unwrap().next();
        std::iter::from_fn(next).map(|bug| (bug, find(bug))).collect::<Vec<_>>()
    };
    let found: Vec<_> = std::thread::scope(|scope| {
        let threads = [0, 1].map(|_| scope.spawn(work));
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    for (bug, found) in &found {
        match found {
            Ok((seed, invariant)) => println!("{bug}: {invariant}, after {seed} seeds"),
            Err(error) => println!("{error}"),
        }
    }
    assert!(found.iter().all(|(_, found)| found.is_ok()), "{found:#?}");
}

#[test]
fn d8_n12_a_report_is_excused_where_each_disk_that_had_it_is_gone_and_nowhere_else() {
    let (damaged, other) = (0, 1);
    let mut oracle = Oracle::default();
    let take = |oracle: &mut Oracle, machine| {
        let number = oracle.begin(machine);
        oracle.tell(number);
        oracle.reports.get_mut(&number).unwrap().outcomes.push(Outcome::Applied);
        number
    };
    let in_backup = take(&mut oracle, damaged);
    let backup = oracle.clone();
    let after_backup = take(&mut oracle, damaged);
    let elsewhere = take(&mut oracle, other);
    let never_taken = oracle.begin(damaged);
    let is_excused = |oracle: &Oracle| {
        [in_backup, after_backup, elsewhere, never_taken]
            .map(|number| oracle.reports[&number].is_excused)
    };
    let mut first = oracle.clone();
    first.restore(&backup);
    assert_eq!(is_excused(&first), [false; 4], "its agent has it still");
    oracle.damage(|machine| machine == damaged, 0);
    assert_eq!(is_excused(&oracle), [false, false, false, true], "the controller has it still");
    oracle.restore(&backup);
    assert_eq!(is_excused(&oracle), [false, true, false, true]);
}

/// A batch of one wish for `install_failed` by a site that has seen version 12 of the node, and the receipt of a controller that has
/// made version 15 of it without a word.
fn a_silent_wish() -> (ChangeBatch, ChangeReceipt) {
    let (epoch, id) = ("a".repeat(32), "b".repeat(32));
    let batch = json!({
        "nonce": id, "epoch": epoch, "first_seq": 1,
        "items": [{
            "seq": 1, "id": id, "node": "110fef7c-13a6-4793-ac3c-7c4904d9c6d8", "base_version": 12,
            "at": "2026-11-21T00:00:00.000Z", "clock": "synced", "kind": "state_change",
            "payload": {"state": "install_failed", "autonomy": "full"},
        }],
    });
    let receipt = json!({
        "nonce": id, "epoch": epoch, "acked_through": 1, "hash": "0".repeat(64),
        "results": [{"id": id, "outcome": "applied", "node_version": 15}],
    });
    let batch = serde_json::from_value(batch).expect("the batch is one");
    (batch, serde_json::from_value(receipt).expect("the receipt is one"))
}

#[test]
fn a_wish_that_finds_what_it_wishes_for_overwrites_nobody_wherever_it_stands_in_its_batch() {
    let (batch, receipt) = a_silent_wish();
    let judge = |decided: Option<(u64, &str)>, moved_in: u64| {
        let (machine, site) = (4, 1);
        let mut oracle = Oracle::default();
        oracle.wishes.insert(batch.items[0].id.to_string(), Wish::new(machine, site, 12));
        if let Some((version, state)) = decided {
            oracle.decide(machine, version, state);
        }
        assert_eq!(oracle.silently_moved(&batch, &receipt), BTreeSet::from([machine]));
        let moves = BTreeMap::from([(machine, BTreeSet::from([13, moved_in]))]);
        match oracle.take(site, &batch, &receipt, &moves) {
            Ok(()) => None,
            Err(Stop::Violated(violation)) => Some(violation.invariant),
            Err(Stop::Broken(error)) => panic!("{error:#}"),
        }
    };
    // A report before it in its batch has brought the node there, in version 14.
    assert_eq!(judge(Some((13, "installing")), 14), None);
    assert_eq!(judge(Some((13, "installing")), 15), Some(Invariant::NoSilentOverwrite));
    assert_eq!(judge(Some((13, "install_failed")), 15), None, "both wish the same");
    assert_eq!(judge(Some((12, "installing")), 15), None, "the site had seen it");
    assert_eq!(judge(None, 15), None);
}

#[test]
fn a_run_that_breaks_something_is_made_smaller_and_can_be_seen_again() {
    let options = Options { days: 60, ..Options::with_bug(1, Planted::CredentialIgnored) };
    let failed = swarm::run(1, Amount::Seeds(1), |_| options.clone(), |_| {}).unwrap_err();
    assert!(failed.tell().contains("cargo xtask sim --seed 1 --agents 2 "), "{}", failed.tell());
    let smallest = shrink::shrink(&failed.options).unwrap().expect("the bug shows");
    assert!(smallest.options.node_years() < options.node_years() / 2.0, "{smallest:?}");
    let again = scenario::run(&smallest.options).unwrap();
    assert_eq!(again.violation.as_ref(), Some(&smallest.violation));
    assert_eq!(again.trace, smallest.trace);
    let told = swarm::explain(Some(smallest));
    assert!(told.contains("cargo xtask sim --seed 1 "), "{told}");
    assert!(told.contains("--planted credential-ignored --trace"), "{told}");
}

#[test]
fn a_swarm_runs_as_many_seeds_as_make_the_node_years() {
    let make = |seed| Options { days: 20, sites: 1, machines: 2, ..Options::of(seed) };
    let of_one = make(1).node_years();
    let seeds = Mutex::new(Vec::new());
    let tell = |finished: &swarm::Finished| seeds.lock().unwrap().push(finished.options.seed);
    let sum = swarm::run(7, Amount::NodeYears(of_one * 2.5), make, tell).unwrap();
    let mut seeds = seeds.into_inner().unwrap();
    seeds.sort_unstable();
    assert_eq!((sum.runs, seeds), (3, vec![7, 8, 9]));
    assert!((sum.node_years - of_one * 3.0).abs() < 1e-9, "{sum:?}");
    assert!(sum.tally.scripts > 0, "{sum:?}");
}
