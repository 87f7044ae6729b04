//! How the agent is, for people and for programs.

mod dhcp;
pub mod policies;
mod update;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use pureboot_protocol::{AgentId, Autonomy, Mac, PolicyReport, SiteId, Timestamp, UpdateReport};
use serde::{Deserialize, Serialize};

pub use self::dhcp::DhcpReport;
use crate::cage::Confinement;
use crate::dhcp::loaders::{STOCK_CURE, Stock};
use crate::sync::report::State;
use crate::tftp::refusals::Refused;
pub use pureboot_protocol::session::render::size;

/// Everything that `pureboot-agent status` tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The agent's version.
    pub agent_version: String,
    /// The site that it serves.
    pub site_id: SiteId,
    /// The site's name, once the controller has told it.
    pub site_name: Option<String>,
    /// Who the agent is to the controller, once it has joined.
    pub agent_id: Option<AgentId>,
    /// What the site may decide alone.
    pub autonomy_level: Autonomy,
    /// When the agent was started.
    pub started_at: Timestamp,
    /// Since then.
    pub uptime_seconds: u64,
    /// Whether it has joined the site.
    pub membership: Membership,
    /// What it listens on.
    pub services: BTreeMap<String, pureboot_protocol::Service>,
    /// The controller's address.
    pub central_url: String,
    /// The line to the controller.
    pub line: LineReport,
    /// When the controller last answered.
    pub last_online_at: Option<Timestamp>,
    /// The heartbeat that was answered last.
    pub last_heartbeat_at: Option<Timestamp>,
    /// Different machines that asked for a script within the last hour.
    pub nodes_seen_last_hour: u64,
    /// Machines that the agent remembers.
    pub nodes_known: u64,
    /// Those of them that are nodes of other sites.
    #[serde(default)]
    pub nodes_elsewhere: u64,
    /// Transfers to machines that are under way.
    pub active_boots: u64,
    /// Content.
    pub cache: CacheReport,
    /// What of it the controller wants here, and how that goes.
    pub content: State,
    /// Which loaders machines are sent for are there.
    pub loaders: Stock,
    /// ProxyDHCP; none where it is off.
    pub dhcp: Option<DhcpReport>,
    /// TFTP requests that got no answer and that a person may do something about, by reason.
    #[serde(default)]
    pub tftp_refused: Vec<Refused>,
    /// Answer files that the controller sent and that were refused; none once they were mended.
    #[serde(default)]
    pub answers_refused: Option<AnswersRefused>,
    /// The site's policies, in the order in which they are asked.
    #[serde(default)]
    pub policies: Vec<PolicyReport>,
    /// Changes that the controller has not acknowledged.
    pub queue_pending: u64,
    /// Those of them that are on their way.
    #[serde(default)]
    pub queue_processing: u64,
    /// Changes that the controller has parked, of those that are still kept.
    pub queue_parked: u64,
    /// Why they were not delivered when that was last tried.
    pub queue_error: Option<String>,
    /// The oldest of them.
    pub queue_oldest_at: Option<Timestamp>,
    /// Why nothing can be written down now.
    #[serde(default)]
    pub store_error: Option<String>,
    /// Use of the file system that holds the data directory, 0 to 100.
    pub disk_usage_percent: f64,
    /// What holds the agent, whoever has got hold of it.
    pub confinement: Confinement,
    /// How it stands with other versions of itself; none from one that cannot be updated.
    #[serde(default)]
    pub update: Option<UpdateReport>,
}

/// Whether the agent has joined its site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Membership {
    /// The token has not been redeemed yet.
    Joining,
    /// Joined.
    Joined,
    /// Another machine lives under the agent's identity, and the controller listens to that one; this one serves on with what it knows.
    Fenced {
        /// The controller's words.
        reason: String,
        /// Since when.
        since: Timestamp,
    },
    /// The controller does not accept the agent; it serves on with what it knows.
    Refused {
        /// The controller's words.
        reason: String,
        /// Since when.
        since: Timestamp,
    },
}

/// The line to the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum LineReport {
    /// Not tried yet.
    Untried,
    /// Answered at the last call.
    Connected {
        /// Since when all calls were.
        since: Timestamp,
    },
    /// Some calls fail.
    Degraded {
        /// Since when.
        since: Timestamp,
    },
    /// Away.
    Offline {
        /// Since when.
        since: Timestamp,
    },
}

