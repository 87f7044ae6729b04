//! Site policies: their versions, which of them sites are given, and what of them is compiled.

pub(super) mod assignments;

use std::collections::{BTreeMap, BTreeSet};

use pureboot_plugin_author::description::Description;
use pureboot_plugin_author::fixture::Report;
use pureboot_protocol::{
    Capability, Category, ContentHash, ContentKey, EngineId, Page, PluginId, PluginVersion,
    Timestamp, package_key,
};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::store::content::{mark_unreferenced, read_key};
use crate::store::installation::note_content_change;
use crate::store::page::{Cursor, Paging};
use crate::store::row::{DbConnection, DbRow, count, int, json, time, to_json, word, word_opt};
use crate::store::{Store, StoreError};

pub(crate) use assignments::{AssignmentFields, Place, PluginAssignment, SitePolicy};

/// The most versions of a policy that are kept.
const VERSIONS_MAX: u64 = 100;

/// A policy. The field names are those of the HTTP surface.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Plugin {
    pub(crate) name: PluginId,
    /// What sites are given that are not held to another.
    pub(crate) current_version: PluginVersion,
    /// What a roll-back leads to.
    pub(crate) previous_version: Option<PluginVersion>,
    /// Places that it is assigned to.
    pub(crate) assignments: u64,
    /// The current version.
    pub(crate) current: KeptVersion,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
}

/// A version of a policy. The field names are those of the HTTP surface.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct KeptVersion {
    pub(crate) plugin: PluginId,
    pub(crate) version: PluginVersion,
    /// What it is for.
    pub(crate) description: String,
    /// `boot`, `script`, `cache`.
    pub(crate) hooks: Vec<Value>,
    /// What it asks sites for.
    pub(crate) capabilities: BTreeSet<Capability>,
    /// The memory that one call may use.
    pub(crate) memory_mib: u16,
    /// What sites may set: `default`, `help`, `type`, and the values that there are.
    pub(crate) settings: BTreeMap<String, Value>,
    /// The SHA-256 of the component.
    pub(crate) wasm: ContentHash,
    /// The length of the component.
    pub(crate) wasm_bytes: u64,
    /// What its fixtures burnt when it came.
    pub(crate) fixtures: Vec<FixtureCost>,
    /// The engines that it is compiled for.
    pub(crate) engines: Vec<String>,
    pub(crate) uploaded_at: Timestamp,
}

/// What a fixture cost.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct FixtureCost {
    pub(crate) name: String,
    pub(crate) fuel: u64,
    pub(crate) fuel_max: u64,
    pub(crate) memory_bytes: u64,
}

/// A version that has come.
#[derive(Debug, Clone)]
pub(crate) struct NewVersion<'a> {
    pub(crate) description: &'a Description,
    pub(crate) wasm: ContentHash,
    pub(crate) wasm_bytes: u64,
    pub(crate) fixtures: &'a [Report],
}

/// A version that sites are assigned, and an engine for which nobody has compiled it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Uncompiled {
    pub(crate) plugin: PluginId,
    pub(crate) version: PluginVersion,
    pub(crate) engine: EngineId,
}

/// What the name of the bundle of a version ends with.
const BUNDLE: &str = "bundle.tar";

/// The name of what was uploaded of a version.
pub(crate) fn bundle_key(plugin: &PluginId, version: PluginVersion) -> ContentKey {
    let path = format!("{plugin}/{version}/{BUNDLE}");
    ContentKey::new(Category::Plugins, &path).expect("its parts are segments of names of content")
}

const VERSIONS: &str = "SELECT v.plugin, v.version, v.wasm, v.wasm_bytes, v.description, v.fixtures, v.uploaded_at FROM plugin_versions v";

