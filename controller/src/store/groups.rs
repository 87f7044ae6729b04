//! Groups: how nodes are kept together, with or without a place of their own.

use pureboot_protocol::{GroupId, Page, Timestamp, WorkflowId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::extract::nullable;
use crate::store::page::{Cursor, Paging};
use crate::store::row::{DbConnection, count};
use crate::store::sites::{self, Site, SiteFields};
use crate::store::{Store, StoreError};

/// A site or a logical group, as far as both are alike. The field names are those of the HTTP surface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Group {
    pub(crate) id: GroupId,
    /// Unique among groups and sites; a segment of the paths below.
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) parent_id: Option<GroupId>,
    /// The names from the top down, each after a `/`.
    pub(crate) path: String,
    /// Groups above.
    pub(crate) depth: u32,
    pub(crate) is_site: bool,
    /// What nodes get that are assigned nothing; none: what the group above says.
    pub(crate) default_workflow_id: Option<WorkflowId>,
    /// Whether a machine that is seen for the first time is installed at once; none: what the group above says.
    pub(crate) auto_provision: Option<bool>,
    pub(crate) tags: Vec<String>,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
    /// Rises by one with every change.
    pub(crate) version: u64,
}

impl From<Site> for Group {
    fn from(site: Site) -> Self {
        Self {
            id: site.id.into(),
            name: site.name,
            description: site.description,
            parent_id: site.parent_id,
            path: site.path,
            depth: site.depth,
            is_site: site.is_site,
            default_workflow_id: site.default_workflow_id,
            auto_provision: site.auto_provision,
            tags: site.tags,
            created_at: site.created_at,
            updated_at: site.updated_at,
            version: site.version,
        }
    }
}

/// The fields of a group that a request sets; what is absent stays as it is, or gets its default in a new group.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct GroupFields {
    name: Option<String>,
    description: Option<String>,
    #[serde(deserialize_with = "nullable")]
    parent_id: Option<Option<GroupId>>,
    #[serde(deserialize_with = "nullable")]
    default_workflow_id: Option<Option<WorkflowId>>,
    #[serde(deserialize_with = "nullable")]
    auto_provision: Option<Option<bool>>,
    tags: Option<Vec<String>>,
}

impl From<GroupFields> for SiteFields {
    fn from(fields: GroupFields) -> Self {
        Self {
            name: fields.name,
            description: fields.description,
            parent_id: fields.parent_id,
            default_workflow_id: fields.default_workflow_id,
            auto_provision: fields.auto_provision,
            tags: fields.tags,
            ..Self::default()
        }
    }
}

/// Which groups a list has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GroupFilter {
    /// Every one.
    All,
    /// Those without a group above.
    Roots,
    /// Those directly in one.
    Children(GroupId),
}

impl Store {
    /// The group with `id`, which may be a site.
    ///
    /// # Errors
    /// There is none.
    pub(crate) async fn group(&self, id: GroupId) -> Result<Group, StoreError> {
        load(&mut *self.reader.acquire().await?, id).await.map(Group::from)
    }

