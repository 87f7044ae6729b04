//! Boot sessions: which machine a call-back belongs to.

use pureboot_protocol::{BootId, BootRequest, Mac, NodeId, Timestamp};
use rusqlite::{Connection, OptionalExtension, named_params};

use super::nodes::{self, CachedNode};
use super::{Store, StoreError, Word};

/// How many sessions are remembered; the oldest goes first.
pub const SESSIONS_MAX: u32 = 4_000;

/// How many of them may be one machine's, so that one that boots over and over does not make the site forget the others.
pub const SESSIONS_PER_MACHINE_MAX: u32 = 8;

/// One attempt of one machine to boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BootSession {
    /// Its id, which every URL of the session carries.
    pub(super) id: BootId,
    /// The machine.
    pub(super) mac: Mac,
    /// Its first request.
    pub(super) started_at: Timestamp,
}

impl Store {
    /// Remembers that a machine has begun to boot, and what it said of itself.
    ///
    /// A machine that the site has not seen before becomes a node with the id `new_node`, which the caller drew.
    ///
    /// # Errors
    /// [`StoreError::Full`] also when [`super::UNKNOWN_NODES_MAX`] machines are known to the site alone and this would be
    /// one more (FAULTS H18). Otherwise see [`StoreError`].
    pub async fn begin_session(
        &self,
        id: BootId,
        request: BootRequest,
        new_node: NodeId,
        at: Timestamp,
    ) -> Result<CachedNode, StoreError> {
        let mirror = self.nodes.clone();
        self.run(move |db| {
            let transaction = db.transaction()?;
            let mut node = match nodes::load(&transaction, request.mac)? {
                Some(node) => node,
                None => nodes::discover(&mirror, &request, new_node)?,
            };
            node.learn(request);
            node.last_seen_at = Some(at);
            nodes::save(&transaction, &node)?;
            save(&transaction, BootSession { id, mac: node.mac(), started_at: at })?;
            prune(&transaction, node.mac())?;
            transaction.commit()?;
            mirror.put(node.clone());
            Ok(node)
        })
        .await
    }

    /// Whether any session is known.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn has_sessions(&self) -> Result<bool, StoreError> {
        self.run(|db| Ok(db.prepare_cached("SELECT 1 FROM sessions LIMIT 1")?.exists([])?)).await
    }

    /// Remembers sessions, from the oldest, that the database has lost and something else has kept: whose they are, and when they began.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn remember_sessions(
        &self,
        sessions: Vec<(BootId, Mac, Timestamp)>,
    ) -> Result<(), StoreError> {
        self.run(move |db| {
            let transaction = db.transaction()?;
            for (id, mac, started_at) in sessions {
                save(&transaction, BootSession { id, mac, started_at })?;
                prune(&transaction, mac)?;
            }
            Ok(transaction.commit()?)
        })
        .await
    }

    /// The machine of a session; none if it was never begun or is older than the last [`SESSIONS_MAX`], or than the
    /// last [`SESSIONS_PER_MACHINE_MAX`] of its machine.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn session_mac(&self, id: BootId) -> Result<Option<Mac>, StoreError> {
        self.run(move |db| {
            let mac = db
                .prepare_cached("SELECT mac FROM sessions WHERE id = ?1")?
                .query_row([Word(id)], |row| row.get::<_, Word<Mac>>(0))
                .optional()?;
            Ok(mac.map(|mac| mac.0))
        })
        .await
    }
}

pub(super) fn save(db: &Connection, session: BootSession) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT OR IGNORE INTO sessions (id, mac, started_at) VALUES (:id, :mac, :started_at)",
    )?
    .execute(named_params! {
        ":id": Word(session.id),
        ":mac": Word(session.mac),
        ":started_at": session.started_at.unix_ms(),
    })?;
    Ok(())
}

/// Forgets what is too much now that `mac` has another one.
fn prune(db: &Connection, mac: Mac) -> rusqlite::Result<()> {
    db.prepare_cached(
        "DELETE FROM sessions WHERE mac = :mac AND number <=
             (SELECT number FROM sessions WHERE mac = :mac ORDER BY number DESC LIMIT 1 OFFSET :max)",
    )?
    .execute(named_params! { ":mac": Word(mac), ":max": SESSIONS_PER_MACHINE_MAX })?;
    // Rows are counted and not numbers, of which those deleted above have used some up.
    db.prepare_cached(
        "DELETE FROM sessions WHERE number <=
             (SELECT number FROM sessions ORDER BY number DESC LIMIT 1 OFFSET ?1)",
    )?
    .execute([SESSIONS_MAX])?;
    Ok(())
}
