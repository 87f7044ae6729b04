//! `pureboot-agent cache nodes …`

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use argh::FromArgs;
use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use pureboot_protocol::{Lifecycle, Mac, Page, Success, Timestamp};

use super::counted;
use crate::cli::arguments::asks;
use crate::cli::json;
use crate::clock;
use crate::data_dir::DataDir;
use crate::manage::client::{ask, send};
use crate::nodes::route::Invalidated;
use crate::nodes::view::NodeView;
use crate::session::render::printable;
use crate::status::span;

const NODES: &str = "/api/v1/agent/cache/nodes";

/// How long a change of what is remembered may take.
const PATIENCE: Duration = Duration::from_secs(30);

asks! {
    /// list what the site remembers of its machines, or have the controller asked anew
    #[argh(subcommand, name = "nodes")]
    pub(super) struct Nodes {
        /// only machines in this state, such as pending or active
        #[argh(option)]
        state: Option<Lifecycle>,
        /// only machines of this group and those below it: its path such as /web/front, its name, or its id
        #[argh(option)]
        group: Option<String>,
        /// only machines with this workflow: its name or its id
        #[argh(option)]
        workflow: Option<String>,
        #[argh(subcommand)]
        command: Option<Command>,
    }
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
enum Command {
    Invalidate(Invalidate),
}

asks! {
    /// ask the controller anew about a machine, or about all; what is remembered stays, and is served, until the answer is there
    #[argh(subcommand, name = "invalidate")]
    struct Invalidate {
        /// the machine's hardware address
        #[argh(positional)]
        mac: Option<Mac>,
        /// every machine
        #[argh(switch)]
        all: bool,
    }
}

impl Nodes {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        if let Some(Command::Invalidate(invalidate)) = self.command {
            return invalidate.run();
        }
        let nodes = self.load(&DataDir::open(&self.data_dir)?.socket())?;
        super::super::print(&match self.json {
            true => json::pretty(&nodes)?,
            false if nodes.is_empty() => self.nobody().to_owned(),
            false => table(&nodes, clock::now()),
        })
    }

    /// What is told where no machine is remembered that is asked for.
    fn nobody(&self) -> &'static str {
        match (&self.state, &self.group, &self.workflow) {
            (None, None, None) => {
                "no machine is remembered: one that boots here is, and what the controller has for the site\n"
            }
            _ => "nothing is remembered of such a machine\n",
        }
    }

    /// Every machine that is asked for, page by page.
    fn load(&self, socket: &Path) -> anyhow::Result<Vec<NodeView>> {
        let mut path = format!("{NODES}?");
        let state = self.state.map(|state| state.as_str().to_owned());
        let wanted = [("state", &state), ("group", &self.group), ("workflow", &self.workflow)];
        for (name, value) in wanted {
            if let Some(value) = value {
                _ = write!(path, "{name}={}&", encoded(value));
            }
        }
        let (mut nodes, mut cursor) = (Vec::new(), String::new());
        loop {
            let page: Page<NodeView> = ask(socket, &format!("{path}cursor={cursor}"))?;
            nodes.extend(page.data);
            match page.next_cursor {
                Some(last) => cursor = last,
                None => return Ok(nodes),
            }
        }
    }
}

impl Invalidate {
    fn run(self) -> anyhow::Result<ExitCode> {
        let path = match (self.mac, self.all) {
            (Some(mac), false) => format!("{NODES}/{mac}"),
            (None, true) => NODES.to_owned(),
            _ => bail!("name one machine, or say --all"),
        };
        let socket = DataDir::open(&self.data_dir)?.socket();
        let request =
            Request::delete(path).body(Empty::<Bytes>::new()).context("cannot ask the agent")?;
        let Success { data, .. } = send::<_, Success<Invalidated>>(&socket, request, PATIENCE)?;
        let Invalidated { nodes } = data;
        super::super::print(&match self.json {
            true => json::pretty(&data)?,
            false => format!(
                "the controller is asked anew about {}; what is remembered stays until it answers\n",
                counted(nodes as u64, "machine")
            ),
        })
    }
}

/// As a value of a query: letters and digits stand for themselves, all other bytes are escaped (RFC 3986 §2.1).
fn encoded(value: &str) -> String {
    let mut text = String::new();
    for byte in value.bytes() {
        match byte {
            b if b.is_ascii_alphanumeric() => text.push(char::from(b)),
            b => _ = write!(text, "%{b:02X}"),
        }
    }
    text
}

fn table(nodes: &[NodeView], now: Timestamp) -> String {
    let or_dash = |text: Option<&str>| printable(text.unwrap_or("-"));
    let rows = nodes.iter().map(|node| {
        let age = node
            .confirmed_at
            .map_or("-".to_owned(), |at| span(u64::try_from(now.seconds_since(at)).unwrap_or(0)));
        let state = match node.conflict_id {
            Some(_) => "in conflict",
            None => node.state.map_or("-", Lifecycle::as_str),
        };
        [
            node.mac_address.to_string(),
            or_dash(node.hostname.as_deref()),
            state.to_owned(),
            or_dash(node.workflow.as_deref()),
            or_dash(node.group.as_deref()),
            node.version.map_or("-".to_owned(), |version| version.to_string()),
            node.standing.as_str().to_owned(),
            age,
        ]
    });
    let head = ["MAC", "NAME", "STATE", "WORKFLOW", "GROUP", "VERSION", "RECORD", "AGE"];
    let rows: Vec<_> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            let cells = rows.iter().filter_map(|row| row.get(at));
            let width = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
            _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
