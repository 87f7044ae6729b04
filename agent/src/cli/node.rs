//! `pureboot-agent node`

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use argh::FromArgs;
use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::CONTENT_TYPE;
use pureboot_protocol::{BootId, Lifecycle, Mac, Success};
use serde_json::Value;

use super::json;
use crate::cli::arguments::asks;
use crate::data_dir::DataDir;
use crate::manage::client::send;
use crate::nodes::mover::{Stage, Wish, Wished};

/// The agent waits for the disk, and a moment for the controller.
const PATIENCE: Duration = Duration::from_secs(20);

/// say what a node of this site is to be
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "node")]
pub(super) struct Node {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
enum Command {
    SetState(SetState),
}

asks! {
    /// move a node to another state; it is written down for the controller, and where the site's autonomy says so the site goes by it at
    /// once, with the controller or without it
    #[argh(subcommand, name = "set-state")]
    struct SetState {
        /// its address, as in 52:54:00:12:34:56
        #[argh(positional)]
        mac: Mac,
        /// the state, such as reprovision, pending or retired
        #[argh(positional)]
        state: Lifecycle,
        /// a UUID by which the same wish is known when it is said again (default: drawn)
        #[argh(option)]
        wish: Option<BootId>,
    }
}

impl Node {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Command::SetState(set_state) = self.command;
        set_state.run()
    }
}

impl SetState {
    fn run(self) -> anyhow::Result<ExitCode> {
        let Self { mac, state, .. } = self;
        let socket = DataDir::open(&self.data_dir)?.socket();
        let wish = match self.wish {
            Some(wish) => wish,
            None => {
                let mut bytes = [0; 16];
                getrandom::fill(&mut bytes).context("the system has no random numbers")?;
                BootId::from_random(bytes)
            }
        };
        let body = Full::new(Bytes::from(serde_json::to_vec(&Wish { state, wish })?));
        let request = Request::patch(format!("/api/v1/agent/nodes/{mac}/state"))
            .header(CONTENT_TYPE, "application/json")
            .body(body)?;
        let answer: Success<Value> = send(&socket, request, PATIENCE)?;
        if self.json {
            return super::print(&json::pretty(&answer.data)?);
        }
        let wished = json::typed(&answer.data)?;
        super::print(&format!("{}\n", sentence(mac, state, &wished)))
    }
}

fn sentence(mac: Mac, state: Lifecycle, wished: &Wished) -> String {
    let here = match wished.in_effect {
        true => format!("{mac} is {state} for this site"),
        false => {
            format!("{mac} is not {state} yet: the site's autonomy leaves that to the controller")
        }
    };
    let there = match wished.status {
        Stage::Unchanged => return format!("{mac} is {state} already"),
        Stage::Queued if wished.offline => {
            "the controller is told when the line is back".to_owned()
        }
        Stage::Queued => "the controller is being told".to_owned(),
        Stage::Applied => return format!("{mac} is {state}, the controller has applied it"),
        Stage::Conflict => {
            let id = wished.conflict_id.map_or(String::new(), |id| format!(" {id}"));
            return format!(
                "the controller has another view{id}: {}; `pureboot-agent conflicts ls` lists what waits for a person",
                wished.reason.as_deref().unwrap_or("no reason was given")
            );
        }
        Stage::Parked => {
            let reason = wished.reason.as_deref().unwrap_or("no reason was given");
            return format!("the controller keeps it without effect: {reason}");
        }
    };
    format!("{here}; {there}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_reads_where_a_wish_is() {
        let mac = Mac::from_bytes([0x52, 0x54, 0, 0, 0, 1]).expect("an address");
        let wished = |status, in_effect, offline| Wished {
            status,
            in_effect,
            offline,
            queue_id: None,
            conflict_id: None,
            reason: Some("no such node".to_owned()),
        };
        for (wished, expected) in [
            (wished(Stage::Unchanged, true, false), "is pending already"),
            (
                wished(Stage::Queued, true, true),
                "is pending for this site; the controller is told when",
            ),
            (
                wished(Stage::Queued, false, true),
                "leaves that to the controller; the controller is told",
            ),
            (wished(Stage::Queued, true, false), "is being told"),
            (wished(Stage::Applied, false, false), "the controller has applied it"),
            (wished(Stage::Conflict, true, false), "another view: no such node"),
            (wished(Stage::Parked, true, false), "without effect: no such node"),
        ] {
            let text = sentence(mac, Lifecycle::Pending, &wished);
            assert!(text.contains(expected), "{text}");
        }
    }
}
