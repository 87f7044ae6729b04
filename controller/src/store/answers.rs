//! What the answer files of one node are filled in with.

use pureboot_protocol::{Node, NodeId, Workflow};

use crate::store::groups::Group;
use crate::store::meta::{self, Meta};
use crate::store::row::json;
use crate::store::sites::Site;
use crate::store::tree::Assignments;
use crate::store::{Store, StoreError, groups, nodes, secrets, sites, workflows};

/// All that templates may name of a node, but for the texts of secrets.
#[derive(Debug, Clone)]
pub(crate) struct AnswerFacts {
    pub(crate) node: Node,
    pub(crate) group: Option<Group>,
    pub(crate) site: Option<Site>,
    /// What it is assigned or inherits.
    pub(crate) workflow: Option<Workflow>,
    pub(crate) meta: Meta,
    /// The names of the secrets that it has.
    pub(crate) secrets: Vec<String>,
}

impl Store {
    /// The facts of the node with `id`, of one moment.
    ///
    /// # Errors
    /// There is no such node.
    pub(crate) async fn answer_facts(&self, id: NodeId) -> Result<AnswerFacts, StoreError> {
        let mut tx = self.reader.begin().await?;
        let node = nodes::load(&mut tx, id).await?;
        let (group_id, site_id) = (node.group_id, node.home_site_id);
        let group = match group_id {
            Some(id) => groups::find(&mut tx, id).await?.map(Group::from),
            None => None,
        };
        let site = match site_id {
            Some(id) => sites::find(&mut tx, id).await?,
            None => None,
        };
        let workflow = match Assignments::default().of(&mut tx, &node).await? {
            Some(id) => workflows::find(&mut tx, id).await?.map(|kept| kept.workflow),
            None => None,
        };
        let row = sqlx::query("SELECT meta FROM nodes WHERE id = $1").bind(id.to_string());
        let own: Meta = json(&row.fetch_one(&mut *tx).await?, "meta")?;
        let mut meta = meta::inherited(&mut tx, group_id, site_id).await?;
        meta.extend(own);
        let secrets = secrets::names(&mut tx, group_id, site_id).await?;
        Ok(AnswerFacts { node, group, site, workflow, meta, secrets })
    }
}
