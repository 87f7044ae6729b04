//! `/api/v1/agent/conflicts` on the management listener (API.md §5).

use hyper::StatusCode;
use pureboot_protocol::{Conflict, ConflictId, Lifecycle, Mac, SiteResolution, Timestamp};
use serde::{Deserialize, Serialize};

use crate::conflicts::keeper::{Conflicts, Unheard};
use crate::http::{CorrelationId, Response, Target, problem, success};
use crate::store::{HeardConflict, Store, StoreError};
use crate::uplink::controller::CallError;

/// What the site knows of its conflicts. The field names are those of the management surface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// When the controller last told which are open, since the start of the agent; none if it has not.
    pub heard_at: Option<Timestamp>,
    /// The conflicts, the oldest first.
    pub conflicts: Vec<ConflictView>,
}

/// A conflict with what the site knows of its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictView {
    /// As the controller tells it.
    #[serde(flatten)]
    pub conflict: Conflict,
    /// The node's address, where the site knows it.
    pub mac_address: Option<Mac>,
    /// Its name.
    pub hostname: Option<String>,
    /// Where the site goes by it to be now.
    pub state: Option<Lifecycle>,
    /// When the controller was asked.
    pub heard_at: Timestamp,
}

impl ConflictView {
    fn of(store: &Store, heard: HeardConflict) -> Self {
        let HeardConflict { conflict, heard_at } = heard;
        let node = store.node_by_id(conflict.node_id);
        let mac_address = node.as_ref().map(|node| node.mac());
        let record = node.and_then(|node| node.known).map(|known| known.record);
        Self {
            conflict,
            mac_address,
            state: record.as_ref().map(|record| record.state),
            hostname: record.and_then(|record| record.hostname),
            heard_at,
        }
    }
}

/// `GET …/conflicts`; with `all=true` those too that have ended.
pub async fn get_conflicts(
    conflicts: &Conflicts,
    store: &Store,
    target: &Target,
    id: &CorrelationId,
) -> Response {
    let wants_ended = target.query("all").as_deref() == Some("true");
    match conflicts.list().await {
        Ok((heard, heard_at)) => {
            let wanted =
                heard.into_iter().filter(|it| wants_ended || it.conflict.outcome.is_none());
            let conflicts = wanted.map(|heard| ConflictView::of(store, heard)).collect();
            success(Listing { heard_at, conflicts })
        }
        Err(error) => unread(&error, id),
    }
}

/// `GET …/conflicts/{id}`
pub async fn get_conflict(
    conflicts: &Conflicts,
    store: &Store,
    name: &str,
    id: &CorrelationId,
) -> Response {
    let Ok(conflict) = name.parse() else { return unknown(name, id) };
    match conflicts.one(conflict).await {
        Ok(Some(heard)) => success(ConflictView::of(store, heard)),
        Ok(None) => unknown(name, id),
        Err(error) => unread(&error, id),
    }
}

/// `POST …/conflicts/{id}/resolve`
pub async fn resolve(
    conflicts: &Conflicts,
    store: &Store,
    name: &str,
    decision: &SiteResolution,
    id: &CorrelationId,
) -> Response {
    let Ok(conflict) = name.parse::<ConflictId>() else { return unknown(name, id) };
    match conflicts.resolve(conflict, decision).await {
        Ok(conflict) => {
            let heard_at =
                conflict.outcome.as_ref().map_or(conflict.created_at, |ending| ending.at);
            success(ConflictView::of(store, HeardConflict { conflict, heard_at }))
        }
        Err(Unheard::Call(CallError::Refused(refusal))) => {
            problem(refusal.status, &refusal.code, refusal.detail, id)
        }
        Err(Unheard::Call(error)) => {
            let detail = format!(
                "nothing is decided: a conflict ends at the controller, which has both sides as they are now, and it is away ({error}); \
                 the node boots its disk until then - say it again when the line is back"
            );
            problem(StatusCode::SERVICE_UNAVAILABLE, "controller_away", detail, id)
        }
        Err(Unheard::Store(error)) => unread(&error, id),
    }
}

fn unknown(name: &str, id: &CorrelationId) -> Response {
    let detail = format!(
        "the site knows no conflict '{name}'; `pureboot-agent conflicts ls --all` lists those that it knows"
    );
    problem(StatusCode::NOT_FOUND, "not_found", detail, id)
}

fn unread(error: &StoreError, id: &CorrelationId) -> Response {
    let detail = format!("the conflicts cannot be read or written now: {error}");
    problem(StatusCode::SERVICE_UNAVAILABLE, "storage_busy", detail, id)
}
