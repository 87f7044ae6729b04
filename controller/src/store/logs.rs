//! What has happened to a node: the moves of its state, and the events that were reported of it.

use pureboot_protocol::{
    BootId, Change, ClockQuality, Lifecycle, Node, NodeEvent, NodeId, Page, SiteId, Timestamp,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Row};

use crate::node::Move;
use crate::store::many::{pieces, values};
use crate::store::nodes::Origin;
use crate::store::page::{Cursor, Paging};
use crate::store::row::{DbConnection, DbRow, count, int, json, time, to_json, word, word_opt};
use crate::store::{Store, StoreError};

/// Events, and moves, that are kept of a node; a machine that says every minute that it lives fills a table otherwise.
pub(crate) const LOGGED_MAX: i64 = 1_000;

/// Who moved a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Trigger {
    /// An operator's order.
    Operator,
    /// A change that a site made.
    Site,
    /// The `auto_provision` of a group or site.
    AutoProvision,
    /// The time that an installation may take.
    InstallTimeout,
    /// An operator's decision over a conflict.
    Conflict,
}

impl Trigger {
    fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Site => "site",
            Self::AutoProvision => "auto_provision",
            Self::InstallTimeout => "install_timeout",
            Self::Conflict => "conflict",
        }
    }
}

/// One move of a node's state.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct LoggedMove {
    id: u64,
    from_state: Lifecycle,
    to_state: Lifecycle,
    triggered_by: Trigger,
    comment: Option<String>,
    correlation_id: String,
    /// The node's version after it.
    version: u64,
    created_at: Timestamp,
}

/// One report about a node.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct LoggedEvent {
    id: u64,
    site_id: Option<SiteId>,
    #[serde(flatten)]
    event: NodeEvent,
    boot_session: Option<BootId>,
    /// By the site's clock.
    at: Timestamp,
    clock: ClockQuality,
    received_at: Timestamp,
}

impl Store {
    /// The moves of a node's state, the latest first.
    ///
    /// # Errors
    /// There is no such node.
    pub(crate) async fn node_history(
        &self,
        id: NodeId,
        paging: &Paging,
    ) -> Result<Page<LoggedMove>, StoreError> {
        self.node(id).await?;
        let (below, rows) = paging.falling();
        let rows = sqlx::query(
            "SELECT * FROM state_log WHERE node_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3",
        )
        .bind(id.to_string())
        .bind(below)
        .bind(rows)
        .fetch_all(&self.reader)
        .await?;
        let total = sqlx::query("SELECT count(*) AS total FROM state_log WHERE node_id = $1");
        let total = total.bind(id.to_string()).fetch_one(&self.reader).await?;
        let moves = rows.iter().map(read_move).collect::<Result<_, _>>()?;
        Ok(paging.page(moves, count(&total, "total")?, |row: &LoggedMove| Cursor::numbered(row.id)))
    }

    /// The events that were reported of a node, the latest first.
    ///
    /// # Errors
    /// There is no such node.
    pub(crate) async fn node_events(
        &self,
        id: NodeId,
        paging: &Paging,
    ) -> Result<Page<LoggedEvent>, StoreError> {
        self.node(id).await?;
        let (below, rows) = paging.falling();
        let rows = sqlx::query(
            "SELECT * FROM node_events WHERE node_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3",
        )
        .bind(id.to_string())
        .bind(below)
        .bind(rows)
        .fetch_all(&self.reader)
        .await?;
        let total = sqlx::query("SELECT count(*) AS total FROM node_events WHERE node_id = $1");
        let total = total.bind(id.to_string()).fetch_one(&self.reader).await?;
        let events = rows.iter().map(read_event).collect::<Result<_, _>>()?;
        Ok(paging
            .page(events, count(&total, "total")?, |row: &LoggedEvent| Cursor::numbered(row.id)))
    }
}

/// The state that `node` had at `version`, as far as its moves since then are remembered.
pub(super) async fn state_at(
    db: &mut DbConnection,
    node: &Node,
    version: u64,
) -> Result<Lifecycle, StoreError> {
    let row = sqlx::query(
        "SELECT from_state FROM state_log WHERE node_id = $1 AND version > $2 ORDER BY id LIMIT 1",
    );
    let row = row.bind(node.id.to_string()).bind(int(version)).fetch_optional(db).await?;
    row.map_or(Ok(node.state), |row| word(&row, "from_state"))
}

impl Store {
    /// Forgets the oldest events and moves of nodes that have more than [`LOGGED_MAX`] of them; answers how many.
    ///
    /// # Errors
    /// The database fails. What was forgotten until then is.
    pub(crate) async fn forget_logged(&self) -> Result<u64, StoreError> {
        let mut forgotten = 0;
        for table in ["node_events", "state_log"] {
            let full = format!("SELECT node_id FROM {table} GROUP BY node_id HAVING count(*) > $1");
            let full = sqlx::query(AssertSqlSafe(full)).bind(LOGGED_MAX);
            for row in full.fetch_all(&self.reader).await? {
                let node: NodeId = word(&row, "node_id")?;
                let delete = format!(
                    "DELETE FROM {table} WHERE node_id = $1 AND id <=
                        (SELECT id FROM {table} WHERE node_id = $1 ORDER BY id DESC LIMIT 1 OFFSET $2)"
                );
                // Each on its own, so that nobody waits for long who writes.
                let mut tx = self.write().await?;
                let delete = sqlx::query(AssertSqlSafe(delete)).bind(node.to_string());
                forgotten += delete.bind(LOGGED_MAX).execute(&mut *tx).await?.rows_affected();
                tx.commit().await?;
            }
        }
        Ok(forgotten)
    }
}

