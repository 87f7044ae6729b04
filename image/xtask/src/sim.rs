//! `cargo xtask sim`: runs of the simulation, for people and for the gate.

use std::fmt::Display;
use std::io;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};

use anyhow::{Result, ensure};
use argh::FromArgs;
use pureboot_tests::process;
use tempfile::NamedTempFile;

use crate::cargo;

/// How many node-years are simulated in every gate.
const NODE_YEARS: u32 = 1_000;

/// How many in its long form.
const NODE_YEARS_LONG: u32 = 50_000;

/// Run agents, controller, network, clock and crashes in one process, by a seed. The same seed gives the same run; one that breaks a
/// promise is made smaller, and the command is printed that shows it again.
#[derive(FromArgs)]
#[argh(subcommand, name = "sim")]
pub(crate) struct Sim {
    /// the seed of the first run (default 1)
    #[argh(option)]
    seed: Option<u64>,

    /// how many seeds to run until one fails (default 1)
    #[argh(option)]
    seeds: Option<u64>,

    /// run as many seeds as make so many node-years: one machine for 365 days is one
    #[argh(option)]
    years: Option<f64>,

    /// print everything that happens; with one seed only
    #[argh(switch)]
    trace: bool,

    /// how many sites with an agent, in place of what the seed says
    #[argh(option)]
    agents: Option<usize>,

    /// how many machines each site has, in place of what the seed says
    #[argh(option)]
    machines: Option<usize>,

    /// how many days pass with faults, in place of what the seed says
    #[argh(option)]
    days: Option<u32>,

    /// the faults in place of those that the seed enables, with commas between; `none` for none
    #[argh(option)]
    faults: Option<String>,

    /// a bug to plant, to see it found
    #[argh(option)]
    planted: Option<String>,

    /// do not look for a smaller run where one fails
    #[argh(switch)]
    no_shrink: bool,
}

impl Sim {
    pub(crate) fn run(self) -> Result<ExitCode> {
        // With the package alone cargo would choose other features, and build the products anew.
        let build = ["build", "--locked", "--workspace", "--bin", "sim"];
        let built = cargo::command(&build)?.status()?;
        ensure!(built.success(), "cargo build ended with {built}");
        let mut command = Command::new(process::own("sim")?);
        let mut pass = |name: &str, value: Option<&dyn Display>| {
            if let Some(value) = value {
                command.arg(format!("--{name}")).arg(value.to_string());
            }
        };
        pass("seed", self.seed.as_ref().map(|it| it as _));
        pass("seeds", self.seeds.as_ref().map(|it| it as _));
        pass("years", self.years.as_ref().map(|it| it as _));
        pass("agents", self.agents.as_ref().map(|it| it as _));
        pass("machines", self.machines.as_ref().map(|it| it as _));
        pass("days", self.days.as_ref().map(|it| it as _));
        pass("faults", self.faults.as_ref().map(|it| it as _));
        pass("planted", self.planted.as_ref().map(|it| it as _));
        command.args(self.trace.then_some("--trace"));
        command.args(self.no_shrink.then_some("--no-shrink"));
        let status = command.status()?;
        Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// The gate's runs, by the program that was built with the workspace. They take what processor time the tests beside them leave, which often
/// wait.
pub(crate) struct Background {
    child: Child,
    told: NamedTempFile,
}

impl Background {
    /// # Errors
    /// The program was not built, or cannot be started.
    pub(crate) fn begin(is_long: bool) -> Result<Self> {
        let node_years = if is_long { NODE_YEARS_LONG } else { NODE_YEARS };
        let told = NamedTempFile::new()?;
        let mut command = process::system("nice")?;
        command.args(["-n", "19"]).arg(process::own("sim")?);
        command.arg("--years").arg(node_years.to_string()).stdin(Stdio::null());
        let output = told.reopen()?;
        command.stdout(output.try_clone()?).stderr(output);
        Ok(Self { child: command.spawn()?, told })
    }

    /// Waits for its end, and prints what it has told.
    ///
    /// # Errors
    /// Its output cannot be read.
    pub(crate) fn end(mut self) -> Result<ExitStatus> {
        let status = self.child.wait()?;
        io::copy(&mut self.told.reopen()?, &mut io::stdout())?;
        Ok(status)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It has ended, or nobody waits for it any more.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
