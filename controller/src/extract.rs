//! How a handler takes its arguments out of a request; each refusal is an [`ApiError`].

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::header::{CONTENT_TYPE, ETAG, IF_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use pureboot_protocol::{Mac, Success};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::error::Category;

use crate::api::check::Check;
use crate::error::ApiError;
use crate::store::{Cursor, Paging};

/// A body in JSON. 413 if it is too large, 415 if it is something else, 400 if it does not parse, 422 if its fields do not.
pub(crate) struct Json<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        is_json(request.headers())?;
        let path = request.uri().path().to_owned();
        let known = request.extensions().get::<KnownFields>().copied();
        let body = Bytes::from_request(request, state).await.map_err(|error| {
            let (code, detail) = match error.status() {
                StatusCode::PAYLOAD_TOO_LARGE => {
                    ("too_large", format!("the body is larger than '{path}' takes"))
                }
                _ => ("body_incomplete", "the body did not arrive whole".to_owned()),
            };
            ApiError::Refused { status: error.status(), code, detail }
        })?;
        if let Some(known) = known {
            known.check(&body)?;
        }
        let mut json = serde_json::Deserializer::from_slice(&body);
        let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            match error.inner().classify() {
                Category::Data => field_error(&error),
                Category::Io | Category::Syntax | Category::Eof => not_json(error.inner()),
            }
        })?;
        json.end().map_err(|error| not_json(&error))?;
        Ok(Self(value))
    }
}

/// The fields that a body of the route may have. Its presence in a request makes others an error: an operator who
/// misspells a field must hear of it, while an agent may be newer than its controller (FAULTS U7).
#[derive(Debug, Clone, Copy)]
pub(crate) struct KnownFields(pub(crate) &'static [String]);

impl KnownFields {
    /// # Errors
    /// 422 that names every member of `body` that is unknown. What is no object is left to others.
    fn check(self, body: &[u8]) -> Result<(), ApiError> {
        let members = serde_json::from_slice::<BTreeMap<String, IgnoredAny>>(body);
        let members = members.unwrap_or_default();
        let known: Vec<_> = self.0.iter().map(String::as_str).collect();
        unknown_fields(members.keys().filter(|name| !known.contains(&name.as_str())), &known)
    }
}

/// Refuses the fields `unknown`, if there are any.
///
/// # Errors
/// 422 that names each of them, and those that there are.
pub(crate) fn unknown_fields<'a>(
    unknown: impl Iterator<Item = &'a String>,
    known: &[&str],
) -> Result<(), ApiError> {
    let message = match known {
        [] => "there is no such field; the body has none".to_owned(),
        known => format!("there is no such field; there are {}", known.join(", ")),
    };
    let mut check = Check::default();
    unknown.for_each(|name| check.require(&short(name), false, &message));
    check.done()
}

/// As much of a word of a client's as is repeated to it.
pub(crate) fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

fn is_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(kind) = headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?")) else {
        return Ok(());
    };
    if kind.split(';').next().unwrap_or("").trim().eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let detail =
        format!("a body of type '{kind}' is not understood, send Content-Type: application/json");
    let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    Err(ApiError::Refused { status, code: "unsupported_media_type", detail })
}

fn not_json(error: &serde_json::Error) -> ApiError {
    ApiError::bad_request("malformed_json", format!("the body is not JSON: {error}"))
}

fn field_error(error: &serde_path_to_error::Error<serde_json::Error>) -> ApiError {
    let message = error.inner().to_string();
    // serde_json adds the place in the text, which is of no use to who reads the field's name.
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(text, _)| text);
    let missing = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
    match (error.path().to_string(), missing) {
        (path, Some(field)) if path == "." => ApiError::invalid(field, "this field is required"),
        (path, Some(field)) => {
            ApiError::invalid(&format!("{path}.{field}"), "this field is required")
        }
        (path, None) if path == "." => ApiError::invalid("body", message),
        (path, None) => ApiError::invalid(&path, message),
    }
}

/// Reads `value` as `T`.
///
/// # Errors
/// 422 that names the field.
pub(crate) fn fields<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(value).map_err(|error| field_error(&error))
}

/// The query's parameters; 422 if they do not validate.
pub(crate) struct Query<T>(pub(crate) T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        axum::extract::Query::try_from_uri(&parts.uri)
            .map(|axum::extract::Query(query)| Self(query))
            .map_err(|error| parameter_error(&error.body_text()))
    }
}

