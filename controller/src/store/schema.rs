//! The schema: the steps that lead from an empty database to it, for either database.

use sqlx::migrate::{Migrate, MigrateError, Migration, MigrationType, Migrator};
use sqlx::{AnyConnection, Row, SqlSafeStr};

use crate::store::StoreError;
use crate::store::open::Kind;

/// One step: what it is about, and how each database is told. Both leave the same tables and columns behind.
struct Step {
    /// That of its files. Numbers rise and may have gaps.
    number: i64,
    name: &'static str,
    sqlite: &'static str,
    postgres: &'static str,
}

macro_rules! step {
    ($number:literal, $name:literal, $file:literal) => {
        Step {
            number: $number,
            name: $name,
            sqlite: include_str!(concat!("../../migrations/sqlite/", $file)),
            postgres: include_str!(concat!("../../migrations/postgres/", $file)),
        }
    };
}

/// Every step from nothing to this version's schema. Steps are only ever added.
const STEPS: [Step; 24] = [
    step!(1, "main job", "0001_main_job.sql"),
    step!(2, "groups", "0002_groups.sql"),
    step!(3, "install timeout", "0003_install_timeout.sql"),
    step!(4, "custody", "0004_custody.sql"),
    step!(5, "discovery quota", "0005_discovery_quota.sql"),
    step!(6, "content", "0006_content.sql"),
    step!(7, "people", "0007_people.sql"),
    step!(8, "templates", "0008_templates.sql"),
    step!(9, "jobs", "0009_jobs.sql"),
    step!(20, "beats", "0020_beats.sql"),
    step!(21, "commands", "0021_commands.sql"),
    step!(22, "conflicts", "0022_conflicts.sql"),
    step!(23, "installation", "0023_installation.sql"),
    step!(24, "health", "0024_health.sql"),
    step!(25, "chain", "0025_chain.sql"),
    step!(27, "secret deliveries", "0027_secret_deliveries.sql"),
    step!(28, "boots", "0028_boots.sql"),
    step!(29, "claims", "0029_claims.sql"),
    step!(30, "chunks by content", "0030_chunks_by_content.sql"),
    step!(32, "repeats", "0032_repeats.sql"),
    step!(33, "manifest basis", "0033_manifest_basis.sql"),
    step!(34, "plugins", "0034_plugins.sql"),
    step!(35, "wishes", "0035_wishes.sql"),
    step!(36, "base and effect", "0036_base_and_effect.sql"),
];

/// Where a database keeps which steps it has taken.
pub(super) const TABLE: &str = "_sqlx_migrations";

/// The numbers of all steps that this version knows.
pub(super) fn numbers() -> Vec<i64> {
    STEPS.iter().map(|step| step.number).collect()
}

/// The numbers of the steps that a database has taken.
///
/// # Errors
/// The database fails.
pub(super) async fn steps(db: &mut AnyConnection) -> Result<Vec<i64>, StoreError> {
    let rows = sqlx::query(
        "SELECT CAST(version AS BIGINT) AS version FROM _sqlx_migrations ORDER BY version",
    );
    let rows = rows.fetch_all(db).await?;
    Ok(rows.iter().map(|row| row.try_get("version")).collect::<Result<_, _>>()?)
}

/// Refuses a schema with a step that this version does not know.
///
/// # Errors
/// There is one.
pub(super) fn check_known(steps: &[i64]) -> Result<(), StoreError> {
    match steps.iter().find(|number| !STEPS.iter().any(|step| step.number == **number)) {
        Some(step) => Err(unknown(*step)),
        None => Ok(()),
    }
}

fn unknown(step: i64) -> StoreError {
    StoreError::Unusable(format!(
        "its schema has step {step}, which this version does not know: a later version has used it; run that one"
    ))
}

/// Brings the database up to the schema that the steps with the numbers `steps` lead to. Of several controllers that start at
/// once one does it and the others wait.
///
/// # Errors
/// The database has a later version's schema, or one of this version's steps was changed after it was taken.
pub(super) async fn bring_up(
    db: &mut AnyConnection,
    kind: Kind,
    steps: &[i64],
) -> Result<(), StoreError> {
    let migrator = migrator(kind, steps);
    let outcome = migrator.run_direct(None, db, false).await;
    if outcome.is_err() {
        // A failed run keeps the lock, which lasts as long as the connection.
        _ = db.unlock().await;
    }
    outcome.map_err(|error| match error {
        MigrateError::VersionMissing(step) => unknown(step),
        error => error.into(),
    })
}

fn migrator(kind: Kind, steps: &[i64]) -> Migrator {
    let step = |step: &Step| {
        let sql = match kind {
            Kind::Sqlite => step.sqlite,
            Kind::Postgres => step.postgres,
        };
        let (number, name, sql) = (step.number, step.name.into(), sql.into_sql_str());
        Migration::new(number, name, MigrationType::Simple, sql, false)
    };
    Migrator::with_migrations(
        STEPS.iter().filter(|step| steps.contains(&step.number)).map(step).collect(),
    )
}