impl LineReport {
    /// The line in one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Untried => "untried",
            Self::Connected { .. } => "online",
            Self::Degraded { .. } => "degraded",
            Self::Offline { .. } => "offline",
        }
    }

    /// Since when the controller is away.
    pub fn offline_since(self) -> Option<Timestamp> {
        match self {
            Self::Offline { since } => Some(since),
            Self::Untried | Self::Connected { .. } | Self::Degraded { .. } => None,
        }
    }
}

/// Content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CacheReport {
    /// Names.
    pub entries: u64,
    /// Bytes.
    pub size_bytes: u64,
    /// Requests that it could answer, of all since the start, 0 to 1.
    pub hit_rate: Option<f64>,
}

/// Answer files that were refused. Those that were held before stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswersRefused {
    /// The machine's.
    pub mac: Mac,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
}

/// The verdict behind the exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Nothing to do.
    Ok,
    /// Serving, but a person may want to look: the reasons.
    Degraded(Vec<String>),
}

/// From here on a file system counts as nearly full.
const DISK_USAGE_MAX_PERCENT: f64 = 95.0;

impl Report {
    /// Whether all is well.
    pub fn health(&self) -> Health {
        let mut reasons = Vec::new();
        match &self.membership {
            Membership::Joined => {}
            Membership::Joining => reasons.push("the site has not been joined yet".to_owned()),
            Membership::Fenced { reason, .. } => {
                reasons.push(format!("another machine uses this agent's identity: {reason}"));
            }
            Membership::Refused { reason, .. } => {
                reasons.push(format!("the controller refuses this agent: {reason}"));
            }
        }
        match self.line {
            LineReport::Untried | LineReport::Connected { .. } => {}
            LineReport::Degraded { .. } => {
                reasons.push("some calls to the controller fail".to_owned())
            }
            LineReport::Offline { .. } => reasons.push("the controller is out of reach".to_owned()),
        }
        for (name, service) in &self.services {
            if !service.running {
                reasons.push(format!("{name} on {} does not run", service.address));
            }
        }
        if let Some(error) = &self.store_error {
            reasons.push(format!("nothing that machines report can be written down: {error}"));
        }
        if let Some(error) = &self.queue_error {
            reasons.push(format!("changes are not delivered: {error}"));
        }
        if self.queue_parked > 0 {
            reasons.push(format!(
                "the controller could not apply {} changes and has parked them",
                self.queue_parked
            ));
        }
        reasons.extend(self.content.complaint());
        if let Some(AnswersRefused { mac, reason, .. }) = &self.answers_refused {
            reasons.push(format!("new answer files of {mac} are refused: {reason}"));
        }
        reasons.extend(self.policies.iter().filter_map(policies::complaint));
        reasons.extend(self.update.as_ref().and_then(update::complaint));
        if self.disk_usage_percent > DISK_USAGE_MAX_PERCENT {
            reasons.push(format!("the disk is {:.0} % full", self.disk_usage_percent));
        }
        if reasons.is_empty() { Health::Ok } else { Health::Degraded(reasons) }
    }

