//! Who does a job that only one controller may do at a time.

use pureboot_protocol::Timestamp;

use crate::store::{Store, StoreError};

impl Store {
    /// Gives `job` to `holder` until `expires_at`, if it has it already or nobody has it; answers whether it has it now.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn lease(
        &self,
        job: &str,
        holder: &str,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let taken = sqlx::query(
            "INSERT INTO jobs (name, holder, expires_at) VALUES ($1, $2, $3)
             ON CONFLICT (name) DO UPDATE SET holder = $2, expires_at = $3 WHERE jobs.holder = $2 OR jobs.expires_at <= $4",
        )
        .bind(job)
        .bind(holder)
        .bind(expires_at.unix_ms())
        .bind(now.unix_ms())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(taken.rows_affected() > 0)
    }

    /// Gives back all that `holder` has, so that nobody has to wait until it expires.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn give_back_leases(&self, holder: &str) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let delete = sqlx::query("DELETE FROM jobs WHERE holder = $1").bind(holder);
        delete.execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    }
}
