//! A program that says of itself that it is an agent, and behaves as badly as its own bytes say. Tests write version and manner
//! into a copy of it.

use std::hint::black_box;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, abort};
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
    match (manner, is_test) {
        ("becomes an agent", _) => become_agent(),
        ("fails its test", true) => {
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

/// Goes on as the real agent of the version that this says it is: large, and so never on its way.
fn become_agent() -> ExitCode {
    let mut words = black_box(MARK).split(' ');
    let version = words.nth(2).unwrap_or_default();
    let dir = std::env::var_os("PUREBOOT_TESTS_AGENTS").map(PathBuf::from).unwrap_or_default();
    let agent = dir.join(format!("pureboot-agent-{version}"));
    let error = Command::new(&agent).args(std::env::args_os().skip(1)).exec();
    _ = writeln!(std::io::stderr(), "stand-in: cannot become {}: {error}", agent.display());
    ExitCode::FAILURE
}
