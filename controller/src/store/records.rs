//! What decides the boots at a site: record by record, or what has changed since the site asked last.
//!
//! Every change of a node gets a number when [`crate::store::nodes::save`] writes it: one more than the highest that any node
//! has. Writers wait for each other and a reader sees one snapshot, so the numbers that a reader sees have no gap that could be
//! filled later. Whatever else a record is made of gives its nodes new numbers with [`renumber`] when it changes.

use std::collections::{BTreeMap, HashMap};

use pureboot_protocol::{
    Assignment, BootRecord, ConflictId, Lifecycle, Mac, Node, NodeChange, NodeChanges, NodeId,
    Page, Present, SiteId, TemplateId, Workflow, WorkflowId,
};
use sqlx::AssertSqlSafe;

use crate::store::nodes;
use crate::store::page::Paging;
use crate::store::row::{DbConnection, DbRow, count, int, word_opt};
use crate::store::tree::Assignments;
use crate::store::{Store, StoreError, workflows};

/// How long a site may act on a record without asking again, while it could ask: as long as five heartbeats.
const VALID_FOR_SECONDS: u64 = 300;
/// The home of a departed node that had none.
const NO_SITE: &str = "";

impl Store {
    /// What decides the boots at `site`: its nodes and those without a home, or the one of them with `mac`.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn boot_records(
        &self,
        site: SiteId,
        mac: Option<Mac>,
        paging: &Paging,
    ) -> Result<Page<BootRecord>, StoreError> {
        let mac = mac.map(|mac| mac.to_string());
        let (position, id, rows) = paging.rising();
        // One snapshot, so that no record pairs a node with a workflow of another moment.
        let mut tx = self.reader.begin().await?;
        let rows = sqlx::query(AssertSqlSafe(format!(
            "SELECT n.*, {OPEN_CONFLICT} FROM nodes n
             WHERE (home_site_id = $1 OR home_site_id IS NULL) AND ($2 IS NULL OR mac_address = $2)
               AND (created_at, id) > ($3, $4)
             ORDER BY created_at, id LIMIT $5"
        )))
        .bind(site.to_string())
        .bind(&mac)
        .bind(position)
        .bind(id)
        .bind(rows)
        .fetch_all(&mut *tx)
        .await?;
        let total = sqlx::query(
            "SELECT count(*) AS total FROM nodes
             WHERE (home_site_id = $1 OR home_site_id IS NULL) AND ($2 IS NULL OR mac_address = $2)",
        )
        .bind(site.to_string())
        .bind(&mac)
        .fetch_one(&mut *tx)
        .await?;
        let disputed: Vec<_> = rows.iter().map(Disputed::read).collect::<Result<_, _>>()?;
        let Page { success, data, total, next_cursor } =
            paging.page(disputed, count(&total, "total")?, |disputed| nodes::place(&disputed.node));
        let mut maker = Maker::default();
        let mut records = Vec::with_capacity(data.len());
        for disputed in data {
            records.push(maker.record(&mut tx, disputed).await?);
        }
        Ok(Page { success, data: records, total, next_cursor })
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
        let highest = sqlx::query("SELECT coalesce(max(change_number), 0) AS number FROM nodes");
        let highest: u64 = count(&highest.fetch_one(&mut *tx).await?, "number")?;
        let since = if since > highest { 0 } else { since };
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
                NodeChange::Present(Box::new(maker.present(&mut tx, disputed).await?))
            } else {
                NodeChange::Left { node_id: disputed.node.id }
            });
        }
        let version = if has_more { version } else { highest };
        Ok(NodeChanges { success: true, data, total, since_version: since, version, has_more })
    }
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
}

impl Maker {
    async fn record(
        &mut self,
        db: &mut DbConnection,
        disputed: Disputed,
    ) -> Result<BootRecord, StoreError> {
        let Disputed { node, conflict_id } = disputed;
        let workflow = self.workflow(db, &node).await?.map(Assignment::Known);
        Ok(BootRecord {
            node_id: node.id,
            mac_address: node.mac_address,
            hostname: node.hostname,
            state: node.state,
            workflow,
            pending_command: node.pending_command,
            version: node.version,
            conflict_id,
        })
    }

    async fn present(
        &mut self,
        db: &mut DbConnection,
        disputed: Disputed,
    ) -> Result<Present, StoreError> {
        let state = disputed.node.state;
        let writes = matches!(state, Lifecycle::Pending | Lifecycle::Reprovision);
        let workflow = self.workflow(db, &disputed.node).await?;
        let once = writes && workflow.is_some();
        let mut template_versions = BTreeMap::new();
        for (file, id) in workflow.map(|workflow| workflow.templates).unwrap_or_default() {
            template_versions.insert(file, self.template_version(db, id).await?);
        }
        let record = self.record(db, disputed).await?;
        Ok(Present { record, template_versions, valid_for_seconds: VALID_FOR_SECONDS, once })
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
    .execute(db)
    .await?;
    Ok(())
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
