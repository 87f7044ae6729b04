//! What the controller says of the nodes of one site: of one, or what has changed since the site asked last.
//!
//! The numbers are the controller's and count changes of all nodes; they have nothing to do with a node's own version. The
//! controller gives them out one after another within the transactions that make the changes, which wait for each other, so
//! that whoever has seen number `n` has seen everything up to `n`.

use serde::{Deserialize, Serialize};

use crate::{BootRecord, ForeignNode, Mac, NodeId, Sealed, Signed, SiteId, Timestamp};

/// The answer to `GET /agents/nodes` as it travels: one signature for all records of an answer.
pub type SignedRecords = Signed<NodeRecords>;

/// What is signed of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NodeRecords {
    /// Whom it is for.
    pub site_id: SiteId,
    /// When the controller said it.
    pub issued_at: Timestamp,
    /// What it said.
    pub told: Told,
}

impl Sealed for NodeRecords {
    const DOMAIN: &str = "pureboot records 1\n";
}

/// An answer repeats what was asked for, so that it is not taken for another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "about", rename_all = "snake_case")]
pub enum Told {
    /// With `mac`: one node.
    Node {
        /// Who was asked about.
        mac_address: Mac,
        /// What decides its boots; none if it is not one of the site's.
        record: Option<Box<BootRecord>>,
        /// What this site is to do with it where it is at home at another one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        foreign: Option<ForeignNode>,
        /// The newest number that concerns the site.
        version: u64,
    },
    /// Otherwise: what has changed.
    Changes(NodeChanges),
}

/// What has changed after a number, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NodeChanges {
    /// The nodes that have changed, each once.
    pub data: Vec<NodeChange>,
    /// How many there are, with those of this part.
    pub total: u64,
    /// What the answer begins after. It is 0 instead of what was asked where that is higher than any number that concerns the
    /// site: the controller has lost changes, and a node that the whole answer does not name is none of the site's.
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
    Present(Box<BootRecord>),
    /// It has gone to another site.
    Left {
        /// Which.
        node_id: NodeId,
    },
}
