//! How long a change is known that took effect (FAULTS Q7): as long as it may come again.
//!
//! The site says below which number its outbox sends nothing again. A machine may still repeat a report whose answer it never
//! got, which then comes under a new number and the old id; so the latest changes are kept below that number too, and for
//! some weeks. What had no effect, or is part of a conflict, is there to be read: as long as conflicts are kept that have
//! ended, and among the latest changes for good.

use pureboot_protocol::Timestamp;

use super::Outbox;
use crate::store::row::{DbConnection, int};
use crate::store::{Store, StoreError};

/// Changes of an outbox that are known however old they are.
const KEPT_MIN: u64 = 10_000;
/// How long every change is known.
const KEPT_DAYS: i64 = 30;
/// It is looked for what to forget once in so many changes.
const STRIDE: u64 = 1_000;
/// The most that are forgotten at once: twice what comes in between, so that a backlog shrinks.
const FORGOTTEN_MAX: i64 = 2_000;
/// Lives of a site's outbox that are known however long nothing has come from them: the present one and the one before.
const LIVES_MIN: i64 = 2;

impl Store {
    /// Forgets of what came before `end` the changes that were parked, those whose conflict is forgotten, and the lives of
    /// outboxes that have ended; answers how many changes and how many lives.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn forget_custody(&self, end: Timestamp) -> Result<(u64, u64), StoreError> {
        let mut tx = self.write().await?;
        let mut changes = 0;
        for sql in [
            "DELETE FROM changes WHERE outcome = 'parked' AND received_at < $1
                AND seq <= (SELECT acked_through FROM outboxes WHERE id = outbox_id) - $2",
            "DELETE FROM changes WHERE conflict_id IS NOT NULL AND received_at < $1
                AND seq <= (SELECT acked_through FROM outboxes WHERE id = outbox_id) - $2
                AND NOT EXISTS (SELECT 1 FROM conflicts WHERE conflicts.id = changes.conflict_id)",
        ] {
            let delete = sqlx::query(sql).bind(end.unix_ms()).bind(int(KEPT_MIN));
            changes += delete.execute(&mut *tx).await?.rows_affected();
        }
        // Its changes go with it.
        let delete = sqlx::query(
            "DELETE FROM outboxes
             WHERE (SELECT count(*) FROM outboxes later WHERE later.site_id = outboxes.site_id AND later.id > outboxes.id) >= $1
               AND NOT EXISTS (SELECT 1 FROM changes WHERE outbox_id = outboxes.id AND received_at >= $2)
               AND NOT EXISTS (SELECT 1 FROM changes JOIN conflicts ON conflicts.id = changes.conflict_id
                    WHERE outbox_id = outboxes.id AND resolution IS NULL)",
        );
        let delete = delete.bind(LIVES_MIN).bind(end.unix_ms());
        let lives = delete.execute(&mut *tx).await?.rows_affected();
        tx.commit().await?;
        Ok((changes, lives))
    }
}

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
    use crate::store::{Origin, Site, SiteFields};

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

    /// The place of a change of `outbox` that came on day `day`, with the conflict that it is part of.
    async fn keep(store: &Store, outbox: &Outbox, seq: i64, conflict: Option<&str>, day: i64) {
        let outcome = if conflict.is_some() { "conflict" } else { "parked" };
        let sql = "INSERT INTO changes (site_id, id, outbox_id, seq, outcome, conflict_id, correlation_id, received_at)
             VALUES ($1, $2, $3, $4, $5, $6, 'c', $7)";
        let id = format!("{:016x}{seq:016x}", outbox.id);
        let row = sqlx::query(sql).bind(outbox.site.to_string()).bind(id).bind(outbox.id);
        let row = row.bind(seq).bind(outcome).bind(conflict).bind(days(day).unix_ms());
        row.execute(&store.writer).await.expect("a row");
    }

    async fn outbox(store: &Store, site: SiteId, epoch: u8, acked_through: i64) -> Outbox {
        let mut tx = store.write().await.expect("a transaction");
        let epoch = Epoch::from_bytes([epoch; 16]);
        let outbox = Outbox::load(&mut tx, site, epoch).await.expect("an outbox");
        let come = sqlx::query("UPDATE outboxes SET acked_through = $2 WHERE id = $1");
        let come = come.bind(outbox.id).bind(acked_through);
        come.execute(&mut *tx).await.expect("come so far");
        tx.commit().await.expect("committed");
        outbox
    }

    async fn numbers(store: &Store, sql: &'static str) -> Vec<i64> {
        let rows = sqlx::query(sql).fetch_all(&store.reader).await.expect("rows");
        rows.iter().map(|row| row.try_get("number").expect("a number")).collect()
    }

    async fn site_of(store: &Store) -> SiteId {
        let id = SiteId::from_random([1; 16]);
        let site = Site::new(id, "berlin".to_owned(), days(1));
        store.create_site(site, SiteFields::default()).await.expect("a site");
        id
    }

    /// A conflict of the site `site` that waits for a person.
    async fn dispute(store: &Store, site: SiteId, id: &str) {
        let sql = "INSERT INTO conflicts (id, site_id, node_id, kind, cause, site_at, site_clock, site_changes, created_at)
             VALUES ($1, $2, 'n', 'state_mismatch', 'c', 1, 'synced', 1, 1)";
        let row = sqlx::query(sql).bind(id).bind(site.to_string());
        row.execute(&store.writer).await.expect("a conflict");
    }

    #[tokio::test]
    async fn what_had_no_effect_is_forgotten_when_it_is_old_and_far_back_and_in_no_conflict() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&database(dir.path()).await).await.expect("a database");
        let site = site_of(&store).await;
        dispute(&store, site, "open").await;
        let outbox = outbox(&store, site, 1, 10_004).await;
        for (seq, conflict, day) in [
            (1, None, 9),
            (2, Some("open"), 9),
            (3, Some("forgotten"), 9),
            (4, None, 10),
            (5, None, 9),
            (6, Some("forgotten"), 9),
        ] {
            keep(&store, &outbox, seq, conflict, day).await;
        }
        assert_eq!(store.forget_custody(days(10)).await.expect("forgotten"), (2, 0));
        let kept = numbers(&store, "SELECT seq AS number FROM changes ORDER BY seq").await;
        assert_eq!(kept, [2, 4, 5, 6]);
    }

    #[tokio::test]
    async fn a_life_of_an_outbox_is_forgotten_when_two_came_after_it_and_nothing_of_it_matters() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&database(dir.path()).await).await.expect("a database");
        let site = site_of(&store).await;
        dispute(&store, site, "open").await;
        for (epoch, conflict, day) in
            [(1, None, 9), (2, Some("open"), 9), (3, None, 10), (4, None, 8), (5, None, 8)]
        {
            let outbox = outbox(&store, site, epoch, 7).await;
            keep(&store, &outbox, 7, conflict, day).await;
        }
        assert_eq!(store.forget_custody(days(10)).await.expect("forgotten"), (0, 1));
        let lives = "SELECT count(*) AS number FROM outboxes";
        let of_gone = "SELECT count(*) AS number FROM outboxes WHERE epoch LIKE '01%'";
        assert_eq!([numbers(&store, lives).await, numbers(&store, of_gone).await].concat(), [4, 0]);
        assert_eq!(numbers(&store, "SELECT count(*) AS number FROM changes").await, [4]);
    }
}
