//! What decides the boots at a site: record by record, or what has changed since the site asked last.
//!
//! Every change of a node gets a number when [`crate::store::nodes::save`] writes it: one more than the highest that any node
//! has. Writers wait for each other and a reader sees one snapshot, so the numbers that a reader sees have no gap that could be
//! filled later. Whatever else a record is made of gives its nodes new numbers with [`renumber`] when it changes.

use std::collections::{BTreeMap, HashMap};

use pureboot_protocol::{
    Assignment, BootRecord, ConflictId, GroupId, Lifecycle, Mac, Node, NodeChange, NodeChanges,
    NodeId, RecordGroup, SiteId, TemplateId, Workflow, WorkflowId,
};
use sqlx::{AssertSqlSafe, Row as _};

use crate::store::installation::note_content_change;
use crate::store::nodes;
use crate::store::row::{DbConnection, DbRow, count, int, word_opt};
use crate::store::tree::Assignments;
use crate::store::{Store, StoreError, workflows};

/// The home of a departed node that had none.
const NO_SITE: &str = "";

impl Store {
    /// What decides the boots of the node with `mac`, if it is one of `site`'s or without a home; and the newest number that
    /// concerns the site.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn boot_record(
        &self,
        site: SiteId,
        mac: Mac,
    ) -> Result<(Option<BootRecord>, u64), StoreError> {
        // One snapshot, so that no record pairs a node with a workflow of another moment.
        let mut tx = self.reader.begin().await?;
        let newest = newest(&mut tx, site).await?;
        let row = sqlx::query(AssertSqlSafe(format!(
            "SELECT n.*, {OPEN_CONFLICT} FROM nodes n
             WHERE mac_address = $2 AND (home_site_id = $1 OR home_site_id IS NULL)"
        )))
        .bind(site.to_string())
        .bind(mac.to_string())
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { return Ok((None, newest)) };
        let record = Maker::default().record(&mut tx, Disputed::read(&row)?).await?;
        Ok((Some(record), newest))
    }

    /// What has changed of the nodes of `site` after the change `since`, in order and at most `limit` of it.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn node_changes(
        &self,
        site: SiteId,
        since: u64,
        limit: u16,
    ) -> Result<NodeChanges, StoreError> {
        let mut tx = self.reader.begin().await?;
        let newest = newest(&mut tx, site).await?;
        let since = if since > newest { 0 } else { since };
        let rows = sqlx::query(AssertSqlSafe(format!(
            "SELECT n.*, changed.number, changed.is_present, count(*) OVER () AS total, {OPEN_CONFLICT} FROM (
                SELECT id, change_number AS number, 1 AS is_present FROM nodes
                WHERE (home_site_id = $1 OR home_site_id IS NULL) AND change_number > $2
                UNION ALL
                SELECT d.node_id, max(d.number), 0 FROM node_departures d JOIN nodes n ON n.id = d.node_id
                WHERE d.site_id IN ($1, $3) AND d.number > $2 AND n.home_site_id <> $1 GROUP BY d.node_id
             ) AS changed JOIN nodes n ON n.id = changed.id ORDER BY changed.number LIMIT $4"
        )))
        .bind(site.to_string())
        .bind(int(since))
        .bind(NO_SITE)
        .bind(i64::from(limit) + 1)
        .fetch_all(&mut *tx)
        .await?;
        let has_more = rows.len() > usize::from(limit);
        let total = rows.first().map(|row| count(row, "total")).transpose()?.unwrap_or(0);
        let (mut version, mut data) = (since, Vec::new());
        let mut maker = Maker::default();
        for row in rows.iter().take(limit.into()) {
            version = count(row, "number")?;
            let disputed = Disputed::read(row)?;
            data.push(if count::<u8>(row, "is_present")? == 1 {
                NodeChange::Present(Box::new(maker.record(&mut tx, disputed).await?))
            } else {
                NodeChange::Left { node_id: disputed.node.id }
            });
        }
        let version = if has_more { version } else { newest };
        Ok(NodeChanges { data, total, since_version: since, version, has_more })
    }
}

/// The newest number of a change of a node that is the site's, or was; `{site}` stands for the site. Each part is one look into
/// an index.
pub(super) const NEWEST: &str = "(SELECT coalesce(max(latest.number), 0) FROM (
    SELECT max(change_number) AS number FROM nodes WHERE home_site_id = {site}
    UNION ALL SELECT max(change_number) FROM nodes WHERE home_site_id IS NULL
    UNION ALL SELECT max(number) FROM node_departures WHERE site_id = {site}
    UNION ALL SELECT max(number) FROM node_departures WHERE site_id = '') AS latest)";

pub(super) async fn newest(db: &mut DbConnection, site: SiteId) -> Result<u64, StoreError> {
    let sql = format!("SELECT {} AS number", NEWEST.replace("{site}", "$1"));
    let row = sqlx::query(AssertSqlSafe(sql)).bind(site.to_string()).fetch_one(db).await?;
    count(&row, "number")
}

/// The conflict of the site `$1` about the node `n` that nobody has decided.
const OPEN_CONFLICT: &str = "(SELECT k.id FROM conflicts k WHERE k.node_id = n.id AND k.site_id = $1 AND k.resolution IS NULL
    ORDER BY k.created_at, k.id LIMIT 1) AS open_conflict";

/// A node, and the conflict that makes it doubtful what it is to boot.
struct Disputed {
    node: Node,
    conflict_id: Option<ConflictId>,
}

