//! `node …`.

mod bulk;

use pureboot_protocol::{Lifecycle, NodeOrder};
use reqwest::Method;
use serde_json::{Value, json};

use crate::config::UsageError;
use crate::remote::arguments::{asks, noun};
use crate::remote::boots::NodeBoots;
use crate::remote::claim::{Approve, Claims, Reject};
use crate::remote::client::Query;
use crate::remote::fields::Field;
use crate::remote::meta::NodeMeta;
use crate::remote::resolve::{GROUP, NODE, SITE, WORKFLOW, label, text};
use crate::remote::screen::Column;
use crate::remote::session::{Session, most};

use bulk::Bulk;

noun! {
    /// Look after nodes: the machines. A node is named by its MAC address, its hostname, or its id or the beginning of it.
    #[argh(subcommand, name = "node", example = "{command_name} ls --site berlin --state pending")]
    NodeArguments, NodeCommand {
        Ls(Ls),
        Show(Show),
        Add(Add),
        Set(Set),
        Workflow(Workflow),
        State(State),
        Command(Command),
        Tag(Tag),
        Untag(Untag),
        History(History),
        Events(Events),
        Boots(NodeBoots),
        Meta(NodeMeta),
        Bulk(Bulk),
        Claims(Claims),
        Approve(Approve),
        Reject(Reject),
        Stalled(Stalled),
        Stats(Stats),
        Retire(Retire),
    }
}

const FIELDS: &[Field] = &[
    Field::word("hostname").or_none(),
    Field::named("workflow", "workflow_id", &WORKFLOW),
    Field::named("group", "group_id", &GROUP),
    Field::named("site", "home_site_id", &SITE),
    Field::list("tags"),
];

/// What is known of a machine before it is seen; later it says so itself.
const FIELDS_OF_NEW: &[Field] = &[
    Field::word("hostname").or_none(),
    Field::named("workflow", "workflow_id", &WORKFLOW),
    Field::named("group", "group_id", &GROUP),
    Field::named("site", "home_site_id", &SITE),
    Field::list("tags"),
    Field::word("arch").or_none(),
    Field::word("boot_mode").or_none(),
    Field::word("vendor").or_none(),
    Field::word("model").or_none(),
    Field::word("serial_number").or_none(),
    Field::word("system_uuid").or_none(),
];

const COLUMNS: &[Column] = &[
    Column::plain("MAC ADDRESS", "mac_address"),
    Column::plain("HOSTNAME", "hostname"),
    Column::plain("STATE", "state"),
    Column::plain("SITE", "site"),
    Column::plain("GROUP", "group"),
    Column::plain("WORKFLOW", "workflow"),
    Column::plain("TAGS", "tags"),
    Column::plain("LAST SEEN", "last_seen_at"),
    Column::plain("ID", "id"),
];

/// Puts the names of what the rows refer to beside the ids.
async fn name(session: &Session, rows: &mut [Value]) -> anyhow::Result<()> {
    session.name(rows, &GROUP, &[("home_site_id", "site"), ("group_id", "group")]).await?;
    session.name(rows, &WORKFLOW, &[("workflow_id", "workflow")]).await
}

asks! {
    /// List the nodes.
    #[argh(subcommand, name = "ls", example = "{command_name} --site /emea --below --tag web")]
    struct Ls {
        /// only those in this state
        #[argh(option)]
        state: Option<Lifecycle>,

        /// only those of this site
        #[argh(option)]
        site: Option<String>,

        /// only those in this group
        #[argh(option)]
        group: Option<String>,

        /// with --site or --group alone: those of what is below it as well
        #[argh(switch)]
        below: bool,

        /// only those with this tag
        #[argh(option)]
        tag: Option<String>,
    }
}

impl Ls {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let mut rows = match (&self.site, &self.group) {
            (place, other) if self.below => {
                if self.state.is_some() || self.tag.is_some() || place.is_some() == other.is_some()
                {
                    let text =
                        "--below goes with either --site or --group, and with no other filter";
                    return Err(UsageError::new(text).into());
                }
                below(&session, place.as_deref(), other.as_deref()).await?
            }
            (site, group) => {
                let mut query = Query::new();
                query.extend(self.state.map(|state| ("state", state.to_string())));
                query.extend(self.tag.clone().map(|tag| ("tag", tag)));
                if let Some(site) = site {
                    query.push(("site_id", session.id(&SITE, site).await?));
                }
                if let Some(group) = group {
                    query.push(("group_id", session.id(&GROUP, group).await?));
                }
                session.client.list(&[NODE.path], query, None).await?
            }
        };
        name(&session, &mut rows).await?;
        session.screen.rows(&rows, COLUMNS)
    }
}

