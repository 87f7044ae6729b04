//! What a machine boots now, and why: a function of what is known, without I/O.
//!
//! The rule above all others: whatever is missing, old or contradictory leads to the local disk or to waiting, never to an
//! installer. Only a node that is pending and has a workflow is installed, and without the controller's word only once.

use std::fmt;
use std::time::Duration;

pub use pureboot_protocol::session::mode::Mode;
use pureboot_protocol::{
    Assignment, Autonomy, BootRecord, BootRequest, ClaimId, ConflictId, ContentKey, ForeignBoot,
    ForeignNode, HardwareFact, Lifecycle, Mac, PluginId, Workflow,
};
use serde::{Deserialize, Serialize};

use crate::nodes::autonomy::{Decides, Step, decides};
use crate::uplink::connectivity::Line;

/// Everything that a decision rests on.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// What the machine says.
    pub request: &'a BootRequest,
    /// What is known about it.
    pub knowledge: Knowledge<'a>,
    /// How the site stands to its controller.
    pub mode: Mode,
    /// What the site may decide alone.
    pub autonomy: Autonomy,
    /// [`Effect::RememberInstall`] was recorded for what the record wishes before.
    pub install_given: bool,
    /// What a machine does without the controller where nothing is known of it, or nothing that still holds.
    pub offline_action: OfflineAction,
}

/// `[boot] offline_default_action`: what a machine does that asks while the controller is away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OfflineAction {
    /// One that is known does what its record says, however old that is; a new one, what the site's autonomy allows.
    #[default]
    LastKnown,
    /// One whose record no longer holds boots its disk; a new one does what the site's autonomy allows.
    Discovery,
    /// One whose record no longer holds, or that is new, boots its disk.
    Local,
}

impl fmt::Display for OfflineAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LastKnown => "last_known",
            Self::Discovery => "discovery",
            Self::Local => "local",
        })
    }
}

/// What is known about a machine.
#[derive(Debug, Clone, Copy)]
pub enum Knowledge<'a> {
    /// There is a record.
    Known {
        /// The record.
        record: &'a BootRecord,
        /// How far it can be relied on.
        freshness: Freshness,
    },
    /// The controller says that it is a node of another site.
    Elsewhere {
        /// What this site is to do with it.
        foreign: ForeignNode,
        /// How far that can be relied on.
        freshness: Freshness,
    },
    /// The controller says that it does not know the machine.
    Unknown,
    /// Nobody could be asked, and nothing is remembered.
    Unreachable,
}

/// How old a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Freshness {
    /// The controller's answer to this very question.
    Asked,
    /// The controller's answer to an earlier question, not yet due to be asked again.
    Cached,
    /// What the controller said some time ago, and now it does not answer.
    Past {
        /// How long ago that was.
        age: Duration,
    },
}

impl From<Line> for Mode {
    fn from(line: Line) -> Self {
        match line {
            Line::Connected { .. } => Self::Online,
            Line::Untried | Line::Degraded { .. } => Self::Degraded,
            Line::Offline { since } => Self::Offline { since },
        }
    }
}

/// The answer to "what does this machine boot now".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The machine.
    pub mac: Mac,
    /// What it boots.
    pub boot: Boot,
    /// Why, in the order in which it was found.
    pub reasons: Vec<Reason>,
    /// What has to be recorded before the machine gets its script.
    pub effects: Vec<Effect>,
}

