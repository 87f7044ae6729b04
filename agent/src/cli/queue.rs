//! `pureboot-agent queue`

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;
use argh::FromArgs;
use pureboot_protocol::{Success, Timestamp};
use serde_json::Value;

use super::json;
use crate::cli::arguments::asks;
use crate::clock;
use crate::data_dir::DataDir;
use crate::manage::client::ask;
use crate::outbox::view::{ITEMS_MAX, Item, Queue as View, Stage};
use crate::status::{size, span};

const QUEUE: &str = "/api/v1/agent/queue";

/// show what waits for the controller, and what the controller could not apply
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "queue")]
pub(super) struct Queue {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
enum Command {
    Ls(Ls),
    Show(Show),
    Stats(Stats),
}

asks! {
    /// list the changes that wait, and those that the controller has parked or that met another change there; oldest first
    #[argh(subcommand, name = "ls")]
    struct Ls {
        /// also those that took effect and are kept for a week, in case the controller is brought back from a backup
        #[argh(switch)]
        all: bool,
        /// how many at most (default: 100)
        #[argh(option, default = "100")]
        limit: u64,
    }
}

asks! {
    /// show one change in full
    #[argh(subcommand, name = "show")]
    struct Show {
        /// its number as in `queue ls`, or its id as a machine was told it
        #[argh(positional)]
        id: String,
    }
}

asks! {
    /// show how much waits, since when and why, and how much may
    #[argh(subcommand, name = "stats")]
    struct Stats {}
}

impl Queue {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Ls(ls) => ls.run(),
            Command::Show(show) => show.run(),
            Command::Stats(stats) => stats.run(),
        }
    }
}

impl Ls {
    fn run(self) -> anyhow::Result<ExitCode> {
        if self.limit == 0 {
            bail!("--limit 0 lists nothing: give 1 or more, or ask `queue stats` for the figures");
        }
        let socket = DataDir::open(&self.data_dir)?.socket();
        let (items, is_all) = self.load(&socket)?;
        if self.json {
            return super::print(&json::pretty(&items)?);
        }
        let mut text = table(&items, clock::now());
        if !is_all {
            _ = writeln!(text, "there are more: --limit shows them");
        }
        super::print(&text)
    }

    /// The changes, and whether that is all of them.
    fn load(&self, socket: &Path) -> anyhow::Result<(Vec<Item>, bool)> {
        let mut items: Vec<Item> = Vec::new();
        loop {
            let left = self.limit.saturating_sub(count(&items)).min(ITEMS_MAX);
            if left == 0 {
                return Ok((items, false));
            }
            let after = items.last().map_or(0, |last| last.seq);
            let path = format!("{QUEUE}?limit={left}&after={after}&all={}", self.all);
            let page: Success<View> = ask(socket, &path)?;
            let is_last = count(&page.data.items) < left;
            items.extend(page.data.items);
            if is_last {
                return Ok((items, true));
            }
        }
    }
}

impl Show {
    fn run(self) -> anyhow::Result<ExitCode> {
        if !self.id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            bail!("'{}' is no change: give its number as in `queue ls`, or its id", self.id);
        }
        let socket = DataDir::open(&self.data_dir)?.socket();
        let path = format!("{QUEUE}/{}", self.id);
        if self.json {
            let item: Success<Value> = ask(&socket, &path)?;
            return super::print(&json::pretty(&item.data)?);
        }
        let item: Success<Item> = ask(&socket, &path)?;
        super::print(&block(&item.data, clock::now())?)
    }
}

impl Stats {
    fn run(self) -> anyhow::Result<ExitCode> {
        let socket = DataDir::open(&self.data_dir)?.socket();
        let path = format!("{QUEUE}?limit=0");
        let stats: Success<Value> = ask(&socket, &path)?;
        if self.json {
            return super::print(&json::pretty(&stats.data)?);
        }
        let stats = json::typed(&stats.data)?;
        super::print(&figures(&stats, clock::now()))
    }
}

fn count(items: &[Item]) -> u64 {
    u64::try_from(items.len()).unwrap_or(u64::MAX)
}

fn ago(now: Timestamp, then: Timestamp) -> String {
    span(u64::try_from(now.seconds_since(then)).unwrap_or(0))
}

fn machine(item: &Item) -> String {
    item.mac.map_or_else(|| item.node.to_string(), |mac| mac.to_string())
}

fn table(items: &[Item], now: Timestamp) -> String {
    if items.is_empty() {
        return "nothing waits for the controller, and it has set nothing aside\n".to_owned();
    }
    let what_len = items.iter().map(|item| item.summary.chars().count()).max().unwrap_or(0);
    let mut text = format!(
        "{:>6}  {:<10}  {:<17}  {:<20}  {:<what_len$}  {}\n",
        "CHANGE", "STATE", "MACHINE", "MADE", "WHAT", "WHY"
    );
    for item in items {
        let (stage, made) = (item.stage.as_str(), format!("{} ago", ago(now, item.at)));
        _ = writeln!(
            text,
            "{:>6}  {stage:<10}  {:<17}  {made:<20}  {:<what_len$}  {}",
            item.seq,
            machine(item),
            item.summary,
            item.why
        );
    }
    text
}

