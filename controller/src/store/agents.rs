//! Agents as they were heard of: their heartbeats, and the standing that follows from them.

use pureboot_protocol::{AgentId, AgentStatus, Heartbeat, Page, SiteId, Timestamp};
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::Row;

use crate::site_health::Knowledge;
use crate::store::beats::HEARTBEATS_MAX;
use crate::store::page::{Cursor, Paging};
use crate::store::row::{DbRow, count, int, json, json_opt, time, time_opt, word, word_opt};
use crate::store::{Store, StoreError, sites, tenures};

/// How an agent stands. The field names are those of the HTTP surface.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct AgentStanding {
    agent_id: AgentId,
    site_id: SiteId,
    site_name: String,
    agent_url: Option<String>,
    status: Option<AgentStatus>,
    /// When it was heard of last, by the controller's clock.
    last_seen: Option<Timestamp>,
    agent_version: String,
    capabilities: Vec<String>,
    registered_at: Timestamp,
    /// When an operator ended its credential; none while it is good.
    revoked_at: Option<Timestamp>,
    /// The latest; none before the first.
    heartbeat: Option<Heartbeat>,
}

/// A heartbeat with its place in the history of its site. The field names are those of the HTTP surface.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct KeptHeartbeat {
    number: u64,
    /// By the controller's clock.
    received_at: Timestamp,
    heartbeat: Heartbeat,
}

/// For how long an agent has been silent, as far as it matters for its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Silence {
    /// The agent's site.
    pub(crate) site_id: SiteId,
    /// The status that it has.
    pub(crate) status: AgentStatus,
    /// When it was heard of last.
    pub(crate) last_seen: Timestamp,
    /// Seconds between heartbeats, as the agent was told.
    pub(crate) interval_seconds: u32,
}

/// Of an agent the history of its site has what came after its registration; the last of that is the latest.
const STANDING: &str =
    "SELECT s.name AS site_name, s.agent_url, s.agent_status, s.agent_last_seen, a.*,
        (SELECT h.heartbeat FROM heartbeats h WHERE h.site_id = a.site_id AND h.number > a.beats_before
         ORDER BY h.number DESC LIMIT 1) AS heartbeat
     FROM agents a JOIN sites s ON s.id = a.site_id ";