/// What a machine boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// It asks again, for a while.
    ComeBackLater,
    /// It is listed as discovered, and boots its disk.
    Discovered,
    /// The installer of this workflow.
    Install(Box<Workflow>),
    /// It is to be installed, nobody said with what, and it boots its disk.
    PendingWithoutWorkflow,
    /// It is to be installed by a method that this agent does not know, and it boots its disk.
    Foreign {
        /// The workflow's name.
        workflow: HardwareFact,
        /// The method.
        method: HardwareFact,
    },
    /// Its installer was started before, and it boots its disk.
    Installing,
    /// Its installer gave up, and it boots its disk.
    InstallFailed,
    /// Its disk.
    LocalDisk,
    /// Its disk, because site and controller disagree about it.
    Disputed,
    /// Its disk, and an operator should know.
    Retired,
    /// It is a node of another site and asks again, for a while.
    Elsewhere,
    /// It is a node of another site, and boots its disk as a machine would that nobody knows.
    Guest,
    /// It is a node of another site, which this one does not serve.
    TurnedAway,
    /// A file that a policy of the site has chosen.
    Chain {
        /// The policy.
        by: PluginId,
        /// The file.
        target: ContentKey,
    },
    /// A script of a policy of the site.
    PolicyScript {
        /// The policy.
        by: PluginId,
        /// The script, which was checked.
        text: String,
    },
    /// Nothing for a while, by a policy of the site.
    Hold {
        /// The policy.
        by: PluginId,
        /// For how many seconds.
        seconds: u32,
    },
    /// Nothing, by a policy of the site.
    Refused {
        /// The policy.
        by: PluginId,
        /// Why, in one line of its own.
        reason: String,
    },
}

impl fmt::Display for Boot {
    /// One word for the log; a workflow's command line may hold secrets and stays out of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ComeBackLater => "come_back_later",
            Self::Discovered => "discovered",
            Self::Install(_) => "install",
            Self::PendingWithoutWorkflow => "pending_without_workflow",
            Self::Foreign { .. } => "foreign_method",
            Self::Installing => "installing",
            Self::InstallFailed => "install_failed",
            Self::LocalDisk => "local_disk",
            Self::Disputed => "disputed",
            Self::Retired => "retired",
            Self::Elsewhere => "elsewhere",
            Self::Guest => "guest",
            Self::TurnedAway => "turned_away",
            Self::Chain { .. } => "chain",
            Self::PolicyScript { .. } => "policy_script",
            Self::Hold { .. } => "hold",
            Self::Refused { .. } => "refused",
        })
    }
}

/// What the shell records before it sends the script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The machine becomes a node in state discovered.
    Discover,
    /// The controller is told that this node of another site is here.
    Claim,
    /// What the controller has just said of it is remembered.
    RememberElsewhere(ForeignNode),
    /// An installer has been given for what the node's record wishes: the next [`Facts::install_given`].
    RememberInstall {
        /// The number of the wish.
        wish: u64,
        /// Whether the installer may only be given if it was not before.
        is_limited: bool,
    },
}

