//! Takes what a person at the site wants of a node: written down first, as everything is, and gone by at once where the site's
//! autonomy says so.

use std::rc::Rc;
use std::time::Duration;

use hyper::StatusCode;
use pureboot_protocol::{
    Autonomy, BootId, ChangeId, ChangePayload, ChangeResult, ConflictId, Lifecycle, LifecycleError,
    Mac, Outcome, Success,
};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::http::{CorrelationId, Response, json, problem};
use crate::nodes::autonomy::{Decides, Step, decides};
use crate::outbox::{NewChange, Outbox};
use crate::store::{CachedNode, KnownRecord, Store, StoreError};
use crate::uplink::connectivity::Line;
use crate::uplink::standing::Standing;

/// How long a person waits for the controller's own word on a wish.
const PATIENCE: Duration = Duration::from_secs(2);

/// `PATCH /api/v1/agent/nodes/{mac}/state`
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Wish {
    /// Where the node is to be.
    pub state: Lifecycle,
    /// Drawn by whoever wishes: the same wish again is the same change, another one a new change.
    pub wish: BootId,
}

/// Where a wish is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The node was in that state already, and nothing is written down.
    Unchanged,
    /// It waits for the controller.
    Queued,
    /// The controller has applied it.
    Applied,
    /// It met another change at the controller.
    Conflict,
    /// The controller keeps it without effect.
    Parked,
}

impl Stage {
    fn of(result: &ChangeResult) -> Self {
        match result.outcome {
            Outcome::Applied => Self::Applied,
            Outcome::Duplicate if result.conflict_id.is_none() => Self::Applied,
            Outcome::Conflict | Outcome::Duplicate => Self::Conflict,
            Outcome::Parked => Self::Parked,
        }
    }
}

/// What has become of a wish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wished {
    /// Where it is.
    pub status: Stage,
    /// Whether the site goes by it already.
    pub in_effect: bool,
    /// Whether the controller is away.
    pub offline: bool,
    /// The change that it is; none where nothing was written down.
    pub queue_id: Option<ChangeId>,
    /// The conflict that it is a part of.
    pub conflict_id: Option<ConflictId>,
    /// Why the controller has not applied it.
    pub reason: Option<String>,
}

/// Why a wish was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Untaken {
    /// 404.
    #[error("the site knows no node {0}; `pureboot-agent cache nodes` lists those that it knows")]
    Unknown(Mac),
    /// The lifecycle has no such move: 400.
    #[error(transparent)]
    Impossible(#[from] LifecycleError),
    /// There is no controller to tell yet: 503.
    #[error("this agent has not joined its site yet; `pureboot-agent status` tells more")]
    NotJoined,
    /// It could not be written down: 507 or 503.
    #[error("the wish could not be written down: {0}")]
    Store(#[from] StoreError),
}

/// Takes wishes; lives on the executor's thread.
pub struct Mover {
    store: Store,
    outbox: Outbox,
    standing: Rc<Standing>,
}

impl Mover {
    /// Writes to `outbox`.
    pub fn new(store: Store, outbox: Outbox, standing: Rc<Standing>) -> Self {
        Self { store, outbox, standing }
    }

    /// Takes the wish of a person at the site.
    ///
    /// # Errors
    /// See [`Untaken`]; nothing has been written down then.
    pub async fn take(&self, mac: Mac, wish: Wish) -> Result<Wished, Untaken> {
        let Wish { state: to, wish } = wish;
        let agent = self.standing.agent_id().ok_or(Untaken::NotJoined)?;
        let node = self.store.node(mac).ok_or(Untaken::Unknown(mac))?;
        let record = node.known.ok_or(Untaken::Unknown(mac))?.record;
        let offline = matches!(self.standing.line(), Line::Offline { .. });
        let (from, autonomy) = (record.state, self.standing.autonomy());
        if from == to {
            let (status, in_effect) = (Stage::Unchanged, true);
            let (queue_id, conflict_id, reason) = (None, None, None);
            return Ok(Wished { status, in_effect, offline, queue_id, conflict_id, reason });
        }
        decides(autonomy, Step::Wished { from, to })?;
        let change = NewChange {
            agent,
            node: node.node_id,
            base_version: Some(record.version),
            at: clock::now(),
            clock: self.standing.clock(),
            session: Some(wish),
            payload: ChangePayload::StateChange { state: to, autonomy },
        };
        let recorded = self.outbox.record(change, move |node| go_by(node, autonomy, to)).await?;
        log::info!(mac:%, state:% = to, seq = recorded.seq; "a person at the site wants {mac} to be {to}");
        let result = self.outbox.outcome_of(recorded.seq, clock::monotonic() + PATIENCE).await;
        let state = |node: &CachedNode| Some(node.known.as_ref()?.record.state);
        Ok(Wished {
            status: result.as_ref().map_or(Stage::Queued, Stage::of),
            in_effect: recorded.node.as_ref().and_then(state) == Some(to),
            offline,
            queue_id: Some(recorded.id),
            conflict_id: result.as_ref().and_then(|result| result.conflict_id),
            reason: result.and_then(|result| result.reason),
        })
    }
}

/// Has the site go by a wish that is its own to decide. A new wish to install is one that no installer has been given for; those that
/// were given for the centre's stay given.
fn go_by(node: &mut CachedNode, autonomy: Autonomy, to: Lifecycle) {
    let Some(KnownRecord { record, .. }) = &mut node.known else { return };
    let from = record.state;
    if decides(autonomy, Step::Wished { from, to }) != Ok(Decides::Site) {
        return;
    }
    record.state = to;
    if to == Lifecycle::Pending {
        node.own_wish_given = Some(false);
    }
}

/// The answer to `PATCH /api/v1/agent/nodes/{mac}/state`.
pub fn answer(taken: &Result<Wished, Untaken>, id: &CorrelationId) -> Response {
    let error = match taken {
        Ok(wished) => {
            let status = match wished.status {
                Stage::Queued => StatusCode::ACCEPTED,
                Stage::Unchanged | Stage::Applied | Stage::Conflict | Stage::Parked => {
                    StatusCode::OK
                }
            };
            return json(status, &Success::new(wished));
        }
        Err(error) => error,
    };
    let (status, code) = match error {
        Untaken::Unknown(_) => (StatusCode::NOT_FOUND, "node_not_found"),
        Untaken::Impossible(_) => (StatusCode::BAD_REQUEST, "invalid_transition"),
        Untaken::NotJoined => (StatusCode::SERVICE_UNAVAILABLE, "not_joined"),
        Untaken::Store(StoreError::Full | StoreError::Io(_)) => {
            (StatusCode::INSUFFICIENT_STORAGE, "storage_full")
        }
        Untaken::Store(StoreError::Busy | StoreError::Damaged(_) | StoreError::Stopped) => {
            (StatusCode::SERVICE_UNAVAILABLE, "storage_busy")
        }
        Untaken::Store(StoreError::Other(_)) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "storage_failed")
        }
    };
    problem(status, code, error.to_string(), id)
}
