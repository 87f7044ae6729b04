//! The outbox's table: a change and its effect in one transaction, the quota, the prefix that an acknowledgement deletes.

use pureboot_protocol::{
    AgentId, BootId, Change, ChangeId, ChangePayload, ChangeResult, ClockQuality, Epoch, NodeId,
    Timestamp,
};
use rusqlite::{Connection, OptionalExtension, Row, named_params};
use serde_json::Value;

use super::change::{self, NewChange};
use crate::store::{CachedNode, Json, Quota, Store, StoreError, Word, load_by_id, save};

/// Events may use this share of the outbox, so that a flood of them does not crowd out what machines become (FAULTS H22).
const EVENT_SHARE_PERCENT: u64 = 60;

/// A change that is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Its place in the epoch.
    pub seq: u64,
    /// What makes it the same change when it comes again.
    pub id: ChangeId,
    /// False if it was queued before: then nothing was written, and the effect had been applied with it.
    pub was_new: bool,
    /// The node after it; none if the site does not know the node.
    pub node: Option<CachedNode>,
}

/// The head of the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// The life of the outbox.
    pub epoch: Epoch,
    /// Changes in order, from the oldest.
    pub changes: Vec<Change>,
}

/// How much waits for the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Changes that are not acknowledged.
    pub pending: u64,
    /// When the oldest of them was made.
    pub oldest_at: Option<Timestamp>,
}

impl Store {
    /// Writes a change down and applies its effect to the node that the site remembers: both or neither (FAULTS Q1).
    ///
    /// A change that is queued already is not written again. The effect must depend on nothing but the node: it is applied to
    /// what the node is at that moment, not to what the caller has seen of it.
    ///
    /// # Errors
    /// [`StoreError::Full`] also when the outbox's quota for its kind is used up. Otherwise see [`StoreError`]. In each case
    /// the machine must not be told that its report was taken.
    pub async fn record(
        &self,
        new: NewChange,
        effect: impl FnOnce(&mut CachedNode) + Send + 'static,
    ) -> Result<Recorded, StoreError> {
        let quota = self.quota();
        let mirror = self.mirror();
        self.run(move |db| {
            let entry = Entry::new(&new)?;
            let transaction = db.transaction()?;
            let mut node = load_by_id(&transaction, new.node)?;
            if let Some(seq) = seq_of(&transaction, entry.id)? {
                return Ok(Recorded { seq, id: entry.id, was_new: false, node });
            }
            check_quota(&transaction, quota, &entry)?;
            let seq = append(&transaction, &entry)?;
            if let Some(node) = &mut node {
                let course = |node: &CachedNode| {
                    let record = &node.known.as_ref()?.record;
                    Some((record.state, record.pending_command))
                };
                let (mac, before) = (node.mac(), course(node));
                effect(node);
                node.facts.mac = mac;
                if course(node) != before {
                    node.state_seq = Some(seq);
                }
                save(&transaction, node)?;
            }
            transaction.commit()?;
            if let Some(node) = &node {
                mirror.put(node.clone());
            }
            Ok(Recorded { seq, id: entry.id, was_new: true, node })
        })
        .await
    }

    /// The oldest changes: at most `items_max`, and no more than `bytes_max` of payload unless the first alone is larger.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when a row is not what was written; the database is then replaced, and a new epoch begins.
    /// Otherwise see [`StoreError`].
    pub async fn pending(&self, items_max: usize, bytes_max: usize) -> Result<Queued, StoreError> {
        self.run(move |db| {
            let epoch = epoch(db)?;
            let mut changes = Vec::new();
            let mut size_bytes = 0;
            let mut statement = db.prepare_cached("SELECT * FROM outbox ORDER BY seq LIMIT ?1")?;
            let mut rows = statement.query([i64::try_from(items_max).unwrap_or(i64::MAX)])?;
            while let Some(row) = rows.next()? {
                let entry = Entry::read(row)?;
                size_bytes += entry.payload.len();
                if size_bytes > bytes_max && !changes.is_empty() {
                    break;
                }
                let seq = row.get("seq")?;
                if changes.last().is_some_and(|last: &Change| last.seq + 1 != seq) {
                    let error =
                        format!("change {seq} of the outbox does not follow the one before");
                    return Err(StoreError::Damaged(error));
                }
                changes.push(entry.into_change(seq, row.get("prev_seq_same_node")?)?);
            }
            Ok(Queued { epoch, changes })
        })
        .await
    }

