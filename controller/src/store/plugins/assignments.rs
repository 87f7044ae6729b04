//! Where policies are used, and what of that a site is told.
//!
//! A policy is assigned to a site, for it and the sites below, or to every site. Of several assignments of one policy the one
//! nearest to a site counts there, and as a whole: settings of a farther one are not mixed in.

use std::collections::{BTreeMap, BTreeSet};

use pureboot_protocol::{
    Capability, Category, ContentKey, EngineId, GroupId, Heartbeat, OnFailure, POLICIES_MAX, Page,
    PluginId, PluginMode, PluginVersion, PolicyAssignment, PolicyReport, SiteId, SiteOrder,
    Timestamp, package_key,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::extract::nullable;
use crate::store::installation::note_content_change;
use crate::store::page::{Cursor, Paging};
use crate::store::plugins::{current, description, load_version};
use crate::store::row::{
    DbConnection, DbRow, count, json, json_opt, time, to_json, word, word_opt,
};
use crate::store::{Store, StoreError, commands, groups, sites};

/// Where a policy stands among others if nothing is said.
const POSITION_DEFAULT: u32 = 100;

/// The most sites whose agents are told at once that their policies have changed; others find it with their next sync.
const PUSHED_MAX: i64 = 1_000;

/// Where a policy is assigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// At every site.
    Everywhere,
    /// At this site and those below.
    Site(GroupId),
}

impl Place {
    /// What stands for it in the key of an assignment.
    fn key(self) -> String {
        match self {
            Self::Everywhere => String::new(),
            Self::Site(id) => id.to_string(),
        }
    }

    fn site_id(self) -> Option<GroupId> {
        match self {
            Self::Everywhere => None,
            Self::Site(id) => Some(id),
        }
    }
}

/// An assignment. The field names are those of the HTTP surface.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct PluginAssignment {
    pub(crate) plugin: PluginId,
    /// The site, for it and those below; none: every site.
    pub(crate) site_id: Option<GroupId>,
    /// Lower ones are asked first; of equal ones the first by name.
    pub(crate) position: u32,
    /// The version that the place is held to; none: the current one.
    pub(crate) version: Option<PluginVersion>,
    pub(crate) mode: PluginMode,
    pub(crate) on_failure: OnFailure,
    /// What the place lets it use.
    pub(crate) grants: BTreeSet<Capability>,
    /// The place's values of its settings.
    pub(crate) settings: BTreeMap<String, String>,
    pub(crate) updated_at: Timestamp,
}

/// The fields of an assignment that a request sets; what is absent stays as it is, or gets its default in a new one.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct AssignmentFields {
    pub(crate) position: Option<u32>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) version: Option<Option<PluginVersion>>,
    pub(crate) mode: Option<PluginMode>,
    pub(crate) on_failure: Option<OnFailure>,
    pub(crate) grants: Option<BTreeSet<Capability>>,
    /// Texts, numbers, true or false; all of them: what is not named has its default.
    pub(crate) settings: Option<BTreeMap<String, Value>>,
}

/// A policy of a site: what the site is told, and what its agent tells. The field names are those of the HTTP surface.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct SitePolicy {
    pub(crate) site_id: SiteId,
    pub(crate) site_path: String,
    /// What the site is to run.
    pub(crate) assignment: PolicyAssignment,
    /// The site whose assignment it is; none: that of every site.
    pub(crate) assigned_at: Option<GroupId>,
    /// The engine of the site's agent; none before it has said it.
    pub(crate) engine: Option<EngineId>,
    /// Whether the package for that engine is there.
    pub(crate) is_compiled: bool,
    /// What the agent says of it; none before it has.
    pub(crate) report: Option<PolicyReport>,
    /// When it said so.
    pub(crate) reported_at: Option<Timestamp>,
}

/// What a site is to run, and the packages that it needs for that.
#[derive(Debug, Default)]
pub(in crate::store) struct OfSite {
    /// In the order in which they are asked.
    pub(in crate::store) policies: Vec<PolicyAssignment>,
    /// Those of what it is to run, and of what it would go back to.
    pub(in crate::store) packages: BTreeSet<ContentKey>,
    assigned_at: Vec<Option<GroupId>>,
    engine: Option<EngineId>,
}

