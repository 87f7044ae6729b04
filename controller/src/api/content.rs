//! `/content`: files by category and path, for operators; the same for agents, who fetch them.

use axum::body::Body;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::header::{
    ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_MATCH,
    IF_NONE_MATCH, IF_RANGE, RANGE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use pureboot_protocol::{Category, ContentHash, ContentKey, Success};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::content::{
    Condition, ObjectError, Part, ReceiveError, Tags, Upload, emit_digest, is_known, parse_digest,
    receive, tag,
};
use crate::error::ApiError;
use crate::extract::{Id, Query, json};
use crate::router::App;
use crate::serve::Progress;
use crate::store::{ContentEntry, ContentFilter, KeptObject, Named, Paging};

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");
const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

/// The name in the path: 404 if it is none, as for one that means nothing; 400 with what a name looks like for an upload.
pub(crate) struct Name(ContentKey);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let texts = Path::<(String, String)>::from_request_parts(parts, state).await;
        let (category, path) = texts.map(|Path(texts)| texts).unwrap_or_default();
        format!("{category}/{path}").parse().map(Self).map_err(|error| match parts.method {
            Method::PUT => ApiError::bad_request("invalid_content_name", error),
            _ => ApiError::missing("content", format!("{category}/{path}").escape_debug()),
        })
    }
}

/// `PUT /content/{category}/{path}`.
pub(crate) async fn put(
    State(app): State<App>,
    Name(key): Name,
    progress: Progress,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    check_hand_made(&key)?;
    let upload = upload(&app, key, &headers)?;
    // A wish that cannot be met is refused before its bytes have crossed the line, and again where they get their name.
    let current = app.store.content(&upload.key).await?.map(|(entry, _)| entry.sha256);
    if !upload.condition.holds(current.as_ref()) {
        let key = upload.key;
        return Err(crate::store::StoreError::Condition { key, current }.into());
    }
    let place = app.content.uploads.clone().try_acquire_owned().map_err(|_| ApiError::Refused {
        status: StatusCode::SERVICE_UNAVAILABLE,
        code: "busy",
        detail: "as many uploads as may be are under way, try again".to_owned(),
    })?;
    // On a task of its own: whoever hangs up does not stop what clears up behind the upload.
    let received = tokio::spawn(async move {
        let received = receive(&app, &upload, body, &progress).await;
        drop(place);
        received
    });
    let (entry, named) = received.await.map_err(|error| ApiError::Internal(error.into()))??;
    let status = if named == Named::Created { StatusCode::CREATED } else { StatusCode::OK };
    let name = format!("{}/{}", entry.category, entry.path);
    match named {
        Named::Unchanged => tracing::info!("{name} came again, unchanged"),
        Named::Created | Named::Replaced => {
            let ContentEntry { size_bytes, sha256, .. } = &entry;
            tracing::info!(size_bytes, %sha256, "{name} now means {size_bytes} bytes");
        }
    }
    Ok(described(status, entry))
}

/// Refuses names that come about in another way than by an upload of content.
fn check_hand_made(key: &ContentKey) -> Result<(), ApiError> {
    match key.category() {
        Category::Plugins => {
            let detail =
                format!("{key} belongs to a plugin: upload and delete those at /api/v1/plugins");
            Err(ApiError::bad_request("plugin_content", detail))
        }
        Category::Agents => {
            let detail = format!(
                "{key} is a version of the agent: upload and delete those at /api/v1/agents/releases"
            );
            Err(ApiError::bad_request("agent_content", detail))
        }
        Category::Bootloaders | Category::Scripts | Category::Templates | Category::Images => {
            Ok(())
        }
    }
}

