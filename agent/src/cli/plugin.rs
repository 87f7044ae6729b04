//! `pureboot-agent plugin`: the site's policies, and what their authors do with them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use argh::FromArgs;
use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use pureboot_plugin_author::cli as author;
use pureboot_protocol::{PluginId, PoliciesReport, PolicyReport, Success};

use crate::data_dir::DataDir;
use crate::manage::client::{ask, ask_within, send};
use crate::policy::explain::Replayed;

const POLICIES: &str = "/api/v1/agent/policies";

/// How long all boots that are written down may take to be played again.
const REPLAY_PATIENCE: Duration = Duration::from_secs(300);

/// How long a policy may take to be loaded anew.
const RESET_PATIENCE: Duration = Duration::from_secs(30);

/// see how the site's policies fare and what they would say today to the boots of the past; write, build, test and pack new ones
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "plugin", example = "{command_name} new rack-window --lang rust")]
pub(super) struct Plugin {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
enum Command {
    Ls(Ls),
    Stats(Stats),
    Replay(Replay),
    Reset(Reset),
    New(author::New),
    Build(author::Build),
    Check(author::Check),
    Test(author::Test),
    Run(author::Run),
    Pack(author::Pack),
    Inspect(author::Inspect),
}

/// list the policies that the controller has assigned, in the order in which they are asked
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "ls")]
struct Ls {
    /// print JSON for programs
    #[argh(switch)]
    json: bool,
    /// directory that holds all that the agent keeps (default: /var/lib/pureboot)
    #[argh(option, default = "super::default_data_dir()")]
    data_dir: PathBuf,
}

/// show what each policy has answered and what that cost, since its version came or the agent started
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "stats")]
struct Stats {
    /// print JSON for programs
    #[argh(switch)]
    json: bool,
    /// directory that holds all that the agent keeps (default: /var/lib/pureboot)
    #[argh(option, default = "super::default_data_dir()")]
    data_dir: PathBuf,
}

/// play the boots that are written down again with the policies that run now, and show those that differ
#[derive(FromArgs, Debug)]
#[argh(
    subcommand,
    name = "replay",
    note = "About 1 MiB of boots is kept; the exit code is 1 if one of them differs."
)]
struct Replay {
    /// print JSON for programs, with the boots that do not differ
    #[argh(switch)]
    json: bool,
    /// directory that holds all that the agent keeps (default: /var/lib/pureboot)
    #[argh(option, default = "super::default_data_dir()")]
    data_dir: PathBuf,
}

/// ask a policy again that is set aside or has gone back, in the version that is assigned
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "reset")]
struct Reset {
    /// the policy
    #[argh(positional)]
    policy: PluginId,
    /// directory that holds all that the agent keeps (default: /var/lib/pureboot)
    #[argh(option, default = "super::default_data_dir()")]
    data_dir: PathBuf,
}

impl Plugin {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Ls(Ls { json, data_dir }) => show(&data_dir, json, listed),
            Command::Stats(Stats { json, data_dir }) => show(&data_dir, json, counted),
            Command::Replay(replay) => replay.run(),
            Command::Reset(reset) => reset.run(),
            Command::New(new) => new.run(),
            Command::Build(build) => build.run(),
            Command::Check(check) => check.run(),
            Command::Test(test) => test.run(),
            Command::Run(run) => run.run(),
            Command::Pack(pack) => pack.run(),
            Command::Inspect(inspect) => inspect.run(),
        }
    }
}

fn show(
    data_dir: &Path,
    is_json: bool,
    table: fn(&PoliciesReport) -> String,
) -> anyhow::Result<ExitCode> {
    let socket = DataDir::open(data_dir)?.socket();
    let report: Success<PoliciesReport> = ask(&socket, POLICIES)?;
    if is_json {
        return super::print(&format!("{}\n", serde_json::to_string_pretty(&report.data)?));
    }
    if report.data.policies.is_empty() {
        return super::print("the controller has assigned no policies to this site\n");
    }
    super::print(&table(&report.data))
}

fn listed(report: &PoliciesReport) -> String {
    let mut text = format!(
        "{:<24} {:<10} {:<10} {:<7} {:<12} {}\n",
        "POLICY", "ASSIGNED", "RUNNING", "MODE", "STATE", "LAST FAILURE"
    );
    for policy in &report.policies {
        let PolicyReport { plugin, assigned, running, mode, state, failure, .. } = policy;
        let running = running.map_or("-".to_owned(), |version| version.to_string());
        let failure = failure.as_deref().unwrap_or("-");
        text.push_str(&format!(
            "{plugin:<24} {assigned:<10} {running:<10} {mode:<7} {state:<12} {failure}\n"
        ));
    }
    text.push_str(&format!("engine {}\n", report.engine));
    text
}

fn counted(report: &PoliciesReport) -> String {
    let mut text = format!(
        "{:<24} {:>8} {:>8} {:>8} {:>8} {:>12} {:>10} {:>10}\n",
        "POLICY", "ANSWERS", "ERRORS", "FAILED", "SKIPPED", "FUEL P99", "US MEAN", "US MOST"
    );
    for policy in &report.policies {
        let calls = policy.answers + policy.errors + policy.failures;
        let mean = policy.took_total_us.checked_div(calls).unwrap_or(0);
        let PolicyReport { plugin, answers, errors, failures, skipped, .. } = policy;
        let (fuel, most) = (policy.fuel_p99, policy.took_max_us);
        text.push_str(&format!(
            "{plugin:<24} {answers:>8} {errors:>8} {failures:>8} {skipped:>8} {fuel:>12} {mean:>10} {most:>10}\n"
        ));
    }
    text
}

impl Replay {
    fn run(self) -> anyhow::Result<ExitCode> {
        let socket = DataDir::open(&self.data_dir)?.socket();
        let path = format!("{POLICIES}/replay");
        let replayed: Success<Vec<Replayed>> = ask_within(&socket, &path, REPLAY_PATIENCE)?;
        let replayed = replayed.data;
        let differing: Vec<_> = replayed.iter().filter(|boot| !boot.replay.is_same).collect();
        if self.json {
            super::print(&format!("{}\n", serde_json::to_string_pretty(&replayed)?))?;
        } else {
            for boot in &differing {
                let header = format!("{} {} session {}\n", boot.at, boot.mac, boot.session);
                let lines = boot.replay.differences.iter().map(|line| format!("  {line}\n"));
                super::print(&(header + &lines.collect::<String>()))?;
            }
            let (all, differing) = (replayed.len(), differing.len());
            super::print(&format!("{all} boots played again, {differing} differ\n"))?;
        }
        Ok(if differing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl Reset {
    fn run(self) -> anyhow::Result<ExitCode> {
        let socket = DataDir::open(&self.data_dir)?.socket();
        let request = Request::post(format!("{POLICIES}/{}/reset", self.policy));
        let request = request.body(Empty::<Bytes>::new());
        let request = request.expect("a path that the program has made");
        let report: Success<PoliciesReport> = send(&socket, request, RESET_PATIENCE)?;
        super::print(&listed(&report.data))
    }
}
