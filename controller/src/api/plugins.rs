//! `/plugins`: site policies, their versions, where they are used, and how they fare there.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use futures_util::StreamExt;
use pureboot_protocol::{GroupId, PluginId, PluginVersion, SiteId, Success};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json as value;
use tokio::time::timeout;

use crate::audit::Note;
use crate::auth::Operator;
use crate::error::ApiError;
use crate::extract::{Id, IdAndWord, Json, Query, json, short};
use crate::plugins::{self, PluginError};
use crate::router::App;
use crate::serve::Progress;
use crate::store::{AssignmentFields, Paging, Place};

/// How long a sender may be silent.
const SILENCE_MAX: std::time::Duration = std::time::Duration::from_secs(30);

/// The word for every site in the place of a site's id.
const EVERYWHERE: &str = "everywhere";

impl From<PluginError> for ApiError {
    fn from(error: PluginError) -> Self {
        let detail = error.to_string();
        let refused = |status, code| Self::Refused { status, code, detail };
        match error {
            PluginError::Fault(why) => Self::invalid("plugin", why),
            PluginError::Busy => refused(StatusCode::SERVICE_UNAVAILABLE, "busy"),
            PluginError::NoCompiler => refused(StatusCode::NOT_IMPLEMENTED, "no_compiler"),
            PluginError::Receive(error) => error.into(),
            PluginError::Objects(error) => error.into(),
            PluginError::Store(error) => error.into(),
            PluginError::Spoilt(_) => Self::Internal(Box::new(error)),
        }
    }
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Wish {
    /// The name of WebAssembly that comes alone.
    name: Option<PluginId>,
    /// The version of WebAssembly that comes alone.
    version: Option<PluginVersion>,
    /// Whether sites that are not held to a version are given this one; true if nothing is said.
    activate: Option<bool>,
}

/// `POST /plugins`: a bundle, or WebAssembly alone. 201 for a new version, 200 for one that came before.
pub(crate) async fn upload(
    State(app): State<App>,
    operator: Operator,
    Query(wish): Query<Wish>,
    progress: Progress,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let alone = match (wish.name, wish.version) {
        (Some(name), Some(version)) => Some((name, version)),
        (None, None) => None,
        (Some(_), None) => return Err(ApiError::invalid("version", "a name comes with a version")),
        (None, Some(_)) => return Err(ApiError::invalid("name", "a version comes with a name")),
    };
    let allowed = Allowed {
        max: app.workshop.upload_len_max(),
        what: "a plugin with its fixtures; --plugin-max-mb of the controller allows more",
    };
    let bytes = collect(&progress, &headers, body, allowed).await?;
    let bundle = app.workshop.bundle(bytes, alone)?;
    let activates = wish.activate.unwrap_or(true);
    let by = operator.name;
    // On a task of its own: whoever hangs up does not stop it between two of its steps.
    let taken = tokio::spawn(async move { plugins::take(&app, bundle, activates, &by).await });
    let (kept, is_new) = taken.await.map_err(|error| ApiError::Internal(error.into()))??;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    let note = Note::detail(value!({
        "plugin": kept.plugin, "version": kept.version, "wasm": kept.wasm, "activate": activates,
    }));
    Ok(note.on(json(status, &Success::new(kept))))
}

/// What an upload may have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowed {
    /// Its length at most, in bytes.
    pub(crate) max: usize,
    /// What has no more, and what to do about it.
    pub(crate) what: &'static str,
}

/// The body of an upload, of which no more comes than was promised and is taken.
pub(crate) async fn collect(
    progress: &Progress,
    headers: &HeaderMap,
    body: Body,
    Allowed { max, what }: Allowed,
) -> Result<Bytes, ApiError> {
    let refused = |status, code, detail| Err(ApiError::Refused { status, code, detail });
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let length: usize = match length {
        None => {
            let detail = "an upload must say its length in Content-Length".to_owned();
            return refused(StatusCode::LENGTH_REQUIRED, "length_required", detail);
        }
        Some(length) if length > max => {
            let detail =
                format!("{length} bytes are more than the {max} of the largest upload of {what}");
            return refused(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail);
        }
        Some(length) => length,
    };
    let mut bytes = Vec::new();
    let mut chunks = body.into_data_stream();
    loop {
        let chunk = match timeout(SILENCE_MAX, chunks.next()).await {
            Err(_) => {
                let detail = format!("nothing came for {} s; send it again", SILENCE_MAX.as_secs());
                return refused(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail);
            }
            Ok(None) => break,
            Ok(Some(chunk)) => chunk.ok(),
        };
        let Some(chunk) = chunk.filter(|chunk| bytes.len() + chunk.len() <= length) else { break };
        progress.add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        bytes.extend_from_slice(&chunk);
    }
    if bytes.len() == length {
        return Ok(bytes.into());
    }
    let detail = format!("{} bytes came of {length}; send it again", bytes.len());
    refused(StatusCode::BAD_REQUEST, "body_incomplete", detail)
}

/// `GET /plugins`.
pub(crate) async fn list(State(app): State<App>, paging: Paging) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &app.store.plugins(&paging).await?))
}