/// One step of the way to a decision. Its text is a sentence of characters that every script can carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Where the record is from.
    Record {
        /// How far it can be relied on.
        freshness: Freshness,
        /// The node's version; 0 where only the site knows it.
        version: u64,
    },
    /// The controller has no record.
    NotListed,
    /// Nobody has a record.
    NobodyKnows,
    /// What the record says.
    Node {
        /// The node's name, if it has one.
        name: Option<HardwareFact>,
        /// Its state.
        state: Lifecycle,
    },
    /// Nobody has assigned a workflow.
    NoWorkflow,
    /// What it is to be installed with.
    Workflow(HardwareFact),
    /// The controller is newer than this agent.
    ForeignMethod(HardwareFact),
    /// The installer is given although the controller cannot confirm that it is still wanted.
    FirstTimeAlone,
    /// It was given before, and the controller cannot confirm that it is wanted again.
    SecondTimeAlone,
    /// The installer runs or ran.
    NoLoop,
    /// Only a person sets a failed node to pending again.
    OperatorDecides,
    /// Reprovision is a wish that is not yet an order.
    WaitsForPending,
    /// The disk holds what the machine is to run.
    SystemOnDisk,
    /// The state is about the disk's content and not about the network.
    NothingFromNetwork,
    /// Discovered and no more.
    NoPlan,
    /// Nothing leads back from retirement.
    Gone,
    /// The controller is there to take up a new machine.
    TakenUp,
    /// The site takes it up alone.
    TakenUpAlone(Autonomy),
    /// The site may not take it up alone.
    NotTakenUp(Autonomy),
    /// The record has outlived its time, and the site's owner does not want it to be acted on.
    TooOld(OfflineAction),
    /// The site's owner does not want new machines to be taken up.
    NewBootsLocal,
    /// Nobody has decided whose word counts.
    InConflict(ConflictId),
    /// It is a node of another site.
    Elsewhere {
        /// How far that can be relied on.
        freshness: Freshness,
        /// What waits for a decision.
        claim: Option<ClaimId>,
    },
    /// It is to be moved here, or not, before it boots anything else.
    WaitsForMove,
    /// Nodes of other sites boot here as new machines do.
    BootsAsNew(Autonomy),
    /// They would, if the site might take up new machines.
    NotAsNew(Autonomy),
    /// Nodes of other sites are not served here.
    NotServed,
    /// What a policy of the site has said, or why that does not count.
    Policy(HardwareFact),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record { freshness: Freshness::Asked, .. } => {
                f.write_str("the controller was asked just now")
            }
            Self::Record { freshness: Freshness::Cached, .. } => {
                f.write_str("the controller was asked a short while ago")
            }
            Self::Record { freshness: Freshness::Past { age }, version: 0 } => {
                f.write_str("the controller does not answer - this is what the site found ")?;
                write_age(*age, f)
            }
            Self::Record { freshness: Freshness::Past { age }, version } => {
                write!(f, "the controller does not answer - this is record version {version} of ")?;
                write_age(*age, f)
            }
            Self::NotListed => f.write_str("the controller does not know this machine"),
            Self::NobodyKnows => f.write_str(
                "the controller does not answer and nothing is remembered of this machine",
            ),
            Self::Node { name: Some(name), state } => write!(f, "node {name} is {state}"),
            Self::Node { name: None, state } => write!(f, "the node is {state}"),
            Self::NoWorkflow => f.write_str("no workflow is assigned to it"),
            Self::Workflow(name) => write!(f, "its workflow is {name}"),
            Self::ForeignMethod(method) => {
                write!(f, "this agent does not understand the install method {method} - update it")
            }
            Self::FirstTimeAlone => {
                f.write_str("without the controller an installer is given once - this is that time")
            }
            Self::SecondTimeAlone => f.write_str(
                "the installer was given before - without the controller it is given once",
            ),
            Self::NoLoop => {
                f.write_str("its installer was started - it is not started again by itself")
            }
            Self::OperatorDecides => {
                f.write_str("its installation failed - an operator decides what follows")
            }
            Self::WaitsForPending => {
                f.write_str("it is to be installed anew - that begins when it is set to pending")
            }
            Self::SystemOnDisk => f.write_str("what it is to run is on its disk"),
            Self::NothingFromNetwork => {
                f.write_str("nothing is booted from the network in this state")
            }
            Self::NoPlan => f.write_str("nobody has planned anything for it yet"),
            Self::Gone => f.write_str("it is gone for good"),
            Self::TakenUp => f.write_str("new machines are listed as discovered"),
            Self::TakenUpAlone(autonomy) => {
                write!(f, "autonomy {autonomy} lets the site list new machines as discovered")
            }
            Self::TooOld(action) => {
                write!(f, "its record has outlived its time - offline_default_action is {action}")
            }
            Self::NewBootsLocal => {
                f.write_str("offline_default_action is local - new machines boot their disks")
            }
            Self::InConflict(id) => {
                write!(
                    f,
                    "site and controller disagree about it in conflict {id} - nothing is installed until an operator decides"
                )
            }
            Self::Elsewhere { freshness, claim } => {
                f.write_str("it is a node of another site")?;
                if let Freshness::Past { age } = freshness {
                    f.write_str(" - the controller does not answer and said so ")?;
                    write_age(*age, f)?;
                }
                match claim {
                    Some(claim) => write!(f, " - claim {claim} waits for a decision"),
                    None => Ok(()),
                }
            }
            Self::WaitsForMove => {
                f.write_str("here it waits until somebody decides where it belongs")
            }
            Self::BootsAsNew(autonomy) => {
                write!(f, "autonomy {autonomy} lets it boot here as a new machine does")
            }
            Self::NotAsNew(autonomy) => write!(
                f,
                "here it would boot as a new machine does but autonomy {autonomy} leaves those to the controller"
            ),
            Self::NotServed => f.write_str("this site serves no nodes of other sites"),
            Self::Policy(said) => write!(f, "{said}"),
            Self::NotTakenUp(autonomy) => {
                write!(f, "autonomy {autonomy} leaves new machines to the controller")
            }
        }
    }
}

