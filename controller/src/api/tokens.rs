//! `/tokens`: what programs call with.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use pureboot_protocol::{Success, TokenId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json as value;

use crate::api::check::Check;
use crate::audit::Note;
use crate::auth::rank::Rank;
use crate::auth::scope::Scopes;
use crate::auth::token::{self, DAYS_DEFAULT};
use crate::auth::{self, Means, Operator};
use crate::error::ApiError;
use crate::extract::{Id, Json, json};
use crate::router::App;
use crate::store::{NewToken, Paging, Token};

/// `GET /tokens`: one's own; an admin's list is of all.
pub(crate) async fn list(
    State(app): State<App>,
    operator: Operator,
    paging: Paging,
) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &app.store.tokens(operator.own_tokens_only()?, &paging).await?))
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Wish {
    name: String,
    role: Option<Rank>,
    scopes: Option<Scopes>,
    #[serde(default = "days")]
    expires_in_days: u32,
}

fn days() -> u32 {
    DAYS_DEFAULT
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Issued {
    #[serde(flatten)]
    token: Token,
    /// Shown this once.
    secret: pureboot_protocol::Secret,
    message: &'static str,
}

/// `POST /tokens`: makes a token that may do no more than its owner, and lasts no longer than the one that it is made with.
pub(crate) async fn create(
    State(app): State<App>,
    operator: Operator,
    Json(wish): Json<Wish>,
) -> Result<Response, ApiError> {
    operator.without_scopes()?;
    let role = wish.role.unwrap_or(operator.rank);
    if role > operator.rank {
        return Err(ApiError::Rank { needed: role, held: operator.rank });
    }
    let mut check = Check::default();
    check.name(&wish.name);
    check.require("expires_in_days", token::DAYS.contains(&wish.expires_in_days), token::DAYS_TEXT);
    let beyond = wish.scopes.as_ref().and_then(|scopes| scopes.beyond(role));
    let fault = beyond.map(|scope| format!("{scope} needs the role {}", scope.rank()));
    check.require("scopes", fault.is_none(), fault.unwrap_or_default());
    check.done()?;
    let wished = app.now().plus_seconds(i64::from(wish.expires_in_days) * 24 * 3_600);
    let expires_at = match operator.means {
        Means::Token { expires_at: Some(end), .. } => wished.min(end),
        Means::Token { expires_at: None, .. } | Means::Session { .. } => wished,
    };
    let secret = token::secret();
    let new = NewToken {
        hash: auth::hash(&secret),
        name: wish.name,
        user: operator.user,
        role,
        scopes: wish.scopes,
        expires_at: Some(expires_at),
    };
    let token = app.store.create_token(new, app.now()).await?;
    tracing::info!(token = %token.id, role = %token.role, "made the token {:?}", token.name);
    let detail = value!({"name": token.name, "role": token.role, "scopes": token.scopes});
    let issued = Issued { token, secret, message: "The secret is shown once." };
    Ok(Note::detail(detail).on(json(StatusCode::CREATED, &Success::new(issued))))
}

/// `DELETE /tokens/{id}`: one's own; an admin may end any.
pub(crate) async fn revoke(
    State(app): State<App>,
    operator: Operator,
    Id(id): Id<TokenId>,
) -> Result<Response, ApiError> {
    operator.without_scopes()?;
    let token = app.store.revoke_token(id, operator.own_tokens_only()?, app.now()).await?;
    tracing::info!(token = %id, "revoked the token {:?}", token.name);
    Ok(json(StatusCode::OK, &Success::new(token)))
}
