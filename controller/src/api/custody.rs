//! Conflicts and parked changes: what sites have handed over and what had no effect.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use pureboot_protocol::SiteId;

use crate::error::ApiError;
use crate::extract::{Id, json};
use crate::router::App;
use crate::store::Paging;

/// `GET /sync/conflicts`: those of all sites.
pub(crate) async fn all_conflicts(
    State(app): State<App>,
    paging: Paging,
) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &app.store.conflicts(None, &paging).await?))
}

/// `GET /sites/{id}/conflicts`.
pub(crate) async fn conflicts(
    State(app): State<App>,
    Id(id): Id<SiteId>,
    paging: Paging,
) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &app.store.conflicts(Some(id), &paging).await?))
}

/// `GET /sites/{id}/parked`.
pub(crate) async fn parked(
    State(app): State<App>,
    Id(id): Id<SiteId>,
    paging: Paging,
) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &app.store.parked(id, &paging).await?))
}
