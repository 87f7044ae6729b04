//! `/nodes`: the machines.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use pureboot_protocol::{GroupId, Lifecycle, Node, NodeId, SiteId, Success};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::bulk::{StateOrder, Tag};
use crate::api::check::Check;
use crate::auth::Operator;
use crate::correlation::CorrelationId;
use crate::error::ApiError;
use crate::extract::{Id, IdAndWord, IfMatch, Json, Query, json, mac, resource};
use crate::router::App;
use crate::store::{ClaimWord, Edit, NewNode, NodeFilter, NodePatch, Origin, Paging, StoreError};
use crate::{node, random};

/// `POST /nodes`.
pub(crate) async fn create(
    State(app): State<App>,
    Json(mut new): Json<NewNode>,
) -> Result<Response, ApiError> {
    let mac = mac(&new.mac_address)?;
    validate(new.hostname.as_deref(), Some(&mut new.tags))?;
    let node = Node {
        hostname: new.hostname,
        vendor: new.vendor,
        model: new.model,
        serial_number: new.serial_number,
        system_uuid: new.system_uuid,
        arch: new.arch,
        boot_mode: new.boot_mode,
        workflow_id: new.workflow_id,
        group_id: new.group_id,
        home_site_id: new.home_site_id,
        tags: new.tags,
        ..node::new(NodeId::from_random(random::bytes()), mac, app.now())
    };
    app.store.create_node(&node).await?;
    tracing::info!(node = %node.id, %mac, "made node {mac}");
    Ok(resource(StatusCode::CREATED, node.version, node))
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Filter {
    mac: Option<String>,
    state: Option<Lifecycle>,
    site_id: Option<SiteId>,
    group_id: Option<GroupId>,
    tag: Option<String>,
}

/// `GET /nodes`.
pub(crate) async fn list(
    State(app): State<App>,
    paging: Paging,
    Query(filter): Query<Filter>,
) -> Result<Response, ApiError> {
    let filter = NodeFilter {
        mac: filter.mac.as_deref().map(mac).transpose()?,
        state: filter.state,
        site_id: filter.site_id,
        group_id: filter.group_id,
        with_below: false,
        tag: filter.tag.map(|tag| tag.to_ascii_lowercase()),
    };
    Ok(json(StatusCode::OK, &app.store.nodes(&filter, &paging).await?))
}

/// `GET /nodes/{id}`.
pub(crate) async fn read(State(app): State<App>, Id(id): Id<NodeId>) -> Result<Response, ApiError> {
    let node = app.store.node(id).await?;
    Ok(resource(StatusCode::OK, node.version, node))
}

/// `PATCH /nodes/{id}`.
pub(crate) async fn update(
    State(app): State<App>,
    operator: Operator,
    Id(id): Id<NodeId>,
    IfMatch(version): IfMatch,
    Json(mut patch): Json<NodePatch>,
) -> Result<Response, ApiError> {
    validate(patch.hostname.as_ref().and_then(Option::as_deref), patch.tags.as_mut())?;
    let word = ClaimWord { name: Some(operator.name), comment: None };
    let node = app.store.update_node(id, patch, version, &word, app.now()).await?;
    Ok(resource(StatusCode::OK, node.version, node))
}

/// `PATCH /nodes/{id}/state`.
pub(crate) async fn order(
    State(app): State<App>,
    correlation_id: CorrelationId,
    Id(id): Id<NodeId>,
    IfMatch(version): IfMatch,
    Json(body): Json<StateOrder>,
) -> Result<Response, ApiError> {
    let origin = Origin { correlation_id: correlation_id.as_str(), now: app.now() };
    let node = app.store.edit_node(id, &body.checked()?, version, origin).await?;
    tracing::info!(node = %id, state = %node.state, "an operator moved node {} to {}", node.mac_address, node.state);
    Ok(resource(StatusCode::OK, node.version, node))
}

/// `DELETE /nodes/{id}`: retires the node. Doing it twice is doing it once.
pub(crate) async fn retire(
    State(app): State<App>,
    correlation_id: CorrelationId,
    Id(id): Id<NodeId>,
    IfMatch(version): IfMatch,
) -> Result<Response, ApiError> {
    let node = app.store.node(id).await?;
    if node.state == Lifecycle::Retired {
        return Ok(resource(StatusCode::OK, node.version, node));
    }
    let origin = Origin { correlation_id: correlation_id.as_str(), now: app.now() };
    let edit = Edit::State { to: Lifecycle::Retired, force: false, comment: None };
    let node = match app.store.edit_node(id, &edit, version, origin).await {
        // Every state leads there but itself, so somebody else has been faster.
        Err(StoreError::Order(_)) => app.store.node(id).await?,
        retired => retired?,
    };
    tracing::info!(node = %id, "an operator retired node {}", node.mac_address);
    Ok(resource(StatusCode::OK, node.version, node))
}

/// `POST /nodes/{id}/tags`.
pub(crate) async fn add_tag(
    State(app): State<App>,
    correlation_id: CorrelationId,
    Id(id): Id<NodeId>,
    IfMatch(version): IfMatch,
    Json(body): Json<Tag>,
) -> Result<Response, ApiError> {
    let origin = Origin { correlation_id: correlation_id.as_str(), now: app.now() };
    let edit = Edit::AddTag(body.checked()?);
    let node = app.store.edit_node(id, &edit, version, origin).await?;
    Ok(resource(StatusCode::OK, node.version, node))
}

/// `DELETE /nodes/{id}/tags/{tag}`.
pub(crate) async fn remove_tag(
    State(app): State<App>,
    correlation_id: CorrelationId,
    IdAndWord(id, tag): IdAndWord<NodeId>,
    IfMatch(version): IfMatch,
) -> Result<Response, ApiError> {
    let origin = Origin { correlation_id: correlation_id.as_str(), now: app.now() };
    let edit = Edit::RemoveTag(tag.to_ascii_lowercase());
    let node = app.store.edit_node(id, &edit, version, origin).await?;
    Ok(resource(StatusCode::OK, node.version, node))
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Stats {
    total: u64,
    /// Every state, those without nodes too.
    by_state: BTreeMap<Lifecycle, u64>,
}

/// `GET /nodes/stats`.
pub(crate) async fn stats(State(app): State<App>) -> Result<Response, ApiError> {
    let by_state = app.store.nodes_by_state().await?;
    let total = by_state.values().sum();
    Ok(json(StatusCode::OK, &Success::new(Stats { total, by_state })))
}

/// `GET /nodes/stalled`: those that install for longer than their workflow allows.
pub(crate) async fn stalled(State(app): State<App>, paging: Paging) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &app.store.stalled_installs(app.now(), &paging).await?))
}

