//! `/session`: how a person signs in at the page, and who one is.

use axum::extract::State;
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use pureboot_protocol::{Secret, Success, Timestamp, UserId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::users;
use crate::audit::{Actor, ActorKind, Entry, Note};
use crate::auth::presented::cookie;
use crate::auth::rank::Rank;
use crate::auth::scope::Scopes;
use crate::auth::{self, Means, Operator, origin};
use crate::correlation::CorrelationId;
use crate::error::ApiError;
use crate::extract::{Json, Peer, json};
use crate::random;
use crate::router::App;
use crate::store::{NewSession, SESSION_SECONDS, User};

/// The longest name that is looked for, in bytes; no account has a longer one.
const NAME_LEN_MAX: usize = 256;

/// Who somebody is. The field names are those of the HTTP surface.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Identity<'a> {
    user_id: Option<UserId>,
    name: &'a str,
    role: Rank,
    scopes: Option<&'a Scopes>,
    via: &'static str,
    expires_at: Option<Timestamp>,
}

impl<'a> From<&'a Operator> for Identity<'a> {
    fn from(operator: &'a Operator) -> Self {
        let (via, expires_at) = match &operator.means {
            Means::Session { expires_at, .. } => ("session", Some(*expires_at)),
            Means::Token { expires_at, .. } => ("token", *expires_at),
        };
        Self {
            user_id: operator.user,
            name: &operator.name,
            role: operator.rank,
            scopes: operator.scopes.as_ref(),
            via,
            expires_at,
        }
    }
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Credentials {
    username: String,
    password: Secret,
}

/// `POST /session`: signs in.
pub(crate) async fn begin(
    State(app): State<App>,
    peer: Peer,
    correlation_id: CorrelationId,
    headers: HeaderMap,
    Json(body): Json<Credentials>,
) -> Result<Response, ApiError> {
    origin::check_login(&headers)?;
    let attempt = Attempt { app: &app, peer, correlation_id: &correlation_id };
    let user = attempt.check(&body.username, body.password).await?;
    // Always a new secret, so that one which somebody has planted in the browser never becomes a session.
    let (secret, now) = (Secret::from_random(random::bytes()), app.now());
    let hash = auth::hash(&secret);
    let instead_of = cookie(&headers, app.cookie.name()).map(|old| auth::hash(&old));
    let session = NewSession { user: user.id, hash, address: peer.ip(), instead_of };
    app.store.begin_session(session, now).await?;
    tracing::info!(user = %user.id, "{} has signed in from {}", user.name, peer.ip());
    let expires_at = now.plus_seconds(SESSION_SECONDS);
    let identity = Identity {
        user_id: Some(user.id),
        name: &user.name,
        role: user.role,
        scopes: None,
        via: "session",
        expires_at: Some(expires_at),
    };
    let response = json(StatusCode::OK, &Success::new(identity));
    let note = Note { actor: Some(actor(&user)), action: Some("login"), ..Note::default() };
    Ok(note.on(with_cookie(response, app.cookie.set(&secret, SESSION_SECONDS))))
}

/// `GET /session`: who calls.
pub(crate) async fn read(operator: Operator) -> Response {
    json(StatusCode::OK, &Success::new(Identity::from(&operator)))
}

/// `DELETE /session`: signs out.
pub(crate) async fn end(State(app): State<App>, operator: Operator) -> Result<Response, ApiError> {
    let Means::Session { hash, .. } = operator.means else {
        let detail = "a token has no session to end; DELETE /api/v1/tokens/{id} revokes it";
        return Err(ApiError::bad_request("no_session", detail));
    };
    app.store.end_session(hash).await?;
    let response =
        json(StatusCode::OK, &Success::new(Identity { expires_at: None, ..(&operator).into() }));
    let note = Note { action: Some("logout"), ..Note::default() };
    Ok(note.on(with_cookie(response, app.cookie.clear())))
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct PasswordChange {
    current_password: Secret,
    new_password: Secret,
}

/// `POST /session/password`: gives oneself another password. All sessions end, this one as well.
pub(crate) async fn change_password(
    State(app): State<App>,
    peer: Peer,
    correlation_id: CorrelationId,
    operator: Operator,
    Json(body): Json<PasswordChange>,
) -> Result<Response, ApiError> {
    let Some(id) = operator.user else {
        let detail = "this token belongs to no account, so there is no password to change";
        return Err(ApiError::bad_request("no_account", detail));
    };
    operator.without_scopes()?;
    users::check_password(&operator.name, "new_password", &body.new_password)?;
    let attempt = Attempt { app: &app, peer, correlation_id: &correlation_id };
    attempt.check(&operator.name, body.current_password).await?;
    let password = app.passwords.hash(body.new_password).await?;
    let user = app.store.set_password(id, &password, app.now()).await?;
    tracing::info!(user = %user.id, "{} has another password", user.name);
    let response = json(StatusCode::OK, &Success::new(&user));
    let note = Note { target: Some(id.to_string()), ..Note::default() };
    Ok(note.on(with_cookie(response, app.cookie.clear())))
}

fn with_cookie(mut response: Response, cookie: HeaderValue) -> Response {
    response.headers_mut().insert(SET_COOKIE, cookie);
    response
}

fn actor(user: &User) -> Actor {
    Actor { kind: ActorKind::User, id: Some(user.id.to_string()), name: user.name.clone() }
}

/// Somebody who says a name and a password.
struct Attempt<'a> {
    app: &'a App,
    peer: Peer,
    correlation_id: &'a CorrelationId,
}

impl Attempt<'_> {
    /// The person, if name and password are right and the account is let in.
    ///
    /// # Errors
    /// 401 without a word on what was wrong, after the same work whatever it was; 429 after too many.
    async fn check(&self, name: &str, password: Secret) -> Result<User, ApiError> {
        let key = name.get(..NAME_LEN_MAX.min(name.len())).unwrap_or_default().to_lowercase();
        self.app.limits.may_sign_in(self.peer.ip(), &key)?;
        let known = match name.len() <= NAME_LEN_MAX {
            true => self.app.store.user_named(name).await?,
            false => None,
        };
        let (user, kept) = known.unzip();
        let is_right = self.app.passwords.is_right(password, kept).await?;
        match user {
            Some(user) if is_right && !user.disabled => Ok(user),
            user => {
                self.app.limits.wrong_password(self.peer.ip(), &key);
                self.note_failure(user).await;
                Err(ApiError::WrongPassword)
            }
        }
    }

    /// A name that nobody has is not written down: now and then it is a password.
    async fn note_failure(&self, user: Option<User>) {
        let (app, address) = (self.app, self.peer.ip());
        let named = user.as_ref().map_or("an unknown name", |user| user.name.as_str());
        tracing::warn!(peer = %address, "wrong password for {named} from {address}");
        let id = self.correlation_id.as_str();
        let mut entry = Entry::new(app.now(), Actor::nobody(), "login.failed", id);
        entry.target = user.map(|user| user.id.to_string());
        entry.address = Some(address);
        entry.status = Some(StatusCode::UNAUTHORIZED.as_u16());
        if let Err(error) = app.store.record(&entry).await {
            tracing::error!(error = %error, "cannot write the audit: {error}");
        }
    }
}
