//! Whether the program lives, and whether it can work.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use pureboot_protocol::Success;
use schemars::JsonSchema;
use serde::Serialize;

use crate::error::ApiError;
use crate::extract::json;
use crate::metrics::{MEDIA_TYPE, render};
use crate::router::App;

#[derive(Serialize, JsonSchema)]
pub(crate) struct Health {
    status: &'static str,
    version: &'static str,
}

const HEALTHY: Health = Health { status: "ok", version: env!("CARGO_PKG_VERSION") };

/// `GET /healthz`: the process answers.
pub(crate) async fn alive() -> Response {
    json(StatusCode::OK, &Success::new(HEALTHY))
}

/// `GET /metrics`: what a monitoring system reads.
pub(crate) async fn metrics(State(app): State<App>) -> Response {
    let media_type = HeaderValue::from_static(MEDIA_TYPE);
    ([(CONTENT_TYPE, media_type)], render(&app).await).into_response()
}

/// `GET /readyz`: the database answers too.
pub(crate) async fn ready(State(app): State<App>) -> Result<Response, ApiError> {
    app.store.ping().await.map_err(|error| {
        tracing::error!(error = %error, "the database does not answer: {error}");
        ApiError::Refused {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code: "database_unavailable",
            detail: "the database does not answer; the controller's log says why".to_owned(),
        }
    })?;
    Ok(json(StatusCode::OK, &Success::new(HEALTHY)))
}
