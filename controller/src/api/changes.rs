//! `/agents/changes`: where a site hands over what it has written down.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use pureboot_protocol::{BatchLimits, ChangeBatch, ChangeReceipt};
use serde_json::Value;

use crate::api::check::Check;
use crate::auth::Agent;
use crate::correlation::CorrelationId;
use crate::error::ApiError;
use crate::extract::{Json, Peer, json};
use crate::router::{App, BODY_LEN_MAX};
use crate::store::{BATCH_ITEMS_MAX, Origin};

/// What a batch may be; agents are told.
const LIMITS: BatchLimits = BatchLimits { items_max: BATCH_ITEMS_MAX, bytes_max: 1 << 20 };
const _: () =
    assert!(LIMITS.bytes_max as usize == BODY_LEN_MAX, "a batch is bounded as any body is");

/// `POST /agents/changes`.
pub(crate) async fn take(
    State(app): State<App>,
    agent: Agent,
    peer: Peer,
    correlation_id: CorrelationId,
    Json(batch): Json<ChangeBatch<Value>>,
) -> Result<Response, ApiError> {
    let mut check = Check::default();
    let fits = u32::try_from(batch.items.len()).is_ok_and(|items| items <= LIMITS.items_max);
    check.require("items", fits, format!("expected at most {}", LIMITS.items_max));
    check.require("first_seq", batch.first_seq > 0, "sequence numbers begin with 1");
    let low_water = batch.low_water.unwrap_or(0);
    let message = format!("{low_water} may come again, and {} comes", batch.first_seq);
    check.require("low_water", low_water <= batch.first_seq, message);
    check.done()?;
    let origin = Origin { correlation_id: correlation_id.as_str(), now: app.now() };
    let receipt = app.store.take_changes(agent.site_id, &batch, Some(peer.ip()), origin).await?;
    let receipt = ChangeReceipt { takes: Some(LIMITS), ..receipt };
    receipt.results.iter().for_each(|result| app.metrics.change(result.outcome));
    let (taken, acked_through) = (receipt.results.len(), receipt.acked_through);
    tracing::debug!(site = %agent.site_id, taken, acked_through, "took {taken} changes of site {}", agent.site_id);
    Ok(json(StatusCode::OK, &receipt))
}
