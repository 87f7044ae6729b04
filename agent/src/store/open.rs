//! Opening the database: the files, the settings of the connection, and what happens when it is damaged.
//!
//! A database is always built under another name (`site.db.building`), renamed when it is complete (`site.db.new`) and then
//! put in place, so that an interrupted creation or replacement is begun again or carried on, and an empty `site.db` is never
//! a new one.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::libc::O_NOFOLLOW;
use pureboot_protocol::Epoch;
use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::migrate::{self, APPLICATION_ID, migrate};
use super::nodes::CachedNode;
use super::salvage::{self, Salvage};
use super::{StoreError, StoreOptions, Word};
use crate::clock;
use crate::outbox::{begin_epoch, is_unchained};
use crate::world;

/// The first release without the write-ahead log's reset bug.
const SQLITE_VERSION_MIN: i32 = 3_051_003;

/// What every page has; the quota is counted in them.
const PAGE_LEN: u64 = 4_096;

/// Statements that are kept compiled: more than the store, outbox and answers have. With fewer, those that a boot and a report take
/// turns with push each other out, and each is compiled anew.
const STATEMENTS_MAX: usize = 128;

/// Where SQLite's header has the application id, and what the header begins with (SQLite file format §1.2).
const HEADER_MAGIC: &[u8] = b"SQLite format 3\0";
const HEADER_APPLICATION_ID: std::ops::Range<usize> = 68..72;

/// In this order: exclusive locking comes before the log's mode, so that no file of shared memory is needed (FAULTS §11). Each
/// is read back, because a setting that does not take effect reports no error.
const PRAGMAS: &[(&str, &str)] = &[
    ("locking_mode", "exclusive"),
    ("journal_mode", "wal"),
    ("synchronous", "2"),
    ("wal_autocheckpoint", "400"),
    ("journal_size_limit", "1048576"),
    ("trusted_schema", "0"),
    ("cell_size_check", "1"),
    ("mmap_size", "0"),
    // No file is made outside of the data directory; what is sorted has bounds of its own.
    ("temp_store", "2"),
    ("foreign_keys", "1"),
];

/// Why there is no database. The person who started the agent gets this text.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A directory or file cannot be made, read or renamed.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something else stands in the place of a file of the database: a link, a pipe, a directory.
    #[error("{} is not a plain file of its own; move it away", .0.display())]
    NotAFile(PathBuf),
    /// A newer program has used the database.
    #[error(
        "the database has schema {found} and this program knows {known}; start the newer program again"
    )]
    Newer {
        /// The schema in the file.
        found: usize,
        /// The newest that this program knows.
        known: usize,
    },
    /// Another process has the database.
    #[error("another process uses the database; stop it or name another --data-dir")]
    Locked,
    /// SQLite does not keep what the agent relies on.
    #[error("SQLite answers '{got}' to {name}={wanted}; this file system cannot hold the database")]
    Pragma {
        /// The setting.
        name: &'static str,
        /// What was asked for.
        wanted: &'static str,
        /// What is in force.
        got: String,
    },
    /// Linked with a SQLite that may lose data.
    #[error(
        "SQLite {0} is older than {SQLITE_VERSION_MIN} and may lose data; build with a newer one"
    )]
    OldSqlite(i32),
    /// The content is damaged. It is replaced and not reported, unless the replacement is damaged as well.
    #[error("the database is damaged: {0}")]
    Damaged(String),
    /// SQLite refuses for another reason.
    #[error("cannot open the database: {0}")]
    Database(#[source] rusqlite::Error),
    /// The operating system gives no random numbers for a new epoch.
    #[error("no random numbers from the operating system: {0}")]
    Random(String),
    /// The operating system starts no thread.
    #[error("cannot start the thread of the store: {0}")]
    Thread(#[source] io::Error),
    /// The thread ended without a word.
    #[error("the thread of the store ended while opening the database")]
    Died,
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            // None: SQLite was content, and what it gave is not of the type that was written.
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) | None => {
                Self::Damaged(error.to_string())
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked,
            _ => Self::Database(error),
        }
    }
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Io { path: path.to_owned(), source }
}

/// Opens the database, or makes it, or replaces it where it is damaged; `known` is what the agent still remembers then.
pub(super) fn open(options: &StoreOptions, known: &[CachedNode]) -> Result<Connection, OpenError> {
    let version = rusqlite::version_number();
    if version < SQLITE_VERSION_MIN {
        return Err(OpenError::OldSqlite(version));
    }
    let state = state_dir(&options.data_dir)?;
    let files = Files::in_dir(&state);
    if files.complete.exists() {
        files.install()?;
    }
    if !files.database.exists() {
        files.build(options, &Salvage::default())?;
        files.install()?;
    }
    match connect(&files, options) {
        Err(OpenError::Damaged(error)) => {
            replace(options, &error, known)?;
            connect(&files, options)
        }
        opened => opened,
    }
}

