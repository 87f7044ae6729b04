//! `conflict …`.

use std::collections::HashMap;

use anyhow::{Context, bail};
use pureboot_protocol::{ConflictId, Resolution};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::config::UsageError;
use crate::remote::arguments::{asks, noun};
use crate::remote::client::{CallError, Query};
use crate::remote::fields::Field;
use crate::remote::resolve::{CONFLICT, GROUP, NODE, SITE, WORKFLOW, choose, label, text};
use crate::remote::screen::Column;
use crate::remote::session::Session;
use crate::{print_line, print_note};

noun! {
    /// Look after conflicts: decisions of sites that met another change at the controller.
    #[argh(subcommand, name = "conflict", example = "{command_name} ls --site berlin")]
    ConflictArguments, ConflictCommand {
        Ls(Ls),
        Show(Show),
        Resolve(Resolve),
        ResolveAll(ResolveAll),
    }
}

/// Where the API has the conflicts of all sites.
const PATH: [&str; 2] = ["sync", "conflicts"];
/// The most nodes of a list that are asked for their names; of the others the ids are shown.
const NAMED_MAX: usize = 50;

/// Which conflicts a list has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// Those that wait for a person.
    Open,
    /// Those that have ended.
    Resolved,
    /// All.
    All,
}

impl Which {
    fn status(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Resolved => "resolved",
            Self::All => "all",
        }
    }
}

asks! {
    /// List the conflicts that wait for a person, the oldest first.
    #[argh(subcommand, name = "ls", example = "{command_name} --site berlin --all")]
    struct Ls {
        /// only those of this site
        #[argh(option)]
        site: Option<String>,

        /// those that have ended as well
        #[argh(switch)]
        all: bool,

        /// only those that have ended
        #[argh(switch)]
        resolved: bool,
    }
}

const COLUMNS: &[Column] = &[
    Column::plain("AT", "created_at"),
    Column::plain("SITE", "at_site"),
    Column::plain("NODE", "node"),
    Column::plain("THE SITE SAYS", "site.state"),
    Column::plain("THE CONTROLLER SAYS", "central.state"),
    Column::plain("ENDED WITH", "outcome.resolution"),
    Column::plain("ID", "id"),
    Column::plain("CAUSE", "cause"),
];

impl Ls {
    async fn run(self) -> anyhow::Result<()> {
        let which = match (self.all, self.resolved) {
            (true, true) => {
                return Err(UsageError::new("--all and --resolved do not go together").into());
            }
            (true, false) => Which::All,
            (false, true) => Which::Resolved,
            (false, false) => Which::Open,
        };
        list(&self.session()?, self.site.as_deref(), which).await
    }
}

/// Shows the conflicts of `site`, or of all sites.
///
/// # Errors
/// There is no such site, or the controller refuses it.
pub(crate) async fn list(
    session: &Session,
    site: Option<&str>,
    which: Which,
) -> anyhow::Result<()> {
    let query = vec![("status", which.status().to_owned())];
    let mut rows = match site {
        Some(site) => {
            let id = session.id(&SITE, site).await?;
            session.client.list(&[SITE.path, &id, "conflicts"], query, None).await?
        }
        None => session.client.list(&PATH, query, None).await?,
    };
    session.name(&mut rows, &SITE, &[("site_id", "at_site")]).await?;
    name_nodes(session, &mut rows).await?;
    session.screen.rows(&rows, COLUMNS)
}

/// Puts the names of the nodes beside their ids, for people. A site may have thousands of nodes, of which few are in conflict: they
/// are asked for one by one.
async fn name_nodes(session: &Session, rows: &mut [Value]) -> anyhow::Result<()> {
    if session.screen.is_json {
        return Ok(());
    }
    let mut names = HashMap::new();
    for row in rows {
        let id = text(row, "node_id").to_owned();
        if !names.contains_key(&id) && names.len() < NAMED_MAX {
            let name = node(session, &id).await?.map(|node| label(&NODE, &node));
            names.insert(id.clone(), name.unwrap_or_else(|| id.clone()));
        }
        let name = names.get(&id).cloned().unwrap_or(id);
        row.as_object_mut()
            .context("a row of the list is no object")?
            .insert("node".to_owned(), name.into());
    }
    Ok(())
}

