//! `pureboot-agent conflicts`

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use argh::FromArgs;
use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::CONTENT_TYPE;
use pureboot_protocol::{
    BaseSide, CentralSide, Conflict, ConflictId, ConflictKind, Lifecycle, Resolution,
    SiteResolution, Success, Timestamp,
};
use serde_json::Value;

use super::json;
use crate::cli::arguments::asks;
use crate::clock;
use crate::conflicts::route::{ConflictView, Listing};
use crate::data_dir::DataDir;
use crate::manage::client::{ask_within, send};
use crate::status::span;

const CONFLICTS: &str = "/api/v1/agent/conflicts";

/// The agent asks the controller before it answers.
const PATIENCE: Duration = Duration::from_secs(20);

/// show where this site and the controller disagree about a node, and end it
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "conflicts")]
pub(super) struct Conflicts {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
enum Command {
    Ls(Ls),
    Show(Show),
    Resolve(Resolve),
}

asks! {
    /// list the conflicts that wait for a person, the oldest first; while the controller is away as they were last told
    #[argh(subcommand, name = "ls")]
    struct Ls {
        /// also those that have ended
        #[argh(switch)]
        all: bool,
    }
}

asks! {
    /// show one conflict with both sides and what each is based on
    #[argh(subcommand, name = "show")]
    struct Show {
        /// its id as in `conflicts ls`; the beginning is enough where it fits only one
        #[argh(positional)]
        id: String,
    }
}

asks! {
    /// end one conflict at the controller, for both sides; the same decision again has no effect and the same answer. It takes the line:
    /// while the controller is away nothing is decided, and the node boots its disk
    #[argh(subcommand, name = "resolve")]
    struct Resolve {
        /// its id as in `conflicts ls`; the beginning is enough where it fits only one
        #[argh(positional)]
        id: String,
        /// what this site wished for stands
        #[argh(switch)]
        keep_local: bool,
        /// what the controller has stands
        #[argh(switch)]
        keep_central: bool,
        /// whose side stands field by field, such as state=local, state=central or state=base (what both started from); fields that are not
        /// named stay as the controller has them
        #[argh(option)]
        merge: Vec<Choice>,
        /// the version of the node that you have looked at, where it has changed since the conflict began
        #[argh(option)]
        node_version: Option<u64>,
        /// why, for the node's history
        #[argh(option)]
        comment: Option<String>,
    }
}

/// Whose side stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Local,
    Central,
    /// What both started from.
    Base,
}

/// The fields of a node that a merge may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    State,
    /// The site has a side in nothing but the state.
    CentralOnly(&'static str),
}

const CENTRAL_ONLY: [&str; 4] = ["hostname", "workflow", "group", "tags"];

/// `field=side`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Choice {
    field: Field,
    side: Side,
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (field, side) = text
            .split_once('=')
            .ok_or_else(|| format!("'{text}' is not field=local, field=central or field=base"))?;
        let side = match side {
            "local" => Side::Local,
            "central" => Side::Central,
            "base" => Side::Base,
            other => return Err(format!("'{other}' is none of local, central, base")),
        };
        let field = match CENTRAL_ONLY.iter().find(|name| **name == field) {
            Some(name) => Field::CentralOnly(name),
            None if field == "state" => Field::State,
            None => {
                let known = CENTRAL_ONLY.join(", ");
                return Err(format!("'{field}' is none of state, {known}"));
            }
        };
        match (field, side) {
            (Field::CentralOnly(name), Side::Local | Side::Base) => Err(format!(
                "this site has no {name} of its own: its side of a conflict is a state"
            )),
            _ => Ok(Self { field, side }),
        }
    }
}

impl Conflicts {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Ls(ls) => ls.run(),
            Command::Show(show) => show.run(),
            Command::Resolve(resolve) => resolve.run(),
        }
    }
}

impl Ls {
    fn run(self) -> anyhow::Result<ExitCode> {
        let socket = DataDir::open(&self.data_dir)?.socket();
        let listing = list(&socket, self.all)?;
        if self.json {
            return super::print(&json::pretty(&listing.conflicts)?);
        }
        super::print(&table(&listing, clock::now()))
    }
}

impl Show {
    fn run(self) -> anyhow::Result<ExitCode> {
        let socket = DataDir::open(&self.data_dir)?.socket();
        let id = find(&socket, &self.id)?;
        let shown: Success<Value> = ask_within(&socket, &format!("{CONFLICTS}/{id}"), PATIENCE)?;
        if self.json {
            return super::print(&json::pretty(&shown.data)?);
        }
        let view = json::typed(&shown.data)?;
        super::print(&block(&view, clock::now()))
    }
}

