//! Makes one bundle, from standard input to standard output, within the limits that it sets itself; the arguments are engines.
#![expect(clippy::print_stderr, reason = "how it failed is told to whoever started it")]

use std::process::ExitCode;

use pureboot_plugin_author::made;

fn main() -> ExitCode {
    let engines: Vec<_> = std::env::args().skip(1).collect();
    match made::child(std::io::stdin().lock(), std::io::stdout().lock(), &engines) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
