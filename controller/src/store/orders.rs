//! Orders to machines, which their own systems ask for.

use pureboot_protocol::{
    CommandId, Invalid, Node, NodeId, NodeOrder, PendingCommand, SiteOrder, Timestamp,
};

use crate::store::{Store, StoreError, check_version, commands, nodes};
use crate::{node, random};

impl Store {
    /// Orders `order` of a machine, in the place of what was ordered before, or takes that back. Its site's agent is told to ask
    /// anew what it is to tell the machine. Doing it twice is doing it once.
    ///
    /// # Errors
    /// There is no such node, it has another version than `version`, it is retired, or too many commands of its site wait.
    pub(crate) async fn order_node(
        &self,
        id: NodeId,
        order: Option<NodeOrder>,
        version: Option<u64>,
        by: &str,
        now: Timestamp,
    ) -> Result<Node, StoreError> {
        let mut tx = self.write().await?;
        let mut node = nodes::load(&mut tx, id).await?;
        check_version(version, node.version)?;
        let pending =
            |command| PendingCommand { id: CommandId::from_random(random::bytes()), command };
        if !node::command(&mut node, order.map(pending), now)? {
            return Ok(node);
        }
        nodes::save(&mut tx, &node, None).await?;
        if let Some(site) = node.home_site_id {
            let order = SiteOrder::Invalidate(Invalid::Node { mac: node.mac_address });
            commands::enqueue(&mut tx, site, order, by, now).await?;
        }
        tx.commit().await?;
        Ok(node)
    }
}
