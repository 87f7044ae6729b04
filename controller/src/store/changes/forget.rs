//! How long a change is known that took effect (FAULTS Q7): as long as it may come again.
//!
//! The site says below which number its outbox sends nothing again. A machine may still repeat a report whose answer it never
//! got, which then comes under a new number and the old id; so the latest changes are kept below that number too, and for
//! some weeks. What had no effect, or is part of a conflict, is there to be read and is never forgotten.

use pureboot_protocol::Timestamp;

use super::Outbox;
use crate::store::StoreError;
use crate::store::row::{DbConnection, int};

/// Changes of an outbox that are known however old they are.
const KEPT_MIN: u64 = 10_000;
/// How long every change is known.
const KEPT_DAYS: i64 = 30;
/// It is looked for what to forget once in so many changes.
const STRIDE: u64 = 1_000;
/// The most that are forgotten at once: twice what comes in between, so that a backlog shrinks.
const FORGOTTEN_MAX: i64 = 2_000;

/// Forgets what `outbox`, which has come to `acked_through`, does not send again.
pub(super) async fn forget(
    db: &mut DbConnection,
    outbox: &Outbox,
    acked_through: u64,
    low_water: u64,
    now: Timestamp,
) -> Result<(), StoreError> {
    if outbox.chain.acked_through / STRIDE == acked_through / STRIDE {
        return Ok(());
    }
    sqlx::query(
        "DELETE FROM changes WHERE outbox_id = $1 AND seq IN
            (SELECT seq FROM changes WHERE outbox_id = $1 AND seq < $2 AND received_at < $3 AND outcome = 'applied'
                AND conflict_id IS NULL ORDER BY seq LIMIT $4)",
    )
    .bind(outbox.id)
    .bind(int(low_water.saturating_sub(KEPT_MIN)))
    .bind(now.plus_seconds(-KEPT_DAYS * 24 * 3_600).unix_ms())
    .bind(FORGOTTEN_MAX)
    .execute(db)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use pureboot_protocol::{ChangeBatch, ChangeId, Epoch, SiteId};
    use serde_json::json;
    use sqlx::Row;

    use super::*;
    use crate::store::testing::database;
    use crate::store::{Origin, Site, SiteFields, Store};

    const NOW_DAYS: i64 = 1_000;

    fn days(days: i64) -> Timestamp {
        Timestamp::from_unix_ms(0).plus_seconds(days * 24 * 3_600)
    }

    /// The numbers that are known after change 11,000 has come with `low_water`.
    async fn known_after(low_water: Option<u64>) -> Vec<i64> {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&database(dir.path()).await).await.expect("a database");
        let (id, now) = (SiteId::from_random([1; 16]), days(NOW_DAYS));
        let site = Site::new(id, "berlin".to_owned(), now);
        store.create_site(site, SiteFields::default()).await.expect("a site");
        let epoch = Epoch::from_bytes([1; 16]);
        let mut tx = store.write().await.expect("a transaction");
        let outbox = Outbox::load(&mut tx, id, epoch).await.expect("an outbox");
        let come = "UPDATE outboxes SET acked_through = 10999 WHERE id = $1";
        sqlx::query(come).bind(outbox.id).execute(&mut *tx).await.expect("come so far");
        let old = NOW_DAYS - KEPT_DAYS - 1;
        for (seq, outcome, conflict, day) in [
            (1, "applied", None, old),
            (2, "applied", None, old + 2),
            (3, "parked", None, old),
            (4, "applied", Some("c"), old),
            (999, "applied", None, old),
            (1_000, "applied", None, old),
        ] {
            let sql = "INSERT INTO changes (site_id, id, outbox_id, seq, outcome, conflict_id, correlation_id, received_at)
                 VALUES ($1, $2, $3, $4, $5, $6, 'c', $7)";
            let change = ChangeId::from_bytes([u8::try_from(seq % 251).expect("small"); 16]);
            let row = sqlx::query(sql).bind(id.to_string()).bind(change.to_string());
            let row = row.bind(outbox.id).bind(seq).bind(outcome).bind(conflict);
            row.bind(days(day).unix_ms()).execute(&mut *tx).await.expect("a row");
        }
        tx.commit().await.expect("committed");
        let nonce = ChangeId::from_bytes([2; 16]);
        let items = vec![json!({})];
        let batch = ChangeBatch {
            nonce,
            epoch,
            instance: None,
            prev_hash: None,
            first_seq: 11_000,
            low_water,
            items,
        };
        let origin = Origin { correlation_id: "test", now };
        store.take_changes(id, &batch, None, origin).await.expect("taken");
        let rows = sqlx::query("SELECT seq FROM changes ORDER BY seq").fetch_all(&store.reader);
        let rows = rows.await.expect("rows");
        rows.iter().map(|row| row.try_get("seq").expect("a number")).collect()
    }

    #[tokio::test]
    async fn q7_a_change_is_forgotten_when_it_cannot_come_again_is_old_and_left_nothing_to_read() {
        assert_eq!(known_after(Some(11_000)).await, [2, 3, 4, 1_000, 11_000]);
        assert_eq!(known_after(Some(10_002)).await, [2, 3, 4, 999, 1_000, 11_000]);
        assert_eq!(known_after(None).await, [1, 2, 3, 4, 999, 1_000, 11_000]);
    }
}
