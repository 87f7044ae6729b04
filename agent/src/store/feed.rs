//! How far the site follows what the controller changes of its nodes, and what becomes of those changes here.

use pureboot_protocol::{Mac, NodeChange, NodeChanges, NodeId, Timestamp};
use rusqlite::{Connection, OptionalExtension};

use super::nodes::{self, CachedNode, Fate};
use super::{Store, StoreError, Word};

/// What has become of one part of the controller's changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// Up to where the site follows now.
    pub since_version: u64,
    /// Nodes whose records are the controller's last word.
    pub taken: usize,
    /// Nodes that the controller is to be asked about, because it does not know yet what the site has seen of them.
    pub due: usize,
    /// Nodes that are no longer the site's.
    pub forgotten: usize,
    /// Whether the controller has been restored from a backup, so that everything is to be asked for anew.
    pub is_restored: bool,
}

/// What a change did to one node.
enum Effect {
    Kept(Box<CachedNode>, Fate),
    Forgotten(Mac),
    None,
}

impl Store {
    /// Up to which number the site follows the controller's changes; 0 before the first answer.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn feed_version(&self) -> Result<u64, StoreError> {
        self.run(|db| Ok(since_version(db)?)).await
    }

    /// Takes over what has changed since `since`, with the number that it reaches: both or neither. `asked_at` is when the question
    /// was asked. What the site itself has seen and the controller does not know yet stands, as with [`Store::save_record`].
    ///
    /// Answers none, and does nothing, where the site has begun anew in the meantime.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn apply_changes(
        &self,
        since: u64,
        changes: NodeChanges,
        asked_at: Timestamp,
    ) -> Result<Option<Applied>, StoreError> {
        let mirror = self.mirror();
        self.run(move |db| {
            let transaction = db.transaction()?;
            if since_version(&transaction)? != since {
                return Ok(None);
            }
            let is_lost = changes.since_version < since;
            if is_lost {
                begin_anew(&transaction)?;
            }
            let mut effects = Vec::with_capacity(changes.data.len());
            for change in changes.data {
                effects.push(match change {
                    NodeChange::Present(record) => {
                        let (node, fate) = nodes::take(&transaction, *record, asked_at)?;
                        Effect::Kept(Box::new(node), fate)
                    }
                    NodeChange::Left { node_id } => leave(&transaction, node_id)?,
                });
            }
            let count = |is_counted: &dyn Fn(&Effect) -> bool| {
                effects.iter().filter(|effect| is_counted(effect)).count()
            };
            let of = |fate| count(&|effect| matches!(effect, Effect::Kept(_, it) if *it == fate));
            let restored = of(Fate::Restored);
            // A whole answer leaves nothing to be asked for anew.
            let is_restored = restored > 0 && changes.since_version > 0;
            if is_restored {
                begin_anew(&transaction)?;
            } else {
                save_version(&transaction, changes.version)?;
            }
            let applied = Applied {
                since_version: if is_restored { 0 } else { changes.version },
                taken: of(Fate::Taken) + restored,
                due: of(Fate::Unacknowledged),
                forgotten: count(&|effect| matches!(effect, Effect::Forgotten(_))),
                is_restored: is_restored || is_lost,
            };
            transaction.commit()?;
            if applied.is_restored {
                mirror.replace(nodes::load_all(db)?);
                return Ok(Some(applied));
            }
            for effect in effects {
                match effect {
                    Effect::Kept(node, _) => mirror.put(*node),
                    Effect::Forgotten(mac) => mirror.forget(mac),
                    Effect::None => {}
                }
            }
            Ok(Some(applied))
        })
        .await
    }

    /// Has the controller asked about a node; what is known of it stays until the answer is there (FAULTS C15). Answers whether
    /// the site knows the node.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn mark_due(&self, mac: Mac) -> Result<bool, StoreError> {
        let mirror = self.mirror();
        self.run(move |db| {
            let Some(mut node) = nodes::load(db, mac)? else { return Ok(false) };
            node.is_due = true;
            nodes::save(db, &node)?;
            mirror.put(node);
            Ok(true)
        })
        .await
    }

    /// Has the controller asked about every node, as [`Store::mark_due`]; answers how many there are.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn mark_all_due(&self) -> Result<usize, StoreError> {
        let mirror = self.mirror();
        self.run(move |db| {
            let transaction = db.transaction()?;
            let nodes = begin_anew(&transaction)?;
            transaction.commit()?;
            mirror.replace(nodes::load_all(db)?);
            Ok(nodes)
        })
        .await
    }

    /// The controller says that a node which it was asked about is none of the site's: it is forgotten, unless the site has
    /// something to tell of it or is the only one to know it. Answers whether it is gone.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn forget(&self, mac: Mac) -> Result<bool, StoreError> {
        let mirror = self.mirror();
        self.run(move |db| {
            let transaction = db.transaction()?;
            let Some(mut node) = nodes::load(&transaction, mac)? else { return Ok(true) };
            let stays = node.is_known_here_only();
            if !stays && !has_changes(&transaction, node.node_id)? {
                delete(&transaction, mac)?;
                transaction.commit()?;
                mirror.forget(mac);
                return Ok(true);
            }
            node.is_due = !stays;
            nodes::save(&transaction, &node)?;
            transaction.commit()?;
            mirror.put(node);
            Ok(false)
        })
        .await
    }
}

fn since_version(db: &Connection) -> rusqlite::Result<u64> {
    let mut statement = db.prepare_cached("SELECT since_version FROM feed")?;
    Ok(statement.query_row([], |row| row.get(0)).optional()?.unwrap_or(0))
}

fn save_version(db: &Connection, version: u64) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO feed (only_row, since_version) VALUES (1, ?1)
         ON CONFLICT (only_row) DO UPDATE SET since_version = ?1",
    )?
    .execute([version])?;
    Ok(())
}

/// Asks for everything next time, and about each node that the answer does not name; answers how many nodes there are.
pub(super) fn begin_anew(db: &Connection) -> rusqlite::Result<usize> {
    save_version(db, 0)?;
    db.execute("UPDATE nodes SET is_due = 1", [])
}

/// Says that the controller has gone back to an earlier day.
pub(super) fn warn_of_restore(node: &CachedNode) {
    let version = node.known.as_ref().map_or(0, |known| known.record.version);
    log::error!(
        mac:% = node.mac();
        "the controller goes back to version {version} of {}: it was restored from a backup, and everything is asked for anew",
        node.mac()
    );
}

/// A node has gone to another site. What the site has seen of it is told first.
fn leave(db: &Connection, id: NodeId) -> rusqlite::Result<Effect> {
    let Some(mut node) = nodes::load_by_id(db, id)? else { return Ok(Effect::None) };
    if has_changes(db, id)? {
        node.is_due = true;
        nodes::save(db, &node)?;
        return Ok(Effect::Kept(Box::new(node), Fate::Unacknowledged));
    }
    delete(db, node.mac())?;
    Ok(Effect::Forgotten(node.mac()))
}

fn has_changes(db: &Connection, id: NodeId) -> rusqlite::Result<bool> {
    db.prepare_cached(
        "SELECT 1 FROM outbox WHERE node = ?1 AND seq > (SELECT acked_through FROM meta)",
    )?
    .exists([Word(id)])
}

fn delete(db: &Connection, mac: Mac) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM nodes WHERE mac = ?1")?.execute([Word(mac)])?;
    Ok(())
}

#[cfg(test)]
mod tests;
