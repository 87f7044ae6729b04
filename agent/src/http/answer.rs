//! The usual answers, and what every answer has in common.

use std::cell::RefCell;
use std::fmt;

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, StatusCode};
use pureboot_protocol::{FieldError, Problem, Success};
use serde::Serialize;

use super::Body;
use crate::rng::Rng;

const X_CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
const CORRELATION_ID_LEN_MAX: usize = 64;

/// What a service answers with.
pub type Response = hyper::Response<Body>;

/// What a request is found under in the logs of both programs: the peer's own word if it is harmless, else a random one.
///
/// The server puts it into the extensions of every request and into every answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorrelationId(String);

impl CorrelationId {
    /// The id of a request that the server handed to a service.
    pub fn of<B>(request: &Request<B>) -> Self {
        Self::in_extensions(request.extensions())
    }

    pub(super) fn in_extensions(extensions: &hyper::http::Extensions) -> Self {
        extensions.get().cloned().unwrap_or_else(Self::random)
    }

    /// Takes the peer's id, or makes one.
    pub(super) fn from_fields(fields: &HeaderMap) -> Self {
        let is_harmless = |text: &&str| {
            (1..=CORRELATION_ID_LEN_MAX).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        fields
            .get(X_CORRELATION_ID)
            .and_then(|value| value.to_str().ok())
            .filter(is_harmless)
            .map_or_else(Self::random, |text| Self(text.to_owned()))
    }

    /// An id is no secret, so the system is asked once for what all of them follow from.
    fn random() -> Self {
        thread_local! {
            static DRAW: RefCell<Rng> = RefCell::new(Rng::from_seed(seed()));
        }
        Self(format!("{:016x}", DRAW.with_borrow_mut(Rng::next_u64)))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn seed() -> u64 {
    let mut bytes = [0; 8];
    // Without random numbers each run draws the same ids: a worse log is better than no boot.
    _ = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

impl fmt::Display for CorrelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text of exactly this type. BOOT §5.4: firmware compares the type as a whole, so it carries no `charset`.
pub fn text(status: StatusCode, content_type: &'static str, text: impl Into<String>) -> Response {
    let mut response = Response::new(Body::from(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A script for iPXE, made for this one request.
pub fn script(script: String) -> Response {
    let mut response = text(StatusCode::OK, "text/plain", script);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// JSON with a status.
pub fn json<T: Serialize>(status: StatusCode, value: &T) -> Response {
    match serde_json::to_string(value) {
        Ok(json) => text(status, "application/json", json),
        // Types of the protocol always serialise; should one not, the peer gets the server's own 500.
        Err(error) => {
            log::error!(error:%; "cannot write an answer as JSON");
            let mut response = Response::new(Body::Empty);
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    }
}

/// `{"success": true, "data": …}` with status 200.
pub fn success<T: Serialize>(data: T) -> Response {
    json(StatusCode::OK, &Success::new(data))
}

/// `application/problem+json` (RFC 9457): `code` is for programs and never changes, `detail` is a sentence that names the value.
pub fn problem(
    status: StatusCode,
    code: &str,
    detail: impl Into<String>,
    correlation_id: &CorrelationId,
) -> Response {
    write_problem(status, code, detail.into(), vec![], correlation_id)
}

/// Status 422: the request was understood, and fields of it do not hold.
pub fn invalid(errors: Vec<FieldError>, correlation_id: &CorrelationId) -> Response {
    let details: Vec<_> =
        errors.iter().map(|error| format!("{}: {}", error.field, error.message)).collect();
    let status = StatusCode::UNPROCESSABLE_ENTITY;
    write_problem(status, "validation_failed", details.join("; "), errors, correlation_id)
}

fn write_problem(
    status: StatusCode,
    code: &str,
    detail: String,
    errors: Vec<FieldError>,
    correlation_id: &CorrelationId,
) -> Response {
    let problem = Problem {
        kind: "about:blank".to_owned(),
        title: status.canonical_reason().unwrap_or("Error").to_owned(),
        status: status.as_u16(),
        detail,
        code: code.to_owned(),
        correlation_id: correlation_id.to_string(),
        errors,
    };
    let mut response = json(status, &problem);
    let kind = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// Makes of a service's answer what goes out: with a length, with a body if it is an error, without one for HEAD.
pub(super) fn finish(mut response: Response, is_head: bool, id: &CorrelationId) -> Response {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    if is_error && response.body().is_empty() {
        // BOOT §5.5: shim waits for ever on an error without a body.
        let reason = status.canonical_reason().unwrap_or("error");
        let (parts, body) = problem(status, "error", reason, id).into_parts();
        *response.body_mut() = body;
        response.headers_mut().extend(parts.headers);
    }
    let has_length = !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if has_length {
        let len = response.body().len();
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(len));
    }
    // The rest of a body that came too late or is too long is not waited for.
    if matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if is_head || !has_length {
        *response.body_mut() = Body::Empty;
    }
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        response.headers_mut().insert(X_CORRELATION_ID, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(id: &[u8]) -> HeaderMap {
        let value = HeaderValue::from_bytes(id).expect("a field value");
        HeaderMap::from_iter([(X_CORRELATION_ID, value)])
    }

    #[test]
    fn a_sane_correlation_id_is_taken() {
        assert_eq!(CorrelationId::from_fields(&fields(b"node-7.a_B")).as_str(), "node-7.a_B");
    }

    #[test]
    fn h21_any_other_correlation_id_is_replaced() {
        for id in [&b""[..], b"a b", b"a\tb", b"\xff", b"<a>", &[b'a'; 65]] {
            let id = CorrelationId::from_fields(&fields(id));
            assert_eq!(id.as_str().len(), 16);
            assert!(id.as_str().bytes().all(|byte| byte.is_ascii_hexdigit()));
        }
    }

    #[test]
    fn ids_that_are_drawn_differ() {
        let drawn: std::collections::HashSet<_> =
            (0..1_000).map(|_| CorrelationId::random().to_string()).collect();
        assert_eq!(drawn.len(), 1_000);
    }

    #[test]
    fn an_error_without_body_is_given_one() {
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::NOT_FOUND;
        let id = CorrelationId::random();
        let response = finish(response, false, &id);
        assert!(!response.body().is_empty());
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(
            response.headers()[header::CONTENT_LENGTH],
            response.body().len().to_string().as_str()
        );
    }

    #[test]
    fn a_head_is_the_get_without_the_body() {
        let id = CorrelationId::random();
        let get = finish(script("#!ipxe\n".to_owned()), false, &id);
        let head = finish(script("#!ipxe\n".to_owned()), true, &id);
        assert_eq!(get.headers(), head.headers());
        assert_eq!((get.body().len(), head.body().len()), (7, 0));
    }

    #[test]
    fn what_has_no_body_by_definition_has_no_length() {
        for status in [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED] {
            let response = finish(text(status, "text/plain", "x"), false, &CorrelationId::random());
            assert!(!response.headers().contains_key(header::CONTENT_LENGTH));
            assert_eq!(response.body().len(), 0);
        }
    }
}
