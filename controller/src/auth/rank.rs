//! What a person or a token may do, in three steps. On the wire it is called role.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A higher one may do all that a lower one may.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Rank {
    /// Reads.
    Viewer,
    /// Changes sites, nodes, workflows and content.
    Operator,
    /// Decides over people, tokens and the admission of agents.
    Admin,
}

impl Rank {
    /// The word on the wire and in the database.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Rank {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Viewer, Self::Operator, Self::Admin];
        let named = all.into_iter().find(|rank| rank.as_str() == text);
        named.ok_or_else(|| format!("'{text}' is none of viewer, operator, admin"))
    }
}
