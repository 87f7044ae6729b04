//! Custody of what sites hand over: every change exactly once, in order, applied or kept with the reason why not.
//!
//! A batch is one transaction: the effects, the rows that recognise a repetition, and the acknowledgement become durable
//! together or not at all. What a change does is in `taker`; what a batch reads and writes at once for all of its changes is in
//! `ledger`, and how long they are known in `forget`.

mod forget;
mod ledger;
mod taker;

use pureboot_protocol::{Change, ChangeBatch, ChangeId, ChangeReceipt, Epoch, NodeId, SiteId};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::Row;

use self::ledger::Ledger;
use self::taker::Taker;
use crate::audit::{Actor, Entry};
use crate::store::nodes::Origin;
use crate::store::row::{DbConnection, count, flag, int};
use crate::store::{Store, StoreError, audit, claims};

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
        let items = read_items(batch);
        let mut ledger = Ledger::open(&mut tx, site, &items).await?;
        let mut results = Vec::new();
        for (seq, item, raw) in &items {
            // A gap would be a loss that nobody can see later, so nothing behind one is taken.
            if *seq > acked_through + 1 {
                break;
            }
            let result = match ledger.known(item.id()) {
                Some(result) => result,
                None if *seq <= acked_through => return Err(StoreError::Forked { seq: *seq }),
                None => {
                    let mut taker =
                        Taker { db: &mut tx, outbox: &outbox, ledger: &mut ledger, origin };
                    taker.take(*seq, item, raw).await?
                }
            };
            acked_through = acked_through.max(*seq);
            results.push(result);
        }
        ledger.close(&mut tx, &outbox, origin).await?;
        claims::settle(&mut tx, site, origin).await?;
        if acked_through > outbox.acked_through {
            sqlx::query("UPDATE outboxes SET acked_through = $2, rewound = $3 WHERE id = $1")
                .bind(outbox.id)
                .bind(int(acked_through))
                .bind(false)
                .execute(&mut *tx)
                .await?;
            let low_water = batch.low_water.unwrap_or(0);
            forget::forget(&mut tx, &outbox, acked_through, low_water, origin.now).await?;
        }
        tx.commit().await?;
        Ok(ChangeReceipt { nonce: batch.nonce, epoch: batch.epoch, acked_through, results })
    }
}

/// The changes of `batch` with their places, as far as they stand where they say that they do.
fn read_items(batch: &ChangeBatch<Value>) -> Vec<(u64, Item, &Value)> {
    let seqs = (0..).map(|place: u64| batch.first_seq.saturating_add(place));
    let placed = seqs.zip(&batch.items);
    let placed = placed.take_while(|(seq, raw)| item_seq(raw).is_none_or(|stated| stated == *seq));
    placed.map(|(seq, raw)| (seq, Item::read(raw, batch.epoch, seq), raw)).collect()
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

    /// The node that it is about, as the site calls it.
    fn node(&self) -> Option<NodeId> {
        match self {
            Self::Good(change) => Some(change.node),
            Self::Poison { .. } => None,
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
