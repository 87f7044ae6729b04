//! How a site stood to its controller.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// How the site stands to its controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Calls succeed.
    Online,
    /// Some calls fail.
    Degraded,
    /// No call has succeeded for a while.
    Offline {
        /// When that began.
        since: Timestamp,
    },
}

impl Mode {
    /// Whether the controller is out of reach.
    pub fn is_offline(self) -> bool {
        matches!(self, Self::Offline { .. })
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Online => f.pad("online"),
            Self::Degraded => f.pad("degraded"),
            Self::Offline { since } => write!(f, "OFFLINE since {since}"),
        }
    }
}
