//! `cargo xtask bench …`: figures, side by side where there is a peer. Figures belong to the machine; ratios are what to compare.

mod boots;
mod budget;
mod controller;
mod drain;
mod flash;
mod fleet;
mod http;
mod idle;
mod load;
mod peers;
mod place;
mod policies;
mod proc;
mod tftp;

use std::process::ExitCode;

use anyhow::Result;
use argh::FromArgs;

use crate::cargo;

/// Measure the release build.
#[derive(FromArgs)]
#[argh(subcommand, name = "bench")]
pub(crate) struct Bench {
    #[argh(subcommand)]
    what: What,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum What {
    Tftp(tftp::Tftp),
    Http(http::Http),
    Controller(controller::Bench),
    Drain(drain::Drain),
    Idle(idle::Idle),
    Boots(boots::Boots),
    Policies(policies::Policies),
}

impl Bench {
    pub(crate) fn run(self) -> Result<ExitCode> {
        if cfg!(debug_assertions) {
            // The load client must not be what is measured: this program runs itself again, optimised.
            let mut release = cargo::command(&["run", "--quiet", "--locked", "--release"])?;
            release.args(["--package", "xtask", "--"]).args(std::env::args_os().skip(1));
            let status = release.status()?;
            return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        cargo::build("release")?;
        match self.what {
            What::Tftp(bench) => bench.run(),
            What::Http(bench) => bench.run(),
            What::Controller(bench) => bench.run(),
            What::Drain(bench) => bench.run(),
            What::Idle(bench) => bench.run(),
            What::Boots(bench) => bench.run(),
            What::Policies(bench) => bench.run(),
        }?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The middle one of some figures.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
