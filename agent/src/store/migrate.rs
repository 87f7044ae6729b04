//! The steps from each version of the schema to the next, and the marks by which a database is known.

use rusqlite::{Connection, TransactionBehavior};

use super::open::OpenError;

/// Says in the file's header whose it is (SQLite file format §1.2.15): "PBsd".
pub(super) const APPLICATION_ID: u32 = 0x5042_7364;

/// Each step is one transaction: after a power cut the database has the old version or the new one.
const STEPS: &[&str] = &[
    include_str!("schema.sql"),
    include_str!("steps/answers.sql"),
    include_str!("steps/records.sql"),
    include_str!("steps/ring.sql"),
    include_str!("steps/offline.sql"),
    include_str!("steps/wishes.sql"),
];

/// Brings the database to the newest version that this program knows.
///
/// # Errors
/// It was written by a newer program, its schema is not one that this program has made, or a step failed and has not happened.
pub(super) fn migrate(db: &mut Connection) -> Result<(), OpenError> {
    let found = version(db)?;
    if found > STEPS.len() {
        return Err(OpenError::Newer { found, known: STEPS.len() });
    }
    // A statement that is damaged and still is one passes every check of SQLite's own.
    if schema(db)? != expected_schema(found)? {
        return Err(OpenError::Damaged("its tables are not those that were made".to_owned()));
    }
    run_steps(db, STEPS)
}

/// What the database is made of.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SchemaRow {
    /// Its place in the table of the schema; what was dropped leaves a gap.
    pub(super) number: i64,
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) table: String,
    pub(super) sql: Option<String>,
}

/// The rows of the schema after the first `version` steps, in the order in which they were made.
pub(super) fn expected_schema(version: usize) -> Result<Vec<SchemaRow>, OpenError> {
    let mut db = Connection::open_in_memory()?;
    run_steps(&mut db, STEPS.get(..version).unwrap_or(STEPS))?;
    Ok(schema(&db)?)
}

fn schema(db: &Connection) -> rusqlite::Result<Vec<SchemaRow>> {
    db.prepare("SELECT rowid, type, name, tbl_name, sql FROM sqlite_schema ORDER BY rowid")?
        .query_map([], |row| {
            let (number, kind, name) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok(SchemaRow { number, kind, name, table: row.get(3)?, sql: row.get(4)? })
        })?
        .collect()
}

pub(super) fn version(db: &Connection) -> rusqlite::Result<usize> {
    db.pragma_query_value(None, "user_version", |row| row.get(0))
}

fn run_steps(db: &mut Connection, steps: &[&str]) -> Result<(), OpenError> {
    for (version, step) in (1..).zip(steps).skip(version(db)?) {
        let step_done = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        step_done.execute_batch(step)?;
        step_done.pragma_update(None, "application_id", APPLICATION_ID)?;
        step_done.pragma_update(None, "user_version", version)?;
        step_done.commit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k7_a_step_that_fails_half_way_leaves_the_old_version() {
        let mut db = Connection::open_in_memory().unwrap();
        let broken = ["CREATE TABLE a (x) STRICT", "CREATE TABLE b (x INTEGER) STRICT; nonsense"];
        assert!(run_steps(&mut db, &broken).is_err());
        let good = ["CREATE TABLE a (x INTEGER) STRICT", "CREATE TABLE b (x INTEGER) STRICT"];
        let half = [good[0], "CREATE TABLE b (x INTEGER) STRICT; nonsense"];
        assert!(run_steps(&mut db, &half).is_err());
        assert_eq!(version(&db), Ok(1));
        assert!(db.prepare("SELECT x FROM b").is_err());
        run_steps(&mut db, &good).unwrap();
        assert_eq!(version(&db), Ok(2));
        assert!(db.prepare("SELECT x FROM b").is_ok());
    }

    #[test]
    fn u3_a_database_of_a_newer_program_is_refused_and_named() {
        let mut db = Connection::open_in_memory().unwrap();
        migrate(&mut db).unwrap();
        db.pragma_update(None, "user_version", 99).unwrap();
        let known = STEPS.len();
        assert_eq!(
            migrate(&mut db).unwrap_err().to_string(),
            format!(
                "the database has schema 99 and this program knows {known}; start the newer program again"
            )
        );
    }
}