/// The node as the controller has it now, if it has it.
async fn node(session: &Session, id: &str) -> anyhow::Result<Option<Value>> {
    match session.client.get(&[NODE.path, id], Query::new()).await {
        Ok(node) => Ok(Some(node)),
        Err(CallError::Refused(problem)) if problem.status == StatusCode::NOT_FOUND.as_u16() => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// The conflict that `word` names, whether it has ended or not.
async fn find(session: &Session, word: &str) -> anyhow::Result<Value> {
    let [first, second] = PATH;
    if word.parse::<ConflictId>().is_ok() {
        return Ok(session.client.get(&[first, second, word], Query::new()).await?);
    }
    let query = vec![("status", Which::All.status().to_owned())];
    Ok(choose(&CONFLICT, word, session.client.list(&PATH, query, None).await?)?)
}

asks! {
    /// Show a conflict: both sides beside each other and the node as it is now, the cause, and how it ended.
    #[argh(subcommand, name = "show", example = "{command_name} 0b8f5c1e")]
    struct Show {
        /// its id or the beginning of it
        #[argh(positional)]
        conflict: String,

        /// print this field alone
        #[argh(option)]
        field: Option<String>,
    }
}

/// What both sides started from, both, and what has become of the node.
const SIDES: &[Column] = &[
    Column::plain("", "what"),
    Column::plain("BOTH STARTED FROM", "base"),
    Column::plain("THE SITE", "site"),
    Column::plain("THE CONTROLLER", "central"),
    Column::plain("THE NODE NOW", "now"),
];

impl Show {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let conflict = find(&session, &self.conflict).await?;
        if session.screen.is_json || self.field.is_some() {
            return session.screen.thing(&conflict, &[], self.field.as_deref());
        }
        let now = node(&session, text(&conflict, "node_id")).await?;
        let sides = sides(&conflict, now.as_ref());
        let is_open = conflict.get("outcome").is_none_or(Value::is_null);
        let mut head = [without_sides(conflict)];
        session.name(&mut head, &SITE, &[("site_id", "site")]).await?;
        name_nodes(&session, &mut head).await?;
        let [head] = head;
        session.screen.thing(&head, &["id", "type", "site", "node", "cause"], None)?;
        print_line("")?;
        session.screen.rows(&sides, SIDES)?;
        if is_open {
            print_note("it waits for a person: `conflict resolve` ends it");
        }
        Ok(())
    }
}

fn without_sides(mut conflict: Value) -> Value {
    if let Some(members) = conflict.as_object_mut() {
        members.retain(|name, _| name != "base" && name != "site" && name != "central");
    }
    conflict
}

/// What each side of `conflict` says, and the node as it is `now`, row by row.
fn sides(conflict: &Value, now: Option<&Value>) -> Vec<Value> {
    /// What a row is about, and where the base, the site, the controller and the node have it.
    const ROWS: [[&str; 5]; 6] = [
        ["state", "state", "state", "state", "state"],
        ["base version", "", "base_version", "", ""],
        ["version", "version", "", "version", "version"],
        ["changed at", "", "at", "changed_at", "updated_at"],
        ["clock", "", "clock", "", ""],
        ["changes", "", "changes", "", ""],
    ];
    let row = |[what, base, site, central, node]: [&str; 5]| {
        let side = |name: &str, field: &str| conflict.get(name).and_then(|side| side.get(field));
        json!({
            "what": what, "base": side("base", base), "site": side("site", site),
            "central": side("central", central),
            "now": now.and_then(|now| now.get(node)),
        })
    };
    ROWS.map(row).to_vec()
}

/// What a merge can set.
const FIELDS: &[Field] = &[
    Field::word("state"),
    Field::word("hostname").or_none(),
    Field::named("workflow", "workflow_id", &WORKFLOW),
    Field::named("group", "group_id", &GROUP),
    Field::list("tags"),
];

asks! {
    /// End a conflict: with the site's side, with the controller's, or with something of both.
    #[argh(
        subcommand,
        name = "resolve",
        example = "{command_name} 0b8f5c1e keep_local --comment 'seen at the console'",
        example = "{command_name} 0b8f5c1e merge state=active hostname=web1 --node-version 7",
        note = "Fields of merge: state, hostname, workflow, group, tags; what is not named stays as the controller has it. FIELD= takes \
                the value away."
    )]
    struct Resolve {
        /// its id or the beginning of it
        #[argh(positional)]
        conflict: String,

        /// how it ends: keep_local (the site's side), keep_central or merge
        #[argh(positional)]
        resolution: Resolution,

        /// with merge, what the node is to be: FIELD=VALUE, can be repeated
        #[argh(positional)]
        fields: Vec<String>,

        /// the version of the node that you have seen; needed if the node has changed since the conflict
        #[argh(option)]
        node_version: Option<u64>,

        /// why, for the node's history
        #[argh(option)]
        comment: Option<String>,

        /// try again what has failed three times
        #[argh(switch)]
        force: bool,
    }
}

