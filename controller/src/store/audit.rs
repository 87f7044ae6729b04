//! The rows of the audit.

use std::net::IpAddr;

use pureboot_protocol::{Page, Timestamp};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use sqlx::Row;

use crate::audit::{self, Actor, Entry};
use crate::store::page::{Cursor, Paging};
use crate::store::row::{DbConnection, DbRow, count, count_opt, json_opt, time, word, word_opt};
use crate::store::{Store, StoreError};

/// Which rows are asked for. Absent conditions hold for every row.
#[derive(Debug, Clone, Default)]
pub(crate) struct AuditFilter {
    /// The actor's id or name.
    pub(crate) actor: Option<String>,
    /// What the action begins with.
    pub(crate) action: Option<String>,
    /// The target.
    pub(crate) target: Option<String>,
    /// Not before.
    pub(crate) since: Option<Timestamp>,
    /// The request.
    pub(crate) correlation_id: Option<String>,
    /// Before.
    pub(crate) until: Option<Timestamp>,
}

/// One row. The field names are those of the HTTP surface.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct AuditRow {
    id: u64,
    at: Timestamp,
    actor: Actor,
    action: String,
    target: Option<String>,
    status: Option<u16>,
    address: Option<IpAddr>,
    correlation_id: String,
    detail: Option<Value>,
}

const FILTER: &str = "WHERE (CAST($1 AS TEXT) IS NULL OR actor_id = $1 OR actor_name = $1)
    AND (CAST($2 AS TEXT) IS NULL OR substr(action, 1, length($2)) = $2)
    AND (CAST($3 AS TEXT) IS NULL OR target = $3)
    AND at >= $4 AND at < $5
    AND (CAST($6 AS TEXT) IS NULL OR correlation_id = $6)";

impl Store {
    /// Writes `entry` down whole, whether it has been written beside its effect or not.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn record(&self, entry: &Entry) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let sql = "INSERT INTO audit (entry, at, actor_kind, actor_id, actor_name, action, target, status, address,
                correlation_id, detail)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
             ON CONFLICT (entry) DO UPDATE SET actor_kind = $3, actor_id = $4, actor_name = $5, action = $6, target = $7,
                status = $8, detail = $11";
        insert(&mut tx, entry, sql).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Says in the row of `entry`, if there is one, that the request was refused in the end.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn note_refusal(&self, entry: &Entry) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        sqlx::query("UPDATE audit SET status = $2 WHERE entry = $1")
            .bind(&entry.key)
            .bind(entry.status.map(i64::from))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// The rows that `filter` names, the latest first.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn audit(
        &self,
        filter: &AuditFilter,
        paging: &Paging,
    ) -> Result<Page<AuditRow>, StoreError> {
        let (below, limit) = paging.falling();
        let since = filter.since.map_or(0, Timestamp::unix_ms);
        let until = filter.until.map_or(i64::MAX, Timestamp::unix_ms);
        let rows = format!("SELECT * FROM audit {FILTER} AND id < $7 ORDER BY id DESC LIMIT $8");
        let rows = sqlx::query(sqlx::AssertSqlSafe(rows))
            .bind(&filter.actor)
            .bind(&filter.action)
            .bind(&filter.target)
            .bind(since)
            .bind(until)
            .bind(&filter.correlation_id)
            .bind(below)
            .bind(limit)
            .fetch_all(&self.reader)
            .await?;
        let total = format!("SELECT count(*) AS total FROM audit {FILTER}");
        let total = sqlx::query(sqlx::AssertSqlSafe(total))
            .bind(&filter.actor)
            .bind(&filter.action)
            .bind(&filter.target)
            .bind(since)
            .bind(until)
            .bind(&filter.correlation_id)
            .fetch_one(&self.reader)
            .await?;
        let rows = rows.iter().map(read).collect::<Result<_, _>>()?;
        Ok(paging.page(rows, count(&total, "total")?, |row: &AuditRow| Cursor::numbered(row.id)))
    }

    /// Forgets the rows from before `end`, and the sessions and tokens that ended before it; answers how many rows.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn forget_before(
        &self,
        end: Timestamp,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let mut tx = self.write().await?;
        let rows = sqlx::query("DELETE FROM audit WHERE at < $1")
            .bind(end.unix_ms())
            .execute(&mut *tx)
            .await?;
        sqlx::query("DELETE FROM api_tokens WHERE revoked_at < $1 OR expires_at < $1")
            .bind(end.unix_ms())
            .execute(&mut *tx)
            .await?;
        sqlx::query("DELETE FROM sessions WHERE expires_at < $1")
            .bind(now.unix_ms())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(rows.rows_affected())
    }
}

/// Writes down what the transaction on `db` belongs to, if anything, unless that has been done.
pub(super) async fn begin(db: &mut DbConnection) -> Result<(), StoreError> {
    let Some(entry) = audit::current() else { return Ok(()) };
    insert_new(db, &entry).await?;
    entry.begin();
    Ok(())
}

/// Writes down an entry of its own within a transaction.
pub(super) async fn insert_new(db: &mut DbConnection, entry: &Entry) -> Result<(), StoreError> {
    let sql = "INSERT INTO audit (entry, at, actor_kind, actor_id, actor_name, action, target, status, address,
            correlation_id, detail)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (entry) DO NOTHING";
    insert(db, entry, sql).await
}

async fn insert(db: &mut DbConnection, entry: &Entry, sql: &'static str) -> Result<(), StoreError> {
    sqlx::query(sql)
        .bind(&entry.key)
        .bind(entry.at.unix_ms())
        .bind(entry.actor.kind.as_str())
        .bind(&entry.actor.id)
        .bind(&entry.actor.name)
        .bind(&entry.action)
        .bind(&entry.target)
        .bind(entry.status.map(i64::from))
        .bind(entry.address.map(|address| address.to_string()))
        .bind(&entry.correlation_id)
        .bind(entry.detail_text())
        .execute(db)
        .await?;
    Ok(())
}

fn read(row: &DbRow) -> Result<AuditRow, StoreError> {
    Ok(AuditRow {
        id: count(row, "id")?,
        at: time(row, "at")?,
        actor: Actor {
            kind: word(row, "actor_kind")?,
            id: row.try_get("actor_id")?,
            name: row.try_get("actor_name")?,
        },
        action: row.try_get("action")?,
        target: row.try_get("target")?,
        status: count_opt(row, "status")?,
        address: word_opt(row, "address")?,
        correlation_id: row.try_get("correlation_id")?,
        detail: json_opt(row, "detail")?,
    })
}
