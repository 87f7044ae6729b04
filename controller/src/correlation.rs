//! What a request is found under in the logs: `X-Correlation-ID` taken or made, answered, logged, put into every problem.

use std::convert::Infallible;
use std::time::Instant;

use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument;

use crate::{error, random};

const HEADER: HeaderName = HeaderName::from_static("x-correlation-id");
/// What agents say all day long, which says nothing to an operator as long as it is well.
const ROUTINE: [&str; 2] = ["/api/v1/agents/heartbeat", "/api/v1/agents/changes"];
/// The longest id that is taken over from a client.
const LEN_MAX: usize = 64;

/// The id of the request: 1 to 64 of `[A-Za-z0-9._-]`.
#[derive(Debug, Clone)]
pub(crate) struct CorrelationId(String);

impl CorrelationId {
    /// The text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The id that `headers` bring along, or a new one.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let is_sane = |text: &&str| {
            (1..=LEN_MAX).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        let taken = headers.get(HEADER).and_then(|value| value.to_str().ok()).filter(is_sane);
        let made = || format!("{:032x}", u128::from_be_bytes(random::bytes()));
        Self(taken.map_or_else(made, str::to_owned))
    }
}

impl<S: Sync> FromRequestParts<S> for CorrelationId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let known = parts.extensions.get().cloned();
        Ok(known.unwrap_or_else(|| Self::of(&parts.headers)))
    }
}

/// The outermost layer: gives the request its id, logs what became of it, and gives every error its body.
pub(crate) async fn correlate(mut request: Request, next: Next) -> Response {
    let id = CorrelationId::of(request.headers());
    request.extensions_mut().insert(id.clone());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let span = tracing::info_span!("request", correlation_id = id.as_str());
    async {
        let start = Instant::now();
        let response = next.run(request).await;
        let (status, duration_ms) = (response.status().as_u16(), start.elapsed().as_millis());
        // What only looks is of no interest to an operator until it fails.
        let is_quiet = (method.is_safe() && status < 500)
            || (ROUTINE.contains(&path.as_str()) && status < 400);
        if is_quiet {
            tracing::debug!(%method, path, status, duration_ms, "{method} {path:?}: {status}");
        } else {
            tracing::info!(%method, path, status, duration_ms, "{method} {path:?}: {status}");
        }
        let mut response = error::finish(response, &method, &path, id.as_str());
        if let Ok(value) = HeaderValue::from_str(id.as_str()) {
            response.headers_mut().insert(HEADER, value);
        }
        response
    }
    .instrument(span)
    .await
}
