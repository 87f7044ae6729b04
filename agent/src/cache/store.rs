//! What is durable of the index: `index.db`, and `names.log` that it is rebuilt from. Every call blocks.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::OFlag;
use pureboot_protocol::{ContentKey, Timestamp};
use rusqlite::{Connection, ErrorCode, MAIN_DB, OpenFlags, OptionalExtension, Transaction, params};

use super::index::{Index, Row};
use super::{ContentHash, names};

/// "PBCI": tells an index of this program from other databases.
const APPLICATION_ID: i32 = 0x5042_4349;

/// `user_version` of an index that is whole. One that is being rebuilt has 0.
const VERSION: i32 = 1;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS object (
        sha256 BLOB PRIMARY KEY CHECK (length(sha256) = 32),
        size_bytes INTEGER NOT NULL CHECK (size_bytes >= 0),
        modified_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS name (
        key TEXT PRIMARY KEY,
        sha256 BLOB NOT NULL REFERENCES object (sha256) ON DELETE CASCADE
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS name_sha256 ON name (sha256);
    CREATE TABLE IF NOT EXISTS managed (key TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS used (
        sha256 BLOB PRIMARY KEY REFERENCES object (sha256) ON DELETE CASCADE,
        used_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
";

/// The database and the log.
pub(super) struct Store {
    connection: Connection,
    log_path: PathBuf,
    log: File,
}

/// What a start finds.
pub(super) enum Found {
    /// The index as it was.
    Index(Index),
    /// There is none, or it is damaged: these names are what the log remembers.
    Names(BTreeMap<ContentKey, ContentHash>),
}

impl Store {
    /// Opens the index in `directory`. A damaged or foreign one is set aside, and nothing is known but what the log says.
    pub(super) fn open(directory: &Path) -> Result<(Self, Found)> {
        let path = directory.join("index.db");
        let (connection, index) = match open_database(&path) {
            Ok(opened) => opened,
            Err(error) if is_busy(&error) => {
                bail!("{} is in use by another agent", path.display())
            }
            Err(error) if is_damage(&error) => {
                log::error!(error:%; "the cache's index is damaged, rebuilding it from the objects");
                set_aside(&path)?;
                open_database(&path)
                    .with_context(|| format!("cannot make {} anew", path.display()))?
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot open {}", path.display()));
            }
        };
        let log_path = directory.join("names.log");
        let log =
            open_log(&log_path).with_context(|| format!("cannot open {}", log_path.display()))?;
        let text = fs::read(&log_path)?;
        let logged = names::parse(&String::from_utf8_lossy(&text));
        // A line written behind a torn one would be part of it.
        let is_torn = text.last().is_some_and(|byte| *byte != b'\n');
        let mut store = Self { connection, log_path, log };
        let named = match &index {
            Some(index) => index.entries().map(|(key, hash, _)| (key.clone(), hash)).collect(),
            None => logged.clone(),
        };
        if is_torn || logged != named {
            store.rewrite_log(&named)?;
        }
        let found = index.map_or_else(|| Found::Names(logged), Found::Index);
        Ok((store, found))
    }

    /// Lets `key` stand for an object, and forgets the one that has no name left by that.
    pub(super) fn put(
        &mut self,
        key: &ContentKey,
        hash: ContentHash,
        row: Row,
        orphan: Option<ContentHash>,
    ) -> Result<()> {
        self.append_log(&names::emit(key, Some(hash)))?;
        let transaction = self.connection.transaction()?;
        insert_object(&transaction, hash, row)?;
        insert_name(&transaction, key, hash)?;
        if let Some(orphan) = orphan {
            delete_object(&transaction, orphan)?;
        }
        Ok(transaction.commit()?)
    }

    /// Lets names stand for objects that are held, and forgets `orphans`.
    pub(super) fn put_all(
        &mut self,
        names: &[(ContentKey, ContentHash)],
        orphans: &[ContentHash],
    ) -> Result<()> {
        let lines: String = names.iter().map(|(key, hash)| names::emit(key, Some(*hash))).collect();
        self.append_log(&lines)?;
        let transaction = self.connection.transaction()?;
        for (key, hash) in names {
            insert_name(&transaction, key, *hash)?;
        }
        for orphan in orphans {
            delete_object(&transaction, *orphan)?;
        }
        Ok(transaction.commit()?)
    }

    /// Takes in an object that was found on disk, with the names that it had.
    pub(super) fn adopt(&mut self, hash: ContentHash, row: Row, keys: &[ContentKey]) -> Result<()> {
        let transaction = self.connection.transaction()?;
        insert_object(&transaction, hash, row)?;
        for key in keys {
            insert_name(&transaction, key, hash)?;
        }
        Ok(transaction.commit()?)
    }

    /// Lets `key` stand for nothing, and forgets the object that has no name left by that.
    pub(super) fn unname(&mut self, key: &ContentKey, orphan: Option<ContentHash>) -> Result<()> {
        self.append_log(&names::emit(key, None))?;
        let transaction = self.connection.transaction()?;
        transaction.execute("DELETE FROM name WHERE key = ?1", [key.to_string()])?;
        if let Some(orphan) = orphan {
            delete_object(&transaction, orphan)?;
        }
        Ok(transaction.commit()?)
    }

    /// Remembers which names the manifest has brought, in place of those that were remembered before.
    pub(super) fn save_managed<'a>(
        &mut self,
        keys: impl IntoIterator<Item = &'a ContentKey>,
    ) -> Result<()> {
        let transaction = self.connection.transaction()?;
        transaction.execute("DELETE FROM managed", [])?;
        for key in keys {
            transaction.execute("INSERT INTO managed VALUES (?1)", [key.to_string()])?;
        }
        Ok(transaction.commit()?)
    }

    /// Remembers when objects were last used.
    pub(super) fn save_uses(&mut self, uses: &[(ContentHash, Timestamp)]) -> Result<()> {
        let transaction = self.connection.transaction()?;
        for (hash, at) in uses {
            transaction.execute(
                "INSERT OR REPLACE INTO used SELECT sha256, ?2 FROM object WHERE sha256 = ?1",
                params![hash.as_bytes(), at.unix_ms()],
            )?;
        }
        Ok(transaction.commit()?)
    }

    /// Forgets an object and its names.
    pub(super) fn remove(&mut self, hash: ContentHash) -> Result<()> {
        let transaction = self.connection.transaction()?;
        delete_object(&transaction, hash)?;
        Ok(transaction.commit()?)
    }

    /// The rebuilt index is whole: from now on a start believes it.
    pub(super) fn complete(&mut self) -> Result<()> {
        Ok(self.connection.pragma_update(None, "user_version", VERSION)?)
    }

    fn append_log(&mut self, lines: &str) -> io::Result<()> {
        self.log.write_all(lines.as_bytes())?;
        self.log.sync_data()
    }

    fn rewrite_log(&mut self, named: &BTreeMap<ContentKey, ContentHash>) -> Result<()> {
        let text: String = named.iter().map(|(key, hash)| names::emit(key, Some(*hash))).collect();
        let new_path = self.log_path.with_extension("new");
        let mut new = File::create(&new_path)?;
        new.write_all(text.as_bytes())?;
        new.sync_all()?;
        fs::rename(&new_path, &self.log_path)?;
        self.log = open_log(&self.log_path)?;
        Ok(())
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path)
}

fn open_database(path: &Path) -> rusqlite::Result<(Connection, Option<Index>)> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    // As long as a predecessor that is ending may take.
    connection.busy_timeout(Duration::from_millis(500))?;
    // Exclusive before WAL: then there is no -shm file, and a second agent is refused.
    for (name, value) in [("locking_mode", "EXCLUSIVE"), ("journal_mode", "WAL")] {
        connection.pragma_update_and_check(None, name, value, |_| Ok(()))?;
    }
    // An object without row is swept at the next start, so a row that was acknowledged must survive a power cut.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    connection.pragma_update(None, "trusted_schema", "OFF")?;
    connection.pragma_update(None, "journal_size_limit", 1 << 20)?;
    // No file is made outside of the data directory.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // `quick_check` does not compare a table with its indexes: damage there would show at the first fill, and stay.
    let check: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    let application_id: i32 =
        connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if check != "ok" || (application_id != APPLICATION_ID && tables > 0) {
        return Err(rusqlite::Error::InvalidQuery);
    }
    // A flipped bit in the header's "write version" makes SQLite read and never write.
    if connection.is_readonly(MAIN_DB)? && OpenOptions::new().write(true).open(path).is_ok() {
        return Err(rusqlite::Error::InvalidQuery);
    }
    // FAULTS D3: an index that is there is opened without a write, so that an agent starts on a full disk.
    if application_id != APPLICATION_ID {
        connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    connection.execute_batch(SCHEMA)?;
    // A statement that is damaged and still is one passes every check of SQLite's own.
    let expected = Connection::open_in_memory()?;
    expected.execute_batch(SCHEMA)?;
    if schema(&connection)? != schema(&expected)? {
        return Err(rusqlite::Error::InvalidQuery);
    }
    let version: i32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let index = if version == VERSION { Some(load(&connection)?) } else { None };
    Ok((connection, index))
}

/// The statements that tables and indexes were made with, by their names.
fn schema(connection: &Connection) -> rusqlite::Result<Vec<(String, Option<String>)>> {
    let mut statement = connection.prepare("SELECT name, sql FROM sqlite_schema ORDER BY name")?;
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

fn load(connection: &Connection) -> rusqlite::Result<Index> {
    let mut index = Index::default();
    let mut statement = connection.prepare("SELECT sha256, size_bytes, modified_ms FROM object")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let hash = ContentHash::from_digest(row.get(0)?);
        let modified = Timestamp::from_unix_ms(row.get(2)?);
        let size_bytes: i64 = row.get(1)?;
        index.insert(hash, Row { size_bytes: size_bytes.unsigned_abs(), modified });
    }
    let mut statement = connection.prepare("SELECT key, sha256 FROM name")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let key: String = row.get(0)?;
        let key = key.parse().map_err(|_| rusqlite::Error::InvalidQuery)?;
        index.name(key, ContentHash::from_digest(row.get(1)?));
    }
    let mut statement = connection.prepare("SELECT key FROM managed")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let key: String = row.get(0)?;
        index.manage(key.parse().map_err(|_| rusqlite::Error::InvalidQuery)?);
    }
    let mut statement = connection.prepare("SELECT sha256, used_ms FROM used")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let used_at = Timestamp::from_unix_ms(row.get(1)?);
        index.note_saved_use(ContentHash::from_digest(row.get(0)?), used_at);
    }
    Ok(index)
}

