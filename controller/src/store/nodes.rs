//! Nodes: machines, as operators and agents read and change them.

use std::collections::BTreeMap;

use pureboot_protocol::{
    Arch, BootMode, GroupId, HardwareFact, Lifecycle, Mac, Node, NodeId, Page, SiteId, Timestamp,
    WorkflowId,
};
use schemars::JsonSchema;
use serde::Deserialize;
use sqlx::Row;

use crate::extract::nullable;
use crate::node;
use crate::store::many::{pieces, values};
use crate::store::page::{Cursor, Paging};
use crate::store::row::{
    DbConnection, DbRow, count, count_opt, int, json, json_opt, time, time_opt, to_json, word,
    word_opt,
};
use crate::store::tree::Assignments;
use crate::store::{
    ClaimWord, Store, StoreError, check_version, claims, groups, records, sites, workflows,
};

/// What an operator says of a machine before it has booted.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(crate) struct NewNode {
    /// In any of the three forms.
    pub(crate) mac_address: String,
    #[serde(default)]
    pub(crate) hostname: Option<String>,
    #[serde(default)]
    pub(crate) vendor: Option<HardwareFact>,
    #[serde(default)]
    pub(crate) model: Option<HardwareFact>,
    #[serde(default)]
    pub(crate) serial_number: Option<HardwareFact>,
    #[serde(default)]
    pub(crate) system_uuid: Option<HardwareFact>,
    #[serde(default)]
    pub(crate) arch: Option<Arch>,
    #[serde(default)]
    pub(crate) boot_mode: Option<BootMode>,
    #[serde(default)]
    pub(crate) workflow_id: Option<WorkflowId>,
    #[serde(default)]
    pub(crate) group_id: Option<GroupId>,
    #[serde(default)]
    pub(crate) home_site_id: Option<SiteId>,
    #[serde(default)]
    pub(crate) tags: Vec<String>,
}

/// The fields of a node that an operator sets; what is absent stays as it is.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct NodePatch {
    #[serde(deserialize_with = "nullable")]
    pub(crate) hostname: Option<Option<String>>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) workflow_id: Option<Option<WorkflowId>>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) group_id: Option<Option<GroupId>>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) home_site_id: Option<Option<SiteId>>,
    pub(crate) tags: Option<Vec<String>>,
}

/// Which nodes a list is to have; what is absent does not matter.
#[derive(Debug, Default)]
pub(crate) struct NodeFilter {
    pub(crate) mac: Option<Mac>,
    pub(crate) state: Option<Lifecycle>,
    /// Their home.
    pub(crate) site_id: Option<SiteId>,
    /// The group that they are in, which may be a site.
    pub(crate) group_id: Option<GroupId>,
    /// Whether what is below the site or group counts as well.
    pub(crate) with_below: bool,
    pub(crate) tag: Option<String>,
}

/// Where a change comes from: kept beside what it caused.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin<'a> {
    /// The request.
    pub(crate) correlation_id: &'a str,
    /// When it arrived.
    pub(crate) now: Timestamp,
}

/// The unbroken run of changes from one outbox that ends at a node's present version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// The outbox.
    pub(super) outbox_id: i64,
    /// The version before the first of them.
    pub(super) base: u64,
}

/// What the centre did to a node last: an operator or the controller itself, and no site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Central {
    /// The version that it made; 0 for a node that only sites have had a hand in.
    pub(super) version: u64,
    /// When.
    pub(super) at: Timestamp,
}

/// A node with what its versions came from.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) node: Node,
    /// None if the centre made the present version.
    pub(super) run: Option<Run>,
    pub(super) central: Central,
}

