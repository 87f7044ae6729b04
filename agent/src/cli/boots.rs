//! `pureboot-agent boots`
#![expect(clippy::disallowed_methods, reason = "shell: waits between two looks")]

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use pureboot_protocol::{BootId, Mac, Timestamp};
use serde::Serialize;

use super::json;
use crate::cli::arguments::placed;
use crate::clock;
use crate::data_dir::DataDir;
use crate::doctor::diagnose::explain;
use crate::manage::client::{AskError, ask};
use crate::session::outcome::Outcome;
use crate::session::render::{BootView, line, printable};
use crate::session::ring::{ASKING_MAX, SESSIONS_MAX};
use crate::session::route::{BootsPage, PAGE_LEN_MAX};
use crate::session::step::Step;

const BOOTS: &str = "/api/v1/agent/boots";

/// How long to rest between two looks.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// How many sessions are shown when nobody says.
const LIMIT: NonZeroUsize = NonZeroUsize::new(10).expect("ten is not zero");
/// How many sessions an agent keeps.
const LIMIT_MAX: usize = SESSIONS_MAX + ASKING_MAX;

placed! {
    /// show what machines did from their first packet to the call-back of their system, and where they are stuck; newest last
    #[argh(subcommand, name = "boots")]
    pub(super) struct Boots {
        /// only this machine's
        #[argh(option)]
        mac: Option<Mac>,
        /// how many sessions, from 1 to 2000 (default: 10)
        #[argh(option, default = "LIMIT", from_str_fn(parse_limit))]
        limit: NonZeroUsize,
        /// go on and show each step when it is seen, until interrupted
        #[argh(switch)]
        follow: bool,
        /// print JSON for programs; with --follow one line for each step
        #[argh(switch)]
        json: bool,
    }
}

impl Boots {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let socket = DataDir::open(&self.data_dir)?.socket();
        let found = self.load(&socket, None)?;
        if self.follow {
            return self.follow(&socket, found);
        }
        if self.json {
            return super::print(&json::pretty(&found.boots)?);
        }
        if found.boots.is_empty() {
            return super::print(&nothing(self.mac));
        }
        let is_terminal = std::io::stdout().is_terminal();
        let now = clock::now();
        let sessions: Vec<_> = found.boots.iter().map(|boot| &boot.session).collect();
        let told = found.boots.iter().map(|boot| {
            let mut text = block(boot, is_terminal);
            if matches!(boot.outcome, Outcome::Stuck { .. } | Outcome::Failed)
                && let Some(finding) = explain(&boot.session, &sessions, now)
            {
                text.push_str(&format!("  doctor: {}\n", printable(&finding.explanation())));
            }
            text
        });
        let blocks: Vec<_> = told.collect();
        super::print(&blocks.join("\n"))
    }

    /// The sessions asked for, oldest first: all of them, or those that have changed since.
    fn load(&self, socket: &Path, since: Option<u64>) -> Result<Found, AskError> {
        let wanted = self.limit.get();
        let mut boots: Vec<BootView> = Vec::new();
        let mut cursor = None;
        let mut revision = None;
        loop {
            let left = wanted.saturating_sub(boots.len()).min(PAGE_LEN_MAX);
            let mut path = format!("{BOOTS}?limit={left}");
            let mac = self.mac.map(|mac| mac.to_string());
            let since = since.map(|since| since.to_string());
            for (name, value) in [("mac", mac), ("cursor", cursor.take()), ("since", since)] {
                if let Some(value) = value {
                    path.push_str(&format!("&{name}={value}"));
                }
            }
            let page: BootsPage = ask(socket, &path)?;
            // What changes while the pages are read is found by the next look.
            let revision = *revision.get_or_insert(page.revision);
            boots.extend(page.data);
            cursor = page.next_cursor;
            if cursor.is_none() || boots.len() >= wanted {
                boots.reverse();
                return Ok(Found { boots, revision });
            }
        }
    }

    /// Prints what is new, again and again. An agent that is started anew is waited for.
    fn follow(&self, socket: &Path, mut found: Found) -> anyhow::Result<ExitCode> {
        let mut told = Told::default();
        let mut is_gone = false;
        loop {
            for boot in &found.boots {
                let news = told.news(boot, self.json)?;
                super::print(&news)?;
            }
            let revision = found.revision;
            found = loop {
                thread::sleep(LOOK_PAUSE);
                match self.load(socket, Some(revision)) {
                    Ok(found) => break found,
                    Err(error @ (AskError::NotRunning { .. } | AskError::Exchange(_))) => {
                        if !is_gone {
                            super::complain(&format!("{error}; waiting for it"));
                        }
                        is_gone = true;
                    }
                    Err(error) => return Err(error.into()),
                }
            };
            is_gone = false;
        }
    }
}

/// What the agent said.
struct Found {
    /// Oldest first.
    boots: Vec<BootView>,
    revision: u64,
}

/// What has been printed, so that it is not printed again.
#[derive(Default)]
struct Told {
    steps: HashMap<(BootId, u32), Step>,
    last: Option<BootId>,
}

/// One step as a line of JSON.
#[derive(Serialize)]
struct StepLine<'a> {
    boot: BootId,
    mac: Option<Mac>,
    hostname: Option<&'a str>,
    started_at: Timestamp,
    outcome: Outcome,
    #[serde(flatten)]
    step: &'a Step,
}

/// How many steps are remembered as printed: all that the agent keeps of as many sessions as it keeps, near enough.
const TOLD_MAX: usize = 64_000;

impl Told {
    fn news(&mut self, boot: &BootView, is_json: bool) -> anyhow::Result<String> {
        let session = &boot.session;
        if self.steps.len() > TOLD_MAX {
            self.steps.clear();
        }
        let mut news = String::new();
        for step in &session.steps {
            let before = self.steps.insert((session.id, step.number), step.clone());
            if before.as_ref() == Some(step) {
                continue;
            }
            if is_json {
                let line = StepLine {
                    boot: session.id,
                    mac: session.mac,
                    hostname: boot.hostname.as_deref(),
                    started_at: session.started_at,
                    outcome: boot.outcome,
                    step,
                };
                news.push_str(&serde_json::to_string(&line)?);
            } else {
                if self.last.replace(session.id) != Some(session.id) {
                    news.push_str(&format!("{}\n", boot.header()));
                }
                news.push_str(&line(step));
            }
            news.push('\n');
        }
        Ok(news)
    }
}

fn parse_limit(text: &str) -> Result<NonZeroUsize, String> {
    let limit = text.parse().ok().filter(|limit: &NonZeroUsize| limit.get() <= LIMIT_MAX);
    limit.ok_or_else(|| {
        format!("'{text}' is not a number of sessions: from 1 to {LIMIT_MAX}, as many as are kept")
    })
}

/// What is said where there is no session.
fn nothing(mac: Option<Mac>) -> String {
    match mac {
        Some(mac) => format!("{mac} is in none of the boot sessions that are kept\n"),
        None => "no machine has booted yet\n".to_owned(),
    }
}

/// A session for people; its first line stands out on a terminal.
fn block(boot: &BootView, is_terminal: bool) -> String {
    let text = boot.render();
    match text.split_once('\n') {
        Some((header, rest)) if is_terminal => format!("\x1b[1m{header}\x1b[0m\n{rest}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests;
