//! What the centre orders: of a site's agent, with what becomes of it, and of a machine.

use serde::{Deserialize, Serialize};

use crate::site::words;
use crate::{Category, CommandId, ConflictId, Mac, Resolution, SignedUpdate};

/// Commands in one answer to a heartbeat, at most.
pub const COMMANDS_MAX: usize = 16;

/// Results in one heartbeat, at most.
pub const COMMAND_RESULTS_MAX: usize = 64;

/// An order with its name: `{"id": …, "command": …, "params": {…}}`. It comes again under the same id until its result is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SiteCommand {
    /// What the result is reported under.
    pub id: CommandId,
    /// What is to be done.
    #[serde(flatten)]
    pub order: Order,
}

/// What is ordered, whether this program knows the order or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Order {
    /// One that this program knows.
    Known(SiteOrder),
    /// One of another version.
    Foreign {
        /// Its name.
        command: String,
    },
}

/// An order to a site's agent. Each can be carried out twice with the effect of once, but for a change of the credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "command", content = "params", rename_all = "snake_case")]
pub enum SiteOrder {
    /// Bring content up to date.
    Sync {
        /// Look at all of it, even where the manifest is the one that was obeyed last.
        #[serde(default)]
        force: bool,
        /// Only these; all if empty.
        #[serde(default)]
        categories: Vec<Category>,
    },
    /// Ask anew about something. What the site has stays, and is used, until the answer is there.
    Invalidate(Invalid),
    /// Take the site's settings as they are in the answer that holds this order, whatever their version.
    UpdateConfig {},
    /// Change the agent's credential.
    RotateCredential {},
    /// Run another version of the agent.
    Update {
        /// Which, as the controller has signed it for this site.
        update: SignedUpdate,
    },
    /// Somebody has ended a conflict: ask about the node anew, and go by that.
    ResolveConflict {
        /// The conflict.
        conflict_id: ConflictId,
        /// The node's boot interface.
        mac: Mac,
        /// How it has ended.
        resolution: Resolution,
    },
}

/// What is to be asked about anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "expected mac, or category and path")]
pub enum Invalid {
    /// What is remembered of a machine.
    Node {
        /// Its boot interface.
        mac: Mac,
    },
    /// A piece of content.
    Content {
        /// Of what kind.
        category: Category,
        /// Its path below the category.
        path: String,
    },
}

words! {
    /// How far an agent is with a command.
    CommandOutcome {
        /// Begun, and reported again and again until it has ended.
        Started = "started",
        /// Done.
        Completed = "completed",
        /// Tried in vain.
        Failed = "failed",
        /// Not known to this agent.
        Unsupported = "unsupported",
    }
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CommandResult {
    /// The command.
    pub id: CommandId,
    /// How far it is, or how it ended.
    pub outcome: CommandOutcome,
    /// A sentence for people.
    pub detail: String,
}

words! {
    /// An order to a machine whose system asks for it.
    NodeOrder {
        /// Shut down.
        Poweroff = "poweroff",
        /// Start anew.
        Reboot = "reboot",
        /// Look at the hardware again and report it.
        Rescan = "rescan",
    }
}

/// An order to a machine that it has not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PendingCommand {
    /// What it is acknowledged by: the same order may be given twice in the life of a system.
    pub id: CommandId,
    /// What is to be done.
    pub command: NodeOrder,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(command: &str) -> SiteCommand {
        let text = format!(r#"{{"id": "0b8f5c1e-6f0e-4d52-9a55-0c8f3f1c2a77", {command}}}"#);
        serde_json::from_str(&text).expect("a command")
    }

    #[test]
    fn c14_orders_of_another_version_are_read_beside_those_that_are_known() {
        for (text, order) in [
            (
                r#""command": "sync", "params": {"force": true, "categories": ["images"]}"#,
                SiteOrder::Sync { force: true, categories: vec![Category::Images] },
            ),
            (
                r#""command": "sync", "params": {}"#,
                SiteOrder::Sync { force: false, categories: Vec::new() },
            ),
            (
                r#""command": "invalidate", "params": {"mac": "52:54:00:12:34:56"}"#,
                SiteOrder::Invalidate(Invalid::Node { mac: "525400123456".parse().expect("mac") }),
            ),
            (r#""command": "rotate_credential", "params": {}"#, SiteOrder::RotateCredential {}),
            (
                r#""command": "resolve_conflict", "params": {"conflict_id": "0b8f5c1e-6f0e-4d52-9a55-0c8f3f1c2a77",
                    "mac": "52:54:00:12:34:56", "resolution": "keep_local"}"#,
                SiteOrder::ResolveConflict {
                    conflict_id: "0b8f5c1e-6f0e-4d52-9a55-0c8f3f1c2a77".parse().expect("an id"),
                    mac: "525400123456".parse().expect("mac"),
                    resolution: Resolution::KeepLocal,
                },
            ),
        ] {
            assert_eq!(read(text).order, Order::Known(order), "{text}");
        }
        for (text, name) in [
            (r#""command": "dance", "params": {"steps": [1, 2]}"#, "dance"),
            (r#""command": "sync", "params": {"categories": ["songs"]}"#, "sync"),
            (r#""command": "rotate_credential""#, "rotate_credential"),
        ] {
            let command = name.to_owned();
            assert_eq!(read(text).order, Order::Foreign { command }, "{text}");
        }
    }

    #[test]
    fn a_command_is_written_as_id_command_and_params() {
        let command = SiteCommand {
            id: CommandId::from_random([0xff; 16]),
            order: Order::Known(SiteOrder::UpdateConfig {}),
        };
        let text = serde_json::to_string(&command).expect("JSON");
        let id = command.id;
        assert_eq!(text, format!(r#"{{"id":"{id}","command":"update_config","params":{{}}}}"#));
        assert_eq!(serde_json::from_str::<SiteCommand>(&text).expect("read back"), command);
    }
}
