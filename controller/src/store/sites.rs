//! Sites: places, each with its settings and the standing of its agent.

use pureboot_protocol::{
    AgentStatus, Autonomy, CachePolicy, ConflictResolution, DiscoveryMethod, ForeignBoot, GroupId,
    MigrationPolicy, Page, SiteConfig, SiteId, Timestamp, WorkflowId,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::Row;

use crate::extract::nullable;
use crate::store::page::{Cursor, Paging};
use crate::store::records::{self, Reach};
use crate::store::row::{
    DbConnection, DbRow, count, count_opt, flag, flag_opt, int, json, time, time_opt, to_json,
    word, word_opt,
};
use crate::store::{Store, StoreError, check_version, tree};

/// A place with machines and one agent. The field names are those of the HTTP surface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Site {
    pub(crate) id: SiteId,
    /// Unique; a segment of the paths below.
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) parent_id: Option<GroupId>,
    /// The names from the top down, each after a `/`.
    pub(crate) path: String,
    /// Sites above.
    pub(crate) depth: u32,
    /// Whether it is one; a group without an agent is kept as a site that is none, with settings that nobody reads.
    pub(crate) is_site: bool,
    /// What nodes get that are assigned nothing; none: what the group above says.
    pub(crate) default_workflow_id: Option<WorkflowId>,
    /// Whether a machine that is seen for the first time is installed at once; none: what the group above says.
    pub(crate) auto_provision: Option<bool>,
    /// What the agent says of itself; never called.
    pub(crate) agent_url: Option<String>,
    /// None before the first agent.
    pub(crate) agent_status: Option<AgentStatus>,
    pub(crate) agent_last_seen: Option<Timestamp>,
    pub(crate) autonomy_level: Autonomy,
    pub(crate) conflict_resolution: ConflictResolution,
    pub(crate) cache_policy: CachePolicy,
    pub(crate) cache_patterns: Vec<String>,
    /// In units of 10^9 bytes.
    pub(crate) cache_max_size_gb: Option<u32>,
    pub(crate) cache_retention_days: u32,
    pub(crate) discovery_method: DiscoveryMethod,
    pub(crate) migration_policy: MigrationPolicy,
    /// What a node of another site boots here until it is moved.
    pub(crate) foreign_nodes: ForeignBoot,
    /// Seconds.
    pub(crate) heartbeat_interval: u32,
    pub(crate) tags: Vec<String>,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
    /// Rises by one with every change of the settings; the agent's `config_version`.
    pub(crate) version: u64,
}

/// The fields of a site that a request sets; what is absent stays as it is, or gets its default in a new site.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct SiteFields {
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) parent_id: Option<Option<GroupId>>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) default_workflow_id: Option<Option<WorkflowId>>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) auto_provision: Option<Option<bool>>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) agent_url: Option<Option<String>>,
    pub(crate) autonomy_level: Option<Autonomy>,
    pub(crate) conflict_resolution: Option<ConflictResolution>,
    pub(crate) cache_policy: Option<CachePolicy>,
    pub(crate) cache_patterns: Option<Vec<String>>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) cache_max_size_gb: Option<Option<u32>>,
    pub(crate) cache_retention_days: Option<u32>,
    pub(crate) discovery_method: Option<DiscoveryMethod>,
    pub(crate) migration_policy: Option<MigrationPolicy>,
    pub(crate) foreign_nodes: Option<ForeignBoot>,
    pub(crate) heartbeat_interval: Option<u32>,
    pub(crate) tags: Option<Vec<String>>,
}

impl Site {
    /// A site with the default settings.
    pub(crate) fn new(id: SiteId, name: String, now: Timestamp) -> Self {
        Self {
            id,
            path: format!("/{name}"),
            name,
            description: String::new(),
            parent_id: None,
            depth: 0,
            is_site: true,
            default_workflow_id: None,
            auto_provision: None,
            agent_url: None,
            agent_status: None,
            agent_last_seen: None,
            autonomy_level: Autonomy::Readonly,
            conflict_resolution: ConflictResolution::CentralWins,
            cache_policy: CachePolicy::Minimal,
            cache_patterns: Vec::new(),
            cache_max_size_gb: None,
            cache_retention_days: 30,
            discovery_method: DiscoveryMethod::Dhcp,
            migration_policy: MigrationPolicy::Manual,
            foreign_nodes: ForeignBoot::Pending,
            heartbeat_interval: 60,
            tags: Vec::new(),
            created_at: now,
            updated_at: now,
            version: 1,
        }
    }

    /// What the site's agent is told of it.
    pub(crate) fn config(&self) -> SiteConfig {
        SiteConfig {
            site_id: self.id,
            site_name: self.name.clone(),
            autonomy_level: self.autonomy_level,
            cache_policy: self.cache_policy,
            cache_patterns: self.cache_patterns.clone(),
            cache_max_size_gb: self.cache_max_size_gb,
            cache_retention_days: self.cache_retention_days,
            heartbeat_interval: self.heartbeat_interval,
        }
    }

