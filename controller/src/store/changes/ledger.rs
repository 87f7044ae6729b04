//! What a batch knows of the database and has not written yet: nodes and results are read for all of its changes at once, and
//! rows are written so. Within the batch every change sees what those before it did.

use std::collections::{HashMap, HashSet};

use pureboot_protocol::{
    Change, ChangeId, ChangeResult, ConflictId, Node, NodeEvent, NodeId, Outcome, SiteId,
};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Row};

use super::{Item, Outbox};
use crate::store::StoreError;
use crate::store::logs::{self, SeenEvent};
use crate::store::many::{pieces, values};
use crate::store::nodes::{self, Central, Kept, Origin, Run};
use crate::store::row::{DbConnection, DbRow, count_opt, int, to_json, word, word_opt};

/// A change that has been taken, and itself where it has not taken effect.
struct Taken {
    seq: u64,
    result: ChangeResult,
    raw: Option<String>,
}

/// See the module.
pub(super) struct Ledger {
    site: SiteId,
    known: HashMap<ChangeId, ChangeResult>,
    nodes: HashMap<NodeId, Kept>,
    /// What the site calls the nodes.
    names: HashMap<NodeId, NodeId>,
    unsaved: HashSet<NodeId>,
    events: Vec<SeenEvent>,
    taken: Vec<Taken>,
}

impl Ledger {
    /// Reads what `items` of `site` are about.
    pub(super) async fn open(
        db: &mut DbConnection,
        site: SiteId,
        items: &[(u64, Item, &Value)],
    ) -> Result<Self, StoreError> {
        let ids: Vec<_> = items.iter().map(|(_, item, _)| item.id()).collect();
        let known = known(db, site, &ids).await?;
        let called: HashSet<_> = items.iter().filter_map(|(_, item, _)| item.node()).collect();
        let called: Vec<_> = called.into_iter().collect();
        let (mut nodes, mut names) = (HashMap::new(), HashMap::new());
        for (name, kept) in nodes::find_as_site(db, site, &called).await? {
            names.insert(name, kept.node.id);
            nodes.insert(kept.node.id, kept);
        }
        let (unsaved, events, taken) = (HashSet::new(), Vec::new(), Vec::new());
        Ok(Self { site, known, nodes, names, unsaved, events, taken })
    }

    /// What became of the change `id` when it first came. One that took effect is a duplicate now; of another the agent has to
    /// hear what it would have heard the first time.
    pub(super) fn known(&self, id: ChangeId) -> Option<ChangeResult> {
        let mut result = self.known.get(&id)?.clone();
        if result.outcome == Outcome::Applied {
            result.outcome = Outcome::Duplicate;
        }
        Some(result)
    }

    /// The node that the site calls `name`.
    pub(super) fn called(&self, name: NodeId) -> Option<Kept> {
        self.nodes.get(self.names.get(&name)?).cloned()
    }

    /// The node `id` as it has become, if this batch has to do with it.
    pub(super) fn node(&self, id: NodeId) -> Option<Kept> {
        self.nodes.get(&id).cloned()
    }

    /// Takes over `kept`, which is in the database, under the name that the site has for it.
    pub(super) fn learn(&mut self, name: NodeId, kept: Kept) {
        self.names.insert(name, kept.node.id);
        self.nodes.insert(kept.node.id, kept);
    }

    /// Puts a node in the place of what it was, as a change of this outbox has made it.
    pub(super) fn put(&mut self, node: Node, run: Run, central: Central) {
        self.unsaved.insert(node.id);
        self.nodes.insert(node.id, Kept { node, run: Some(run), central });
    }