fn block(item: &Item, now: Timestamp) -> anyhow::Result<String> {
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        _ = writeln!(text, "{name:<10} {value}");
    };
    row("change", format!("{} ({})", item.seq, item.id));
    row("what", format!("{}: {}", item.kind, item.summary));
    row("machine", machine(item));
    row("node", item.node.to_string());
    row("made", format!("{} ({} ago, clock {})", item.at, ago(now, item.at), item.clock));
    if let Some(session) = item.session {
        row("session", session.to_string());
    }
    if let Some(base) = item.base_version {
        row("based on", format!("version {base}"));
    }
    row("state", format!("{}: {}", item.stage.as_str(), item.why));
    if let Some(at) = item.acked_at {
        row("answered", format!("{at} ({} ago)", ago(now, at)));
    }
    if let Some(version) = item.node_version {
        row("became", format!("version {version}"));
    }
    if let Some(conflict) = item.conflict_id {
        row("conflict", conflict.to_string());
    }
    row("says", serde_json::to_string(&item.payload)?);
    match item.stage {
        Stage::Parked => {
            row("cure", "an operator decides at the controller; nothing is sent again".to_owned());
        }
        Stage::Conflict => row(
            "cure",
            "`pureboot-agent conflicts show` has both sides; nothing is sent again".to_owned(),
        ),
        Stage::Pending | Stage::Processing | Stage::Applied | Stage::Duplicate => {}
    }
    Ok(text)
}

fn figures(queue: &View, now: Timestamp) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        _ = writeln!(text, "{name:<10} {value}");
    };
    let oldest =
        queue.oldest_at.map_or(String::new(), |at| format!(", the oldest for {}", ago(now, at)));
    row("waiting", format!("{} changes{oldest}", queue.pending));
    row("on its way", queue.processing.to_string());
    if let Some(error) = &queue.last_error {
        row("because", error.clone());
    }
    row("parked", format!("{} at the controller, without effect", queue.failed));
    row("conflicts", queue.conflicts.to_string());
    row(
        "room",
        format!(
            "{} of {} changes, {} of {}; events have 60 % of both and use {} changes, {}",
            queue.pending,
            queue.changes_max,
            size(queue.size_bytes),
            size(queue.bytes_max),
            queue.events,
            size(queue.event_bytes)
        ),
    );
    row(
        "kept",
        format!("{} delivered changes, {}, for a week", queue.kept, size(queue.kept_bytes)),
    );
    row("epoch", format!("{}, acknowledged through {}", queue.epoch, queue.acked_through));
    text
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use pureboot_protocol::{ChangeId, ClockQuality, Epoch, Mac, NodeId};

    use super::*;

    fn item(seq: u64, stage: Stage, why: &str) -> Item {
        Item {
            seq,
            id: ChangeId::from_bytes([1; 16]),
            kind: "event".to_owned(),
            summary: "install_progress 40 %".to_owned(),
            node: NodeId::from_random([2; 16]),
            mac: Mac::from_bytes([0x52, 0x54, 0, 0, 0, 1]).ok(),
            at: Timestamp::from_unix_ms(0),
            clock: ClockQuality::Synced,
            session: None,
            base_version: None,
            stage,
            why: why.to_owned(),
            acked_at: None,
            node_version: None,
            conflict_id: None,
            payload: serde_json::json!({"event_type": "install_progress", "progress": 40}),
        }
    }

    #[test]
    fn changes_are_listed_in_words() {
        let now = Timestamp::from_unix_ms(90_000);
        let items = [
            item(7, Stage::Parked, "the controller keeps it without effect: there is no node"),
            Item {
                summary: "seen for the first time, or with new facts".to_owned(),
                ..item(8, Stage::Pending, "the controller cannot be reached: refused")
            },
        ];
        expect![[r#"
            CHANGE  STATE       MACHINE            MADE                  WHAT                                        WHY
                 7  parked      52:54:00:00:00:01  1 min 30 s ago        install_progress 40 %                       the controller keeps it without effect: there is no node
                 8  pending     52:54:00:00:00:01  1 min 30 s ago        seen for the first time, or with new facts  the controller cannot be reached: refused
        "#]]
        .assert_eq(&table(&items, now));
        assert!(table(&[], now).starts_with("nothing waits"));
    }

    #[test]
    fn a_change_is_shown_in_full() {
        let now = Timestamp::from_unix_ms(90_000);
        expect![[r#"
            change     7 (01010101010101010101010101010101)
            what       event: install_progress 40 %
            machine    52:54:00:00:00:01
            node       02020202-0202-4202-8202-020202020202
            made       1970-01-01T00:00:00.000Z (1 min 30 s ago, clock synced)
            state      parked: no node
            says       {"event_type":"install_progress","progress":40}
            cure       an operator decides at the controller; nothing is sent again
        "#]]
        .assert_eq(&block(&item(7, Stage::Parked, "no node"), now).expect("JSON"));
    }

    #[test]
    fn the_figures_say_why_nothing_goes() {
        let queue = View {
            pending: 12,
            processing: 0,
            failed: 1,
            total: 13,
            conflicts: 2,
            oldest_at: Some(Timestamp::from_unix_ms(0)),
            size_bytes: 2_000,
            event_bytes: 1_000,
            events: 8,
            changes_max: 100_000,
            bytes_max: 24 << 20,
            kept: 40,
            kept_bytes: 30_000,
            epoch: Epoch::from_bytes([3; 16]),
            acked_through: 40,
            last_error: Some("the controller answers 503".to_owned()),
            items: Vec::new(),
        };
        expect![[r#"
            waiting    12 changes, the oldest for 1 min 30 s
            on its way 0
            because    the controller answers 503
            parked     1 at the controller, without effect
            conflicts  2
            room       12 of 100000 changes, 2.0 kB of 25.2 MB; events have 60 % of both and use 8 changes, 1.0 kB
            kept       40 delivered changes, 30.0 kB, for a week
            epoch      03030303030303030303030303030303, acknowledged through 40
        "#]]
        .assert_eq(&figures(&queue, Timestamp::from_unix_ms(90_000)));
    }
}
