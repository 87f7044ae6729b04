//! Orders to the agents of sites, and to machines.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use pureboot_protocol::{
    Category, CommandId, ContentKey, Invalid, NodeId, NodeOrder, SiteId, SiteOrder, Success,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json as value};

use crate::audit::Note;
use crate::auth::Operator;
use crate::error::ApiError;
use crate::extract::{Id, IdAndWord, IfMatch, Json, fields, json, resource};
use crate::router::App;
use crate::store::{Command, CommandStatus, Enqueued, Paging};

/// What an agent is to do.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct NewCommand {
    /// `sync`, `invalidate`, `update_config` or `rotate_credential`.
    command: String,
    /// `force` and `categories` of `sync`; `mac`, or `category` and `path`, of `invalidate`.
    #[serde(default)]
    params: Map<String, Value>,
}

impl NewCommand {
    /// The order that is meant.
    fn checked(self) -> Result<SiteOrder, ApiError> {
        let order = fields(value!({"command": self.command, "params": self.params}))?;
        if let SiteOrder::Invalidate(Invalid::Content { category, path }) = &order {
            let key = ContentKey::new(*category, path);
            key.map_err(|error| ApiError::invalid("params.path", error))?;
        }
        if let SiteOrder::ResolveConflict { conflict_id, .. } = &order {
            let message = format!(
                "this is given by POST /api/v1/sync/conflicts/{conflict_id}/resolve, and by nothing else"
            );
            return Err(ApiError::invalid("command", message));
        }
        if let SiteOrder::Update { .. } = &order {
            let message =
                "this is given by POST /api/v1/sites/{id}/agent-update, and by nothing else";
            return Err(ApiError::invalid("command", message));
        }
        Ok(order)
    }
}

/// `GET /sites/{id}/commands`.
pub(crate) async fn list(
    State(app): State<App>,
    Id(site): Id<SiteId>,
    paging: Paging,
) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &app.store.commands(site, &paging).await?))
}

/// `POST /sites/{id}/commands`: 200 where the same waits already.
pub(crate) async fn create(
    State(app): State<App>,
    operator: Operator,
    Id(site): Id<SiteId>,
    Json(body): Json<NewCommand>,
) -> Result<Response, ApiError> {
    let enqueued = order(&app, site, body.checked()?, &operator).await?;
    let status = match &enqueued {
        Enqueued::New(_) => StatusCode::CREATED,
        Enqueued::Before(_) => StatusCode::OK,
    };
    let command = enqueued.command();
    let note = note(&command);
    Ok(note.on(json(status, &Success::new(command))))
}

/// `GET /sites/{id}/commands/{command_id}`.
pub(crate) async fn read(
    State(app): State<App>,
    IdAndWord(site, id): IdAndWord<SiteId>,
) -> Result<Response, ApiError> {
    let command = app.store.command(site, command_id(&id)?).await?;
    Ok(json(StatusCode::OK, &Success::new(command)))
}

/// `DELETE /sites/{id}/commands/{command_id}`: takes back what the agent has not been given.
pub(crate) async fn cancel(
    State(app): State<App>,
    IdAndWord(site, id): IdAndWord<SiteId>,
) -> Result<Response, ApiError> {
    let command = app.store.cancel_command(site, command_id(&id)?, app.now()).await?;
    let note = note(&command);
    Ok(note.on(json(StatusCode::OK, &Success::new(command))))
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct SyncWish {
    /// Looks at everything, even where nothing has changed.
    #[serde(default)]
    full_sync: bool,
    /// The categories of content to look at; all if empty.
    #[serde(default)]
    entity_types: Vec<Category>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct SyncOrdered {
    sync_id: CommandId,
    status: SyncStatus,
    message: String,
}

/// How far an ordered synchronisation is.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum SyncStatus {
    /// The agent has not said that it is at it.
    Queued,
    /// The agent is at it.
    Started,
}

/// `POST /sites/{id}/sync`.
pub(crate) async fn sync(
    State(app): State<App>,
    operator: Operator,
    Id(site): Id<SiteId>,
    Json(SyncWish { full_sync, mut entity_types }): Json<SyncWish>,
) -> Result<Response, ApiError> {
    entity_types.sort();
    entity_types.dedup();
    let wish = SiteOrder::Sync { force: full_sync, categories: entity_types };
    let command = order(&app, site, wish, &operator).await?.command();
    let (status, word) = match command.status {
        CommandStatus::Started => (SyncStatus::Started, "is at it"),
        _ => (SyncStatus::Queued, "is told with its next heartbeat"),
    };
    let id = command.id;
    let message =
        format!("the agent {word}; GET /api/v1/sites/{site}/commands/{id} says how far it is");
    let ordered = SyncOrdered { sync_id: id, status, message };
    Ok(note(&command).on(json(StatusCode::OK, &Success::new(ordered))))
}

/// Orders `order` of the agent of `site`.
pub(crate) async fn order(
    app: &App,
    site: SiteId,
    order: SiteOrder,
    operator: &Operator,
) -> Result<Enqueued, ApiError> {
    let said = match &order {
        // What is signed is told where it is made.
        SiteOrder::Update { .. } => "another version of itself".to_owned(),
        order => format!("{order:?}"),
    };
    let enqueued = app.store.order_site(site, order, &operator.name, app.now()).await?;
    if let Enqueued::New(Command { id, .. }) = &enqueued {
        tracing::info!(%site, command = %id, "an operator orders of the agent of site {site}: {said}");
    }
    Ok(enqueued)
}

/// What the audit is told of a command.
fn note(command: &Command) -> Note {
    Note::detail(value!({"command_id": command.id, "order": command.order}))
}

fn command_id(word: &str) -> Result<CommandId, ApiError> {
    word.parse().map_err(|_| ApiError::missing("command with the id", word))
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct NodeCommand {
    command: NodeOrder,
}

/// `POST /nodes/{id}/command`: what the node's own system is to do when it next asks.
pub(crate) async fn order_node(
    State(app): State<App>,
    operator: Operator,
    Id(id): Id<NodeId>,
    IfMatch(version): IfMatch,
    Json(body): Json<NodeCommand>,
) -> Result<Response, ApiError> {
    let (order, now) = (body.command, app.now());
    let node = app.store.order_node(id, Some(order), version, &operator.name, now).await?;
    tracing::info!(node = %id, command = %order, "an operator orders of node {}: {order}", node.mac_address);
    let note = Note::detail(value!({"pending_command": node.pending_command}));
    Ok(note.on(resource(StatusCode::OK, node.version, node)))
}

/// `DELETE /nodes/{id}/command`: takes back what the node has not acknowledged.
pub(crate) async fn take_back(
    State(app): State<App>,
    operator: Operator,
    Id(id): Id<NodeId>,
    IfMatch(version): IfMatch,
) -> Result<Response, ApiError> {
    let node = app.store.order_node(id, None, version, &operator.name, app.now()).await?;
    Ok(resource(StatusCode::OK, node.version, node))
}