async fn below(
    session: &Session,
    site: Option<&str>,
    group: Option<&str>,
) -> anyhow::Result<Vec<Value>> {
    let (noun, word, flag) = match site {
        Some(site) => (&SITE, site, "include_descendant_sites"),
        None => (&GROUP, group.unwrap_or_default(), "include_descendants"),
    };
    let id = session.id(noun, word).await?;
    let query = vec![(flag, "true".to_owned())];
    Ok(session.client.list(&[noun.path, &id, "nodes"], query, None).await?)
}

asks! {
    /// Show a node with all that is known of it.
    #[argh(subcommand, name = "show", example = "{command_name} 52:54:00:12:34:56 --field state")]
    struct Show {
        /// its MAC address, hostname or id
        #[argh(positional)]
        node: String,

        /// print this field alone
        #[argh(option)]
        field: Option<String>,
    }
}

impl Show {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let mut node = [session.find(&NODE, &self.node).await?];
        name(&session, &mut node).await?;
        let [node] = node;
        let first = ["mac_address", "hostname", "state", "site", "group", "workflow"];
        session.screen.thing(&node, &first, self.field.as_deref())
    }
}

asks! {
    /// Make a node that has not been seen yet.
    #[argh(
        subcommand,
        name = "add",
        example = "{command_name} 52:54:00:12:34:56 hostname=web1 site=berlin workflow=debian",
        note = "Fields: hostname, workflow, group, site, tags, arch, boot_mode (bios, uefi), vendor, model, serial_number, system_uuid."
    )]
    struct Add {
        /// its MAC address
        #[argh(positional)]
        mac: String,

        /// what else to set: FIELD=VALUE, can be repeated
        #[argh(positional)]
        fields: Vec<String>,
    }
}

impl Add {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let mac = ("mac_address", self.mac.as_str().into());
        let body = session.body(FIELDS_OF_NEW, &self.fields, [mac]).await?;
        session.make(&NODE, Query::new(), &body).await
    }
}

asks! {
    /// Change what operators decide of a node.
    #[argh(
        subcommand,
        name = "set",
        example = "{command_name} 52:54:00:12:34:56 hostname=web1 group=web tags=rack1,ssd",
        note = "Fields: hostname, workflow, group, site, tags. FIELD= takes the value away."
    )]
    struct Set {
        /// its MAC address, hostname or id
        #[argh(positional)]
        node: String,

        /// what to set: FIELD=VALUE, can be repeated
        #[argh(positional)]
        fields: Vec<String>,
    }
}

impl Set {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let body = session.body(FIELDS, &self.fields, []).await?;
        session.change(&NODE, &self.node, Query::new(), &body).await
    }
}

asks! {
    /// Give a node its workflow, or leave it to the node's group.
    #[argh(subcommand, name = "workflow", example = "{command_name} 52:54:00:12:34:56 debian")]
    struct Workflow {
        /// its MAC address, hostname or id
        #[argh(positional)]
        node: String,

        /// the workflow's name or id; without it the node's group decides
        #[argh(positional)]
        workflow: Option<String>,
    }
}

impl Workflow {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let workflow = match &self.workflow {
            Some(workflow) => Some(session.find(&WORKFLOW, workflow).await?),
            None => None,
        };
        let id = workflow.as_ref().map(|workflow| text(workflow, "id"));
        let node = session.find(&NODE, &self.node).await?;
        let path = [NODE.path, text(&node, "id")];
        let body = json!({ "workflow_id": id });
        let node = session.client.send(Method::PATCH, &path, Query::new(), Some(&body)).await?;
        let whose = match &workflow {
            Some(workflow) => format!("has the workflow {}", label(&WORKFLOW, workflow)),
            None => "has the workflow of its group".to_owned(),
        };
        session.screen.done(&node, &format!("node {} {whose}", label(&NODE, &node)))
    }
}

