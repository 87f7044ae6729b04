//! Workflows: what nodes are installed with, and how long that may take.

use pureboot_protocol::{BootMethod, Page, Timestamp, Workflow, WorkflowId};
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::{AssertSqlSafe, Row};

use crate::store::page::{Cursor, Paging};
use crate::store::records::{self, Reach};
use crate::store::row::{DbConnection, DbRow, count, int, json, time, to_json, word};
use crate::store::{Store, StoreError, check_version, content, templates};

/// The newest versions of a workflow that are kept.
const VERSIONS_MAX: u64 = 100;

/// A workflow in each of its versions.
const VERSIONS: &str = "SELECT w.id, w.created_at, v.version, v.name, v.description, v.boot, v.timeout_minutes, v.templates, v.updated_at
    FROM workflows w JOIN workflow_versions v ON v.workflow_id = w.id";

/// A workflow with what only the controller needs of it. The field names are those of the HTTP surface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct KeptWorkflow {
    #[serde(flatten)]
    pub(crate) workflow: Workflow,
    /// How long one attempt to install may take.
    pub(crate) timeout_minutes: u32,
}

impl Store {
    /// Keeps a new workflow.
    ///
    /// # Errors
    /// The name is taken, or it loads content that is not there and `allows_missing` does not hold.
    pub(crate) async fn create_workflow(
        &self,
        kept: &KeptWorkflow,
        allows_missing: bool,
    ) -> Result<(), StoreError> {
        let workflow = &kept.workflow;
        let mut tx = self.write().await?;
        check_name(&mut tx, workflow).await?;
        if !allows_missing {
            content::check_loaded(&mut tx, &workflow.boot).await?;
        }
        templates::check_exist(&mut tx, workflow.templates.values()).await?;
        sqlx::query(
            "INSERT INTO workflows (id, name, description, boot, created_at, updated_at, version, timeout_minutes, templates)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(workflow.id.to_string())
        .bind(&workflow.name)
        .bind(&workflow.description)
        .bind(to_json(&workflow.boot))
        .bind(workflow.created_at.unix_ms())
        .bind(workflow.updated_at.unix_ms())
        .bind(int(workflow.version))
        .bind(i64::from(kept.timeout_minutes))
        .bind(to_json(&workflow.templates))
        .execute(&mut *tx)
        .await?;
        keep(&mut tx, kept).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The workflow with `id`.
    ///
    /// # Errors
    /// There is none.
    pub(crate) async fn workflow(&self, id: WorkflowId) -> Result<KeptWorkflow, StoreError> {
        load(&mut *self.reader.acquire().await?, id).await
    }

    /// Workflows in the order of their making.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn workflows(
        &self,
        paging: &Paging,
    ) -> Result<Page<KeptWorkflow>, StoreError> {
        let (position, id, rows) = paging.rising();
        let rows = sqlx::query(
            "SELECT * FROM workflows WHERE (created_at, id) > ($1, $2) ORDER BY created_at, id LIMIT $3",
        )
        .bind(position)
        .bind(id)
        .bind(rows)
        .fetch_all(&self.reader)
        .await?;
        let total = sqlx::query("SELECT count(*) AS total FROM workflows");
        let total = total.fetch_one(&self.reader).await?;
        let workflows = rows.iter().map(read).collect::<Result<_, _>>()?;
        Ok(paging.page(
            workflows,
            count(&total, "total")?,
            |KeptWorkflow { workflow, .. }: &KeptWorkflow| {
                Cursor::new(workflow.created_at.unix_ms(), workflow.id)
            },
        ))
    }

    /// Replaces name, description, method and timeout of a workflow; what `change` makes of them is kept.
    ///
    /// # Errors
    /// There is no such workflow, it has another version than `version`, `change` refuses, the name is taken, or it comes to load
    /// content that is not there and `allows_missing` does not hold.
    pub(crate) async fn update_workflow<E: From<StoreError>>(
        &self,
        id: WorkflowId,
        version: Option<u64>,
        allows_missing: bool,
        now: Timestamp,
        change: impl FnOnce(KeptWorkflow) -> Result<KeptWorkflow, E>,
    ) -> Result<KeptWorkflow, E> {
        let mut tx = self.write().await?;
        let old = load(&mut tx, id).await?;
        check_version(version, old.workflow.version)?;
        let kept = change(old.clone())?;
        let kept = replace(&mut tx, &old, kept, allows_missing, now).await?;
        tx.commit().await.map_err(StoreError::from)?;
        Ok(kept)
    }

    /// The workflow with `id` as it was in `version`.
    ///
    /// # Errors
    /// There is no such workflow, or the version is not kept.
    pub(crate) async fn workflow_version(
        &self,
        id: WorkflowId,
        version: u64,
    ) -> Result<KeptWorkflow, StoreError> {
        load_version(&mut *self.reader.acquire().await?, id, version).await
    }

    /// The versions of a workflow that are kept, the newest first.
    ///
    /// # Errors
    /// There is no such workflow.
    pub(crate) async fn workflow_versions(
        &self,
        id: WorkflowId,
        paging: &Paging,
    ) -> Result<Page<KeptWorkflow>, StoreError> {
        let mut tx = self.reader.begin().await?;
        load(&mut tx, id).await?;
        let (below, rows) = paging.falling();
        let rows = sqlx::query(AssertSqlSafe(format!(
            "{VERSIONS} WHERE w.id = $1 AND v.version < $2 ORDER BY v.version DESC LIMIT $3"
        )))
        .bind(id.to_string())
        .bind(below)
        .bind(rows)
        .fetch_all(&mut *tx)
        .await?;
        let total =
            sqlx::query("SELECT count(*) AS total FROM workflow_versions WHERE workflow_id = $1");
        let total = total.bind(id.to_string()).fetch_one(&mut *tx).await?;
        let versions = rows.iter().map(read).collect::<Result<_, _>>()?;
        Ok(paging.page(versions, count(&total, "total")?, |kept: &KeptWorkflow| {
            Cursor::numbered(kept.workflow.version)
        }))
    }

    /// Makes an older version of a workflow the next one. The name stays as it is.
    ///
    /// # Errors
    /// As [`Store::update_workflow`], and the older version is not kept.
    pub(crate) async fn restore_workflow(
        &self,
        id: WorkflowId,
        older: u64,
        version: Option<u64>,
        allows_missing: bool,
        now: Timestamp,
    ) -> Result<KeptWorkflow, StoreError> {
        let mut tx = self.write().await?;
        let old = load(&mut tx, id).await?;
        check_version(version, old.workflow.version)?;
        let mut kept = load_version(&mut tx, id, older).await?;
        kept.workflow.name.clone_from(&old.workflow.name);
        let kept = replace(&mut tx, &old, kept, allows_missing, now).await?;
        tx.commit().await?;
        Ok(kept)
    }

    /// Deletes a workflow, and answers what it was.
    ///
    /// # Errors
    /// There is no such workflow, it has another version than `version`, or nodes or groups use it.
    pub(crate) async fn delete_workflow(
        &self,
        id: WorkflowId,
        version: Option<u64>,
    ) -> Result<KeptWorkflow, StoreError> {
        let mut tx = self.write().await?;
        let kept = load(&mut tx, id).await?;
        check_version(version, kept.workflow.version)?;
        let used = sqlx::query(
            "SELECT (SELECT count(*) FROM nodes WHERE workflow_id = $1 AND state <> 'retired') AS nodes,
                    (SELECT count(*) FROM sites WHERE default_workflow_id = $1) AS groups",
        )
        .bind(id.to_string())
        .fetch_one(&mut *tx)
        .await?;
        let (nodes, groups) = (count(&used, "nodes")?, count(&used, "groups")?);
        if nodes > 0 || groups > 0 {
            return Err(StoreError::WorkflowInUse { name: kept.workflow.name, nodes, groups });
        }
        let delete = sqlx::query("DELETE FROM workflows WHERE id = $1").bind(id.to_string());
        delete.execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(kept)
    }
}

/// Puts `kept` in the place of `old`, as the next version.
async fn replace(
    db: &mut DbConnection,
    old: &KeptWorkflow,
    mut kept: KeptWorkflow,
    allows_missing: bool,
    now: Timestamp,
) -> Result<KeptWorkflow, StoreError> {
    let workflow = &mut kept.workflow;
    (workflow.version, workflow.updated_at) = (old.workflow.version + 1, now);
    check_name(db, workflow).await?;
    if !allows_missing && workflow.boot != old.workflow.boot {
        content::check_loaded(db, &workflow.boot).await?;
    }
    templates::check_exist(db, workflow.templates.values()).await?;
    sqlx::query(
        "UPDATE workflows SET name = $2, description = $3, boot = $4, updated_at = $5, version = $6, timeout_minutes = $7,
            templates = $8
         WHERE id = $1",
    )
    .bind(workflow.id.to_string())
    .bind(&workflow.name)
    .bind(&workflow.description)
    .bind(to_json(&workflow.boot))
    .bind(now.unix_ms())
    .bind(int(workflow.version))
    .bind(i64::from(kept.timeout_minutes))
    .bind(to_json(&workflow.templates))
    .execute(&mut *db)
    .await?;
    keep(db, &kept).await?;
    records::renumber(db, Reach::Workflow(kept.workflow.id)).await?;
    Ok(kept)
}

/// Writes a version down, and forgets the oldest.
async fn keep(db: &mut DbConnection, kept: &KeptWorkflow) -> Result<(), StoreError> {
    let workflow = &kept.workflow;
    sqlx::query(
        "INSERT INTO workflow_versions (workflow_id, version, name, description, boot, timeout_minutes, templates, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(workflow.id.to_string())
    .bind(int(workflow.version))
    .bind(&workflow.name)
    .bind(&workflow.description)
    .bind(to_json(&workflow.boot))
    .bind(i64::from(kept.timeout_minutes))
    .bind(to_json(&workflow.templates))
    .bind(workflow.updated_at.unix_ms())
    .execute(&mut *db)
    .await?;
    sqlx::query("DELETE FROM workflow_versions WHERE workflow_id = $1 AND version <= $2")
        .bind(workflow.id.to_string())
        .bind(int(workflow.version.saturating_sub(VERSIONS_MAX)))
        .execute(db)
        .await?;
    Ok(())
}

async fn load_version(
    db: &mut DbConnection,
    id: WorkflowId,
    version: u64,
) -> Result<KeptWorkflow, StoreError> {
    let row = sqlx::query(AssertSqlSafe(format!("{VERSIONS} WHERE w.id = $1 AND v.version = $2")))
        .bind(id.to_string())
        .bind(int(version))
        .fetch_optional(db)
        .await?;
    let missing = || StoreError::Missing {
        what: "kept version of the workflow",
        id: format!("{id}/{version}"),
    };
    read(&row.ok_or_else(missing)?)
}

/// The workflow with `id`, if there is one.
pub(super) async fn find(
    db: &mut DbConnection,
    id: WorkflowId,
) -> Result<Option<KeptWorkflow>, StoreError> {
    let row = sqlx::query("SELECT * FROM workflows WHERE id = $1").bind(id.to_string());
    row.fetch_optional(db).await?.map(|row| read(&row)).transpose()
}

async fn load(db: &mut DbConnection, id: WorkflowId) -> Result<KeptWorkflow, StoreError> {
    let workflow = find(db, id).await?;
    workflow.ok_or_else(|| StoreError::Missing { what: "workflow", id: id.to_string() })
}

async fn check_name(db: &mut DbConnection, workflow: &Workflow) -> Result<(), StoreError> {
    let taken = sqlx::query("SELECT 1 FROM workflows WHERE name = $1 AND id <> $2")
        .bind(&workflow.name)
        .bind(workflow.id.to_string())
        .fetch_optional(db)
        .await?;
    match taken {
        None => Ok(()),
        Some(_) => Err(StoreError::NameTaken { what: "workflow", name: workflow.name.clone() }),
    }
}

fn read(row: &DbRow) -> Result<KeptWorkflow, StoreError> {
    let workflow = Workflow {
        id: word(row, "id")?,
        name: row.try_get("name")?,
        description: row.try_get("description")?,
        templates: json(row, "templates")?,
        boot: json::<BootMethod>(row, "boot")?,
        created_at: time(row, "created_at")?,
        updated_at: time(row, "updated_at")?,
        version: count(row, "version")?,
    };
    Ok(KeptWorkflow { workflow, timeout_minutes: count(row, "timeout_minutes")? })
}
