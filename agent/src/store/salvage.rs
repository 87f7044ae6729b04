//! Reading what can be read of a damaged database, row by row, and filling its replacement.

use std::collections::HashMap;
use std::path::Path;

use pureboot_protocol::{Epoch, Timestamp};
use rusqlite::{Connection, OpenFlags, Row};

use super::identity::{self, Identity};
use super::migrate::{expected_schema, version};
use super::nodes::{self, CachedNode};
use super::open::OpenError;
use super::sessions::{self, BootSession};
use super::{StoreError, Word};
use crate::clock;
use crate::outbox::{Entry, append, kept_since};

/// After so many rows of a table that cannot be read the rest of it is given up: a damaged page may claim any row number.
const FAILURES_MAX: u64 = 10_000;

/// What could be read.
#[derive(Debug, Default)]
pub(super) struct Salvage {
    identity: Option<Identity>,
    nodes: Vec<CachedNode>,
    sessions: Vec<BootSession>,
    /// With the sequence numbers of the old epoch, in their order.
    pub(super) changes: Vec<(u64, Entry)>,
    /// Rows that are there and cannot be read; one at the least for each stretch that is damaged.
    pub(super) rows_lost: u64,
}

impl Salvage {
    /// Adds what the agent still has in memory, which is newer than what was read.
    pub(super) fn remember(&mut self, known: &[CachedNode]) {
        self.nodes.retain(|node| known.iter().all(|other| other.mac() != node.mac()));
        self.nodes.extend_from_slice(known);
    }
}

/// Reads the database at `path`, which is a copy: it may be written to.
pub(super) fn read(path: &Path) -> Salvage {
    let mut salvage = Salvage::default();
    if let Err(error) = restore_schema(path) {
        log::warn!(error:%; "the damaged database is read without repair of its schema");
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let Ok(db) = Connection::open_with_flags(path, flags) else { return salvage };
    // Without shared memory, as in normal work; a database that is too damaged for it fails below.
    let _ = db.pragma_update_and_check(None, "locking_mode", "exclusive", |_| Ok(()));
    let lost = &mut salvage.rows_lost;
    salvage.changes = changes(&db, lost);
    salvage.nodes = rows(&db, "nodes", "number", lost, |row| Ok(nodes::read(row)?));
    salvage.sessions = rows(&db, "sessions", "number", lost, |row| {
        Ok(BootSession {
            id: row.get::<_, Word<_>>("id")?.0,
            mac: row.get::<_, Word<_>>("mac")?.0,
            started_at: Timestamp::from_unix_ms(row.get("started_at")?),
        })
    });
    salvage.identity = identity::load(&db).unwrap_or_else(|error| {
        log::error!(error:%; "the agent's identity cannot be read from the damaged database");
        None
    });
    salvage
}

/// One damaged letter in a table's statement would cost all of its rows, and what the statements were is known.
fn restore_schema(path: &Path) -> Result<(), OpenError> {
    let db = Connection::open(path)?;
    // With this, SQLite also opens a schema that it cannot understand.
    db.pragma_update(None, "writable_schema", true)?;
    // A version that is damaged too is taken for the newest.
    let version = Some(version(&db)?).filter(|version| *version > 0).unwrap_or(usize::MAX);
    for row in expected_schema(version)? {
        db.execute(
            "UPDATE sqlite_schema SET type = ?2, name = ?3, tbl_name = ?4, sql = ?5 WHERE rowid = ?1",
            (row.number, row.kind, row.name, row.table, row.sql),
        )?;
    }
    Ok(())
}

/// The changes that wait, and those that the controller has had for no longer than it may lose them: all are sent again, and what it
/// has is a duplicate then. The same holds where nobody knows what it has, or since when.
fn changes(db: &Connection, lost: &mut u64) -> Vec<(u64, Entry)> {
    let acked_through = "SELECT acked_through FROM meta";
    let acked_through: u64 = db.query_row(acked_through, [], |row| row.get(0)).unwrap_or(0);
    let oldest = kept_since(clock::now()).unix_ms();
    let read = |row: &Row<'_>| {
        let seq = row.get("seq")?;
        let acked_at = row.get::<_, Option<i64>>("acked_at").ok().flatten();
        let is_kept = seq > acked_through || acked_at.is_none_or(|at| at >= oldest);
        Ok((is_kept, (seq, Entry::read(row)?)))
    };
    let found = rows(db, "outbox", "seq", lost, read);
    found.into_iter().filter_map(|(is_kept, change)| is_kept.then_some(change)).collect()
}

/// Every row of `table` that can be read, in the order of `key`, its row number.
fn rows<T>(
    db: &Connection,
    table: &str,
    key: &str,
    lost: &mut u64,
    read: impl Fn(&Row<'_>) -> Result<T, StoreError>,
) -> Vec<T> {
    let mut found = Vec::new();
    let mut failures = 0;
    let mut after = i64::MIN;
    let next = format!("SELECT * FROM {table} WHERE {key} > ?1 ORDER BY {key} LIMIT 1");
    while failures < FAILURES_MAX {
        let Ok(mut statement) = db.prepare_cached(&next) else {
            *lost += 1;
            break;
        };
        let step = statement.query([after]).and_then(|mut rows| {
            rows.next()?.map(|row| Ok((row.get::<_, i64>(key)?, read(row)))).transpose()
        });
        match step {
            Ok(None) => break,
            Ok(Some((number, _))) if number <= after => {
                *lost += 1;
                break;
            }
            Ok(Some((number, row))) => {
                after = number;
                match row {
                    Ok(row) => found.push(row),
                    Err(_) => {
                        failures += 1;
                        *lost += 1;
                    }
                }
            }
            // The page of the next row is damaged; its rows are skipped one number at a time.
            Err(_) => {
                failures += 1;
                *lost += 1;
                after = after.max(0) + 1;
            }
        }
    }
    found
}

/// Makes the first rows of a new database, in one transaction.
pub(super) fn fill(db: &mut Connection, epoch: Epoch, salvage: &Salvage) -> rusqlite::Result<()> {
    let transaction = db.transaction()?;
    transaction.execute("INSERT INTO meta (only_row, epoch) VALUES (1, ?1)", [Word(epoch)])?;
    if let Some(identity) = &salvage.identity {
        identity::save(&transaction, identity)?;
    }
    // A new epoch counts from 1 without gaps; the ids stay, so that what the controller has already is a duplicate there.
    let mut new_seq = HashMap::new();
    for (old_seq, entry) in &salvage.changes {
        new_seq.insert(*old_seq, append(&transaction, entry)?);
    }
    for node in &salvage.nodes {
        let mut node = node.clone();
        node.state_seq = node.state_seq.and_then(|seq| new_seq.get(&seq).copied());
        nodes::save(&transaction, &node)?;
    }
    for session in &salvage.sessions {
        sessions::save(&transaction, *session)?;
    }
    transaction.commit()
}