    /// The report as a person reads it, at `now`.
    pub fn render(&self, now: Timestamp) -> String {
        let mut text = String::new();
        let mut row = |name: &str, value: String| {
            _ = writeln!(text, "{name:<11} {value}");
        };
        let site = match &self.site_name {
            Some(name) => format!("{name} ({})", self.site_id),
            None => self.site_id.to_string(),
        };
        row("site", site);
        row("agent", format!("{}, up {}", self.agent_version, span(self.uptime_seconds)));
        if let Some(update) = self.update.as_ref().and_then(update::describe) {
            row("update", update);
        }
        row(
            "membership",
            match &self.membership {
                Membership::Joining => "joining".to_owned(),
                Membership::Joined => format!("joined, autonomy {}", self.autonomy_level),
                Membership::Fenced { reason, since } => {
                    format!("IDENTITY IN USE by another machine for {}: {reason}", ago(now, *since))
                }
                Membership::Refused { reason, since } => {
                    format!("refused for {}: {reason}", ago(now, *since))
                }
            },
        );
        let line = match self.line {
            LineReport::Untried => "not tried yet".to_owned(),
            LineReport::Connected { since } => format!("connected for {}", ago(now, since)),
            LineReport::Degraded { since } => format!("degraded for {}", ago(now, since)),
            LineReport::Offline { since } => {
                format!("OFFLINE for {}, since {since}", ago(now, since))
            }
        };
        row("controller", format!("{}, {line}", self.central_url));
        row(
            "heartbeat",
            self.last_heartbeat_at.map_or("none answered yet".to_owned(), |at| {
                format!("answered {} ago", ago(now, at))
            }),
        );
        for (name, service) in &self.services {
            let state = if service.running { "" } else { ", NOT RUNNING" };
            row(name, format!("{}{state}", service.address));
        }
        let elsewhere = match self.nodes_elsewhere {
            0 => String::new(),
            nodes => format!(" ({nodes} of other sites, see `cache nodes`)"),
        };
        row(
            "nodes",
            format!(
                "{} seen in the last hour, {} known{elsewhere}, {} transfers under way",
                self.nodes_seen_last_hour, self.nodes_known, self.active_boots
            ),
        );
        let hits = self
            .cache
            .hit_rate
            .map_or("not asked yet".to_owned(), |rate| format!("{:.0} % hits", rate * 100.0));
        row(
            "cache",
            format!("{} names, {}, {hits}", self.cache.entries, size(self.cache.size_bytes)),
        );
        row("content", self.content.describe(|at| ago(now, at)));
        if let Some(syncs) = self.content.describe_syncs(|at| ago(now, at)) {
            row("syncs", syncs);
        }
        if let Some(missing) = self.loaders.complaint() {
            row("loaders", format!("missing: {missing}; {STOCK_CURE}"));
        }
        for (name, value) in self.dhcp.iter().flat_map(DhcpReport::rows) {
            row(name, value);
        }
        for Refused { reason, count, last_from, last_at } in &self.tftp_refused {
            let last = ago(now, *last_at);
            row(
                "refused",
                format!("{count} TFTP requests, last from {last_from} {last} ago: {reason}"),
            );
        }
        for policy in &self.policies {
            row("policy", policies::describe(policy));
        }
        let oldest = self
            .queue_oldest_at
            .map_or(String::new(), |at| format!(", the oldest for {}", ago(now, at)));
        let parked = match self.queue_parked {
            0 => String::new(),
            parked => format!(", {parked} parked there"),
        };
        row(
            "queue",
            format!("{} changes wait for the controller{oldest}{parked}", self.queue_pending),
        );
        row("disk", format!("{:.0} % used", self.disk_usage_percent));
        row("cage", self.confinement.describe());
        match self.health() {
            Health::Ok => row("health", "ok".to_owned()),
            Health::Degraded(reasons) => row("health", format!("degraded: {}", reasons.join("; "))),
        }
        text
    }
}

fn ago(now: Timestamp, then: Timestamp) -> String {
    span(u64::try_from(now.seconds_since(then)).unwrap_or(0))
}

