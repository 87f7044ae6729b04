//! What was asked for with an `Idempotency-Key`, and how it was answered, so that a client which has not heard the answer may ask
//! again.
//!
//! Each transaction of a request that has a key counts itself in the key's row ([`mark`]): what was cut short before the first of
//! them has done nothing.

use pureboot_protocol::Timestamp;
use sqlx::Row;

use crate::once::{self, Attempt};
use crate::store::row::{DbConnection, count, count_opt, time};
use crate::store::{Store, StoreError};

/// How long an answer is kept, in seconds.
pub(crate) const KEPT_SECONDS: i64 = 24 * 3_600;

/// Keys of one caller that are kept; of more the oldest go.
const KEYS_MAX: i64 = 1_000;

/// How long a request may be under way, in seconds: twice what the router allows.
pub(crate) const UNDER_WAY_SECONDS: i64 = 20;

/// Who asks, and for what.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// Keys of different callers have nothing to do with each other.
    pub(crate) caller: String,
    /// As the client has made it up.
    pub(crate) key: String,
    /// The SHA-256 of the request, in hexadecimal.
    pub(crate) digest: String,
}

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Before {
    /// Nothing: it is to be done now.
    Nothing,
    /// It came with another request.
    Other,
    /// It is being done.
    UnderWay,
    /// It was begun, has had an effect, and was cut short before its answer was kept.
    CutShort,
    /// It was done; none where its answer is not kept.
    Done(u16, Option<String>),
}

impl Store {
    /// Notes that `attempt` is being done, unless its key is known. What was cut short and has done nothing is begun anew, and the
    /// former attempt can have no effect any more.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn begin_once(
        &self,
        attempt: &Attempt,
        now: Timestamp,
    ) -> Result<Before, StoreError> {
        let asked = &attempt.asked;
        let mut tx = self.write().await?;
        let oldest = now.plus_seconds(-KEPT_SECONDS);
        let row = sqlx::query(
            "SELECT digest, begun_at, status, body, effects FROM repeats WHERE caller = $1 AND key = $2 AND begun_at > $3",
        );
        let row = row.bind(&asked.caller).bind(&asked.key).bind(oldest.unix_ms());
        if let Some(row) = row.fetch_optional(&mut *tx).await? {
            let digest: String = row.try_get("digest")?;
            let status: Option<u16> = count_opt(&row, "status")?;
            let effects: u64 = count(&row, "effects")?;
            let is_under_way = now.seconds_since(time(&row, "begun_at")?) <= UNDER_WAY_SECONDS;
            match (status, effects) {
                _ if digest != asked.digest => return Ok(Before::Other),
                (Some(status), _) => return Ok(Before::Done(status, row.try_get("body")?)),
                (None, _) if is_under_way => return Ok(Before::UnderWay),
                (None, 1..) => return Ok(Before::CutShort),
                (None, 0) => {}
            }
        }
        sqlx::query(
            "INSERT INTO repeats (caller, key, digest, begun_at, attempt) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (caller, key) DO UPDATE SET digest = excluded.digest, begun_at = excluded.begun_at,
                attempt = excluded.attempt, effects = 0, status = NULL, body = NULL",
        )
        .bind(&asked.caller)
        .bind(&asked.key)
        .bind(&asked.digest)
        .bind(now.unix_ms())
        .bind(&attempt.id)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "DELETE FROM repeats WHERE caller = $1 AND key IN
             (SELECT key FROM repeats WHERE caller = $1 ORDER BY begun_at DESC, key LIMIT 1000000 OFFSET $2)",
        )
        .bind(&asked.caller)
        .bind(KEYS_MAX)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Before::Nothing)
    }

    /// Keeps how `attempt` was answered.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn end_once(
        &self,
        attempt: &Attempt,
        status: u16,
        body: Option<&str>,
    ) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        sqlx::query(
            "UPDATE repeats SET status = $4, body = $5 WHERE caller = $1 AND key = $2 AND attempt = $3",
        )
        .bind(&attempt.asked.caller)
        .bind(&attempt.asked.key)
        .bind(&attempt.id)
        .bind(i64::from(status))
        .bind(body)
        .execute(&mut *tx)
        .await?;
        Ok(tx.commit().await?)
    }

    /// Forgets `attempt`, which was refused and has done nothing.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn forget_once(&self, attempt: &Attempt) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        sqlx::query("DELETE FROM repeats WHERE caller = $1 AND key = $2 AND attempt = $3")
            .bind(&attempt.asked.caller)
            .bind(&attempt.asked.key)
            .bind(&attempt.id)
            .execute(&mut *tx)
            .await?;
        Ok(tx.commit().await?)
    }

    /// Forgets what was asked for too long ago; answers how many.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn forget_repeats(&self, now: Timestamp) -> Result<u64, StoreError> {
        let mut tx = self.write().await?;
        let rows = sqlx::query("DELETE FROM repeats WHERE begun_at <= $1");
        let rows = rows.bind(now.plus_seconds(-KEPT_SECONDS).unix_ms());
        let rows = rows.execute(&mut *tx).await?.rows_affected();
        tx.commit().await?;
        Ok(rows)
    }
}

/// Counts the transaction on `db` among the effects of the request that it belongs to, if that has a key.
///
/// # Errors
/// Another attempt has taken the request over: this one comes from a controller that stood still meanwhile, and does nothing.
pub(super) async fn mark(db: &mut DbConnection) -> Result<(), StoreError> {
    let Some(attempt) = once::current() else { return Ok(()) };
    let marked = sqlx::query(
        "UPDATE repeats SET effects = effects + 1 WHERE caller = $1 AND key = $2 AND attempt = $3 AND status IS NULL",
    )
    .bind(&attempt.asked.caller)
    .bind(&attempt.asked.key)
    .bind(&attempt.id)
    .execute(db)
    .await?;
    match marked.rows_affected() {
        0 => Err(StoreError::Busy),
        _ => Ok(()),
    }
}
