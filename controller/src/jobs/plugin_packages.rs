//! Compiles policies for engines that agents come to have: after an update of agents, or of the controller.

use std::time::Duration;

use crate::plugins::{PluginError, compile_missing};
use crate::router::App;

/// How often there is a look.
pub(super) const PERIOD: Duration = Duration::from_secs(15);

/// Compiles what is missing.
pub(super) async fn look(app: &App) -> Result<(), PluginError> {
    match compile_missing(app).await {
        // Somebody uploads, and the next look is not far.
        Err(PluginError::Busy) => Ok(()),
        outcome => outcome,
    }
}