/// A span of time in its two largest units.
pub fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use pureboot_protocol::Service;

    use super::*;

    fn report() -> Report {
        Report {
            agent_version: "0.1.0".to_owned(),
            site_id: SiteId::from_random([7; 16]),
            site_name: Some("berlin".to_owned()),
            agent_id: Some(AgentId::from_random([9; 16])),
            autonomy_level: Autonomy::Limited,
            started_at: Timestamp::from_unix_ms(0),
            uptime_seconds: 93_784,
            membership: Membership::Joined,
            services: BTreeMap::from([
                ("http".to_owned(), Service { running: true, address: "0.0.0.0:8080".to_owned() }),
                ("tftp".to_owned(), Service { running: true, address: "0.0.0.0:69".to_owned() }),
            ]),
            central_url: "https://boot.example.org:443".to_owned(),
            line: LineReport::Connected { since: Timestamp::from_unix_ms(86_400_000) },
            last_online_at: Some(Timestamp::from_unix_ms(93_779_000)),
            last_heartbeat_at: Some(Timestamp::from_unix_ms(93_779_000)),
            nodes_seen_last_hour: 12,
            nodes_known: 40,
            nodes_elsewhere: 0,
            active_boots: 2,
            cache: CacheReport { entries: 7, size_bytes: 123_456_789, hit_rate: Some(0.995) },
            content: State {
                manifest_version: Some(1_700_000_000),
                manifest_coming: None,
                manifest_confirmed_at: Some(Timestamp::from_unix_ms(93_783_000)),
                manifest_expired: false,
                names_wanted: 6,
                names_missing: 0,
                names_left_out: 0,
                received_bytes: 0,
                reused_bytes: 0,
                progress: None,
                last_sync_at: Some(Timestamp::from_unix_ms(93_781_000)),
                last: None,
                next_sync_at: Some(Timestamp::from_unix_ms(180_000_000)),
            },
            loaders: Stock::default(),
            dhcp: None,
            tftp_refused: Vec::new(),
            answers_refused: None,
            policies: Vec::new(),
            queue_pending: 0,
            queue_processing: 0,
            queue_parked: 0,
            queue_error: None,
            queue_oldest_at: None,
            store_error: None,
            disk_usage_percent: 41.7,
            confinement: Confinement::Closed {
                user: 998,
                capabilities: Vec::new(),
                gaps: Vec::new(),
            },
            update: None,
        }
    }

    #[test]
    fn a_person_reads_how_the_agent_is() {
        expect![[r#"
            site        berlin (07070707-0707-4707-8707-070707070707)
            agent       0.1.0, up 1 d 2 h
            membership  joined, autonomy limited
            controller  https://boot.example.org:443, connected for 2 h 3 min
            heartbeat   answered 5 s ago
            http        0.0.0.0:8080
            tftp        0.0.0.0:69
            nodes       12 seen in the last hour, 40 known, 2 transfers under way
            cache       7 names, 123.5 MB, 100 % hits
            content     all 6 names of manifest 1700000000 are here, asked 1 s ago
            syncs       next by the schedule at 1970-01-03T02:00:00.000Z
            queue       0 changes wait for the controller
            disk        42 % used
            cage        closed, as user 998, without capabilities
            health      ok
        "#]]
        .assert_eq(&report().render(Timestamp::from_unix_ms(93_784_000)));
    }

    #[test]
    fn a_person_reads_what_is_wrong() {
        let mut report = report();
        report.site_name = None;
        report.membership = Membership::Refused {
            reason: "the token has expired (401, token_refused)".to_owned(),
            since: Timestamp::from_unix_ms(93_000_000),
        };
        report.line = LineReport::Offline { since: Timestamp::from_unix_ms(86_400_000) };
        report.last_heartbeat_at = None;
        report.services.insert(
            "tftp".to_owned(),
            Service { running: false, address: "0.0.0.0:69".to_owned() },
        );
        report.cache = CacheReport { entries: 0, size_bytes: 0, hit_rate: None };
        report.content.names_missing = 5;
        report.answers_refused = Some(AnswersRefused {
            mac: "52:54:00:00:00:01".parse().expect("an address"),
            at: Timestamp::from_unix_ms(93_700_000),
            reason: "preseed.cfg: 'disks' line 2, column 1: unknown filter".to_owned(),
        });
        report.content.manifest_expired = true;
        report.tftp_refused = vec![Refused {
            reason: crate::tftp::limits::Refusal::Elsewhere,
            count: 12,
            last_from: [10, 9, 0, 7].into(),
            last_at: Timestamp::from_unix_ms(93_760_000),
        }];
        report.nodes_elsewhere = 2;
        report.queue_pending = 3;
        report.queue_parked = 1;
        report.queue_oldest_at = Some(Timestamp::from_unix_ms(93_700_000));
        expect![[r#"
            site        07070707-0707-4707-8707-070707070707
            agent       0.1.0, up 1 d 2 h
            membership  refused for 13 min 4 s: the token has expired (401, token_refused)
            controller  https://boot.example.org:443, OFFLINE for 2 h 3 min, since 1970-01-02T00:00:00.000Z
            heartbeat   none answered yet
            http        0.0.0.0:8080
            tftp        0.0.0.0:69, NOT RUNNING
            nodes       12 seen in the last hour, 40 known (2 of other sites, see `cache nodes`), 2 transfers under way
            cache       0 names, 0 B, not asked yet
            content     5 of 6 names of manifest 1700000000 (EXPIRED) are missing, asked 1 s ago
            syncs       next by the schedule at 1970-01-03T02:00:00.000Z
            refused     12 TFTP requests, last from 10.9.0.7 24 s ago: the address is in no network of this host
            queue       3 changes wait for the controller, the oldest for 1 min 24 s, 1 parked there
            disk        42 % used
            cage        closed, as user 998, without capabilities
            health      degraded: the controller refuses this agent: the token has expired (401, token_refused); the controller is out of reach; tftp on 0.0.0.0:69 does not run; the controller could not apply 1 changes and has parked them; new answer files of 52:54:00:00:00:01 are refused: preseed.cfg: 'disks' line 2, column 1: unknown filter
        "#]]
        .assert_eq(&report.render(Timestamp::from_unix_ms(93_784_000)));
    }
}