impl Resolve {
    fn run(self) -> anyhow::Result<ExitCode> {
        let socket = DataDir::open(&self.data_dir)?.socket();
        let id = find(&socket, &self.id)?;
        let shown: Success<ConflictView> =
            ask_within(&socket, &format!("{CONFLICTS}/{id}"), PATIENCE)?;
        let decision = self.decision(&shown.data)?;
        let body = Full::new(Bytes::from(serde_json::to_vec(&decision)?));
        let request = Request::post(format!("{CONFLICTS}/{id}/resolve"))
            .header(CONTENT_TYPE, "application/json")
            .body(body)?;
        let ended: Success<Value> = send(&socket, request, PATIENCE)?;
        if self.json {
            return super::print(&json::pretty(&ended.data)?);
        }
        let view = json::typed(&ended.data)?;
        super::print(&block(&view, clock::now()))
    }

    /// What is to be decided about a conflict.
    fn decision(&self, view: &ConflictView) -> anyhow::Result<SiteResolution> {
        let state_of = |side| match side {
            Side::Local => view.conflict.site.state,
            Side::Central => view.conflict.central.as_ref().map(|central| central.state),
            Side::Base => view.conflict.base.as_ref().map(|base| base.state),
        };
        let (resolution, state) = match (self.keep_local, self.keep_central, self.merge.as_slice())
        {
            (true, false, []) => (Resolution::KeepLocal, None),
            (false, true, []) => (Resolution::KeepCentral, None),
            (false, false, choices @ [_, ..]) => {
                let states: Vec<_> =
                    choices.iter().filter(|choice| choice.field == Field::State).collect();
                match states.as_slice() {
                    [] => (Resolution::KeepCentral, None),
                    [choice] => {
                        let state = state_of(choice.side).context(
                            "that side has no state in this conflict: take --keep-local or --keep-central",
                        )?;
                        (Resolution::Merge, Some(state))
                    }
                    _ => bail!("--merge names state more than once"),
                }
            }
            (false, false, []) => {
                bail!("say how it is to end: --keep-local, --keep-central, or --merge state=local")
            }
            _ => bail!("--keep-local, --keep-central and --merge exclude each other: take one"),
        };
        let (node_version, comment) = (self.node_version, self.comment.clone());
        Ok(SiteResolution { resolution, state, node_version, comment })
    }
}

fn list(socket: &Path, all: bool) -> anyhow::Result<Listing> {
    let answer: Success<Listing> = ask_within(socket, &format!("{CONFLICTS}?all={all}"), PATIENCE)?;
    Ok(answer.data)
}

/// The conflict whose id is `id`, or begins so.
fn find(socket: &Path, id: &str) -> anyhow::Result<ConflictId> {
    if let Ok(id) = id.parse() {
        return Ok(id);
    }
    let listing = list(socket, true)?;
    let ids: Vec<_> = listing
        .conflicts
        .iter()
        .map(|view| view.conflict.id)
        .filter(|known| !id.is_empty() && known.to_string().starts_with(id))
        .collect();
    match ids.as_slice() {
        [only] => Ok(*only),
        [] => bail!(
            "the site knows no conflict '{id}': `conflicts ls --all` lists those that it knows"
        ),
        _ => bail!("{} conflicts begin with '{id}': give more of the id", ids.len()),
    }
}

fn ago(now: Timestamp, then: Timestamp) -> String {
    span(u64::try_from(now.seconds_since(then)).unwrap_or(0))
}

fn machine(view: &ConflictView) -> String {
    match (&view.hostname, view.mac_address) {
        (Some(name), Some(mac)) => format!("{name} ({mac})"),
        (_, Some(mac)) => mac.to_string(),
        _ => view.conflict.node_id.to_string(),
    }
}

/// The site's side in a few words.
fn site_side(view: &ConflictView) -> String {
    let site = &view.conflict.site;
    let base = site.base_version.map_or("no version".to_owned(), |base| format!("version {base}"));
    match site.state {
        Some(state) => format!("{state}, on {base}"),
        None => "it was seen here".to_owned(),
    }
}

