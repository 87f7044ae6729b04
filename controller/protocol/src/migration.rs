//! What a site is told of a machine that is at home at another one.

use serde::{Deserialize, Serialize};

use crate::ClaimId;
use crate::site::words;

words! {
    /// What a node of another site boots here until somebody has moved it.
    ForeignBoot {
        /// A script that says where it belongs and asks again: it waits for its move.
        Pending = "pending",
        /// What an unknown machine boots here, as far as the site's autonomy allows that; else it waits.
        Normal = "normal",
        /// A script that says so and leaves the machine to its disk.
        Refuse = "refuse",
    }
}

/// A machine that is a node of another site. Its record stays there (FAULTS C16): here is only what this site is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ForeignNode {
    /// What it boots here.
    pub boots: ForeignBoot,
    /// The claim that waits for a decision; none before the site has told of the machine.
    pub claim_id: Option<ClaimId>,
}
