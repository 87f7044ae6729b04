//! Conflicts: what sites and the controller disagree about, and how operators end it.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use pureboot_protocol::{
    Conflict, ConflictId, Decider, MergeFields, Resolution, SiteId, SiteResolution, Success,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json as value;

use crate::api::check::Check;
use crate::api::nodes;
use crate::audit::Note;
use crate::auth::{Agent, Operator};
use crate::correlation::CorrelationId;
use crate::error::ApiError;
use crate::extract::{Id, IfMatch, Json, Query, json};
use crate::router::App;
use crate::store::{ConflictStatus, Decision, Origin, Paging};

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Filter {
    /// `open` where nothing is said.
    #[serde(default)]
    status: ConflictStatus,
}

/// `GET /sync/conflicts`: those of all sites.
pub(crate) async fn all(
    State(app): State<App>,
    paging: Paging,
    Query(filter): Query<Filter>,
) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &app.store.conflicts(None, filter.status, &paging).await?))
}

/// `GET /sites/{id}/conflicts`.
pub(crate) async fn of_site(
    State(app): State<App>,
    Id(id): Id<SiteId>,
    paging: Paging,
    Query(filter): Query<Filter>,
) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &app.store.conflicts(Some(id), filter.status, &paging).await?))
}

/// `GET /sync/conflicts/{id}`.
pub(crate) async fn read(
    State(app): State<App>,
    Id(id): Id<ConflictId>,
) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &Success::new(app.store.conflict(id).await?)))
}

/// How a conflict is to end.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Resolve {
    resolution: Resolution,
    /// With `merge`: what the node is to be; what is absent stays as the controller has it.
    #[serde(default)]
    fields: Option<MergeFields>,
    /// The version of the node that the decision was made on; `If-Match` says the same.
    #[serde(default)]
    node_version: Option<u64>,
    /// Whether to insist on a move that writes a disk again after three failures.
    #[serde(default)]
    force: bool,
    /// Why, for the node's history.
    #[serde(default)]
    comment: Option<String>,
}

impl Resolve {
    /// # Errors
    /// 422 if the fields do not fit the resolution.
    fn checked(mut self, version: Option<u64>, operator: Operator) -> Result<Decision, ApiError> {
        let mut check = Check::default();
        check.text("comment", self.comment.as_deref().unwrap_or_default());
        let merges = self.resolution == Resolution::Merge;
        let has_fields = self.fields.as_ref().is_some_and(|f| *f != MergeFields::default());
        let message = match merges {
            true => "a merge has to say what the node is to be, such as {\"state\": \"active\"}",
            false => "fields belong to the resolution merge",
        };
        check.require("fields", merges == has_fields, message);
        if let Some(fields) = &mut self.fields {
            let hostname = fields.hostname.as_ref().and_then(Option::as_deref);
            nodes::check(&mut check, hostname, fields.tags.as_mut());
        }
        let agree =
            version.is_none() || self.node_version.is_none() || version == self.node_version;
        check.require("node_version", agree, "If-Match names another version");
        check.done()?;
        Ok(Decision {
            by: Decider::Operator,
            resolution: self.resolution,
            fields: self.fields.filter(|_| merges),
            version: version.or(self.node_version),
            force: self.force,
            comment: self.comment,
            name: operator.name,
        })
    }
}

/// `POST /sync/conflicts/{id}/resolve`.
pub(crate) async fn resolve(
    State(app): State<App>,
    operator: Operator,
    correlation_id: CorrelationId,
    Id(id): Id<ConflictId>,
    IfMatch(version): IfMatch,
    Json(body): Json<Resolve>,
) -> Result<Response, ApiError> {
    end(&app, None, id, &body.checked(version, operator)?, &correlation_id).await
}

/// `GET /agents/conflicts`: those of the agent's own site.
pub(crate) async fn of_agent(
    State(app): State<App>,
    agent: Agent,
    paging: Paging,
    Query(filter): Query<Filter>,
) -> Result<Response, ApiError> {
    let site = Some(agent.site_id);
    Ok(json(StatusCode::OK, &app.store.conflicts(site, filter.status, &paging).await?))
}

/// `GET /agents/conflicts/{id}`: one of the agent's own site.
pub(crate) async fn read_of_agent(
    State(app): State<App>,
    agent: Agent,
    Id(id): Id<ConflictId>,
) -> Result<Response, ApiError> {
    let conflict = app.store.conflict(id).await?;
    if conflict.site_id != agent.site_id {
        return Err(ApiError::missing("conflict", id.to_string()));
    }
    Ok(json(StatusCode::OK, &Success::new(conflict)))
}

