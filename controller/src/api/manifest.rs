//! What a site is to hold: what operators assign to it, and the signed manifest.

use axum::extract::State;
use axum::http::header::{ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use pureboot_protocol::{
    Category, ContentKey, Manifest, Signature, SignedManifest, SiteId, Success,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::check::Check;
use crate::auth::Agent;
use crate::content::is_known;
use crate::error::ApiError;
use crate::extract::{Id, Json, Query, json};
use crate::router::App;
use crate::store::IssuedManifest;

/// The most names that a site may be assigned.
const ASSIGNED_MAX: usize = 2_000;

/// One name, in two fields.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Assigned {
    category: Category,
    path: String,
}

/// `GET /sites/{id}/assigned-content`.
pub(crate) async fn assigned(
    State(app): State<App>,
    Id(site): Id<SiteId>,
) -> Result<Response, ApiError> {
    let keys = app.store.assigned_content(site).await?;
    let two_fields =
        |key: &ContentKey| Assigned { category: key.category(), path: key.path().to_owned() };
    let list: Vec<_> = keys.iter().map(two_fields).collect();
    Ok(json(StatusCode::OK, &Success::new(list)))
}

/// `PUT /sites/{id}/assigned-content`.
pub(crate) async fn assign(
    State(app): State<App>,
    Id(site): Id<SiteId>,
    Json(list): Json<Vec<Assigned>>,
) -> Result<Response, ApiError> {
    let mut check = Check::default();
    let is_short = list.len() <= ASSIGNED_MAX;
    check.require("content", is_short, format!("expected at most {ASSIGNED_MAX} entries"));
    let mut keys = Vec::new();
    for (at, Assigned { category, path }) in list.into_iter().take(ASSIGNED_MAX).enumerate() {
        match ContentKey::new(category, &path) {
            Ok(key) => keys.push(key),
            Err(error) => check.require(&format!("content[{at}].path"), false, error),
        }
    }
    check.done()?;
    app.store.assign_content(site, &keys).await?;
    tracing::info!(%site, "assigned {} pieces of content to site {site}", keys.len());
    assigned(State(app), Id(site)).await
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Filter {
    site_id: SiteId,
}

/// A manifest as operators read it: its fields, and beside them what agents check.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Readable {
    #[serde(flatten)]
    manifest: Manifest,
    signature: Signature,
    key_id: String,
    payload: String,
}

/// `GET /content/manifest?site_id=`.
pub(crate) async fn of_site(
    State(app): State<App>,
    Query(Filter { site_id }): Query<Filter>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let issued = app.store.manifest(site_id, app.now()).await?;
    answer(&app, issued, &headers, |SignedManifest { payload, signature, key_id, .. }| {
        let manifest =
            serde_json::from_str(&payload).map_err(|error| ApiError::Internal(Box::new(error)))?;
        Ok(Readable { manifest, signature, key_id, payload })
    })
}

/// `GET /agents/manifest`: that of the agent's own site.
pub(crate) async fn own(
    State(app): State<App>,
    agent: Agent,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let issued = app.store.manifest(agent.site_id, app.now()).await?;
    answer(&app, issued, &headers, Ok)
}

/// The manifest in the form that `form` gives it, or 304 where the client has it.
fn answer<T: Serialize>(
    app: &App,
    issued: IssuedManifest,
    headers: &HeaderMap,
    form: impl FnOnce(SignedManifest) -> Result<T, ApiError>,
) -> Result<Response, ApiError> {
    let tag = format!("\"{}.{}\"", issued.version, issued.issued_at.unix_ms());
    let etag = HeaderValue::from_str(&tag).expect("two numbers are ASCII");
    let known = headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    if known.is_some_and(|known| is_known(known, &tag)) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, etag)]).into_response());
    }
    let form = form(app.content.signer.sign(issued.payload))?;
    let mut response = json(StatusCode::OK, &Success::new(form));
    response.headers_mut().insert(ETAG, etag);
    Ok(response)
}
