//! `Idempotency-Key`: a client that has not heard the answer to a POST asks again with the same key, and it is done once.
//!
//! A key is the caller's own. What was done is answered again for a day, as it was; what was refused has done nothing and is tried
//! anew. So is what the controller left undone when it ended: every transaction of a request with a key says so in the key's row, and
//! where none did there was no effect. Where one did and the answer is lost the client is told that.

use std::future::Future;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::audit::Note;
use crate::auth::{Caller, Means, Operator};
use crate::error::ApiError;
use crate::random;
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

/// Routes whose answers show a secret, which is kept nowhere but as a hash.
const SHOWN_ONCE: [&str; 4] = [
    "/api/v1/tokens",
    "/api/v1/users",
    "/api/v1/users/{id}/password",
    "/api/v1/sites/{id}/agent-token",
];

tokio::task_local! {
    static CURRENT: Arc<Attempt>;
}

/// One attempt at what was asked for.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// What was asked for.
    pub(crate) asked: Asked,
    /// Drawn for it.
    pub(crate) id: String,
}

impl Attempt {
    /// The next one.
    pub(crate) fn at(asked: Asked) -> Self {
        Self { asked, id: format!("{:032x}", u128::from_be_bytes(random::bytes())) }
    }
}

/// Runs `work`, whose effects are those of `attempt`.
pub(crate) async fn within<F: Future>(attempt: Arc<Attempt>, work: F) -> F::Output {
    CURRENT.scope(attempt, work).await
}

/// The attempt that what is done here and now belongs to.
pub(crate) fn current() -> Option<Arc<Attempt>> {
    CURRENT.try_with(Arc::clone).ok()
}

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
    let attempt = Arc::new(Attempt::at(Asked { caller: name(&caller), key, digest }));
    let store = &place.app.store;
    match store.begin_once(&attempt, place.app.now()).await? {
        Before::Nothing => {}
        before => return answered_before(before),
    }
    let work = next.run(Request::from_parts(parts, Body::from(body)));
    let response = within(Arc::clone(&attempt), work).await;
    if !response.status().is_success() {
        store.forget_once(&attempt).await?;
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    // What is answered to a POST is JSON of a bounded length; a longer answer is sent and not kept.
    let body = axum::body::to_bytes(body, usize::MAX).await;
    let body = body.map_err(|error| ApiError::Internal(error.into()))?;
    let is_kept = body.len() <= ANSWER_LEN_MAX && !SHOWN_ONCE.contains(&place.path);
    let text = std::str::from_utf8(&body).ok().filter(|_| is_kept);
    if let Err(error) = store.end_once(&attempt, parts.status.as_u16(), text).await {
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

fn answered_before(before: Before) -> Result<Response, ApiError> {
    let refused = |status, code, detail: &str| {
        Err(ApiError::Refused { status, code, detail: detail.to_owned() })
    };
    match before {
        Before::Nothing | Before::Other => refused(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency_key_reused",
            "this Idempotency-Key came with another request before; take a new key for a new request",
        ),
        Before::UnderWay => refused(
            StatusCode::CONFLICT,
            "request_under_way",
            "the request with this Idempotency-Key is being done; ask again in some seconds",
        ),
        Before::CutShort => refused(
            StatusCode::CONFLICT,
            "outcome_unknown",
            "the controller ended after what this Idempotency-Key asks for had taken effect and before its answer was kept; look at \
             what is there, and take a new key for what a request of many steps has left undone",
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
