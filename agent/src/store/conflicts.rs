//! Where site and controller disagree, as the controller last told it, so that it can be read while the controller is away.

use pureboot_protocol::{Conflict, ConflictId, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row, named_params};

use super::{Json, Store, StoreError, Word};

/// Conflicts that wait for a person, as many as are remembered; the controller has all of them.
pub const OPEN_CONFLICTS_MAX: usize = 500;

/// Conflicts that have ended, as many as are remembered.
const ENDED_CONFLICTS_MAX: u64 = 100;

/// A conflict, and when the controller was asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeardConflict {
    /// As the controller told it.
    pub conflict: Conflict,
    /// When it was asked.
    pub heard_at: Timestamp,
}

impl Store {
    /// The conflicts that the site knows of, the oldest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn conflicts(&self) -> Result<Vec<HeardConflict>, StoreError> {
        self.run(|db| {
            let mut statement = db.prepare_cached("SELECT * FROM conflicts ORDER BY number")?;
            let rows = statement.query_map([], read)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// The conflict with `id`, if the site knows of it.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn conflict(&self, id: ConflictId) -> Result<Option<HeardConflict>, StoreError> {
        self.run(move |db| {
            let mut statement = db.prepare_cached("SELECT * FROM conflicts WHERE id = ?1")?;
            Ok(statement.query_row([Word(id)], read).optional()?)
        })
        .await
    }

    /// Keeps what the controller, asked at `heard_at`, has told of these conflicts.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn keep_conflicts(
        &self,
        told: Vec<Conflict>,
        heard_at: Timestamp,
    ) -> Result<(), StoreError> {
        self.run(move |db| {
            let transaction = db.transaction()?;
            told.iter().try_for_each(|conflict| keep(&transaction, conflict, heard_at))?;
            prune(&transaction)?;
            Ok(transaction.commit()?)
        })
        .await
    }

    /// Forgets a conflict that the controller has forgotten.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn forget_conflict(&self, id: ConflictId) -> Result<(), StoreError> {
        self.run(move |db| {
            db.execute("DELETE FROM conflicts WHERE id = ?1", [Word(id)])?;
            Ok(())
        })
        .await
    }
}

fn keep(db: &Connection, conflict: &Conflict, heard_at: Timestamp) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO conflicts (id, conflict, is_open, heard_at) VALUES (:id, :conflict, :is_open, :heard_at)
         ON CONFLICT (id) DO UPDATE SET conflict = :conflict, is_open = :is_open, heard_at = :heard_at",
    )?
    .execute(named_params! {
        ":id": Word(conflict.id),
        ":conflict": Json(conflict),
        ":is_open": conflict.outcome.is_none(),
        ":heard_at": heard_at.unix_ms(),
    })?;
    Ok(())
}

fn prune(db: &Connection) -> rusqlite::Result<()> {
    let open_max = u64::try_from(OPEN_CONFLICTS_MAX).unwrap_or(u64::MAX);
    for (is_open, rows_max) in [(true, open_max), (false, ENDED_CONFLICTS_MAX)] {
        db.prepare_cached(
            "DELETE FROM conflicts WHERE is_open = ?1 AND number <=
             (SELECT number FROM conflicts WHERE is_open = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2)",
        )?
        .execute((is_open, rows_max))?;
    }
    Ok(())
}

fn read(row: &Row<'_>) -> rusqlite::Result<HeardConflict> {
    Ok(HeardConflict {
        conflict: row.get::<_, Json<_>>("conflict")?.0,
        heard_at: Timestamp::from_unix_ms(row.get("heard_at")?),
    })
}

#[cfg(test)]
mod tests {
    use pureboot_protocol::{
        ClockQuality, ConflictEnding, ConflictKind, Decider, NodeId, Resolution, SiteId, SiteSide,
    };

    use smol::future::block_on;

    use super::*;
    use crate::store::tests::{at, close, open};

    fn conflict(n: u16, is_open: bool) -> Conflict {
        let [high, low] = n.to_be_bytes();
        let mut id = [0; 16];
        (id[14], id[15]) = (high, low);
        let ending = ConflictEnding {
            resolution: Resolution::KeepCentral,
            by: Decider::Operator,
            name: None,
            fields: None,
            node_version: None,
            at: at(1),
        };
        let clock = ClockQuality::Synced;
        Conflict {
            id: ConflictId::from_random(id),
            site_id: SiteId::from_random([1; 16]),
            node_id: NodeId::from_random([2; 16]),
            kind: ConflictKind::StateMismatch,
            cause: "the site knew version 2, the controller has version 3".to_owned(),
            base: None,
            site: SiteSide { state: None, base_version: Some(2), at: at(0), clock, changes: 1 },
            central: None,
            created_at: at(0),
            outcome: (!is_open).then_some(ending),
        }
    }

    #[test]
    fn a_conflict_outlives_a_restart_and_its_end_takes_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let told = vec![conflict(1, true), conflict(2, true)];
        block_on(store.keep_conflicts(told, at(1))).unwrap();
        block_on(store.keep_conflicts(vec![conflict(1, false)], at(2))).unwrap();
        close(store);
        let store = open(dir.path());
        let kept = block_on(store.conflicts()).unwrap();
        let brief: Vec<_> =
            kept.iter().map(|it| (it.conflict.outcome.is_none(), it.heard_at)).collect();
        assert_eq!(brief, [(false, at(2)), (true, at(1))]);
        let first = conflict(1, false).id;
        assert_eq!(block_on(store.conflict(first)).unwrap().as_ref(), kept.first());
        block_on(store.forget_conflict(first)).unwrap();
        assert_eq!(block_on(store.conflict(first)).unwrap(), None);
    }

    #[test]
    fn i7_only_the_latest_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let ended = (0..300).map(|n| conflict(n, false));
        let open = (1_000..1_600).map(|n| conflict(n, true));
        block_on(store.keep_conflicts(ended.chain(open).collect(), at(1))).unwrap();
        let kept = block_on(store.conflicts()).unwrap();
        let open = kept.iter().filter(|it| it.conflict.outcome.is_none()).count();
        assert_eq!((open, kept.len() - open), (500, 100));
        assert_eq!(kept.last().map(|it| it.conflict.id), Some(conflict(1_599, true).id));
    }
}
