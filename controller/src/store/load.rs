//! Fills an empty database with the rows of another one (`dump`), which may have been of the other kind and of an earlier
//! version: the schema is made as it was then, filled, and brought up.
//!
//! All of it is one transaction. On PostgreSQL what was there before is dropped in the same one, so whoever looks sees the old
//! database or the new one. An SQLite file is made beside the one that it is to replace.

use std::collections::BTreeMap;

use anyhow::Context;
use serde_json::Value;
use sqlx::any::{AnyArguments, AnyPoolOptions};
use sqlx::query::Query;
use sqlx::{Any, AnyPool, AssertSqlSafe, Executor, Row, Transaction};

use crate::audit::Entry;
use crate::config::Database;
use crate::store::dump::{Holds, Table, UNHURRIED, quoted, tables};
use crate::store::open::{First, Kind};
use crate::store::row::{DbConnection, count};
use crate::store::{StoreError, audit, installation, schema};

/// The values of one statement, at most.
const VALUES_MAX: usize = 500;

/// A file that is lost if the program ends before it is whole: it needs no journal.
const NEW_FILE: &str =
    "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA foreign_keys = OFF";

/// What belongs to a moment and not to the data: who is signed in, who may join with a token that may have been used since,
/// who does a job, and which manifest a site was given last. The next manifest begins with the time of day as its version, and
/// so above all that were given before.
const PASSING: [&str; 5] =
    ["sessions", "registration_tokens", "jobs", "manifests", "manifest_bases"];

/// A database that is being filled.
pub(crate) struct Loading {
    kind: Kind,
    pool: AnyPool,
    tx: Transaction<'static, Any>,
    tables: BTreeMap<String, Table>,
    /// PostgreSQL's foreign keys, set aside until every row is there: relation, name, definition.
    keys: Vec<(String, String, String)>,
    /// Rows of one table that wait for their statement.
    waiting: Option<Waiting>,
}

struct Waiting {
    table: String,
    columns: Vec<(String, Holds)>,
    rows: Vec<Vec<Value>>,
}

impl Loading {
    /// Begins to fill `database`, an SQLite file that is not there yet or a PostgreSQL database, with rows of the schema that
    /// `steps` lead to. What is there is dropped if `is_forced`.
    ///
    /// # Errors
    /// It cannot be used, a controller uses it, it holds something, or a step is unknown.
    pub(crate) async fn begin(
        database: &Database,
        steps: &[i64],
        is_forced: bool,
    ) -> anyhow::Result<Self> {
        schema::check_known(steps)?;
        let First { kind, options, connection } = First::connect(database).await?;
        drop(connection);
        let pool = AnyPoolOptions::new().max_connections(1).after_connect(move |connection, _| {
            Box::pin(async move {
                if kind == Kind::Sqlite {
                    connection.execute(NEW_FILE).await?;
                }
                Ok(())
            })
        });
        let pool = pool.connect_with(options).await.map_err(StoreError::from)?;
        let mut tx = pool.begin().await.map_err(StoreError::from)?;
        if kind == Kind::Postgres {
            tx.execute(UNHURRIED).await.map_err(StoreError::from)?;
            clear(&mut tx, is_forced).await?;
        }
        schema::bring_up(&mut tx, kind, steps).await?;
        let keys = match kind {
            Kind::Sqlite => Vec::new(),
            Kind::Postgres => set_keys_aside(&mut tx).await?,
        };
        let tables = tables(&mut tx, kind).await?;
        for table in &tables {
            // A step may have put rows into a new database, which the backup has as well.
            let sql = format!("DELETE FROM \"{}\"", table.name);
            tx.execute(AssertSqlSafe(sql)).await.map_err(StoreError::from)?;
        }
        let tables = tables.into_iter().map(|table| (table.name.clone(), table)).collect();
        Ok(Self { kind, pool, tx, tables, keys, waiting: None })
    }

    /// The rows of `table` come next, their values in the order of `columns`.
    ///
    /// # Errors
    /// There is no such table or column, or rows of the table before cannot be stored.
    pub(crate) async fn table(&mut self, table: &str, columns: &[String]) -> anyhow::Result<()> {
        self.flush().await?;
        let known = self.tables.get(table).with_context(|| format!("there is no table {table}"))?;
        let find = |name: &String| {
            let found = known.columns.iter().find(|(column, _)| column == name);
            found.cloned().with_context(|| format!("there is no column {name} in {table}"))
        };
        let columns = columns.iter().map(find).collect::<anyhow::Result<_>>()?;
        self.waiting = Some(Waiting { table: table.to_owned(), columns, rows: Vec::new() });
        Ok(())
    }

