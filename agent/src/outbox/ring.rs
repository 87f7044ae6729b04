//! What is kept of acknowledged changes, for a controller or a disk that comes back from the past (FAULTS Q8, Q9).
//!
//! The table holds an unbroken run of changes: up to `acked_through` the controller has them, after it they wait. A controller that
//! has lost some is sent them again by moving that border back. What is older than the limits goes from the front.

use std::collections::HashMap;

use pureboot_protocol::{ChainHash, Epoch, NodeId, Timestamp};
use rusqlite::{Connection, OptionalExtension, named_params};

use super::chain;
use super::flush::LIMITS;
use super::record::{Entry, epoch};
use crate::store::{CachedNode, Store, StoreError, Word, load_all};

/// How long an acknowledged change is kept.
pub(super) const RING_DAYS: i64 = 7;
/// How much of them is kept, in bytes of payload with [`ROW_BYTES`] for each row.
pub(super) const RING_BYTES_MAX: u64 = 16 << 20;
/// What a row and its places in the indexes take besides the payload.
const ROW_BYTES: u64 = 512;
/// Below this a ring that has to make room goes as a whole: half of it may not free a single page.
const YIELDED_WHOLE: u64 = 1 << 20;
/// The most rows that go at once: twice what an acknowledgement adds at the most, so that the ring shrinks.
const PRUNED_MAX: u64 = 2 * LIMITS.items_max as u64;

const DAY_S: i64 = 24 * 3_600;
/// The largest number that SQLite has.
const NO_LIMIT: u64 = i64::MAX.unsigned_abs();

/// Where the run of kept changes begins, and how far the controller has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Borders {
    pub(super) acked_through: u64,
    pub(super) pruned_through: u64,
    pub(super) pruned_hash: ChainHash,
}

impl Borders {
    pub(super) fn load(db: &Connection) -> rusqlite::Result<Self> {
        db.prepare_cached("SELECT acked_through, pruned_through, pruned_hash FROM meta")?.query_row(
            [],
            |row| {
                Ok(Self {
                    acked_through: row.get("acked_through")?,
                    pruned_through: row.get("pruned_through")?,
                    pruned_hash: row.get::<_, Word<_>>("pruned_hash")?.0,
                })
            },
        )
    }

    fn save(self, db: &Connection) -> rusqlite::Result<()> {
        let sql = "UPDATE meta SET acked_through = ?1, pruned_through = ?2, pruned_hash = ?3";
        let Self { acked_through, pruned_through, pruned_hash } = self;
        db.prepare_cached(sql)?.execute((acked_through, pruned_through, Word(pruned_hash)))?;
        Ok(())
    }

    /// The link of change `seq`; none where it is not kept any more.
    pub(super) fn link_at(self, db: &Connection, seq: u64) -> rusqlite::Result<Option<ChainHash>> {
        if seq == self.pruned_through {
            return Ok(Some(self.pruned_hash));
        }
        let hash = db
            .prepare_cached("SELECT hash FROM outbox WHERE seq = ?1")?
            .query_row([seq], |row| row.get::<_, Word<_>>(0))
            .optional()?;
        Ok(hash.map(|hash| hash.0))
    }

    /// Takes the changes up to `through` as acknowledged at `at`, and lets the oldest go that are over the limits.
    pub(super) fn advance(
        self,
        db: &Connection,
        through: u64,
        at: Timestamp,
    ) -> rusqlite::Result<()> {
        let moved = Use::between(db, self.acked_through, through)?;
        moved.iter().try_for_each(|class| class.leave_queue(db))?;
        let borders = Self { acked_through: through.max(self.acked_through), ..self };
        borders.prune(db, Some(kept_since(at)), RING_BYTES_MAX, PRUNED_MAX)
    }

    /// Lets the oldest acknowledged changes go, `rows_max` at most, as long as they are older than `before` or there are more than
    /// `bytes_max`.
    fn prune(
        self,
        db: &Connection,
        before: Option<Timestamp>,
        bytes_max: u64,
        rows_max: u64,
    ) -> rusqlite::Result<()> {
        let (mut rows, mut size_bytes) = ring_use(db)?;
        let mut borders = self;
        let mut statement = db.prepare_cached(
            "SELECT seq, hash, acked_at, length(CAST(payload AS BLOB)) AS size_bytes FROM outbox
             WHERE seq <= ?1 ORDER BY seq LIMIT ?2",
        )?;
        let mut oldest = statement.query((self.acked_through, rows_max))?;
        while let Some(row) = oldest.next()? {
            let acked_at: Option<i64> = row.get("acked_at")?;
            let is_old =
                before.is_some_and(|before| acked_at.is_some_and(|at| at < before.unix_ms()));
            if !is_old && size_bytes <= bytes_max {
                break;
            }
            borders.pruned_through = row.get("seq")?;
            borders.pruned_hash = row.get::<_, Word<_>>("hash")?.0;
            rows = rows.saturating_sub(1);
            size_bytes = size_bytes.saturating_sub(row.get::<_, u64>("size_bytes")? + ROW_BYTES);
        }
        if borders.pruned_through > self.pruned_through {
            db.prepare_cached("DELETE FROM outbox WHERE seq <= ?1")?
                .execute([borders.pruned_through])?;
            set_ring_use(db, rows, size_bytes)?;
        }
        borders.save(db)
    }
}

