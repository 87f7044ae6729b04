//! `pureboot-agent sync`

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::Full;
use hyper::Request;
use pureboot_protocol::{Category, Success, Timestamp};

use super::json;
use crate::cli::arguments::asks;
use crate::clock;
use crate::data_dir::DataDir;
use crate::manage::client::send_and_watch;
use crate::status::{size, span};
use crate::sync::report::{Order, Outcome, Progress, State, Status};

const SYNC: &str = "/api/v1/agent/sync";

/// Content comes as fast as the line lets it.
const PATIENCE: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Between two lines about the progress, where nobody watches a terminal.
const LINE_REST_S: i64 = 10;

/// The length of the bar, in characters.
const BAR_LEN: usize = 20;

asks! {
    /// bring the running agent's content up to date with the controller now; exit code 0: all is here, 1: something is missing
    #[argh(subcommand, name = "sync")]
    pub(super) struct Sync {
        /// ask for the manifest even if it has not changed, and read again what is held
        #[argh(switch)]
        force: bool,
        /// only this category (bootloaders, scripts, templates or images); may be given several times
        #[argh(option)]
        category: Vec<Category>,
    }
}

impl Sync {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let socket = DataDir::open(&self.data_dir)?.socket();
        let order = Order { force: self.force, categories: self.category };
        let order = serde_json::to_vec(&order).context("cannot write the order as JSON")?;
        let request =
            Request::post(SYNC).body(Full::from(order)).context("cannot ask the agent")?;
        let mut watcher = Watcher::new(self.json);
        let answer: Success<Outcome> =
            send_and_watch(&socket, request, PATIENCE, SYNC, |state: Success<State>| {
                if let Some(progress) = state.data.progress {
                    watcher.tell(&progress, clock::now());
                }
            })?;
        watcher.end();
        let outcome = answer.data;
        super::print(&match self.json {
            true => json::pretty(&outcome)?,
            false => describe(&outcome),
        })?;
        Ok(match outcome.status {
            Status::Completed => ExitCode::SUCCESS,
            Status::Skipped | Status::Failed => ExitCode::FAILURE,
        })
    }
}

fn describe(outcome: &Outcome) -> String {
    let Outcome { files_synced, bytes_transferred, bytes_reused, errors, duration_seconds, .. } =
        outcome;
    let reused = match bytes_reused {
        0 => String::new(),
        bytes => format!(" over the line and {} that the site had already", size(*bytes)),
    };
    let mut text = match (outcome.status, *files_synced) {
        (Status::Completed, 0) => "the content is up to date\n".to_owned(),
        (_, files) => format!(
            "{files} {}, {}{reused} in {duration_seconds:.1} s\n",
            if files == 1 { "file" } else { "files" },
            size(*bytes_transferred)
        ),
    };
    for error in errors {
        text += &format!("error: {error}\n");
    }
    text
}

/// Tells on standard error how far it is.
struct Watcher {
    manner: Manner,
    told_at: Option<Timestamp>,
}

enum Manner {
    /// One line that is written over.
    Terminal,
    /// A line now and then.
    Lines,
    /// Nothing.
    Silent,
}

impl Watcher {
    fn new(is_silent: bool) -> Self {
        let manner = match (is_silent, std::io::stderr().is_terminal()) {
            (true, _) => Manner::Silent,
            (false, true) => Manner::Terminal,
            (false, false) => Manner::Lines,
        };
        Self { manner, told_at: None }
    }

    fn tell(&mut self, progress: &Progress, now: Timestamp) {
        let is_soon = self.told_at.is_some_and(|at| now.seconds_since(at) < LINE_REST_S);
        let line = describe_progress(progress, now);
        // There is nobody else to tell.
        _ = match self.manner {
            Manner::Terminal => {
                let bar = bar(progress.bytes_done, progress.bytes_total);
                write!(std::io::stderr(), "\r{bar} {line}\x1b[K")
            }
            Manner::Lines if !is_soon => writeln!(std::io::stderr(), "{line}"),
            Manner::Lines | Manner::Silent => return,
        };
        self.told_at = Some(now);
    }

    /// Leaves an empty line for the outcome.
    fn end(&self) {
        if matches!(self.manner, Manner::Terminal) && self.told_at.is_some() {
            _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// How much of it is done, to the eye.
fn bar(done: u64, total: u64) -> String {
    let done = u128::from(done.min(total)) * u128::from(BAR_LEN as u64);
    let filled = done.checked_div(u128::from(total)).unwrap_or(0);
    let filled = usize::try_from(filled).unwrap_or(BAR_LEN);
    format!("[{}{}]", "#".repeat(filled), "-".repeat(BAR_LEN - filled))
}

/// The progress in one line: files, bytes, rate, time left, and what is coming.
fn describe_progress(progress: &Progress, now: Timestamp) -> String {
    let Progress { files_total, files_done, bytes_total, bytes_done, bytes_received, .. } =
        *progress;
    let mut line = format!(
        "{files_done} of {files_total} files, {} of {}",
        size(bytes_done),
        size(bytes_total)
    );
    let seconds = u64::try_from(now.seconds_since(progress.started_at)).unwrap_or(0);
    // What lay here already, from a download that broke off or in other objects, says nothing of the line.
    if let Some(rate) = bytes_received.checked_div(seconds).filter(|rate| *rate > 0) {
        let left = bytes_total.saturating_sub(bytes_done) / rate;
        line += &format!(", {}/s, {} left", size(rate), span(left));
    }
    if let Some(current) = &progress.current {
        line += &format!(", {current}");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_progress_tells_files_bytes_rate_and_time_left() {
        let mut progress = Progress {
            started_at: Timestamp::from_unix_ms(0),
            files_total: 3,
            files_done: 1,
            bytes_total: 90_000_000,
            bytes_done: 60_000_000,
            bytes_received: 30_000_000,
            current: Some("images/debian/linux".to_owned()),
        };
        assert_eq!(
            describe_progress(&progress, Timestamp::from_unix_ms(30_000)),
            "1 of 3 files, 60.0 MB of 90.0 MB, 1.0 MB/s, 30 s left, images/debian/linux"
        );
        progress.current = None;
        assert_eq!(
            describe_progress(&progress, Timestamp::from_unix_ms(0)),
            "1 of 3 files, 60.0 MB of 90.0 MB"
        );
    }

    #[test]
    fn a_bar_is_full_when_all_is_here_and_never_longer() {
        assert_eq!(bar(0, 100), "[--------------------]");
        assert_eq!(bar(50, 100), "[##########----------]");
        assert_eq!(bar(99, 100), "[###################-]");
        assert_eq!(bar(u64::MAX, u64::MAX), "[####################]");
        assert_eq!(bar(7, 3), bar(3, 3));
        assert_eq!(bar(0, 0), "[--------------------]");
    }

    #[test]
    fn the_outcome_tells_what_came_and_what_did_not() {
        let outcome = |status, files_synced, errors: &[&str]| Outcome {
            status,
            files_synced,
            bytes_transferred: files_synced * 1_000_000,
            bytes_reused: 0,
            errors: errors.iter().map(|error| (*error).to_owned()).collect(),
            duration_seconds: 1.25,
        };
        assert_eq!(describe(&outcome(Status::Completed, 0, &[])), "the content is up to date\n");
        assert_eq!(
            describe(&outcome(Status::Failed, 1, &["images/a: no"])),
            "1 file, 1.0 MB in 1.2 s\nerror: images/a: no\n"
        );
    }
}
