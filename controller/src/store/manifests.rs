//! What each site is to hold: what is assigned to it, and the manifest that says so.

use std::collections::BTreeSet;

use pureboot_protocol::{
    Chunks, ContentHash, ContentKey, Manifest, ManifestEntry, PolicyAssignment, PublicKey, SiteId,
    Timestamp, WorkflowId,
};
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, Row};

use crate::content::{Selection, is_pinned};
use crate::store::content::{find, read_key};
use crate::store::installation::{CONTENT_NUMBER, note_content_change};
use crate::store::plugins::assignments::{self, OfSite};
use crate::store::row::{DbConnection, DbRow, count, int, time, to_json, word, word_opt};
use crate::store::{Store, StoreError, records, sites, tree, workflows};

/// How long a manifest may be believed by a site that can reach the controller.
const LIFE_MS: i64 = 30 * DAY_MS;
/// After how long a manifest whose entries stay is issued again.
const REISSUE_MS: i64 = DAY_MS;
const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// A manifest as its bytes stay from issue to issue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IssuedManifest {
    /// The site's count of changed manifests.
    pub(crate) version: u64,
    /// When its bytes were made.
    pub(crate) issued_at: Timestamp,
    /// The bytes: a [`Manifest`] in JSON.
    pub(crate) payload: String,
    entries_sha256: ContentHash,
}

impl Store {
    /// Keeps the public half of the signing key at the first start; later says whether `key` is still the one.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn is_signing_key(&self, key: PublicKey) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        sqlx::query(
            "INSERT INTO signing_key (only_row, public_key) VALUES (1, $1) ON CONFLICT (only_row) DO NOTHING",
        )
        .bind(key.to_string())
        .execute(&mut *tx)
        .await?;
        let row = sqlx::query("SELECT public_key FROM signing_key").fetch_one(&mut *tx).await?;
        tx.commit().await?;
        Ok(word::<PublicKey>(&row, "public_key")? == key)
    }

    /// The public half of the signing key that agents have pinned; none before the first start.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn signing_key(&self) -> Result<Option<PublicKey>, StoreError> {
        let row = sqlx::query("SELECT public_key FROM signing_key");
        let row = row.fetch_optional(&self.reader).await?;
        row.map(|row| word(&row, "public_key")).transpose()
    }

    /// Forgets the signing key, so that the next start brings another.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn forget_signing_key(&self) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        sqlx::query("DELETE FROM signing_key").execute(&mut *tx).await?;
        Ok(tx.commit().await?)
    }

    /// What an operator has assigned to a site, sorted by name.
    ///
    /// # Errors
    /// There is no such site.
    pub(crate) async fn assigned_content(
        &self,
        site: SiteId,
    ) -> Result<BTreeSet<ContentKey>, StoreError> {
        let mut db = self.reader.acquire().await?;
        sites::load(&mut db, site).await?;
        assigned(&mut db, site).await
    }

    /// Assigns `keys`, and nothing else, to a site.
    ///
    /// # Errors
    /// There is no such site, or no content of one of the names.
    pub(crate) async fn assign_content(
        &self,
        site: SiteId,
        keys: &[ContentKey],
    ) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        sites::load(&mut tx, site).await?;
        let before = assigned(&mut tx, site).await?;
        let mut missing = Vec::new();
        // What was assigned before may have lost its content since, and may still stand in the list that comes back.
        for (at, key) in keys.iter().enumerate() {
            if !before.contains(key) && find(&mut tx, key).await?.is_none() {
                missing.push((format!("content[{at}]"), key.clone()));
            }
        }
        if !missing.is_empty() {
            return Err(StoreError::ContentMissing(missing));
        }
        let clear = sqlx::query("DELETE FROM assigned_content WHERE site_id = $1");
        clear.bind(site.to_string()).execute(&mut *tx).await?;
        for key in keys {
            sqlx::query(
                "INSERT INTO assigned_content (site_id, category, path) VALUES ($1, $2, $3)
                 ON CONFLICT (site_id, category, path) DO NOTHING",
            )
            .bind(site.to_string())
            .bind(key.category().as_str())
            .bind(key.path())
            .execute(&mut *tx)
            .await?;
        }
        note_content_change(&mut tx).await?;
        Ok(tx.commit().await?)
    }

    /// The manifest of a site, whose version rises if and only if its entries or policies are others than those of the last one.
    ///
    /// # Errors
    /// There is no such site.
    pub(crate) async fn manifest(
        &self,
        site: SiteId,
        now: Timestamp,
    ) -> Result<IssuedManifest, StoreError> {
        {
            let mut tx = self.reader.begin().await?;
            let (basis, told) = (Basis::now(&mut tx, site).await?, told(&mut tx, site).await?);
            if let Some(kept) = kept(&mut tx, site).await?
                && kept.is_current(&told, now)
                && Basis::kept(&mut tx, site).await? == Some(basis)
            {
                return Ok(kept);
            }
        }
        let mut tx = self.write().await?;
        let (basis, told) = (Basis::now(&mut tx, site).await?, told(&mut tx, site).await?);
        let before = kept(&mut tx, site).await?;
        let issued = match before {
            Some(kept) if kept.is_current(&told, now) => kept,
            before => {
                let issued = IssuedManifest::next(site, told, before.as_ref(), now);
                keep(&mut tx, site, &issued).await?;
                issued
            }
        };
        basis.keep(&mut tx, site, issued.version).await?;
        tx.commit().await?;
        Ok(issued)
    }
}