/// What a request says of its body.
fn upload(app: &App, key: ContentKey, headers: &HeaderMap) -> Result<Upload, ApiError> {
    if let Some(coding) = headers.get(CONTENT_ENCODING).filter(|coding| *coding != "identity") {
        let coding = coding.to_str().unwrap_or("?");
        return Err(ApiError::Refused {
            status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
            code: "unsupported_media_type",
            detail: format!("content is kept as it comes, and not in Content-Encoding '{coding}'"),
        });
    }
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let size_bytes: u64 = length.ok_or_else(|| ApiError::Refused {
        status: StatusCode::LENGTH_REQUIRED,
        code: "length_required",
        detail: "an upload must say its length in Content-Length".to_owned(),
    })?;
    let max = app.content.file_len_max;
    if size_bytes > max {
        return Err(ApiError::Refused {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            code: "too_large",
            detail: format!(
                "{size_bytes} bytes are more than the {max} that --content-file-max-gb allows"
            ),
        });
    }
    let tags = |name: HeaderName| text(headers, name).map(|value| Tags::new(&value));
    let digest = text(headers, CONTENT_DIGEST);
    let sha256 = digest.map(|value| parse_digest(&value)).transpose();
    let sha256 = sha256.map_err(|error| ApiError::bad_request("malformed_digest", error))?;
    let condition = Condition { matching: tags(IF_MATCH), none_matching: tags(IF_NONE_MATCH) };
    Ok(Upload { key, size_bytes, sha256: sha256.flatten(), condition })
}

impl From<ReceiveError> for ApiError {
    fn from(error: ReceiveError) -> Self {
        let detail = error.to_string();
        let refused = |status, code| Self::Refused { status, code, detail };
        match error {
            ReceiveError::Silent => refused(StatusCode::REQUEST_TIMEOUT, "request_timeout"),
            ReceiveError::Cut { .. } => refused(StatusCode::BAD_REQUEST, "body_incomplete"),
            ReceiveError::Digest { .. } => {
                refused(StatusCode::UNPROCESSABLE_ENTITY, "digest_mismatch")
            }
            ReceiveError::Objects(error) => error.into(),
            ReceiveError::Store(error) => error.into(),
        }
    }
}

