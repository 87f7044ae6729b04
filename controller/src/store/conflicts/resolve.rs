//! How an operator ends a conflict: once, on the node as it was seen, and for both sides.

use pureboot_protocol::{
    Conflict, ConflictId, ConflictKind, Decider, MergeFields, Node, Resolution, SiteId, SiteOrder,
};
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::Acquire;

use super::{has_moved, load};
use crate::node::{self, Move};
use crate::store::logs::{self, Trigger};
use crate::store::nodes::{self, Origin};
use crate::store::row::{DbConnection, count, int, to_json, word};
use crate::store::{ClaimWord, Store, StoreError, check_version, claims, commands, records, sites};

/// Conflicts that one request resolves.
const RESOLVED_MAX: i64 = 500;

/// What is decided about a conflict.
#[derive(Debug, Clone)]
pub(crate) struct Decision {
    /// Who does: an operator, the person at the site, or a claim that has ended.
    pub(crate) by: Decider,
    pub(crate) resolution: Resolution,
    /// What a merge makes of the node.
    pub(crate) fields: Option<MergeFields>,
    /// The version of the node that the decider has seen.
    pub(crate) version: Option<u64>,
    /// Whether an operator insists, as for any order.
    pub(crate) force: bool,
    /// Why, for the node's history.
    pub(crate) comment: Option<String>,
    /// The decider's name.
    pub(crate) name: String,
}

impl Decision {
    /// The same, as what it says of a claim.
    fn word(&self) -> ClaimWord {
        ClaimWord { name: Some(self.name.clone()), comment: self.comment.clone() }
    }
}

/// What became of many conflicts.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ResolvedAll {
    pub(crate) resolved: u64,
    pub(crate) failed: usize,
    pub(crate) errors: Vec<Unresolved>,
    /// Conflicts of the site that are open still, those that failed among them.
    pub(crate) remaining: u64,
}

/// A conflict that stays open.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Unresolved {
    conflict_id: ConflictId,
    error: String,
}

impl Store {
    /// Ends the conflict `id`, of `site` if one is named. Ending it in the same way again has no effect and the same answer.
    ///
    /// # Errors
    /// There is no such conflict, it has ended in another way, the node is not as the operator has seen it, or it does not take
    /// the decision.
    pub(crate) async fn resolve_conflict(
        &self,
        site: Option<SiteId>,
        id: ConflictId,
        decision: &Decision,
        origin: Origin<'_>,
    ) -> Result<Conflict, StoreError> {
        let mut tx = self.write().await?;
        let conflict = load(&mut tx, id).await?;
        if site.is_some_and(|site| site != conflict.site_id) {
            return Err(StoreError::Missing { what: "conflict", id: id.to_string() });
        }
        if let Some(ending) = &conflict.outcome {
            let is_same =
                (ending.resolution, &ending.fields) == (decision.resolution, &decision.fields);
            return match is_same {
                true => Ok(conflict),
                false => Err(StoreError::Decided { conflict: id, resolution: ending.resolution }),
            };
        }
        resolve(&mut tx, &conflict, decision, origin).await?;
        let conflict = load(&mut tx, id).await?;
        tx.commit().await?;
        Ok(conflict)
    }

    /// Ends the open conflicts of `site` that take `decision`, the oldest first and so many as one request may.
    ///
    /// # Errors
    /// There is no such site, or the database fails. Then nothing is done.
    pub(crate) async fn resolve_all_conflicts(
        &self,
        site: SiteId,
        decision: &Decision,
        origin: Origin<'_>,
    ) -> Result<ResolvedAll, StoreError> {
        let mut tx = self.write().await?;
        sites::load(&mut tx, site).await?;
        let rows = sqlx::query(
            "SELECT id FROM conflicts WHERE site_id = $1 AND resolution IS NULL ORDER BY created_at, id LIMIT $2",
        );
        let rows = rows.bind(site.to_string()).bind(RESOLVED_MAX).fetch_all(&mut *tx).await?;
        let (mut resolved, mut errors) = (0, Vec::new());
        for row in &rows {
            let mut savepoint = tx.begin().await?;
            let conflict = load(&mut savepoint, word(row, "id")?).await?;
            match resolve(&mut savepoint, &conflict, decision, origin).await {
                Ok(()) => {
                    savepoint.commit().await?;
                    resolved += 1;
                }
                Err(
                    error @ (StoreError::Order(_)
                    | StoreError::Moved { .. }
                    | StoreError::NotThere { .. }),
                ) => {
                    savepoint.rollback().await?;
                    errors.push(Unresolved { conflict_id: conflict.id, error: error.to_string() });
                }
                Err(error) => return Err(error),
            }
        }
        let remaining = sqlx::query(
            "SELECT count(*) AS open FROM conflicts WHERE site_id = $1 AND resolution IS NULL",
        );
        let remaining = remaining.bind(site.to_string()).fetch_one(&mut *tx).await?;
        let remaining = count(&remaining, "open")?;
        tx.commit().await?;
        Ok(ResolvedAll { resolved, failed: errors.len(), errors, remaining })
    }
}