impl Store {
    /// The agents in the order of their registration.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn agents(&self, paging: &Paging) -> Result<Page<AgentStanding>, StoreError> {
        let (position, id, rows) = paging.rising();
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "{STANDING} WHERE (a.registered_at, a.id) > ($1, $2) ORDER BY a.registered_at, a.id LIMIT $3"
        )))
        .bind(position)
        .bind(id)
        .bind(rows)
        .fetch_all(&self.reader)
        .await?;
        let total =
            sqlx::query("SELECT count(*) AS total FROM agents").fetch_one(&self.reader).await?;
        let agents = rows.iter().map(read).collect::<Result<_, _>>()?;
        Ok(paging.page(agents, count(&total, "total")?, |agent: &AgentStanding| {
            Cursor::new(agent.registered_at.unix_ms(), agent.agent_id)
        }))
    }

    /// How the agent of a site stands.
    ///
    /// # Errors
    /// There is no such site, or it has no agent.
    pub(crate) async fn agent(&self, site: SiteId) -> Result<AgentStanding, StoreError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!("{STANDING} WHERE a.site_id = $1")))
            .bind(site.to_string())
            .fetch_optional(&self.reader)
            .await?;
        let missing = || StoreError::Missing { what: "agent of a site", id: site.to_string() };
        read(&row.ok_or_else(missing)?)
    }

    /// The heartbeats that are kept of a site, the latest first.
    ///
    /// # Errors
    /// There is no such site.
    pub(crate) async fn heartbeats(
        &self,
        site: SiteId,
        paging: &Paging,
    ) -> Result<Page<KeptHeartbeat>, StoreError> {
        let mut tx = self.reader.begin().await?;
        sites::load(&mut tx, site).await?;
        let last = sqlx::query(
            "SELECT coalesce(max(number), 0) AS number FROM heartbeats WHERE site_id = $1",
        );
        let last: u64 = count(&last.bind(site.to_string()).fetch_one(&mut *tx).await?, "number")?;
        // There may be some more, which are deleted in time.
        let too_old = int(last.saturating_sub(HEARTBEATS_MAX));
        let (below, rows) = paging.falling();
        let rows = sqlx::query(
            "SELECT * FROM heartbeats WHERE site_id = $1 AND number < $2 AND number > $4 ORDER BY number DESC LIMIT $3",
        )
        .bind(site.to_string())
        .bind(below)
        .bind(rows)
        .bind(too_old)
        .fetch_all(&mut *tx)
        .await?;
        let total = sqlx::query(
            "SELECT count(*) AS total FROM heartbeats WHERE site_id = $1 AND number > $2",
        );
        let total = total.bind(site.to_string()).bind(too_old).fetch_one(&mut *tx).await?;
        let read = |row: &DbRow| {
            Ok(KeptHeartbeat {
                number: count(row, "number")?,
                received_at: time(row, "received_at")?,
                heartbeat: json(row, "heartbeat")?,
            })
        };
        let kept = rows.iter().map(read).collect::<Result<_, StoreError>>()?;
        Ok(paging.page(kept, count(&total, "total")?, |kept: &KeptHeartbeat| {
            Cursor::numbered(kept.number)
        }))
    }

    /// What is known of a site.
    ///
    /// # Errors
    /// There is no such site.
    pub(crate) async fn site_knowledge(&self, id: SiteId) -> Result<Knowledge, StoreError> {
        let mut tx = self.reader.begin().await?;
        let site = sites::load(&mut tx, id).await?;
        let row = sqlx::query(
            "SELECT (SELECT h.heartbeat FROM agents a JOIN heartbeats h ON h.site_id = a.site_id AND h.number > a.beats_before
                     WHERE a.site_id = $1 ORDER BY h.number DESC LIMIT 1) AS heartbeat,
                    (SELECT count(*) FROM nodes WHERE home_site_id = $1 AND state <> 'retired') AS nodes,
                    (SELECT count(*) FROM conflicts WHERE site_id = $1 AND resolution IS NULL) AS conflicts,
                    (SELECT count(*) FROM changes WHERE site_id = $1 AND outcome = 'parked') AS parked",
        )
        .bind(id.to_string())
        .fetch_one(&mut *tx)
        .await?;
        let rival = tenures::last_rival(&mut tx, id).await?;
        Ok(Knowledge {
            site,
            heartbeat: json_opt(&row, "heartbeat")?,
            nodes: count(&row, "nodes")?,
            conflicts: count(&row, "conflicts")?,
            parked: count(&row, "parked")?,
            rival,
        })
    }

    /// How long each agent has been silent.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn silences(&self) -> Result<Vec<Silence>, StoreError> {
        let rows = sqlx::query(
            "SELECT s.id, s.agent_status, s.agent_last_seen, a.heartbeat_interval FROM sites s
             JOIN agents a ON a.site_id = s.id WHERE s.agent_status IS NOT NULL AND s.agent_last_seen IS NOT NULL",
        )
        .fetch_all(&self.reader)
        .await?;
        let read = |row: &DbRow| {
            Ok(Silence {
                site_id: word(row, "id")?,
                status: word(row, "agent_status")?,
                last_seen: time(row, "agent_last_seen")?,
                interval_seconds: count(row, "heartbeat_interval")?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// Gives the agent of `silence` another status, unless it was heard of in the meantime; answers whether it was not.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn set_agent_status(
        &self,
        silence: Silence,
        status: AgentStatus,
    ) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let updated = sqlx::query(
            "UPDATE sites SET agent_status = $2 WHERE id = $1 AND agent_last_seen = $3",
        )
        .bind(silence.site_id.to_string())
        .bind(status.as_str())
        .bind(silence.last_seen.unix_ms())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(updated.rows_affected() > 0)
    }
}

fn read(row: &DbRow) -> Result<AgentStanding, StoreError> {
    Ok(AgentStanding {
        agent_id: word(row, "id")?,
        site_id: word(row, "site_id")?,
        site_name: row.try_get("site_name")?,
        agent_url: row.try_get("agent_url")?,
        status: word_opt(row, "agent_status")?,
        last_seen: time_opt(row, "agent_last_seen")?,
        agent_version: row.try_get("agent_version")?,
        capabilities: json(row, "capabilities")?,
        registered_at: time(row, "registered_at")?,
        revoked_at: time_opt(row, "revoked_at")?,
        heartbeat: json_opt(row, "heartbeat")?,
    })
}
