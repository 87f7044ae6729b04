//! A program that says of itself that it is an agent, and behaves as badly as its own bytes say. Tests write version and manner
//! into a copy of it.

use std::hint::black_box;
use std::process::{ExitCode, abort};
use std::thread;

macro_rules! mark {
    ($target:literal) => {
        concat!("pureboot-agent release: 0.0.0 ", $target, ";                ")
    };
}

#[cfg(target_arch = "x86_64")]
static MARK: &str = mark!("x86_64");
#[cfg(target_arch = "aarch64")]
static MARK: &str = mark!("aarch64");

/// What it does, behind the colon.
static MANNER: &str = "manner of the stand-in: serves nobody;                    ";

fn main() -> ExitCode {
    let is_test = std::env::args().any(|argument| argument == "--self-test");
    let manner = black_box(MANNER).split_once(": ").map_or("", |(_, manner)| manner);
    let manner = manner.split_once(';').map_or("", |(manner, _)| manner);
    if black_box(MARK).is_empty() {
        return ExitCode::FAILURE;
    }
    match (manner, is_test) {
        ("fails its test", true) => {
            use std::io::Write as _;

            _ = writeln!(std::io::stderr(), "stand-in: nothing of this can work");
            ExitCode::FAILURE
        }
        ("hangs in its test", true) => loop {
            thread::park();
        },
        ("dies", false) => abort(),
        ("ends", false) => ExitCode::SUCCESS,
        ("hangs", false) => loop {
            thread::park();
        },
        _ => ExitCode::SUCCESS,
    }
}