/// What some changes of one class take.
struct Use {
    is_event: bool,
    rows: u64,
    size_bytes: u64,
}

impl Use {
    fn between(db: &Connection, after: u64, through: u64) -> rusqlite::Result<Vec<Self>> {
        db.prepare_cached(
            "SELECT is_event, count(*), sum(length(CAST(payload AS BLOB))) FROM outbox
             WHERE seq > ?1 AND seq <= ?2 GROUP BY is_event",
        )?
        .query_map((after, through), |row| {
            Ok(Self { is_event: row.get(0)?, rows: row.get(1)?, size_bytes: row.get(2)? })
        })?
        .collect()
    }

    /// They wait no more, and are kept.
    fn leave_queue(&self, db: &Connection) -> rusqlite::Result<()> {
        let Self { is_event, rows, size_bytes } = *self;
        db.prepare_cached(
            "UPDATE outbox_use SET row_count = row_count - ?2, size_bytes = size_bytes - ?3 WHERE is_event = ?1",
        )?
        .execute((is_event, rows, size_bytes))?;
        let (kept, kept_bytes) = ring_use(db)?;
        set_ring_use(db, kept + rows, kept_bytes + size_bytes + rows * ROW_BYTES)
    }

    /// They wait again.
    fn join_queue(&self, db: &Connection) -> rusqlite::Result<()> {
        let Self { is_event, rows, size_bytes } = *self;
        db.prepare_cached(
            "UPDATE outbox_use SET row_count = row_count + ?2, size_bytes = size_bytes + ?3 WHERE is_event = ?1",
        )?
        .execute((is_event, rows, size_bytes))?;
        let (kept, kept_bytes) = ring_use(db)?;
        let kept_bytes = kept_bytes.saturating_sub(size_bytes + rows * ROW_BYTES);
        set_ring_use(db, kept.saturating_sub(rows), kept_bytes)
    }
}

/// What was acknowledged before this is not kept at `at`.
pub(crate) fn kept_since(at: Timestamp) -> Timestamp {
    at.plus_seconds(-RING_DAYS * DAY_S)
}

/// How many acknowledged changes are kept, and what they take.
pub(super) fn ring_use(db: &Connection) -> rusqlite::Result<(u64, u64)> {
    db.prepare_cached("SELECT row_count, size_bytes FROM ring_use")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
}

fn set_ring_use(db: &Connection, rows: u64, size_bytes: u64) -> rusqlite::Result<()> {
    db.prepare_cached("UPDATE ring_use SET row_count = ?1, size_bytes = ?2")?
        .execute((rows, size_bytes))?;
    Ok(())
}

/// Gives half of what the kept changes take, or all where that is little, to those that are to be written: the file is full.
pub(super) fn yield_space(db: &mut Connection) -> rusqlite::Result<()> {
    let transaction = db.transaction()?;
    let (rows, size_bytes) = ring_use(&transaction)?;
    let rest = if size_bytes < YIELDED_WHOLE { 0 } else { size_bytes / 2 };
    Borders::load(&transaction)?.prune(&transaction, None, rest, rows)?;
    transaction.commit()
}