async fn keep(
    db: &mut DbConnection,
    site: SiteId,
    issued: &IssuedManifest,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO manifests (site_id, version, entries_sha256, payload, issued_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (site_id) DO UPDATE SET version = $2, entries_sha256 = $3, payload = $4, issued_at = $5",
    )
    .bind(site.to_string())
    .bind(int(issued.version))
    .bind(issued.entries_sha256.to_string())
    .bind(&issued.payload)
    .bind(issued.issued_at.unix_ms())
    .execute(db)
    .await?;
    Ok(())
}

/// The numbers that rise whenever anything changes that a site's manifest is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Basis {
    /// Of content and what says who is to hold it ([`note_content_change`]).
    pub(super) content_number: u64,
    /// Of the site's nodes ([`records`]).
    pub(super) nodes_number: u64,
    /// Of the site's settings.
    pub(super) settings_version: u64,
}

impl Basis {
    async fn now(db: &mut DbConnection, site: SiteId) -> Result<Self, StoreError> {
        let sql = format!("SELECT {CONTENT_NUMBER} AS number");
        let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(&mut *db).await?;
        Ok(Self {
            content_number: count(&row, "number")?,
            nodes_number: records::newest(&mut *db, site).await?,
            settings_version: sites::load(db, site).await?.version,
        })
    }

    async fn kept(db: &mut DbConnection, site: SiteId) -> Result<Option<Self>, StoreError> {
        let row = sqlx::query("SELECT * FROM manifest_bases WHERE site_id = $1");
        let row = row.bind(site.to_string()).fetch_optional(db).await?;
        row.map(|row| Self::read(&row)).transpose()
    }

    /// That in a row of `manifest_bases`.
    pub(super) fn read(row: &DbRow) -> Result<Self, StoreError> {
        Ok(Self {
            content_number: count(row, "content_number")?,
            nodes_number: count(row, "nodes_number")?,
            settings_version: count(row, "settings_version")?,
        })
    }

    /// Notes that the manifest with `version` is what `site` is to hold while this stands.
    async fn keep(
        self,
        db: &mut DbConnection,
        site: SiteId,
        version: u64,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO manifest_bases (site_id, version, content_number, nodes_number, settings_version) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (site_id) DO UPDATE SET version = $2, content_number = $3, nodes_number = $4, settings_version = $5",
        )
        .bind(site.to_string())
        .bind(int(version))
        .bind(int(self.content_number))
        .bind(int(self.nodes_number))
        .bind(int(self.settings_version))
        .execute(db)
        .await?;
        Ok(())
    }
}

impl IssuedManifest {
    fn is_current(&self, told: &Told, now: Timestamp) -> bool {
        self.entries_sha256 == told.hash() && now.unix_ms() - self.issued_at.unix_ms() < REISSUE_MS
    }

    fn next(site_id: SiteId, told: Told, before: Option<&Self>, now: Timestamp) -> Self {
        let entries_sha256 = told.hash();
        let Told { entries, policies } = told;
        // Milliseconds since 1970, so that a database that comes back from a backup gives versions above all that it gave
        // before; a clock that goes back does not take the version with it.
        let clock = u64::try_from(now.unix_ms()).unwrap_or(0);
        let version = match before {
            Some(before) if before.entries_sha256 == entries_sha256 => before.version,
            Some(before) => clock.max(before.version + 1),
            None => clock.max(1),
        };
        let expires_at = Timestamp::from_unix_ms(now.unix_ms().saturating_add(LIFE_MS));
        let manifest = Manifest { site_id, version, issued_at: now, expires_at, entries, policies };
        Self { version, issued_at: now, payload: to_json(&manifest), entries_sha256 }
    }
}

