//! What the answer files of one node are filled in with.

use std::collections::BTreeMap;

use pureboot_protocol::{FileName, Node, NodeId, SiteId, Workflow};
use pureboot_templates::answer::Library;

use crate::store::groups::Group;
use crate::store::meta::{self, Meta};
use crate::store::row::{DbConnection, json};
use crate::store::secrets::SealedSecret;
use crate::store::sites::Site;
use crate::store::templates::TemplateHead;
use crate::store::tree::Assignments;
use crate::store::{Store, StoreError, groups, nodes, secrets, sites, templates, workflows};

/// All that templates may name of a node, but for the texts of secrets.
#[derive(Debug, Clone)]
pub(crate) struct AnswerFacts {
    pub(crate) node: Node,
    pub(crate) group: Option<Group>,
    pub(crate) site: Option<Site>,
    /// What it is assigned or inherits.
    pub(crate) workflow: Option<Workflow>,
    pub(crate) meta: Meta,
    /// The secrets that it has, by name.
    pub(crate) secrets: BTreeMap<String, SealedSecret>,
}

/// [`AnswerFacts`], and the templates of the node's answer files.
#[derive(Debug, Clone)]
pub(crate) struct AnswerKit {
    pub(crate) facts: AnswerFacts,
    /// Each with the templates that it needs, itself among them.
    pub(crate) files: BTreeMap<FileName, (TemplateHead, Library)>,
}

impl Store {
    /// The facts of the node with `id`, of one moment.
    ///
    /// # Errors
    /// There is no such node.
    pub(crate) async fn answer_facts(&self, id: NodeId) -> Result<AnswerFacts, StoreError> {
        facts(&mut *self.reader.begin().await?, id).await
    }

    /// What the answer files of the node with `id` are made of, as far as `site` may have it, of one moment.
    ///
    /// # Errors
    /// There is no such node, or it is another site's.
    pub(crate) async fn answer_kit(
        &self,
        site: SiteId,
        id: NodeId,
    ) -> Result<AnswerKit, StoreError> {
        let mut tx = self.reader.begin().await?;
        let facts = facts(&mut tx, id).await?;
        if facts.node.home_site_id.is_some_and(|home| home != site) {
            return Err(StoreError::Missing { what: "node of this site", id: id.to_string() });
        }
        let mut files = BTreeMap::new();
        for (file, template) in facts.workflow.iter().flat_map(|workflow| &workflow.templates) {
            files.insert(file.clone(), templates::with_library(&mut tx, *template).await?);
        }
        Ok(AnswerKit { facts, files })
    }
}

async fn facts(db: &mut DbConnection, id: NodeId) -> Result<AnswerFacts, StoreError> {
    let node = nodes::load(db, id).await?;
    let (group_id, site_id) = (node.group_id, node.home_site_id);
    let group = match group_id {
        Some(id) => groups::find(db, id).await?.map(Group::from),
        None => None,
    };
    let site = match site_id {
        Some(id) => sites::find(db, id).await?,
        None => None,
    };
    let workflow = match Assignments::default().of(db, &node).await? {
        Some(id) => workflows::find(db, id).await?.map(|kept| kept.workflow),
        None => None,
    };
    let row = sqlx::query("SELECT meta FROM nodes WHERE id = $1").bind(id.to_string());
    let own: Meta = json(&row.fetch_one(&mut *db).await?, "meta")?;
    let mut meta = meta::inherited(db, group_id, site_id).await?;
    meta.extend(own);
    let secrets = secrets::effective(db, group_id, site_id).await?;
    Ok(AnswerFacts { node, group, site, workflow, meta, secrets })
}
