//! `/sites`: the places, and the tokens that their agents join with.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use pureboot_protocol::{RegistrationToken, SiteId, Success};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::check::Check;
use crate::content::check_pattern;
use crate::error::ApiError;
use crate::extract::{Id, IfMatch, Json, Query, json, resource};
use crate::random;
use crate::router::App;
use crate::site_health::SiteHealth;
use crate::store::{NodeFilter, Paging, Site, SiteFields, TOKEN_HOURS};

/// Seconds between heartbeats that a site may have.
const HEARTBEAT_INTERVAL: std::ops::RangeInclusive<u32> = 5..=3_600;

/// `POST /sites`.
pub(crate) async fn create(
    State(app): State<App>,
    Json(mut fields): Json<SiteFields>,
) -> Result<Response, ApiError> {
    let name = fields.name.clone();
    let name = name.ok_or_else(|| ApiError::invalid("name", "this field is required"))?;
    check(&mut fields)?;
    let site = Site::new(SiteId::from_random(random::bytes()), name, app.now());
    let site = app.store.create_site(site, fields).await?;
    tracing::info!(site = %site.id, "made site {:?}", site.path);
    Ok(resource(StatusCode::CREATED, site.version, site))
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Filter {
    parent_id: Option<SiteId>,
}

/// `GET /sites`.
pub(crate) async fn list(
    State(app): State<App>,
    paging: Paging,
    Query(filter): Query<Filter>,
) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &app.store.sites(filter.parent_id, &paging).await?))
}

/// `GET /sites/{id}`.
pub(crate) async fn read(State(app): State<App>, Id(id): Id<SiteId>) -> Result<Response, ApiError> {
    let site = app.store.site(id).await?;
    Ok(resource(StatusCode::OK, site.version, site))
}

/// `PATCH /sites/{id}`.
pub(crate) async fn update(
    State(app): State<App>,
    Id(id): Id<SiteId>,
    IfMatch(version): IfMatch,
    Json(mut fields): Json<SiteFields>,
) -> Result<Response, ApiError> {
    check(&mut fields)?;
    let site = app.store.update_site(id, fields, version, app.now()).await?;
    tracing::info!(site = %site.id, version = site.version, "changed site {:?}", site.path);
    Ok(resource(StatusCode::OK, site.version, site))
}

/// `DELETE /sites/{id}`.
pub(crate) async fn delete(
    State(app): State<App>,
    Id(id): Id<SiteId>,
    IfMatch(version): IfMatch,
) -> Result<Response, ApiError> {
    let site = app.store.delete_site(id, version).await?;
    tracing::info!(site = %site.id, "deleted site {:?}", site.path);
    Ok(resource(StatusCode::OK, site.version, site))
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Below {
    #[serde(default)]
    include_descendant_sites: bool,
}

/// `GET /sites/{id}/nodes`.
pub(crate) async fn nodes(
    State(app): State<App>,
    Id(id): Id<SiteId>,
    paging: Paging,
    Query(below): Query<Below>,
) -> Result<Response, ApiError> {
    app.store.site(id).await?;
    let with_below = below.include_descendant_sites;
    let filter = NodeFilter { site_id: Some(id), with_below, ..NodeFilter::default() };
    Ok(json(StatusCode::OK, &app.store.nodes(&filter, &paging).await?))
}

/// `GET /sites/{id}/health`.
pub(crate) async fn health(
    State(app): State<App>,
    Id(id): Id<SiteId>,
) -> Result<Response, ApiError> {
    let health = SiteHealth::of(app.store.site_knowledge(id).await?, app.now());
    Ok(json(StatusCode::OK, &Success::new(health)))
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Issued {
    token: RegistrationToken,
    expires_in_hours: u32,
    message: &'static str,
}

/// `POST /sites/{id}/agent-token`.
pub(crate) async fn make_token(
    State(app): State<App>,
    Id(id): Id<SiteId>,
) -> Result<Response, ApiError> {
    let token = RegistrationToken::from_random(random::bytes(), random::bytes());
    app.store.set_registration_token(id, &token, app.now()).await?;
    tracing::info!(site = %id, token = token.id(), "made registration token {}, the one before it has ended", token.id());
    let message = "Shown once. Give it to `pureboot-agent init`; a new token ends this one.";
    Ok(json(
        StatusCode::OK,
        &Success::new(Issued { token, expires_in_hours: TOKEN_HOURS, message }),
    ))
}

/// Checks the fields of a site, and those of a group, which has some of them.
pub(super) fn check(fields: &mut SiteFields) -> Result<(), ApiError> {
    let mut check = Check::default();
    if let Some(name) = &fields.name {
        check.name(name);
    }
    if let Some(description) = &fields.description {
        check.text("description", description);
    }
    if let Some(Some(url)) = &fields.agent_url {
        check.agent_url(url);
    }
    if let Some(seconds) = fields.heartbeat_interval {
        let is_valid = HEARTBEAT_INTERVAL.contains(&seconds);
        check.require(
            "heartbeat_interval",
            is_valid,
            format!("{seconds} is not within 5 to 3600 seconds"),
        );
    }
    if let Some(Some(gb)) = fields.cache_max_size_gb {
        check.require(
            "cache_max_size_gb",
            gb > 0,
            "expected at least 1, or null for the agent's own limit",
        );
    }
    if let Some(days) = fields.cache_retention_days {
        check.require("cache_retention_days", days > 0, "expected at least 1 day");
    }
    if let Some(patterns) = &fields.cache_patterns {
        check.list("cache_patterns", patterns);
        for (at, pattern) in patterns.iter().enumerate() {
            if let Some(error) = check_pattern(pattern) {
                check.require(&format!("cache_patterns[{at}]"), false, error);
            }
        }
    }
    if let Some(tags) = &mut fields.tags {
        check.tags(tags);
    }
    check.done()
}
