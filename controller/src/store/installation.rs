//! Which database this is, and which keys and places belong to it.

use pureboot_protocol::Timestamp;
use sqlx::Row;

use crate::random;
use crate::store::row::DbConnection;
use crate::store::{Store, StoreError};

impl Store {
    /// The id of this database, drawn at the first start.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn installation(&self) -> Result<String, StoreError> {
        let mut tx = self.write().await?;
        make(&mut tx).await?;
        let row = sqlx::query("SELECT id FROM installation").fetch_one(&mut *tx).await?;
        tx.commit().await?;
        Ok(row.try_get("id")?)
    }

    /// Takes the database for one that has just been brought back from a backup.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn bring_back(&self, now: Timestamp) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        mark_restored(&mut tx, now).await?;
        Ok(tx.commit().await?)
    }

    /// The hash of the key that secrets are sealed with; none before there was one.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn secrets_key_hash(&self) -> Result<Option<String>, StoreError> {
        let row = sqlx::query("SELECT secrets_key_hash FROM installation");
        let row = row.fetch_optional(&self.reader).await?;
        Ok(row.map(|row| row.try_get("secrets_key_hash")).transpose()?.flatten())
    }

    /// Keeps the hash of the secrets' key if there is none yet; says whether `hash` is the one.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn is_secrets_key(&self, hash: &str) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        make(&mut tx).await?;
        sqlx::query("UPDATE installation SET secrets_key_hash = $1 WHERE secrets_key_hash IS NULL")
            .bind(hash)
            .execute(&mut *tx)
            .await?;
        let row =
            sqlx::query("SELECT secrets_key_hash FROM installation").fetch_one(&mut *tx).await?;
        tx.commit().await?;
        Ok(row.try_get::<String, _>("secrets_key_hash")? == hash)
    }

    /// Gives up all secrets and the key that they were sealed with; answers how many there were.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn forget_secrets(&self) -> Result<u64, StoreError> {
        let mut tx = self.write().await?;
        let secrets = sqlx::query("DELETE FROM secrets").execute(&mut *tx).await?;
        sqlx::query("UPDATE installation SET secrets_key_hash = NULL").execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(secrets.rows_affected())
    }
}

/// Notes that the database was brought back from a backup. What its sites have handed over since is lost to it, and their
/// agents may have deleted it: each may go on where it is.
pub(super) async fn mark_restored(db: &mut DbConnection, now: Timestamp) -> Result<(), StoreError> {
    make(&mut *db).await?;
    let mark = sqlx::query("UPDATE installation SET restored_at = $1").bind(now.unix_ms());
    mark.execute(&mut *db).await?;
    sqlx::query("UPDATE outboxes SET rewound = $1").bind(true).execute(db).await?;
    Ok(())
}

/// How often content has changed, or what says who is to hold it.
pub(super) const CONTENT_NUMBER: &str =
    "coalesce((SELECT content_number FROM installation), CAST(0 AS BIGINT))";

/// Notes that sites may have to hold other content from now on, for whatever reason that is neither a change of a node nor of their
/// own settings. A manifest that was made before is looked at anew.
pub(super) async fn note_content_change(db: &mut DbConnection) -> Result<(), StoreError> {
    make(&mut *db).await?;
    let count = sqlx::query("UPDATE installation SET content_number = content_number + 1");
    count.execute(db).await?;
    Ok(())
}

async fn make(db: &mut DbConnection) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO installation (only_row, id) VALUES (1, $1) ON CONFLICT (only_row) DO NOTHING",
    )
    .bind(format!("{:032x}", u128::from_be_bytes(random::bytes())))
    .execute(db)
    .await?;
    Ok(())
}