    /// Lets the run of a node go on in `outbox`, which has handed over once more, in another place, the very change that made the node
    /// what it is: whoever still has that one has all of the run. Of a change that the site has forgotten it knows nothing, and what
    /// it wishes then is compared (FAULTS D10).
    pub(super) fn carry_on(&mut self, outbox: &Outbox, item: &Item, result: &ChangeResult) {
        let node = item.node().and_then(|name| self.nodes.get_mut(self.names.get(&name)?));
        let Some(Kept { node, run: Some(run), .. }) = node else { return };
        if result.node_version == Some(node.version) && run.outbox_id != outbox.id {
            run.outbox_id = outbox.id;
            self.unsaved.insert(node.id);
        }
    }

    /// An event that the site has reported of `node`.
    pub(super) fn note_event(&mut self, node: NodeId, change: &Change, event: &NodeEvent) {
        self.events.push(SeenEvent::new(node, change, event));
    }

    /// The conflict that the change `seq` is a part of or follows, if it does; none if this batch has not taken it.
    pub(super) fn conflict_of(&self, seq: u64) -> Option<Option<ConflictId>> {
        // They are taken in order.
        let place = self.taken.binary_search_by_key(&seq, |taken| taken.seq).ok()?;
        Some(self.taken.get(place)?.result.conflict_id)
    }

    /// Remembers what became of the change `seq`, which came as `raw`.
    pub(super) fn note(&mut self, seq: u64, result: &ChangeResult, raw: &Value) {
        let raw = (result.outcome != Outcome::Applied).then(|| to_json(raw));
        self.known.insert(result.id, result.clone());
        self.taken.push(Taken { seq, result: result.clone(), raw });
    }

    /// Writes down all that the batch has done.
    pub(super) async fn close(
        self,
        db: &mut DbConnection,
        outbox: &Outbox,
        origin: Origin<'_>,
    ) -> Result<(), StoreError> {
        for kept in self.unsaved.iter().filter_map(|id| self.nodes.get(id)) {
            nodes::save(db, &kept.node, kept.run).await?;
        }
        logs::log_events(db, self.site, &self.events, origin.now).await?;
        for taken in pieces(&self.taken) {
            let sql = format!(
                "INSERT INTO changes (site_id, id, outbox_id, seq, outcome, node_version, conflict_id, reason, raw,
                    correlation_id, received_at) {}",
                values(taken.len(), 11)
            );
            let mut query = sqlx::query(AssertSqlSafe(sql));
            for Taken { seq, result, raw } in taken {
                query = query
                    .bind(self.site.to_string())
                    .bind(result.id.to_string())
                    .bind(outbox.id)
                    .bind(int(*seq))
                    .bind(result.outcome.as_str())
                    .bind(result.node_version.map(int))
                    .bind(result.conflict_id.map(|id| id.to_string()))
                    .bind(&result.reason)
                    .bind(raw)
                    .bind(origin.correlation_id)
                    .bind(origin.now.unix_ms());
            }
            query.execute(&mut *db).await?;
        }
        Ok(())
    }
}

/// What became of those of `ids` that have come before.
async fn known(
    db: &mut DbConnection,
    site: SiteId,
    ids: &[ChangeId],
) -> Result<HashMap<ChangeId, ChangeResult>, StoreError> {
    let mut known = HashMap::new();
    for ids in pieces(ids) {
        let sql = format!(
            "SELECT c.id, c.outcome, c.node_version, c.conflict_id, c.reason FROM ({}) AS sent
             JOIN changes c ON c.site_id = sent.column1 AND c.id = sent.column2",
            values(ids.len(), 2)
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for id in ids {
            query = query.bind(site.to_string()).bind(id.to_string());
        }
        for row in query.fetch_all(&mut *db).await? {
            let result = read_result(&row)?;
            known.insert(result.id, result);
        }
    }
    Ok(known)
}

fn read_result(row: &DbRow) -> Result<ChangeResult, StoreError> {
    Ok(ChangeResult {
        id: word(row, "id")?,
        outcome: word(row, "outcome")?,
        node_version: count_opt(row, "node_version")?,
        conflict_id: word_opt(row, "conflict_id")?,
        reason: row.try_get("reason")?,
    })
}
