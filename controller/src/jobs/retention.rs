//! Forgets what is no longer kept: old rows of the audit, sessions and tokens that ended long ago, and what is too much of the
//! events and moves of nodes.

use std::time::Duration;

use crate::router::App;
use crate::store::StoreError;

/// How often it is looked for.
pub(super) const PERIOD: Duration = Duration::from_secs(3_600);
const SECONDS_PER_DAY: i64 = 24 * 3_600;

/// Forgets once.
pub(crate) async fn look(app: &App) -> Result<(), StoreError> {
    let days = app.audit_days;
    let now = app.now();
    let rows =
        app.store.forget_before(now.plus_seconds(-i64::from(days) * SECONDS_PER_DAY), now).await?;
    if rows > 0 {
        tracing::info!(rows, "{rows} rows of the audit were older than {days} days");
    }
    let rows = app.store.forget_logged().await?;
    if rows > 0 {
        tracing::info!(rows, "{rows} events and moves of nodes were more than are kept");
    }
    Ok(())
}