/// The nodes of a [`NodeFilter`]: MAC address, state, site, group, whether what is below them counts, tag.
const FILTERED: &str = "WITH RECURSIVE
    places (id) AS (SELECT id FROM sites WHERE id = $3
        UNION SELECT s.id FROM sites s JOIN places p ON s.parent_id = p.id WHERE $5),
    groups (id) AS (SELECT id FROM sites WHERE id = $4
        UNION SELECT s.id FROM sites s JOIN groups g ON s.parent_id = g.id WHERE $5),
    filtered AS (SELECT * FROM nodes
        WHERE ($1 IS NULL OR mac_address = $1) AND ($2 IS NULL OR state = $2)
            AND ($3 IS NULL OR home_site_id IN (SELECT id FROM places))
            AND ($4 IS NULL OR group_id IN (SELECT id FROM groups) OR home_site_id IN (SELECT id FROM groups))
            AND ($6 IS NULL OR replace(tags, $6, '') <> tags))";

impl Store {
    /// Keeps a new node.
    ///
    /// # Errors
    /// Another node has the address, or a field names what does not exist.
    pub(crate) async fn create_node(&self, node: &Node) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        check_mac(&mut tx, node.mac_address).await?;
        check_references(&mut tx, node.workflow_id, node.group_id, node.home_site_id).await?;
        save(&mut tx, node, None).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The node with `id`.
    ///
    /// # Errors
    /// There is none.
    pub(crate) async fn node(&self, id: NodeId) -> Result<Node, StoreError> {
        load(&mut *self.reader.acquire().await?, id).await
    }

    /// Nodes in the order of their making.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn nodes(
        &self,
        filter: &NodeFilter,
        paging: &Paging,
    ) -> Result<Page<Node>, StoreError> {
        let mac = filter.mac.map(|mac| mac.to_string());
        let state = filter.state.map(Lifecycle::as_str);
        let site_id = filter.site_id.map(|id| id.to_string());
        let group_id = filter.group_id.map(|id| id.to_string());
        // `","` stands between any two tags of a list and is none itself.
        let tag = filter.tag.as_ref().map(|tag| to_json(&tag.replace(',', " ")));
        let (position, id, rows) = paging.rising();
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "{FILTERED} SELECT * FROM filtered WHERE (created_at, id) > ($7, $8) ORDER BY created_at, id LIMIT $9"
        )))
        .bind(&mac)
        .bind(state)
        .bind(&site_id)
        .bind(&group_id)
        .bind(filter.with_below)
        .bind(&tag)
        .bind(position)
        .bind(id)
        .bind(rows)
        .fetch_all(&self.reader)
        .await?;
        let total = sqlx::query(sqlx::AssertSqlSafe(format!(
            "{FILTERED} SELECT count(*) AS total FROM filtered"
        )))
        .bind(&mac)
        .bind(state)
        .bind(&site_id)
        .bind(&group_id)
        .bind(filter.with_below)
        .bind(&tag)
        .fetch_one(&self.reader)
        .await?;
        let nodes = rows.iter().map(read).collect::<Result<_, _>>()?;
        Ok(paging.page(nodes, count(&total, "total")?, place))
    }

    /// Sets the fields of `patch`.
    ///
    /// # Errors
    /// There is no such node, it has another version than `version`, or a field names what does not exist.
    pub(crate) async fn update_node(
        &self,
        id: NodeId,
        patch: NodePatch,
        version: Option<u64>,
        word: &ClaimWord,
        now: Timestamp,
    ) -> Result<Node, StoreError> {
        let mut tx = self.write().await?;
        let before = load(&mut tx, id).await?;
        let mut node = before.clone();
        check_version(version, node.version)?;
        let (workflow_id, group_id) = (patch.workflow_id.flatten(), patch.group_id.flatten());
        check_references(&mut tx, workflow_id, group_id, patch.home_site_id.flatten()).await?;
        node.hostname = patch.hostname.unwrap_or(node.hostname);
        node.workflow_id = patch.workflow_id.unwrap_or(node.workflow_id);
        node.group_id = patch.group_id.unwrap_or(node.group_id);
        let home = node.home_site_id;
        node.home_site_id = patch.home_site_id.unwrap_or(home);
        node.tags = patch.tags.unwrap_or(node.tags);
        node::touch(&mut node, now);
        number_wish(&mut tx, &before, &mut node).await?;
        save(&mut tx, &node, None).await?;
        records::leave(&mut tx, &node, home).await?;
        if node.home_site_id != home {
            claims::follow(&mut tx, &node, word, now).await?;
        }
        tx.commit().await?;
        Ok(node)
    }

    /// How many nodes there are in each state.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn nodes_by_state(&self) -> Result<BTreeMap<Lifecycle, u64>, StoreError> {
        let rows = sqlx::query("SELECT state, count(*) AS nodes FROM nodes GROUP BY state");
        let mut nodes: BTreeMap<_, _> = Lifecycle::ALL.iter().map(|state| (*state, 0)).collect();
        for row in rows.fetch_all(&self.reader).await? {
            nodes.insert(word(&row, "state")?, count(&row, "nodes")?);
        }
        Ok(nodes)
    }
}

