//! What of the sites' changes was parked.

use pureboot_protocol::{ChangeId, Epoch, Page, SiteId, Timestamp};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use sqlx::Row;

use crate::store::page::{Cursor, Paging};
use crate::store::row::{DbRow, count, json_opt, time, word};
use crate::store::{Store, StoreError, sites};

/// The largest change that a list shows, in bytes; of a larger one it says the size.
const SHOWN_LEN_MAX: i64 = 16 << 10;

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
