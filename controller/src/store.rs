//! The database, behind one door: what the API and the jobs may ask of it, with the SQL of each resource in its own file.
//!
//! Nobody outside of this module sees SQL, a row or a connection. Whatever belongs together is one method and one transaction.

mod agents;
mod changes;
mod credentials;
mod custody;
mod edits;
mod groups;
mod installs;
mod logs;
mod nodes;
mod page;
mod row;
mod sites;
mod tree;
mod workflows;

use std::path::Path;
use std::time::Duration;

use pureboot_protocol::{GroupId, Mac};
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{SqlSafeStr, Sqlite, Transaction};

use crate::node::{OrderError, TagError};

pub(crate) use agents::Silence;
pub(crate) use credentials::TOKEN_HOURS;
pub(crate) use edits::Edit;
pub(crate) use groups::{Group, GroupFields, GroupFilter};
pub(crate) use nodes::{NewNode, NodeFilter, NodePatch, Origin};
pub(crate) use page::{Cursor, Paging};
pub(crate) use sites::{Site, SiteFields};
pub(crate) use workflows::KeptWorkflow;

/// Connections that only read; one more writes.
const READERS_MAX: u32 = 4;
/// How long another process, such as `pureboot-controller token`, may keep the database before a request fails.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// What cannot be done, and why. The text is for people; [`crate::error::ApiError`] gives each its status and code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// There is no such thing.
    #[error("there is no {what} with the id {id}")]
    Missing {
        /// What kind of thing.
        what: &'static str,
        /// Which.
        id: String,
    },
    /// A name that has to be unique is in use.
    #[error("the name '{name}' is taken by another {what}")]
    NameTaken {
        /// By what kind of thing.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// Another node has the address.
    #[error("the node {holder} has the MAC address {mac} already")]
    MacTaken {
        /// The address.
        mac: Mac,
        /// The node's id.
        holder: String,
    },
    /// A field names something that does not exist.
    #[error("there is no {what} with the id {id}")]
    Unknown {
        /// The field of the request.
        field: &'static str,
        /// What kind of thing it should name.
        what: &'static str,
        /// What it names.
        id: String,
    },
    /// A site's parent is none.
    #[error("Sites can only be nested under other sites, and {0} is none")]
    ParentNotASite(GroupId),
    /// A site or group cannot be moved into itself.
    #[error("'{name}' cannot be moved under itself or under what is below it")]
    ParentBelow {
        /// The site or group.
        name: String,
    },
    /// A site or group has something in it.
    #[error(
        "Cannot delete {} '{name}': it has {children} sites or groups and {nodes} nodes; move or retire them first",
        if *.is_site { "site" } else { "group" }
    )]
    PlaceInUse {
        /// Whether it is a site.
        is_site: bool,
        /// The site or group.
        name: String,
        /// Sites and groups directly below.
        children: u64,
        /// Nodes that are not retired.
        nodes: u64,
    },
    /// A workflow is what nodes are to be installed with.
    #[error(
        "cannot delete workflow '{name}': {nodes} nodes use it and {groups} sites or groups name it as default; assign them \
         another one first"
    )]
    WorkflowInUse {
        /// The workflow.
        name: String,
        /// Nodes that are not retired.
        nodes: u64,
        /// Sites and groups.
        groups: u64,
    },
    /// The client has seen another version than the one that it wants to change.
    #[error("If-Match names version {given}, the current version is {current}; read it again")]
    Stale {
        /// What the client knows.
        given: u64,
        /// What is.
        current: u64,
    },
    /// A node does not move as ordered.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// A node's tags do not change as asked.
    #[error(transparent)]
    Tag(#[from] TagError),
    /// Nobody has made a registration token for the site.
    #[error("No registration token configured for this site")]
    NoToken,
    /// A registration token is wrong, used by another, or expired: which of them is not said.
    #[error("this registration token is not valid for this site; an operator can make a new one")]
    TokenRefused,
    /// Another site's agent has the same credential.
    #[error("this credential belongs to the agent of another site; let the agent make a new one")]
    CredentialInUse,
    /// An outbox has two different changes with one number.
    #[error("change {seq} of this epoch came with another id before; begin a new epoch")]
    Forked {
        /// The sequence number.
        seq: u64,
    },
    /// The database does not do its part.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// The schema cannot be brought to this version.
    #[error("database schema: {0}")]
    Migration(#[from] MigrateError),
    /// A row holds what this version does not understand.
    #[error("column {column} holds something unknown: {message}")]
    Value {
        /// Where.
        column: &'static str,
        /// What is wrong with it.
        message: String,
    },
}

/// The database. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    /// One connection, so that writers wait for each other here, in order, and never see SQLITE_BUSY.
    writer: SqlitePool,
    reader: SqlitePool,
}

impl Store {
    /// Opens the database at `path`, makes it if it is not there, and brings its schema to this version.
    ///
    /// # Errors
    /// The file cannot be used, or its schema is newer than this program.
    pub(crate) async fn open(path: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            .pragma("trusted_schema", "OFF");
        let pool = |connections| {
            SqlitePoolOptions::new().max_connections(connections).acquire_timeout(BUSY_TIMEOUT)
        };
        let writer = pool(1).connect_with(options.clone()).await?;
        migrator(STEPS.len()).run(&writer).await?;
        let reader = pool(READERS_MAX).connect_with(options.pragma("query_only", "ON")).await?;
        Ok(Self { writer, reader })
    }

    /// Asks the database for an answer.
    ///
    /// # Errors
    /// It gives none.
    pub(crate) async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT count(*) FROM operator_tokens").fetch_one(&self.reader).await?;
        Ok(())
    }

    /// Closes the database once what is under way has ended.
    pub(crate) async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }

    /// Begins to write. What is not committed is rolled back when the transaction is dropped.
    async fn write(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        // A deferred transaction would take the lock at its first write and could find that another process was faster.
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }
}

/// Every step from an empty file to this version's schema. Steps are only ever added.
const STEPS: [(&str, &str); 5] = [
    ("main job", include_str!("../migrations/sqlite/0001_main_job.sql")),
    ("groups", include_str!("../migrations/sqlite/0002_groups.sql")),
    ("install timeout", include_str!("../migrations/sqlite/0003_install_timeout.sql")),
    ("custody", include_str!("../migrations/sqlite/0004_custody.sql")),
    ("discovery quota", include_str!("../migrations/sqlite/0005_discovery_quota.sql")),
];

/// What brings a database up to the first `steps` of [`STEPS`].
fn migrator(steps: usize) -> Migrator {
    let step = |(version, (name, sql)): (i64, &(&'static str, &'static str))| {
        let sql = sql.into_sql_str();
        Migration::new(version, (*name).into(), MigrationType::Simple, sql, false)
    };
    Migrator::with_migrations((1..).zip(STEPS.iter().take(steps)).map(step).collect())
}

/// Refuses a change of `current` by a client that knows another version.
fn check_version(given: Option<u64>, current: u64) -> Result<(), StoreError> {
    match given {
        Some(given) if given != current => Err(StoreError::Stale { given, current }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
