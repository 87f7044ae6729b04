//! Disagreements between a site and the controller about a node, as both name them.

use serde::{Deserialize, Deserializer, Serialize};

use crate::site::words;
use crate::{
    ClockQuality, ConflictId, ConflictResolution, GroupId, Lifecycle, NodeId, SiteId, Timestamp,
    WorkflowId,
};

words! {
    /// What site and controller disagree about.
    ConflictKind {
        /// The state of a node that both know.
        StateMismatch = "state_mismatch",
        /// The site decided over a node of which it had no record.
        MissingLocal = "missing_local",
        /// The site decided over a node that the controller never had, or has retired.
        MissingCentral = "missing_central",
        /// The node is at home at another site, from which it is never taken without a person.
        SiteMismatch = "site_mismatch",
    }
}

words! {
    /// How a conflict ended.
    Resolution {
        /// The site's side stands.
        KeepLocal = "keep_local",
        /// The controller's side stands.
        KeepCentral = "keep_central",
        /// Something of both, field by field.
        Merge = "merge",
    }
}

words! {
    /// Who ended a conflict.
    Decider {
        /// The site's strategy.
        CentralWins = "central_wins",
        /// The site's strategy.
        LastWrite = "last_write",
        /// The site's strategy.
        SiteWins = "site_wins",
        /// A person, at the controller.
        Operator = "operator",
        /// A person, at the site's agent.
        Site = "site",
        /// The claim on the node of another site was decided by policies, or has expired.
        Claim = "claim",
    }
}

impl From<ConflictResolution> for Decider {
    fn from(strategy: ConflictResolution) -> Self {
        match strategy {
            ConflictResolution::CentralWins => Self::CentralWins,
            ConflictResolution::LastWrite => Self::LastWrite,
            ConflictResolution::SiteWins => Self::SiteWins,
            ConflictResolution::Manual => Self::Operator,
        }
    }
}

/// A wish of a site that met another change, with both sides. The field names are those of the HTTP surface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Conflict {
    /// The conflict.
    pub id: ConflictId,
    /// The site.
    pub site_id: SiteId,
    /// As the controller calls it, or the site where the controller has no such node.
    pub node_id: NodeId,
    /// What both disagree about.
    #[serde(rename = "type")]
    pub kind: ConflictKind,
    /// Why the wish was not simply followed.
    pub cause: String,
    /// What both sides started from; null where the controller never had the version that the site knew.
    #[serde(default)]
    pub base: Option<BaseSide>,
    /// The site's side.
    pub site: SiteSide,
    /// The node as it was when the wish came; null if there was none.
    pub central: Option<CentralSide>,
    /// When the wish came.
    pub created_at: Timestamp,
    /// How it ended; null while it waits for a person.
    pub outcome: Option<ConflictEnding>,
}

/// What both sides of a [`Conflict`] started from: the node at the version that the site knew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BaseSide {
    /// The state that the node had.
    pub state: Lifecycle,
    /// The version that it had.
    pub version: u64,
}

/// The site's side of a [`Conflict`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SiteSide {
    /// What it wished last; null if it wished for no state.
    pub state: Option<Lifecycle>,
    /// The version that the site knew.
    pub base_version: Option<u64>,
    /// When it wished so, by its own clock.
    pub at: Timestamp,
    /// How good that clock was.
    pub clock: ClockQuality,
    /// How many of its changes are part of this.
    pub changes: u64,
}

/// The controller's side of a [`Conflict`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CentralSide {
    /// The state of the node.
    pub state: Lifecycle,
    /// Its version.
    pub version: u64,
    /// When somebody else than a site changed it last; null if nobody ever has.
    pub changed_at: Option<Timestamp>,
}

/// How a [`Conflict`] ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ConflictEnding {
    /// Whose side stands.
    pub resolution: Resolution,
    /// Who said so.
    pub by: Decider,
    /// The person's name, or the agent's.
    pub name: Option<String>,
    /// What was merged.
    pub fields: Option<MergeFields>,
    /// The node's version after it; null if there is no node.
    pub node_version: Option<u64>,
    /// When.
    pub at: Timestamp,
}

/// What a merge makes of a node; what is absent stays as the controller has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct MergeFields {
    /// Where it is in its life.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<Lifecycle>,
    /// Its name; null takes it away.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Option<String>>,
    /// What it is to be installed with; null takes it away.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Option::is_none")]
    pub workflow_id: Option<Option<WorkflowId>>,
    /// The group that it is in; null takes it out.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Option::is_none")]
    pub group_id: Option<Option<GroupId>>,
    /// Its tags.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
}

/// How the person at a site's agent has a conflict of the site end. The site's side is a state and nothing else, so a merge says
/// whose state it is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SiteResolution {
    /// Whose side stands.
    pub resolution: Resolution,
    /// With `merge`: the state that the node is to have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Lifecycle>,
    /// The version of the node that the decision was made on, where the node has changed since the conflict was written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_version: Option<u64>,
    /// Why, for the node's history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// A field that is absent (none), null (some none) or has a value.
fn nullable<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_a_merge_is_absent_or_null_or_has_a_value() {
        for (text, expected) in [
            ("{}", None),
            (r#"{"hostname": null}"#, Some(None)),
            (r#"{"hostname": "a"}"#, Some(Some("a".to_owned()))),
        ] {
            let fields: MergeFields = serde_json::from_str(text).expect("fields");
            assert_eq!(fields.hostname, expected, "{text}");
        }
        let nothing = serde_json::to_string(&MergeFields::default()).expect("JSON");
        assert_eq!(nothing, "{}");
    }
}
