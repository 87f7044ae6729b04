//! What is particular to SQLite: a file of one controller.

use std::path::Path;
use std::str::FromStr;

use sqlx::any::AnyConnectOptions;

use crate::store::StoreError;
use crate::store::open::Use;

/// The one connection that writes.
pub(super) const WRITER: Use = Use {
    connections_max: 1,
    setup: "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; \
            PRAGMA trusted_schema = OFF",
};

/// Connections that only read.
pub(super) const READER: Use = Use {
    connections_max: 4,
    setup: "PRAGMA busy_timeout = 5000; PRAGMA trusted_schema = OFF; PRAGMA query_only = ON",
};

/// How a writing transaction begins: a deferred one would take the lock at its first write and could find that another
/// process, such as `pureboot-controller token`, was faster.
pub(super) const BEGIN: &str = "BEGIN IMMEDIATE";

/// Whether an error's code says that another process keeps the database.
pub(super) fn is_busy(code: &str) -> bool {
    // SQLITE_BUSY, and its kinds _RECOVERY, _SNAPSHOT and _TIMEOUT.
    matches!(code, "5" | "261" | "517" | "773")
}

/// How to reach the file at `path`, which is made if it is not there.
///
/// # Errors
/// The path is not Unicode.
pub(super) fn options(path: &Path) -> Result<AnyConnectOptions, StoreError> {
    let text = path.to_str().ok_or_else(|| {
        StoreError::Unusable(format!(
            "the path {} is not Unicode; name another one",
            path.display()
        ))
    })?;
    // With its slashes encoded the path is opaque to a reader of URLs, and nobody shortens what has '..' in it.
    let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
    Ok(AnyConnectOptions::from_str(&format!("sqlite:{encoded}?mode=rwc"))?)
}