impl Store {
    /// Keeps a version, and lets it be the current one if `activates`. Answers whether it is new: the same component may come again,
    /// with another description.
    ///
    /// # Errors
    /// The version is another component's, or there are too many.
    pub(crate) async fn keep_plugin_version(
        &self,
        new: &NewVersion<'_>,
        activates: bool,
        by: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let (plugin, version) = (&new.description.name, new.description.version);
        let mut tx = self.write().await?;
        let row =
            sqlx::query("SELECT wasm FROM plugin_versions WHERE plugin = $1 AND version = $2");
        let row = row.bind(plugin.as_str()).bind(version.to_string());
        let before: Option<ContentHash> =
            row.fetch_optional(&mut *tx).await?.map(|row| word(&row, "wasm")).transpose()?;
        if before.is_some_and(|wasm| wasm != new.wasm) {
            return Err(StoreError::PluginVersionTaken { plugin: plugin.clone(), version });
        }
        let kept = sqlx::query("SELECT count(*) AS kept FROM plugin_versions WHERE plugin = $1");
        let kept = kept.bind(plugin.as_str()).fetch_one(&mut *tx).await?;
        if before.is_none() && count::<u64>(&kept, "kept")? >= VERSIONS_MAX {
            return Err(StoreError::PluginVersions { plugin: plugin.clone(), max: VERSIONS_MAX });
        }
        sqlx::query(
            "INSERT INTO plugins (name, current_version, previous_version, created_at, updated_at) VALUES ($1, $2, NULL, $3, $3)
             ON CONFLICT (name) DO UPDATE SET updated_at = $3",
        )
        .bind(plugin.as_str())
        .bind(version.to_string())
        .bind(now.unix_ms())
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "INSERT INTO plugin_versions (plugin, version, wasm, wasm_bytes, description, fixtures, uploaded_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (plugin, version) DO UPDATE SET description = $5, fixtures = $6",
        )
        .bind(plugin.as_str())
        .bind(version.to_string())
        .bind(new.wasm.to_string())
        .bind(int(new.wasm_bytes))
        .bind(to_json(new.description))
        .bind(to_json(&new.fixtures))
        .bind(now.unix_ms())
        .execute(&mut *tx)
        .await?;
        if activates {
            make_current(&mut tx, plugin, version, now).await?;
            assignments::push(&mut tx, plugin, None, by, now).await?;
        }
        tx.commit().await?;
        Ok(before.is_none())
    }

    /// Lets another version be the current one: `version`, or else the one before. Answers which it is.
    ///
    /// # Errors
    /// There is no such policy or version, or none before.
    pub(crate) async fn roll_back_plugin(
        &self,
        plugin: &PluginId,
        version: Option<PluginVersion>,
        by: &str,
        now: Timestamp,
    ) -> Result<PluginVersion, StoreError> {
        let mut tx = self.write().await?;
        let (_, previous) = current(&mut tx, plugin).await?;
        let version = match (version, previous) {
            (Some(version), _) => version,
            (None, Some(previous)) => previous,
            (None, None) => return Err(StoreError::PluginFirst { plugin: plugin.clone() }),
        };
        load_version(&mut tx, plugin, version).await?;
        make_current(&mut tx, plugin, version, now).await?;
        assignments::push(&mut tx, plugin, None, by, now).await?;
        tx.commit().await?;
        Ok(version)
    }

    /// The policies by name.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn plugins(&self, paging: &Paging) -> Result<Page<Plugin>, StoreError> {
        let mut tx = self.reader.begin().await?;
        let (_, after, limit) = paging.rising();
        let rows = sqlx::query("SELECT name FROM plugins WHERE name > $1 ORDER BY name LIMIT $2");
        let rows = rows.bind(after).bind(limit).fetch_all(&mut *tx).await?;
        let total = sqlx::query("SELECT count(*) AS total FROM plugins");
        let total = total.fetch_one(&mut *tx).await?;
        let mut plugins = Vec::new();
        for row in &rows {
            plugins.push(load(&mut tx, &word(row, "name")?).await?);
        }
        Ok(paging
            .page(plugins, count(&total, "total")?, |plugin: &Plugin| Cursor::new(0, &plugin.name)))
    }

    /// The policy of this name.
    ///
    /// # Errors
    /// There is none.
    pub(crate) async fn plugin(&self, name: &PluginId) -> Result<Plugin, StoreError> {
        load(&mut *self.reader.acquire().await?, name).await
    }

    /// The versions of a policy, the latest upload first.
    ///
    /// # Errors
    /// There is no such policy.
    pub(crate) async fn plugin_versions(
        &self,
        plugin: &PluginId,
    ) -> Result<Page<KeptVersion>, StoreError> {
        let mut tx = self.reader.begin().await?;
        current(&mut tx, plugin).await?;
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "{VERSIONS} WHERE v.plugin = $1 ORDER BY v.uploaded_at DESC, v.version DESC"
        )));
        let rows = rows.bind(plugin.as_str()).fetch_all(&mut *tx).await?;
        let mut data = Vec::new();
        for row in &rows {
            data.push(read_version(&mut tx, row).await?);
        }
        let total = u64::try_from(data.len()).unwrap_or(u64::MAX);
        Ok(Page { success: true, data, total, next_cursor: None })
    }

    /// One version of a policy.
    ///
    /// # Errors
    /// There is none.
    pub(crate) async fn plugin_version(
        &self,
        plugin: &PluginId,
        version: PluginVersion,
    ) -> Result<KeptVersion, StoreError> {
        load_version(&mut *self.reader.acquire().await?, plugin, version).await
    }

    /// Forgets a version, and answers what it was.
    ///
    /// # Errors
    /// There is none, or it is what sites are given.
    pub(crate) async fn delete_plugin_version(
        &self,
        plugin: &PluginId,
        version: PluginVersion,
        now: Timestamp,
    ) -> Result<KeptVersion, StoreError> {
        let mut tx = self.write().await?;
        let kept = load_version(&mut tx, plugin, version).await?;
        let (is_current, previous) = current(&mut tx, plugin).await?;
        let held = sqlx::query(
            "SELECT count(*) AS held FROM plugin_assignments WHERE plugin = $1 AND version = $2",
        );
        let held = held.bind(plugin.as_str()).bind(version.to_string()).fetch_one(&mut *tx).await?;
        if is_current == version || count::<u64>(&held, "held")? > 0 {
            let what = format!("version {version} of plugin {plugin}");
            return Err(StoreError::PluginInUse {
                what,
                cure: "let the sites have another version first",
            });
        }
        if previous == Some(version) {
            sqlx::query("UPDATE plugins SET previous_version = NULL WHERE name = $1")
                .bind(plugin.as_str())
                .execute(&mut *tx)
                .await?;
        }
        sqlx::query("DELETE FROM plugin_versions WHERE plugin = $1 AND version = $2")
            .bind(plugin.as_str())
            .bind(version.to_string())
            .execute(&mut *tx)
            .await?;
        forget_content(&mut tx, &format!("{plugin}/{version}/"), now).await?;
        tx.commit().await?;
        Ok(kept)
    }

    /// Forgets a policy with all of its versions, and answers what it was.
    ///
    /// # Errors
    /// There is none, or it is assigned somewhere.
    pub(crate) async fn delete_plugin(
        &self,
        name: &PluginId,
        now: Timestamp,
    ) -> Result<Plugin, StoreError> {
        let mut tx = self.write().await?;
        let plugin = load(&mut tx, name).await?;
        if plugin.assignments > 0 {
            let what = format!("plugin {name}, which {} places are assigned", plugin.assignments);
            return Err(StoreError::PluginInUse { what, cure: "unassign it there first" });
        }
        sqlx::query("DELETE FROM plugins WHERE name = $1")
            .bind(name.as_str())
            .execute(&mut *tx)
            .await?;
        forget_content(&mut tx, &format!("{name}/"), now).await?;
        tx.commit().await?;
        Ok(plugin)
    }

    /// The engines that agents have reported.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn engines(&self) -> Result<BTreeSet<EngineId>, StoreError> {
        engines(&mut *self.reader.acquire().await?).await
    }

    /// What sites are assigned, or would go back to, and is not compiled for an engine that agents have reported.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn uncompiled(&self) -> Result<BTreeSet<Uncompiled>, StoreError> {
        let mut tx = self.reader.begin().await?;
        let rows = sqlx::query(
            "SELECT name AS plugin, current_version AS version FROM plugins
             UNION SELECT plugin, version FROM plugin_assignments WHERE version IS NOT NULL",
        );
        let rows = rows.fetch_all(&mut *tx).await?;
        let engines = engines(&mut tx).await?;
        let mut uncompiled = BTreeSet::new();
        for row in &rows {
            let (plugin, version): (PluginId, PluginVersion) =
                (word(row, "plugin")?, word(row, "version")?);
            let keys = keys(&mut tx, &format!("{plugin}/{version}/")).await?;
            for engine in &engines {
                if !keys.contains(&package_key(&plugin, version, engine)) {
                    let engine = engine.clone();
                    uncompiled.insert(Uncompiled { plugin: plugin.clone(), version, engine });
                }
            }
        }
        Ok(uncompiled)
    }
}