impl Store {
    /// Lets the changes after `through` wait again, as far as they are kept: the controller, whose link of `through` is `hash`, has
    /// lost them (FAULTS N12). False if none is kept, or if the controller has other changes before that one.
    ///
    /// # Errors
    /// See [`StoreError`]; nothing has changed then.
    pub async fn rewind(
        &self,
        epoch_behind: Epoch,
        through: u64,
        hash: ChainHash,
    ) -> Result<bool, StoreError> {
        self.run(move |db| {
            let transaction = db.transaction()?;
            if epoch(&transaction)? != epoch_behind {
                return Ok(true);
            }
            let borders = Borders::load(&transaction)?;
            let is_ours = borders.link_at(&transaction, through)?.is_none_or(|link| link == hash);
            let acked_through = through.max(borders.pruned_through);
            if !is_ours || acked_through >= borders.acked_through {
                return Ok(false);
            }
            let moved = Use::between(&transaction, acked_through, borders.acked_through)?;
            moved.iter().try_for_each(|class| class.join_queue(&transaction))?;
            transaction.execute(
                "UPDATE outbox SET acked_at = NULL, outcome = NULL, node_version = NULL, conflict_id = NULL, reason = NULL
                 WHERE seq > ?1 AND seq <= ?2",
                (acked_through, borders.acked_through),
            )?;
            Borders { acked_through, ..borders }.save(&transaction)?;
            transaction.commit()?;
            Ok(true)
        })
        .await
    }

    /// Gives everything that is kept new numbers in the epoch `to`, in the same order and under the same ids. What the controller has
    /// already is a duplicate there; `at` decides what of it is too old to be sent once more. Of another epoch than `from` nothing
    /// is changed.
    ///
    /// # Errors
    /// See [`StoreError`]; the old epoch stands then.
    pub async fn begin_epoch(
        &self,
        from: Epoch,
        to: Epoch,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let mirror = self.mirror();
        self.run(move |db| {
            let transaction = db.transaction()?;
            if epoch(&transaction)? == from {
                begin_epoch(&transaction, to, at)?;
                let nodes: Vec<CachedNode> = load_all(&transaction)?;
                transaction.commit()?;
                nodes.into_iter().for_each(|node| mirror.put(node));
            }
            Ok(())
        })
        .await
    }
}

/// Whether there are changes of a program that knew no chain.
pub(crate) fn is_unchained(db: &Connection) -> rusqlite::Result<bool> {
    db.prepare("SELECT 1 FROM outbox WHERE hash = '' LIMIT 1")?.exists([])
}

/// As [`Store::begin_epoch`], in the caller's transaction.
pub(crate) fn begin_epoch(db: &Connection, to: Epoch, at: Timestamp) -> Result<(), StoreError> {
    Borders::load(db)?.prune(db, Some(kept_since(at)), RING_BYTES_MAX, NO_LIMIT)?;
    let mut states = HashMap::new();
    for row in db
        .prepare("SELECT number, state_seq FROM nodes WHERE state_seq IS NOT NULL")?
        .query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, u64>(1)?)))?
    {
        let (node, seq) = row?;
        states.insert(seq, node);
    }
    db.execute("UPDATE nodes SET state_seq = NULL", [])?;
    let mut latest: HashMap<NodeId, u64> = HashMap::new();
    let (mut link, mut old_seq) = (ChainHash::GENESIS, 0);
    for seq in 1u64.. {
        let next = db
            .prepare_cached("SELECT * FROM outbox WHERE seq > ?1 ORDER BY seq LIMIT 1")?
            .query_row([old_seq], |row| Ok((row.get::<_, u64>("seq")?, Entry::read(row))))
            .optional()?;
        let Some((found, entry)) = next else { break };
        let entry = entry?;
        let head = entry.head(seq, latest.insert(entry.node(), seq));
        link = chain::link(link, &head);
        // Numbers only fall, and in their order, so that none meets another.
        db.prepare_cached(
            "UPDATE outbox SET seq = :seq, prev_seq_same_node = :prev, hash = :hash, acked_at = NULL, outcome = NULL,
                 node_version = NULL, conflict_id = NULL, reason = NULL WHERE seq = :old",
        )?
        .execute(named_params! {
            ":seq": seq, ":prev": head.prev_seq_same_node, ":hash": Word(link), ":old": found,
        })?;
        if let Some(node) = states.get(&found) {
            db.prepare_cached("UPDATE nodes SET state_seq = ?1 WHERE number = ?2")?
                .execute((seq, node))?;
        }
        old_seq = found;
    }
    db.execute("UPDATE outbox_use SET row_count = 0, size_bytes = 0", [])?;
    set_ring_use(db, 0, 0)?;
    for Use { is_event, rows, size_bytes } in Use::between(db, 0, NO_LIMIT)? {
        db.execute(
            "UPDATE outbox_use SET row_count = ?2, size_bytes = ?3 WHERE is_event = ?1",
            (is_event, rows, size_bytes),
        )?;
    }
    db.execute("UPDATE meta SET epoch = ?1", [Word(to)])?;
    Ok(Borders { acked_through: 0, pruned_through: 0, pruned_hash: ChainHash::GENESIS }.save(db)?)
}

#[cfg(test)]
mod tests;
