//! `pureboot-agent start`

use std::path::PathBuf;
use std::process::ExitCode;

use argh::FromArgs;

use crate::cage::rights::{Kept, become_owner};
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::{agent, log};

/// serve the site until SIGTERM or SIGINT
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "start")]
pub(super) struct Start {
    /// directory that holds all that the agent keeps (default: /var/lib/pureboot)
    #[argh(option, default = "super::default_data_dir()")]
    data_dir: PathBuf,
    /// do not limit what the agent can do, to find out whether that is what stands in the way
    #[argh(switch)]
    no_cage: bool,
}

impl Start {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        log::install()?;
        become_owner(&self.data_dir, Kept::ForBinding)?;
        let data_dir = DataDir::open(&self.data_dir)?;
        let mut config = Config::load(&data_dir)?;
        config.cage.enabled &= !self.no_cage;
        agent::run(config, data_dir, |listening| {
            // Whoever started the agent waits for this line; without a reader it serves all the same.
            _ = super::print(&format!("{listening}\n"));
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
