//! How a site is: put together from what its agent said last and what the controller has of it. Values in, values out.

use std::collections::BTreeMap;

use pureboot_protocol::{
    AgentStatus, Heartbeat, Service, SiteId, Timestamp, UpdateEnded, UpdateFate,
};
use schemars::JsonSchema;
use serde::Serialize;

use crate::store::Site;
use crate::tenure::Rival;

/// The share of the agent's disk, in per cent, from which an operator should know.
const DISK_USAGE_PERCENT_MAX: f64 = 90.0;
/// For so long after it was last refused a second machine is told of, in seconds: a machine that lives calls at least so often.
const RIVAL_SHOWN_S: i64 = 2 * 3_600;
/// Bytes of the unit that sites have their cache's limit in.
const BYTES_PER_GB: f64 = 1e9;

/// What is known of a site at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Knowledge {
    /// The site.
    pub(crate) site: Site,
    /// What its agent said last.
    pub(crate) heartbeat: Option<Heartbeat>,
    /// Nodes at home there that are not retired.
    pub(crate) nodes: u64,
    /// Conflicts that nobody has decided.
    pub(crate) conflicts: u64,
    /// Changes that are kept without effect.
    pub(crate) parked: u64,
    /// The machine that was refused last, because another one has its identity.
    pub(crate) rival: Option<Rival>,
}

/// How a site is. The field names are those of the HTTP surface; what only the agent knows is none before its first heartbeat.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct SiteHealth {
    site_id: SiteId,
    agent_status: Option<AgentStatus>,
    agent_last_seen: Option<Timestamp>,
    pending_sync_items: Option<u64>,
    conflicts_pending: u64,
    nodes_count: u64,
    cache_used_gb: Option<f64>,
    /// None: the agent's own limit.
    cache_max_gb: Option<u32>,
    services: BTreeMap<String, Service>,
    alerts: Vec<Alert>,
}

/// Something that an operator should look at.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Alert {
    code: AlertCode,
    /// A sentence for people.
    message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum AlertCode {
    NoAgent,
    AgentDegraded,
    AgentOffline,
    ServiceDown,
    UpdateFailed,
    DiskFull,
    ConflictsPending,
    ChangesParked,
    IdentityInUse,
}

impl SiteHealth {
    /// How the site of `known` is.
    pub(crate) fn of(known: Knowledge, now: Timestamp) -> Self {
        let alerts = alerts(&known, now);
        let Knowledge { site, heartbeat, nodes, conflicts, .. } = known;
        // Gigabytes are for reading; what a double cannot hold of the bytes is not shown anyway.
        #[expect(clippy::cast_precision_loss, reason = "shown to people, in units of 10^9")]
        let gb = |heartbeat: &Heartbeat| heartbeat.cache_size_bytes as f64 / BYTES_PER_GB;
        Self {
            site_id: site.id,
            agent_status: site.agent_status,
            agent_last_seen: site.agent_last_seen,
            pending_sync_items: heartbeat.as_ref().map(|heartbeat| heartbeat.pending_sync_items),
            conflicts_pending: conflicts,
            nodes_count: nodes,
            cache_used_gb: heartbeat.as_ref().map(gb),
            cache_max_gb: site.cache_max_size_gb,
            services: heartbeat.map(|heartbeat| heartbeat.services).unwrap_or_default(),
            alerts,
        }
    }
}

fn alerts(known: &Knowledge, now: Timestamp) -> Vec<Alert> {
    let mut alerts = Vec::new();
    let mut alert = |code, message| alerts.push(Alert { code, message });
    let silence = known.site.agent_last_seen.map_or(0, |seen| now.seconds_since(seen));
    match known.site.agent_status {
        None => alert(
            AlertCode::NoAgent,
            "no agent has joined; make a token and give it to `pureboot-agent init`".to_owned(),
        ),
        Some(AgentStatus::Online) => {}
        Some(AgentStatus::Degraded) => {
            alert(AlertCode::AgentDegraded, format!("no word from the agent for {silence} s"));
        }
        Some(AgentStatus::Offline) => alert(
            AlertCode::AgentOffline,
            format!("no word from the agent for {silence} s; what it said last is shown"),
        ),
    }
    if let Some(heartbeat) = &known.heartbeat {
        for (name, service) in heartbeat.services.iter().filter(|(_, service)| !service.running) {
            let address = &service.address;
            alert(AlertCode::ServiceDown, format!("service '{name}' at {address} does not answer"));
        }
        let last = heartbeat.update.as_ref().and_then(|update| update.last.as_ref());
        if let Some(UpdateEnded { version, why, .. }) =
            last.filter(|last| last.fate != UpdateFate::Proven)
        {
            let message = format!(
                "the agent does not run version {version}, which it was ordered to, but {}: {why}",
                heartbeat.agent_version
            );
            alert(AlertCode::UpdateFailed, message);
        }
        let percent = heartbeat.disk_usage_percent;
        if percent >= DISK_USAGE_PERCENT_MAX {
            alert(AlertCode::DiskFull, format!("the agent's disk is {percent:.0} % full"));
        }
    }
    if let Some(rival) = &known.rival
        && now.seconds_since(rival.at) < RIVAL_SHOWN_S
    {
        let message = format!(
            "two machines use the identity of the site's agent: {rival}; stop one of them, or make a new token for the one that stays"
        );
        alert(AlertCode::IdentityInUse, message);
    }
    if known.conflicts > 0 {
        let message = format!("{} changes disagree with the controller", known.conflicts);
        alert(AlertCode::ConflictsPending, message);
    }
    if known.parked > 0 {
        let message = format!("{} changes were kept without effect", known.parked);
        alert(AlertCode::ChangesParked, message);
    }
    alerts
}