asks! {
    /// Move a node to another state: `pending` installs it at its next boot, which overwrites its disk.
    #[argh(subcommand, name = "state", example = "{command_name} 52:54:00:12:34:56 pending --comment 'new disk'")]
    struct State {
        /// its MAC address, hostname or id
        #[argh(positional)]
        node: String,

        /// the state: pending, reprovision, deprovisioning, migrating, …
        #[argh(positional)]
        state: Lifecycle,

        /// why, for the history
        #[argh(option)]
        comment: Option<String>,

        /// try again what has failed three times
        #[argh(switch)]
        force: bool,

        /// do not ask before a node is retired
        #[argh(switch)]
        yes: bool,
    }
}

impl State {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let node = session.find(&NODE, &self.node).await?;
        if self.state == Lifecycle::Retired {
            session.confirm(self.yes, &format!("Retire node {} for good?", label(&NODE, &node)))?;
        }
        let path = [NODE.path, text(&node, "id"), "state"];
        let body = json!({"state": self.state, "comment": self.comment, "force": self.force});
        let node = session.client.send(Method::PATCH, &path, Query::new(), Some(&body)).await?;
        session.screen.done(&node, &format!("node {} is {}", label(&NODE, &node), self.state))
    }
}

asks! {
    /// Order a node's own system to do something when it next asks, or take the order back.
    #[argh(
        subcommand,
        name = "command",
        example = "{command_name} web1 reboot",
        example = "{command_name} web1 --cancel",
        note = "A new order takes the place of one that the node has not acknowledged; `node show NODE --field pending_command` tells which waits."
    )]
    struct Command {
        /// its MAC address, hostname or id
        #[argh(positional)]
        node: String,

        /// what to do: poweroff, reboot or rescan (look at the hardware again and report it)
        #[argh(positional)]
        order: Option<NodeOrder>,

        /// take back what the node has not acknowledged
        #[argh(switch)]
        cancel: bool,
    }
}

impl Command {
    async fn run(self) -> anyhow::Result<()> {
        if self.order.is_some() == self.cancel {
            return Err(
                UsageError::new("expected either poweroff, reboot or rescan, or --cancel").into()
            );
        }
        let session = self.session()?;
        let node = session.find(&NODE, &self.node).await?;
        let path = [NODE.path, text(&node, "id"), "command"];
        let (method, body) = match self.order {
            Some(order) => (Method::POST, Some(json!({ "command": order }))),
            None => (Method::DELETE, None),
        };
        let node = session.client.send(method, &path, Query::new(), body.as_ref()).await?;
        let label = label(&NODE, &node);
        let sentence = match self.order {
            Some(order) => format!("node {label} is told to {order} when its system next asks"),
            None => format!("nothing is ordered of node {label} any more"),
        };
        session.screen.done(&node, &sentence)
    }
}

asks! {
    /// Give a node tags.
    #[argh(subcommand, name = "tag", example = "{command_name} web1 rack1 ssd")]
    struct Tag {
        /// its MAC address, hostname or id
        #[argh(positional)]
        node: String,

        /// what to add
        #[argh(positional)]
        tags: Vec<String>,
    }
}

impl Tag {
    async fn run(self) -> anyhow::Result<()> {
        need_tags(&self.tags)?;
        let session = self.session()?;
        let mut node = session.find(&NODE, &self.node).await?;
        let id = text(&node, "id").to_owned();
        for tag in &self.tags {
            let body = json!({ "tag": tag });
            let path = [NODE.path, &id, "tags"];
            node = session.client.send(Method::POST, &path, Query::new(), Some(&body)).await?;
        }
        show_tags(&session, &node)
    }
}

asks! {
    /// Take tags away from a node.
    #[argh(subcommand, name = "untag", example = "{command_name} web1 ssd")]
    struct Untag {
        /// its MAC address, hostname or id
        #[argh(positional)]
        node: String,

        /// what to take away
        #[argh(positional)]
        tags: Vec<String>,
    }
}

impl Untag {
    async fn run(self) -> anyhow::Result<()> {
        need_tags(&self.tags)?;
        let session = self.session()?;
        let mut node = session.find(&NODE, &self.node).await?;
        let id = text(&node, "id").to_owned();
        for tag in &self.tags {
            let path = [NODE.path, &id, "tags", tag];
            node = session.client.send(Method::DELETE, &path, Query::new(), None).await?;
        }
        show_tags(&session, &node)
    }
}

fn need_tags(tags: &[String]) -> Result<(), UsageError> {
    if tags.is_empty() { Err(UsageError::new("expected at least one tag")) } else { Ok(()) }
}

