//! `pureboot-agent start`

use std::process::ExitCode;

use crate::agent::{self, End};
use crate::cage::rights::{Kept, become_owner};
use crate::cli::arguments::placed;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::update::{launch, pin};
use crate::{log, supervise};

placed! {
    /// serve the site until SIGTERM or SIGINT
    #[argh(subcommand, name = "start")]
    pub(super) struct Start {
        /// do not limit what the agent can do, to find out whether that is what stands in the way
        #[argh(switch)]
        no_cage: bool,
        /// stay, and start the agent again whenever it ends, where nothing else does (systemd and procd do)
        #[argh(switch)]
        supervise: bool,
        /// find out whether this program could serve with what is in the directory, which is to be a copy; bind no port of the settings,
        /// serve nobody, and end
        #[argh(switch)]
        self_test: bool,
    }
}

impl Start {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        log::install()?;
        if self.supervise {
            return supervise::run();
        }
        if !self.self_test
            && let Err(error) = pin::prepare(&self.data_dir)
        {
            ::log::info!("no other version of the agent is taken from the controller: {error:#}");
        }
        become_owner(&self.data_dir, Kept::ForBinding)?;
        let data_dir = DataDir::open(&self.data_dir)?;
        if self.self_test {
            let machines = agent::rehearse(self.config(&data_dir)?, data_dir)?;
            return super::print(&format!(
                "this program can serve: decided for {machines} machines\n"
            ));
        }
        let launched = launch::hand_over(&data_dir);
        let end = agent::run(self.config(&data_dir)?, data_dir, launched, |listening| {
            // Whoever started the agent waits for this line; without a reader it serves all the same.
            _ = super::print(&format!("{listening}\n"));
        })?;
        Ok(match end {
            End::Asked => ExitCode::SUCCESS,
            End::Restart => ExitCode::from(supervise::RESTART),
        })
    }

    fn config(&self, data_dir: &DataDir) -> anyhow::Result<Config> {
        let mut config = Config::load(data_dir)?;
        config.cage.enabled &= !self.no_cage;
        Ok(config)
    }
}
