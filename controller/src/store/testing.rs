//! What tests do to a database that the program does not.

use std::path::Path;

use pureboot_protocol::NodeId;
use serde_json::Value;
use sqlx::{AnyConnection, AssertSqlSafe, Connection, Row, ValueRef};

use crate::config::Database;
use crate::random;
use crate::store::Store;
use crate::store::open::Kind;
use crate::store::row::DbRow;

/// The environment variable that names a PostgreSQL database which the tests may fill; without it they run on SQLite.
pub(crate) const VARIABLE: &str = "PUREBOOT_TEST_DATABASE";

/// A database for one test: a file in `dir`, or a schema of its own on the server that [`VARIABLE`] names.
pub(crate) async fn database(dir: &Path) -> Database {
    let Ok(url) = std::env::var(VARIABLE) else { return Database::File(dir.join("controller.db")) };
    sqlx::any::install_default_drivers();
    let schema = format!("test_{:032x}", u128::from_be_bytes(random::bytes()));
    let mut server = AnyConnection::connect(&url).await.expect("the server of the tests");
    let create = AssertSqlSafe(format!("CREATE SCHEMA {schema}"));
    sqlx::raw_sql(create).execute(&mut server).await.expect("a schema");
    server.close().await.expect("closed");
    let separator = if url.contains('?') { '&' } else { '?' };
    let url = format!("{url}{separator}options=-c%20search_path%3D{schema}");
    Database::Server(url.parse().expect("a URL"))
}

impl Store {
    /// Everything that changes have left behind, as text, in an order that does not depend on how they came.
    pub(crate) async fn traces(&self) -> Vec<String> {
        let mut traces = Vec::new();
        for (what, query) in [
            (
                "node",
                "SELECT id, mac_address, ip_address, state, vendor, model, home_site_id, install_attempts,
                    last_install_error, boot_count, version, run_base FROM nodes ORDER BY id",
            ),
            (
                "alias",
                "SELECT site_id, alias, node_id FROM node_aliases ORDER BY site_id, alias",
            ),
            (
                "move",
                "SELECT node_id, from_state, to_state, triggered_by, version FROM state_log ORDER BY id",
            ),
            ("event", "SELECT node_id, site_id, event FROM node_events ORDER BY id"),
            (
                "change",
                "SELECT id, seq, outcome, node_version, CASE WHEN conflict_id IS NULL THEN 0 ELSE 1 END AS is_disputed, reason, raw FROM changes ORDER BY seq, id",
            ),
            (
                "conflict",
                "SELECT node_id, kind, site_state, site_base_version, site_changes, central_state, central_version, resolution,
                    resolved_by, node_version, cause FROM conflicts ORDER BY node_id, cause, site_state, central_version, site_base_version",
            ),
            ("outbox", "SELECT epoch, acked_through FROM outboxes ORDER BY epoch"),
        ] {
            let rows = sqlx::query(query).fetch_all(&self.reader).await.expect("rows");
            traces.extend(rows.iter().map(|row| format!("{what} {}", Value::Array(values(row)))));
        }
        traces
    }

    /// All that the database keeps, as it keeps it; its files are in `dir`.
    pub(crate) async fn bytes(&self, dir: &Path) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.kind == Kind::Sqlite {
            for entry in std::fs::read_dir(dir).expect("a directory") {
                bytes.extend(std::fs::read(entry.expect("an entry").path()).expect("a file"));
            }
            return bytes;
        }
        let tables =
            "SELECT tablename::text AS name FROM pg_tables WHERE schemaname = current_schema()";
        for table in sqlx::query(tables).fetch_all(&self.reader).await.expect("tables") {
            let name: String = table.get("name");
            let rows = AssertSqlSafe(format!("SELECT t::text AS row FROM {name} t"));
            for row in sqlx::query(rows).fetch_all(&self.reader).await.expect("rows") {
                bytes.extend(row.get::<String, _>("row").bytes());
            }
        }
        bytes
    }

    /// Makes the database refuse to `verb` (INSERT, UPDATE) rows of `table`, or only the row of `node`.
    pub(crate) async fn sabotage(&self, verb: &str, table: &str, node: Option<NodeId>) {
        let when = node.map(|id| format!("WHEN (new.id = '{id}')")).unwrap_or_default();
        let statement = match self.kind {
            Kind::Sqlite => format!(
                "CREATE TRIGGER broken BEFORE {verb} ON {table} {when} BEGIN SELECT RAISE(ABORT, 'disk'); END"
            ),
            Kind::Postgres => format!(
                "CREATE OR REPLACE FUNCTION break() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'disk'; END $$;
                 CREATE TRIGGER broken BEFORE {verb} ON {table} FOR EACH ROW {when} EXECUTE FUNCTION break()"
            ),
        };
        self.run(statement).await;
    }

    /// Ends [`Store::sabotage`] of `table`.
    pub(crate) async fn mend(&self, table: &str) {
        self.run(match self.kind {
            Kind::Sqlite => "DROP TRIGGER broken".to_owned(),
            Kind::Postgres => format!("DROP TRIGGER broken ON {table}"),
        })
        .await;
    }

    async fn run(&self, statement: String) {
        let statement = sqlx::raw_sql(AssertSqlSafe(statement));
        statement.execute(&self.writer).await.expect("a statement of a test");
    }
}

fn values(row: &DbRow) -> Vec<Value> {
    let value = |at: usize| {
        if row.try_get_raw(at).expect("a column").is_null() {
            return Value::Null;
        }
        let number = || row.try_get::<i64, _>(at).map(Value::from);
        row.try_get::<String, _>(at).map(Value::from).or_else(|_| number()).expect("text or number")
    };
    (0..row.len()).map(value).collect()
}
