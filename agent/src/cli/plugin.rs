//! `pureboot-agent plugin`: the site's policies, and what their authors do with them.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use argh::FromArgs;
use http_body_util::{Empty, Full};
use hyper::Request;
use hyper::body::Bytes;
use pureboot_plugin_author::cli as author;
use pureboot_plugin_host::package::DOMAIN;
use pureboot_plugin_host::seal::{KEY_LEN, SealedFiles};
use pureboot_protocol::{PluginId, PoliciesReport, PolicyReport, Success};

use super::json;
use crate::cli::arguments::{asks, placed};
use crate::data_dir::DataDir;
use crate::manage::client::{ask, ask_within, send};
use crate::policy::explain::AllReplayed;

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

asks! {
    /// list the policies that the controller has assigned, in the order in which they are asked
    #[argh(subcommand, name = "ls")]
    struct Ls {}
}

asks! {
    /// show what each policy has answered and what that cost, since its version came or the agent started
    #[argh(subcommand, name = "stats")]
    struct Stats {}
}

placed! {
    /// play boots and calls about content that are written down again, with the policies that run now or another version, and show those that differ
    #[argh(
        subcommand,
        name = "replay",
        note = "About 1 MiB of each is kept; the exit code is 1 if one of them differs.",
        note = "Policies that were not asked then are not asked now, and a shadow of then is a shadow again."
    )]
    struct Replay {
        /// a policy to be asked in place of the one of its name: a package that the controller has signed, or, with a program that compiles, a plugin's directory, a bundle or WebAssembly
        #[argh(option)]
        against: Option<PathBuf>,
        /// print JSON for programs, with the boots that do not differ
        #[argh(switch)]
        json: bool,
    }
}

placed! {
    /// ask a policy again that is set aside or has gone back, in the version that is assigned
    #[argh(subcommand, name = "reset")]
    struct Reset {
        /// the policy
        #[argh(positional)]
        policy: PluginId,
    }
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
        return super::print(&json::pretty(&report.data)?);
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
        let replayed: Success<AllReplayed> = match &self.against {
            None => ask_within(&socket, &path, REPLAY_PATIENCE)?,
            Some(policy) => {
                let body = Full::new(Bytes::from(candidate(policy, &self.data_dir)?));
                let request = Request::post(path).body(body).context("cannot ask the agent")?;
                send(&socket, request, REPLAY_PATIENCE)?
            }
        };
        let replayed = replayed.data;
        super::print(&match self.json {
            true => json::pretty(&replayed)?,
            false => describe_replay(&replayed),
        })?;
        Ok(if differing(&replayed) == (0, 0) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// What the agent is given of a policy: a signed package as it is, or the header of what was compiled and sealed here.
fn candidate(path: &Path, data_dir: &Path) -> anyhow::Result<Vec<u8>> {
    if path.is_file() {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        if bytes.starts_with(DOMAIN) {
            return Ok(bytes);
        }
    }
    let (header, code) = author::local::compiled_here(path)?;
    let mut random = [0; KEY_LEN];
    getrandom::fill(&mut random).context("the system has no random numbers")?;
    let dir = DataDir::open(data_dir)?.sealed_policies();
    let kept = SealedFiles::open(&dir, random).and_then(|files| files.keep(header.wasm, &code));
    kept.with_context(|| format!("cannot keep what was compiled in {}", dir.display()))?;
    Ok(serde_json::to_vec(&header)?)
}

/// How many boots and how many calls about content differ.
fn differing(replayed: &AllReplayed) -> (usize, usize) {
    let boots = replayed.boots.iter().filter(|boot| !boot.replay.is_same).count();
    let judgements = replayed.judgements.iter().filter(|call| !call.replay.is_same).count();
    (boots, judgements)
}

fn describe_replay(replayed: &AllReplayed) -> String {
    let boots = replayed
        .boots
        .iter()
        .map(|boot| (format!("{} {} session {}", boot.at, boot.mac, boot.session), &boot.replay));
    let judgements = replayed
        .judgements
        .iter()
        .map(|call| (format!("{} a call about content", call.at), &call.replay));
    let mut text = String::new();
    for (header, replay) in boots.chain(judgements).filter(|(_, replay)| !replay.is_same) {
        _ = writeln!(text, "{header}");
        for line in &replay.differences {
            _ = writeln!(text, "  {line}");
        }
    }
    let (boots, judgements) = differing(replayed);
    let (all_boots, all_judgements) = (replayed.boots.len(), replayed.judgements.len());
    _ = writeln!(text, "{all_boots} boots played again, {boots} differ");
    if all_judgements > 0 {
        _ = writeln!(text, "{all_judgements} calls about content repeated, {judgements} differ");
    }
    text
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

#[cfg(test)]
mod tests {
    use pureboot_protocol::{BootId, Timestamp};

    use super::*;
    use crate::policy::explain::{JudgementReplayed, Replay, Replayed};

    #[test]
    fn a_person_reads_what_would_differ_and_how_much_is_the_same() {
        let at = Timestamp::from_unix_ms(0);
        let replay = |differences: &[&str]| Replay {
            is_same: differences.is_empty(),
            differences: differences.iter().map(|line| (*line).to_owned()).collect(),
        };
        let boot = |differences: &[&str]| Replayed {
            session: BootId::from_random([1; 16]),
            mac: "52:54:00:12:34:56".parse().expect("an address"),
            at,
            replay: replay(differences),
        };
        let differs = "images/a: give it up; now: pin it";
        let replayed = AllReplayed {
            boots: vec![boot(&[]), boot(&["the machine booted refused; now local_disk"])],
            judgements: vec![JudgementReplayed { at, replay: replay(&[differs]) }],
        };
        expect_test::expect![[r#"
            1970-01-01T00:00:00.000Z 52:54:00:12:34:56 session 01010101-0101-4101-8101-010101010101
              the machine booted refused; now local_disk
            1970-01-01T00:00:00.000Z a call about content
              images/a: give it up; now: pin it
            2 boots played again, 1 differ
            1 calls about content repeated, 1 differ
        "#]]
        .assert_eq(&describe_replay(&replayed));
    }
}