async fn engines(db: &mut DbConnection) -> Result<BTreeSet<EngineId>, StoreError> {
    let rows = sqlx::query("SELECT DISTINCT engine FROM agents WHERE engine IS NOT NULL");
    rows.fetch_all(db).await?.iter().map(|row| word(row, "engine")).collect()
}

/// The current version of a policy, and the one before.
async fn current(
    db: &mut DbConnection,
    plugin: &PluginId,
) -> Result<(PluginVersion, Option<PluginVersion>), StoreError> {
    let row = sqlx::query("SELECT current_version, previous_version FROM plugins WHERE name = $1");
    let row = row.bind(plugin.as_str()).fetch_optional(db).await?;
    let missing = || StoreError::Missing { what: "plugin", id: plugin.to_string() };
    let row = row.ok_or_else(missing)?;
    Ok((word(&row, "current_version")?, word_opt(&row, "previous_version")?))
}

async fn make_current(
    db: &mut DbConnection,
    plugin: &PluginId,
    version: PluginVersion,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE plugins SET previous_version = current_version, current_version = $2, updated_at = $3
         WHERE name = $1 AND current_version <> $2",
    )
    .bind(plugin.as_str())
    .bind(version.to_string())
    .bind(now.unix_ms())
    .execute(db)
    .await?;
    Ok(())
}