    /// Deletes what the controller has taken into its custody, and remembers the versions that its results name. All in one
    /// transaction (FAULTS K5). An acknowledgement of another epoch has no effect.
    ///
    /// `at` is when the receipt came: a record whose version it raises is the controller's word as of then.
    ///
    /// # Errors
    /// See [`StoreError`]; the changes are sent once more, and the controller calls them duplicates.
    pub async fn acknowledge(
        &self,
        epoch_acked: Epoch,
        through: u64,
        results: Vec<ChangeResult>,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let mirror = self.mirror();
        self.run(move |db| {
            let transaction = db.transaction()?;
            if epoch(&transaction)? != epoch_acked {
                return Ok(());
            }
            let mut raised = Vec::new();
            for result in results {
                let Some(version) = result.node_version else { continue };
                raised.extend(raise_version(&transaction, result.id, version, at)?);
            }
            transaction.prepare_cached("DELETE FROM outbox WHERE seq <= ?1")?.execute([through])?;
            transaction.commit()?;
            // In order: where two results raise the same node, the later value is the one that stays.
            for node in raised {
                mirror.put(node);
            }
            Ok(())
        })
        .await
    }

    /// How much waits for the controller.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn counts(&self) -> Result<Counts, StoreError> {
        self.run(|db| {
            let pending = db
                .prepare_cached("SELECT sum(row_count) FROM outbox_use")?
                .query_row([], |row| row.get(0))?;
            let oldest_at = db
                .prepare_cached("SELECT at FROM outbox ORDER BY seq LIMIT 1")?
                .query_row([], |row| row.get(0))
                .optional()?;
            Ok(Counts { pending, oldest_at: oldest_at.map(Timestamp::from_unix_ms) })
        })
        .await
    }
}

/// A row without its number.
#[derive(Debug)]
pub(crate) struct Entry {
    id: ChangeId,
    agent: AgentId,
    node: NodeId,
    session: Option<BootId>,
    /// [`ChangePayload`] as it was first written; its id depends on it.
    payload: String,
    base_version: Option<u64>,
    at: Timestamp,
    clock: ClockQuality,
    is_event: bool,
}

impl Entry {
    fn new(new: &NewChange) -> Result<Self, StoreError> {
        let unwritable = |error: serde_json::Error| {
            StoreError::Other(rusqlite::Error::ToSqlConversionFailure(error.into()))
        };
        let payload = serde_json::to_value(&new.payload).map_err(unwritable)?;
        Ok(Self {
            id: change::id(new.agent, new.node, new.session, new.at, &payload),
            agent: new.agent,
            node: new.node,
            session: new.session,
            payload: payload.to_string(),
            base_version: new.base_version,
            at: new.at,
            clock: new.clock,
            is_event: matches!(new.payload, ChangePayload::Event(_)),
        })
    }

    /// Reads a row and proves that it is what was written: SQLite has no check sum of its own.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it is not.
    pub(crate) fn read(row: &Row<'_>) -> Result<Self, StoreError> {
        let damaged = |error: &dyn std::fmt::Display| {
            StoreError::Damaged(format!("a row of the outbox cannot be read: {error}"))
        };
        let read = || -> rusqlite::Result<(Self, Value)> {
            let entry = Self {
                id: row.get::<_, Word<_>>("id")?.0,
                agent: row.get::<_, Word<_>>("agent")?.0,
                node: row.get::<_, Word<_>>("node")?.0,
                session: row.get::<_, Option<Word<_>>>("session")?.map(|session| session.0),
                payload: row.get("payload")?,
                base_version: row.get("base_version")?,
                at: Timestamp::from_unix_ms(row.get("at")?),
                clock: match row.get("is_clock_synced")? {
                    true => ClockQuality::Synced,
                    false => ClockQuality::Unsynced,
                },
                is_event: row.get("is_event")?,
            };
            Ok((entry, row.get::<_, Json<Value>>("payload")?.0))
        };
        let (entry, payload) = read().map_err(|error| damaged(&error))?;
        if change::id(entry.agent, entry.node, entry.session, entry.at, &payload) != entry.id {
            return Err(damaged(&"its content does not have its id"));
        }
        Ok(entry)
    }