fn insert_object(
    transaction: &Transaction<'_>,
    hash: ContentHash,
    row: Row,
) -> rusqlite::Result<()> {
    let known: Option<i64> = transaction
        .query_row("SELECT 1 FROM object WHERE sha256 = ?1", [hash.as_bytes()], |row| row.get(0))
        .optional()?;
    if known.is_none() {
        let size_bytes = i64::try_from(row.size_bytes).unwrap_or(i64::MAX);
        let values = params![hash.as_bytes(), size_bytes, row.modified.unix_ms()];
        transaction.execute("INSERT INTO object VALUES (?1, ?2, ?3)", values)?;
    }
    Ok(())
}

fn insert_name(
    transaction: &Transaction<'_>,
    key: &ContentKey,
    hash: ContentHash,
) -> rusqlite::Result<()> {
    let values = params![key.to_string(), hash.as_bytes()];
    transaction.execute("INSERT OR REPLACE INTO name VALUES (?1, ?2)", values)?;
    Ok(())
}

fn delete_object(transaction: &Transaction<'_>, hash: ContentHash) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM object WHERE sha256 = ?1", [hash.as_bytes()])?;
    Ok(())
}

fn is_busy(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// Whether the file itself is at fault, and not the disk or the rights to it.
fn is_damage(error: &rusqlite::Error) -> bool {
    !matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::CannotOpen
                | ErrorCode::DiskFull
                | ErrorCode::OutOfMemory
                | ErrorCode::PermissionDenied
                | ErrorCode::ReadOnly
                | ErrorCode::SystemIoFailure
        )
    )
}

/// Renames a damaged index, so that somebody may look at it. The next damaged one takes its place.
fn set_aside(path: &Path) -> Result<()> {
    fs::rename(path, path.with_extension("db.damaged"))
        .with_context(|| format!("cannot set {} aside", path.display()))?;
    for suffix in ["db-wal", "db-shm", "db-journal"] {
        match fs::remove_file(path.with_extension(suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}