/// `text` is axum's, with the parameter's name in front if there is one.
fn parameter_error(text: &str) -> ApiError {
    let text = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(text);
    let missing = text.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
    match (missing, text.split_once(": ")) {
        (Some(name), _) => ApiError::invalid(name, "this parameter is required"),
        (None, Some((name, message))) if is_name(name) => ApiError::invalid(name, message),
        (None, _) => ApiError::invalid("query", text),
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

/// The part of a list that is asked for: `limit`, 1 to 500 and 100 by default, and `cursor`.
impl<S: Sync> FromRequestParts<S> for Paging {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        #[derive(Deserialize)]
        struct Parameters {
            limit: Option<String>,
            cursor: Option<String>,
        }
        let Query(Parameters { limit, cursor }) = Query::from_request_parts(parts, state).await?;
        let limit = match limit.as_deref().map(str::parse) {
            None => Self::LIMIT_DEFAULT,
            Some(Ok(limit)) if (1..=Self::LIMIT_MAX).contains(&limit) => limit,
            Some(_) => {
                let message = format!("expected a number from 1 to {}", Self::LIMIT_MAX);
                return Err(ApiError::invalid("limit", message));
            }
        };
        let after = match cursor.as_deref().map(Cursor::from_str) {
            None => None,
            Some(Ok(cursor)) => Some(cursor),
            Some(Err(())) => {
                let message = "this is no next_cursor of an earlier answer";
                return Err(ApiError::invalid("cursor", message));
            }
        };
        Ok(Self { limit, after })
    }
}

/// The id in the path; 404 if it is none, as for one that names nothing.
pub(crate) struct Id<T>(pub(crate) T);

impl<S: Send + Sync, T: FromStr> FromRequestParts<S> for Id<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let text = Path::<String>::from_request_parts(parts, state).await;
        let text = text.map(|Path(text)| text).unwrap_or_default();
        text.parse().map(Self).map_err(|_| ApiError::missing("resource with the id", short(&text)))
    }
}

/// The id in the path and the word behind it; 404 if the id is none.
pub(crate) struct IdAndWord<T>(pub(crate) T, pub(crate) String);

impl<S: Send + Sync, T: FromStr> FromRequestParts<S> for IdAndWord<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let texts = Path::<(String, String)>::from_request_parts(parts, state).await;
        let (id, word) = texts.map(|Path(texts)| texts).unwrap_or_default();
        let parsed = id.parse().map_err(|_| ApiError::missing("resource with the id", short(&id)));
        Ok(Self(parsed?, short(&word)))
    }
}

/// The number of a version that a path names; 404 if it is none.
///
/// # Errors
/// It is no number.
pub(crate) fn number(version: &str) -> Result<u64, ApiError> {
    version.parse().map_err(|_| ApiError::missing("version", version))
}

/// The version that the client knows, from `If-Match`; none if it does not say or says `*`.
pub(crate) struct IfMatch(pub(crate) Option<u64>);

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let Some(value) = parts.headers.get(IF_MATCH) else { return Ok(Self(None)) };
        let text = value.to_str().unwrap_or("?").trim();
        if text == "*" {
            return Ok(Self(None));
        }
        let quoted = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        quoted.unwrap_or(text).parse().map(|version| Self(Some(version))).map_err(|_| {
            ApiError::bad_request(
                "malformed_if_match",
                "If-Match must hold the version, such as \"3\"",
            )
        })
    }
}

/// The address that the request came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

impl Peer {
    /// The address without port.
    pub(crate) fn ip(self) -> IpAddr {
        self.0.ip()
    }
}

impl<S: Sync> FromRequestParts<S> for Peer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let peer = parts.extensions.get().copied();
        peer.ok_or(ApiError::Internal("the accept loop has not named the peer".into()))
    }
}

/// Reads a MAC address in any of its three forms.
///
/// # Errors
/// 400 that names the forms.
pub(crate) fn mac(text: &str) -> Result<Mac, ApiError> {
    text.parse().map_err(|error| ApiError::bad_request("invalid_mac", error))
}

/// For a field of a patch that may be null: tells null, which clears, from absence, which leaves as it is.
///
/// # Errors
/// Those of the value.
pub(crate) fn nullable<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

/// An answer in JSON.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let body = serde_json::to_vec(body).expect("an answer's types have names for keys");
    (status, [(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}

/// One resource, with its version as ETag.
pub(crate) fn resource(status: StatusCode, version: u64, data: impl Serialize) -> Response {
    let mut response = json(status, &Success::new(data));
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{version}\"")) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}