    /// Groups and sites in the order of their making.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn groups(
        &self,
        filter: GroupFilter,
        paging: &Paging,
    ) -> Result<Page<Group>, StoreError> {
        let (is_root, parent) = match filter {
            GroupFilter::All => (false, None),
            GroupFilter::Roots => (true, None),
            GroupFilter::Children(id) => (false, Some(id.to_string())),
        };
        let (position, id, rows) = paging.rising();
        let rows = sqlx::query(
            "SELECT * FROM sites WHERE (NOT $1 OR parent_id IS NULL) AND ($2 IS NULL OR parent_id = $2)
               AND (created_at, id) > ($3, $4)
             ORDER BY created_at, id LIMIT $5",
        )
        .bind(is_root)
        .bind(&parent)
        .bind(position)
        .bind(id)
        .bind(rows)
        .fetch_all(&self.reader)
        .await?;
        let total = sqlx::query(
            "SELECT count(*) AS total FROM sites WHERE (NOT $1 OR parent_id IS NULL) AND ($2 IS NULL OR parent_id = $2)",
        )
        .bind(is_root)
        .bind(&parent)
        .fetch_one(&self.reader)
        .await?;
        let groups = rows.iter().map(|row| Site::read(row).map(Group::from));
        let groups = groups.collect::<Result<_, _>>()?;
        Ok(paging.page(groups, count(&total, "total")?, |group: &Group| {
            Cursor::new(group.created_at.unix_ms(), group.id)
        }))
    }

    /// The groups above a group, from the top down.
    ///
    /// # Errors
    /// There is no such group.
    pub(crate) async fn ancestors(
        &self,
        id: GroupId,
        paging: &Paging,
    ) -> Result<Page<Group>, StoreError> {
        let mut tx = self.reader.begin().await?;
        let group = load(&mut tx, id).await?;
        let (position, after, rows) = paging.rising();
        let rows = sqlx::query(
            "WITH RECURSIVE above (id) AS (
                SELECT id FROM sites WHERE id = $1
                UNION SELECT s.parent_id FROM sites s JOIN above a ON s.id = a.id WHERE s.parent_id IS NOT NULL
             ) SELECT * FROM sites WHERE id IN (SELECT id FROM above) AND id <> $1 AND (depth, id) > ($2, $3)
             ORDER BY depth, id LIMIT $4",
        )
        .bind(id.to_string())
        .bind(position)
        .bind(after)
        .bind(rows)
        .fetch_all(&mut *tx)
        .await?;
        let groups = rows.iter().map(|row| Site::read(row).map(Group::from));
        let groups = groups.collect::<Result<_, _>>()?;
        Ok(paging.page(groups, group.depth.into(), |group: &Group| {
            Cursor::new(group.depth.into(), group.id)
        }))
    }

    /// The groups below a group at any depth, in the order of their making.
    ///
    /// # Errors
    /// There is no such group.
    pub(crate) async fn descendants(
        &self,
        id: GroupId,
        paging: &Paging,
    ) -> Result<Page<Group>, StoreError> {
        let mut tx = self.reader.begin().await?;
        let group = load(&mut tx, id).await?;
        let (position, after, rows) = paging.rising();
        let rows = sqlx::query(
            "SELECT * FROM sites WHERE substr(path, 1, length($1) + 1) = $1 || '/' AND (created_at, id) > ($2, $3)
             ORDER BY created_at, id LIMIT $4",
        )
        .bind(&group.path)
        .bind(position)
        .bind(after)
        .bind(rows)
        .fetch_all(&mut *tx)
        .await?;
        let total = sqlx::query(
            "SELECT count(*) AS total FROM sites WHERE substr(path, 1, length($1) + 1) = $1 || '/'",
        )
        .bind(&group.path)
        .fetch_one(&mut *tx)
        .await?;
        let groups = rows.iter().map(|row| Site::read(row).map(Group::from));
        let groups = groups.collect::<Result<_, _>>()?;
        Ok(paging.page(groups, count(&total, "total")?, |group: &Group| {
            Cursor::new(group.created_at.unix_ms(), group.id)
        }))
    }

    /// Sets `fields` of a group, and the paths below it if it moves or gets another name.
    ///
    /// # Errors
    /// There is no such group, it has another version than `version`, the name is taken, or it cannot be moved there.
    pub(crate) async fn update_group(
        &self,
        id: GroupId,
        fields: SiteFields,
        version: Option<u64>,
        now: Timestamp,
    ) -> Result<Group, StoreError> {
        let mut tx = self.write().await?;
        let old = load(&mut tx, id).await?;
        let group = sites::change(&mut tx, old, fields, version, now).await?;
        tx.commit().await?;
        Ok(group.into())
    }

    /// Deletes a group, and answers what it was.
    ///
    /// # Errors
    /// There is no such group, it has another version than `version`, or something is in it.
    pub(crate) async fn delete_group(
        &self,
        id: GroupId,
        version: Option<u64>,
    ) -> Result<Group, StoreError> {
        let mut tx = self.write().await?;
        let group = load(&mut tx, id).await?;
        sites::remove(&mut tx, &group, version).await?;
        tx.commit().await?;
        Ok(group.into())
    }
}

/// The group with `id`, which may be a site.
pub(super) async fn load(db: &mut DbConnection, id: GroupId) -> Result<Site, StoreError> {
    let row = find(db, id).await?;
    row.ok_or_else(|| StoreError::Missing { what: "group", id: id.to_string() })
}

/// The group with `id`, if there is one.
pub(super) async fn find(db: &mut DbConnection, id: GroupId) -> Result<Option<Site>, StoreError> {
    let row = sqlx::query("SELECT * FROM sites WHERE id = $1").bind(id.to_string());
    row.fetch_optional(db).await?.map(|row| Site::read(&row)).transpose()
}
