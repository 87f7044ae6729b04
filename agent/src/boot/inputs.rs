//! Everything that a decision rests on, as a value that can be written down and decided by again.

use pureboot_protocol::{Autonomy, BootRecord, BootRequest, ForeignNode};
use serde::{Deserialize, Serialize};

use crate::boot::decide::{Facts, Freshness, Knowledge, Mode, OfflineAction};

/// What was found out about a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// There is a record.
    Known {
        /// The record.
        record: Box<BootRecord>,
        /// How far it can be relied on.
        freshness: Freshness,
    },
    /// It is a node of another site.
    Elsewhere {
        /// What it gets here.
        foreign: ForeignNode,
        /// How far that can be relied on.
        freshness: Freshness,
    },
    /// The controller does not know it.
    Unknown,
    /// Nobody could be asked, and nothing is remembered.
    Unreachable,
}

impl Found {
    /// The record, if there is one.
    pub fn record(&self) -> Option<&BootRecord> {
        match self {
            Self::Known { record, .. } => Some(record),
            Self::Elsewhere { .. } | Self::Unknown | Self::Unreachable => None,
        }
    }
}

/// [`Facts`] that are nobody else's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inputs {
    /// What the machine says.
    pub request: BootRequest,
    /// What is known about it.
    pub found: Found,
    /// How the site stands to its controller.
    pub mode: Mode,
    /// What the site may decide alone.
    pub autonomy: Autonomy,
    /// Whether an installer was given for what the record wishes before.
    pub install_given: bool,
    /// What a machine does without the controller where nothing is known of it, or nothing that still holds.
    pub offline_action: OfflineAction,
}

impl Inputs {
    /// The facts to decide by.
    pub fn facts(&self) -> Facts<'_> {
        let knowledge = match &self.found {
            Found::Known { record, freshness } => {
                Knowledge::Known { record, freshness: *freshness }
            }
            Found::Elsewhere { foreign, freshness } => {
                Knowledge::Elsewhere { foreign: *foreign, freshness: *freshness }
            }
            Found::Unknown => Knowledge::Unknown,
            Found::Unreachable => Knowledge::Unreachable,
        };
        Facts {
            request: &self.request,
            knowledge,
            mode: self.mode,
            autonomy: self.autonomy,
            install_given: self.install_given,
            offline_action: self.offline_action,
        }
    }

    /// Whether nobody can be asked for what the site does not hold.
    pub fn is_alone(&self) -> bool {
        self.mode.is_offline()
    }
}