/// `GET /plugins/{name}`.
pub(crate) async fn read(
    State(app): State<App>,
    Id(name): Id<PluginId>,
) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &Success::new(app.store.plugin(&name).await?)))
}

/// `DELETE /plugins/{name}`.
pub(crate) async fn delete(
    State(app): State<App>,
    Id(name): Id<PluginId>,
) -> Result<Response, ApiError> {
    let plugin = app.store.delete_plugin(&name, app.now()).await?;
    tracing::info!(plugin = %name, "plugin {name} was deleted");
    Ok(json(StatusCode::OK, &Success::new(plugin)))
}

/// `GET /plugins/{name}/versions`.
pub(crate) async fn versions(
    State(app): State<App>,
    Id(name): Id<PluginId>,
) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &app.store.plugin_versions(&name).await?))
}

fn version(text: &str) -> Result<PluginVersion, ApiError> {
    text.parse().map_err(|_| ApiError::missing("version", text))
}

/// `GET /plugins/{name}/versions/{version}`.
pub(crate) async fn read_version(
    State(app): State<App>,
    IdAndWord(name, word): IdAndWord<PluginId>,
) -> Result<Response, ApiError> {
    let kept = app.store.plugin_version(&name, version(&word)?).await?;
    Ok(json(StatusCode::OK, &Success::new(kept)))
}

/// `DELETE /plugins/{name}/versions/{version}`.
pub(crate) async fn delete_version(
    State(app): State<App>,
    IdAndWord(name, word): IdAndWord<PluginId>,
) -> Result<Response, ApiError> {
    let kept = app.store.delete_plugin_version(&name, version(&word)?, app.now()).await?;
    tracing::info!(plugin = %name, "version {} of plugin {name} was deleted", kept.version);
    Ok(json(StatusCode::OK, &Success::new(kept)))
}

/// Where to go back to.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Rollback {
    /// The version; the one before if nothing is said.
    #[serde(default)]
    version: Option<PluginVersion>,
}

/// `POST /plugins/{name}/rollback`.
pub(crate) async fn roll_back(
    State(app): State<App>,
    operator: Operator,
    Id(name): Id<PluginId>,
    Json(body): Json<Rollback>,
) -> Result<Response, ApiError> {
    let now = app.now();
    let version = app.store.roll_back_plugin(&name, body.version, &operator.name, now).await?;
    tracing::info!(plugin = %name, "sites are given version {version} of plugin {name}");
    let note = Note::detail(value!({"plugin": name, "version": version}));
    let plugin = app.store.plugin(&name).await?;
    Ok(note.on(json(StatusCode::OK, &Success::new(plugin))))
}

/// `GET /plugins/{name}/assignments`.
pub(crate) async fn assignments(
    State(app): State<App>,
    Id(name): Id<PluginId>,
    paging: Paging,
) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &app.store.plugin_assignments(&name, &paging).await?))
}

fn place(word: &str) -> Result<Place, ApiError> {
    if word == EVERYWHERE {
        return Ok(Place::Everywhere);
    }
    let id = word.parse::<GroupId>();
    id.map(Place::Site).map_err(|_| ApiError::missing("site with the id", short(word)))
}

/// `PUT /plugins/{name}/assignments/{place}`, where the place is a site's id or `everywhere`: 201 where it was not assigned before.
pub(crate) async fn assign(
    State(app): State<App>,
    operator: Operator,
    IdAndWord(name, word): IdAndWord<PluginId>,
    Json(fields): Json<AssignmentFields>,
) -> Result<Response, ApiError> {
    let (place, now) = (place(&word)?, app.now());
    let assigned = app.store.assign_plugin(&name, place, fields, &operator.name, now).await?;
    let (assignment, is_new) = assigned;
    tracing::info!(plugin = %name, place = %word, "plugin {name} is {} at {word}", assignment.mode);
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    let note = Note::detail(value!({"assignment": assignment}));
    Ok(note.on(json(status, &Success::new(assignment))))
}

/// `DELETE /plugins/{name}/assignments/{place}`.
pub(crate) async fn unassign(
    State(app): State<App>,
    operator: Operator,
    IdAndWord(name, word): IdAndWord<PluginId>,
) -> Result<Response, ApiError> {
    let (place, now) = (place(&word)?, app.now());
    let assignment = app.store.unassign_plugin(&name, place, &operator.name, now).await?;
    tracing::info!(plugin = %name, place = %word, "plugin {name} is assigned no more at {word}");
    Ok(json(StatusCode::OK, &Success::new(assignment)))
}

/// `GET /plugins/{name}/sites`.
pub(crate) async fn sites(
    State(app): State<App>,
    Id(name): Id<PluginId>,
    paging: Paging,
) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &app.store.plugin_sites(&name, &paging).await?))
}

/// `GET /sites/{id}/plugins`.
pub(crate) async fn of_site(
    State(app): State<App>,
    Id(site): Id<SiteId>,
) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &Success::new(app.store.site_policies(site).await?)))
}