impl Store {
    /// Assigns a policy, or changes how it is assigned. Answers whether it was not assigned there before.
    ///
    /// # Errors
    /// There is no such policy, version or site, a setting cannot be so, or the place has too many policies.
    pub(crate) async fn assign_plugin(
        &self,
        plugin: &PluginId,
        place: Place,
        fields: AssignmentFields,
        by: &str,
        now: Timestamp,
    ) -> Result<(PluginAssignment, bool), StoreError> {
        let mut tx = self.write().await?;
        let (current_version, _) = current(&mut tx, plugin).await?;
        if let Place::Site(id) = place {
            check_site(&mut tx, id).await?;
        }
        let before = find(&mut tx, plugin, place).await?;
        let is_new = before.is_none();
        let mut assignment = before.unwrap_or_else(|| PluginAssignment {
            plugin: plugin.clone(),
            site_id: place.site_id(),
            position: POSITION_DEFAULT,
            version: None,
            mode: PluginMode::default(),
            on_failure: OnFailure::default(),
            grants: BTreeSet::new(),
            settings: BTreeMap::new(),
            updated_at: now,
        });
        assignment.position = fields.position.unwrap_or(assignment.position);
        assignment.version = fields.version.unwrap_or(assignment.version);
        assignment.mode = fields.mode.unwrap_or(assignment.mode);
        assignment.on_failure = fields.on_failure.unwrap_or(assignment.on_failure);
        assignment.grants = fields.grants.unwrap_or(assignment.grants);
        assignment.updated_at = now;
        let version = assignment.version.unwrap_or(current_version);
        load_version(&mut tx, plugin, version).await?;
        if let Some(set) = fields.settings {
            let (described, _) = description(&mut tx, plugin, version).await?;
            assignment.settings = described.settings(&set).map_err(StoreError::PluginSettings)?;
        }
        save(&mut tx, &assignment, place).await?;
        check_room(&mut tx, place).await?;
        push(&mut tx, plugin, Some(place), by, now).await?;
        tx.commit().await?;
        Ok((assignment, is_new))
    }

    /// Ends an assignment, and answers what it was.
    ///
    /// # Errors
    /// There is none.
    pub(crate) async fn unassign_plugin(
        &self,
        plugin: &PluginId,
        place: Place,
        by: &str,
        now: Timestamp,
    ) -> Result<PluginAssignment, StoreError> {
        let mut tx = self.write().await?;
        let found = find(&mut tx, plugin, place).await?;
        let missing = || StoreError::Missing {
            what: "assignment of a plugin",
            id: match place {
                Place::Everywhere => format!("{plugin} everywhere"),
                Place::Site(id) => format!("{plugin} at {id}"),
            },
        };
        let found = found.ok_or_else(missing)?;
        sqlx::query("DELETE FROM plugin_assignments WHERE plugin = $1 AND place = $2")
            .bind(plugin.as_str())
            .bind(place.key())
            .execute(&mut *tx)
            .await?;
        push(&mut tx, plugin, Some(place), by, now).await?;
        tx.commit().await?;
        Ok(found)
    }

    /// Where a policy is assigned: everywhere first, then by site.
    ///
    /// # Errors
    /// There is no such policy.
    pub(crate) async fn plugin_assignments(
        &self,
        plugin: &PluginId,
        paging: &Paging,
    ) -> Result<Page<PluginAssignment>, StoreError> {
        let mut tx = self.reader.begin().await?;
        current(&mut tx, plugin).await?;
        // The key of everywhere is empty, and no cursor is before it.
        let (position, after, limit) = paging.rising();
        let rows = sqlx::query(
            "SELECT * FROM plugin_assignments WHERE plugin = $1 AND ($2 < 0 OR place > $3) ORDER BY place LIMIT $4",
        );
        let rows = rows.bind(plugin.as_str()).bind(position).bind(after).bind(limit);
        let rows = rows.fetch_all(&mut *tx).await?;
        let total =
            sqlx::query("SELECT count(*) AS total FROM plugin_assignments WHERE plugin = $1");
        let total = total.bind(plugin.as_str()).fetch_one(&mut *tx).await?;
        let data = rows.iter().map(read).collect::<Result<_, _>>()?;
        Ok(paging.page(data, count(&total, "total")?, |assignment: &PluginAssignment| {
            Cursor::new(0, assignment.site_id.map(|id| id.to_string()).unwrap_or_default())
        }))
    }

