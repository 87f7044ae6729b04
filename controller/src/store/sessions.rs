//! The sessions of people who have signed in at the page.

use std::net::IpAddr;

use pureboot_protocol::{CredentialHash, Timestamp, UserId};
use sqlx::Row;

use crate::auth::{Means, Operator};
use crate::store::row::{time, word};
use crate::store::{Store, StoreError};

/// Seconds without a request after which a session ends.
const IDLE_SECONDS: i64 = 8 * 3_600;
/// Seconds after which a session ends whatever happens.
pub(crate) const SESSION_SECONDS: i64 = 7 * 24 * 3_600;
/// Sessions of one person at a time; the one that was used longest ago ends for a further one.
const SESSIONS_MAX: i64 = 16;
/// Seconds between two notes of when a credential was used last.
pub(super) const USE_PERIOD_S: i64 = 60;

/// A session that begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewSession {
    /// Whose.
    pub(crate) user: UserId,
    /// Of its secret.
    pub(crate) hash: CredentialHash,
    /// Where the person is.
    pub(crate) address: IpAddr,
    /// The session that the same browser had until now, which ends.
    pub(crate) instead_of: Option<CredentialHash>,
}

impl Store {
    /// Begins a session.
    ///
    /// # Errors
    /// The person is gone.
    pub(crate) async fn begin_session(
        &self,
        session: NewSession,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let user_id = session.user.to_string();
        let mut tx = self.write().await?;
        let let_in = sqlx::query(
            "UPDATE users SET last_login_at = $2 WHERE id = $1 AND disabled_at IS NULL",
        );
        let let_in = let_in.bind(&user_id).bind(now.unix_ms()).execute(&mut *tx).await?;
        if let_in.rows_affected() == 0 {
            return Err(StoreError::Missing { what: "user", id: user_id });
        }
        if let Some(old) = session.instead_of {
            sqlx::query("DELETE FROM sessions WHERE hash = $1")
                .bind(old.to_string())
                .execute(&mut *tx)
                .await?;
        }
        sqlx::query(
            "DELETE FROM sessions WHERE user_id = $1 AND (expires_at <= $2 OR hash NOT IN
                (SELECT hash FROM sessions WHERE user_id = $1 ORDER BY last_used_at DESC, hash LIMIT $3))",
        )
        .bind(&user_id)
        .bind(now.unix_ms())
        .bind(SESSIONS_MAX - 1)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "INSERT INTO sessions (hash, user_id, address, created_at, last_used_at, expires_at)
             VALUES ($1, $2, $3, $4, $4, $5)",
        )
        .bind(session.hash.to_string())
        .bind(&user_id)
        .bind(session.address.to_string())
        .bind(now.unix_ms())
        .bind(now.plus_seconds(SESSION_SECONDS).unix_ms())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Whose session has `hash`, and notes that it is in use.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn session(
        &self,
        hash: CredentialHash,
        now: Timestamp,
    ) -> Result<Option<Operator>, StoreError> {
        let row = sqlx::query(
            "SELECT s.last_used_at, s.expires_at, u.id, u.name, u.role FROM sessions s
             JOIN users u ON u.id = s.user_id WHERE s.hash = $1 AND u.disabled_at IS NULL",
        )
        .bind(hash.to_string())
        .fetch_optional(&self.reader)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let (last_used_at, expires_at) = (time(&row, "last_used_at")?, time(&row, "expires_at")?);
        let idle = now.seconds_since(last_used_at);
        if now >= expires_at || idle >= IDLE_SECONDS {
            return Ok(None);
        }
        if idle >= USE_PERIOD_S {
            let mut tx = self.write().await?;
            sqlx::query("UPDATE sessions SET last_used_at = $2 WHERE hash = $1")
                .bind(hash.to_string())
                .bind(now.unix_ms())
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
        }
        Ok(Some(Operator {
            user: Some(word(&row, "id")?),
            name: row.try_get("name")?,
            rank: word(&row, "role")?,
            scopes: None,
            means: Means::Session { hash, expires_at },
        }))
    }

    /// Ends a session.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn end_session(&self, hash: CredentialHash) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        sqlx::query("DELETE FROM sessions WHERE hash = $1")
            .bind(hash.to_string())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }
}
