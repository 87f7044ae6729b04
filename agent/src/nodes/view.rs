//! What the site remembers of its machines, as people and programs are shown it. No clock: the time comes in.

use std::str::FromStr as _;

use pureboot_protocol::{Assignment, ConflictId, Lifecycle, Mac, NodeId, Timestamp, UnknownWord};
use serde::{Deserialize, Serialize};

use crate::nodes::fresh;
use crate::store::{CachedNode, KnownRecord};

/// How far what is remembered of a machine can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// The controller has stood by it within the record's time.
    Fresh,
    /// It has not; the record is served by all the same.
    Stale,
    /// Somebody doubts it, and the controller is to be asked.
    Due,
    /// Only the site knows the machine.
    SiteOnly,
    /// It is a node of another site.
    Elsewhere,
}

impl Standing {
    /// As people read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Stale => "stale",
            Self::Due => "due",
            Self::SiteOnly => "site only",
            Self::Elsewhere => "elsewhere",
        }
    }
}

/// A machine as the site remembers it. What a workflow says may hold secrets, and stays out of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// The boot interface.
    pub mac_address: Mac,
    /// The node.
    pub node_id: NodeId,
    /// Its name.
    pub hostname: Option<String>,
    /// Where it is in its life; none if nothing has been found out.
    pub state: Option<Lifecycle>,
    /// What it is to be installed with.
    pub workflow: Option<String>,
    /// The path of its group.
    pub group: Option<String>,
    /// The node's version; none or 0 where only the site knows it.
    pub version: Option<u64>,
    /// What site and controller disagree about.
    pub conflict_id: Option<ConflictId>,
    /// Whether without the controller it is installed at most once.
    pub once: bool,
    /// How far that can be relied on.
    pub standing: Standing,
    /// When the controller last stood by it.
    pub confirmed_at: Option<Timestamp>,
    /// For how many seconds it holds after that.
    pub valid_for_seconds: Option<u64>,
    /// When the machine last asked for its script.
    pub last_seen_at: Option<Timestamp>,
}

impl NodeView {
    /// Shows `node` at `now`; `confirmed_at` as in [`fresh::word_at`].
    pub fn of(node: &CachedNode, confirmed_at: Option<Timestamp>, now: Timestamp) -> Self {
        let record = node.known.as_ref().map(|known| &known.record);
        let standing = match node.known {
            _ if node.elsewhere.is_some() => Standing::Elsewhere,
            _ if node.is_known_here_only() => Standing::SiteOnly,
            _ if node.is_due => Standing::Due,
            _ if fresh::is_fresh(node, confirmed_at, now) => Standing::Fresh,
            _ => Standing::Stale,
        };
        Self {
            mac_address: node.mac(),
            node_id: node.node_id,
            hostname: record.and_then(|record| record.hostname.clone()),
            state: record.map(|record| record.state),
            workflow: workflow(node).map(ToOwned::to_owned),
            group: record.and_then(|record| Some(record.group.as_ref()?.path.clone())),
            version: record.map(|record| record.version),
            conflict_id: record.and_then(|record| record.conflict_id),
            once: record.is_some_and(|record| record.once),
            standing,
            confirmed_at: fresh::word_at(node, confirmed_at),
            valid_for_seconds: record.map(|record| record.valid_for_seconds),
            last_seen_at: node.last_seen_at,
        }
    }
}

fn workflow(node: &CachedNode) -> Option<&str> {
    match node.known.as_ref()?.record.workflow.as_ref()? {
        Assignment::Known(workflow) => Some(&workflow.name),
        Assignment::Foreign { name, .. } => Some(name),
    }
}

/// Which machines are asked for: those that all of it fits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    state: Option<Lifecycle>,
    group: Option<String>,
    workflow: Option<String>,
}

impl Filter {
    /// Reads what `query` says by name.
    ///
    /// # Errors
    /// The state is none.
    pub fn parse(query: impl Fn(&str) -> Option<String>) -> Result<Self, UnknownWord> {
        let state = query("state").map(|word| Lifecycle::from_str(&word)).transpose()?;
        Ok(Self { state, group: query("group"), workflow: query("workflow") })
    }