    /// The policies of a site, in the order in which they are asked.
    ///
    /// # Errors
    /// There is no such site.
    pub(crate) async fn site_policies(&self, site: SiteId) -> Result<Vec<SitePolicy>, StoreError> {
        let mut tx = self.reader.begin().await?;
        policies_of(&mut tx, site).await
    }

    /// How a policy fares at each site that is assigned it, in the order of the sites' making.
    ///
    /// # Errors
    /// There is no such policy.
    pub(crate) async fn plugin_sites(
        &self,
        plugin: &PluginId,
        paging: &Paging,
    ) -> Result<Page<SitePolicy>, StoreError> {
        let mut tx = self.reader.begin().await?;
        current(&mut tx, plugin).await?;
        let (position, id, limit) = paging.rising();
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT s.id, s.created_at FROM sites s WHERE {REACHED} AND (s.created_at, s.id) > ($2, $3)
             ORDER BY s.created_at, s.id LIMIT $4"
        )));
        let rows = rows.bind(plugin.as_str()).bind(position).bind(id).bind(limit);
        let rows = rows.fetch_all(&mut *tx).await?;
        let total = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT count(*) AS total FROM sites s WHERE {REACHED}"
        )));
        let total = total.bind(plugin.as_str()).fetch_one(&mut *tx).await?;
        let mut found = Vec::new();
        for row in &rows {
            let of_site = policies_of(&mut tx, word(row, "id")?).await?;
            let policy = of_site.into_iter().find(|policy| policy.assignment.plugin == *plugin);
            found.push((time(row, "created_at")?, policy));
        }
        let page = paging.page(found, count(&total, "total")?, |(created_at, policy)| {
            let id = policy.as_ref().map(|policy| policy.site_id.to_string());
            Cursor::new(created_at.unix_ms(), id.unwrap_or_default())
        });
        let data = page.data.into_iter().filter_map(|(_, policy)| policy).collect();
        Ok(Page { success: page.success, data, total: page.total, next_cursor: page.next_cursor })
    }
}

/// A site `s` that some assignment of the policy `$1` reaches.
const REACHED: &str = "s.is_site AND EXISTS (
    SELECT 1 FROM plugin_assignments a LEFT JOIN sites t ON t.id = a.site_id
    WHERE a.plugin = $1 AND (a.place = '' OR substr(s.path || '/', 1, length(t.path) + 1) = t.path || '/'))";

