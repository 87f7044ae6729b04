//! Content: names, each with the bytes that it means, and the bytes by their hash.

use std::collections::HashSet;

use pureboot_protocol::{BootMethod, Category, ContentHash, ContentKey, Page, Timestamp};
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::Row;

use crate::content::{Condition, Digests, Location};
use crate::store::installation::note_content_change;
use crate::store::page::{Cursor, Paging};
use crate::store::row::{DbConnection, DbRow, count, int, json, time, word};
use crate::store::{Store, StoreError};

/// The most workflows that a refusal names.
const NAMED_WORKFLOWS_MAX: usize = 5;

/// A name and what it means. The field names are those of the HTTP surface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct ContentEntry {
    pub(crate) category: Category,
    pub(crate) path: String,
    pub(crate) size_bytes: u64,
    pub(crate) sha256: ContentHash,
    pub(crate) updated_at: Timestamp,
    /// Rises by one whenever the name comes to mean other bytes.
    pub(crate) version: u64,
}

/// Bytes that are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeptObject {
    pub(crate) sha256: ContentHash,
    pub(crate) size_bytes: u64,
    pub(crate) location: Location,
}

/// What became of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    /// It is new.
    Created,
    /// It meant other bytes before.
    Replaced,
    /// It meant these bytes already.
    Unchanged,
}

/// Which content is listed.
#[derive(Debug, Default)]
pub(crate) struct ContentFilter {
    pub(crate) category: Option<Category>,
    /// What paths begin with.
    pub(crate) prefix: Option<String>,
}