/// Writes the two largest units of an age: `3 h 12 min ago`.
fn write_age(age: Duration, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let seconds = age.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => write!(f, "{seconds} s ago"),
        (0, 0, _) => write!(f, "{minutes} min ago"),
        (0, _, _) => write!(f, "{hours} h {} min ago", minutes % 60),
        _ => write!(f, "{days} d {} h ago", hours % 24),
    }
}

/// Decides what the machine boots.
pub fn decide(facts: &Facts<'_>) -> Decision {
    let (boot, reasons, effects) = match facts.knowledge {
        Knowledge::Known { record, freshness } => decide_known(facts, record, freshness),
        Knowledge::Elsewhere { foreign, freshness } => decide_elsewhere(facts, foreign, freshness),
        Knowledge::Unknown => decide_new(facts, Reason::NotListed, facts.mode.is_offline()),
        Knowledge::Unreachable => decide_new(facts, Reason::NobodyKnows, true),
    };
    Decision { mac: facts.request.mac, boot, reasons, effects }
}

type Verdict = (Boot, Vec<Reason>, Vec<Effect>);

fn decide_known(facts: &Facts<'_>, record: &BootRecord, freshness: Freshness) -> Verdict {
    let name = record.hostname.as_deref().and_then(HardwareFact::new);
    let version = record.version;
    let mut reasons =
        vec![Reason::Record { freshness, version }, Reason::Node { name, state: record.state }];
    if let Some(conflict) = record.conflict_id {
        reasons.push(Reason::InConflict(conflict));
        return (Boot::Disputed, reasons, Vec::new());
    }
    if is_stale(record, freshness) && facts.offline_action != OfflineAction::LastKnown {
        reasons.push(Reason::TooOld(facts.offline_action));
        return (Boot::LocalDisk, reasons, Vec::new());
    }
    let (boot, reason) = match record.state {
        Lifecycle::Pending => return decide_pending(facts, record, freshness, reasons),
        Lifecycle::Discovered => (Boot::Discovered, Reason::NoPlan),
        Lifecycle::Installing => (Boot::Installing, Reason::NoLoop),
        Lifecycle::InstallFailed => (Boot::InstallFailed, Reason::OperatorDecides),
        Lifecycle::Reprovision => {
            if record.workflow.is_none() {
                reasons.push(Reason::NoWorkflow);
            }
            (Boot::LocalDisk, Reason::WaitsForPending)
        }
        Lifecycle::Installed | Lifecycle::Active => (Boot::LocalDisk, Reason::SystemOnDisk),
        Lifecycle::Deprovisioning
        | Lifecycle::Migrating
        | Lifecycle::ServingSource
        | Lifecycle::CloningTarget => (Boot::LocalDisk, Reason::NothingFromNetwork),
        Lifecycle::Retired => (Boot::Retired, Reason::Gone),
    };
    reasons.push(reason);
    (boot, reasons, Vec::new())
}

