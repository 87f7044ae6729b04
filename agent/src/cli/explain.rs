//! `pureboot-agent explain`

use std::process::ExitCode;

use pureboot_protocol::{BootId, Mac, Success};

use super::json;
use crate::cli::arguments::asks;
use crate::data_dir::DataDir;
use crate::manage::client::ask;
use crate::policy::explain::Explanation;

asks! {
    /// show why a machine boots what it boots: facts, rules, each policy's answer, the decision, and the script's hash
    #[argh(
        subcommand,
        name = "explain",
        note = "What it would boot now is asked of the controller as for a boot, and nothing is written down.",
        note = "A session of the past is played again; the exit code is 1 if something differs."
    )]
    pub(super) struct Explain {
        /// the machine, for what it would boot now
        #[argh(option)]
        mac: Option<Mac>,
        /// a boot session of the past, as `pureboot-agent boots` names it
        #[argh(option)]
        session: Option<BootId>,
    }
}

impl Explain {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let query = match (self.mac, self.session) {
            (Some(mac), None) => format!("mac={mac}"),
            (None, Some(session)) => format!("session={session}"),
            _ => anyhow::bail!(
                "say what to explain: --mac 52:54:00:12:34:56 for now, or --session ID for a boot of the past"
            ),
        };
        let socket = DataDir::open(&self.data_dir)?.socket();
        let answer: Success<Explanation> = ask(&socket, &format!("/api/v1/agent/explain?{query}"))?;
        let explanation = answer.data;
        let text = match self.json {
            true => json::pretty(&explanation)?,
            false => explanation.render(),
        };
        super::print(&text)?;
        let differs = explanation.replay.is_some_and(|replay| !replay.is_same);
        Ok(if differs { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}
