//! What operators do to nodes: to one, or to many at once.

use pureboot_protocol::{GroupId, Lifecycle, Node, NodeId, WorkflowId};
use sqlx::Acquire;

use crate::node;
use crate::store::logs::{self, Trigger};
use crate::store::nodes::{self, Origin};
use crate::store::row::DbConnection;
use crate::store::{Store, StoreError, check_version};

/// Something that an operator does to a node.
#[derive(Debug, Clone)]
pub(crate) enum Edit {
    /// Puts it in a group, or in none.
    Group(Option<GroupId>),
    /// Assigns what it is installed with, or leaves that to its group.
    Workflow(Option<WorkflowId>),
    /// Gives it a tag that it has not; in lower case.
    AddTag(String),
    /// Takes a tag away; in lower case.
    RemoveTag(String),
    /// Moves it to another state.
    State {
        /// Which.
        to: Lifecycle,
        /// Whether the operator insists.
        force: bool,
        /// Why, for the log.
        comment: Option<String>,
    },
}

impl Store {
    /// Does `edit` to one node.
    ///
    /// # Errors
    /// There is no such node, it has another version than `version`, or it does not take the edit.
    pub(crate) async fn edit_node(
        &self,
        id: NodeId,
        edit: &Edit,
        version: Option<u64>,
        origin: Origin<'_>,
    ) -> Result<Node, StoreError> {
        let mut tx = self.write().await?;
        check(&mut tx, edit).await?;
        let node = apply(&mut tx, id, edit, version, origin).await?;
        tx.commit().await?;
        Ok(node)
    }

    /// Does `edit` to each node that takes it; answers those that do not, with the reason, in the order of `ids`.
    ///
    /// # Errors
    /// `edit` names what does not exist, or the database fails. Then nothing is done.
    pub(crate) async fn edit_nodes(
        &self,
        ids: &[NodeId],
        edit: &Edit,
        origin: Origin<'_>,
    ) -> Result<Vec<(NodeId, StoreError)>, StoreError> {
        let mut tx = self.write().await?;
        check(&mut tx, edit).await?;
        let mut refused = Vec::new();
        for id in ids {
            let mut savepoint = tx.begin().await?;
            match apply(&mut savepoint, *id, edit, None, origin).await {
                Ok(_) => savepoint.commit().await?,
                Err(
                    error
                    @ (StoreError::Missing { .. } | StoreError::Order(_) | StoreError::Tag(_)),
                ) => {
                    savepoint.rollback().await?;
                    refused.push((*id, error));
                }
                Err(error) => return Err(error),
            }
        }
        tx.commit().await?;
        Ok(refused)
    }
}

/// Refuses an edit that names what does not exist.
async fn check(db: &mut DbConnection, edit: &Edit) -> Result<(), StoreError> {
    match edit {
        Edit::Group(group) => nodes::check_references(db, None, *group, None).await,
        Edit::Workflow(workflow) => nodes::check_references(db, *workflow, None, None).await,
        Edit::AddTag(_) | Edit::RemoveTag(_) | Edit::State { .. } => Ok(()),
    }
}

async fn apply(
    db: &mut DbConnection,
    id: NodeId,
    edit: &Edit,
    version: Option<u64>,
    origin: Origin<'_>,
) -> Result<Node, StoreError> {
    let before = nodes::load(db, id).await?;
    check_version(version, before.version)?;
    let mut node = before.clone();
    let mut moved = None;
    match edit {
        Edit::Group(group) => {
            node.group_id = *group;
            node::touch(&mut node, origin.now);
        }
        Edit::Workflow(workflow) => {
            node.workflow_id = *workflow;
            node::touch(&mut node, origin.now);
        }
        Edit::AddTag(tag) => node::add_tag(&mut node, tag, origin.now)?,
        Edit::RemoveTag(tag) => node::remove_tag(&mut node, tag, origin.now)?,
        Edit::State { to, force, .. } => {
            moved = Some(node::order(&mut node, *to, *force, origin.now)?);
        }
    }
    nodes::number_wish(db, &before, &mut node).await?;
    nodes::save(db, &node, None).await?;
    if let (Some(moved), Edit::State { comment, .. }) = (moved, edit) {
        logs::log_move(db, &node, moved, Trigger::Operator, comment.as_deref(), origin).await?;
    }
    Ok(node)
}
