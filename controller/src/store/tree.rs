//! The tree that sites and groups stand in: names, places, and the settings that are handed down.
//!
//! A site is a group with an agent of its own, so that both are rows of one table, with names that are unique among all.

use std::collections::HashMap;

use pureboot_protocol::{GroupId, Node, SiteId, WorkflowId};
use sqlx::Row;

use crate::store::row::{DbConnection, count, flag_opt, word_opt};
use crate::store::sites::Site;
use crate::store::{StoreError, workflows};

/// What a node gets from the groups that it is in, where it says nothing itself. The nearest group that says something wins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Inherited {
    /// What to install.
    pub(super) workflow_id: Option<WorkflowId>,
    /// Whether a machine that is seen for the first time is to be installed at once.
    pub(super) auto_provision: Option<bool>,
}

/// What a node in `group` at `site` inherits: from its group upwards, then from its site upwards.
pub(super) async fn inherited(
    db: &mut DbConnection,
    group: Option<GroupId>,
    site: Option<SiteId>,
) -> Result<Inherited, StoreError> {
    let mut inherited = Inherited::default();
    for start in [group, site.map(GroupId::from)].into_iter().flatten() {
        let rows = sqlx::query(
            "WITH RECURSIVE above (id, parent_id, default_workflow_id, auto_provision, steps) AS (
                SELECT id, parent_id, default_workflow_id, auto_provision, 0 FROM sites WHERE id = $1
                UNION ALL
                SELECT s.id, s.parent_id, s.default_workflow_id, s.auto_provision, a.steps + 1
                FROM sites s JOIN above a ON s.id = a.parent_id
             ) SELECT default_workflow_id, auto_provision FROM above ORDER BY steps",
        )
        .bind(start.to_string())
        .fetch_all(&mut *db)
        .await?;
        for row in &rows {
            if inherited.workflow_id.is_none() {
                inherited.workflow_id = word_opt(row, "default_workflow_id")?;
            }
            if inherited.auto_provision.is_none() {
                inherited.auto_provision = flag_opt(row, "auto_provision")?;
            }
        }
    }
    Ok(inherited)
}

/// What nodes are installed with, remembered over the nodes of one list.
#[derive(Debug, Default)]
pub(super) struct Assignments {
    by_place: HashMap<(Option<GroupId>, Option<SiteId>), Option<WorkflowId>>,
}

impl Assignments {
    /// What `node` is installed with: what it is assigned, or else what it inherits.
    pub(super) async fn of(
        &mut self,
        db: &mut DbConnection,
        node: &Node,
    ) -> Result<Option<WorkflowId>, StoreError> {
        if node.workflow_id.is_some() {
            return Ok(node.workflow_id);
        }
        let place = (node.group_id, node.home_site_id);
        if let Some(workflow_id) = self.by_place.get(&place) {
            return Ok(*workflow_id);
        }
        let workflow_id = inherited(db, node.group_id, node.home_site_id).await?.workflow_id;
        self.by_place.insert(place, workflow_id);
        Ok(workflow_id)
    }
}

/// Gives `site` the path and depth of its place in the tree, if it may be there under its name and with its settings.
pub(super) async fn place(db: &mut DbConnection, site: &mut Site) -> Result<(), StoreError> {
    let taken = sqlx::query("SELECT 1 FROM sites WHERE name = $1 AND id <> $2")
        .bind(&site.name)
        .bind(site.id.to_string())
        .fetch_optional(&mut *db)
        .await?;
    if taken.is_some() {
        return Err(StoreError::NameTaken { what: "site or group", name: site.name.clone() });
    }
    if let Some(id) = site.default_workflow_id
        && workflows::find(db, id).await?.is_none()
    {
        let id = id.to_string();
        return Err(StoreError::Unknown { field: "default_workflow_id", what: "workflow", id });
    }
    let Some(parent_id) = site.parent_id else {
        (site.path, site.depth) = (format!("/{}", site.name), 0);
        return Ok(());
    };
    // Walking up finds the site itself by its id, whatever its path is about to become.
    let is_below = sqlx::query(
        "WITH RECURSIVE above (id) AS (
            SELECT id FROM sites WHERE id = $1
            UNION SELECT s.parent_id FROM sites s JOIN above a ON s.id = a.id WHERE s.parent_id IS NOT NULL
         ) SELECT 1 FROM above WHERE id = $2",
    )
    .bind(parent_id.to_string())
    .bind(site.id.to_string())
    .fetch_optional(&mut *db)
    .await?;
    if is_below.is_some() {
        return Err(StoreError::ParentBelow { name: site.name.clone() });
    }
    let parent = sqlx::query("SELECT path, depth FROM sites WHERE id = $1 AND is_site >= $2")
        .bind(parent_id.to_string())
        .bind(site.is_site)
        .fetch_optional(db)
        .await?;
    let Some(parent) = parent else {
        let id = parent_id.to_string();
        return Err(match site.is_site {
            true => StoreError::ParentNotASite(parent_id),
            false => StoreError::Unknown { field: "parent_id", what: "site or group", id },
        });
    };
    site.path = format!("{}/{}", parent.try_get::<String, _>("path")?, site.name);
    site.depth = count::<u32>(&parent, "depth")?.saturating_add(1);
    Ok(())
}

/// Gives what is below a site or group that was `old` its new paths.
pub(super) async fn move_below(
    db: &mut DbConnection,
    old: &Site,
    new: &Site,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE sites SET path = $2 || substr(path, length($1) + 1), depth = depth + $3
         WHERE substr(path, 1, length($1) + 1) = $1 || '/'",
    )
    .bind(&old.path)
    .bind(&new.path)
    .bind(i64::from(new.depth) - i64::from(old.depth))
    .execute(db)
    .await?;
    Ok(())
}

/// Refuses to delete `site` while something is in it.
pub(super) async fn check_empty(db: &mut DbConnection, site: &Site) -> Result<(), StoreError> {
    let used = sqlx::query(
        "SELECT (SELECT count(*) FROM sites WHERE parent_id = $1) AS children,
                (SELECT count(*) FROM nodes WHERE (home_site_id = $1 OR group_id = $1) AND state <> 'retired') AS nodes",
    )
    .bind(site.id.to_string())
    .fetch_one(db)
    .await?;
    let (children, nodes) = (count(&used, "children")?, count(&used, "nodes")?);
    if children > 0 || nodes > 0 {
        let (is_site, name) = (site.is_site, site.name.clone());
        return Err(StoreError::PlaceInUse { is_site, name, children, nodes });
    }
    Ok(())
}
