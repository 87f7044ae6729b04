//! `/secrets`: texts that come in, reach rendered files, and are shown to nobody.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use pureboot_protocol::{GroupId, Secret, Success};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::api::check::Check;
use crate::error::ApiError;
use crate::extract::{Json, Query, json};
use crate::router::App;
use crate::store::{Paging, secret_scope};
use crate::{random, vault};

/// The longest secret, in bytes: a private key fits.
const SECRET_LEN_MAX: usize = 8_192;

#[derive(Deserialize, JsonSchema)]
pub(crate) struct NewSecret {
    value: Secret,
    group_id: Option<GroupId>,
}

/// `PUT /secrets/{name}`: 201 for a new one, 200 in place of an old one.
pub(crate) async fn put(
    State(app): State<App>,
    Path(name): Path<String>,
    Json(new): Json<NewSecret>,
) -> Result<Response, ApiError> {
    let mut check = Check::default();
    check.variable("name", &name);
    let is_valid = (1..=SECRET_LEN_MAX).contains(&new.value.reveal().len());
    check.require("value", is_valid, format!("expected 1 to {SECRET_LEN_MAX} bytes"));
    check.done()?;
    let place = vault::place(&secret_scope(new.group_id), &name);
    let sealed = app.vault.seal(&place, &new.value, random::bytes());
    let (view, is_new) = app.store.put_secret(&name, new.group_id, &sealed, app.now()).await?;
    tracing::info!(secret = name, "secret {name} was set");
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(json(status, &Success::new(view)))
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Filter {
    group_id: Option<GroupId>,
}

/// `GET /secrets`: names, and never values.
pub(crate) async fn list(
    State(app): State<App>,
    paging: Paging,
    Query(filter): Query<Filter>,
) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &app.store.secrets(filter.group_id, &paging).await?))
}

/// `DELETE /secrets/{name}?group_id=`.
pub(crate) async fn delete(
    State(app): State<App>,
    Path(name): Path<String>,
    Query(filter): Query<Filter>,
) -> Result<Response, ApiError> {
    let view = app.store.delete_secret(&name, filter.group_id).await?;
    tracing::info!(secret = name, "secret {name} was deleted");
    Ok(json(StatusCode::OK, &Success::new(view)))
}