/// Writes down that `node` has moved.
pub(super) async fn log_move(
    db: &mut DbConnection,
    node: &Node,
    moved: Move,
    trigger: Trigger,
    comment: Option<&str>,
    origin: Origin<'_>,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO state_log (node_id, from_state, to_state, triggered_by, comment, correlation_id, version, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(node.id.to_string())
    .bind(moved.from.as_str())
    .bind(moved.to.as_str())
    .bind(trigger.as_str())
    .bind(comment)
    .bind(origin.correlation_id)
    .bind(int(node.version))
    .bind(origin.now.unix_ms())
    .execute(db)
    .await?;
    Ok(())
}

/// An event as a site has reported it.
#[derive(Debug)]
pub(super) struct SeenEvent {
    node: NodeId,
    event: String,
    session: Option<BootId>,
    at: Timestamp,
    clock: ClockQuality,
}

impl SeenEvent {
    /// `event`, which came as `change`, of the node that the controller calls `node`.
    pub(super) fn new(node: NodeId, change: &Change, event: &NodeEvent) -> Self {
        let Change { session, at, clock, .. } = *change;
        Self { node, event: to_json(event), session, at, clock }
    }
}

/// Writes down what `site` has reported, in this order.
pub(super) async fn log_events(
    db: &mut DbConnection,
    site: SiteId,
    events: &[SeenEvent],
    received_at: Timestamp,
) -> Result<(), StoreError> {
    for events in pieces(events) {
        let sql = format!(
            "INSERT INTO node_events (node_id, site_id, event, boot_session, at, clock, received_at) {}",
            values(events.len(), 7)
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for seen in events {
            query = query
                .bind(seen.node.to_string())
                .bind(site.to_string())
                .bind(&seen.event)
                .bind(seen.session.map(|id| id.to_string()))
                .bind(seen.at.unix_ms())
                .bind(seen.clock.as_str())
                .bind(received_at.unix_ms());
        }
        query.execute(&mut *db).await?;
    }
    Ok(())
}

fn read_move(row: &DbRow) -> Result<LoggedMove, StoreError> {
    Ok(LoggedMove {
        id: count(row, "id")?,
        from_state: word(row, "from_state")?,
        to_state: word(row, "to_state")?,
        triggered_by: word(row, "triggered_by")?,
        comment: row.try_get("comment")?,
        correlation_id: row.try_get("correlation_id")?,
        version: count(row, "version")?,
        created_at: time(row, "created_at")?,
    })
}

fn read_event(row: &DbRow) -> Result<LoggedEvent, StoreError> {
    Ok(LoggedEvent {
        id: count(row, "id")?,
        site_id: word_opt(row, "site_id")?,
        event: json(row, "event")?,
        boot_session: word_opt(row, "boot_session")?,
        at: time(row, "at")?,
        clock: word(row, "clock")?,
        received_at: time(row, "received_at")?,
    })
}

#[cfg(test)]
mod tests {
    use pureboot_protocol::NodeEventKind;

    use super::*;
    use crate::node;
    use crate::store::testing::database;

    #[tokio::test]
    async fn i7_of_the_events_of_a_machine_the_latest_are_kept_and_others_lose_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&database(dir.path()).await).await.expect("a database");
        let now = Timestamp::from_unix_ms(1_000);
        let ids = [1, 2].map(|number| NodeId::from_random([number; 16]));
        for (id, mac) in ids.iter().zip(["02:00:00:00:00:01", "02:00:00:00:00:02"]) {
            let mac = mac.parse().expect("an address");
            store.create_node(&node::new(*id, mac, now)).await.expect("a node");
        }
        let mut tx = store.write().await.expect("a transaction");
        let event = to_json(&NodeEvent::new(NodeEventKind::Heartbeat));
        for (id, count) in ids.iter().zip([LOGGED_MAX + 7, 3]) {
            for at in 0..count {
                let sql = "INSERT INTO node_events (node_id, event, at, clock, received_at)
                     VALUES ($1, $2, $3, 'synced', 0)";
                let row = sqlx::query(sql).bind(id.to_string()).bind(&event).bind(at);
                row.execute(&mut *tx).await.expect("a row");
            }
        }
        tx.commit().await.expect("committed");
        assert_eq!(store.forget_logged().await.expect("forgotten"), 7);
        assert_eq!(store.forget_logged().await.expect("forgotten"), 0);
        let paging = Paging { limit: 500, after: None };
        let totals = [(0, 1_000, LOGGED_MAX + 6), (1, 3, 2)];
        for (place, total, latest) in totals {
            let page = store.node_events(ids[place], &paging).await.expect("a list");
            assert_eq!(page.total, total);
            assert_eq!(page.data[0].at, Timestamp::from_unix_ms(latest));
        }
    }
}
