//! A machine and its life.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::site::words;
use crate::{
    BootMode, CommandId, GroupId, HardwareFact, Mac, NodeId, PendingCommand, SiteId, Timestamp,
    WorkflowId,
};

words! {
    /// Where a node is in its life. [`Lifecycle::transition`] is the one place that knows the way from state to state.
    Lifecycle {
        /// Seen on the network, not yet anybody's plan.
        Discovered = "discovered",
        /// To be installed at its next boot.
        Pending = "pending",
        /// Its installer has been started.
        Installing = "installing",
        /// The installation failed three times.
        InstallFailed = "install_failed",
        /// The installer is done.
        Installed = "installed",
        /// Its operating system has called back.
        Active = "active",
        /// To be wiped and installed anew.
        Reprovision = "reprovision",
        /// Being emptied before retirement.
        Deprovisioning = "deprovisioning",
        /// Moving to another site or disk.
        Migrating = "migrating",
        /// Lending its disk as the source of a clone.
        ServingSource = "serving_source",
        /// Being written as a clone.
        CloningTarget = "cloning_target",
        /// Gone for good.
        Retired = "retired",
    }
}

/// A move that the lifecycle does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LifecycleError {
    /// The state that the node is in.
    pub from: Lifecycle,
    /// The state that was asked for.
    pub to: Lifecycle,
}

impl fmt::Display for LifecycleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let valid: Vec<_> = self.from.successors().map(Lifecycle::as_str).collect();
        write!(
            f,
            "Invalid state transition from '{}' to '{}'. Valid transitions: [{}]",
            self.from,
            self.to,
            valid.join(", ")
        )
    }
}

impl std::error::Error for LifecycleError {}

impl Lifecycle {
    /// Moves to `to`.
    ///
    /// # Errors
    /// The lifecycle has no such move; staying in the same state is none either.
    pub fn transition(self, to: Self) -> Result<Self, LifecycleError> {
        use Lifecycle::*;
        let is_valid = match (self, to) {
            (Retired, _) => false,
            (_, Retired) => true,
            (Discovered, Pending | CloningTarget) => true,
            (Pending, Installing) => true,
            (Installing, Installed | InstallFailed) => true,
            (InstallFailed, Pending) => true,
            (Installed, Active | Reprovision) => true,
            (Active, Reprovision | Deprovisioning | Migrating | ServingSource | CloningTarget) => {
                true
            }
            (Reprovision, Pending) => true,
            (Migrating | ServingSource, Active) => true,
            (CloningTarget, Installed) => true,
            _ => false,
        };
        if is_valid { Ok(to) } else { Err(LifecycleError { from: self, to }) }
    }

    /// The states that [`Lifecycle::transition`] would allow from here.
    pub fn successors(self) -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(move |to| self.transition(*to).is_ok())
    }

    /// The state that follows when `event` is reported in this one; none where the event changes nothing.
    ///
    /// [`NodeEventKind::InstallFailed`] is not here: it takes a count of attempts, which is the controller's.
    pub fn after(self, event: NodeEventKind) -> Option<Self> {
        use Lifecycle::*;
        let to = match event {
            NodeEventKind::InstallStarted => Installing,
            NodeEventKind::InstallComplete => Installed,
            NodeEventKind::FirstBoot => Active,
            NodeEventKind::BootStarted
            | NodeEventKind::InstallProgress
            | NodeEventKind::InstallFailed
            | NodeEventKind::Heartbeat => return None,
        };
        // An event reports what the machine did in the course of its installation. It never ends a clone, a migration or a
        // retirement, although some of those have a move to the same state.
        matches!((self, to), (Pending, Installing) | (Installing, Installed) | (Installed, Active))
            .then_some(to)
    }
}

words! {
    /// What a machine, or the agent in its stead, reports.
    NodeEventKind {
        /// The firmware has asked for its script.
        BootStarted = "boot_started",
        /// The installer runs.
        InstallStarted = "install_started",
        /// The installer is at `progress` per cent.
        InstallProgress = "install_progress",
        /// The installer is done.
        InstallComplete = "install_complete",
        /// The installer has given up.
        InstallFailed = "install_failed",
        /// The installed system runs for the first time.
        FirstBoot = "first_boot",
        /// The installed system is alive.
        Heartbeat = "heartbeat",
    }
}

words! {
    /// How a machine's system is, by its own last word.
    HealthStatus {
        /// It has not said since it was installed, or in a word of its own.
        Unknown = "unknown",
        /// Well.
        Healthy = "healthy",
        /// It works, and somebody should look at it.
        Degraded = "degraded",
        /// It does not do what it is for.
        Unhealthy = "unhealthy",
    }
}

