//! Opening the database, whichever it is.

use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::{AnyConnection, AnyPool, Connection, Executor};

use crate::config::Database;
use crate::store::{Store, StoreError, postgres, schema, sqlite};

/// How long a request waits for a connection, as long as one waits in the database for another process.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The bounds by which waits for the right to write are counted, in seconds, up to [`BUSY_TIMEOUT`].
const WRITE_WAITS: [f64; 8] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

/// How long a connection that nobody uses is taken to be good. To ask one that was good just now would cost every request the
/// way to the database and back.
const TRUSTED_FOR: Duration = Duration::from_secs(1);

/// Which database it is: the one thing that nobody outside of this file, `sqlite`, `postgres` and `schema` asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file of this controller alone.
    Sqlite,
    /// A server that several controllers share.
    Postgres,
}

impl Kind {
    /// What people call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        }
    }

    /// The statement that a transaction begins with which is going to write.
    pub(super) fn begin_to_write(self) -> &'static str {
        match self {
            Self::Sqlite => sqlite::BEGIN,
            Self::Postgres => postgres::BEGIN,
        }
    }
}

/// How the connections of one use are made.
pub(super) struct Use {
    /// The most of them.
    pub(super) connections_max: u32,
    /// What each is told first.
    pub(super) setup: &'static str,
}

/// The first connection to a database.
pub(super) struct First {
    pub(super) kind: Kind,
    pub(super) options: AnyConnectOptions,
    pub(super) connection: AnyConnection,
}

impl First {
    /// Connects to `database`, and makes it if it is a file that is not there.
    ///
    /// # Errors
    /// It cannot be used.
    pub(super) async fn connect(database: &Database) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        match database {
            Database::File(path) => {
                let options = sqlite::options(path)?;
                let mut connection = AnyConnection::connect_with(&options).await?;
                connection.execute(sqlite::WRITER.setup).await?;
                Ok(Self { kind: Kind::Sqlite, options, connection })
            }
            Database::Server(url) => {
                let options = postgres::options(url)?;
                let connection = postgres::first_connection(url, &options).await?;
                Ok(Self { kind: Kind::Postgres, options, connection })
            }
        }
    }
}

impl Store {
    /// Opens `database`, makes it if it is a file that is not there, and brings its schema to this version.
    ///
    /// # Errors
    /// It cannot be used, or its schema is newer than this program.
    pub(crate) async fn open(database: &Database) -> Result<Self, StoreError> {
        let First { kind, options, mut connection } = First::connect(database).await?;
        schema::bring_up(&mut connection, kind, &schema::numbers()).await?;
        connection.close().await?;
        let (writer, reader) = match kind {
            Kind::Sqlite => (&sqlite::WRITER, &sqlite::READER),
            Kind::Postgres => (&postgres::WRITER, &postgres::READER),
        };
        Ok(Self {
            kind,
            writer: pool(&options, writer).await?,
            reader: pool(&options, reader).await?,
            write_waits: Histogram::new(WRITE_WAITS),
        })
    }
}

async fn pool(options: &AnyConnectOptions, purpose: &Use) -> Result<AnyPool, StoreError> {
    let setup = purpose.setup;
    let pool = AnyPoolOptions::new()
        .test_before_acquire(false)
        .before_acquire(|connection, state| {
            Box::pin(async move {
                if state.idle_for >= TRUSTED_FOR {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .max_connections(purpose.connections_max)
        .acquire_timeout(BUSY_TIMEOUT)
        .after_connect(move |connection, _| {
            Box::pin(async move { connection.execute(setup).await.map(|_| ()) })
        });
    Ok(pool.connect_with(options.clone()).await?)
}