impl Store {
    /// What `key` means, if it means something.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn content(
        &self,
        key: &ContentKey,
    ) -> Result<Option<(ContentEntry, KeptObject)>, StoreError> {
        find(&mut *self.reader.acquire().await?, key).await
    }

    /// The bytes that hash to `sha256`, if they are kept.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn object(
        &self,
        sha256: ContentHash,
    ) -> Result<Option<KeptObject>, StoreError> {
        let row = sqlx::query("SELECT sha256, size_bytes, location FROM objects WHERE sha256 = $1");
        let row = row.bind(sha256.to_string()).fetch_optional(&self.reader).await?;
        row.map(|row| read_object(&row)).transpose()
    }

    /// The list of the chunks of the bytes that hash to `sha256`, as the manifest's [`Chunks`](pureboot_protocol::Chunks) says.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn object_chunks(
        &self,
        sha256: ContentHash,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let row = sqlx::query("SELECT chunks FROM objects WHERE sha256 = $1");
        let row = row.bind(sha256.to_string()).fetch_optional(&self.reader).await?;
        Ok(row.map(|row| row.try_get("chunks")).transpose()?)
    }

    /// Content sorted by name.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn content_list(
        &self,
        filter: &ContentFilter,
        paging: &Paging,
    ) -> Result<Page<ContentEntry>, StoreError> {
        let (_, after, rows) = paging.rising();
        let (category, path) = after.split_once('/').unwrap_or(("", ""));
        let only = filter.category.map(Category::as_str);
        let prefix = filter.prefix.as_deref().unwrap_or("");
        let rows = sqlx::query(
            "SELECT c.category, c.path, c.sha256, c.updated_at, c.version, o.size_bytes, o.location
             FROM content c JOIN objects o ON o.sha256 = c.sha256
             WHERE (CAST($1 AS TEXT) IS NULL OR c.category = $1) AND substr(c.path, 1, length($2)) = $2
                AND (c.category, c.path) > ($3, $4)
             ORDER BY c.category, c.path LIMIT $5",
        )
        .bind(only)
        .bind(prefix)
        .bind(category)
        .bind(path)
        .bind(rows)
        .fetch_all(&self.reader)
        .await?;
        let total = sqlx::query(
            "SELECT count(*) AS total FROM content
             WHERE (CAST($1 AS TEXT) IS NULL OR category = $1) AND substr(path, 1, length($2)) = $2",
        )
        .bind(only)
        .bind(prefix)
        .fetch_one(&self.reader)
        .await?;
        let entries = rows.iter().map(|row| Ok(read(row)?.0)).collect::<Result<_, StoreError>>()?;
        Ok(paging.page(entries, count(&total, "total")?, |entry: &ContentEntry| {
            Cursor::new(0, format!("{}/{}", entry.category, entry.path))
        }))
    }

    /// Makes `key` mean the bytes that were stored at `location`. Where the same bytes are kept already and `is_spare`, those
    /// stay the kept ones, and what is at `location` is nobody's: the answer names where the bytes are.
    ///
    /// # Errors
    /// What `key` means now is against `condition`.
    pub(crate) async fn name_content(
        &self,
        key: &ContentKey,
        digests: &Digests,
        location: &Location,
        is_spare: bool,
        condition: &Condition,
        now: Timestamp,
    ) -> Result<(ContentEntry, Named, Location), StoreError> {
        let mut tx = self.write().await?;
        let before = find(&mut tx, key).await?.map(|(entry, _)| entry);
        check(condition, key, before.as_ref())?;
        let kept = sqlx::query(
            "INSERT INTO objects (sha256, size_bytes, location, chunks, chunks_sha256) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (sha256) DO UPDATE SET unreferenced_at = NULL, chunks = $4, chunks_sha256 = $5,
                location = CASE WHEN $6 THEN objects.location ELSE $3 END
             RETURNING location",
        )
        .bind(digests.sha256.to_string())
        .bind(int(digests.size_bytes))
        .bind(location.as_str())
        .bind(&digests.chunks)
        .bind(digests.chunks_sha256.map(|hash| hash.to_string()))
        .bind(is_spare)
        .fetch_one(&mut *tx)
        .await?;
        let kept = Location::kept(kept.try_get("location")?);
        let named = match &before {
            None => Named::Created,
            Some(before) if before.sha256 == digests.sha256 => Named::Unchanged,
            Some(_) => Named::Replaced,
        };
        let replaced = before.as_ref().map(|before| before.sha256);
        let entry = match before {
            Some(before) if named == Named::Unchanged => before,
            before => ContentEntry {
                category: key.category(),
                path: key.path().to_owned(),
                size_bytes: digests.size_bytes,
                sha256: digests.sha256,
                updated_at: now,
                version: before.map_or(0, |before| before.version) + 1,
            },
        };
        sqlx::query(
            "INSERT INTO content (category, path, sha256, updated_at, version) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (category, path) DO UPDATE SET sha256 = $3, updated_at = $4, version = $5",
        )
        .bind(entry.category.as_str())
        .bind(&entry.path)
        .bind(entry.sha256.to_string())
        .bind(entry.updated_at.unix_ms())
        .bind(int(entry.version))
        .execute(&mut *tx)
        .await?;
        if let Some(replaced) = replaced {
            mark_unreferenced(&mut tx, replaced, now).await?;
        }
        note_content_change(&mut tx).await?;
        tx.commit().await?;
        Ok((entry, named, kept))
    }

    /// Takes a name away, and answers what it meant.
    ///
    /// # Errors
    /// It means nothing, what it means is against `condition`, or a workflow loads it.
    pub(crate) async fn delete_content(
        &self,
        key: &ContentKey,
        condition: &Condition,
        now: Timestamp,
    ) -> Result<ContentEntry, StoreError> {
        let mut tx = self.write().await?;
        let found = find(&mut tx, key).await?;
        let missing = || StoreError::Missing { what: "content", id: key.to_string() };
        let (entry, _) = found.ok_or_else(missing)?;
        check(condition, key, Some(&entry))?;
        let rows = sqlx::query("SELECT name, boot FROM workflows ORDER BY name");
        let mut workflows = Vec::new();
        for row in rows.fetch_all(&mut *tx).await? {
            let boot: BootMethod = json(&row, "boot")?;
            if boot.content().iter().any(|(_, loaded)| *loaded == key) {
                workflows.push(row.try_get::<String, _>("name")?);
            }
        }
        if !workflows.is_empty() {
            workflows.truncate(NAMED_WORKFLOWS_MAX);
            return Err(StoreError::ContentInUse { key: key.clone(), workflows });
        }
        sqlx::query("DELETE FROM content WHERE category = $1 AND path = $2")
            .bind(key.category().as_str())
            .bind(key.path())
            .execute(&mut *tx)
            .await?;
        mark_unreferenced(&mut tx, entry.sha256, now).await?;
        note_content_change(&mut tx).await?;
        tx.commit().await?;
        Ok(entry)
    }

    /// Forgets the bytes that no name has meant since `before`, and answers where they are.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn forget_objects(
        &self,
        before: Timestamp,
    ) -> Result<Vec<Location>, StoreError> {
        let mut tx = self.write().await?;
        let rows = sqlx::query(
            "DELETE FROM objects WHERE unreferenced_at < $1
                AND NOT EXISTS (SELECT 1 FROM content WHERE content.sha256 = objects.sha256)
             RETURNING location",
        )
        .bind(before.unix_ms())
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        rows.iter().map(location).collect()
    }

    /// Where all bytes are that are kept.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn object_locations(&self) -> Result<HashSet<Location>, StoreError> {
        let rows = sqlx::query("SELECT location FROM objects").fetch_all(&self.reader).await?;
        rows.iter().map(location).collect()
    }
}

