//! Lets go of content that nothing means any more.

use std::time::{Duration, SystemTime};

use pureboot_protocol::Timestamp;

use crate::content::ObjectError;
use crate::router::App;
use crate::store::StoreError;

/// How often there is a look.
pub(super) const PERIOD: Duration = Duration::from_secs(600);
/// How long bytes are kept that have lost their name: a site may be fetching them by an older manifest.
const GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// Why bytes could not be let go.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SweepError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The content store.
    #[error(transparent)]
    Objects(#[from] ObjectError),
}

/// Sweeps once.
pub(super) async fn look(app: &App) -> Result<(), SweepError> {
    sweep(app, SystemTime::now()).await
}

/// Sweeps. `now` is the time that the content store goes by.
pub(crate) async fn sweep(app: &App, now: SystemTime) -> Result<(), SweepError> {
    let grace_ms = i64::try_from(GRACE.as_millis()).unwrap_or(i64::MAX);
    let before = Timestamp::from_unix_ms(app.now().unix_ms() - grace_ms);
    let unnamed = app.store.forget_objects(before).await?;
    for location in &unnamed {
        app.content.objects.delete(location).await?;
    }
    // Places before files: what is stored from here on is too young to be swept.
    let known = app.store.object_locations().await?;
    let strays = app.content.objects.sweep(&known, now - GRACE).await?;
    if !unnamed.is_empty() || strays > 0 {
        tracing::info!("let go of {} unnamed objects and {strays} strays", unnamed.len());
    }
    Ok(())
}
