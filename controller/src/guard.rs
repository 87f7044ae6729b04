//! What stands before every handler: who calls, whether they may, how often, and the row of the audit.

use std::sync::{Arc, PoisonError};

use axum::body::{Body, HttpBody};
use axum::extract::{FromRequestParts, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use pureboot_protocol::CredentialHash;
use serde::Deserialize;
use serde_json::json;

use crate::audit::{self, Actor, Entry, Note};
use crate::auth::presented::{Presented, presented};
use crate::auth::{self, Caller, Role, origin};
use crate::correlation::CorrelationId;
use crate::error::ApiError;
use crate::extract::Peer;
use crate::router::App;

/// The largest answer that is looked into for the id of what was made, in bytes.
const ANSWER_LEN_MAX: u64 = 256 << 10;

/// The place of a guard in the table.
#[derive(Clone)]
pub(crate) struct Post {
    /// What handlers work with.
    pub(crate) app: App,
    /// Who may pass.
    pub(crate) role: Role,
    /// The route; parameters are in braces.
    pub(crate) path: &'static str,
}

/// Stands before every handler.
pub(crate) async fn guard(
    State(post): State<Post>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let (mut parts, body) = request.into_parts();
    let peer = Peer::from_request_parts(&mut parts, &()).await?;
    let caller = match post.role {
        Role::Anyone => {
            post.app.limits.unknown(peer.ip())?;
            None
        }
        role => {
            let (caller, credential) = authenticate(&post, &parts, peer).await?;
            auth::authorize(role, &parts.method, post.path, &caller)?;
            post.app.limits.known(credential)?;
            parts.extensions.insert(caller.clone());
            Some(caller)
        }
    };
    if !is_audited(post.role, &parts.method) {
        return Ok(next.run(Request::from_parts(parts, body)).await);
    }
    let entry = Arc::new(entry(&post, &mut parts, peer, caller.as_ref()).await);
    let work = next.run(Request::from_parts(parts, body));
    let response = audit::within(Arc::clone(&entry), work).await;
    complete(&post.app, Entry::clone(&entry), response).await
}

/// Every request that may change something, but for what agents say all day long.
fn is_audited(role: Role, method: &Method) -> bool {
    role != Role::Agent && !method.is_safe()
}

/// Finds out who calls.
async fn authenticate(
    post: &Post,
    parts: &Parts,
    peer: Peer,
) -> Result<(Caller, CredentialHash), ApiError> {
    let app = &post.app;
    let shown = presented(&parts.headers, app.cookie.name());
    let (caller, hash) = match shown.ok_or(ApiError::Unauthenticated)? {
        // The hash of 256 random bits needs no comparison in constant time: nothing can be learnt towards its preimage.
        Presented::Bearer(secret) => {
            let hash = auth::hash(&secret);
            (app.callers.find(hash, app.now()).await?, hash)
        }
        Presented::Cookie(secret) => {
            let hash = auth::hash(&secret);
            let operator = app.store.session(hash, app.now()).await?;
            if operator.is_some() {
                origin::check_cookie(&parts.method, &parts.headers)?;
            }
            (operator.map(Caller::Operator), hash)
        }
    };
    match caller {
        Some(caller) => Ok((caller, hash)),
        None => Err(refuse(post, parts, peer).await),
    }
}

/// Nobody has the credential that was shown.
async fn refuse(post: &Post, parts: &Parts, peer: Peer) -> ApiError {
    let (app, now) = (&post.app, post.app.now());
    if let Err(too_many) = app.limits.wrong_credential(peer.ip()) {
        return too_many;
    }
    let due = app.refusals.lock().unwrap_or_else(PoisonError::into_inner).count(peer.ip(), now);
    if let Some(count) = due {
        tracing::warn!(peer = %peer.ip(), count, "{} shows a credential that nobody has", peer.ip());
        let id = correlation_id(parts);
        let mut entry = Entry::new(now, Actor::nobody(), "credential.refused", id.as_str());
        entry.address = Some(peer.ip());
        entry.status = Some(StatusCode::UNAUTHORIZED.as_u16());
        entry.detail = Some(json!({"route": post.path, "count": count}));
        record(app, &entry).await;
    }
    ApiError::Unauthenticated
}

fn correlation_id(parts: &Parts) -> CorrelationId {
    parts.extensions.get().cloned().unwrap_or_else(|| CorrelationId::of(&HeaderMap::new()))
}

/// What is known before the handler runs.
async fn entry(post: &Post, parts: &mut Parts, peer: Peer, caller: Option<&Caller>) -> Entry {
    let params = RawPathParams::from_request_parts(parts, &()).await;
    let words: Vec<_> =
        params.iter().flat_map(|params| params.iter()).map(|(_, word)| word.to_owned()).collect();
    let actor = caller.map_or_else(Actor::nobody, Actor::from);
    let action = action(&parts.method, post.path);
    let mut entry = Entry::new(post.app.now(), actor, action, correlation_id(parts).as_str());
    entry.target = (!words.is_empty()).then(|| words.join("/"));
    entry.address = Some(peer.ip());
    entry
}

/// The verb and the route, as the audit names them.
pub(crate) fn action(method: &Method, path: &str) -> String {
    format!("{method} {}", path.strip_prefix("/api/v1").unwrap_or(path))
}

/// Writes down what became of the request.
async fn complete(app: &App, mut entry: Entry, response: Response) -> Result<Response, ApiError> {
    let status = response.status();
    entry.status = Some(status.as_u16());
    if !status.is_success() {
        // What is refused has mostly been rolled back, and its row with it.
        if entry.is_begun()
            && let Err(error) = app.store.note_refusal(&entry).await
        {
            tracing::error!(error = %error, "cannot complete the audit: {error}");
        }
        return Ok(response);
    }
    let (made, response) = match entry.target {
        None if status == StatusCode::CREATED => id_of_made(response).await?,
        _ => (None, response),
    };
    entry.target = entry.target.or(made);
    if let Some(note) = response.extensions().get::<Note>() {
        entry.complete(note.clone());
    }
    record(app, &entry).await;
    Ok(response)
}

/// Writes `entry` down. A request whose effect is there already is answered whatever becomes of that.
async fn record(app: &App, entry: &Entry) {
    if let Err(error) = app.store.record(entry).await {
        let (action, target) = (&entry.action, &entry.target);
        tracing::error!(error = %error, actor = entry.actor.name, action, target, "cannot write the audit: {error}");
    }
}

/// The id of what an answer says was made.
async fn id_of_made(response: Response) -> Result<(Option<String>, Response), ApiError> {
    #[derive(Deserialize)]
    struct Made {
        data: WithId,
    }
    #[derive(Deserialize)]
    struct WithId {
        id: String,
    }
    // What comes as a stream is let through as it is.
    if response.body().size_hint().exact().is_none_or(|len| len > ANSWER_LEN_MAX) {
        return Ok((None, response));
    }
    let (parts, body) = response.into_parts();
    let len_max = usize::try_from(ANSWER_LEN_MAX).unwrap_or(usize::MAX);
    let body = axum::body::to_bytes(body, len_max).await;
    let body = body.map_err(|error| ApiError::Internal(error.into()))?;
    let made = serde_json::from_slice::<Made>(&body).ok().map(|made| made.data.id);
    Ok((made, Response::from_parts(parts, Body::from(body))))
}