async fn load(db: &mut DbConnection, name: &PluginId) -> Result<Plugin, StoreError> {
    let row = sqlx::query(
        "SELECT p.*, (SELECT count(*) FROM plugin_assignments a WHERE a.plugin = p.name) AS assignments
         FROM plugins p WHERE p.name = $1",
    );
    let row = row.bind(name.as_str()).fetch_optional(&mut *db).await?;
    let missing = || StoreError::Missing { what: "plugin", id: name.to_string() };
    let row = row.ok_or_else(missing)?;
    let current_version = word(&row, "current_version")?;
    Ok(Plugin {
        name: name.clone(),
        current_version,
        previous_version: word_opt(&row, "previous_version")?,
        assignments: count(&row, "assignments")?,
        current: load_version(db, name, current_version).await?,
        created_at: time(&row, "created_at")?,
        updated_at: time(&row, "updated_at")?,
    })
}

async fn load_version(
    db: &mut DbConnection,
    plugin: &PluginId,
    version: PluginVersion,
) -> Result<KeptVersion, StoreError> {
    let row = sqlx::query(sqlx::AssertSqlSafe(format!(
        "{VERSIONS} WHERE v.plugin = $1 AND v.version = $2"
    )));
    let row = row.bind(plugin.as_str()).bind(version.to_string()).fetch_optional(&mut *db).await?;
    let missing =
        || StoreError::Missing { what: "version of a plugin", id: format!("{plugin} {version}") };
    read_version(db, &row.ok_or_else(missing)?).await
}

async fn description(
    db: &mut DbConnection,
    plugin: &PluginId,
    version: PluginVersion,
) -> Result<(Description, ContentHash), StoreError> {
    let row = sqlx::query(sqlx::AssertSqlSafe(format!(
        "{VERSIONS} WHERE v.plugin = $1 AND v.version = $2"
    )));
    let row = row.bind(plugin.as_str()).bind(version.to_string()).fetch_optional(db).await?;
    let missing =
        || StoreError::Missing { what: "version of a plugin", id: format!("{plugin} {version}") };
    let row = row.ok_or_else(missing)?;
    Ok((json(&row, "description")?, word(&row, "wasm")?))
}

async fn read_version(db: &mut DbConnection, row: &DbRow) -> Result<KeptVersion, StoreError> {
    let described: Description = json(row, "description")?;
    let (plugin, version): (PluginId, PluginVersion) =
        (word(row, "plugin")?, word(row, "version")?);
    let prefix = format!("{plugin}/{version}/");
    let engine =
        |key: &ContentKey| Some(key.path().strip_prefix(&prefix)?.strip_suffix(".pbp")?.to_owned());
    let fixtures: Vec<Report> = json(row, "fixtures")?;
    Ok(KeptVersion {
        engines: keys(db, &prefix).await?.iter().filter_map(engine).collect(),
        plugin,
        version,
        description: described.description,
        hooks: described.hooks.iter().map(value).collect(),
        capabilities: described.capabilities,
        memory_mib: described.memory_mib,
        settings: described
            .settings
            .iter()
            .map(|(name, rule)| (name.clone(), value(rule)))
            .collect(),
        wasm: word(row, "wasm")?,
        wasm_bytes: count(row, "wasm_bytes")?,
        fixtures: fixtures
            .into_iter()
            .map(|Report { name, asked, .. }| FixtureCost {
                name,
                fuel: asked.fuel,
                fuel_max: asked.fuel_max,
                memory_bytes: asked.memory_bytes,
            })
            .collect(),
        uploaded_at: time(row, "uploaded_at")?,
    })
}

/// A part of a description as it is in JSON.
fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).expect("what is stored has names for keys")
}

/// The names of content of policies that begin with `prefix`.
async fn keys(db: &mut DbConnection, prefix: &str) -> Result<BTreeSet<ContentKey>, StoreError> {
    let rows = sqlx::query(
        "SELECT category, path FROM content WHERE category = 'plugins' AND substr(path, 1, length($1)) = $1",
    );
    rows.bind(prefix).fetch_all(db).await?.iter().map(read_key).collect()
}

/// Takes the names away of content of policies that begin with `prefix`; the sweep lets go of the bytes.
async fn forget_content(
    db: &mut DbConnection,
    prefix: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let hashes = sqlx::query(
        "DELETE FROM content WHERE category = 'plugins' AND substr(path, 1, length($1)) = $1 RETURNING sha256",
    );
    for row in hashes.bind(prefix).fetch_all(&mut *db).await? {
        mark_unreferenced(&mut *db, word(&row, "sha256")?, now).await?;
    }
    note_content_change(db).await
}
