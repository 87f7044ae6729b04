//! `/groups`: nodes kept together, and what they inherit.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use pureboot_protocol::{GroupId, SiteId};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::api::sites;
use crate::error::ApiError;
use crate::extract::{Id, IfMatch, Json, Query, json, resource};
use crate::random;
use crate::router::App;
use crate::store::{Group, GroupFields, GroupFilter, NodeFilter, Paging, Site, SiteFields};

/// `POST /groups`.
pub(crate) async fn create(
    State(app): State<App>,
    Json(fields): Json<GroupFields>,
) -> Result<Response, ApiError> {
    let mut fields = SiteFields::from(fields);
    let name = fields.name.clone();
    let name = name.ok_or_else(|| ApiError::invalid("name", "this field is required"))?;
    sites::check(&mut fields)?;
    let site = Site::new(SiteId::from_random(random::bytes()), name, app.now());
    let group = app.store.create_site(Site { is_site: false, ..site }, fields).await?;
    tracing::info!(group = %group.id, "made group {:?}", group.path);
    Ok(resource(StatusCode::CREATED, group.version, Group::from(group)))
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Filter {
    #[serde(default)]
    root_only: bool,
    parent_id: Option<GroupId>,
}

/// `GET /groups`: sites are among them.
pub(crate) async fn list(
    State(app): State<App>,
    paging: Paging,
    Query(filter): Query<Filter>,
) -> Result<Response, ApiError> {
    let filter = match filter {
        Filter { root_only: false, parent_id: None } => GroupFilter::All,
        Filter { root_only: true, parent_id: None } => GroupFilter::Roots,
        Filter { root_only: false, parent_id: Some(id) } => GroupFilter::Children(id),
        Filter { root_only: true, parent_id: Some(_) } => {
            let message = "a group with a parent is no root; leave out one of the two";
            return Err(ApiError::invalid("root_only", message));
        }
    };
    Ok(json(StatusCode::OK, &app.store.groups(filter, &paging).await?))
}

/// `GET /groups/{id}`.
pub(crate) async fn read(
    State(app): State<App>,
    Id(id): Id<GroupId>,
) -> Result<Response, ApiError> {
    let group = app.store.group(id).await?;
    Ok(resource(StatusCode::OK, group.version, group))
}

/// `PATCH /groups/{id}`.
pub(crate) async fn update(
    State(app): State<App>,
    Id(id): Id<GroupId>,
    IfMatch(version): IfMatch,
    Json(fields): Json<GroupFields>,
) -> Result<Response, ApiError> {
    let mut fields = SiteFields::from(fields);
    sites::check(&mut fields)?;
    let group = app.store.update_group(id, fields, version, app.now()).await?;
    tracing::info!(group = %group.id, version = group.version, "changed group {:?}", group.path);
    Ok(resource(StatusCode::OK, group.version, group))
}

/// `DELETE /groups/{id}`.
pub(crate) async fn delete(
    State(app): State<App>,
    Id(id): Id<GroupId>,
    IfMatch(version): IfMatch,
) -> Result<Response, ApiError> {
    let group = app.store.delete_group(id, version).await?;
    tracing::info!(group = %group.id, "deleted group {:?}", group.path);
    Ok(resource(StatusCode::OK, group.version, group))
}

/// `GET /groups/{id}/ancestors`, from the top down.
pub(crate) async fn ancestors(
    State(app): State<App>,
    Id(id): Id<GroupId>,
    paging: Paging,
) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &app.store.ancestors(id, &paging).await?))
}

/// `GET /groups/{id}/descendants`.
pub(crate) async fn descendants(
    State(app): State<App>,
    Id(id): Id<GroupId>,
    paging: Paging,
) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &app.store.descendants(id, &paging).await?))
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Below {
    #[serde(default)]
    include_descendants: bool,
}

/// `GET /groups/{id}/nodes`.
pub(crate) async fn nodes(
    State(app): State<App>,
    Id(id): Id<GroupId>,
    paging: Paging,
    Query(below): Query<Below>,
) -> Result<Response, ApiError> {
    app.store.group(id).await?;
    let with_below = below.include_descendants;
    let filter = NodeFilter { group_id: Some(id), with_below, ..NodeFilter::default() };
    Ok(json(StatusCode::OK, &app.store.nodes(&filter, &paging).await?))
}
