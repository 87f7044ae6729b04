//! Forgets what is no longer kept: old rows of the audit, sessions and tokens that ended long ago, conflicts that did, changes
//! without effect, old boot sessions, answers to requests with a key, and what is too much of the events and moves of nodes.

use std::time::Duration;

use pureboot_protocol::Timestamp;

use crate::router::App;
use crate::store::{Origin, StoreError};

/// How often it is looked for.
pub(super) const PERIOD: Duration = Duration::from_secs(3_600);
/// What it does is found under, beside what requests do.
const CORRELATION_ID: &str = "job.retention";
const SECONDS_PER_DAY: i64 = 24 * 3_600;

fn before(now: Timestamp, days: u32) -> Timestamp {
    now.plus_seconds(-i64::from(days) * SECONDS_PER_DAY)
}

/// Forgets once.
pub(crate) async fn look(app: &App) -> Result<(), StoreError> {
    let days = app.kept_days.audit;
    let now = app.now();
    let rows = app.store.forget_before(before(now, days), now).await?;
    if rows > 0 {
        tracing::info!(rows, "{rows} rows of the audit were older than {days} days");
    }
    let (conflicts, boots) = (app.kept_days.conflicts, app.kept_days.boots);
    let rows = app.store.forget_conflicts(before(now, conflicts)).await?;
    if rows > 0 {
        tracing::info!(rows, "{rows} conflicts had ended more than {conflicts} days ago");
    }
    // After the conflicts, which hold on to their changes.
    let (changes, lives) = app.store.forget_custody(before(now, conflicts)).await?;
    if changes + lives > 0 {
        tracing::info!(
            changes,
            lives,
            "{changes} changes without effect and {lives} ended outboxes were older than {conflicts} days"
        );
    }
    let rows = app.store.forget_repeats(now).await?;
    if rows > 0 {
        tracing::info!(rows, "{rows} answers were kept for their Idempotency-Key for a day");
    }
    let origin = Origin { correlation_id: CORRELATION_ID, now };
    let rows = app.store.expire_claims(origin).await?;
    if rows > 0 {
        tracing::info!(rows, "{rows} claims on nodes of other sites have expired");
    }
    let rows = app.store.forget_claims(before(now, conflicts)).await?;
    if rows > 0 {
        tracing::info!(rows, "{rows} claims had ended more than {conflicts} days ago");
    }
    let rows = app.store.forget_boots(before(now, boots)).await?;
    if rows > 0 {
        tracing::info!(rows, "{rows} boot sessions were older than {boots} days");
    }
    let rows = app.store.forget_logged().await?;
    if rows > 0 {
        tracing::info!(rows, "{rows} events and moves of nodes were more than are kept");
    }
    Ok(())
}
