//! `pureboot-agent doctor`

use std::process::ExitCode;

use super::json;
use crate::cage::rights::{Kept, become_owner};
use crate::cli::arguments::asks;
use crate::doctor::probe::{Visit, examine};

asks! {
    /// say what is wrong with this host, its network and recent boots, and the cure; takes 10 s at the most; exit code 0: nothing
    /// worse than a warning, 1: something does not work
    #[argh(subcommand, name = "doctor")]
    pub(super) struct Doctor {
        /// look for other DHCP servers on this interface too; may be given more than once (default: those that agent.toml has for dhcp)
        #[argh(option, long = "interface")]
        interfaces: Vec<String>,
    }
}

impl Doctor {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        become_owner(&self.data_dir, Kept::Everything)?;
        let visit = Visit { data_dir: self.data_dir, interfaces: self.interfaces };
        let diagnosis = examine(&visit);
        super::print(&if self.json { json::pretty(&diagnosis)? } else { diagnosis.render() })?;
        Ok(if diagnosis.is_healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
