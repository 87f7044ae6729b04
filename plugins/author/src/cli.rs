//! The author's commands: `plugin new`, `build`, `check`, `test`, `run`, `pack` and `inspect`. The agent's program puts them beside
//! its own; those that compile say so where the program was built without the compiler.

mod build;
mod inspect;
mod language;
pub mod local;
mod new;
mod pack;
mod source;
mod trial;

use std::io::Write;
use std::process::ExitCode;

pub use build::Build;
pub use inspect::Inspect;
pub use new::New;
pub use pack::Pack;
pub use trial::{Check, Run, Test};

/// The contract, as projects have it.
const WIT: &str = include_str!("../../wit/since-0.1/policy.wit");

/// What a command says where this program cannot compile.
#[cfg(not(feature = "compile"))]
const NO_COMPILER: &str = "this program was built without the compiler for plugins, as those for routers are: use one that was built with \
    `cargo build --release -p pureboot-agent --features compile`, or upload the plugin with `pureboot-controller plugin add`, \
    which compiles and tests it";

/// Writes `text` to standard output. A reader that has left is no failure.
fn print(text: &str) -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    ExitCode::SUCCESS
}

/// A number of bytes, for people.
fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        10_000..10_000_000 => format!("{} kB", bytes / 1_000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}

/// Words in a row; a dash for none.
fn listed<T: ToString>(words: impl IntoIterator<Item = T>) -> String {
    let words: Vec<_> = words.into_iter().map(|word| word.to_string()).collect();
    if words.is_empty() { "-".to_owned() } else { words.join(", ") }
}