async fn resolve(
    db: &mut DbConnection,
    conflict: &Conflict,
    decision: &Decision,
    origin: Origin<'_>,
) -> Result<(), StoreError> {
    let (site, id) = (conflict.site_id, conflict.node_id);
    let kept = nodes::find_as_site(db, site, &[id]).await?.pop();
    let keeps_central = decision.resolution == Resolution::KeepCentral;
    let takes_from_another = conflict.kind == ConflictKind::SiteMismatch && !keeps_central;
    if decision.by == Decider::Site && takes_from_another {
        return Err(StoreError::NotTheSites { conflict: conflict.id });
    }
    let Some((_, kept)) = kept else {
        return match keeps_central {
            true => conclude(db, conflict, decision, None, origin).await,
            false => Err(StoreError::NotThere { node: id }),
        };
    };
    check_version(decision.version, kept.node.version)?;
    if decision.version.is_none() && !keeps_central && has_moved(conflict, &kept) {
        return Err(StoreError::Moved { conflict: conflict.id, current: kept.node.version });
    }
    let before = kept.node;
    let mut node = before.clone();
    if keeps_central && conflict.kind == ConflictKind::SiteMismatch {
        // It is none of this site's, and its own site has to hear nothing.
        claims::refuse(db, site, id, &decision.word(), origin.now).await?;
        return conclude(db, conflict, decision, Some(&node), origin).await;
    }
    let home = node.home_site_id;
    let moved = settle(db, &mut node, conflict, decision, origin).await?;
    nodes::number_wish(db, &before, &mut node).await?;
    nodes::save(db, &node, None).await?;
    records::leave(db, &node, home).await?;
    if node.home_site_id != home {
        claims::follow(db, &node, &decision.word(), origin.now).await?;
    }
    if let Some(moved) = moved {
        let comment = decision.comment.as_deref();
        logs::log_move(db, &node, moved, Trigger::Conflict, comment, origin).await?;
    }
    conclude(db, conflict, decision, Some(&node), origin).await
}

/// Ends the conflict that changes of `site` about `node`, of another site, have begun: the claim on the node is decided.
pub(in crate::store) async fn end_mismatch(
    db: &mut DbConnection,
    site: SiteId,
    node: &Node,
    by: Decider,
    word: &ClaimWord,
    origin: Origin<'_>,
) -> Result<(), StoreError> {
    let Some(id) = super::find_open(db, site, node.id).await? else { return Ok(()) };
    let conflict = load(db, id).await?;
    if conflict.kind != ConflictKind::SiteMismatch {
        return Ok(());
    }
    let decision = Decision {
        by,
        resolution: Resolution::KeepCentral,
        fields: None,
        version: None,
        force: false,
        comment: word.comment.clone(),
        name: word.name.clone().unwrap_or_else(|| by.as_str().to_owned()),
    };
    conclude(db, &conflict, &decision, Some(node), origin).await
}

/// Gives `node` what `decision` makes of both sides; its version rises by one in any case.
async fn settle(
    db: &mut DbConnection,
    node: &mut Node,
    conflict: &Conflict,
    decision: &Decision,
    origin: Origin<'_>,
) -> Result<Option<Move>, StoreError> {
    let state = match (decision.resolution, &decision.fields) {
        (Resolution::KeepCentral, _) => None,
        (Resolution::KeepLocal, _) => {
            node.home_site_id = node.home_site_id.and(Some(conflict.site_id));
            conflict.site.state
        }
        (Resolution::Merge, fields) => {
            let fields = fields.clone().unwrap_or_default();
            let (workflow_id, group_id) = (fields.workflow_id.flatten(), fields.group_id.flatten());
            nodes::check_references(db, workflow_id, group_id, None).await?;
            node.hostname = fields.hostname.unwrap_or(node.hostname.take());
            node.workflow_id = fields.workflow_id.unwrap_or(node.workflow_id);
            node.group_id = fields.group_id.unwrap_or(node.group_id);
            node.tags = fields.tags.unwrap_or(std::mem::take(&mut node.tags));
            fields.state
        }
    };
    match state.filter(|state| *state != node.state) {
        Some(to) => Ok(Some(node::order(node, to, decision.force, origin.now)?)),
        None => {
            node::touch(node, origin.now);
            Ok(None)
        }
    }
}

/// Writes down that `decision` has ended `conflict` with `node` as the result, for both sides: the site reads it in the
/// node's record, whose number has risen, and its agent is told to do so.
async fn conclude(
    db: &mut DbConnection,
    conflict: &Conflict,
    decision: &Decision,
    node: Option<&Node>,
    origin: Origin<'_>,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE conflicts SET resolution = $2, resolved_by = $3, resolved_name = $4, merged = $5, node_version = $6,
            resolved_at = $7
         WHERE id = $1",
    )
    .bind(conflict.id.to_string())
    .bind(decision.resolution.as_str())
    .bind(decision.by.as_str())
    .bind(matches!(decision.by, Decider::Operator | Decider::Site).then_some(&decision.name))
    .bind(decision.fields.as_ref().map(to_json))
    .bind(node.map(|node| int(node.version)))
    .bind(origin.now.unix_ms())
    .execute(&mut *db)
    .await?;
    let Some(node) = node else { return Ok(()) };
    let (conflict_id, mac, resolution) = (conflict.id, node.mac_address, decision.resolution);
    let order = SiteOrder::ResolveConflict { conflict_id, mac, resolution };
    match commands::enqueue(db, conflict.site_id, order, &decision.name, origin.now).await {
        // An agent that answers no orders reads the record when it next asks for it, and the decision stands without it.
        Ok(_) | Err(StoreError::TooManyCommands { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
