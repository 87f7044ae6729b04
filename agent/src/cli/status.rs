//! `pureboot-agent status`

use std::process::ExitCode;

use pureboot_protocol::Success;

use super::json;
use crate::cli::arguments::asks;
use crate::clock;
use crate::data_dir::DataDir;
use crate::manage::client::{AskError, ask};
use crate::status::{Health, Report};

/// The exit code for "not running", as init scripts expect it (LSB).
const NOT_RUNNING: u8 = 3;

asks! {
    /// tell how the running agent is; exit code 0: well, 1: degraded, 3: not running
    #[argh(subcommand, name = "status")]
    pub(super) struct Status {
        /// exit with 0 also when it is degraded, for those who would start it again
        #[argh(switch)]
        running: bool,
    }
}

impl Status {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        if !self.data_dir.exists() {
            super::complain(&format!(
                "the agent is not running: there is no {}",
                self.data_dir.display()
            ));
            return Ok(ExitCode::from(NOT_RUNNING));
        }
        let data_dir = DataDir::open(&self.data_dir)?;
        let report: Report =
            match ask::<Success<Report>>(&data_dir.socket(), "/api/v1/agent/status") {
                Ok(answer) => answer.data,
                Err(error @ AskError::NotRunning { .. }) => {
                    super::complain(&error.to_string());
                    return Ok(ExitCode::from(NOT_RUNNING));
                }
                Err(error) => return Err(error.into()),
            };
        let text = if self.json { json::pretty(&report)? } else { report.render(clock::now()) };
        super::print(&text)?;
        Ok(match report.health() {
            Health::Ok => ExitCode::SUCCESS,
            Health::Degraded(_) if self.running => ExitCode::SUCCESS,
            Health::Degraded(_) => ExitCode::FAILURE,
        })
    }
}
