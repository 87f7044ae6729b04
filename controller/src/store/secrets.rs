//! Secrets of templates, sealed: this module sees no text of one.

use std::collections::BTreeMap;

use pureboot_protocol::{GroupId, Page, SiteId, Timestamp};
use schemars::JsonSchema;
use serde::Serialize;
use sha2::{Digest, Sha256};
use sqlx::Row;

use crate::audit::{Actor, Entry};
use crate::auth::Agent;
use crate::store::page::{Cursor, Paging};
use crate::store::records::{self, Reach};
use crate::store::row::{DbConnection, DbRow, count, time, word_opt};
use crate::store::{Origin, Store, StoreError, audit, groups};

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
        records::renumber(&mut tx, Reach::All).await?;
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
        records::renumber(&mut tx, Reach::All).await?;
        tx.commit().await?;
        Ok(found)
    }

    /// Writes into the audit which of `secrets`, which are about to leave for the site of `agent` for the sake of what is called `target`,
    /// have not left for it in their present version before.
    ///
    /// # Errors
    /// The database fails; then none of them may leave.
    pub(crate) async fn note_delivery(
        &self,
        agent: Agent,
        target: &str,
        secrets: &[&SealedSecret],
        origin: Origin<'_>,
    ) -> Result<(), StoreError> {
        // Most have; a reader finds that without keeping writers waiting.
        let known = deliveries(&mut *self.reader.acquire().await?, agent.site_id).await?;
        if secrets.iter().all(|secret| known.get(&secret.place()) == Some(&secret.version())) {
            return Ok(());
        }
        let mut tx = self.write().await?;
        let known = deliveries(&mut tx, agent.site_id).await?;
        let mut names = Vec::new();
        for secret in secrets {
            if known.get(&secret.place()) == Some(&secret.version()) {
                continue;
            }
            names.push(secret.name.as_str());
            sqlx::query(
                "INSERT INTO secret_deliveries (site_id, scope, name, sealed_sha256, delivered_at) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (site_id, scope, name) DO UPDATE SET sealed_sha256 = $4, delivered_at = $5",
            )
            .bind(agent.site_id.to_string())
            .bind(&secret.scope)
            .bind(&secret.name)
            .bind(secret.version())
            .bind(origin.now.unix_ms())
            .execute(&mut *tx)
            .await?;
        }
        if !names.is_empty() {
            let (actor, action) = (Actor::agent(agent.id), "secrets.delivered");
            let mut entry = Entry::new(origin.now, actor, action, origin.correlation_id);
            entry.target = Some(agent.site_id.to_string());
            entry.detail = Some(serde_json::json!({"secrets": names, "node_id": target}));
            audit::insert_new(&mut tx, &entry).await?;
        }
        tx.commit().await?;
        Ok(())
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

/// A secret as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SealedSecret {
    pub(crate) scope: String,
    pub(crate) name: String,
    pub(crate) sealed: String,
}

impl SealedSecret {
    fn place(&self) -> (String, String) {
        (self.scope.clone(), self.name.clone())
    }

    /// What tells it from the secret that had its place before: each is sealed with a nonce of its own.
    fn version(&self) -> String {
        format!("{:x}", Sha256::digest(&self.sealed))
    }
}

/// The secrets that a node in `group` at `site` has, by name: of its group upwards, of its site upwards, of all nodes; the nearest wins.
pub(super) async fn effective(
    db: &mut DbConnection,
    group: Option<GroupId>,
    site: Option<SiteId>,
) -> Result<BTreeMap<String, SealedSecret>, StoreError> {
    let mut effective = BTreeMap::new();
    let starts = [group, site.map(GroupId::from)].into_iter().flatten().map(Some);
    for start in starts.chain([None]) {
        let rows = sqlx::query(
            "WITH RECURSIVE above (id, parent_id, steps) AS (
                SELECT id, parent_id, 0 FROM sites WHERE id = $1
                UNION ALL
                SELECT s.id, s.parent_id, a.steps + 1 FROM sites s JOIN above a ON s.id = a.parent_id
             ) SELECT k.scope, k.name, k.sealed, a.steps FROM secrets k JOIN above a ON k.scope = a.id
               UNION ALL SELECT scope, name, sealed, 0 FROM secrets WHERE $1 = '' AND scope = ''
               ORDER BY steps",
        );
        for row in &rows.bind(scope(start)).fetch_all(&mut *db).await? {
            let secret = SealedSecret {
                scope: row.try_get("scope")?,
                name: row.try_get("name")?,
                sealed: row.try_get("sealed")?,
            };
            effective.entry(secret.name.clone()).or_insert(secret);
        }
    }
    Ok(effective)
}

/// The version in which each secret has last left for `site`, by scope and name.
async fn deliveries(
    db: &mut DbConnection,
    site: SiteId,
) -> Result<BTreeMap<(String, String), String>, StoreError> {
    let rows =
        sqlx::query("SELECT scope, name, sealed_sha256 FROM secret_deliveries WHERE site_id = $1");
    let rows = rows.bind(site.to_string()).fetch_all(db).await?;
    let read = |row: &DbRow| {
        let place = (row.try_get("scope")?, row.try_get("name")?);
        Ok((place, row.try_get("sealed_sha256")?))
    };
    rows.iter().map(read).collect()
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
