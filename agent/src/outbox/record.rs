//! The outbox's table: a change and its effect in one transaction, the quota, the prefix that is acknowledged.

use pureboot_protocol::{
    AgentId, BootId, ChainHash, Change, ChangeHead, ChangeId, ChangePayload, ChangeResult,
    ClockQuality, Epoch, Lifecycle, NodeId, Outcome, Timestamp,
};
use rusqlite::{Connection, OptionalExtension, Row, named_params};
use serde_json::Value;

use super::chain;
use super::change::{self, NewChange};
use super::ring::{Borders, yield_space};
use crate::store::{CachedNode, Json, Quota, Store, StoreError, Word, load_by_id, save};

/// Events may use this share of the outbox, so that a flood of them does not crowd out what machines become (FAULTS H22).
const EVENT_SHARE_PERCENT: u64 = 60;

/// What a change says as JSON besides its kind and payload, in bytes at the most.
const HEAD_LEN_MAX: usize = 320;

/// A change that is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Its place in the epoch.
    pub seq: u64,
    /// What makes it the same change when it comes again.
    pub id: ChangeId,
    /// False if it was written before: then nothing was written, and the effect had been applied with it.
    pub was_new: bool,
    /// What the controller did with it, where it was written before and is acknowledged.
    pub result: Option<ChangeResult>,
    /// The node after it; none if the site does not know the node.
    pub node: Option<CachedNode>,
}

/// The head of the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// The life of the outbox.
    pub epoch: Epoch,
    /// The oldest change that is kept, acknowledged or not, and may be sent again.
    pub low_water: u64,
    /// The link that the first change follows.
    pub before: ChainHash,
    /// Changes that are not acknowledged, in order, from the oldest.
    pub changes: Vec<Change>,
}