/// The node with `id`.
pub(super) async fn load(db: &mut DbConnection, id: NodeId) -> Result<Node, StoreError> {
    load_kept(db, id).await.map(|kept| kept.node)
}

/// The node with `id`, and what its versions came from.
pub(super) async fn load_kept(db: &mut DbConnection, id: NodeId) -> Result<Kept, StoreError> {
    let row = sqlx::query("SELECT * FROM nodes WHERE id = $1").bind(id.to_string());
    let row = row.fetch_optional(db).await?;
    let row = row.ok_or_else(|| StoreError::Missing { what: "node", id: id.to_string() })?;
    read_kept(&row)
}

/// The node with the address `mac`.
pub(super) async fn find_by_mac(
    db: &mut DbConnection,
    mac: Mac,
) -> Result<Option<Kept>, StoreError> {
    let row = sqlx::query("SELECT * FROM nodes WHERE mac_address = $1").bind(mac.to_string());
    row.fetch_optional(db).await?.map(|row| read_kept(&row)).transpose()
}

/// The nodes that `site` calls `ids`, each with what it calls it, which may be an id that the site had made for it.
pub(super) async fn find_as_site(
    db: &mut DbConnection,
    site: SiteId,
    ids: &[NodeId],
) -> Result<Vec<(NodeId, Kept)>, StoreError> {
    let mut found = Vec::new();
    for ids in pieces(ids) {
        let sql = format!(
            "SELECT called.column2 AS called, n.* FROM ({}) AS called
             LEFT JOIN node_aliases a ON a.site_id = called.column1 AND a.alias = called.column2
             JOIN nodes n ON n.id = coalesce(a.node_id, called.column2)",
            values(ids.len(), 2)
        );
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
        for id in ids {
            query = query.bind(site.to_string()).bind(id.to_string());
        }
        for row in query.fetch_all(&mut *db).await? {
            found.push((word(&row, "called")?, read_kept(&row)?));
        }
    }
    Ok(found)
}

/// Remembers that `site` calls `node` by the id that it had made for it.
pub(super) async fn alias(
    db: &mut DbConnection,
    site: SiteId,
    alias: NodeId,
    node: NodeId,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO node_aliases (site_id, alias, node_id) VALUES ($1, $2, $3)
         ON CONFLICT (site_id, alias) DO UPDATE SET node_id = $3",
    )
    .bind(site.to_string())
    .bind(alias.to_string())
    .bind(node.to_string())
    .execute(db)
    .await?;
    Ok(())
}

async fn check_mac(db: &mut DbConnection, mac: Mac) -> Result<(), StoreError> {
    match find_by_mac(db, mac).await? {
        None => Ok(()),
        Some(holder) => Err(StoreError::MacTaken { mac, holder: holder.node.id.to_string() }),
    }
}