    fn into_change(self, seq: u64, prev_seq_same_node: Option<u64>) -> Result<Change, StoreError> {
        // The row is sound; a newer program wrote a kind that this one does not know. It waits for the newer one.
        let payload = serde_json::from_str(&self.payload).map_err(|error| {
            StoreError::Other(rusqlite::Error::FromSqlConversionFailure(
                0,
                rusqlite::types::Type::Text,
                error.into(),
            ))
        })?;
        Ok(Change {
            seq,
            id: self.id,
            node: self.node,
            base_version: self.base_version,
            prev_seq_same_node,
            at: self.at,
            clock: self.clock,
            session: self.session,
            payload,
        })
    }
}

fn epoch(db: &Connection) -> rusqlite::Result<Epoch> {
    let mut statement = db.prepare_cached("SELECT epoch FROM meta")?;
    statement.query_row([], |row| row.get::<_, Word<_>>(0)).map(|epoch| epoch.0)
}

fn seq_of(db: &Connection, id: ChangeId) -> rusqlite::Result<Option<u64>> {
    let mut statement = db.prepare_cached("SELECT seq FROM outbox WHERE id = ?1")?;
    statement.query_row([Word(id)], |row| row.get(0)).optional()
}

/// Writes an entry at the end and returns its number; the caller's transaction decides whether it was ever there.
pub(crate) fn append(db: &Connection, entry: &Entry) -> rusqlite::Result<u64> {
    db.prepare_cached(
        "INSERT INTO outbox (id, agent, node, session, payload, base_version, prev_seq_same_node, at, is_clock_synced, is_event)
         VALUES (:id, :agent, :node, :session, :payload, :base_version,
             (SELECT max(seq) FROM outbox WHERE node = :node), :at, :is_clock_synced, :is_event)
         RETURNING seq",
    )?
    .query_row(
        named_params! {
            ":id": Word(entry.id),
            ":agent": Word(entry.agent),
            ":node": Word(entry.node),
            ":session": entry.session.map(Word),
            ":payload": entry.payload,
            ":base_version": entry.base_version,
            ":at": entry.at.unix_ms(),
            ":is_clock_synced": entry.clock == ClockQuality::Synced,
            ":is_event": entry.is_event,
        },
        |row| row.get(0),
    )
}

fn check_quota(db: &Connection, quota: Quota, entry: &Entry) -> Result<(), StoreError> {
    let used = |is_event: bool| -> rusqlite::Result<(u64, u64)> {
        db.prepare_cached("SELECT row_count, size_bytes FROM outbox_use WHERE is_event = ?1")?
            .query_row([is_event], |row| Ok((row.get(0)?, row.get(1)?)))
    };
    let (events, event_bytes) = used(true)?;
    let (others, other_bytes) = used(false)?;
    let size_bytes = u64::try_from(entry.payload.len()).unwrap_or(u64::MAX);
    let fits = |rows: u64, bytes: u64, percent: u64| {
        let share = |quota: u64| quota.saturating_mul(percent) / 100;
        rows < share(quota.outbox_rows) && bytes + size_bytes <= share(quota.outbox_bytes)
    };
    let fits_class = !entry.is_event || fits(events, event_bytes, EVENT_SHARE_PERCENT);
    if fits_class && fits(events + others, event_bytes + other_bytes, 100) {
        Ok(())
    } else {
        Err(StoreError::Full)
    }
}

/// What later changes of the node are based on, now that the controller has applied this one. A version that is not the next
/// one has changes in it that the site has not seen: it keeps its base, so that the controller sees the conflict.
fn raise_version(
    db: &Connection,
    id: ChangeId,
    version: u64,
    at: Timestamp,
) -> rusqlite::Result<Option<CachedNode>> {
    let node = db
        .prepare_cached("SELECT node FROM outbox WHERE id = ?1")?
        .query_row([Word(id)], |row| row.get::<_, Word<NodeId>>(0))
        .optional()?;
    let Some(mut node) = node.map(|node| load_by_id(db, node.0)).transpose()?.flatten() else {
        return Ok(None);
    };
    let Some(known) = node.known.as_mut().filter(|known| known.record.version + 1 == version)
    else {
        return Ok(None);
    };
    // The wish is the same one under a new number; without this an offline site would wipe the disk for it once more.
    if node.install_given_version == Some(known.record.version) {
        node.install_given_version = Some(version);
    }
    known.record.version = version;
    known.fetched_at = at;
    save(db, &node)?;
    Ok(Some(node))
}

#[cfg(test)]
mod tests;
