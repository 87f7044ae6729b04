//! What an API token is limited to, where it is to do less than its role may.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::auth::rank::Rank;

/// A part of the API.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub(crate) enum Scope {
    /// Reads what viewers may. Every other scope includes it.
    #[serde(rename = "read")]
    Read,
    /// Changes nodes and decides conflicts.
    #[serde(rename = "nodes:write")]
    NodesWrite,
    /// Changes sites, groups and their agents.
    #[serde(rename = "sites:write")]
    SitesWrite,
    /// Changes content, templates and workflows.
    #[serde(rename = "content:write")]
    ContentWrite,
    /// Does what only admins may.
    #[serde(rename = "admin")]
    Admin,
}

impl Scope {
    const ALL: [Self; 5] =
        [Self::Read, Self::NodesWrite, Self::SitesWrite, Self::ContentWrite, Self::Admin];

    /// What a request to a route at `path` that needs `rank` belongs to; none if it belongs to no scope, so that a token with
    /// scopes never opens it.
    pub(crate) fn of(rank: Rank, path: &str) -> Option<Self> {
        match rank {
            Rank::Viewer => return Some(Self::Read),
            Rank::Admin => return Some(Self::Admin),
            Rank::Operator => {}
        }
        let mut words = path.strip_prefix("/api/v1/").unwrap_or(path).split('/');
        let (resource, part) = (words.next().unwrap_or_default(), words.nth(1));
        match resource {
            "sites" if part == Some("conflicts") => Some(Self::NodesWrite),
            "nodes" | "sync" | "migrations" => Some(Self::NodesWrite),
            "sites" | "groups" | "agents" => Some(Self::SitesWrite),
            "content" | "templates" | "workflows" | "secrets" | "plugins" => {
                Some(Self::ContentWrite)
            }
            _ => None,
        }
    }

    /// The least role that can make use of it.
    pub(crate) fn rank(self) -> Rank {
        match self {
            Self::Read => Rank::Viewer,
            Self::NodesWrite | Self::SitesWrite | Self::ContentWrite => Rank::Operator,
            Self::Admin => Rank::Admin,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::NodesWrite => "nodes:write",
            Self::SitesWrite => "sites:write",
            Self::ContentWrite => "content:write",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            format!("'{text}' is none of {known}")
        })
    }
}

/// The scopes of one token: at least one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "BTreeSet<Scope>")]
pub(crate) struct Scopes(BTreeSet<Scope>);

impl TryFrom<BTreeSet<Scope>> for Scopes {
    type Error = &'static str;

    fn try_from(scopes: BTreeSet<Scope>) -> Result<Self, &'static str> {
        match scopes.is_empty() {
            false => Ok(Self(scopes)),
            true => Err("name at least one scope, or leave the field out"),
        }
    }
}

impl Scopes {
    /// Whether they open what belongs to `scope`.
    pub(crate) fn allow(&self, scope: Scope) -> bool {
        scope == Scope::Read || self.0.contains(&scope)
    }

    /// The first that `rank` cannot make use of.
    pub(crate) fn beyond(&self, rank: Rank) -> Option<Scope> {
        self.0.iter().copied().find(|scope| scope.rank() > rank)
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|scope| scope.as_str()).collect();
        f.write_str(&names.join(","))
    }
}