/// What a manifest tells.
struct Told {
    entries: Vec<ManifestEntry>,
    policies: Vec<PolicyAssignment>,
}

impl Told {
    fn hash(&self) -> ContentHash {
        // As it was before there were policies, so that what has none keeps its version.
        let text = match self.policies.as_slice() {
            [] => to_json(&self.entries),
            policies => to_json(&(&self.entries, policies)),
        };
        ContentHash::from_digest(Sha256::digest(text).into())
    }
}

async fn kept(db: &mut DbConnection, site: SiteId) -> Result<Option<IssuedManifest>, StoreError> {
    let row = sqlx::query("SELECT * FROM manifests WHERE site_id = $1").bind(site.to_string());
    let Some(row) = row.fetch_optional(db).await? else { return Ok(None) };
    Ok(Some(IssuedManifest {
        version: count(&row, "version")?,
        issued_at: time(&row, "issued_at")?,
        payload: row.try_get("payload")?,
        entries_sha256: word(&row, "entries_sha256")?,
    }))
}

/// What the site is to hold now, sorted by name, and what it is to run.
async fn told(db: &mut DbConnection, site: SiteId) -> Result<Told, StoreError> {
    let settings = sites::load(&mut *db, site).await?;
    let needed = needed(&mut *db, site).await?;
    let assigned = assigned(&mut *db, site).await?;
    let OfSite { policies, packages, .. } = assignments::of_site(&mut *db, site).await?;
    let selection =
        Selection::new(settings.cache_policy, &settings.cache_patterns, needed, assigned)
            .with_packages(packages);
    let rows = sqlx::query(
        "SELECT c.category, c.path, c.sha256, o.size_bytes, o.chunks_sha256, CAST(length(o.chunks) AS BIGINT) AS chunks_len
         FROM content c JOIN objects o ON o.sha256 = c.sha256 ORDER BY c.category, c.path",
    );
    let mut entries = Vec::new();
    for row in rows.fetch_all(db).await? {
        let key = read_key(&row)?;
        if !selection.holds(&key) {
            continue;
        }
        let list_len: usize = count(&row, "chunks_len")?;
        let chunk_count = u32::try_from(list_len / Chunks::ROW_LEN).unwrap_or(u32::MAX);
        let list = word_opt(&row, "chunks_sha256")?;
        entries.push(ManifestEntry {
            pinned: is_pinned(&key),
            key,
            size_bytes: count(&row, "size_bytes")?,
            sha256: word(&row, "sha256")?,
            chunks: list.map(|sha256| Chunks {
                format: Chunks::FORMAT,
                count: chunk_count,
                sha256,
            }),
        });
    }
    Ok(Told { entries, policies })
}

async fn assigned(db: &mut DbConnection, site: SiteId) -> Result<BTreeSet<ContentKey>, StoreError> {
    let rows = sqlx::query("SELECT category, path FROM assigned_content WHERE site_id = $1");
    let rows = rows.bind(site.to_string()).fetch_all(db).await?;
    rows.iter().map(read_key).collect()
}

/// What the workflows load that machines of the site may be given: those of its nodes and of nodes without a home, which may
/// turn up anywhere, and the one that new machines get.
async fn needed(db: &mut DbConnection, site: SiteId) -> Result<BTreeSet<ContentKey>, StoreError> {
    let rows = sqlx::query(
        "SELECT DISTINCT workflow_id, group_id, home_site_id FROM nodes
         WHERE (home_site_id = $1 OR home_site_id IS NULL) AND state <> 'retired'",
    )
    .bind(site.to_string())
    .fetch_all(&mut *db)
    .await?;
    let mut ids: BTreeSet<WorkflowId> = BTreeSet::new();
    ids.extend(tree::inherited(&mut *db, None, Some(site)).await?.workflow_id);
    for row in &rows {
        ids.extend(match word_opt(row, "workflow_id")? {
            Some(own) => Some(own),
            None => {
                let (group, home) = (word_opt(row, "group_id")?, word_opt(row, "home_site_id")?);
                tree::inherited(&mut *db, group, home).await?.workflow_id
            }
        });
    }
    let mut needed = BTreeSet::new();
    for id in ids {
        if let Some(kept) = workflows::find(&mut *db, id).await? {
            let loaded = kept.workflow.boot.content().into_iter().map(|(_, key)| key.clone());
            needed.extend(loaded);
        }
    }
    Ok(needed)
}