    /// Stores a row of the table that was named last, now or with those that follow.
    ///
    /// # Errors
    /// It does not fit.
    pub(crate) async fn row(&mut self, row: Vec<Value>) -> anyhow::Result<()> {
        let waiting = self.waiting.as_mut().context("the row belongs to no table")?;
        anyhow::ensure!(
            row.len() == waiting.columns.len(),
            "a row of {} has {} values for {} columns",
            waiting.table,
            row.len(),
            waiting.columns.len()
        );
        waiting.rows.push(row);
        if waiting.rows.len() * waiting.columns.len() + waiting.columns.len() > VALUES_MAX {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        let Some(waiting) = self.waiting.as_mut().filter(|waiting| !waiting.rows.is_empty()) else {
            return Ok(());
        };
        let Waiting { table, columns, rows } = waiting;
        let places = |row: usize| {
            let place = |column| format!("${}", row * columns.len() + column + 1);
            format!("({})", (0..columns.len()).map(place).collect::<Vec<_>>().join(", "))
        };
        let values = (0..rows.len()).map(places).collect::<Vec<_>>().join(", ");
        let names = quoted(columns.iter().map(|(name, _)| name));
        let sql = format!("INSERT INTO \"{table}\" ({names}) VALUES {values}");
        let mut insert = sqlx::query(AssertSqlSafe(sql));
        for row in rows.drain(..) {
            for (value, (name, holds)) in row.into_iter().zip(columns.iter()) {
                insert = bind(insert, *holds, value)
                    .with_context(|| format!("the column {name} of {table}"))?;
            }
        }
        let stored = insert.execute(&mut *self.tx).await.map_err(StoreError::from);
        stored.with_context(|| format!("cannot store rows of {table}"))?;
        Ok(())
    }

    /// Makes the database whole: brings its schema to this version, forgets what belonged to its moment, writes `entry` into
    /// the audit, and commits.
    ///
    /// # Errors
    /// Rows refer to others that are not there, or the database fails. Then nothing has changed.
    pub(crate) async fn finish(mut self, entry: &Entry) -> anyhow::Result<()> {
        self.flush().await?;
        let tx = &mut *self.tx;
        for table in PASSING.iter().filter(|table| self.tables.contains_key(**table)) {
            let sql = format!("DELETE FROM \"{table}\"");
            tx.execute(AssertSqlSafe(sql)).await.map_err(StoreError::from)?;
        }
        match self.kind {
            Kind::Sqlite => check_keys(tx).await?,
            Kind::Postgres => {
                restore_keys(tx, &self.keys).await?;
                restart_numbers(tx).await?;
            }
        }
        schema::bring_up(tx, self.kind, &schema::numbers()).await?;
        installation::mark_restored(tx, entry.at).await?;
        audit::insert_new(tx, entry).await?;
        self.tx.commit().await.map_err(StoreError::from)?;
        self.pool.close().await;
        Ok(())
    }
}

fn bind<'q>(
    query: Query<'q, Any, AnyArguments>,
    holds: Holds,
    value: Value,
) -> anyhow::Result<Query<'q, Any, AnyArguments>> {
    Ok(match (holds, value) {
        (Holds::Text, Value::Null) => query.bind(None::<String>),
        (Holds::Text, Value::String(text)) => query.bind(text),
        (Holds::Number, Value::Null) => query.bind(None::<i64>),
        (Holds::Number, Value::Bool(flag)) => query.bind(i64::from(flag)),
        (Holds::Number, Value::Number(number)) => {
            query.bind(number.as_i64().with_context(|| format!("{number} is out of range"))?)
        }
        (Holds::Flag, Value::Null) => query.bind(None::<bool>),
        (Holds::Flag, Value::Bool(flag)) => query.bind(flag),
        // SQLite has no booleans.
        (Holds::Flag, Value::Number(number)) => query.bind(number.as_i64() != Some(0)),
        (Holds::Bytes, Value::Null) => query.bind(None::<Vec<u8>>),
        (Holds::Bytes, Value::String(digits)) => {
            let byte =
                |at| digits.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
            let bytes: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(byte).collect();
            query.bind(bytes.context("it holds something else than hexadecimal digits")?)
        }
        (holds, value) => anyhow::bail!("{value} is nothing that it holds ({holds:?})"),
    })
}