impl Resolve {
    async fn run(self) -> anyhow::Result<()> {
        if (self.resolution == Resolution::Merge) == self.fields.is_empty() {
            let text = "merge wants what the node is to be, such as state=active; keep_local and keep_central take no fields";
            return Err(UsageError::new(text).into());
        }
        let session = self.session()?;
        let conflict = find(&session, &self.conflict).await?;
        let mut body = json!({
            "resolution": self.resolution, "node_version": self.node_version,
            "comment": self.comment, "force": self.force,
        });
        if let (Some(members), false) = (body.as_object_mut(), self.fields.is_empty()) {
            let fields = session.body(FIELDS, &self.fields, []).await?;
            members.insert("fields".to_owned(), fields);
        }
        let [first, second] = PATH;
        let path = [first, second, text(&conflict, "id"), "resolve"];
        let ended = session.client.send(Method::POST, &path, Query::new(), Some(&body)).await?;
        let version = ended.pointer("/outcome/node_version").and_then(Value::as_u64);
        let node = text(&ended, "node_id");
        let node = match version {
            Some(version) => format!("node {node} has version {version}"),
            None => format!("the controller has no node {node}"),
        };
        let (id, resolution) = (text(&ended, "id"), self.resolution);
        session.screen.done(&ended, &format!("conflict {id} ended with {resolution}; {node}"))
    }
}

asks! {
    /// End all conflicts of a site that wait, with the site's side or the controller's.
    #[argh(subcommand, name = "resolve-all", example = "{command_name} berlin keep_central --comment 'site restored'")]
    struct ResolveAll {
        /// the site's path, name or id
        #[argh(positional)]
        site: String,

        /// how they end: keep_local (the site's side) or keep_central
        #[argh(positional)]
        resolution: Resolution,

        /// why, for the nodes' histories
        #[argh(option)]
        comment: Option<String>,
    }
}

/// What of a site's conflicts stays as it is.
const UNRESOLVED: &[Column] =
    &[Column::plain("CONFLICT", "conflict_id"), Column::plain("STAYS OPEN BECAUSE", "error")];

impl ResolveAll {
    async fn run(self) -> anyhow::Result<()> {
        if self.resolution == Resolution::Merge {
            let text = "expected keep_local or keep_central; `conflict resolve` merges one by one";
            return Err(UsageError::new(text).into());
        }
        let session = self.session()?;
        let site = session.find(&SITE, &self.site).await?;
        let path = [SITE.path, text(&site, "id"), "conflicts", "resolve-all"];
        let body = json!({"resolution": self.resolution, "comment": self.comment});
        let all = session.client.send(Method::POST, &path, Query::new(), Some(&body)).await?;
        let [resolved, failed, remaining] = ["resolved", "failed", "remaining"]
            .map(|field| all.get(field).and_then(Value::as_u64).unwrap_or_default());
        let (resolution, label) = (self.resolution, label(&SITE, &site));
        session.screen.done(
            &all,
            &format!(
                "ended {resolved} conflicts of {label} with {resolution}; {remaining} are open"
            ),
        )?;
        if failed == 0 {
            return Ok(());
        }
        if !session.screen.is_json {
            let errors = all.get("errors").and_then(Value::as_array);
            session.screen.rows(errors.map(Vec::as_slice).unwrap_or_default(), UNRESOLVED)?;
        }
        bail!(
            "{failed} conflicts of {label} cannot end with {resolution}; `conflict show` tells more of each"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cells of a row: what it is about, the base, the site, the controller, the node now.
    fn cells(row: &Value) -> [Value; 5] {
        ["what", "base", "site", "central", "now"].map(|name| row[name].clone())
    }

    #[test]
    fn both_sides_stand_beside_each_other_and_what_one_lacks_is_nothing() {
        let conflict = json!({
            "base": {"state": "pending", "version": 2},
            "site": {"state": "retired", "base_version": 2, "at": "09:00", "clock": "synced", "changes": 1},
            "central": {"state": "installing", "version": 3, "changed_at": "10:00"},
        });
        let now = json!({"state": "active", "version": 7, "updated_at": "11:00"});
        let rows: Vec<_> = sides(&conflict, Some(&now)).iter().map(cells).collect();
        let row = |row: Value| -> [Value; 5] { serde_json::from_value(row).expect("five cells") };
        assert_eq!(
            rows,
            [
                row(json!(["state", "pending", "retired", "installing", "active"])),
                row(json!(["base version", null, 2, null, null])),
                row(json!(["version", 2, null, 3, 7])),
                row(json!(["changed at", null, "09:00", "10:00", "11:00"])),
                row(json!(["clock", null, "synced", null, null])),
                row(json!(["changes", null, 1, null, null])),
            ]
        );
        let unknown = json!({"site": {"state": "active"}, "central": null});
        let rows = sides(&unknown, None);
        assert_eq!(cells(&rows[0]), row(json!(["state", null, "active", null, null])));
        assert_eq!(cells(&rows[2]), row(json!(["version", null, null, null, null])));
    }
}
