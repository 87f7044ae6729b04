//! `pureboot-agent`

use std::process::ExitCode;

fn main() -> ExitCode {
    pureboot_agent::cli::run()
}