impl From<ObjectError> for ApiError {
    fn from(error: ObjectError) -> Self {
        tracing::error!(error = %error, "content: {error}");
        match error {
            ObjectError::Full(_) => Self::Refused {
                status: StatusCode::INSUFFICIENT_STORAGE,
                code: "storage_full",
                detail: "there is no space left for content at the controller: nothing was kept; delete content, make room, or \
                         let --content name a larger place"
                    .to_owned(),
            },
            ObjectError::Failed(_) => Self::Refused {
                status: StatusCode::SERVICE_UNAVAILABLE,
                code: "content_store_unavailable",
                detail: "the content store does not do its part, the controller's log says why"
                    .to_owned(),
            },
        }
    }
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Filter {
    category: Option<Category>,
    prefix: Option<String>,
}

/// `GET /content`.
pub(crate) async fn list(
    State(app): State<App>,
    paging: Paging,
    Query(Filter { category, prefix }): Query<Filter>,
) -> Result<Response, ApiError> {
    let filter = ContentFilter { category, prefix };
    Ok(json(StatusCode::OK, &app.store.content_list(&filter, &paging).await?))
}

/// `GET` and `HEAD /content/{category}/{path}`, and the same for agents.
pub(crate) async fn get(
    State(app): State<App>,
    Name(key): Name,
    progress: Progress,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let found = app.store.content(&key).await?;
    let (_, object) = found.ok_or_else(|| ApiError::missing("content", &key))?;
    send(&app, object, progress, &method, &headers).await
}

/// `DELETE /content/{category}/{path}`.
pub(crate) async fn delete(
    State(app): State<App>,
    Name(key): Name,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    check_hand_made(&key)?;
    let matching = text(&headers, IF_MATCH).map(|value| Tags::new(&value));
    let condition = Condition { matching, none_matching: None };
    let entry = app.store.delete_content(&key, &condition, app.now()).await?;
    tracing::info!("deleted content {key}");
    Ok(described(StatusCode::OK, entry))
}

/// `GET` and `HEAD /agents/objects/{sha256}`: content by its hash, also where its name means something else by now.
pub(crate) async fn object(
    State(app): State<App>,
    Id(sha256): Id<ContentHash>,
    progress: Progress,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let found = app.store.object(sha256).await?;
    let object = found.ok_or_else(|| ApiError::missing("object", sha256))?;
    send(&app, object, progress, &method, &headers).await
}

/// `GET /agents/objects/{sha256}/chunks`: the list of its chunks, 36 bytes each.
pub(crate) async fn chunks(
    State(app): State<App>,
    Id(sha256): Id<ContentHash>,
) -> Result<Response, ApiError> {
    let chunks = app.store.object_chunks(sha256).await?;
    let chunks = chunks.ok_or_else(|| ApiError::missing("object", sha256))?;
    Ok(([(CONTENT_TYPE, OCTETS)], chunks).into_response())
}

/// Whatever was uploaded, a browser is not to make a page of it.
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// Sends `object`, or what of it is asked for (RFC 9110 §13.2.2, §14.2).
async fn send(
    app: &App,
    object: KeptObject,
    progress: Progress,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let KeptObject { sha256, size_bytes, location } = object;
    let tag = tag(&sha256);
    let digest = emit_digest(&sha256);
    let mut fields = HeaderMap::from_iter([
        (ETAG, value(&tag)),
        (ACCEPT_RANGES, HeaderValue::from_static("bytes")),
        (REPR_DIGEST, value(&digest)),
    ]);
    if text(headers, IF_NONE_MATCH).is_some_and(|known| is_known(&known, &tag)) {
        return Ok((StatusCode::NOT_MODIFIED, fields).into_response());
    }
    let is_same = text(headers, IF_RANGE).is_none_or(|wanted| wanted.trim() == tag);
    let part = match text(headers, RANGE).filter(|_| is_same && method == Method::GET) {
        Some(range) => Part::parse(&range, size_bytes),
        None => Part::Whole,
    };
    let (status, range) = match part {
        Part::Whole => {
            fields.insert(CONTENT_DIGEST, value(&digest));
            (StatusCode::OK, 0..size_bytes)
        }
        Part::Bytes(range) => {
            let place = format!("bytes {}-{}/{size_bytes}", range.start, range.end - 1);
            fields.insert(CONTENT_RANGE, value(&place));
            (StatusCode::PARTIAL_CONTENT, range)
        }
        Part::Unsatisfiable => {
            let detail = format!("the range begins behind the last of {size_bytes} bytes");
            let status = StatusCode::RANGE_NOT_SATISFIABLE;
            let refused = ApiError::Refused { status, code: "range_not_satisfiable", detail };
            let mut response = refused.into_response();
            let place = format!("bytes */{size_bytes}");
            response.headers_mut().insert(CONTENT_RANGE, value(&place));
            return Ok(response);
        }
    };
    fields.insert(CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    fields.insert(CONTENT_TYPE, OCTETS);
    fields.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if method == Method::HEAD {
        return Ok((status, fields).into_response());
    }
    let bytes = app.content.objects.read(&location, range).await?.map(move |bytes| {
        let bytes = bytes.inspect_err(|error| {
            tracing::error!(error = %error, "object {sha256} ended early: {error}");
        })?;
        progress.add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        Ok::<_, ObjectError>(bytes)
    });
    Ok((status, fields, Body::from_stream(bytes)).into_response())
}

/// A name and what it means, with the ETag of the bytes.
fn described(status: StatusCode, entry: ContentEntry) -> Response {
    let tag = value(&tag(&entry.sha256));
    let mut response = json(status, &Success::new(entry));
    response.headers_mut().insert(ETAG, tag);
    response
}

/// All values of a field, as one (RFC 9110 §5.3).
fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    let values: Vec<_> =
        headers.get_all(name).iter().map(|value| value.to_str().unwrap_or("?")).collect();
    (!values.is_empty()).then(|| values.join(","))
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("tags, digests and ranges are ASCII")
}