/// Drops what is in the schema, if it is a controller's and that is wished for.
async fn clear(db: &mut DbConnection, is_forced: bool) -> anyhow::Result<()> {
    let row = sqlx::query(
        "SELECT count(*) AS others FROM pg_stat_activity
         WHERE application_name = 'pureboot-controller' AND datname = current_database() AND pid <> pg_backend_pid()",
    );
    let row = row.fetch_one(&mut *db).await.map_err(StoreError::from)?;
    let others: u64 = count(&row, "others")?;
    anyhow::ensure!(
        others == 0,
        "controllers have {others} connections to this database; stop them first"
    );
    let rows = sqlx::query(
        "SELECT CAST(tablename AS TEXT) AS name FROM pg_tables WHERE schemaname = current_schema()",
    );
    let rows = rows.fetch_all(&mut *db).await.map_err(StoreError::from)?;
    let names: Result<Vec<String>, _> = rows.iter().map(|row| row.try_get("name")).collect();
    let names = names.map_err(StoreError::from)?;
    if names.is_empty() {
        return Ok(());
    }
    anyhow::ensure!(
        names.iter().any(|name| name == schema::TABLE),
        "the database holds tables that are no controller's ({}); name another one",
        names.iter().take(3).cloned().collect::<Vec<_>>().join(", ")
    );
    anyhow::ensure!(is_forced, "the database is not empty; --force replaces all that is in it");
    let sql = format!("DROP TABLE {} CASCADE", quoted(names.iter()));
    db.execute(AssertSqlSafe(sql)).await.map_err(StoreError::from)?;
    Ok(())
}

/// Takes the foreign keys away, so that rows may come in any order.
async fn set_keys_aside(
    db: &mut DbConnection,
) -> Result<Vec<(String, String, String)>, StoreError> {
    let rows = sqlx::query(
        "SELECT CAST(conrelid::regclass AS TEXT) AS relation, CAST(conname AS TEXT) AS name,
            pg_get_constraintdef(oid) AS definition
         FROM pg_constraint WHERE contype = 'f' AND connamespace = CAST(current_schema() AS regnamespace)",
    );
    let mut keys = Vec::new();
    for row in rows.fetch_all(&mut *db).await? {
        let key: (String, String, String) =
            (row.try_get("relation")?, row.try_get("name")?, row.try_get("definition")?);
        let sql = format!("ALTER TABLE {} DROP CONSTRAINT \"{}\"", key.0, key.1);
        db.execute(AssertSqlSafe(sql)).await?;
        keys.push(key);
    }
    Ok(keys)
}

async fn restore_keys(
    db: &mut DbConnection,
    keys: &[(String, String, String)],
) -> Result<(), StoreError> {
    for (relation, name, definition) in keys {
        let sql = format!("ALTER TABLE {relation} ADD CONSTRAINT \"{name}\" {definition}");
        db.execute(AssertSqlSafe(sql)).await?;
    }
    Ok(())
}

/// Lets rows that number themselves go on behind the last one.
async fn restart_numbers(db: &mut DbConnection) -> Result<(), StoreError> {
    let rows = sqlx::query(
        "SELECT CAST(table_name AS TEXT) AS relation, CAST(column_name AS TEXT) AS name FROM information_schema.columns
         WHERE table_schema = current_schema() AND is_identity = 'YES'",
    );
    for row in rows.fetch_all(&mut *db).await? {
        let (relation, name): (String, String) = (row.try_get("relation")?, row.try_get("name")?);
        let sql = format!(
            "SELECT setval(pg_get_serial_sequence('\"{relation}\"', '{name}'),
                (SELECT coalesce(max(\"{name}\"), 0) + 1 FROM \"{relation}\"), false)"
        );
        db.execute(AssertSqlSafe(sql)).await?;
    }
    Ok(())
}

/// Refuses rows that refer to others which are not there.
async fn check_keys(db: &mut DbConnection) -> anyhow::Result<()> {
    let rows =
        sqlx::query("SELECT CAST(\"table\" AS TEXT) AS relation FROM pragma_foreign_key_check");
    let row = rows.fetch_optional(db).await.map_err(StoreError::from)?;
    if let Some(row) = row {
        let relation: String = row.try_get("relation").map_err(StoreError::from)?;
        anyhow::bail!("rows of {relation} refer to others that are not there");
    }
    Ok(())
}
