//! `/migrations`: nodes of one site that were seen at another, and who decides where they belong.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use pureboot_protocol::{ClaimId, NodeId, SiteId, Success};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json as value;

use crate::api::check::Check;
use crate::audit::Note;
use crate::auth::Operator;
use crate::correlation::CorrelationId;
use crate::error::ApiError;
use crate::extract::{Id, IfMatch, Json, Query, json};
use crate::router::App;
use crate::store::{Claim, ClaimFilter, ClaimWord, ConflictStatus, Origin, Paging};

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Filter {
    /// `open` where nothing is said.
    #[serde(default)]
    status: ConflictStatus,
    node_id: Option<NodeId>,
    /// The node's home or where it was seen.
    site_id: Option<SiteId>,
}

/// `GET /migrations`, the oldest first.
pub(crate) async fn list(
    State(app): State<App>,
    paging: Paging,
    Query(Filter { status, node_id: node, site_id: site }): Query<Filter>,
) -> Result<Response, ApiError> {
    let filter = ClaimFilter { status, node, site };
    Ok(json(StatusCode::OK, &app.store.claims(filter, &paging).await?))
}

/// `GET /migrations/{id}`.
pub(crate) async fn read(
    State(app): State<App>,
    Id(id): Id<ClaimId>,
) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &Success::new(app.store.claim(id).await?)))
}

/// Why a claim is decided so.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Reason {
    #[serde(default)]
    comment: Option<String>,
}

impl Reason {
    fn word(self, operator: Operator) -> Result<ClaimWord, ApiError> {
        let mut check = Check::default();
        check.text("comment", self.comment.as_deref().unwrap_or_default());
        check.done()?;
        Ok(ClaimWord { name: Some(operator.name), comment: self.comment })
    }
}

/// `POST /migrations/{id}/approve`: the node moves to where it was seen. `If-Match` is about the node.
pub(crate) async fn approve(
    State(app): State<App>,
    operator: Operator,
    correlation_id: CorrelationId,
    Id(id): Id<ClaimId>,
    IfMatch(version): IfMatch,
    Json(reason): Json<Reason>,
) -> Result<Response, ApiError> {
    let word = reason.word(operator)?;
    let origin = Origin { correlation_id: correlation_id.as_str(), now: app.now() };
    Ok(answer(app.store.approve_claim(id, version, &word, origin).await?))
}

/// `POST /migrations/{id}/reject`: the node stays.
pub(crate) async fn reject(
    State(app): State<App>,
    operator: Operator,
    correlation_id: CorrelationId,
    Id(id): Id<ClaimId>,
    Json(reason): Json<Reason>,
) -> Result<Response, ApiError> {
    let word = reason.word(operator)?;
    let origin = Origin { correlation_id: correlation_id.as_str(), now: app.now() };
    Ok(answer(app.store.reject_claim(id, &word, origin).await?))
}

fn answer(claim: Claim) -> Response {
    let note = Note::detail(value!({
        "node_id": claim.node_id, "from_site_id": claim.from_site_id, "to_site_id": claim.to_site_id,
    }));
    note.on(json(StatusCode::OK, &Success::new(claim)))
}