/// How much waits for the controller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Changes that are not acknowledged.
    pub pending: u64,
    /// When the oldest of them was made.
    pub oldest_at: Option<Timestamp>,
    /// Of those that are acknowledged and still kept, how many the controller has parked.
    pub parked: u64,
    /// And how many met another change there.
    pub conflicts: u64,
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
            // Nobody else writes: what is read here is so when it is written.
            let node = load_by_id(db, new.node)?;
            if let Some((seq, result)) = find(db, entry.id)? {
                return Ok(Recorded { seq, id: entry.id, was_new: false, result, node });
            }
            check_quota(db, quota, &entry)?;
            let node = node.map(|node| Affected::by(effect, node));
            let written = match write(db, &entry, node.as_ref()) {
                // There is a place for it in the quota, so what is only kept in case makes room.
                Err(StoreError::Full) => {
                    yield_space(db)?;
                    write(db, &entry, node.as_ref())
                }
                written => written,
            };
            let (seq, node) = written?;
            if let Some(node) = &node {
                mirror.put(node.clone());
            }
            Ok(Recorded { seq, id: entry.id, was_new: true, result: None, node })
        })
        .await
    }

    /// The oldest changes: at most `items_max`, and no more than `bytes_max` as JSON unless the first alone is larger.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when a row is not what was written; the database is then replaced, and a new epoch begins.
    /// Otherwise see [`StoreError`].
    pub async fn pending(&self, items_max: usize, bytes_max: usize) -> Result<Queued, StoreError> {
        self.run(move |db| {
            let (epoch, borders) = (epoch(db)?, Borders::load(db)?);
            let mut last = borders.acked_through;
            let broken = |seq| {
                StoreError::Damaged(format!(
                    "change {seq} of the outbox does not follow the one before"
                ))
            };
            let before = borders.link_at(db, last)?.ok_or_else(|| broken(last + 1))?;
            let (mut changes, mut size_bytes, mut link) = (Vec::new(), 0, before);
            let sql = "SELECT * FROM outbox WHERE seq > ?1 ORDER BY seq LIMIT ?2";
            let mut statement = db.prepare_cached(sql)?;
            let limit = i64::try_from(items_max).unwrap_or(i64::MAX);
            let mut rows = statement.query((last, limit))?;
            while let Some(row) = rows.next()? {
                let entry = Entry::read(row)?;
                size_bytes += entry.payload.len() + HEAD_LEN_MAX;
                if size_bytes > bytes_max && !changes.is_empty() {
                    break;
                }
                let (seq, prev) = (row.get("seq")?, row.get("prev_seq_same_node")?);
                link = chain::link(link, &entry.head(seq, prev));
                let kept = row.get::<_, Word<_>>("hash").map_err(|_| broken(seq))?.0;
                if seq != last + 1 || link != kept {
                    return Err(broken(seq));
                }
                last = seq;
                changes.push(entry.into_change(seq, prev)?);
            }
            Ok(Queued { epoch, low_water: borders.pruned_through + 1, before, changes })
        })
        .await
    }

    /// Notes what the controller has taken into its custody, and the versions that its results name. All in one transaction (FAULTS
    /// K5). It is kept for a while (FAULTS Q9). An acknowledgement of another epoch has no effect.
    ///
    /// Where the controller has not followed the site, what the site remembers of the node is in doubt from this moment on: nothing
    /// is installed by it, and the controller is to be asked what it has.
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
                note_result(&transaction, &result, at)?;
                raised.extend(match result.node_version {
                    Some(version) => raise_version(&transaction, &result, version, at)?,
                    None => doubt(&transaction, &result)?,
                });
            }
            Borders::load(&transaction)?.advance(&transaction, through, at)?;
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
                .prepare_cached("SELECT at FROM outbox WHERE seq > ?1 ORDER BY seq LIMIT 1")?
                .query_row([Borders::load(db)?.acked_through], |row| row.get(0))
                .optional()?;
            let (parked, conflicts) = db
                .prepare_cached(
                    "SELECT count(*) FILTER (WHERE outcome = 'parked'), count(*) FILTER (WHERE outcome = 'conflict')
                     FROM outbox WHERE outcome IN ('parked', 'conflict')",
                )?
                .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            let oldest_at = oldest_at.map(Timestamp::from_unix_ms);
            Ok(Counts { pending, oldest_at, parked, conflicts })
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

    /// The node that it is about.
    pub(super) fn node(&self) -> NodeId {
        self.node
    }

    /// All but the payload, in the place `seq`; as [`Change::head`] of what is sent.
    pub(super) fn head(&self, seq: u64, prev_seq_same_node: Option<u64>) -> ChangeHead {
        ChangeHead {
            seq,
            id: self.id,
            node: self.node.to_string(),
            base_version: self.base_version,
            prev_seq_same_node,
            at: self.at.to_string(),
            clock: self.clock.to_string(),
            session: self.session.map(|session| session.to_string()),
        }
    }

    fn into_change(self, seq: u64, prev_seq_same_node: Option<u64>) -> Result<Change, StoreError> {
        // The row is sound; a newer program wrote a kind that this one does not know. It waits for the newer one.
        let payload = serde_json::from_slice(self.payload.as_bytes()).map_err(|error| {
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

pub(super) fn epoch(db: &Connection) -> rusqlite::Result<Epoch> {
    let mut statement = db.prepare_cached("SELECT epoch FROM meta")?;
    statement.query_row([], |row| row.get::<_, Word<_>>(0)).map(|epoch| epoch.0)
}

/// The change with this id, and what became of it where that is known.
fn find(db: &Connection, id: ChangeId) -> rusqlite::Result<Option<(u64, Option<ChangeResult>)>> {
    let mut statement = db.prepare_cached("SELECT * FROM outbox WHERE id = ?1")?;
    statement.query_row([Word(id)], |row| Ok((row.get("seq")?, result(row)?))).optional()
}

/// What became of the change of `row`; none while that is not known.
pub(super) fn result(row: &Row<'_>) -> rusqlite::Result<Option<ChangeResult>> {
    let outcome: Option<String> = row.get("outcome")?;
    // A word of a newer program tells this one nothing.
    let Some(outcome) = outcome.and_then(|word| word.parse::<Outcome>().ok()) else {
        return Ok(None);
    };
    Ok(Some(ChangeResult {
        id: row.get::<_, Word<_>>("id")?.0,
        outcome,
        node_version: row.get("node_version")?,
        conflict_id: row.get::<_, Option<Word<_>>>("conflict_id")?.map(|id| id.0),
        reason: row.get("reason")?,
    }))
}

fn note_result(db: &Connection, result: &ChangeResult, at: Timestamp) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE outbox SET acked_at = :at, outcome = :outcome, node_version = :node_version, conflict_id = :conflict_id,
             reason = :reason WHERE id = :id",
    )?
    .execute(named_params! {
        ":at": at.unix_ms(),
        ":outcome": result.outcome.as_str(),
        ":node_version": result.node_version,
        ":conflict_id": result.conflict_id.map(Word),
        ":reason": result.reason,
        ":id": Word(result.id),
    })?;
    Ok(())
}

/// A node after a change, before it is written.
struct Affected {
    node: CachedNode,
    /// Whether the change moves its state, or takes an order away.
    is_moved: bool,
}

impl Affected {
    fn by(effect: impl FnOnce(&mut CachedNode), mut node: CachedNode) -> Self {
        let course = |node: &CachedNode| {
            let record = &node.known.as_ref()?.record;
            Some((record.state, record.pending_command))
        };
        let (mac, before) = (node.mac(), course(&node));
        effect(&mut node);
        node.facts.mac = mac;
        let is_moved = course(&node) != before;
        Self { node, is_moved }
    }
}

/// Writes a change and its node, both or neither.
fn write(
    db: &mut Connection,
    entry: &Entry,
    affected: Option<&Affected>,
) -> Result<(u64, Option<CachedNode>), StoreError> {
    let transaction = db.transaction()?;
    let seq = append(&transaction, entry)?;
    let node = affected.map(|Affected { node, is_moved }| CachedNode {
        state_seq: if *is_moved { Some(seq) } else { node.state_seq },
        ..node.clone()
    });
    if let Some(node) = &node {
        save(&transaction, node)?;
    }
    transaction.commit()?;
    Ok((seq, node))
}

/// The number and the link of the last change that was ever written in this epoch.
fn tail(db: &Connection, borders: Borders) -> rusqlite::Result<(u64, ChainHash)> {
    let last = db
        .prepare_cached("SELECT seq, hash FROM outbox ORDER BY seq DESC LIMIT 1")?
        .query_row([], |row| Ok((row.get(0)?, row.get::<_, Word<_>>(1)?.0)))
        .optional()?;
    Ok(last.unwrap_or((borders.pruned_through, borders.pruned_hash)))
}

/// Writes an entry at the end and returns its number; the caller's transaction decides whether it was ever there.
pub(crate) fn append(db: &Connection, entry: &Entry) -> rusqlite::Result<u64> {
    let borders = Borders::load(db)?;
    let (last, before) = tail(db, borders)?;
    let seq = last + 1;
    let previous: Option<u64> = db
        .prepare_cached("SELECT max(seq) FROM outbox WHERE node = ?1")?
        .query_row([Word(entry.node)], |row| row.get(0))?;
    let previous = previous.filter(|previous| *previous > borders.acked_through);
    db.prepare_cached(
        "INSERT INTO outbox (seq, id, agent, node, session, payload, base_version, prev_seq_same_node, at, is_clock_synced,
             is_event, hash)
         VALUES (:seq, :id, :agent, :node, :session, :payload, :base_version, :previous, :at, :is_clock_synced, :is_event,
             :hash)",
    )?
    .execute(named_params! {
        ":seq": seq,
        ":id": Word(entry.id),
        ":agent": Word(entry.agent),
        ":node": Word(entry.node),
        ":session": entry.session.map(Word),
        ":payload": entry.payload,
        ":base_version": entry.base_version,
        ":previous": previous,
        ":at": entry.at.unix_ms(),
        ":is_clock_synced": entry.clock == ClockQuality::Synced,
        ":is_event": entry.is_event,
        ":hash": Word(chain::link(before, &entry.head(seq, previous))),
    })?;
    Ok(seq)
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

/// The node that the change with this id is about, if the site knows it.
fn node_of(db: &Connection, id: ChangeId) -> rusqlite::Result<Option<CachedNode>> {
    let node = db
        .prepare_cached("SELECT node FROM outbox WHERE id = ?1")?
        .query_row([Word(id)], |row| row.get::<_, Word<NodeId>>(0))
        .optional()?;
    Ok(node.map(|node| load_by_id(db, node.0)).transpose()?.flatten())
}

/// Doubts what the site remembers of a node, if the controller has set a change of it aside.
fn doubt(db: &Connection, result: &ChangeResult) -> rusqlite::Result<Option<CachedNode>> {
    let is_set_aside = match result.outcome {
        Outcome::Conflict | Outcome::Parked => true,
        Outcome::Duplicate => result.conflict_id.is_some(),
        Outcome::Applied => false,
    };
    let Some(mut node) = node_of(db, result.id)?.filter(|_| is_set_aside) else { return Ok(None) };
    let Some(known) = node.known.as_mut() else { return Ok(None) };
    known.record.conflict_id = result.conflict_id.or(known.record.conflict_id);
    node.is_due = true;
    save(db, &node)?;
    Ok(Some(node))
}

/// The place of a wish that the controller has followed, and the state that was wished for.
fn wish_followed(
    db: &Connection,
    result: &ChangeResult,
) -> rusqlite::Result<Option<(u64, Lifecycle)>> {
    let is_followed = match result.outcome {
        Outcome::Applied => true,
        Outcome::Duplicate => result.conflict_id.is_none(),
        Outcome::Conflict | Outcome::Parked => false,
    };
    let mut statement = db.prepare_cached("SELECT seq, payload FROM outbox WHERE id = ?1")?;
    let found: Option<(u64, String)> =
        statement.query_row([Word(result.id)], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((seq, payload)) = found.filter(|_| is_followed) else { return Ok(None) };
    // A kind of a newer program is no wish that this one knows.
    Ok(match serde_json::from_slice(payload.as_bytes()) {
        Ok(ChangePayload::StateChange { state, .. }) => Some((seq, state)),
        _ => None,
    })
}

/// What later changes of the node are based on, now that the controller has applied this one. A version that is not the next
/// one has changes in it that the site has not seen: it keeps its base, so that the controller sees the conflict.
///
/// A state that the site was not to go by before the controller did comes with the version: a node that is retired there must not be
/// pending here under its new version.
fn raise_version(
    db: &Connection,
    result: &ChangeResult,
    version: u64,
    at: Timestamp,
) -> rusqlite::Result<Option<CachedNode>> {
    let Some(mut node) = node_of(db, result.id)? else { return Ok(None) };
    let wish = wish_followed(db, result)?;
    let Some(known) = node.known.as_mut().filter(|known| known.record.version + 1 == version)
    else {
        return Ok(None);
    };
    // What the site has moved by itself since then is later than the wish.
    let is_last = |seq| node.state_seq.is_none_or(|moved| moved <= seq);
    match wish.filter(|(seq, to)| *to != known.record.state && is_last(*seq)) {
        Some((_, Lifecycle::Pending)) => {
            // Which wish to install it is, only the controller's record says.
            node.is_due = true;
            save(db, &node)?;
            return Ok(Some(node));
        }
        Some((_, to)) => known.record.state = to,
        None => {}
    }
    // Where the controller does not number wishes, it is the same one under a new number; without this an offline site would wipe the
    // disk for it once more.
    if known.record.wish_version.is_none()
        && node.install_given_version == Some(known.record.version)
    {
        node.install_given_version = Some(version);
    }
    known.record.version = version;
    known.fetched_at = at;
    save(db, &node)?;
    Ok(Some(node))
}

#[cfg(test)]
mod tests;
