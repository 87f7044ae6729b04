//! Custody of what sites hand over: every change exactly once, in order, applied or kept with the reason why not.
//!
//! A batch is one transaction: the effects, the rows that recognise a repetition, and the acknowledgement become durable
//! together or not at all. What a change does to a node is decided in [`crate::node`].

use pureboot_protocol::{
    Change, ChangeBatch, ChangeId, ChangePayload, ChangeReceipt, ChangeResult, Epoch, Lifecycle,
    Node, NodeEvent, Outcome, RegisterNode, SiteId,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::Row;

use crate::audit::{Actor, Entry};
use crate::node::{self, Disagreement, Move};
use crate::store::logs::{self, Trigger};
use crate::store::nodes::{self, Origin, Run};
use crate::store::row::{DbConnection, count, count_opt, flag, int, to_json, word};
use crate::store::{Store, StoreError, audit, tree};

/// The longest reason that is kept, in characters; texts of a parser may repeat what they were given.
const REASON_LEN_MAX: usize = 300;
/// Machines of one site that may be unknown to operators at a time; whoever floods a site with random addresses fills no more.
const UNKNOWN_NODES_MAX: u64 = 1_000;

impl Store {
    /// Takes `batch` of the agent of `site` into custody.
    ///
    /// A batch that begins after the change that is expected next is not taken; the receipt says how far the outbox has come.
    ///
    /// # Errors
    /// The epoch has another change in the place of one of these, or the database fails. Then nothing is taken.
    pub(crate) async fn take_changes(
        &self,
        site: SiteId,
        batch: &ChangeBatch<Value>,
        origin: Origin<'_>,
    ) -> Result<ChangeReceipt, StoreError> {
        let mut tx = self.write().await?;
        let outbox = Outbox::load(&mut tx, site, batch.epoch).await?;
        let mut acked_through = outbox.acked_through;
        if outbox.is_rewound && batch.first_seq > acked_through + 1 && !batch.items.is_empty() {
            note_loss(&mut tx, &outbox, batch.first_seq, origin).await?;
            acked_through = batch.first_seq - 1;
        }
        let mut results = Vec::new();
        for raw in &batch.items {
            let seq = batch.first_seq.saturating_add(int_len(&results));
            // A gap would be a loss that nobody can see later, so nothing behind one is taken.
            if seq > acked_through + 1 || item_seq(raw).is_some_and(|stated| stated != seq) {
                break;
            }
            let item = Item::read(raw, batch.epoch, seq);
            let result = match known(&mut tx, site, item.id()).await? {
                Some(result) => result,
                None if seq <= acked_through => return Err(StoreError::Forked { seq }),
                None => {
                    let mut taker = Taker { db: &mut tx, outbox: &outbox, origin };
                    taker.take(seq, &item, raw).await?
                }
            };
            acked_through = acked_through.max(seq);
            results.push(result);
        }
        if acked_through > outbox.acked_through {
            sqlx::query("UPDATE outboxes SET acked_through = $2, rewound = $3 WHERE id = $1")
                .bind(outbox.id)
                .bind(int(acked_through))
                .bind(false)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(ChangeReceipt { nonce: batch.nonce, epoch: batch.epoch, acked_through, results })
    }
}

fn int_len(results: &[ChangeResult]) -> u64 {
    u64::try_from(results.len()).unwrap_or(u64::MAX)
}

fn item_seq(raw: &Value) -> Option<u64> {
    raw.get("seq").and_then(Value::as_u64)
}

/// One life of the outbox of one site's agent. It belongs to the site and not to the registration, so that an agent that has
/// to register anew goes on where it was.
struct Outbox {
    id: i64,
    site: SiteId,
    acked_through: u64,
    /// Whether a restore has taken it back (FAULTS N12): the agent may have deleted what it handed over since the backup, and
    /// would wait for ever for an acknowledgement that fits.
    is_rewound: bool,
}

impl Outbox {
    async fn load(db: &mut DbConnection, site: SiteId, epoch: Epoch) -> Result<Self, StoreError> {
        sqlx::query(
            "INSERT INTO outboxes (site_id, epoch, acked_through, rewound)
             SELECT $1, $2, 0, EXISTS (SELECT 1 FROM installation WHERE restored_at IS NOT NULL) WHERE TRUE
             ON CONFLICT (site_id, epoch) DO NOTHING",
        )
        .bind(site.to_string())
        .bind(epoch.to_string())
        .execute(&mut *db)
        .await?;
        let row = sqlx::query(
            "SELECT id, acked_through, rewound FROM outboxes WHERE site_id = $1 AND epoch = $2",
        );
        let row = row.bind(site.to_string()).bind(epoch.to_string()).fetch_one(db).await?;
        Ok(Self {
            id: row.try_get("id")?,
            site,
            acked_through: count(&row, "acked_through")?,
            is_rewound: flag(&row, "rewound")?,
        })
    }
}

/// Says in the log and in the audit which changes of a site a restore has lost.
async fn note_loss(
    db: &mut DbConnection,
    outbox: &Outbox,
    first_seq: u64,
    origin: Origin<'_>,
) -> Result<(), StoreError> {
    let (site, from, through) = (outbox.site, outbox.acked_through + 1, first_seq - 1);
    tracing::warn!(%site, from, through, "changes {from} to {through} of site {site} came after the backup that was restored and are lost");
    let mut entry = Entry::new(origin.now, Actor::nobody(), "changes.lost", origin.correlation_id);
    entry.target = Some(site.to_string());
    entry.detail = Some(json!({"from": from, "through": through}));
    audit::insert_new(db, &entry).await
}

/// What a batch holds in one place.
enum Item {
    /// A change.
    Good(Box<Change>),
    /// Something that this version does not understand.
    Poison { id: ChangeId, reason: String },
}

impl Item {
    fn read(raw: &Value, epoch: Epoch, seq: u64) -> Self {
        match <Change as serde::Deserialize>::deserialize(raw) {
            Ok(change) => Self::Good(Box::new(change)),
            Err(error) => {
                let stated = raw.get("id").and_then(Value::as_str).map(str::to_owned);
                let id = stated.and_then(|id| ChangeId::try_from(id).ok());
                let id = id.unwrap_or_else(|| poison_id(raw, epoch, seq));
                Self::Poison { id, reason: format!("not understood: {error}") }
            }
        }
    }

    fn id(&self) -> ChangeId {
        match self {
            Self::Good(change) => change.id,
            Self::Poison { id, .. } => *id,
        }
    }
}

/// The id of an item that does not say one: the same for the same item in the same place.
fn poison_id(raw: &Value, epoch: Epoch, seq: u64) -> ChangeId {
    let digest: [u8; 32] = Sha256::digest(format!("{epoch} {seq} {raw}")).into();
    let mut id = [0; 16];
    id.iter_mut().zip(digest).for_each(|(slot, byte)| *slot = byte);
    ChangeId::from_bytes(id)
}

/// What became of the change `id` of `site` when it first came. One that took effect is a duplicate now; of another the
/// agent has to hear what it would have heard the first time.
async fn known(
    db: &mut DbConnection,
    site: SiteId,
    id: ChangeId,
) -> Result<Option<ChangeResult>, StoreError> {
    let row = sqlx::query(
        "SELECT outcome, node_version, reason FROM changes WHERE site_id = $1 AND id = $2",
    )
    .bind(site.to_string())
    .bind(id.to_string())
    .fetch_optional(db)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let outcome = match word(&row, "outcome")? {
        Outcome::Applied | Outcome::Duplicate => Outcome::Duplicate,
        kept @ (Outcome::Conflict | Outcome::Parked) => kept,
    };
    let (node_version, reason) = (count_opt(&row, "node_version")?, row.try_get("reason")?);
    Ok(Some(ChangeResult { id, outcome, node_version, reason }))
}

/// The part of a reason that is kept. PostgreSQL has no NUL in its texts.
fn readable(reason: &str) -> String {
    reason.chars().filter(|c| *c != '\0').take(REASON_LEN_MAX).collect()
}

/// What a change has done.
enum Effect {
    /// It is in the node.
    Applied(Node),
    /// The controller's side stands, and both are kept.
    Conflict(Node, Lifecycle, Disagreement),
    /// It is kept for somebody to look at.
    Parked(String),
}

/// Takes the changes of one outbox, within one transaction.
struct Taker<'a> {
    db: &'a mut DbConnection,
    outbox: &'a Outbox,
    origin: Origin<'a>,
}

impl Taker<'_> {
    async fn take(
        &mut self,
        seq: u64,
        item: &Item,
        raw: &Value,
    ) -> Result<ChangeResult, StoreError> {
        let effect = match item {
            Item::Good(change) => self.apply(change).await?,
            Item::Poison { reason, .. } => Effect::Parked(reason.clone()),
        };
        let id = item.id();
        let result = |outcome, node_version, reason: Option<String>| {
            let reason = reason.map(|reason| readable(&reason));
            ChangeResult { id, outcome, node_version, reason }
        };
        let result = match &effect {
            Effect::Applied(node) => result(Outcome::Applied, Some(node.version), None),
            Effect::Conflict(node, _, cause) => {
                result(Outcome::Conflict, Some(node.version), Some(cause.to_string()))
            }
            Effect::Parked(reason) => result(Outcome::Parked, None, Some(reason.clone())),
        };
        self.record(seq, &result, raw).await?;
        if let (Item::Good(change), Effect::Conflict(node, wished, cause)) = (item, &effect) {
            self.record_conflict(change, node, *wished, cause).await?;
        }
        if result.outcome != Outcome::Applied {
            let reason = result.reason.as_deref().unwrap_or_default();
            let (site, outcome) = (self.outbox.site, result.outcome);
            tracing::warn!(%site, seq, change = %id, %outcome, "change {seq} of site {site}: {outcome}: {reason:?}");
        }
        Ok(result)
    }

    async fn apply(&mut self, change: &Change) -> Result<Effect, StoreError> {
        match &change.payload {
            ChangePayload::Registration(seen) => self.register(change, seen).await,
            ChangePayload::Event(event) => match self.own_node(change).await? {
                Ok((node, run)) => self.observe(change, event, node, run).await,
                Err(reason) => Ok(Effect::Parked(reason)),
            },
            ChangePayload::StateChange { state, .. } => match self.own_node(change).await? {
                Ok((node, run)) => self.wish(change, *state, node, run).await,
                Err(reason) => Ok(Effect::Parked(reason)),
            },
        }
    }

    async fn register(
        &mut self,
        change: &Change,
        seen: &RegisterNode,
    ) -> Result<Effect, StoreError> {
        let (site, now) = (self.outbox.site, self.origin.now);
        let mac = seen.request.mac;
        let known = nodes::find_by_mac(self.db, mac).await?;
        let named = nodes::find_as_site(self.db, site, change.node).await?;
        let (mut node, run) = match (known, named) {
            (Some((node, _)), _) if self.is_foreign(&node) => {
                return Ok(Effect::Parked(format!(
                    "{mac} belongs to node {} of another site",
                    node.id
                )));
            }
            (Some(_), Some((other, _))) if other.mac_address != mac => {
                return Ok(Effect::Parked(format!(
                    "the id {} belongs to another machine than {mac}",
                    change.node
                )));
            }
            (Some((node, run)), None) => {
                nodes::alias(self.db, site, change.node, node.id).await?;
                (node, run)
            }
            (Some(known), Some(_)) => known,
            (None, Some(_)) => {
                return Ok(Effect::Parked(format!(
                    "the id {} belongs to another machine than {mac}",
                    change.node
                )));
            }
            (None, None) => {
                if nodes::count_unknown(self.db, site).await? >= UNKNOWN_NODES_MAX {
                    return Ok(Effect::Parked(format!(
                        "site {site} has {UNKNOWN_NODES_MAX} machines already that nobody has looked at; retire them or take \
                         them in, and {mac} is registered when it boots again"
                    )));
                }
                let mut node = node::new(change.node, mac, now);
                node.home_site_id = Some(site);
                // What follows counts this change, and the first version is 1.
                node.version = 0;
                (node, None)
            }
        };
        let (base, is_new) = (node.version, node.last_seen_at.is_none());
        node::learn(&mut node, seen, node::seen_at(change, now), now);
        let inherited = tree::inherited(self.db, node.group_id, node.home_site_id).await?;
        let moved = match inherited.auto_provision {
            Some(true) if is_new => node::provision(&mut node, now),
            _ => None,
        };
        self.save(node, run, base, moved, Trigger::AutoProvision).await
    }

    async fn observe(
        &mut self,
        change: &Change,
        event: &NodeEvent,
        mut node: Node,
        run: Option<Run>,
    ) -> Result<Effect, StoreError> {
        let (site, now) = (self.outbox.site, self.origin.now);
        logs::log_event(self.db, node.id, site, change, event, now).await?;
        let base = node.version;
        let moved = node::observe(&mut node, event, node::seen_at(change, now), now);
        self.save(node, run, base, moved, Trigger::Site).await
    }

    async fn wish(
        &mut self,
        change: &Change,
        to: Lifecycle,
        mut node: Node,
        run: Option<Run>,
    ) -> Result<Effect, StoreError> {
        let base = node.version;
        let run_base = self.own_run(run).map(|run| run.base);
        match node::wish(&mut node, to, change.base_version, run_base, self.origin.now) {
            Ok(moved) => self.save(node, run, base, moved, Trigger::Site).await,
            Err(cause) => Ok(Effect::Conflict(node, to, cause)),
        }
    }

    /// The node that `change` is about, or why it may not be.
    async fn own_node(
        &mut self,
        change: &Change,
    ) -> Result<Result<(Node, Option<Run>), String>, StoreError> {
        let found = nodes::find_as_site(self.db, self.outbox.site, change.node).await?;
        Ok(match found {
            None => Err(format!("there is no node {}", change.node)),
            Some((node, _)) if self.is_foreign(&node) => {
                Err(format!("node {} belongs to another site", node.id))
            }
            Some(found) => Ok(found),
        })
    }

    fn is_foreign(&self, node: &Node) -> bool {
        node.home_site_id.is_some_and(|home| home != self.outbox.site)
    }

    /// The run that a node is in, if it is one of this outbox.
    fn own_run(&self, run: Option<Run>) -> Option<Run> {
        run.filter(|run| run.outbox_id == self.outbox.id)
    }

    async fn save(
        &mut self,
        node: Node,
        run: Option<Run>,
        base: u64,
        moved: Option<Move>,
        trigger: Trigger,
    ) -> Result<Effect, StoreError> {
        let run = self.own_run(run).unwrap_or(Run { outbox_id: self.outbox.id, base });
        nodes::save(self.db, &node, Some(run)).await?;
        if let Some(moved) = moved {
            logs::log_move(self.db, &node, moved, trigger, None, self.origin).await?;
        }
        Ok(Effect::Applied(node))
    }

    /// Writes down that a change has come, and itself where it has not taken effect.
    async fn record(
        &mut self,
        seq: u64,
        result: &ChangeResult,
        raw: &Value,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO changes (site_id, id, outbox_id, seq, outcome, node_version, reason, raw, correlation_id, received_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(self.outbox.site.to_string())
        .bind(result.id.to_string())
        .bind(self.outbox.id)
        .bind(int(seq))
        .bind(result.outcome.as_str())
        .bind(result.node_version.map(int))
        .bind(&result.reason)
        .bind((result.outcome != Outcome::Applied).then(|| to_json(raw)))
        .bind(self.origin.correlation_id)
        .bind(self.origin.now.unix_ms())
        .execute(&mut *self.db)
        .await?;
        Ok(())
    }

    async fn record_conflict(
        &mut self,
        change: &Change,
        node: &Node,
        wished: Lifecycle,
        cause: &Disagreement,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO conflicts (site_id, change_id, node_id, site_state, site_base_version, site_at, site_clock,
                central_state, central_version, central_changed_at, cause, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        )
        .bind(self.outbox.site.to_string())
        .bind(change.id.to_string())
        .bind(node.id.to_string())
        .bind(wished.as_str())
        .bind(change.base_version.map(int))
        .bind(change.at.unix_ms())
        .bind(change.clock.as_str())
        .bind(node.state.as_str())
        .bind(int(node.version))
        .bind(node.updated_at.unix_ms())
        .bind(cause.to_string())
        .bind(self.origin.now.unix_ms())
        .execute(&mut *self.db)
        .await?;
        Ok(())
    }
}
