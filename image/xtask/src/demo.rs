//! `cargo xtask demo`: the main job on one machine.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use argh::FromArgs;

use crate::interrupt::Interrupt;
use crate::{cargo, story};

/// Show the main job on this machine: a controller, a site's agent, and a machine that is installed.
#[derive(FromArgs)]
#[argh(subcommand, name = "demo")]
pub(crate) struct Demo {
    /// end when the story is told, instead of staying up until Ctrl-C
    #[argh(switch)]
    once: bool,
}

impl Demo {
    pub(crate) fn run(self) -> Result<ExitCode> {
        println!("Building both programs (debug build: it is the faster one to make).");
        cargo::build("dev")?;
        let interrupt = Interrupt::catch()?;
        let mut site = story::tell(&interrupt)?;
        if self.once {
            return Ok(ExitCode::SUCCESS);
        }
        story::invite(&site)?;
        println!(
            "\nStaying up until Ctrl-C; everything under {} goes with it.",
            site.dir().display()
        );
        while !interrupt.wait(Duration::from_secs(1)) {
            anyhow::ensure!(site.agent.program()?.is_running()?, "the agent has ended");
            anyhow::ensure!(site.controller.program()?.is_running()?, "the controller has ended");
        }
        println!("\nEnding.");
        Ok(ExitCode::SUCCESS)
    }
}
