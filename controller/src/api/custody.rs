//! Parked changes: what sites have handed over and what could not be applied.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use pureboot_protocol::SiteId;

use crate::error::ApiError;
use crate::extract::{Id, json};
use crate::router::App;
use crate::store::Paging;

/// `GET /sites/{id}/parked`.
pub(crate) async fn parked(
    State(app): State<App>,
    Id(id): Id<SiteId>,
    paging: Paging,
) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &app.store.parked(id, &paging).await?))
}
