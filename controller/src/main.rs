//! Reads the arguments, runs, and turns an error into an exit code.

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use argh::{EarlyExit, FromArgs};
use pureboot_controller::config::{Arguments, Config, UsageError};

/// The arguments are wrong.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let given: Vec<_> = env::args_os().skip(1).collect();
    if let Some(compiled) = pureboot_controller::compile_child(&given) {
        return match compiled {
            Ok(()) => ExitCode::SUCCESS,
            // The parent hands this text on, so it has no name before it.
            Err(error) => {
                _ = writeln!(io::stderr(), "{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(exit) => return leave(&exit),
    };
    match Config::try_from(arguments).and_then(pureboot_controller::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            _ = writeln!(io::stderr(), "pureboot-controller: {error:#}");
            if error.is::<UsageError>() { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
        }
    }
}

fn arguments() -> Result<Arguments, EarlyExit> {
    let given = env::args_os().skip(1).map(OsString::into_string).collect::<Result<Vec<_>, _>>();
    let given =
        given.map_err(|text| EarlyExit::from(format!("{} is not UTF-8", text.display())))?;
    let given: Vec<_> = given.iter().map(String::as_str).collect();
    Arguments::from_args(&["pureboot-controller"], &given)
}

/// Shows the help that was asked for, or what is wrong with the arguments.
fn leave(exit: &EarlyExit) -> ExitCode {
    let text = exit.output.trim_end();
    // Whoever reads no further has what it wanted.
    match exit.status {
        Ok(()) => {
            _ = writeln!(io::stdout(), "{text}");
            ExitCode::SUCCESS
        }
        Err(()) => {
            _ = writeln!(io::stderr(), "{text}\n`pureboot-controller help` tells more.");
            ExitCode::from(USAGE)
        }
    }
}