/// Whether a program of the version that has used the database last could use it again after this one has.
///
/// # Errors
/// This one cannot use it, or the other could not any more.
pub fn check_way_back(options: &StoreOptions) -> Result<(), OpenError> {
    let files = Files::in_dir(&state_dir(&options.data_dir)?);
    if !files.database.exists() {
        return Ok(());
    }
    migrate::check_way_back(&mut configure(&files.database, options)?)
}

/// Sets the database aside and puts a new one in its place, which holds what can be read of the old one and all of `known`.
pub(super) fn replace(
    options: &StoreOptions,
    error: &str,
    known: &[CachedNode],
) -> Result<(), OpenError> {
    let state = state_dir(&options.data_dir)?;
    let files = Files::in_dir(&state);
    let mut salvaged = files.salvage();
    salvaged.remember(known);
    files.build(options, &salvaged)?;
    let aside = files.install()?;
    log::error!(
        error, changes_saved = salvaged.changes.len(), rows_lost = salvaged.rows_lost;
        "the database was damaged; it is kept as {} and a new one has taken its place",
        aside.unwrap_or_default().display()
    );
    Ok(())
}

fn state_dir(data_dir: &Path) -> Result<PathBuf, OpenError> {
    let make = |path: &Path| {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_at(path))
    };
    make(data_dir)?;
    // SQLite refuses a path with a symlink anywhere in it; where the person put the data directory is their affair.
    let state = fs::canonicalize(data_dir).map_err(io_at(data_dir))?.join("state");
    if fs::symlink_metadata(&state).is_ok_and(|found| !found.is_dir()) {
        return Err(OpenError::NotAFile(state));
    }
    make(&state)?;
    fs::set_permissions(&state, Permissions::from_mode(0o700)).map_err(io_at(&state))?;
    Ok(state)
}

/// Every file that the database may consist of.
struct Files {
    state: PathBuf,
    database: PathBuf,
    building: PathBuf,
    complete: PathBuf,
    copy: PathBuf,
}

fn log_of(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    PathBuf::from(name)
}

fn sync_dir(path: &Path) -> Result<(), OpenError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(io_at(path))
}

fn remove(path: &Path) -> Result<(), OpenError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at(path)(error)),
        _ => Ok(()),
    }
}

impl Files {
    fn in_dir(state: &Path) -> Self {
        Self {
            state: state.to_owned(),
            database: state.join("site.db"),
            building: state.join("site.db.building"),
            complete: state.join("site.db.new"),
            copy: state.join("site.db.salvage"),
        }
    }

    /// Makes a complete database under the name `site.db.new`.
    fn build(&self, options: &StoreOptions, salvaged: &Salvage) -> Result<(), OpenError> {
        remove(&self.building)?;
        remove(&log_of(&self.building))?;
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(O_NOFOLLOW)
            .open(&self.building)
            .map_err(io_at(&self.building))?;
        let mut db = configure(&self.building, options)?;
        migrate(&mut db)?;
        salvage::fill(&mut db, draw_epoch()?, salvaged)?;
        // Closing brings the log into the file; what is renamed must be the whole database.
        db.close().map_err(|(_, error)| error)?;
        if log_of(&self.building).exists() {
            return Err(OpenError::Damaged("the log of a new database was not closed".to_owned()));
        }
        file.sync_all().map_err(io_at(&self.building))?;
        fs::rename(&self.building, &self.complete).map_err(io_at(&self.complete))?;
        sync_dir(&self.state)
    }

