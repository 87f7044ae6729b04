//! Notices that installations take too long, without waiting for the machine to ask.

use std::time::Duration;

use pureboot_protocol::Lifecycle;

use crate::router::App;
use crate::store::{Origin, StoreError};

/// How often the installations are looked at.
pub(super) const PERIOD: Duration = Duration::from_secs(30);
/// What its moves are found under, beside those of requests.
const CORRELATION_ID: &str = "job.install_timeout";

/// Looks at the installations once.
pub(crate) async fn look(app: &App) -> Result<(), StoreError> {
    let now = app.now();
    for install in app.store.overdue_installs(now).await? {
        let origin = Origin { correlation_id: CORRELATION_ID, now };
        let Some(node) = app.store.expire_install(&install, origin).await? else { continue };
        let (mac, attempts) = (node.mac_address, node.install_attempts);
        let minutes = install.patience.timeout_minutes;
        tracing::warn!(node = %node.id, attempts, "node {mac} has not been installed within {minutes} min: attempt {attempts} failed");
        if node.state == Lifecycle::InstallFailed {
            tracing::error!(node = %node.id, "node {mac} is given up, an operator has to insist");
        }
    }
    Ok(())
}
