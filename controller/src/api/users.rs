//! `/users`: people with an account.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use pureboot_protocol::{Secret, Success, UserId};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::api::check::Check;
use crate::auth::password;
use crate::auth::rank::Rank;
use crate::error::ApiError;
use crate::extract::{Id, Json, json};
use crate::router::App;
use crate::store::{NewUser, Paging, UserPatch};

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Account {
    name: String,
    password: Secret,
    #[serde(default = "least")]
    role: Rank,
}

fn least() -> Rank {
    Rank::Viewer
}

/// `GET /users`.
pub(crate) async fn list(State(app): State<App>, paging: Paging) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &app.store.users(&paging).await?))
}

/// `POST /users`.
pub(crate) async fn create(
    State(app): State<App>,
    Json(body): Json<Account>,
) -> Result<Response, ApiError> {
    let mut check = Check::default();
    check.user_name("name", &body.name);
    let fault = password::fault(&body.name, &body.password);
    check.require("password", fault.is_none(), fault.unwrap_or_default());
    check.done()?;
    let password = app.passwords.hash(body.password).await?;
    let user = NewUser { name: body.name, password, role: body.role };
    let user = app.store.create_user(user, app.now()).await?;
    tracing::info!(user = %user.id, role = %user.role, "made the account of {}", user.name);
    Ok(json(StatusCode::CREATED, &Success::new(user)))
}

/// `GET /users/{id}`.
pub(crate) async fn read(State(app): State<App>, Id(id): Id<UserId>) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &Success::new(app.store.user(id).await?)))
}

/// `PATCH /users/{id}`.
pub(crate) async fn update(
    State(app): State<App>,
    Id(id): Id<UserId>,
    Json(patch): Json<UserPatch>,
) -> Result<Response, ApiError> {
    let user = app.store.update_user(id, patch, app.now()).await?;
    let (role, disabled) = (user.role, user.disabled);
    tracing::info!(user = %id, %role, disabled, "changed the account of {}", user.name);
    Ok(json(StatusCode::OK, &Success::new(user)))
}

/// `DELETE /users/{id}`.
pub(crate) async fn delete(
    State(app): State<App>,
    Id(id): Id<UserId>,
) -> Result<Response, ApiError> {
    let user = app.store.delete_user(id).await?;
    tracing::info!(user = %id, "removed the account of {}", user.name);
    Ok(json(StatusCode::OK, &Success::new(user)))
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct PasswordReset {
    password: Secret,
}

/// `POST /users/{id}/password`: gives somebody another password.
pub(crate) async fn reset_password(
    State(app): State<App>,
    Id(id): Id<UserId>,
    Json(body): Json<PasswordReset>,
) -> Result<Response, ApiError> {
    let user = app.store.user(id).await?;
    check_password(&user.name, "password", &body.password)?;
    let password = app.passwords.hash(body.password).await?;
    let user = app.store.set_password(id, &password, app.now()).await?;
    tracing::info!(user = %id, "{} has another password", user.name);
    Ok(json(StatusCode::OK, &Success::new(user)))
}

/// Refuses a password that will not do for `name`.
///
/// # Errors
/// 422 for `field`.
pub(super) fn check_password(name: &str, field: &str, password: &Secret) -> Result<(), ApiError> {
    match password::fault(name, password) {
        None => Ok(()),
        Some(fault) => Err(ApiError::invalid(field, fault)),
    }
}
