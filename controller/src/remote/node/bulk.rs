//! `node bulk`: one edit for many nodes.

use std::fmt;
use std::str::FromStr;

use anyhow::bail;
use reqwest::Method;
use serde_json::{Value, json};

use pureboot_protocol::Lifecycle;

use crate::config::UsageError;
use crate::print_line;
use crate::remote::arguments::asks;
use crate::remote::client::Query;
use crate::remote::resolve::{GROUP, NODE, SITE, WORKFLOW, text};
use crate::remote::session::Session;

/// Nodes that one request names; the API takes no more.
const NODES_MAX: usize = 500;

/// What is done to each of the nodes, as the API names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    AssignGroup,
    AssignWorkflow,
    AddTag,
    RemoveTag,
    ChangeState,
}

impl Action {
    const ALL: [Self; 5] =
        [Self::AssignGroup, Self::AssignWorkflow, Self::AddTag, Self::RemoveTag, Self::ChangeState];

    fn as_str(self) -> &'static str {
        match self {
            Self::AssignGroup => "assign-group",
            Self::AssignWorkflow => "assign-workflow",
            Self::AddTag => "add-tag",
            Self::RemoveTag => "remove-tag",
            Self::ChangeState => "change-state",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Action {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|action| action.as_str() == text).ok_or_else(|| {
            format!("'{text}' is none of {}", Self::ALL.map(Self::as_str).join(", "))
        })
    }
}

asks! {
    /// Do the same to many nodes, which are named or chosen; those that refuse it are told one by one.
    #[argh(
        subcommand,
        name = "bulk",
        example = "{command_name} add-tag rack1 web1 web2 52:54:00:12:34:56",
        example = "{command_name} assign-workflow debian --site berlin --state discovered",
        example = "{command_name} change-state pending --chosen-tag rack1 --comment 'new disks' --yes",
        note = "ACTION: assign-group, assign-workflow (VALUE - takes it away), add-tag, remove-tag, change-state."
    )]
    struct Bulk {
        /// what to do: assign-group, assign-workflow, add-tag, remove-tag or change-state
        #[argh(positional)]
        action: Action,

        /// the group, workflow, tag or state
        #[argh(positional)]
        value: String,

        /// the nodes: MAC addresses, hostnames or ids
        #[argh(positional)]
        nodes: Vec<String>,

        /// choose the nodes of this site
        #[argh(option)]
        site: Option<String>,

        /// choose the nodes in this group
        #[argh(option)]
        group: Option<String>,

        /// choose the nodes in this state
        #[argh(option)]
        state: Option<Lifecycle>,

        /// choose the nodes with this tag
        #[argh(option)]
        chosen_tag: Option<String>,

        /// with change-state: why, for the history
        #[argh(option)]
        comment: Option<String>,

        /// with change-state: try again what has failed three times
        #[argh(switch)]
        force: bool,

        /// do not ask before states are changed, which may have disks written
        #[argh(switch)]
        yes: bool,
    }
}