/// `GET /nodes/{id}/history`: the moves of its state.
pub(crate) async fn history(
    State(app): State<App>,
    Id(id): Id<NodeId>,
    paging: Paging,
) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &app.store.node_history(id, &paging).await?))
}

/// `GET /nodes/{id}/events`: what was reported of it.
pub(crate) async fn events(
    State(app): State<App>,
    Id(id): Id<NodeId>,
    paging: Paging,
) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &app.store.node_events(id, &paging).await?))
}

fn validate(hostname: Option<&str>, tags: Option<&mut Vec<String>>) -> Result<(), ApiError> {
    let mut validation = Check::default();
    check(&mut validation, hostname, tags);
    validation.done()
}

/// What holds for the fields of a node that operators write.
pub(super) fn check(check: &mut Check, hostname: Option<&str>, tags: Option<&mut Vec<String>>) {
    if let Some(hostname) = hostname {
        // RFC 1123 §2.1: labels of letters, digits and inner hyphens, 63 each, 255 in all.
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let is_valid = hostname.len() <= 255 && hostname.split('.').all(is_label);
        check.require(
            "hostname",
            is_valid,
            "expected labels of letters, digits and inner hyphens, with dots between",
        );
    }
    if let Some(tags) = tags {
        check.tags(tags);
    }
}
