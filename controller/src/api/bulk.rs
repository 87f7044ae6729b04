//! `/nodes/bulk`: one edit for many nodes, of which some may refuse it.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use pureboot_protocol::{GroupId, Lifecycle, NodeId, Success, WorkflowId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json as value;

use crate::api::check::Check;
use crate::audit::Note;
use crate::correlation::CorrelationId;
use crate::error::ApiError;
use crate::extract::{Json, json};
use crate::router::App;
use crate::store::{Edit, Origin};

/// Nodes that one request may name.
const NODES_MAX: usize = 500;

/// A request: the nodes, and what is to be done to each.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Bulk<T> {
    node_ids: Vec<NodeId>,
    #[serde(flatten)]
    edit: T,
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct AssignGroup {
    /// Null takes the nodes out of their groups.
    #[serde(deserialize_with = "Option::deserialize")]
    group_id: Option<GroupId>,
}

/// `POST /nodes/bulk/assign-group`.
pub(crate) async fn assign_group(
    State(app): State<App>,
    correlation_id: CorrelationId,
    Json(bulk): Json<Bulk<AssignGroup>>,
) -> Result<Response, ApiError> {
    edit(app, correlation_id, bulk.node_ids, Edit::Group(bulk.edit.group_id)).await
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct AssignWorkflow {
    /// Null leaves it to the nodes' groups.
    #[serde(deserialize_with = "Option::deserialize")]
    workflow_id: Option<WorkflowId>,
}

/// `POST /nodes/bulk/assign-workflow`.
pub(crate) async fn assign_workflow(
    State(app): State<App>,
    correlation_id: CorrelationId,
    Json(bulk): Json<Bulk<AssignWorkflow>>,
) -> Result<Response, ApiError> {
    edit(app, correlation_id, bulk.node_ids, Edit::Workflow(bulk.edit.workflow_id)).await
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Tag {
    tag: String,
}

impl Tag {
    /// The tag in lower case.
    ///
    /// # Errors
    /// 422 if it is none.
    pub(super) fn checked(mut self) -> Result<String, ApiError> {
        let mut check = Check::default();
        check.tag("tag", &mut self.tag);
        check.done()?;
        Ok(self.tag)
    }
}

/// `POST /nodes/bulk/add-tag`.
pub(crate) async fn add_tag(
    State(app): State<App>,
    correlation_id: CorrelationId,
    Json(bulk): Json<Bulk<Tag>>,
) -> Result<Response, ApiError> {
    edit(app, correlation_id, bulk.node_ids, Edit::AddTag(bulk.edit.checked()?)).await
}

/// `POST /nodes/bulk/remove-tag`.
pub(crate) async fn remove_tag(
    State(app): State<App>,
    correlation_id: CorrelationId,
    Json(bulk): Json<Bulk<Tag>>,
) -> Result<Response, ApiError> {
    edit(app, correlation_id, bulk.node_ids, Edit::RemoveTag(bulk.edit.checked()?)).await
}

/// An order to move to another state.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct StateOrder {
    state: Lifecycle,
    #[serde(default)]
    comment: Option<String>,
    #[serde(default)]
    force: bool,
}

impl StateOrder {
    /// The edit that is ordered.
    ///
    /// # Errors
    /// 422 if the comment is none.
    pub(super) fn checked(self) -> Result<Edit, ApiError> {
        let mut check = Check::default();
        check.text("comment", self.comment.as_deref().unwrap_or_default());
        check.done()?;
        Ok(Edit::State { to: self.state, force: self.force, comment: self.comment })
    }
}

/// `POST /nodes/bulk/change-state`.
pub(crate) async fn change_state(
    State(app): State<App>,
    correlation_id: CorrelationId,
    Json(bulk): Json<Bulk<StateOrder>>,
) -> Result<Response, ApiError> {
    edit(app, correlation_id, bulk.node_ids, bulk.edit.checked()?).await
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Outcome {
    updated: usize,
    failed: usize,
    errors: Vec<Refusal>,
}

#[derive(Serialize, JsonSchema)]
struct Refusal {
    node_id: NodeId,
    error: String,
}

async fn edit(
    app: App,
    correlation_id: CorrelationId,
    node_ids: Vec<NodeId>,
    edit: Edit,
) -> Result<Response, ApiError> {
    let mut check = Check::default();
    let is_sane = (1..=NODES_MAX).contains(&node_ids.len());
    check.require("node_ids", is_sane, format!("expected 1 to {NODES_MAX} ids"));
    check.done()?;
    let origin = Origin { correlation_id: correlation_id.as_str(), now: app.now() };
    let refused = app.store.edit_nodes(&node_ids, &edit, origin).await?;
    let errors: Vec<_> = refused
        .into_iter()
        .map(|(node_id, error)| Refusal { node_id, error: error.to_string() })
        .collect();
    let (updated, failed) = (node_ids.len() - errors.len(), errors.len());
    tracing::info!(updated, failed, "an operator edited {updated} nodes at once, {failed} refused");
    let refused: Vec<_> = errors.iter().map(|refusal| refusal.node_id).collect();
    let note = Note::detail(value!({"node_ids": node_ids, "refused": refused}));
    Ok(note.on(json(StatusCode::OK, &Success::new(Outcome { updated, failed, errors }))))
}
