//! All that a database holds, row by row, in a form that either database can be filled from (`load`).
//!
//! It is read from one snapshot while controllers go on writing. What a column holds is told by the database itself, so no
//! table has to be named here, and none can be forgotten.

use futures_util::TryStreamExt;
use serde_json::{Number, Value};
use sqlx::any::AnyPoolOptions;
use sqlx::{Any, AnyPool, AssertSqlSafe, Row, Transaction};

use crate::config::Database;
use crate::store::open::{First, Kind};
use crate::store::row::{DbConnection, DbRow};
use crate::store::{KeptObject, StoreError, content, schema};

/// Lets a transaction last as long as a disk takes to be filled.
pub(super) const UNHURRIED: &str =
    "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0";

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    Text,
    Number,
    Flag,
    Bytes,
}

impl Holds {
    /// What a column of this type holds, as either database names it.
    fn of(kind: &str) -> Result<Self, StoreError> {
        match kind.to_ascii_lowercase().as_str() {
            "text" => Ok(Self::Text),
            "integer" | "bigint" => Ok(Self::Number),
            "boolean" => Ok(Self::Flag),
            "blob" | "bytea" => Ok(Self::Bytes),
            kind => Err(StoreError::Unusable(format!("a column of the type {kind} is unknown"))),
        }
    }
}

/// A table with its columns.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(super) columns: Vec<(String, Holds)>,
}

impl Table {
    /// The names of its columns, in the order of the values of a row.
    pub(crate) fn columns(&self) -> Vec<String> {
        self.columns.iter().map(|(name, _)| name.clone()).collect()
    }
}

/// A database as it is at one moment.
pub(crate) struct Snapshot {
    kind: Kind,
    tx: Transaction<'static, Any>,
    pool: AnyPool,
}

impl Snapshot {
    /// Begins to look at `database`, whose schema stays as it is.
    ///
    /// # Errors
    /// It cannot be used, or a later version has made its schema.
    pub(crate) async fn begin(database: &Database) -> Result<Self, StoreError> {
        let First { kind, options, connection } = First::connect(database).await?;
        drop(connection);
        let pool = AnyPoolOptions::new().max_connections(1).connect_with(options).await?;
        let begin = match kind {
            Kind::Sqlite => "BEGIN",
            Kind::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",
        };
        let mut tx = pool.begin_with(begin).await?;
        if kind == Kind::Postgres {
            sqlx::raw_sql(UNHURRIED).execute(&mut *tx).await?;
        }
        let mut snapshot = Self { kind, tx, pool };
        schema::check_known(&snapshot.steps().await?)?;
        Ok(snapshot)
    }

    /// What the database is, for people.
    pub(crate) fn kind(&self) -> &'static str {
        self.kind.name()
    }

    /// The steps that have led to its schema.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn steps(&mut self) -> Result<Vec<i64>, StoreError> {
        schema::steps(&mut self.tx).await
    }

    /// Every table that holds something of ours.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn tables(&mut self) -> Result<Vec<Table>, StoreError> {
        tables(&mut self.tx, self.kind).await
    }

    /// Gives every row of `table` to `each`, its values in the order of the columns.
    ///
    /// # Errors
    /// The database or `each` fails.
    pub(crate) async fn rows(
        &mut self,
        table: &Table,
        mut each: impl FnMut(Vec<Value>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let columns = quoted(table.columns.iter().map(|(name, _)| name));
        let sql = format!("SELECT {columns} FROM \"{}\"", table.name);
        let mut rows = sqlx::query(AssertSqlSafe(sql)).fetch(&mut *self.tx);
        while let Some(row) = rows.try_next().await.map_err(StoreError::from)? {
            let values =
                table.columns.iter().enumerate().map(|(at, (_, holds))| value(&row, at, *holds));
            each(values.collect::<Result<_, StoreError>>()?)?;
        }
        Ok(())
    }

    /// The bytes that names mean, and where they are. What no name means any more may be gone by the time it is looked for.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn objects(&mut self) -> Result<Vec<KeptObject>, StoreError> {
        content::named_objects(&mut self.tx).await
    }

    /// Lets go of the snapshot.
    pub(crate) async fn end(self) {
        drop(self.tx);
        self.pool.close().await;
    }
}

/// `names` as SQL lists them.
pub(super) fn quoted<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

/// Every table but that of the steps, sorted by name.
pub(super) async fn tables(db: &mut DbConnection, kind: Kind) -> Result<Vec<Table>, StoreError> {
    let names = match kind {
        Kind::Sqlite => {
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND substr(name, 1, 7) <> 'sqlite_' ORDER BY name"
        }
        Kind::Postgres => {
            "SELECT CAST(tablename AS TEXT) AS name FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1"
        }
    };
    let columns = match kind {
        Kind::Sqlite => {
            "SELECT CAST(name AS TEXT) AS name, CAST(type AS TEXT) AS type FROM pragma_table_info($1) ORDER BY cid"
        }
        Kind::Postgres => {
            "SELECT CAST(column_name AS TEXT) AS name, CAST(data_type AS TEXT) AS type FROM information_schema.columns
             WHERE table_schema = current_schema() AND table_name = $1 ORDER BY ordinal_position"
        }
    };
    let mut tables = Vec::new();
    for row in sqlx::query(names).fetch_all(&mut *db).await? {
        let name: String = row.try_get("name")?;
        if name == schema::TABLE {
            continue;
        }
        let mut of_table = Vec::new();
        for row in sqlx::query(columns).bind(&name).fetch_all(&mut *db).await? {
            let kind: String = row.try_get("type")?;
            of_table.push((row.try_get("name")?, Holds::of(&kind)?));
        }
        tables.push(Table { name, columns: of_table });
    }
    Ok(tables)
}

/// A value in JSON; bytes are hexadecimal.
fn value(row: &DbRow, at: usize, holds: Holds) -> Result<Value, StoreError> {
    let value = match holds {
        Holds::Text => row.try_get::<Option<String>, _>(at)?.map(Value::String),
        Holds::Number => row.try_get::<Option<i64>, _>(at)?.map(|n| Value::Number(Number::from(n))),
        Holds::Flag => row.try_get::<Option<bool>, _>(at)?.map(Value::Bool),
        Holds::Bytes => row
            .try_get::<Option<Vec<u8>>, _>(at)?
            .map(|bytes| Value::String(bytes.iter().map(|byte| format!("{byte:02x}")).collect())),
    };
    Ok(value.unwrap_or(Value::Null))
}
