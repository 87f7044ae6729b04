//! Facts of operators' own making: names and texts on nodes and groups, for templates.

use std::collections::BTreeMap;

use pureboot_protocol::{GroupId, NodeId, SiteId, Timestamp};
use schemars::JsonSchema;
use serde::Serialize;

use crate::node;
use crate::store::records::{self, Reach};
use crate::store::row::{DbConnection, json, to_json};
use crate::store::{Store, StoreError, check_version, groups, nodes, sites};

/// The most entries of one node or group.
const ENTRIES_MAX: usize = 64;

/// Texts by their names.
pub(crate) type Meta = BTreeMap<String, String>;

/// Whose they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MetaOwner {
    /// A node.
    Node(NodeId),
    /// A group, which may be a site.
    Group(GroupId),
    /// A site.
    Site(SiteId),
}

/// What a node or group has, and what it has got from above besides. The field names are those of the HTTP surface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct MetaView {
    /// Its own.
    pub(crate) own: Meta,
    /// What templates see: its own over those of the groups above, the nearest first.
    pub(crate) effective: Meta,
    /// The version of the node or group.
    #[serde(skip)]
    pub(crate) version: u64,
}

impl Store {
    /// The entries of `owner`.
    ///
    /// # Errors
    /// There is no such node, group or site.
    pub(crate) async fn meta(&self, owner: MetaOwner) -> Result<MetaView, StoreError> {
        view(&mut *self.reader.begin().await?, owner).await
    }

    /// Sets entries of `owner`, and takes those away whose text is none.
    ///
    /// # Errors
    /// There is no such owner, it has another version than `version`, or too many entries then.
    pub(crate) async fn update_meta(
        &self,
        owner: MetaOwner,
        patch: BTreeMap<String, Option<String>>,
        version: Option<u64>,
        now: Timestamp,
    ) -> Result<MetaView, StoreError> {
        let mut tx = self.write().await?;
        let mut old = view(&mut tx, owner).await?;
        check_version(version, old.version)?;
        for (name, text) in patch {
            match text {
                Some(text) => _ = old.own.insert(name, text),
                None => _ = old.own.remove(&name),
            }
        }
        if old.own.len() > ENTRIES_MAX {
            return Err(StoreError::MetaFull(ENTRIES_MAX));
        }
        match owner {
            MetaOwner::Node(id) => {
                let mut node = nodes::load(&mut tx, id).await?;
                node::touch(&mut node, now);
                nodes::save(&mut tx, &node, None).await?;
                sqlx::query("UPDATE nodes SET meta = $2 WHERE id = $1")
                    .bind(id.to_string())
                    .bind(to_json(&old.own))
                    .execute(&mut *tx)
                    .await?;
            }
            MetaOwner::Group(_) | MetaOwner::Site(_) => {
                sqlx::query(
                    "UPDATE sites SET meta = $2, version = version + 1, updated_at = $3 WHERE id = $1",
                )
                .bind(owner.id())
                .bind(to_json(&old.own))
                .bind(now.unix_ms())
                .execute(&mut *tx)
                .await?;
                records::renumber(&mut tx, Reach::All).await?;
            }
        }
        let view = view(&mut tx, owner).await?;
        tx.commit().await?;
        Ok(view)
    }
}

impl MetaOwner {
    fn id(self) -> String {
        match self {
            Self::Node(id) => id.to_string(),
            Self::Group(id) => id.to_string(),
            Self::Site(id) => id.to_string(),
        }
    }
}

async fn view(db: &mut DbConnection, owner: MetaOwner) -> Result<MetaView, StoreError> {
    let (own, version, above) = match owner {
        MetaOwner::Node(id) => {
            let node = nodes::load(db, id).await?;
            let row = sqlx::query("SELECT meta FROM nodes WHERE id = $1").bind(id.to_string());
            let own: Meta = json(&row.fetch_one(&mut *db).await?, "meta")?;
            (own, node.version, inherited(db, node.group_id, node.home_site_id).await?)
        }
        MetaOwner::Group(_) | MetaOwner::Site(_) => {
            let group = match owner {
                MetaOwner::Site(id) => sites::find(db, id)
                    .await?
                    .ok_or_else(|| StoreError::Missing { what: "site", id: id.to_string() })?,
                _ => {
                    let id = owner.id();
                    let id = id.parse().map_err(|_| StoreError::Missing { what: "group", id })?;
                    groups::load(db, id).await?
                }
            };
            let row = sqlx::query("SELECT meta FROM sites WHERE id = $1").bind(owner.id());
            let own: Meta = json(&row.fetch_one(&mut *db).await?, "meta")?;
            (own, group.version, inherited(db, group.parent_id, None).await?)
        }
    };
    let mut effective = above;
    effective.extend(own.clone());
    Ok(MetaView { own, effective, version })
}

/// What a node in `group` at `site` has from above: from its group upwards, then from its site upwards, the nearest wins.
pub(super) async fn inherited(
    db: &mut DbConnection,
    group: Option<GroupId>,
    site: Option<SiteId>,
) -> Result<Meta, StoreError> {
    let mut inherited = Meta::new();
    for start in [group, site.map(GroupId::from)].into_iter().flatten() {
        let rows = sqlx::query(
            "WITH RECURSIVE above (id, parent_id, meta, steps) AS (
                SELECT id, parent_id, meta, 0 FROM sites WHERE id = $1
                UNION ALL
                SELECT s.id, s.parent_id, s.meta, a.steps + 1 FROM sites s JOIN above a ON s.id = a.parent_id
             ) SELECT meta FROM above ORDER BY steps",
        );
        for row in &rows.bind(start.to_string()).fetch_all(&mut *db).await? {
            for (name, text) in json::<Meta>(row, "meta")? {
                inherited.entry(name).or_insert(text);
            }
        }
    }
    Ok(inherited)
}
