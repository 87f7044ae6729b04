//! `pureboot-agent start`

use std::path::PathBuf;
use std::process::ExitCode;

use argh::FromArgs;

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
}

impl Start {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        log::install()?;
        let data_dir = DataDir::open(&self.data_dir)?;
        let config = Config::load(&data_dir)?;
        agent::run(config, data_dir, |listening| {
            // Whoever started the agent waits for this line; without a reader it serves all the same.
            _ = super::print(&format!("{listening}\n"));
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