    fn set(&mut self, fields: SiteFields) {
        fn set<T>(field: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *field = value;
            }
        }
        set(&mut self.name, fields.name);
        set(&mut self.description, fields.description);
        set(&mut self.parent_id, fields.parent_id);
        set(&mut self.default_workflow_id, fields.default_workflow_id);
        set(&mut self.auto_provision, fields.auto_provision);
        set(&mut self.agent_url, fields.agent_url);
        set(&mut self.autonomy_level, fields.autonomy_level);
        set(&mut self.conflict_resolution, fields.conflict_resolution);
        set(&mut self.cache_policy, fields.cache_policy);
        set(&mut self.cache_patterns, fields.cache_patterns);
        set(&mut self.cache_max_size_gb, fields.cache_max_size_gb);
        set(&mut self.cache_retention_days, fields.cache_retention_days);
        set(&mut self.discovery_method, fields.discovery_method);
        set(&mut self.migration_policy, fields.migration_policy);
        set(&mut self.foreign_nodes, fields.foreign_nodes);
        set(&mut self.heartbeat_interval, fields.heartbeat_interval);
        set(&mut self.tags, fields.tags);
    }

    /// Reads a row of the tree, whether it is a site or not.
    pub(super) fn read(row: &DbRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: word(row, "id")?,
            name: row.try_get("name")?,
            description: row.try_get("description")?,
            parent_id: word_opt(row, "parent_id")?,
            path: row.try_get("path")?,
            depth: count(row, "depth")?,
            is_site: flag(row, "is_site")?,
            default_workflow_id: word_opt(row, "default_workflow_id")?,
            auto_provision: flag_opt(row, "auto_provision")?,
            agent_url: row.try_get("agent_url")?,
            agent_status: word_opt(row, "agent_status")?,
            agent_last_seen: time_opt(row, "agent_last_seen")?,
            autonomy_level: word(row, "autonomy_level")?,
            conflict_resolution: word(row, "conflict_resolution")?,
            cache_policy: word(row, "cache_policy")?,
            cache_patterns: json(row, "cache_patterns")?,
            cache_max_size_gb: count_opt(row, "cache_max_size_gb")?,
            cache_retention_days: count(row, "cache_retention_days")?,
            discovery_method: word(row, "discovery_method")?,
            migration_policy: word(row, "migration_policy")?,
            foreign_nodes: word(row, "foreign_nodes")?,
            heartbeat_interval: count(row, "heartbeat_interval")?,
            tags: json(row, "tags")?,
            created_at: time(row, "created_at")?,
            updated_at: time(row, "updated_at")?,
            version: count(row, "version")?,
        })
    }
}

impl Store {
    /// Makes `site`, or the group that it is, with `fields` set.
    ///
    /// # Errors
    /// The name is taken, the parent cannot be one, or a field names what does not exist.
    pub(crate) async fn create_site(
        &self,
        mut site: Site,
        fields: SiteFields,
    ) -> Result<Site, StoreError> {
        site.set(fields);
        let mut tx = self.write().await?;
        tree::place(&mut tx, &mut site).await?;
        save(&mut tx, &site).await?;
        tx.commit().await?;
        Ok(site)
    }

    /// The site with `id`.
    ///
    /// # Errors
    /// There is none.
    pub(crate) async fn site(&self, id: SiteId) -> Result<Site, StoreError> {
        load(&mut *self.reader.acquire().await?, id).await
    }

    /// Sites in the order of their making, those directly below `parent` if one is given.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn sites(
        &self,
        parent: Option<SiteId>,
        paging: &Paging,
    ) -> Result<Page<Site>, StoreError> {
        let parent = parent.map(|id| id.to_string());
        let (position, id, rows) = paging.rising();
        let rows = sqlx::query(
            "SELECT * FROM sites WHERE is_site AND ($1 IS NULL OR parent_id = $1) AND (created_at, id) > ($2, $3)
             ORDER BY created_at, id LIMIT $4",
        )
        .bind(&parent)
        .bind(position)
        .bind(id)
        .bind(rows)
        .fetch_all(&self.reader)
        .await?;
        let total = sqlx::query(
            "SELECT count(*) AS total FROM sites WHERE is_site AND ($1 IS NULL OR parent_id = $1)",
        )
        .bind(&parent)
        .fetch_one(&self.reader)
        .await?;
        let sites = rows.iter().map(Site::read).collect::<Result<_, _>>()?;
        Ok(paging.page(sites, count(&total, "total")?, |site| {
            Cursor::new(site.created_at.unix_ms(), site.id)
        }))
    }

    /// Sets `fields` of a site, and the paths below it if it moves or gets another name.
    ///
    /// # Errors
    /// There is no such site, it has another version than `version`, the name is taken, or it cannot be moved there.
    pub(crate) async fn update_site(
        &self,
        id: SiteId,
        fields: SiteFields,
        version: Option<u64>,
        now: Timestamp,
    ) -> Result<Site, StoreError> {
        let mut tx = self.write().await?;
        let old = load(&mut tx, id).await?;
        let site = change(&mut tx, old, fields, version, now).await?;
        tx.commit().await?;
        Ok(site)
    }

    /// Deletes a site with its agent and what that handed over, and answers what it was.
    ///
    /// # Errors
    /// There is no such site, it has another version than `version`, or something is in it.
    pub(crate) async fn delete_site(
        &self,
        id: SiteId,
        version: Option<u64>,
    ) -> Result<Site, StoreError> {
        let mut tx = self.write().await?;
        let site = load(&mut tx, id).await?;
        remove(&mut tx, &site, version).await?;
        tx.commit().await?;
        Ok(site)
    }
}

