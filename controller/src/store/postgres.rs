//! What is particular to PostgreSQL: a server that several controllers share.
//!
//! The writers of all controllers wait for each other at one advisory lock, as they do in SQLite at its file lock. So no two
//! of them overlap, no statement ever fails for being in another's way, and a method that was written for one database means
//! the same on the other. The alternative, SERIALIZABLE with repetition, was not taken: on small tables, which are read whole,
//! the server sees conflicts between writers that have nothing in common, and a batch of a hundred changes is repeated.
//!
//! Heartbeats, which are most of the writes, are collected and written many at a time (`crate::beats`).

use std::str::FromStr;
use std::time::Duration;

use sqlx::any::AnyConnectOptions;
use sqlx::{AnyConnection, Connection, Error, Row};
use tokio::time::{Instant, sleep, timeout};

use crate::config::ServerUrl;
use crate::store::StoreError;
use crate::store::open::Use;

/// How long a server that is away may take to come, when the controller starts.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(30);
/// How long one attempt to reach it may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long to wait between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// The limits of one statement and one transaction. They end what a controller holds that has lost its machine or its line,
/// which the server would otherwise notice after hours. A server that is told to acknowledge before it has written is told
/// otherwise: what is answered 2xx must be there after a power cut.
macro_rules! session {
    ($more:literal) => {
        concat!(
            "SET application_name = 'pureboot-controller';
             SET client_min_messages = warning;
             SET lock_timeout = '5s';
             SET statement_timeout = '30s';
             SET idle_in_transaction_session_timeout = '10s';
             SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';",
            $more
        )
    };
}

/// The connection that writes whatever there is.
pub(super) const WRITER: Use = Use { connections_max: 1, setup: session!("") };

/// Connections that only read, each transaction from one snapshot.
pub(super) const READER: Use = Use {
    connections_max: 7,
    setup: session!(
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
    ),
};

/// How a writing transaction begins. Every statement sees what was committed before it, hence all that was written before
/// the lock was free.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/// Waits until nobody else writes. The number is the word "pure" in ASCII; installations in other schemas of one database
/// have locks of their own.
pub(super) const LOCK_ALL: &str =
    "SELECT pg_advisory_xact_lock(1886745189, hashtext(current_schema()))";

/// The code of the error that a text cannot be kept, which for a text in UTF-8 has one cause.
pub(super) const NUL_IN_TEXT: &str = "22021";

/// Whether an error's code says that others keep the database, that it has given way to one of them, or that the server ends
/// or has just begun.
pub(super) fn is_busy(code: &str) -> bool {
    // lock_not_available, query_canceled, serialization_failure, deadlock_detected, too_many_connections, admin_shutdown,
    // crash_shutdown, cannot_connect_now
    matches!(code, "55P03" | "57014" | "40001" | "40P01" | "53300" | "57P01" | "57P02" | "57P03")
}

/// How to reach the server.
///
/// # Errors
/// The URL is none.
pub(super) fn options(url: &ServerUrl) -> Result<AnyConnectOptions, StoreError> {
    Ok(AnyConnectOptions::from_str(url.reveal())?)
}

/// Waits for the server, and looks whether the database is one that can be used.
///
/// # Errors
/// It does not come, lets nobody in, or keeps texts in something else than UTF-8.
pub(super) async fn first_connection(
    url: &ServerUrl,
    options: &AnyConnectOptions,
) -> Result<AnyConnection, StoreError> {
    let deadline = Instant::now() + ARRIVAL_LIMIT;
    let mut connection = loop {
        let attempt = timeout(CONNECT_LIMIT, AnyConnection::connect_with(options)).await;
        let error = match attempt {
            Ok(Ok(connection)) => break connection,
            Ok(Err(error)) if !is_passing(&error) => return Err(explain(url, &error)),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", CONNECT_LIMIT.as_secs()),
        };
        if Instant::now() >= deadline {
            let seconds = ARRIVAL_LIMIT.as_secs();
            return Err(StoreError::Unusable(format!(
                "{url} did not come within {seconds} s: {error}"
            )));
        }
        tracing::warn!("waiting for the database {url}: {error}");
        sleep(PAUSE).await;
    };
    let row = sqlx::query("SELECT current_setting('server_encoding') AS encoding");
    let encoding: String = row.fetch_one(&mut connection).await?.try_get("encoding")?;
    if encoding != "UTF8" {
        return Err(StoreError::Unusable(format!(
            "{url} keeps texts in {encoding}; make a database with ENCODING 'UTF8' TEMPLATE template0"
        )));
    }
    Ok(connection)
}

/// Whether the server may let the next attempt in: it is not there, is starting, or has no connection left.
fn is_passing(error: &Error) -> bool {
    match error {
        Error::Io(_) => true,
        Error::Database(error) => {
            matches!(error.code().as_deref(), Some("57P03" | "57P01" | "57P02" | "53300"))
        }
        _ => false,
    }
}

/// Why the server does not let us in, with the cure.
fn explain(url: &ServerUrl, error: &Error) -> StoreError {
    let code = error.as_database_error().and_then(|error| error.code());
    let cure = match code.as_deref() {
        Some("28P01" | "28000") => {
            "; check user and password, which belong into PUREBOOT_DATABASE or into ~/.pgpass"
        }
        Some("3D000") => "; make it with `createdb --encoding UTF8 --template template0`",
        _ => "",
    };
    StoreError::Unusable(format!("cannot use {url}: {error}{cure}"))
}