/// Refuses `boot` if it loads content that the controller does not have.
pub(super) async fn check_loaded(
    db: &mut DbConnection,
    boot: &BootMethod,
) -> Result<(), StoreError> {
    let mut missing = Vec::new();
    for (field, key) in boot.content() {
        if find(&mut *db, key).await?.is_none() {
            missing.push((field, key.clone()));
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(StoreError::ContentMissing(missing)) }
}

/// What `key` means, if it means something.
pub(super) async fn find(
    db: &mut DbConnection,
    key: &ContentKey,
) -> Result<Option<(ContentEntry, KeptObject)>, StoreError> {
    let row = sqlx::query(
        "SELECT c.category, c.path, c.sha256, c.updated_at, c.version, o.size_bytes, o.location
         FROM content c JOIN objects o ON o.sha256 = c.sha256 WHERE c.category = $1 AND c.path = $2",
    )
    .bind(key.category().as_str())
    .bind(key.path())
    .fetch_optional(db)
    .await?;
    row.map(|row| read(&row)).transpose()
}

/// The bytes that names mean.
pub(super) async fn named_objects(db: &mut DbConnection) -> Result<Vec<KeptObject>, StoreError> {
    let rows = sqlx::query(
        "SELECT sha256, size_bytes, location FROM objects o
         WHERE EXISTS (SELECT 1 FROM content c WHERE c.sha256 = o.sha256) ORDER BY sha256",
    );
    rows.fetch_all(db).await?.iter().map(read_object).collect()
}

/// The name in the columns `category` and `path`.
pub(super) fn read_key(row: &DbRow) -> Result<ContentKey, StoreError> {
    let path: String = row.try_get("path")?;
    ContentKey::new(word(row, "category")?, &path)
        .map_err(|error| StoreError::Value { column: "path", message: error.to_string() })
}

fn check(
    condition: &Condition,
    key: &ContentKey,
    current: Option<&ContentEntry>,
) -> Result<(), StoreError> {
    let current = current.map(|entry| entry.sha256);
    if condition.holds(current.as_ref()) {
        Ok(())
    } else {
        Err(StoreError::Condition { key: key.clone(), current })
    }
}

/// Notes since when the bytes of `sha256` have no name, if they have none.
pub(super) async fn mark_unreferenced(
    db: &mut DbConnection,
    sha256: ContentHash,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE objects SET unreferenced_at = $2
         WHERE sha256 = $1 AND NOT EXISTS (SELECT 1 FROM content WHERE content.sha256 = $1)",
    )
    .bind(sha256.to_string())
    .bind(now.unix_ms())
    .execute(db)
    .await?;
    Ok(())
}

fn read(row: &DbRow) -> Result<(ContentEntry, KeptObject), StoreError> {
    let key = read_key(row)?;
    let object = read_object(row)?;
    let entry = ContentEntry {
        category: key.category(),
        path: key.path().to_owned(),
        size_bytes: object.size_bytes,
        sha256: object.sha256,
        updated_at: time(row, "updated_at")?,
        version: count(row, "version")?,
    };
    Ok((entry, object))
}

fn read_object(row: &DbRow) -> Result<KeptObject, StoreError> {
    Ok(KeptObject {
        sha256: word(row, "sha256")?,
        size_bytes: count(row, "size_bytes")?,
        location: location(row)?,
    })
}

fn location(row: &DbRow) -> Result<Location, StoreError> {
    Ok(Location::kept(row.try_get("location")?))
}
