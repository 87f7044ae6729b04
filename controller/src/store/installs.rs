//! Installations that are under way, and those that take too long.

use pureboot_protocol::{Node, Page, Timestamp};
use schemars::JsonSchema;
use serde::Serialize;

use crate::node::{self, Patience};
use crate::store::logs::{self, Trigger};
use crate::store::nodes::{self, Kept, Origin};
use crate::store::page::Paging;
use crate::store::row::{DbConnection, time_opt};
use crate::store::tree::Assignments;
use crate::store::{Store, StoreError, workflows};

/// A node that is being installed. The field names are those of the HTTP surface.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Install {
    #[serde(flatten)]
    pub(crate) node: Node,
    #[serde(flatten)]
    pub(crate) patience: Patience,
}

impl Store {
    /// The nodes whose attempt to install has taken too long.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn overdue_installs(
        &self,
        now: Timestamp,
    ) -> Result<Vec<Install>, StoreError> {
        let mut installs = installing(&mut *self.reader.acquire().await?).await?;
        installs.retain(|install| node::is_overdue(&install.node, install.patience, now));
        Ok(installs)
    }

    /// Counts the attempt of `install` as failed, unless the node has changed in the meantime; answers the node if it has not.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn expire_install(
        &self,
        install: &Install,
        origin: Origin<'_>,
    ) -> Result<Option<Node>, StoreError> {
        let mut tx = self.write().await?;
        let Kept { mut node, run, .. } = nodes::load_kept(&mut tx, install.node.id).await?;
        if node.version != install.node.version {
            return Ok(None);
        }
        let moved = node::expire(&mut node, install.patience, origin.now);
        // A count is nothing that the site could disagree with, as long as it moves nothing.
        nodes::save(&mut tx, &node, run.filter(|_| moved.is_none())).await?;
        if let Some(moved) = moved {
            logs::log_move(&mut tx, &node, moved, Trigger::InstallTimeout, None, origin).await?;
        }
        tx.commit().await?;
        Ok(Some(node))
    }

    /// The nodes that have been installing for longer than their workflow allows, over all attempts, in the order of their
    /// making.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn stalled_installs(
        &self,
        now: Timestamp,
        paging: &Paging,
    ) -> Result<Page<Install>, StoreError> {
        let mut installs = installing(&mut *self.reader.acquire().await?).await?;
        installs.retain(|install| node::is_stalled(&install.node, install.patience, now));
        let total = u64::try_from(installs.len()).unwrap_or(u64::MAX);
        let (position, id, _) = paging.rising();
        installs.retain(|Install { node, .. }| {
            (node.created_at.unix_ms(), node.id.to_string().as_str()) > (position, id)
        });
        Ok(paging.page(installs, total, |install| nodes::place(&install.node)))
    }
}

/// The nodes that are being installed. There are as many as machines write their disks at this moment, so they are not paged.
async fn installing(db: &mut DbConnection) -> Result<Vec<Install>, StoreError> {
    let rows = sqlx::query(
        "SELECT n.*, s.agent_last_seen FROM nodes n LEFT JOIN sites s ON s.id = n.home_site_id
         WHERE n.state = 'installing' ORDER BY n.created_at, n.id",
    )
    .fetch_all(&mut *db)
    .await?;
    let mut assignments = Assignments::default();
    let mut installs = Vec::new();
    for row in &rows {
        let node = nodes::read(row)?;
        let timeout_minutes = match assignments.of(db, &node).await? {
            Some(id) => workflows::find(db, id).await?.map(|kept| kept.timeout_minutes),
            None => None,
        };
        let patience = Patience {
            timeout_minutes: timeout_minutes.unwrap_or(node::INSTALL_TIMEOUT_MINUTES),
            site_heard_at: time_opt(row, "agent_last_seen")?,
        };
        installs.push(Install { node, patience });
    }
    Ok(installs)
}
