//! `Idempotency-Key`: a client that has not heard the answer to a POST asks again with the same key, and it is done once.
//!
//! A key is the caller's own. What was done is answered again for a day, as it was; what was refused has done nothing and is tried
//! anew. Where the controller ended in between nobody can tell whether it was done, and the client is told that.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use pureboot_protocol::Timestamp;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::audit::Note;
use crate::auth::{Caller, Means, Operator};
use crate::error::ApiError;
use crate::router::{App, BODY_LEN_MAX};
use crate::store::{Asked, Before};

/// What a client names a request by.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Says of an answer that it was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The longest key, in characters.
const KEY_LEN_MAX: usize = 255;

/// The longest answer that is kept, in bytes.
const ANSWER_LEN_MAX: usize = 64 << 10;

/// How long a request may be under way, in seconds: twice what the router allows.
const UNDER_WAY_SECONDS: i64 = 20;

/// Routes whose answers show a secret, which is kept nowhere but as a hash.
const SHOWN_ONCE: [&str; 4] = [
    "/api/v1/tokens",
    "/api/v1/users",
    "/api/v1/users/{id}/password",
    "/api/v1/sites/{id}/agent-token",
];

/// The place of this in the table.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) app: App,
    /// The route; parameters are in braces.
    pub(crate) path: &'static str,
}

/// Does what a POST with a key asks for once.
///
/// # Errors
/// The key is none, was used for another request, or its request is under way or was cut short.
pub(crate) async fn once(
    State(place): State<Place>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let key = request.headers().get(IDEMPOTENCY_KEY).cloned();
    let caller = request.extensions().get::<Caller>().cloned();
    let (Some(key), Some(Caller::Operator(caller))) = (key, caller) else {
        return Ok(next.run(request).await);
    };
    if request.method() != Method::POST {
        return Ok(next.run(request).await);
    }
    let key = checked(&key)?;
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, BODY_LEN_MAX).await.map_err(|_| too_large())?;
    let mut digest = Sha256::new_with_prefix("pureboot request 1\n");
    digest.update(parts.uri.to_string());
    digest.update("\n");
    digest.update(&body);
    let digest = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let asked = Asked { caller: name(&caller), key, digest };
    let store = &place.app.store;
    match store.begin_once(&asked, place.app.now()).await? {
        Before::Nothing => {}
        before => return answered_before(before, place.app.now()),
    }
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    if !response.status().is_success() {
        store.forget_once(&asked).await?;
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    // What is answered to a POST is JSON of a bounded length; a longer answer is sent and not kept.
    let body = axum::body::to_bytes(body, usize::MAX).await;
    let body = body.map_err(|error| ApiError::Internal(error.into()))?;
    let is_kept = body.len() <= ANSWER_LEN_MAX && !SHOWN_ONCE.contains(&place.path);
    let text = std::str::from_utf8(&body).ok().filter(|_| is_kept);
    if let Err(error) = store.end_once(&asked, parts.status.as_u16(), text).await {
        // It is done, and answered as such; who asks again is told that nobody knows.
        tracing::error!(error = %error, "cannot keep an answer for its Idempotency-Key: {error}");
    }
    Ok(Response::from_parts(parts, Body::from(body)))
}

/// Whose keys they are: those of an account, or of a token without one.
fn name(caller: &Operator) -> String {
    match (caller.user, &caller.means) {
        (Some(user), _) => format!("user {user}"),
        (None, Means::Token { id, .. }) => format!("token {id}"),
        (None, Means::Session { .. }) => caller.name.clone(),
    }
}

fn checked(key: &HeaderValue) -> Result<String, ApiError> {
    let is_good = |key: &&str| {
        (1..=KEY_LEN_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
    };
    key.to_str().ok().filter(is_good).map(ToOwned::to_owned).ok_or_else(|| {
        let detail = format!(
            "an Idempotency-Key has 1 to {KEY_LEN_MAX} letters, digits and signs and no spaces, as a UUID has"
        );
        ApiError::bad_request("invalid_idempotency_key", detail)
    })
}

fn answered_before(before: Before, now: Timestamp) -> Result<Response, ApiError> {
    let refused = |status, code, detail: &str| {
        Err(ApiError::Refused { status, code, detail: detail.to_owned() })
    };
    match before {
        Before::Nothing | Before::Other => refused(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency_key_reused",
            "this Idempotency-Key came with another request before; take a new key for a new request",
        ),
        Before::Begun(at) if now.seconds_since(at) <= UNDER_WAY_SECONDS => refused(
            StatusCode::CONFLICT,
            "request_under_way",
            "the request with this Idempotency-Key is being done; ask again in some seconds",
        ),
        Before::Begun(_) => refused(
            StatusCode::CONFLICT,
            "outcome_unknown",
            "the controller ended while it did what this Idempotency-Key asks for; look whether it is done, and take a new key if not",
        ),
        Before::Done(_, None) => refused(
            StatusCode::CONFLICT,
            "answer_not_kept",
            "what this Idempotency-Key asks for is done; its answer is not kept, because it is long or shows a secret",
        ),
        Before::Done(status, Some(body)) => {
            let mut response = Response::new(Body::from(body));
            *response.status_mut() =
                StatusCode::from_u16(status).map_err(|error| ApiError::Internal(error.into()))?;
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert(REPLAYED, HeaderValue::from_static("true"));
            Ok(Note::detail(json!({"replayed": true})).on(response))
        }
    }
}

fn too_large() -> ApiError {
    ApiError::Refused {
        status: StatusCode::PAYLOAD_TOO_LARGE,
        code: "body_too_large",
        detail: format!("a body has at most {BODY_LEN_MAX} bytes"),
    }
}