/// The site with `id`.
pub(super) async fn load(db: &mut DbConnection, id: SiteId) -> Result<Site, StoreError> {
    let row = find(db, id).await?;
    row.ok_or_else(|| StoreError::Missing { what: "site", id: id.to_string() })
}

/// The site with `id`, if there is one.
pub(super) async fn find(db: &mut DbConnection, id: SiteId) -> Result<Option<Site>, StoreError> {
    let row = sqlx::query("SELECT * FROM sites WHERE id = $1 AND is_site").bind(id.to_string());
    row.fetch_optional(db).await?.map(|row| Site::read(&row)).transpose()
}

/// Sets `fields` of `old`, and the paths below it if it moves or gets another name.
pub(super) async fn change(
    db: &mut DbConnection,
    old: Site,
    fields: SiteFields,
    version: Option<u64>,
    now: Timestamp,
) -> Result<Site, StoreError> {
    check_version(version, old.version)?;
    let mut site = old.clone();
    site.set(fields);
    site.version += 1;
    site.updated_at = now;
    tree::place(db, &mut site).await?;
    save(db, &site).await?;
    tree::move_below(db, &old, &site).await?;
    let hands_down = |site: &Site| (site.parent_id, site.default_workflow_id);
    // What answer files may name of it, and of what is below it.
    let shows = |site: &Site| (site.path.clone(), site.description.clone(), site.tags.clone());
    if shows(&old) != shows(&site) {
        records::renumber(db, Reach::All).await?;
    } else if hands_down(&old) != hands_down(&site) {
        records::renumber(db, Reach::Inheriting).await?;
    }
    if old.path != site.path {
        // Records name groups by their paths.
        records::renumber(db, Reach::All).await?;
    }
    Ok(site)
}

/// Deletes `site` if nothing is in it.
pub(super) async fn remove(
    db: &mut DbConnection,
    site: &Site,
    version: Option<u64>,
) -> Result<(), StoreError> {
    check_version(version, site.version)?;
    tree::check_empty(db, site).await?;
    sqlx::query("DELETE FROM sites WHERE id = $1").bind(site.id.to_string()).execute(db).await?;
    Ok(())
}

/// Writes what operators set, in a new row or in the site's; the agent's standing has its own writers.
async fn save(db: &mut DbConnection, site: &Site) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO sites (id, name, description, parent_id, path, depth, agent_url, autonomy_level, conflict_resolution,
            cache_policy, cache_patterns, cache_max_size_gb, cache_retention_days, discovery_method, migration_policy,
            heartbeat_interval, tags, updated_at, version, created_at, is_site, default_workflow_id, auto_provision, foreign_nodes)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24)
         ON CONFLICT (id) DO UPDATE SET name = $2, description = $3, parent_id = $4, path = $5, depth = $6, agent_url = $7,
            autonomy_level = $8, conflict_resolution = $9, cache_policy = $10, cache_patterns = $11, cache_max_size_gb = $12,
            cache_retention_days = $13, discovery_method = $14, migration_policy = $15, heartbeat_interval = $16, tags = $17,
            updated_at = $18, version = $19, default_workflow_id = $22, auto_provision = $23,
            foreign_nodes = $24",
    )
    .bind(site.id.to_string())
    .bind(&site.name)
    .bind(&site.description)
    .bind(site.parent_id.map(|id| id.to_string()))
    .bind(&site.path)
    .bind(i64::from(site.depth))
    .bind(&site.agent_url)
    .bind(site.autonomy_level.as_str())
    .bind(site.conflict_resolution.as_str())
    .bind(site.cache_policy.as_str())
    .bind(to_json(&site.cache_patterns))
    .bind(site.cache_max_size_gb.map(i64::from))
    .bind(i64::from(site.cache_retention_days))
    .bind(site.discovery_method.as_str())
    .bind(site.migration_policy.as_str())
    .bind(i64::from(site.heartbeat_interval))
    .bind(to_json(&site.tags))
    .bind(site.updated_at.unix_ms())
    .bind(int(site.version))
    .bind(site.created_at.unix_ms())
    .bind(site.is_site)
    .bind(site.default_workflow_id.map(|id| id.to_string()))
    .bind(site.auto_provision)
    .bind(site.foreign_nodes.as_str())
    .execute(db)
    .await?;
    Ok(())
}