    /// Puts the complete database in place. What is there is renamed, its log first: a log that stays behind would be
    /// applied to the new database.
    fn install(&self) -> Result<Option<PathBuf>, OpenError> {
        let mut aside = None;
        if self.database.exists() || log_of(&self.database).exists() {
            let free = (1..u32::MAX)
                .map(|n| self.state.join(format!("site.db.corrupt-{n}")))
                .find(|path| !path.exists() && !log_of(path).exists());
            let Some(free) = free else { return Err(OpenError::NotAFile(self.state.clone())) };
            for (from, to) in
                [(log_of(&self.database), log_of(&free)), (self.database.clone(), free.clone())]
            {
                match fs::rename(&from, &to) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(io_at(&from)(error));
                    }
                    _ => {}
                }
            }
            aside = Some(free);
        }
        fs::rename(&self.complete, &self.database).map_err(io_at(&self.database))?;
        sync_dir(&self.state)?;
        Ok(aside)
    }

    /// Reads what can be read, from a copy: opening a damaged database writes to it.
    fn salvage(&self) -> Salvage {
        let copied = fs::copy(&self.database, &self.copy);
        // Without a log all is in the file.
        let _ = fs::copy(log_of(&self.database), log_of(&self.copy));
        let salvaged = match copied {
            Ok(_) => salvage::read(&self.copy),
            Err(error) => {
                log::error!(error:%; "cannot copy the damaged database to read it");
                Salvage::default()
            }
        };
        for path in [&self.copy, &log_of(&self.copy)] {
            if let Err(error) = remove(path) {
                log::warn!(error:%; "a copy of the damaged database stays behind");
            }
        }
        salvaged
    }
}

/// Refuses what somebody may have planted (FAULTS D15), and ends the world's access to what is ours.
fn check_file(path: &Path) -> Result<(), OpenError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_at(path)(error)),
        Ok(found) if !found.is_file() || found.nlink() != 1 => {
            Err(OpenError::NotAFile(path.to_owned()))
        }
        Ok(found) if found.mode() & 0o077 != 0 => {
            fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(io_at(path))
        }
        Ok(_) => Ok(()),
    }
}

/// Looks at the header before SQLite may change anything: a database of another program is not ours to switch to WAL.
fn check_header(path: &Path) -> Result<(), OpenError> {
    let mut header = Vec::new();
    let file =
        OpenOptions::new().read(true).custom_flags(O_NOFOLLOW).open(path).map_err(io_at(path))?;
    file.take(100).read_to_end(&mut header).map_err(io_at(path))?;
    if header.is_empty() {
        return Err(OpenError::Damaged("the file is empty".to_owned()));
    }
    if !header.starts_with(HEADER_MAGIC)
        || header.get(HEADER_APPLICATION_ID) != Some(APPLICATION_ID.to_be_bytes().as_slice())
    {
        return Err(OpenError::Damaged("the file is not a database of this agent".to_owned()));
    }
    Ok(())
}

fn connect(files: &Files, options: &StoreOptions) -> Result<Connection, OpenError> {
    check_file(&files.database)?;
    check_file(&log_of(&files.database))?;
    check_header(&files.database)?;
    let mut db = configure(&files.database, options)?;
    let verdict: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Err(OpenError::Damaged(verdict));
    }
    migrate(&mut db)?;
    db.query_row("SELECT epoch FROM meta", [], |row| row.get::<_, Word<Epoch>>(0))
        .map_err(|error| OpenError::Damaged(error.to_string()))?;
    link_changes(&mut db)?;
    Ok(db)
}

/// Gives the changes of a program that knew no chain their links, in an epoch of their own.
fn link_changes(db: &mut Connection) -> Result<(), OpenError> {
    if !is_unchained(db)? {
        return Ok(());
    }
    let transaction = db.transaction()?;
    begin_epoch(&transaction, draw_epoch()?, clock::now()).map_err(|error| match error {
        StoreError::Other(error) => OpenError::from(error),
        other => OpenError::Damaged(other.to_string()),
    })?;
    Ok(transaction.commit()?)
}

/// A connection with the settings that everything else relies on.
fn configure(path: &Path, options: &StoreOptions) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(std::time::Duration::ZERO)?;
    db.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    for (name, wanted) in PRAGMAS {
        set(&db, name, wanted)?;
        let got = read(&db, name)?;
        if !got.eq_ignore_ascii_case(wanted) {
            return Err(OpenError::Pragma { name, wanted, got });
        }
    }
    // Not read back: a database that is larger than a lowered quota keeps its size and is full.
    set(&db, "max_page_count", &(options.quota.file_bytes / PAGE_LEN).max(1).to_string())?;
    Ok(db)
}

/// Some settings answer with a row and some do not.
fn set(db: &Connection, name: &str, value: &str) -> rusqlite::Result<()> {
    let mut statement = db.prepare(&format!("PRAGMA {name}={value}"))?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}

fn read(db: &Connection, name: &str) -> rusqlite::Result<String> {
    db.pragma_query_value(None, name, |row| row.get::<_, Value>(0)).map(|value| match value {
        Value::Text(text) => text,
        Value::Integer(number) => number.to_string(),
        other => format!("{other:?}"),
    })
}

fn draw_epoch() -> Result<Epoch, OpenError> {
    let bytes = world::random().map_err(|error| OpenError::Random(error.to_string()))?;
    Ok(Epoch::from_bytes(bytes))
}