/// What a site is to run.
pub(in crate::store) async fn of_site(
    db: &mut DbConnection,
    site: SiteId,
) -> Result<OfSite, StoreError> {
    let rows = sqlx::query(
        "WITH RECURSIVE above (id, parent_id, steps) AS (
            SELECT id, parent_id, 0 FROM sites WHERE id = $1
            UNION ALL
            SELECT s.id, s.parent_id, a.steps + 1 FROM sites s JOIN above a ON s.id = a.parent_id
         ), near (place, steps) AS (
            SELECT id, steps FROM above UNION ALL SELECT '', 1000000
         ) SELECT pa.*, p.current_version, p.previous_version, v.version AS used_version, v.wasm
         FROM plugin_assignments pa JOIN near n ON n.place = pa.place JOIN plugins p ON p.name = pa.plugin
         JOIN plugin_versions v ON v.plugin = pa.plugin AND v.version = coalesce(pa.version, p.current_version)
         WHERE n.steps = (SELECT min(o.steps) FROM near o JOIN plugin_assignments b ON b.place = o.place WHERE b.plugin = pa.plugin)
         ORDER BY pa.position, pa.plugin",
    );
    let rows = rows.bind(site.to_string()).fetch_all(&mut *db).await?;
    let engine = sqlx::query("SELECT engine FROM agents WHERE site_id = $1").bind(site.to_string());
    let engine = engine.fetch_optional(db).await?;
    let engine: Option<EngineId> =
        engine.map(|row| word_opt(&row, "engine")).transpose()?.flatten();
    let mut of_site = OfSite { engine, ..OfSite::default() };
    if rows.len() > POLICIES_MAX {
        tracing::warn!(%site, "site {site} is assigned {} policies, and runs the first {POLICIES_MAX}", rows.len());
    }
    for row in rows.iter().take(POLICIES_MAX) {
        let PluginAssignment { plugin, site_id, mode, on_failure, grants, settings, .. } =
            read(row)?;
        let version = word(row, "used_version")?;
        let known =
            [Some(version), word_opt(row, "current_version")?, word_opt(row, "previous_version")?];
        if let Some(engine) = &of_site.engine {
            let package = |version: PluginVersion| package_key(&plugin, version, engine);
            of_site.packages.extend(known.into_iter().flatten().map(package));
        }
        let wasm = word(row, "wasm")?;
        of_site.assigned_at.push(site_id);
        of_site.policies.push(PolicyAssignment {
            plugin,
            version,
            wasm,
            mode,
            on_failure,
            grants,
            settings,
        });
    }
    Ok(of_site)
}

async fn policies_of(db: &mut DbConnection, site: SiteId) -> Result<Vec<SitePolicy>, StoreError> {
    let path = sites::load(&mut *db, site).await?.path;
    let OfSite { policies, packages, assigned_at, engine } = of_site(&mut *db, site).await?;
    let heard = sqlx::query(
        "SELECT h.heartbeat, h.received_at FROM heartbeats h JOIN agents a ON a.site_id = h.site_id
         WHERE h.site_id = $1 AND h.number > a.beats_before ORDER BY h.number DESC LIMIT 1",
    );
    let heard = heard.bind(site.to_string()).fetch_optional(&mut *db).await?;
    let (reports, heard_at) = match &heard {
        None => (None, None),
        Some(row) => {
            let heartbeat: Option<Heartbeat> = json_opt(row, "heartbeat")?;
            (heartbeat.and_then(|heartbeat| heartbeat.plugins), Some(time(row, "received_at")?))
        }
    };
    let reports = reports.map(|reports| reports.policies).unwrap_or_default();
    let mut found = Vec::new();
    for (assignment, assigned_at) in policies.into_iter().zip(assigned_at) {
        let report = reports.iter().find(|report| report.plugin == assignment.plugin).cloned();
        let key = engine.as_ref().map(|engine| assignment.package_key(engine));
        let is_compiled = match key.filter(|key| packages.contains(key)) {
            Some(key) => crate::store::content::find(&mut *db, &key).await?.is_some(),
            None => false,
        };
        found.push(SitePolicy {
            site_id: site,
            site_path: path.clone(),
            assignment,
            assigned_at,
            engine: engine.clone(),
            is_compiled,
            reported_at: heard_at.filter(|_| report.is_some()),
            report,
        });
    }
    Ok(found)
}

