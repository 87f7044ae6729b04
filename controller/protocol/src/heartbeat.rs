//! How an agent says that it lives, and what it is told in return.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    CommandResult, Instance, PoliciesReport, SiteCommand, SiteConfig, SiteId, Timestamp,
    UpdateReport,
};

/// One service of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Service {
    /// Whether it answers.
    pub running: bool,
    /// The address and port that it is bound to.
    pub address: String,
}

/// An agent's state, measured at the moment of sending.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Heartbeat {
    /// The site; must be the credential's own.
    pub site_id: SiteId,
    /// The agent's clock.
    pub timestamp: Timestamp,
    /// Which process sends it; none if the agent does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Instance>,
    /// The agent's version.
    pub agent_version: String,
    /// Since the agent's start.
    pub uptime_seconds: u64,
    /// By name: `tftp`, `http`.
    pub services: BTreeMap<String, Service>,
    /// Different machines that asked for a script within the last 3,600 s.
    pub nodes_seen_last_hour: u64,
    /// Transfers to machines that are under way.
    pub active_boots: u64,
    /// Requests for content that the cache had, of all since the start, 0 to 1; none before the first.
    pub cache_hit_rate: Option<f64>,
    /// Of the file system that holds the data directory, 0 to 100.
    pub disk_usage_percent: f64,
    /// Bytes of content.
    pub cache_size_bytes: u64,
    /// Names of content.
    pub cache_entries: u64,
    /// Nodes that the agent remembers.
    pub node_cache_entries: u64,
    /// When content was last brought up to date.
    pub last_sync_at: Option<Timestamp>,
    /// How that went.
    pub last_sync_result: Option<String>,
    /// Content that is yet to be fetched.
    pub pending_sync_items: u64,
    /// Whether the agent thought the controller in reach.
    pub is_online: bool,
    /// When it last was.
    pub last_online_at: Option<Timestamp>,
    /// For how long it has not been; 0 when online.
    pub offline_duration_seconds: u64,
    /// Changes that the controller has not acknowledged.
    pub pending_queue_items: u64,
    /// Changes that the controller has parked.
    pub failed_queue_items: u64,
    /// Conflicts that nobody has decided.
    pub conflicts_pending: u64,
    /// The version of the site's settings that the agent obeys.
    pub config_version: u64,
    /// What became of the commands of earlier answers, at most [`COMMAND_RESULTS_MAX`](crate::COMMAND_RESULTS_MAX).
    #[serde(default)]
    pub command_results: Vec<CommandResult>,
    /// The site's policies and the engine that runs them; none from an agent that runs no policies.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::apart::understood"
    )]
    pub plugins: Option<PoliciesReport>,
    /// How the agent stands with other versions of itself; none from one that cannot be updated.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::apart::understood"
    )]
    pub update: Option<UpdateReport>,
}

/// The controller's answer to a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HeartbeatAnswer {
    /// Always true; a refusal is a problem document.
    pub acknowledged: bool,
    /// The controller's clock.
    pub server_time: Timestamp,
    /// Orders, at most [`COMMANDS_MAX`](crate::COMMANDS_MAX).
    #[serde(default)]
    pub commands: Vec<SiteCommand>,
    /// The site's settings, where the agent's version of them is not the newest.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::apart::understood"
    )]
    pub config: Option<SiteConfig>,
    /// The newest version of the site's settings.
    pub config_version: u64,
    /// The newest number of a change of the site's nodes; whoever has followed up to it need not ask for what has changed. None
    /// from a controller that does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes_version: Option<u64>,
    /// The version of the site's manifest; whoever holds that one need not ask for it. None where the controller does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_version: Option<u64>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Order, SiteOrder};

    #[test]
    fn u7_an_answer_of_a_controller_two_versions_ahead_counts_as_far_as_it_is_understood() {
        let id = "0b8f5c1e-6f0e-4d52-9a55-0c8f3f1c2a77";
        let answer = json!({
            "acknowledged": true,
            "server_time": "2031-01-01T00:00:00.000Z",
            "weather": { "sun": true },
            "commands": [
                { "id": id, "command": "dance", "params": { "steps": 3 }, "urgent": true },
                { "id": id, "command": "sync", "params": { "force": true, "quietly": true } },
            ],
            "config": { "autonomy_level": "of a kind that is not known" },
            "config_version": 9,
        });
        let answer: HeartbeatAnswer = serde_json::from_value(answer).expect("an answer");
        assert_eq!((answer.config, answer.config_version), (None, 9));
        let orders: Vec<_> = answer.commands.into_iter().map(|command| command.order).collect();
        let sync = SiteOrder::Sync { force: true, categories: Vec::new() };
        assert_eq!(orders, [Order::Foreign { command: "dance".to_owned() }, Order::Known(sync)]);
    }
}
