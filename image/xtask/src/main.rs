//! The commands of the README: `cargo xtask demo`, `cargo xtask test`, and the benches.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what these commands print is their purpose"
)]

mod bench;
mod cargo;
mod demo;
mod dist;
mod gate;
mod guests;
mod interrupt;
mod languages;
mod packages;
mod sim;
mod story;

use std::process::ExitCode;

use anyhow::Result;
use argh::FromArgs;

/// The commands of the PureBoot workspace.
#[derive(FromArgs)]
struct Arguments {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Demo(demo::Demo),
    Dist(dist::Dist),
    Test(gate::Test),
    Advisories(gate::Advisories),
    Bench(bench::Bench),
    Guests(guests::Guests),
    Sim(sim::Sim),
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Demo(demo) => demo.run(),
        Command::Dist(dist) => dist.run(),
        Command::Test(test) => test.run(),
        Command::Advisories(advisories) => advisories.run(),
        Command::Bench(bench) => bench.run(),
        Command::Guests(guests) => guests.run(),
        Command::Sim(sim) => sim.run(),
    }
}

fn main() -> ExitCode {
    let arguments: Arguments = argh::from_env();
    run(arguments.command).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