/// A report about one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NodeEvent {
    /// What happened.
    pub event_type: NodeEventKind,
    /// The reporter's own word for how it went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<HardwareFact>,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<HardwareFact>,
    /// Per cent, 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<u8>,
    /// The order of the centre that the machine has heard and is about to carry out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged_command: Option<CommandId>,
}

impl NodeEvent {
    /// An event without further words.
    pub fn new(event_type: NodeEventKind) -> Self {
        Self { event_type, status: None, message: None, progress: None, acknowledged_command: None }
    }
}

/// A machine as the controller keeps it and shows it to operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[expect(missing_docs, reason = "the field names are the documentation of the HTTP surface")]
pub struct Node {
    pub id: NodeId,
    pub mac_address: Mac,
    pub hostname: Option<String>,
    pub ip_address: Option<String>,
    pub state: Lifecycle,
    pub workflow_id: Option<WorkflowId>,
    pub vendor: Option<HardwareFact>,
    pub model: Option<HardwareFact>,
    pub serial_number: Option<HardwareFact>,
    pub system_uuid: Option<HardwareFact>,
    pub arch: Option<crate::Arch>,
    pub boot_mode: Option<BootMode>,
    #[serde(default)]
    pub group_id: Option<GroupId>,
    pub home_site_id: Option<SiteId>,
    pub tags: Vec<String>,
    pub install_attempts: u32,
    /// When the attempt that is under way, or was last, began.
    #[serde(default)]
    pub install_started_at: Option<Timestamp>,
    pub last_install_error: Option<String>,
    pub boot_count: u64,
    pub last_boot_at: Option<Timestamp>,
    pub state_changed_at: Timestamp,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub last_seen_at: Option<Timestamp>,
    /// What its system said with its last event `heartbeat`; how old that is, `last_seen_at` tells.
    #[serde(default = "unknown_health")]
    pub health_status: HealthStatus,
    /// What the machine is to do when its system asks; none once it has acknowledged it.
    #[serde(default)]
    pub pending_command: Option<PendingCommand>,
    /// Rises by one with every change; what a change at a site is compared with.
    pub version: u64,
    /// The version at which it was last wished that the machine is installed as it is to be: it became `pending`, or got another
    /// workflow. What else changes is the same wish.
    #[serde(default)]
    pub wish_version: u64,
}

fn unknown_health() -> HealthStatus {
    HealthStatus::Unknown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn state() -> impl Strategy<Value = Lifecycle> {
        select(Lifecycle::ALL)
    }

    proptest! {
        #[test]
        fn a_move_leads_where_it_was_asked_to(from in state(), to in state()) {
            prop_assert_eq!(from.transition(to).is_ok(), from.successors().any(|state| state == to));
            if let Ok(reached) = from.transition(to) {
                prop_assert_eq!(reached, to);
                prop_assert_ne!(reached, from);
            }
        }

        #[test]
        fn nothing_leaves_retirement_and_everything_can_retire(from in state()) {
            prop_assert!(Lifecycle::Retired.transition(from).is_err());
            prop_assert_eq!(from.transition(Lifecycle::Retired).is_ok(), from != Lifecycle::Retired);
        }

        #[test]
        fn an_event_moves_only_along_the_lifecycle(from in state(), event in select(NodeEventKind::ALL)) {
            if let Some(to) = from.after(event) {
                prop_assert_eq!(from.transition(to), Ok(to));
                prop_assert!(!matches!(to, Lifecycle::Pending | Lifecycle::Reprovision | Lifecycle::Retired));
            }
        }
    }

    #[test]
    fn the_table_of_the_design_holds() {
        let expected = "\
discovered -> pending, cloning_target, retired
pending -> installing, retired
installing -> install_failed, installed, retired
install_failed -> pending, retired
installed -> active, reprovision, retired
active -> reprovision, deprovisioning, migrating, serving_source, cloning_target, retired
reprovision -> pending, retired
deprovisioning -> retired
migrating -> active, retired
serving_source -> active, retired
cloning_target -> installed, retired
retired -> 
";
        let table: String = Lifecycle::ALL
            .iter()
            .map(|from| {
                let to: Vec<_> = from.successors().map(Lifecycle::as_str).collect();
                format!("{from} -> {}\n", to.join(", "))
            })
            .collect();
        assert_eq!(table, expected);
    }

    #[test]
    fn a_refused_move_names_the_ways_that_exist() {
        let error = Lifecycle::Pending.transition(Lifecycle::Active).expect_err("no such move");
        assert_eq!(
            error.to_string(),
            "Invalid state transition from 'pending' to 'active'. Valid transitions: [installing, retired]"
        );
    }
}
