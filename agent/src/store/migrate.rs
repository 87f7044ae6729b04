//! The steps from each version of the schema to the next, and the marks by which a database is known.
//!
//! A step says behind [`BACK`] how it is undone, and the database keeps those words: a program that knows fewer steps finds in it
//! how to go back to its own schema, which is what happens when an update of the agent is given up (FAULTS U2, U3). Nothing that
//! was reported is lost by that; what only the newer program could say is.

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
    include_str!("steps/ways_back.sql"),
];

/// What stands between the statements of a step and those that undo it, as a line of its own.
const BACK: &str = "\n-- BACK\n";

/// Brings the database to the newest version that this program knows.
///
/// # Errors
/// It was written by a newer program, its schema is not one that this program has made, or a step failed and has not happened.
pub(super) fn migrate(db: &mut Connection) -> Result<(), OpenError> {
    go_back(db, STEPS.len())?;
    let found = version(db)?;
    // A statement that is damaged and still is one passes every check of SQLite's own.
    if schema(db)? != expected_schema(found)? {
        return Err(OpenError::Damaged("its tables are not those that were made".to_owned()));
    }
    run_steps(db, STEPS)
}

/// Undoes the steps that lead beyond version `known`, the last one first, each in one transaction.
fn go_back(db: &mut Connection, known: usize) -> Result<(), OpenError> {
    loop {
        let found = version(db)?;
        if found <= known {
            return Ok(());
        }
        if !db.table_exists(None, "ways_back")? {
            return Err(OpenError::Newer { found, known });
        }
        let step_undone = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let back: rusqlite::Result<String> = step_undone.query_row(
            "DELETE FROM ways_back WHERE version = ?1 RETURNING statements",
            [found],
            |row| row.get(0),
        );
        let back = match back {
            Err(rusqlite::Error::QueryReturnedNoRows) => {
                return Err(OpenError::Newer { found, known });
            }
            back => back?,
        };
        step_undone.execute_batch(&back)?;
        step_undone.pragma_update(None, "user_version", found - 1)?;
        step_undone.commit()?;
        log::warn!(
            "the database had schema {found} of a newer program, and is back at {}",
            found - 1
        );
    }
}

/// Whether a program that knows the schema of the database as it is now could use it again after this one has brought it up; the
/// database is the same afterwards. One of a newer program is brought back to what this one knows, and that program can use it again.
///
/// # Errors
/// It cannot be brought up, or there is no way back.
pub(super) fn check_way_back(db: &mut Connection) -> Result<(), OpenError> {
    go_back(db, STEPS.len())?;
    let found = version(db)?;
    let before = schema(db)?;
    migrate(db)?;
    go_back(db, found)?;
    if schema(db)? != before {
        return Err(OpenError::Damaged(format!("the way back to schema {found} leads elsewhere")));
    }
    Ok(())
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
        let (step, back) = step.split_once(BACK).unwrap_or((step, ""));
        let step_done = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        step_done.execute_batch(step)?;
        if !back.is_empty() {
            step_done.execute(
                "INSERT INTO ways_back (version, statements) VALUES (?1, ?2)",
                (version, back),
            )?;
        }
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
    fn u3_every_step_since_databases_keep_the_way_back_can_be_undone() {
        let first = STEPS.iter().position(|step| step.contains("ways_back")).unwrap() + 1;
        for known in first..=STEPS.len() {
            let mut db = Connection::open_in_memory().unwrap();
            run_steps(&mut db, &STEPS[..known]).unwrap();
            check_way_back(&mut db).unwrap_or_else(|error| {
                panic!("a step behind {known} has no '-- BACK' that undoes it: {error}")
            });
            assert_eq!(version(&db), Ok(known));
        }
    }

    #[test]
    fn u2_u3_a_program_goes_back_to_its_own_schema_from_a_newer_ones_and_forth_again() {
        let newer = [
            STEPS,
            &["CREATE TABLE news (x INTEGER) STRICT; ALTER TABLE nodes ADD COLUMN colour TEXT;
-- BACK
ALTER TABLE nodes DROP COLUMN colour; DROP TABLE news;"],
        ]
        .concat();
        let mut db = Connection::open_in_memory().unwrap();
        migrate(&mut db).unwrap();
        let known = schema(&db).unwrap();
        for _ in 0..2 {
            run_steps(&mut db, &newer).unwrap();
            let brought_up = schema(&db).unwrap();
            check_way_back(&mut db).expect("an older program can be tested on it");
            assert_eq!(schema(&db).unwrap(), known);
            run_steps(&mut db, &newer).unwrap();
            assert_eq!(version(&db), Ok(newer.len()));
            migrate(&mut db).unwrap();
            assert_eq!(version(&db), Ok(STEPS.len()));
            assert_eq!(schema(&db).unwrap(), known);
            run_steps(&mut db, &newer).unwrap();
            assert_eq!(schema(&db).unwrap(), brought_up);
        }
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