/// Whether nobody could be asked, and the controller's last word no longer holds.
fn is_stale(record: &BootRecord, freshness: Freshness) -> bool {
    match freshness {
        Freshness::Past { age } => age.as_secs() >= record.valid_for_seconds,
        Freshness::Asked | Freshness::Cached => false,
    }
}

fn decide_pending(
    facts: &Facts<'_>,
    record: &BootRecord,
    freshness: Freshness,
    mut reasons: Vec<Reason>,
) -> Verdict {
    let workflow = match &record.workflow {
        Some(Assignment::Known(workflow)) => workflow,
        Some(Assignment::Foreign { name, method }) => {
            let [workflow, method] = [name, method].map(|text| HardwareFact::from(text.clone()));
            reasons.push(Reason::Workflow(workflow.clone()));
            reasons.push(Reason::ForeignMethod(method.clone()));
            return (Boot::Foreign { workflow, method }, reasons, Vec::new());
        }
        None => {
            reasons.push(Reason::NoWorkflow);
            return (Boot::PendingWithoutWorkflow, reasons, Vec::new());
        }
    };
    reasons.push(Reason::Workflow(HardwareFact::from(workflow.name.clone())));
    // The mode is advice and may lag behind; a record from the past says as much as the mode does.
    let is_alone = facts.mode.is_offline() || matches!(freshness, Freshness::Past { .. });
    let is_limited = is_alone && record.once;
    if is_limited && facts.install_given {
        reasons.push(Reason::SecondTimeAlone);
        return (Boot::LocalDisk, reasons, Vec::new());
    }
    if is_limited {
        reasons.push(Reason::FirstTimeAlone);
    }
    // Remembered online too: the line may be gone when the machine comes back, and one wish is one installation.
    let remember = Effect::RememberInstall { wish: record.wish(), is_limited };
    (Boot::Install(Box::new(workflow.clone())), reasons, vec![remember])
}

/// What a node of another site boots here until somebody has moved it; never an installer, which would be the other site's wish.
fn decide_elsewhere(facts: &Facts<'_>, foreign: ForeignNode, freshness: Freshness) -> Verdict {
    let mut reasons = vec![Reason::Elsewhere { freshness, claim: foreign.claim_id }];
    let autonomy = facts.autonomy;
    let (boot, reason) = match foreign.boots {
        ForeignBoot::Refuse => (Boot::TurnedAway, Reason::NotServed),
        ForeignBoot::Pending => (Boot::Elsewhere, Reason::WaitsForMove),
        ForeignBoot::Normal => match decides(autonomy, Step::Discover) {
            Ok(Decides::Site) => (Boot::Guest, Reason::BootsAsNew(autonomy)),
            Ok(Decides::Controller) | Err(_) => (Boot::Elsewhere, Reason::NotAsNew(autonomy)),
        },
    };
    reasons.push(reason);
    let mut effects = vec![Effect::Claim];
    if freshness == Freshness::Asked {
        effects.push(Effect::RememberElsewhere(foreign));
    }
    (boot, reasons, effects)
}

fn decide_new(facts: &Facts<'_>, found: Reason, is_alone: bool) -> Verdict {
    let autonomy = facts.autonomy;
    if is_alone && facts.offline_action == OfflineAction::Local {
        return (Boot::LocalDisk, vec![found, Reason::NewBootsLocal], Vec::new());
    }
    if !is_alone {
        return (Boot::Discovered, vec![found, Reason::TakenUp], vec![Effect::Discover]);
    }
    match decides(autonomy, Step::Discover) {
        Ok(Decides::Site) => {
            (Boot::Discovered, vec![found, Reason::TakenUpAlone(autonomy)], vec![Effect::Discover])
        }
        Ok(Decides::Controller) | Err(_) => {
            (Boot::ComeBackLater, vec![found, Reason::NotTakenUp(autonomy)], Vec::new())
        }
    }
}

#[cfg(test)]
mod tests;
