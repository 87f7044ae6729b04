//! `agent …`.

mod update;

use reqwest::Method;

use crate::remote::arguments::{asks, noun};
use crate::remote::client::Query;
use crate::remote::resolve::{SITE, label, text};
use crate::remote::screen::Column;
use crate::remote::session::{Session, most};

use update::{Forget, Releases, Update, Upload};

noun! {
    /// Look after the agents of the sites.
    #[argh(subcommand, name = "agent", example = "{command_name} ls")]
    AgentArguments, AgentCommand {
        Ls(Ls),
        Status(Status),
        Heartbeats(Heartbeats),
        Revoke(Revoke),
        Update(Update),
        Releases(Releases),
        Upload(Upload),
        Forget(Forget),
    }
}

const COLUMNS: &[Column] = &[
    Column::plain("SITE", "site"),
    Column::plain("STATUS", "status"),
    Column::plain("LAST SEEN", "last_seen"),
    Column::plain("VERSION", "agent_version"),
    Column::plain("RUNS", "heartbeat.update.state"),
    Column::plain("LAST UPDATE", "heartbeat.update.last.fate"),
    Column::plain("WAITING", "heartbeat.pending_queue_items"),
    Column::plain("CONFLICTS", "heartbeat.conflicts_pending"),
    Column::bytes("CACHE", "heartbeat.cache_size_bytes"),
    Column::plain("URL", "agent_url"),
    Column::plain("REVOKED", "revoked_at"),
];

/// Shows the agents of all sites.
///
/// # Errors
/// The controller refuses it.
pub(crate) async fn list(session: &Session) -> anyhow::Result<()> {
    let mut rows = session.client.list(&["agents"], Query::new(), None).await?;
    session.name(&mut rows, &SITE, &[("site_id", "site")]).await?;
    session.screen.rows(&rows, COLUMNS)
}

asks! {
    /// List the agents of all sites.
    #[argh(subcommand, name = "ls", example = "{command_name}")]
    struct Ls {}
}

impl Ls {
    async fn run(self) -> anyhow::Result<()> {
        list(&self.session()?).await
    }
}

asks! {
    /// Show the agent of a site and what it said last of itself.
    #[argh(subcommand, name = "status", example = "{command_name} berlin --field heartbeat.uptime_seconds")]
    struct Status {
        /// the site's path, name or id
        #[argh(positional)]
        site: String,

        /// print this field alone
        #[argh(option)]
        field: Option<String>,
    }
}

impl Status {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let id = session.id(&SITE, &self.site).await?;
        let agent = session.client.get(&["agents", &id, "status"], Query::new()).await?;
        let first = ["site_name", "status", "last_seen", "agent_version"];
        session.screen.thing(&agent, &first, self.field.as_deref())
    }
}

const HEARTBEATS: &[Column] = &[
    Column::plain("RECEIVED", "received_at"),
    Column::plain("VERSION", "heartbeat.agent_version"),
    Column::plain("UP SECONDS", "heartbeat.uptime_seconds"),
    Column::plain("BOOTS", "heartbeat.active_boots"),
    Column::plain("WAITING", "heartbeat.pending_queue_items"),
    Column::plain("CONFLICTS", "heartbeat.conflicts_pending"),
    Column::bytes("CACHE", "heartbeat.cache_size_bytes"),
    Column::plain("DISK %", "heartbeat.disk_usage_percent"),
    Column::plain("LAST SYNC", "heartbeat.last_sync_result"),
];

asks! {
    /// List the heartbeats of a site's agent that are kept, the latest first.
    #[argh(subcommand, name = "heartbeats", example = "{command_name} berlin --limit 20")]
    struct Heartbeats {
        /// the site's path, name or id
        #[argh(positional)]
        site: String,

        /// rows to show, 0 for all (default: 50)
        #[argh(option, default = "50")]
        limit: usize,
    }
}

impl Heartbeats {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let id = session.id(&SITE, &self.site).await?;
        let path = ["agents", &id, "heartbeats"];
        session.show_list(&path, Query::new(), most(self.limit), HEARTBEATS).await
    }
}

asks! {
    /// Take the credential of a site's agent away. Its machines boot on; it reaches the controller again with a new token only.
    #[argh(subcommand, name = "revoke", example = "{command_name} berlin --yes")]
    struct Revoke {
        /// the site's path, name or id
        #[argh(positional)]
        site: String,

        /// do not ask
        #[argh(switch)]
        yes: bool,
    }
}

impl Revoke {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let site = session.find(&SITE, &self.site).await?;
        let label = label(&SITE, &site);
        session.confirm(self.yes, &format!("Revoke the credential of the agent of {label}?"))?;
        let path = ["agents", text(&site, "id"), "revoke"];
        let agent = session.client.send(Method::POST, &path, Query::new(), None).await?;
        session.screen.done(
            &agent,
            &format!("the agent of {label} is revoked; `site token` lets one join again"),
        )
    }
}
