//! Counts of what there is, for those who watch over the controller.

use std::collections::BTreeMap;

use prometheus_client::metrics::histogram::Histogram;
use pureboot_protocol::{AgentStatus, Lifecycle};

use crate::store::row::{count, word_opt};
use crate::store::{Store, StoreError};

/// How much there is of everything.
#[derive(Debug, Clone)]
pub(crate) struct Figures {
    /// Agents that have joined and are not revoked, by status; without one: they have not been heard yet.
    pub(crate) agents: BTreeMap<Option<AgentStatus>, u64>,
    /// Nodes by state; every state is there.
    pub(crate) nodes: BTreeMap<Lifecycle, u64>,
    /// Conflicts that nobody has decided.
    pub(crate) conflicts: u64,
    /// Changes that could not be applied.
    pub(crate) parked: u64,
    /// Names of content.
    pub(crate) content_files: u64,
    /// Bytes of content, each once.
    pub(crate) content_bytes: u64,
}

/// How the connections to the database are used.
#[derive(Debug)]
pub(crate) struct Pools {
    /// Name of a pool, connections that are open, and those of them that nobody uses.
    pub(crate) connections: [(&'static str, usize, usize); 2],
    /// Seconds that each transaction waited until it could write.
    pub(crate) write_waits: Histogram,
}

impl Store {
    /// Counts what there is, at one moment.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn figures(&self) -> Result<Figures, StoreError> {
        let nodes = self.nodes_by_state().await?;
        let mut tx = self.reader.begin().await?;
        let rows = sqlx::query(
            "SELECT s.agent_status, count(*) AS agents FROM agents a JOIN sites s ON s.id = a.site_id
             WHERE a.revoked_at IS NULL GROUP BY s.agent_status",
        );
        let mut agents: BTreeMap<_, _> =
            AgentStatus::ALL.iter().map(|status| (Some(*status), 0)).collect();
        agents.insert(None, 0);
        for row in rows.fetch_all(&mut *tx).await? {
            agents.insert(word_opt(&row, "agent_status")?, count(&row, "agents")?);
        }
        let row = sqlx::query(
            "SELECT (SELECT count(*) FROM conflicts WHERE resolution IS NULL) AS conflicts,
                (SELECT count(*) FROM changes WHERE outcome = 'parked') AS parked,
                (SELECT count(*) FROM content) AS content_files,
                (SELECT CAST(coalesce(sum(size_bytes), 0) AS BIGINT) FROM objects) AS content_bytes",
        );
        let row = row.fetch_one(&mut *tx).await?;
        Ok(Figures {
            agents,
            nodes,
            conflicts: count(&row, "conflicts")?,
            parked: count(&row, "parked")?,
            content_files: count(&row, "content_files")?,
            content_bytes: count(&row, "content_bytes")?,
        })
    }

    /// How the connections are used now.
    pub(crate) fn pools(&self) -> Pools {
        let of = |name, pool: &sqlx::AnyPool| {
            (name, usize::try_from(pool.size()).unwrap_or(usize::MAX), pool.num_idle())
        };
        Pools {
            connections: [of("writer", &self.writer), of("reader", &self.reader)],
            write_waits: self.write_waits.clone(),
        }
    }
}