/// Refuses what a node cannot refer to.
pub(super) async fn check_references(
    db: &mut DbConnection,
    workflow_id: Option<WorkflowId>,
    group_id: Option<GroupId>,
    home_site_id: Option<SiteId>,
) -> Result<(), StoreError> {
    if let Some(id) = workflow_id
        && workflows::find(db, id).await?.is_none()
    {
        let id = id.to_string();
        return Err(StoreError::Unknown { field: "workflow_id", what: "workflow", id });
    }
    if let Some(id) = group_id
        && groups::find(db, id).await?.is_none()
    {
        let id = id.to_string();
        return Err(StoreError::Unknown { field: "group_id", what: "group", id });
    }
    if let Some(id) = home_site_id
        && sites::find(db, id).await?.is_none()
    {
        let id = id.to_string();
        return Err(StoreError::Unknown { field: "home_site_id", what: "site", id });
    }
    Ok(())
}

/// Counts as a new wish that `node`, which was `before` its last change, is to be installed with something else: by what it is
/// assigned, or by the place that it is in now.
pub(super) async fn number_wish(
    db: &mut DbConnection,
    before: &Node,
    node: &mut Node,
) -> Result<(), StoreError> {
    let rests_on = |node: &Node| (node.workflow_id, node.group_id, node.home_site_id);
    if rests_on(before) == rests_on(node) {
        return Ok(());
    }
    let mut assignments = Assignments::default();
    if assignments.of(db, before).await? != assignments.of(db, node).await? {
        node.wish_version = node.version;
    }
    Ok(())
}

/// Nodes of `site` that only sites have made and that nothing is known of yet: discovered, or put forward by `auto_provision`.
pub(super) async fn count_unknown(db: &mut DbConnection, site: SiteId) -> Result<u64, StoreError> {
    let unknown = sqlx::query(
        "SELECT count(*) AS nodes FROM nodes
         WHERE home_site_id = $1 AND only_sites AND state IN ('discovered', 'pending')",
    );
    count(&unknown.bind(site.to_string()).fetch_one(db).await?, "nodes")
}

/// Writes the whole node, in a new row or in its own, and numbers the change. Whoever is no site ends the run that the node was
/// in.
pub(super) async fn save(
    db: &mut DbConnection,
    node: &Node,
    run: Option<Run>,
) -> Result<(), StoreError> {
    let fact = |fact: &Option<HardwareFact>| fact.as_ref().map(|fact| fact.as_str().to_owned());
    sqlx::query(
        "INSERT INTO nodes (id, mac_address, hostname, ip_address, state, workflow_id, vendor, model, serial_number,
            system_uuid, arch, boot_mode, home_site_id, tags, install_attempts, last_install_error, boot_count, last_boot_at,
            state_changed_at, updated_at, last_seen_at, version, run_outbox, run_base, created_at,
            group_id, install_started_at, pending_command, only_sites, central_version, central_at, change_number, health_status,
            wish_version)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24,
            $25, $26, $27, $28, $23 IS NOT NULL, CASE WHEN $23 IS NULL THEN $22 ELSE 0 END,
            CASE WHEN $23 IS NULL THEN $20 ELSE 0 END, (SELECT coalesce(max(change_number), 0) + 1 FROM nodes), $29, $30)
         ON CONFLICT (id) DO UPDATE SET hostname = $3, ip_address = $4, state = $5, workflow_id = $6, vendor = $7, model = $8,
            serial_number = $9, system_uuid = $10, arch = $11, boot_mode = $12, home_site_id = $13, tags = $14,
            install_attempts = $15, last_install_error = $16, boot_count = $17, last_boot_at = $18, state_changed_at = $19,
            updated_at = $20, last_seen_at = $21, version = $22, run_outbox = $23, run_base = $24,
            group_id = $26, install_started_at = $27, pending_command = $28, only_sites = nodes.only_sites AND $23 IS NOT NULL,
            central_version = CASE WHEN $23 IS NULL THEN $22 ELSE nodes.central_version END,
            central_at = CASE WHEN $23 IS NULL THEN $20 ELSE nodes.central_at END,
            change_number = excluded.change_number, health_status = $29, wish_version = $30",
    )
    .bind(node.id.to_string())
    .bind(node.mac_address.to_string())
    .bind(&node.hostname)
    .bind(&node.ip_address)
    .bind(node.state.as_str())
    .bind(node.workflow_id.map(|id| id.to_string()))
    .bind(fact(&node.vendor))
    .bind(fact(&node.model))
    .bind(fact(&node.serial_number))
    .bind(fact(&node.system_uuid))
    .bind(node.arch.map(Arch::as_str))
    .bind(node.boot_mode.map(BootMode::as_str))
    .bind(node.home_site_id.map(|id| id.to_string()))
    .bind(to_json(&node.tags))
    .bind(i64::from(node.install_attempts))
    .bind(&node.last_install_error)
    .bind(int(node.boot_count))
    .bind(node.last_boot_at.map(Timestamp::unix_ms))
    .bind(node.state_changed_at.unix_ms())
    .bind(node.updated_at.unix_ms())
    .bind(node.last_seen_at.map(Timestamp::unix_ms))
    .bind(int(node.version))
    .bind(run.map(|run| run.outbox_id))
    .bind(run.map(|run| int(run.base)))
    .bind(node.created_at.unix_ms())
    .bind(node.group_id.map(|id| id.to_string()))
    .bind(node.install_started_at.map(Timestamp::unix_ms))
    .bind(node.pending_command.map(|pending| to_json(&pending)))
    .bind(node.health_status.as_str())
    .bind(int(node.wish_version))
    .execute(db)
    .await?;
    Ok(())
}

