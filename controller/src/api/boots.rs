//! Boot sessions: what agents saw, told by them and read by operators.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use pureboot_protocol::session::step::Session;
use pureboot_protocol::session::{BootReceipt, REPORT_SESSIONS_MAX, SESSION_LEN_MAX};
use pureboot_protocol::{NodeId, SiteId};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::api::check::Check;
use crate::auth::Agent;
use crate::error::ApiError;
use crate::extract::{Id, Json, Query, json, mac};
use crate::router::App;
use crate::store::Paging;

/// A report in which what a later agent tells in words of its own does not hide the rest (FAULTS U7).
#[derive(Deserialize)]
pub(crate) struct Report {
    sessions: Vec<Told>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Told {
    Session(Box<Session>),
    Other(IgnoredAny),
}

impl Told {
    /// The session, if it is one that can be kept.
    fn session(self) -> Option<Session> {
        let Self::Session(session) = self else { return None };
        let len = serde_json::to_vec(&session).map_or(usize::MAX, |json| json.len());
        (len <= SESSION_LEN_MAX).then_some(*session)
    }
}

/// `POST /agents/boots`.
pub(crate) async fn take(
    State(app): State<App>,
    agent: Agent,
    Json(report): Json<Report>,
) -> Result<Response, ApiError> {
    let told = report.sessions.len();
    let mut check = Check::default();
    let message = format!("expected at most {REPORT_SESSIONS_MAX}");
    check.require("sessions", told <= REPORT_SESSIONS_MAX, message);
    check.done()?;
    let sessions: Vec<_> = report.sessions.into_iter().filter_map(Told::session).collect();
    let (kept, skipped) = (sessions.len(), told - sessions.len());
    app.store.take_boots(agent.site_id, sessions, app.now()).await?;
    if skipped > 0 {
        tracing::info!(site = %agent.site_id, skipped, "{skipped} boot sessions of site {} are of a later version or too long", agent.site_id);
    }
    Ok(json(StatusCode::OK, &BootReceipt { kept: kept as u64, skipped: skipped as u64 }))
}

/// `GET /nodes/{id}/boots`.
pub(crate) async fn of_node(
    State(app): State<App>,
    Id(id): Id<NodeId>,
    paging: Paging,
) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &app.store.node_boots(id, app.now(), &paging).await?))
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Filter {
    mac: Option<String>,
}

/// `GET /sites/{id}/boots`: of machines that are no nodes too.
pub(crate) async fn of_site(
    State(app): State<App>,
    Id(id): Id<SiteId>,
    paging: Paging,
    Query(filter): Query<Filter>,
) -> Result<Response, ApiError> {
    let mac = filter.mac.as_deref().map(mac).transpose()?;
    Ok(json(StatusCode::OK, &app.store.site_boots(id, mac, app.now(), &paging).await?))
}
