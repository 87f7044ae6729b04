//! Reads the arguments, runs, and turns an error into exit code 1.

use std::process::ExitCode;

use pureboot_controller::config::{Arguments, Config};

fn main() -> ExitCode {
    let arguments: Arguments = argh::from_env();
    match Config::try_from(arguments).and_then(pureboot_controller::run) {
        Ok(()) => ExitCode::SUCCESS,
        #[expect(clippy::print_stderr, reason = "the one place that tells why the program ends")]
        Err(error) => {
            eprintln!("pureboot-controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}
