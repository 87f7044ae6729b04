//! What was asked for with an `Idempotency-Key`, and how it was answered, so that a client which has not heard the answer may ask
//! again.

use pureboot_protocol::Timestamp;
use sqlx::Row;

use crate::store::row::{count_opt, time};
use crate::store::{Store, StoreError};

/// How long an answer is kept, in seconds.
pub(crate) const KEPT_SECONDS: i64 = 24 * 3_600;

/// Keys of one caller that are kept; of more the oldest go.
const KEYS_MAX: i64 = 1_000;

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
    /// It was begun then and not ended.
    Begun(Timestamp),
    /// It was done; none where its answer is not kept.
    Done(u16, Option<String>),
}

impl Store {
    /// Notes that `asked` is being done, unless its key is known.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn begin_once(
        &self,
        asked: &Asked,
        now: Timestamp,
    ) -> Result<Before, StoreError> {
        let mut tx = self.write().await?;
        let oldest = now.plus_seconds(-KEPT_SECONDS);
        let row = sqlx::query(
            "SELECT digest, begun_at, status, body FROM repeats WHERE caller = $1 AND key = $2 AND begun_at > $3",
        );
        let row = row.bind(&asked.caller).bind(&asked.key).bind(oldest.unix_ms());
        if let Some(row) = row.fetch_optional(&mut *tx).await? {
            let digest: String = row.try_get("digest")?;
            let status: Option<u16> = count_opt(&row, "status")?;
            return Ok(match status {
                _ if digest != asked.digest => Before::Other,
                Some(status) => Before::Done(status, row.try_get("body")?),
                None => Before::Begun(time(&row, "begun_at")?),
            });
        }
        sqlx::query(
            "INSERT INTO repeats (caller, key, digest, begun_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (caller, key) DO UPDATE SET digest = excluded.digest, begun_at = excluded.begun_at, status = NULL,
                body = NULL",
        )
        .bind(&asked.caller)
        .bind(&asked.key)
        .bind(&asked.digest)
        .bind(now.unix_ms())
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

    /// Keeps how `asked` was answered.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn end_once(
        &self,
        asked: &Asked,
        status: u16,
        body: Option<&str>,
    ) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        sqlx::query("UPDATE repeats SET status = $3, body = $4 WHERE caller = $1 AND key = $2")
            .bind(&asked.caller)
            .bind(&asked.key)
            .bind(i64::from(status))
            .bind(body)
            .execute(&mut *tx)
            .await?;
        Ok(tx.commit().await?)
    }

    /// Forgets `asked`, which was refused and has done nothing.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn forget_once(&self, asked: &Asked) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        sqlx::query("DELETE FROM repeats WHERE caller = $1 AND key = $2")
            .bind(&asked.caller)
            .bind(&asked.key)
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