/// What both sides started from, and which of them has left it.
fn base_side(conflict: &Conflict) -> Option<String> {
    let BaseSide { state, version } = conflict.base.as_ref()?;
    let is_moved = |side: Option<Lifecycle>| side.is_some_and(|side| side != *state);
    let central = conflict.central.as_ref().map(|central| central.state);
    let movers = match (is_moved(conflict.site.state), is_moved(central)) {
        (true, true) => "both have changed the state",
        (true, false) => "only this site has changed the state",
        (false, true) => "only the controller has changed the state",
        (false, false) => "neither has changed the state",
    };
    Some(format!("{state}, version {version}; {movers} since"))
}

fn central_side(view: &ConflictView) -> String {
    match &view.conflict.central {
        Some(CentralSide { state, version, .. }) => format!("{state}, version {version}"),
        None => "no such node".to_owned(),
    }
}

fn standing(view: &ConflictView) -> String {
    match &view.conflict.outcome {
        None => "waits for a person".to_owned(),
        Some(ending) => format!("{} by {}", ending.resolution, ending.by),
    }
}

fn table(listing: &Listing, now: Timestamp) -> String {
    let mut text = String::new();
    if listing.conflicts.is_empty() {
        _ = writeln!(text, "site and controller disagree about nothing");
    } else {
        let rows: Vec<[String; 6]> = listing
            .conflicts
            .iter()
            .map(|view| {
                [
                    view.conflict.id.to_string(),
                    machine(view),
                    site_side(view),
                    central_side(view),
                    format!("{} ago", ago(now, view.conflict.created_at)),
                    standing(view),
                ]
            })
            .collect();
        let head = ["CONFLICT", "MACHINE", "THIS SITE", "CONTROLLER", "SINCE", "STATE"];
        let head = head.map(str::to_owned);
        let mut lens = [0; 6];
        for row in rows.iter().chain([&head]) {
            for (len, cell) in lens.iter_mut().zip(row) {
                *len = (*len).max(cell.chars().count());
            }
        }
        for row in [&head].into_iter().chain(&rows) {
            let cells: Vec<_> =
                row.iter().zip(lens).map(|(cell, len)| format!("{cell:<len$}")).collect();
            _ = writeln!(text, "{}", cells.join("  ").trim_end());
        }
    }
    match listing.heard_at {
        Some(at) if now.seconds_since(at) < 60 => {}
        Some(at) => _ = writeln!(text, "the controller is away: as it was {} ago", ago(now, at)),
        None => {
            _ = writeln!(text, "the controller has not been asked since the start of the agent")
        }
    }
    text
}

fn block(view: &ConflictView, now: Timestamp) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        _ = writeln!(text, "{name:<10} {value}");
    };
    let conflict = &view.conflict;
    row("conflict", format!("{} ({})", conflict.id, conflict.kind));
    row("machine", machine(view));
    row("cause", conflict.cause.clone());
    if let Some(base) = base_side(conflict) {
        row("base", base);
    }
    let site = &conflict.site;
    let changes = format!("{} changes", site.changes);
    let made = format!("{} ago, clock {}, {changes}", ago(now, site.at), site.clock);
    row("this site", format!("{} ({made})", site_side(view)));
    let changed = conflict.central.as_ref().and_then(|central| central.changed_at);
    let changed = changed.map_or(String::new(), |at| format!(" (changed {} ago)", ago(now, at)));
    row("controller", format!("{}{changed}", central_side(view)));
    if let Some(state) = view.state {
        row("now", format!("the site goes by {state}"));
    }
    row("begun", format!("{} ({} ago)", conflict.created_at, ago(now, conflict.created_at)));
    match &conflict.outcome {
        None => {
            row("state", "it waits for a person; until then the machine boots its disk".to_owned());
            row("cure", cure(conflict.kind, conflict.site.state).to_owned());
        }
        Some(ending) => {
            let name = ending.name.as_ref().map_or(String::new(), |name| format!(" ({name})"));
            let version =
                ending.node_version.map_or(String::new(), |version| format!(", version {version}"));
            let ended = format!("{} by {}{name}", ending.resolution, ending.by);
            row("state", format!("ended {} ago: {ended}{version}", ago(now, ending.at)));
        }
    }
    row("heard", format!("{} ago", ago(now, view.heard_at)));
    text
}

fn cure(kind: ConflictKind, state: Option<Lifecycle>) -> &'static str {
    match (kind, state) {
        (ConflictKind::SiteMismatch, _) => {
            "an operator decides at the controller whether the node moves; --keep-central gives it up"
        }
        (_, None) => "`conflicts resolve ID --keep-central`",
        (_, Some(_)) => {
            "`conflicts resolve ID --keep-local`, --keep-central, or --merge state=local"
        }
    }
}

#[cfg(test)]
mod tests;