    /// Whether `node` is asked for. A group is meant by its id, its path, or its name, and with all that is below it; a workflow by
    /// its id or its name.
    pub fn fits(&self, node: &CachedNode) -> bool {
        let record = node.known.as_ref().map(|KnownRecord { record, .. }| record);
        let in_group = |wanted: &String| {
            record.and_then(|record| record.group.as_ref()).is_some_and(|group| {
                let is_named = group.path.split('/').any(|name| name == wanted && !name.is_empty());
                let path = wanted.trim_end_matches('/');
                let below = group.path.strip_prefix(path).filter(|_| path.starts_with('/'));
                let is_below = below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
                is_named || is_below || group.id.to_string() == *wanted
            })
        };
        let with_workflow = |wanted: &String| {
            let known = record.and_then(|record| record.workflow.as_ref()?.workflow());
            let is_meant = known.is_some_and(|workflow| workflow.id.to_string() == *wanted);
            is_meant || workflow(node) == Some(wanted)
        };
        self.state.is_none_or(|state| record.is_some_and(|record| record.state == state))
            && self.group.as_ref().is_none_or(in_group)
            && self.workflow.as_ref().is_none_or(with_workflow)
    }
}

#[cfg(test)]
mod tests {
    use pureboot_protocol::{GroupId, RecordGroup};

    use super::*;
    use crate::store::tests::{at, mac, node_id, record};

    fn node(version: u64) -> CachedNode {
        let mut record = record(1, Lifecycle::Active, version);
        let path = "/web/front".to_owned();
        record.group = Some(RecordGroup { id: GroupId::from_random([7; 16]), path });
        let (name, method) = ("debian".to_owned(), "floppy".to_owned());
        record.workflow = Some(Assignment::Foreign { name, method });
        let known = Some(KnownRecord { record, fetched_at: at(0) });
        CachedNode { known, ..CachedNode::new(mac(1), node_id(1)) }
    }

    fn fits(query: &[(&str, &str)], node: &CachedNode) -> bool {
        let value = |name: &str| {
            let (_, value) = query.iter().find(|(found, _)| *found == name)?;
            Some((*value).to_owned())
        };
        Filter::parse(value).expect("a filter").fits(node)
    }

    #[test]
    fn machines_are_found_by_state_group_and_workflow() {
        let node = node(3);
        let id = GroupId::from_random([7; 16]).to_string();
        for (query, expected) in [
            (vec![], true),
            (vec![("state", "active")], true),
            (vec![("state", "pending")], false),
            (vec![("group", "/web/front")], true),
            (vec![("group", "/web")], true),
            (vec![("group", "front")], true),
            (vec![("group", &id)], true),
            (vec![("group", "/we")], false),
            (vec![("group", "back")], false),
            (vec![("group", "")], false),
            (vec![("workflow", "debian")], true),
            (vec![("workflow", "deb")], false),
            (vec![("state", "active"), ("workflow", "other")], false),
        ] {
            assert_eq!(fits(&query, &node), expected, "{query:?}");
        }
        assert!(!fits(&[("state", "active")], &CachedNode::new(mac(2), node_id(2))));
        assert!(Filter::parse(|name| (name == "state").then(|| "asleep".to_owned())).is_err());
    }

    #[test]
    fn a_machine_is_shown_with_how_far_it_is_known() {
        let shown = |node: &CachedNode, seconds| NodeView::of(node, None, at(seconds)).standing;
        assert_eq!(shown(&node(3), 10), Standing::Fresh);
        assert_eq!(shown(&node(3), 400), Standing::Stale);
        assert_eq!(shown(&CachedNode { is_due: true, ..node(3) }, 10), Standing::Due);
        assert_eq!(shown(&node(0), 10), Standing::SiteOnly);
        assert_eq!(shown(&CachedNode::new(mac(1), node_id(1)), 10), Standing::SiteOnly);
    }
}