fn show_tags(session: &Session, node: &Value) -> anyhow::Result<()> {
    let tags = node.get("tags").and_then(Value::as_array).into_iter().flatten();
    let tags: Vec<_> = tags.filter_map(Value::as_str).collect();
    let tags =
        if tags.is_empty() { "no tags".to_owned() } else { format!("tags {}", tags.join(", ")) };
    session.screen.done(node, &format!("node {} has {tags}", label(&NODE, node)))
}

asks! {
    /// Show how the state of a node has changed, the latest first.
    #[argh(subcommand, name = "history", example = "{command_name} 52:54:00:12:34:56")]
    struct History {
        /// its MAC address, hostname or id
        #[argh(positional)]
        node: String,

        /// rows to show, 0 for all (default: 50)
        #[argh(option, default = "50")]
        limit: usize,
    }
}

const MOVES: &[Column] = &[
    Column::plain("AT", "created_at"),
    Column::plain("FROM", "from_state"),
    Column::plain("TO", "to_state"),
    Column::plain("BY", "triggered_by"),
    Column::plain("COMMENT", "comment"),
    Column::plain("CORRELATION ID", "correlation_id"),
];

impl History {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        show_log(&session, &self.node, "history", self.limit, MOVES).await
    }
}

asks! {
    /// Show what was reported of a node, the latest first.
    #[argh(subcommand, name = "events", example = "{command_name} web1 --limit 10")]
    struct Events {
        /// its MAC address, hostname or id
        #[argh(positional)]
        node: String,

        /// rows to show, 0 for all (default: 50)
        #[argh(option, default = "50")]
        limit: usize,
    }
}

const EVENTS: &[Column] = &[
    Column::plain("AT", "at"),
    Column::plain("EVENT", "event_type"),
    Column::plain("%", "progress"),
    Column::plain("STATUS", "status"),
    Column::plain("MESSAGE", "message"),
    Column::plain("BOOT SESSION", "boot_session"),
];

impl Events {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        show_log(&session, &self.node, "events", self.limit, EVENTS).await
    }
}

async fn show_log(
    session: &Session,
    node: &str,
    log: &str,
    limit: usize,
    columns: &[Column],
) -> anyhow::Result<()> {
    let id = session.id(&NODE, node).await?;
    session.show_list(&[NODE.path, &id, log], Query::new(), most(limit), columns).await
}

asks! {
    /// List the nodes that have been installing for longer than their workflow allows.
    #[argh(subcommand, name = "stalled", example = "{command_name}")]
    struct Stalled {}
}

const STALLED: &[Column] = &[
    Column::plain("MAC ADDRESS", "mac_address"),
    Column::plain("HOSTNAME", "hostname"),
    Column::plain("SITE", "site"),
    Column::plain("SINCE", "install_started_at"),
    Column::plain("ALLOWED MINUTES", "timeout_minutes"),
    Column::plain("FAILED", "install_attempts"),
    Column::plain("SITE HEARD", "site_heard_at"),
    Column::plain("ID", "id"),
];

impl Stalled {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let mut rows = session.client.list(&[NODE.path, "stalled"], Query::new(), None).await?;
        name(&session, &mut rows).await?;
        session.screen.rows(&rows, STALLED)
    }
}

asks! {
    /// Count the nodes by state.
    #[argh(subcommand, name = "stats", example = "{command_name}")]
    struct Stats {}
}

impl Stats {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let stats = session.client.get(&[NODE.path, "stats"], Query::new()).await?;
        session.screen.thing(&stats, &["total"], None)
    }
}

asks! {
    /// Retire a node for good: it is kept, and never installed again.
    #[argh(subcommand, name = "retire", example = "{command_name} web1 --yes")]
    struct Retire {
        /// its MAC address, hostname or id
        #[argh(positional)]
        node: String,

        /// do not ask
        #[argh(switch)]
        yes: bool,
    }
}

impl Retire {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let node = session.find(&NODE, &self.node).await?;
        let label = label(&NODE, &node);
        session.confirm(self.yes, &format!("Retire node {label} for good?"))?;
        let path = [NODE.path, text(&node, "id")];
        let node = session.client.send(Method::DELETE, &path, Query::new(), None).await?;
        session.screen.done(&node, &format!("node {label} is retired"))
    }
}