/// Tells the agents of the sites that an assignment of `plugin` reaches, or that `place` lets it reach, to look at what they
/// are to run. Whoever is not told finds it with the next sync.
pub(super) async fn push(
    db: &mut DbConnection,
    plugin: &PluginId,
    place: Option<Place>,
    by: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    note_content_change(&mut *db).await?;
    let rows = match place {
        Some(Place::Site(id)) => {
            let rows = sqlx::query(
                "SELECT s.id FROM sites s JOIN agents g ON g.site_id = s.id JOIN sites t ON t.id = $1
                 WHERE substr(s.path || '/', 1, length(t.path) + 1) = t.path || '/' ORDER BY s.id LIMIT $2",
            );
            rows.bind(id.to_string()).bind(PUSHED_MAX).fetch_all(&mut *db).await?
        }
        Some(Place::Everywhere) => {
            let rows = sqlx::query("SELECT site_id AS id FROM agents ORDER BY site_id LIMIT $1");
            rows.bind(PUSHED_MAX).fetch_all(&mut *db).await?
        }
        None => {
            let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
                "SELECT s.id FROM sites s JOIN agents g ON g.site_id = s.id WHERE {REACHED} ORDER BY s.id LIMIT $2"
            )));
            rows.bind(plugin.as_str()).bind(PUSHED_MAX).fetch_all(&mut *db).await?
        }
    };
    for row in &rows {
        let order = SiteOrder::Sync { force: false, categories: vec![Category::Plugins] };
        match commands::enqueue(&mut *db, word(row, "id")?, order, by, now).await {
            // An agent that does not keep up with its orders has its rhythm.
            Ok(_) | Err(StoreError::TooManyCommands { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn check_site(db: &mut DbConnection, id: GroupId) -> Result<(), StoreError> {
    match groups::find(db, id).await? {
        None => {
            let id = id.to_string();
            Err(StoreError::Missing { what: "site", id })
        }
        Some(group) if !group.is_site => Err(StoreError::PluginPlace { name: group.name }),
        Some(_) => Ok(()),
    }
}

/// Refuses more policies at a place than a site runs.
async fn check_room(db: &mut DbConnection, place: Place) -> Result<(), StoreError> {
    let rows = sqlx::query(
        "WITH RECURSIVE above (id, parent_id) AS (
            SELECT id, parent_id FROM sites WHERE id = $1
            UNION ALL SELECT s.id, s.parent_id FROM sites s JOIN above a ON s.id = a.parent_id
         ) SELECT DISTINCT plugin FROM plugin_assignments WHERE place = '' OR place IN (SELECT id FROM above)",
    );
    let assigned = rows.bind(place.key()).fetch_all(db).await?.len();
    if assigned > POLICIES_MAX { Err(StoreError::PluginsFull(POLICIES_MAX)) } else { Ok(()) }
}

async fn find(
    db: &mut DbConnection,
    plugin: &PluginId,
    place: Place,
) -> Result<Option<PluginAssignment>, StoreError> {
    let row = sqlx::query("SELECT * FROM plugin_assignments WHERE plugin = $1 AND place = $2");
    let row = row.bind(plugin.as_str()).bind(place.key()).fetch_optional(db).await?;
    row.map(|row| read(&row)).transpose()
}

async fn save(
    db: &mut DbConnection,
    assignment: &PluginAssignment,
    place: Place,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO plugin_assignments (plugin, place, site_id, position, version, mode, on_failure, grants, settings, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         ON CONFLICT (plugin, place) DO UPDATE SET position = $4, version = $5, mode = $6, on_failure = $7, grants = $8,
            settings = $9, updated_at = $10",
    )
    .bind(assignment.plugin.as_str())
    .bind(place.key())
    .bind(place.site_id().map(|id| id.to_string()))
    .bind(i64::from(assignment.position))
    .bind(assignment.version.map(|version| version.to_string()))
    .bind(assignment.mode.as_str())
    .bind(assignment.on_failure.as_str())
    .bind(to_json(&assignment.grants))
    .bind(to_json(&assignment.settings))
    .bind(assignment.updated_at.unix_ms())
    .execute(db)
    .await?;
    Ok(())
}

fn read(row: &DbRow) -> Result<PluginAssignment, StoreError> {
    Ok(PluginAssignment {
        plugin: word(row, "plugin")?,
        site_id: word_opt(row, "site_id")?,
        position: count(row, "position")?,
        version: word_opt(row, "version")?,
        mode: word(row, "mode")?,
        on_failure: word(row, "on_failure")?,
        grants: json(row, "grants")?,
        settings: json(row, "settings")?,
        updated_at: time(row, "updated_at")?,
    })
}
