//! Compiles one component, from standard input to standard output, within the limits that it sets itself.
#![expect(clippy::print_stderr, reason = "how it failed is told to whoever started it")]

use std::process::ExitCode;

use pureboot_plugin_host::compile;

fn main() -> ExitCode {
    match compile::child(std::io::stdin().lock(), std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
