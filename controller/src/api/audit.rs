//! `/audit`: who did what to what, when and from where.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use pureboot_protocol::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::error::ApiError;
use crate::extract::{Query, json};
use crate::router::App;
use crate::store::{AuditFilter, Paging};

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Filter {
    actor: Option<String>,
    action: Option<String>,
    target: Option<String>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    correlation_id: Option<String>,
}

/// `GET /audit`.
pub(crate) async fn list(
    State(app): State<App>,
    paging: Paging,
    Query(filter): Query<Filter>,
) -> Result<Response, ApiError> {
    let Filter { actor, action, target, since, until, correlation_id } = filter;
    let filter = AuditFilter { actor, action, target, since, until, correlation_id };
    Ok(json(StatusCode::OK, &app.store.audit(&filter, &paging).await?))
}
