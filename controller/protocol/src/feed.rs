//! What has changed of the nodes of one site since the site asked last.
//!
//! The numbers are the controller's and count changes of all nodes; they have nothing to do with a node's own version. The
//! controller gives them out one after another within the transactions that make the changes, which wait for each other, so
//! that whoever has seen number `n` has seen everything up to `n`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{BootRecord, FileName, NodeId};

/// One part of the answer to `GET /agents/nodes?since_version=`, in the order of the changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NodeChanges {
    /// Always true.
    pub success: bool,
    /// The nodes that have changed, each once.
    pub data: Vec<NodeChange>,
    /// How many there are, with those of this part.
    pub total: u64,
    /// What the answer begins after. It is 0 instead of what was asked where that is higher than any number that the controller
    /// has given out: it has lost changes, and a node that the whole answer does not name is none of the site's.
    pub since_version: u64,
    /// What to ask for next time. Nothing up to here is left out.
    pub version: u64,
    /// Whether there is more already.
    pub has_more: bool,
}

/// A node that has changed in what the site needs of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum NodeChange {
    /// It is one of the site's, or of no site's; retired ones are told too.
    Present(Box<Present>),
    /// It has gone to another site.
    Left {
        /// Which.
        node_id: NodeId,
    },
}

/// A node with all that decides what it boots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Present {
    /// The record, as a question for this node alone would be answered.
    #[serde(flatten)]
    pub record: BootRecord,
    /// The versions of the templates that the workflow's answer files are made of, by file.
    pub template_versions: BTreeMap<FileName, u64>,
    /// How many seconds the site may act on the record without asking again, while it could ask.
    pub valid_for_seconds: u64,
    /// Whether what the record leads to writes a disk, so that without the controller it is done at most once for this version.
    pub once: bool,
}