impl Bulk {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        if self.action != Action::ChangeState && (self.force || self.comment.is_some()) {
            return Err(UsageError::new("--force and --comment go with change-state").into());
        }
        let session = self.session()?;
        let edit = self.edit(&session).await?;
        let nodes = self.chosen(&session).await?;
        if self.action == Action::ChangeState {
            let question = format!("Move {} nodes to {}?", nodes.len(), self.value);
            session.confirm(self.yes, &question)?;
        }
        let mut outcome = Outcome::default();
        for nodes in nodes.chunks(NODES_MAX) {
            let mut body = edit.clone();
            if let Some(members) = body.as_object_mut() {
                members.insert("node_ids".to_owned(), nodes.into());
            }
            let path = [NODE.path, "bulk", self.action.as_str()];
            let answer =
                session.client.send(Method::POST, &path, Query::new(), Some(&body)).await?;
            outcome.add(&answer);
        }
        outcome.show(&session)
    }

    /// The body of the request but for its nodes.
    async fn edit(&self, session: &Session) -> anyhow::Result<Value> {
        let value = self.value.as_str();
        Ok(match (self.action, value) {
            (Action::AssignGroup, "-") => json!({ "group_id": null }),
            (Action::AssignGroup, group) => json!({ "group_id": session.id(&GROUP, group).await? }),
            (Action::AssignWorkflow, "-") => json!({ "workflow_id": null }),
            (Action::AssignWorkflow, workflow) => {
                json!({ "workflow_id": session.id(&WORKFLOW, workflow).await? })
            }
            (Action::AddTag | Action::RemoveTag, tag) => json!({ "tag": tag }),
            (Action::ChangeState, state) => {
                let state: Lifecycle =
                    state.parse().map_err(|error| UsageError::new(format!("{error}")))?;
                json!({ "state": state, "comment": self.comment, "force": self.force })
            }
        })
    }

    /// The ids of the nodes that are named or chosen.
    async fn chosen(&self, session: &Session) -> anyhow::Result<Vec<String>> {
        let mut query = Query::new();
        query.extend(self.state.map(|state| ("state", state.to_string())));
        query.extend(self.chosen_tag.clone().map(|tag| ("tag", tag)));
        if let Some(site) = &self.site {
            query.push(("site_id", session.id(&SITE, site).await?));
        }
        if let Some(group) = &self.group {
            query.push(("group_id", session.id(&GROUP, group).await?));
        }
        if self.nodes.is_empty() == query.is_empty() {
            let text = "name the nodes, or choose them by --site, --group, --state or --chosen-tag";
            return Err(UsageError::new(text).into());
        }
        let mut ids = Vec::new();
        for node in &self.nodes {
            ids.push(session.id(&NODE, node).await?);
        }
        if !query.is_empty() {
            let rows = session.client.list(&[NODE.path], query, None).await?;
            ids.extend(rows.iter().map(|row| text(row, "id").to_owned()));
        }
        if ids.is_empty() {
            bail!("no node is chosen; `node ls` with the same filters shows none either");
        }
        Ok(ids)
    }
}

/// What became of all of it.
#[derive(Debug, Default)]
struct Outcome {
    updated: u64,
    errors: Vec<Value>,
}

impl Outcome {
    fn add(&mut self, answer: &Value) {
        self.updated += answer.get("updated").and_then(Value::as_u64).unwrap_or(0);
        let errors = answer.get("errors").and_then(Value::as_array);
        self.errors.extend(errors.into_iter().flatten().cloned());
    }

    /// Fails where a node has refused.
    fn show(self, session: &Session) -> anyhow::Result<()> {
        let Self { updated, errors } = self;
        if session.screen.is_json {
            let (failed, errors) = (errors.len(), &errors);
            let outcome = json!({ "updated": updated, "failed": failed, "errors": errors });
            session.screen.json(&outcome)?;
        } else {
            print_line(&format!("changed {updated} nodes"))?;
            for error in &errors {
                print_line(&format!("{}: {}", text(error, "node_id"), text(error, "error")))?;
            }
        }
        match errors.len() {
            0 => Ok(()),
            failed => bail!("{failed} nodes have not been changed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_is_what_the_api_calls_it() {
        for action in Action::ALL {
            assert_eq!(action.to_string().parse(), Ok(action));
        }
        let error = "add".parse::<Action>().expect_err("none");
        assert!(
            error.contains("'add' is none of assign-group, assign-workflow, add-tag"),
            "{error}"
        );
    }

    #[test]
    fn what_became_of_several_requests_is_added_up() {
        let mut outcome = Outcome::default();
        outcome
            .add(&json!({"updated": 2, "failed": 1, "errors": [{"node_id": "a", "error": "b"}]}));
        outcome.add(&json!({"updated": 3, "failed": 0, "errors": []}));
        assert_eq!((outcome.updated, outcome.errors.len()), (5, 1));
    }
}