/// `POST /agents/conflicts/{id}/resolve`: the person at the site decides. The site's side is a state, so that is all that it merges.
pub(crate) async fn resolve_of_agent(
    State(app): State<App>,
    agent: Agent,
    correlation_id: CorrelationId,
    Id(id): Id<ConflictId>,
    Json(body): Json<SiteResolution>,
) -> Result<Response, ApiError> {
    let SiteResolution { resolution, state, node_version: version, comment } = body;
    let mut check = Check::default();
    check.text("comment", comment.as_deref().unwrap_or_default());
    let merges = resolution == Resolution::Merge;
    check.require(
        "state",
        merges == state.is_some(),
        "a merge says the state, and nothing else does",
    );
    check.done()?;
    let name = app.store.site(agent.site_id).await?.name;
    let decision = Decision {
        by: Decider::Site,
        resolution,
        fields: state.map(|state| MergeFields { state: Some(state), ..MergeFields::default() }),
        version,
        force: false,
        comment,
        name,
    };
    end(&app, Some(agent.site_id), id, &decision, &correlation_id).await
}

/// `POST /sites/{id}/conflicts/{conflict}/resolve`.
pub(crate) async fn resolve_of_site(
    State(app): State<App>,
    operator: Operator,
    correlation_id: CorrelationId,
    path: Path<(String, String)>,
    IfMatch(version): IfMatch,
    Json(body): Json<Resolve>,
) -> Result<Response, ApiError> {
    let Path((site, id)) = path;
    let site = site.parse().map_err(|_| ApiError::missing("site", short(&site)))?;
    let id = id.parse().map_err(|_| ApiError::missing("conflict", short(&id)))?;
    end(&app, Some(site), id, &body.checked(version, operator)?, &correlation_id).await
}

fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

async fn end(
    app: &App,
    site: Option<SiteId>,
    id: ConflictId,
    decision: &Decision,
    correlation_id: &CorrelationId,
) -> Result<Response, ApiError> {
    let origin = Origin { correlation_id: correlation_id.as_str(), now: app.now() };
    let conflict: Conflict = app.store.resolve_conflict(site, id, decision, origin).await?;
    let (node, resolution) = (conflict.node_id, decision.resolution);
    tracing::info!(conflict = %id, %node, %resolution, by = %decision.by, "{} ended the conflict {id} about node {node} with {resolution}", decision.name);
    let note = Note::detail(value!({
        "conflict_id": id, "site_id": conflict.site_id, "node_id": node, "resolution": resolution,
        "fields": decision.fields,
    }));
    Ok(note.on(json(StatusCode::OK, &Success::new(conflict))))
}

/// How all conflicts of a site are to end. A merge is decided one by one.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct ResolveAll {
    resolution: Resolution,
    /// Why, for the nodes' histories.
    #[serde(default)]
    comment: Option<String>,
}

/// `POST /sites/{id}/conflicts/resolve-all`.
pub(crate) async fn resolve_all(
    State(app): State<App>,
    operator: Operator,
    correlation_id: CorrelationId,
    Id(site): Id<SiteId>,
    Json(body): Json<ResolveAll>,
) -> Result<Response, ApiError> {
    let resolution = body.resolution;
    let mut check = Check::default();
    check.text("comment", body.comment.as_deref().unwrap_or_default());
    let is_common = resolution != Resolution::Merge;
    check.require("resolution", is_common, "expected keep_local or keep_central for all at once");
    check.done()?;
    let (name, comment) = (operator.name, body.comment);
    let decision = Decision {
        by: Decider::Operator,
        resolution,
        fields: None,
        version: None,
        force: false,
        comment,
        name,
    };
    let origin = Origin { correlation_id: correlation_id.as_str(), now: app.now() };
    let all = app.store.resolve_all_conflicts(site, &decision, origin).await?;
    let (resolved, failed) = (all.resolved, all.failed);
    tracing::info!(%site, resolved, failed, "an operator ended {resolved} conflicts of site {site} with {resolution}, {failed} refused");
    let note = Note::detail(value!({
        "resolution": resolution, "resolved": resolved, "failed": failed, "remaining": all.remaining,
    }));
    Ok(note.on(json(StatusCode::OK, &Success::new(all))))
}
