//! Secrets of templates, sealed: this module sees no text of one.

use pureboot_protocol::{GroupId, Page, SiteId, Timestamp};
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::Row;

use crate::store::page::{Cursor, Paging};
use crate::store::row::{DbConnection, DbRow, count, time, word_opt};
use crate::store::{Store, StoreError, groups};

/// All that is ever told of a secret. The field names are those of the HTTP surface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct SecretView {
    pub(crate) name: String,
    /// The group or site whose nodes have it; none: all nodes have it.
    pub(crate) group_id: Option<GroupId>,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
}

/// The text that stands for a group in the key of a secret.
pub(crate) fn scope(group: Option<GroupId>) -> String {
    group.map(|id| id.to_string()).unwrap_or_default()
}

impl Store {
    /// Keeps a secret, in place of one with the same name in the same group. Answers whether it is a new one.
    ///
    /// # Errors
    /// There is no such group.
    pub(crate) async fn put_secret(
        &self,
        name: &str,
        group: Option<GroupId>,
        sealed: &str,
        now: Timestamp,
    ) -> Result<(SecretView, bool), StoreError> {
        let mut tx = self.write().await?;
        if let Some(id) = group
            && groups::find(&mut tx, id).await?.is_none()
        {
            let id = id.to_string();
            return Err(StoreError::Unknown { field: "group_id", what: "group", id });
        }
        let old = find(&mut tx, name, group).await?;
        sqlx::query(
            "INSERT INTO secrets (scope, name, group_id, sealed, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $5)
             ON CONFLICT (scope, name) DO UPDATE SET sealed = $4, updated_at = $5",
        )
        .bind(scope(group))
        .bind(name)
        .bind(group.map(|id| id.to_string()))
        .bind(sealed)
        .bind(now.unix_ms())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        let created_at = old.as_ref().map_or(now, |old| old.created_at);
        let view =
            SecretView { name: name.to_owned(), group_id: group, created_at, updated_at: now };
        Ok((view, old.is_none()))
    }

    /// What may be told of the secrets, in the order of their making.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn secrets(
        &self,
        group: Option<GroupId>,
        paging: &Paging,
    ) -> Result<Page<SecretView>, StoreError> {
        let group = group.map(|id| id.to_string());
        let (position, key, rows) = paging.rising();
        let rows = sqlx::query(
            "SELECT name, group_id, created_at, updated_at FROM secrets WHERE (CAST($1 AS TEXT) IS NULL OR scope = $1)
               AND (created_at, scope || '/' || name) > ($2, $3) ORDER BY created_at, scope || '/' || name LIMIT $4",
        )
        .bind(&group)
        .bind(position)
        .bind(key)
        .bind(rows)
        .fetch_all(&self.reader)
        .await?;
        let total = sqlx::query(
            "SELECT count(*) AS total FROM secrets WHERE CAST($1 AS TEXT) IS NULL OR scope = $1",
        );
        let total = total.bind(&group).fetch_one(&self.reader).await?;
        let secrets = rows.iter().map(read).collect::<Result<_, _>>()?;
        Ok(paging.page(secrets, count(&total, "total")?, |secret: &SecretView| {
            let key = format!("{}/{}", scope(secret.group_id), secret.name);
            Cursor::new(secret.created_at.unix_ms(), key)
        }))
    }

    /// Forgets a secret, and answers what may be told of it.
    ///
    /// # Errors
    /// There is none.
    pub(crate) async fn delete_secret(
        &self,
        name: &str,
        group: Option<GroupId>,
    ) -> Result<SecretView, StoreError> {
        let mut tx = self.write().await?;
        let found = find(&mut tx, name, group).await?;
        let missing = || StoreError::Missing { what: "secret", id: name.to_owned() };
        let found = found.ok_or_else(missing)?;
        sqlx::query("DELETE FROM secrets WHERE scope = $1 AND name = $2")
            .bind(scope(group))
            .bind(name)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(found)
    }

    /// One sealed secret, if there is any, with its scope and name: to try the key on.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn any_secret(&self) -> Result<Option<[String; 3]>, StoreError> {
        let row =
            sqlx::query("SELECT scope, name, sealed FROM secrets ORDER BY created_at LIMIT 1");
        let row = row.fetch_optional(&self.reader).await?;
        row.map(|row| Ok([row.try_get("scope")?, row.try_get("name")?, row.try_get("sealed")?]))
            .transpose()
    }
}

/// The names of the secrets that a node in `group` at `site` has.
pub(super) async fn names(
    db: &mut DbConnection,
    group: Option<GroupId>,
    site: Option<SiteId>,
) -> Result<Vec<String>, StoreError> {
    let rows = sqlx::query(
        "WITH RECURSIVE above (id) AS (
            SELECT id FROM sites WHERE id = $1 OR id = $2
            UNION SELECT s.parent_id FROM sites s JOIN above a ON s.id = a.id WHERE s.parent_id IS NOT NULL
         ) SELECT DISTINCT name FROM secrets WHERE scope = '' OR scope IN (SELECT id FROM above) ORDER BY name",
    )
    .bind(group.map(|id| id.to_string()))
    .bind(site.map(|id| id.to_string()))
    .fetch_all(db)
    .await?;
    Ok(rows.iter().map(|row| row.try_get("name")).collect::<Result<_, _>>()?)
}

async fn find(
    db: &mut DbConnection,
    name: &str,
    group: Option<GroupId>,
) -> Result<Option<SecretView>, StoreError> {
    let row = sqlx::query(
        "SELECT name, group_id, created_at, updated_at FROM secrets WHERE scope = $1 AND name = $2",
    );
    let row = row.bind(scope(group)).bind(name).fetch_optional(db).await?;
    row.map(|row| read(&row)).transpose()
}

fn read(row: &DbRow) -> Result<SecretView, StoreError> {
    Ok(SecretView {
        name: row.try_get("name")?,
        group_id: word_opt(row, "group_id")?,
        created_at: time(row, "created_at")?,
        updated_at: time(row, "updated_at")?,
    })
}
