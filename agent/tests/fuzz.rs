//! The fuzz targets of `agent/fuzz` in every run: their corpus, and mutations of it that a seed determines.
//!
//! `PUREBOOT_FUZZ_SEED` plays other mutations, `PUREBOOT_FUZZ_RUNS` more of them.

#![expect(clippy::indexing_slicing, reason = "a mistake in the test fails the test")]

#[path = "../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "what a library shows is private to this program")]
mod targets;

use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;

use pureboot_agent::rng::Rng;

const SEED: u64 = 1;
const LEN_MAX: usize = 2_048;

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = fs::read_dir(&dir).expect("a corpus");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a file")).collect()
}

fn below(rng: &mut Rng, bound: usize) -> usize {
    let bound = u64::try_from(bound.max(1)).expect("a small number");
    usize::try_from(rng.next_u64() % bound).expect("below a small number")
}

/// Changes some bytes: replaced, flipped, cut out, repeated, taken from another input, or cut off.
fn mutate(input: &mut Vec<u8>, others: &[Vec<u8>], rng: &mut Rng) {
    const VALUES: [u8; 12] = [0, 1, 3, 8, 0x0a, 0x0d, 0x20, 0x7f, 0x80, 0xfe, 0xff, b'/'];
    for _ in 0..=below(rng, 4) {
        let at = below(rng, input.len() + 1);
        let len = below(rng, 9).min(input.len() - at);
        match below(rng, 7) {
            0 => input.truncate(at),
            1 => drop(input.drain(at..at + len)),
            2 => {
                let part = input[at..at + len].to_vec();
                input.splice(at..at, part.iter().cycle().take(len * 40).copied());
            }
            3 => {
                let other = &others[below(rng, others.len())];
                let from = below(rng, other.len() + 1);
                let until = from + below(rng, other.len() - from + 1);
                input.splice(at..at + len, other[from..until].iter().copied());
            }
            4 => input.insert(at, VALUES[below(rng, VALUES.len())]),
            5 if at < input.len() => input[at] ^= 1 << below(rng, 8),
            _ if at < input.len() => input[at] = VALUES[below(rng, VALUES.len())],
            _ => {}
        }
        input.truncate(LEN_MAX);
    }
}

fn play(target: &str, runs: u64, check: fn(&[u8])) {
    let (corpus, seed) = (corpus(target), variable("PUREBOOT_FUZZ_SEED", SEED));
    let mut rng = Rng::from_seed(seed);
    let run = |input: &[u8]| {
        if panic::catch_unwind(AssertUnwindSafe(|| check(input))).is_err() {
            let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
            panic!("{target} does not hold for {hex} (seed {seed})");
        }
    };
    corpus.iter().for_each(|input| run(input));
    for _ in 0..variable("PUREBOOT_FUZZ_RUNS", runs) {
        let mut input = corpus[below(&mut rng, corpus.len())].clone();
        mutate(&mut input, &corpus, &mut rng);
        run(&input);
    }
}

#[test]
fn f11_any_dhcp_packet_is_answered_rightly_or_not_at_all() {
    play("dhcp_packet", 20_000, targets::dhcp_packet::check);
}

#[test]
fn h11_any_bytes_on_a_connection_are_answered_in_whole_answers() {
    play("http_head", 10_000, targets::http_head::check);
}

#[test]
fn f12_any_tftp_packet_is_read_as_it_is_written() {
    play("tftp_packet", 50_000, targets::tftp_packet::check);
}

#[test]
fn any_question_for_a_script_is_read_or_refused() {
    play("boot_request", 50_000, targets::boot_request::check);
}
