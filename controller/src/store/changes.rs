//! Custody of what sites hand over: every change exactly once, in order, applied or kept with the reason why not.
//!
//! A batch is one transaction: the effects, the rows that recognise a repetition, and the acknowledgement become durable
//! together or not at all. What a change does is in `taker`; what a batch reads and writes at once for all of its changes is in
//! `ledger`, and how long they are known in `forget`. Whether a batch follows what came before it is decided in `chain`.

mod chain;
mod forget;
mod ledger;
mod taker;

use std::collections::HashMap;
use std::net::IpAddr;

use pureboot_protocol::{
    ChainHash, Change, ChangeBatch, ChangeHead, ChangeId, ChangeReceipt, Epoch, NodeId, SiteId,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::Row;

use self::chain::{Chain, Place};
use self::ledger::Ledger;
use self::taker::Taker;
use crate::audit::{Actor, Entry};
use crate::store::nodes::Origin;
use crate::store::row::{DbConnection, count, flag, int, word, word_opt};
use crate::store::{Store, StoreError, audit, claims, tenures};

/// Changes that a batch may hold: one transaction, during which other sites wait.
pub(crate) const BATCH_ITEMS_MAX: u32 = 1_000;

impl Store {
    /// Takes `batch` of the agent of `site` into custody; it came from `address`.
    ///
    /// A batch that begins after the change that is expected next is not taken; the receipt says how far the outbox has come.
    ///
    /// # Errors
    /// The epoch has another change in the place of one of these, another life of the agent has the floor, or the database fails.
    /// Then nothing is taken.
    pub(crate) async fn take_changes(
        &self,
        site: SiteId,
        batch: &ChangeBatch<Value>,
        address: Option<IpAddr>,
        origin: Origin<'_>,
    ) -> Result<ChangeReceipt, StoreError> {
        let mut tx = self.write().await?;
        if let Err(refused) = tenures::admit(&mut tx, site, batch.instance, address, origin).await?
        {
            // That somebody was refused is kept.
            tx.commit().await?;
            return Err(refused);
        }
        let outbox = Outbox::load(&mut tx, site, batch.epoch).await?;
        let items = read_items(batch);
        let heads: Vec<_> = items.iter().map(|(seq, item, raw)| item.head(*seq, raw)).collect();
        let receipt = |chain: Chain, results| ChangeReceipt {
            nonce: batch.nonce,
            epoch: batch.epoch,
            acked_through: chain.acked_through,
            hash: chain.link(),
            results,
            takes: None,
        };
        let mut chain = match outbox.chain.place(batch, &heads, outbox.is_rewound) {
            Place::Fits(chain) => chain,
            Place::Lost(chain) => {
                note_loss(&mut tx, &outbox, batch.first_seq, origin).await?;
                chain
            }
            Place::Behind => {
                tx.commit().await?;
                return Ok(receipt(outbox.chain, Vec::new()));
            }
            Place::Forked => return Err(StoreError::Forked { seq: outbox.chain.acked_through }),
        };
        let taken = outbox.taken_from(&mut tx, batch.first_seq, chain.acked_through).await?;
        let mut ledger = Ledger::open(&mut tx, site, &items).await?;
        let mut results = Vec::new();
        for ((seq, item, raw), head) in items.iter().zip(&heads) {
            let is_old = *seq <= chain.acked_through;
            let is_other = taken.get(seq).is_some_and(|id| *id != item.id());
            let result = match ledger.known(item.id()) {
                Some(result) if !is_other => result,
                _ if is_old => return Err(StoreError::Forked { seq: *seq }),
                Some(result) => result,
                None => {
                    let mut taker =
                        Taker { db: &mut tx, outbox: &outbox, ledger: &mut ledger, origin };
                    taker.take(*seq, item, raw).await?
                }
            };
            if !is_old {
                chain = chain.after(head);
                ledger.carry_on(&outbox, item, &result);
            }
            results.push(result);
        }
        ledger.close(&mut tx, &outbox, origin).await?;
        claims::settle(&mut tx, site, origin).await?;
        if chain != outbox.chain {
            outbox.advance(&mut tx, chain).await?;
            let low_water = batch.low_water.unwrap_or(0);
            forget::forget(&mut tx, &outbox, chain.acked_through, low_water, origin.now).await?;
        }
        tx.commit().await?;
        Ok(receipt(chain, results))
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
    chain: Chain,
    /// Whether a restore has taken it back (FAULTS N12): the agent sends again what it still has, and what it has no more is lost.
    is_rewound: bool,
}

impl Outbox {
    async fn load(db: &mut DbConnection, site: SiteId, epoch: Epoch) -> Result<Self, StoreError> {
        let row = sqlx::query(
            "SELECT id, acked_through, rewound, hash FROM outboxes WHERE site_id = $1 AND epoch = $2",
        );
        let row = row.bind(site.to_string()).bind(epoch.to_string()).fetch_optional(&mut *db);
        let row = match row.await? {
            Some(row) => row,
            None => {
                let row = sqlx::query(
                    "INSERT INTO outboxes (site_id, epoch, acked_through, rewound, hash) SELECT $1, $2, 0,
                        EXISTS (SELECT 1 FROM installation WHERE restored_at IS NOT NULL), CAST($3 AS TEXT)
                     RETURNING id, acked_through, rewound, hash",
                );
                let row = row.bind(site.to_string()).bind(epoch.to_string());
                row.bind(ChainHash::GENESIS.to_string()).fetch_one(db).await?
            }
        };
        Ok(Self {
            id: row.try_get("id")?,
            site,
            chain: Chain {
                acked_through: count(&row, "acked_through")?,
                hash: word_opt(&row, "hash")?,
            },
            is_rewound: flag(&row, "rewound")?,
        })
    }

    /// The changes that have the places from `first_seq` to `through`, as far as they are remembered under them.
    async fn taken_from(
        &self,
        db: &mut DbConnection,
        first_seq: u64,
        through: u64,
    ) -> Result<HashMap<u64, ChangeId>, StoreError> {
        if first_seq > through {
            return Ok(HashMap::new());
        }
        let sql = "SELECT seq, id FROM changes WHERE outbox_id = $1 AND seq >= $2 AND seq <= $3 ORDER BY seq LIMIT $4";
        let rows = sqlx::query(sql).bind(self.id).bind(int(first_seq)).bind(int(through));
        let rows = rows.bind(i64::from(BATCH_ITEMS_MAX)).fetch_all(db).await?;
        rows.iter().map(|row| Ok((count(row, "seq")?, word(row, "id")?))).collect()
    }

    async fn advance(&self, db: &mut DbConnection, chain: Chain) -> Result<(), StoreError> {
        let is_rewound = self.is_rewound && chain.acked_through == self.chain.acked_through;
        sqlx::query(
            "UPDATE outboxes SET acked_through = $2, rewound = $3, hash = $4 WHERE id = $1",
        )
        .bind(self.id)
        .bind(int(chain.acked_through))
        .bind(is_rewound)
        .bind(chain.hash.map(|hash| hash.to_string()))
        .execute(db)
        .await?;
        Ok(())
    }
}

/// Says in the log and in the audit which changes of a site a restore has lost.
async fn note_loss(
    db: &mut DbConnection,
    outbox: &Outbox,
    first_seq: u64,
    origin: Origin<'_>,
) -> Result<(), StoreError> {
    let (site, from, through) = (outbox.site, outbox.chain.acked_through + 1, first_seq - 1);
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

    /// What it says of itself in the place `seq`; of what cannot even say that, its place and its id.
    fn head(&self, seq: u64, raw: &Value) -> ChangeHead {
        let read = <ChangeHead as serde::Deserialize>::deserialize(raw).ok();
        read.unwrap_or_else(|| ChangeHead {
            seq,
            id: self.id(),
            node: String::new(),
            base_version: None,
            prev_seq_same_node: None,
            at: String::new(),
            clock: String::new(),
            session: None,
        })
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
