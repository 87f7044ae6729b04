//! What of the sites' changes has had no effect: wishes that the controller's side did not allow, and what was parked.

use pureboot_protocol::{
    ChangeId, ClockQuality, Epoch, Lifecycle, NodeId, Page, SiteId, Timestamp,
};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use sqlx::Row;

use crate::store::page::{Cursor, Paging};
use crate::store::row::{DbRow, count, count_opt, json_opt, time, word};
use crate::store::{Store, StoreError, sites};

/// The largest change that a list shows, in bytes; of a larger one it says the size.
const SHOWN_LEN_MAX: i64 = 16 << 10;

/// A wish of a site that was not followed, with both sides. The field names are those of the HTTP surface.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Conflict {
    /// That of the change.
    id: ChangeId,
    site_id: SiteId,
    node_id: NodeId,
    #[serde(rename = "type")]
    kind: ConflictKind,
    /// Why it was not followed.
    cause: String,
    site: SiteSide,
    central: CentralSide,
    created_at: Timestamp,
}

/// What the two sides disagree about.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ConflictKind {
    /// The state of a node that both know; nothing else is wished for yet.
    StateMismatch,
}

#[derive(Debug, Serialize, JsonSchema)]
struct SiteSide {
    state: Lifecycle,
    /// The version that the site knew.
    base_version: Option<u64>,
    /// By the site's clock.
    at: Timestamp,
    clock: ClockQuality,
}

#[derive(Debug, Serialize, JsonSchema)]
struct CentralSide {
    state: Lifecycle,
    version: u64,
    changed_at: Timestamp,
}

/// A change that could not be applied. The field names are those of the HTTP surface.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Parked {
    id: ChangeId,
    site_id: SiteId,
    epoch: Epoch,
    seq: u64,
    reason: Option<String>,
    /// As it came; none if it is too large for a list.
    change: Option<Value>,
    size_bytes: u64,
    correlation_id: String,
    received_at: Timestamp,
}

impl Store {
    /// Conflicts that nobody has decided, of one site or of all, the oldest first.
    ///
    /// # Errors
    /// There is no such site.
    pub(crate) async fn conflicts(
        &self,
        site: Option<SiteId>,
        paging: &Paging,
    ) -> Result<Page<Conflict>, StoreError> {
        let mut tx = self.reader.begin().await?;
        if let Some(id) = site {
            sites::load(&mut tx, id).await?;
        }
        let site = site.map(|id| id.to_string());
        let (position, id, rows) = paging.rising();
        let rows = sqlx::query(
            "SELECT * FROM conflicts WHERE ($1 IS NULL OR site_id = $1) AND (created_at, change_id || site_id) > ($2, $3)
             ORDER BY created_at, change_id, site_id LIMIT $4",
        )
        .bind(&site)
        .bind(position)
        .bind(id)
        .bind(rows)
        .fetch_all(&mut *tx)
        .await?;
        let total =
            sqlx::query("SELECT count(*) AS total FROM conflicts WHERE $1 IS NULL OR site_id = $1")
                .bind(&site)
                .fetch_one(&mut *tx)
                .await?;
        let conflicts = rows.iter().map(read_conflict).collect::<Result<_, _>>()?;
        Ok(paging.page(conflicts, count(&total, "total")?, |conflict: &Conflict| {
            let (id, site) = (conflict.id, conflict.site_id);
            Cursor::new(conflict.created_at.unix_ms(), format!("{id}{site}"))
        }))
    }

    /// The changes of a site that could not be applied, the oldest first.
    ///
    /// # Errors
    /// There is no such site.
    pub(crate) async fn parked(
        &self,
        site: SiteId,
        paging: &Paging,
    ) -> Result<Page<Parked>, StoreError> {
        let mut tx = self.reader.begin().await?;
        sites::load(&mut tx, site).await?;
        let (position, id, rows) = paging.rising();
        let rows = sqlx::query(
            "SELECT c.id, c.site_id, o.epoch, c.seq, c.reason, c.correlation_id, c.received_at,
                coalesce(octet_length(c.raw), 0) AS size_bytes,
                CASE WHEN octet_length(c.raw) <= $5 THEN c.raw END AS change
             FROM changes c JOIN outboxes o ON o.id = c.outbox_id
             WHERE c.site_id = $1 AND c.outcome = 'parked' AND (c.received_at, c.id) > ($2, $3)
             ORDER BY c.received_at, c.id LIMIT $4",
        )
        .bind(site.to_string())
        .bind(position)
        .bind(id)
        .bind(rows)
        .bind(SHOWN_LEN_MAX)
        .fetch_all(&mut *tx)
        .await?;
        let total = sqlx::query(
            "SELECT count(*) AS total FROM changes WHERE site_id = $1 AND outcome = 'parked'",
        )
        .bind(site.to_string())
        .fetch_one(&mut *tx)
        .await?;
        let parked = rows.iter().map(read_parked).collect::<Result<_, _>>()?;
        Ok(paging.page(parked, count(&total, "total")?, |parked: &Parked| {
            Cursor::new(parked.received_at.unix_ms(), parked.id)
        }))
    }
}

fn read_conflict(row: &DbRow) -> Result<Conflict, StoreError> {
    Ok(Conflict {
        id: word(row, "change_id")?,
        site_id: word(row, "site_id")?,
        node_id: word(row, "node_id")?,
        kind: ConflictKind::StateMismatch,
        cause: row.try_get("cause")?,
        site: SiteSide {
            state: word(row, "site_state")?,
            base_version: count_opt(row, "site_base_version")?,
            at: time(row, "site_at")?,
            clock: word(row, "site_clock")?,
        },
        central: CentralSide {
            state: word(row, "central_state")?,
            version: count(row, "central_version")?,
            changed_at: time(row, "central_changed_at")?,
        },
        created_at: time(row, "created_at")?,
    })
}

fn read_parked(row: &DbRow) -> Result<Parked, StoreError> {
    Ok(Parked {
        id: word(row, "id")?,
        site_id: word(row, "site_id")?,
        epoch: word(row, "epoch")?,
        seq: count(row, "seq")?,
        reason: row.try_get("reason")?,
        change: json_opt(row, "change")?,
        size_bytes: count(row, "size_bytes")?,
        correlation_id: row.try_get("correlation_id")?,
        received_at: time(row, "received_at")?,
    })
}