impl Disputed {
    fn read(row: &DbRow) -> Result<Self, StoreError> {
        Ok(Self { node: nodes::read(row)?, conflict_id: word_opt(row, "open_conflict")? })
    }
}

/// Makes the records of one answer, and reads what they share once.
#[derive(Default)]
struct Maker {
    assignments: Assignments,
    workflows: HashMap<WorkflowId, Option<Workflow>>,
    template_versions: HashMap<TemplateId, u64>,
    groups: HashMap<GroupId, Option<RecordGroup>>,
}

impl Maker {
    async fn record(
        &mut self,
        db: &mut DbConnection,
        disputed: Disputed,
    ) -> Result<BootRecord, StoreError> {
        let Disputed { node, conflict_id } = disputed;
        let workflow = self.workflow(db, &node).await?;
        let writes = matches!(node.state, Lifecycle::Pending | Lifecycle::Reprovision);
        let once = writes && workflow.is_some();
        let mut template_versions = BTreeMap::new();
        for (file, id) in workflow.iter().flat_map(|workflow| &workflow.templates) {
            template_versions.insert(file.clone(), self.template_version(db, *id).await?);
        }
        let group = match node.group_id {
            Some(id) => self.group(db, id).await?,
            None => None,
        };
        Ok(BootRecord {
            hostname: node.hostname,
            workflow: workflow.map(Assignment::Known),
            pending_command: node.pending_command,
            conflict_id,
            home_site_id: node.home_site_id,
            group,
            tags: node.tags,
            template_versions,
            once,
            wish_version: Some(node.wish_version),
            ..BootRecord::new(node.id, node.mac_address, node.state, node.version)
        })
    }

    async fn group(
        &mut self,
        db: &mut DbConnection,
        id: GroupId,
    ) -> Result<Option<RecordGroup>, StoreError> {
        if let Some(group) = self.groups.get(&id) {
            return Ok(group.clone());
        }
        let row = sqlx::query("SELECT path FROM sites WHERE id = $1").bind(id.to_string());
        let row = row.fetch_optional(db).await?;
        let path = row.map(|row| row.try_get("path")).transpose()?;
        let group = path.map(|path| RecordGroup { id, path });
        self.groups.insert(id, group.clone());
        Ok(group)
    }

    async fn workflow(
        &mut self,
        db: &mut DbConnection,
        node: &Node,
    ) -> Result<Option<Workflow>, StoreError> {
        let Some(id) = self.assignments.of(db, node).await? else { return Ok(None) };
        if let Some(workflow) = self.workflows.get(&id) {
            return Ok(workflow.clone());
        }
        let workflow = workflows::find(db, id).await?.map(|kept| kept.workflow);
        self.workflows.insert(id, workflow.clone());
        Ok(workflow)
    }

    async fn template_version(
        &mut self,
        db: &mut DbConnection,
        id: TemplateId,
    ) -> Result<u64, StoreError> {
        if let Some(version) = self.template_versions.get(&id) {
            return Ok(*version);
        }
        let row = sqlx::query("SELECT version FROM templates WHERE id = $1").bind(id.to_string());
        let version = count(&row.fetch_one(db).await?, "version")?;
        self.template_versions.insert(id, version);
        Ok(version)
    }
}

/// Which nodes have other records because something that they are made of has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Those that may inherit what they are installed with.
    Inheriting,
    /// Those that may be installed with this.
    Workflow(WorkflowId),
    /// Any.
    All,
}

/// Numbers the nodes in `reach` anew, so that sites ask for them. It takes a few too many rather than one too few.
pub(super) async fn renumber(db: &mut DbConnection, reach: Reach) -> Result<(), StoreError> {
    let (assigned, inheriting, all) = match reach {
        Reach::Inheriting => (None, true, false),
        Reach::Workflow(id) => (Some(id.to_string()), true, false),
        Reach::All => (None, false, true),
    };
    sqlx::query(
        "UPDATE nodes SET change_number = changed.number
         FROM (SELECT id, (SELECT max(change_number) FROM nodes) + row_number() OVER (ORDER BY change_number) AS number
               FROM nodes WHERE $1 OR workflow_id = $2 OR ($3 AND workflow_id IS NULL)) AS changed
         WHERE nodes.id = changed.id",
    )
    .bind(all)
    .bind(assigned)
    .bind(inheriting)
    .execute(&mut *db)
    .await?;
    // A site without nodes gets new ones with what has changed.
    note_content_change(db).await
}

/// Gives one node a new number without a new version: what has changed is no part of the node.
pub(super) async fn renumber_one(db: &mut DbConnection, id: NodeId) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE nodes SET change_number = (SELECT max(change_number) + 1 FROM nodes) WHERE id = $1",
    )
    .bind(id.to_string())
    .execute(db)
    .await?;
    Ok(())
}

/// Remembers that `node`, which has just been saved, has gone from `home` to another site, if it has.
pub(super) async fn leave(
    db: &mut DbConnection,
    node: &Node,
    home: Option<SiteId>,
) -> Result<(), StoreError> {
    if node.home_site_id == home || node.home_site_id.is_none() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO node_departures (site_id, node_id, number) SELECT $1, id, change_number FROM nodes WHERE id = $2
         ON CONFLICT (site_id, node_id) DO UPDATE SET number = excluded.number",
    )
    .bind(home.map_or(NO_SITE.to_owned(), |id| id.to_string()))
    .bind(node.id.to_string())
    .execute(db)
    .await?;
    Ok(())
}
