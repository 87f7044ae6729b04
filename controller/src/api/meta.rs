//! `/nodes/{id}/meta`, `/groups/{id}/meta`, `/sites/{id}/meta`: facts of operators' own making, for templates.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use pureboot_protocol::{GroupId, NodeId, SiteId};

use crate::api::check::Check;
use crate::error::ApiError;
use crate::extract::{Id, IfMatch, Json, resource};
use crate::router::App;
use crate::store::MetaOwner;

/// Names to set, and names with null to take away (RFC 7396).
pub(crate) type Patch = BTreeMap<String, Option<String>>;

/// The longest text, in bytes.
const TEXT_LEN_MAX: usize = 1_024;

/// `GET /nodes/{id}/meta`.
pub(crate) async fn read_node(
    State(app): State<App>,
    Id(id): Id<NodeId>,
) -> Result<Response, ApiError> {
    read(&app, MetaOwner::Node(id)).await
}

/// `GET /groups/{id}/meta`.
pub(crate) async fn read_group(
    State(app): State<App>,
    Id(id): Id<GroupId>,
) -> Result<Response, ApiError> {
    read(&app, MetaOwner::Group(id)).await
}

/// `GET /sites/{id}/meta`.
pub(crate) async fn read_site(
    State(app): State<App>,
    Id(id): Id<SiteId>,
) -> Result<Response, ApiError> {
    read(&app, MetaOwner::Site(id)).await
}

/// `PATCH /nodes/{id}/meta`.
pub(crate) async fn update_node(
    State(app): State<App>,
    Id(id): Id<NodeId>,
    IfMatch(version): IfMatch,
    Json(patch): Json<Patch>,
) -> Result<Response, ApiError> {
    update(&app, MetaOwner::Node(id), patch, version).await
}

/// `PATCH /groups/{id}/meta`.
pub(crate) async fn update_group(
    State(app): State<App>,
    Id(id): Id<GroupId>,
    IfMatch(version): IfMatch,
    Json(patch): Json<Patch>,
) -> Result<Response, ApiError> {
    update(&app, MetaOwner::Group(id), patch, version).await
}

/// `PATCH /sites/{id}/meta`.
pub(crate) async fn update_site(
    State(app): State<App>,
    Id(id): Id<SiteId>,
    IfMatch(version): IfMatch,
    Json(patch): Json<Patch>,
) -> Result<Response, ApiError> {
    update(&app, MetaOwner::Site(id), patch, version).await
}

async fn read(app: &App, owner: MetaOwner) -> Result<Response, ApiError> {
    let view = app.store.meta(owner).await?;
    Ok(resource(StatusCode::OK, view.version, view))
}

async fn update(
    app: &App,
    owner: MetaOwner,
    patch: Patch,
    version: Option<u64>,
) -> Result<Response, ApiError> {
    let mut check = Check::default();
    for (name, text) in &patch {
        check.variable(name, name);
        let is_valid = text.as_ref().is_none_or(|text| text.len() <= TEXT_LEN_MAX);
        check.require(name, is_valid, format!("expected at most {TEXT_LEN_MAX} bytes"));
    }
    check.done()?;
    let view = app.store.update_meta(owner, patch, version, app.now()).await?;
    Ok(resource(StatusCode::OK, view.version, view))
}