/// Where a node is in a list of nodes.
pub(super) fn place(node: &Node) -> Cursor {
    Cursor::new(node.created_at.unix_ms(), node.id)
}

fn read_kept(row: &DbRow) -> Result<Kept, StoreError> {
    let outbox_id: Option<i64> = row.try_get("run_outbox")?;
    let base = count_opt(row, "run_base")?;
    let run = outbox_id.zip(base).map(|(outbox_id, base)| Run { outbox_id, base });
    let central = Central { version: count(row, "central_version")?, at: time(row, "central_at")? };
    Ok(Kept { node: read(row)?, run, central })
}

/// Reads a row of `nodes`.
pub(super) fn read(row: &DbRow) -> Result<Node, StoreError> {
    Ok(Node {
        id: word(row, "id")?,
        mac_address: word(row, "mac_address")?,
        hostname: row.try_get("hostname")?,
        ip_address: row.try_get("ip_address")?,
        state: word(row, "state")?,
        workflow_id: word_opt(row, "workflow_id")?,
        vendor: word_opt(row, "vendor")?,
        model: word_opt(row, "model")?,
        serial_number: word_opt(row, "serial_number")?,
        system_uuid: word_opt(row, "system_uuid")?,
        arch: word_opt(row, "arch")?,
        boot_mode: word_opt(row, "boot_mode")?,
        group_id: word_opt(row, "group_id")?,
        home_site_id: word_opt(row, "home_site_id")?,
        tags: json(row, "tags")?,
        install_attempts: count(row, "install_attempts")?,
        install_started_at: time_opt(row, "install_started_at")?,
        last_install_error: row.try_get("last_install_error")?,
        boot_count: count(row, "boot_count")?,
        last_boot_at: time_opt(row, "last_boot_at")?,
        state_changed_at: time(row, "state_changed_at")?,
        created_at: time(row, "created_at")?,
        updated_at: time(row, "updated_at")?,
        last_seen_at: time_opt(row, "last_seen_at")?,
        health_status: word(row, "health_status")?,
        pending_command: json_opt(row, "pending_command")?,
        version: count(row, "version")?,
        wish_version: count(row, "wish_version")?,
    })
}
