//! Orders to the agents of sites: queued, given with the answers to heartbeats under a lease, given again until the result is
//! there.
//!
//! What heartbeats do here belongs to their transaction: a result and an order are durable before anybody is told.

use std::collections::HashMap;

use pureboot_protocol::{
    COMMANDS_MAX, CommandId, CommandOutcome, CommandResult, Order, Page, SiteCommand, SiteId,
    SiteOrder, Timestamp,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Row};

use crate::random;
use crate::store::many::{pieces, values};
use crate::store::page::{Cursor, Paging};
use crate::store::row::{DbConnection, DbRow, count, json, time, time_opt, to_json, word};
use crate::store::{Store, StoreError, sites};

/// Commands of a site whose results are not known, at most.
pub(crate) const OPEN_MAX: u64 = 256;
/// Finished commands that are kept of a site.
const FINISHED_MAX: i64 = 256;
/// How often a command is given before it is given up.
const ATTEMPTS_MAX: i64 = 10;
/// How many intervals between heartbeats an agent has a command before it is given again.
const LEASE_INTERVALS: i64 = 2;
/// The longest detail of a result that is kept, in characters.
const DETAIL_LEN_MAX: usize = 500;

/// How far a command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CommandStatus {
    /// Nobody has been given it.
    Queued,
    /// The agent has been given it, or should have been.
    Sent,
    /// The agent is at it.
    Started,
    /// Done.
    Completed,
    /// Tried in vain.
    Failed,
    /// The agent does not know it.
    Unsupported,
    /// Given [`ATTEMPTS_MAX`] times without a result.
    Expired,
    /// Taken back before anybody was given it.
    Cancelled,
}

impl CommandStatus {
    /// The word on the wire and in the database.
    fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Started => "started",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Unsupported => "unsupported",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }
}

impl From<CommandOutcome> for CommandStatus {
    fn from(outcome: CommandOutcome) -> Self {
        match outcome {
            CommandOutcome::Started => Self::Started,
            CommandOutcome::Completed => Self::Completed,
            CommandOutcome::Failed => Self::Failed,
            CommandOutcome::Unsupported => Self::Unsupported,
        }
    }
}

/// A command as operators see it. The field names are those of the HTTP surface.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Command {
    pub(crate) id: CommandId,
    site_id: SiteId,
    #[serde(flatten)]
    pub(crate) order: Order,
    pub(crate) status: CommandStatus,
    /// How often the agent was given it.
    attempts: u32,
    /// Who ordered it.
    created_by: String,
    created_at: Timestamp,
    /// None while its result is not known.
    finished_at: Option<Timestamp>,
    /// What the agent says of it.
    detail: Option<String>,
    #[serde(skip)]
    number: u64,
}

/// A command that was asked for.
#[derive(Debug)]
pub(crate) enum Enqueued {
    /// It waits for the agent.
    New(Command),
    /// The same has been ordered before and is not done.
    Before(Command),
}

impl Enqueued {
    /// The command, whoever ordered it first.
    pub(crate) fn command(self) -> Command {
        match self {
            Self::New(command) | Self::Before(command) => command,
        }
    }
}

impl Store {
    /// Orders `order` of the agent of `site`.
    ///
    /// # Errors
    /// There is no such site, or too many of its commands wait.
    pub(crate) async fn order_site(
        &self,
        site: SiteId,
        order: SiteOrder,
        by: &str,
        now: Timestamp,
    ) -> Result<Enqueued, StoreError> {
        let mut tx = self.write().await?;
        sites::load(&mut tx, site).await?;
        let enqueued = enqueue(&mut tx, site, order, by, now).await?;
        tx.commit().await?;
        Ok(enqueued)
    }

    /// The commands that are kept of a site, the latest first.
    ///
    /// # Errors
    /// There is no such site.
    pub(crate) async fn commands(
        &self,
        site: SiteId,
        paging: &Paging,
    ) -> Result<Page<Command>, StoreError> {
        let mut tx = self.reader.begin().await?;
        sites::load(&mut tx, site).await?;
        let (below, rows) = paging.falling();
        let rows = sqlx::query(
            "SELECT * FROM commands WHERE site_id = $1 AND number < $2 ORDER BY number DESC LIMIT $3",
        )
        .bind(site.to_string())
        .bind(below)
        .bind(rows)
        .fetch_all(&mut *tx)
        .await?;
        let total = sqlx::query("SELECT count(*) AS total FROM commands WHERE site_id = $1");
        let total = total.bind(site.to_string()).fetch_one(&mut *tx).await?;
        let commands = rows.iter().map(read).collect::<Result<_, _>>()?;
        Ok(paging.page(commands, count(&total, "total")?, |command: &Command| {
            Cursor::numbered(command.number)
        }))
    }

    /// One command of a site.
    ///
    /// # Errors
    /// The site has none with this id.
    pub(crate) async fn command(&self, site: SiteId, id: CommandId) -> Result<Command, StoreError> {
        load(&mut *self.reader.acquire().await?, site, id).await
    }

    /// Takes a command back that nobody has been given. Doing it twice is doing it once.
    ///
    /// # Errors
    /// The site has none with this id, or its agent has been given it.
    pub(crate) async fn cancel_command(
        &self,
        site: SiteId,
        id: CommandId,
        now: Timestamp,
    ) -> Result<Command, StoreError> {
        let mut tx = self.write().await?;
        let command = load(&mut tx, site, id).await?;
        match command.status {
            CommandStatus::Cancelled => return Ok(command),
            CommandStatus::Queued => {}
            status => return Err(StoreError::CommandGiven { id, status: status.as_str() }),
        }
        sqlx::query("UPDATE commands SET status = 'cancelled', finished_at = $2 WHERE id = $1")
            .bind(id.to_string())
            .bind(now.unix_ms())
            .execute(&mut *tx)
            .await?;
        let command = load(&mut tx, site, id).await?;
        tx.commit().await?;
        Ok(command)
    }
}

/// Orders `order` of the agent of `site`, unless the same waits already.
pub(super) async fn enqueue(
    db: &mut DbConnection,
    site: SiteId,
    order: SiteOrder,
    by: &str,
    now: Timestamp,
) -> Result<Enqueued, StoreError> {
    // An agent that was given it may have asked before what is to be asked about now had changed.
    let is_same_once_given = !matches!(order, SiteOrder::Invalidate(_));
    let order = Order::Known(order);
    let text = to_json(&order);
    let same = sqlx::query(
        "SELECT * FROM commands WHERE site_id = $1 AND finished_at IS NULL AND command = $2 AND ($3 OR status = 'queued')
         ORDER BY number LIMIT 1",
    );
    let same = same.bind(site.to_string()).bind(&text).bind(is_same_once_given);
    if let Some(row) = same.fetch_optional(&mut *db).await? {
        return Ok(Enqueued::Before(read(&row)?));
    }
    let open = sqlx::query(
        "SELECT count(*) AS open FROM commands WHERE site_id = $1 AND finished_at IS NULL",
    );
    let open: u64 = count(&open.bind(site.to_string()).fetch_one(&mut *db).await?, "open")?;
    if open >= OPEN_MAX {
        return Err(StoreError::TooManyCommands { site });
    }
    let id = CommandId::from_random(random::bytes());
    sqlx::query(
        "INSERT INTO commands (id, site_id, command, status, attempts, leased_until, created_by, created_at)
         VALUES ($1, $2, $3, 'queued', 0, 0, $4, $5)",
    )
    .bind(id.to_string())
    .bind(site.to_string())
    .bind(&text)
    .bind(by)
    .bind(now.unix_ms())
    .execute(&mut *db)
    .await?;
    forget(db, site).await?;
    Ok(Enqueued::New(load(db, site, id).await?))
}

/// Forgets what has been finished longest of a site, beyond [`FINISHED_MAX`].
async fn forget(db: &mut DbConnection, site: SiteId) -> Result<(), StoreError> {
    sqlx::query(
        "DELETE FROM commands WHERE site_id = $1 AND finished_at IS NOT NULL AND number <=
            (SELECT number FROM commands WHERE site_id = $1 AND finished_at IS NOT NULL
             ORDER BY number DESC LIMIT 1 OFFSET $2)",
    )
    .bind(site.to_string())
    .bind(FINISHED_MAX)
    .execute(db)
    .await?;
    Ok(())
}

/// What the agent of a site says of its commands, with a heartbeat.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said<'a> {
    /// The site that it speaks for.
    pub(super) site: SiteId,
    /// What it says.
    pub(super) results: &'a [CommandResult],
    /// When it came.
    pub(super) at: Timestamp,
    /// Seconds between its heartbeats.
    pub(super) interval_seconds: i64,
}

impl Said<'_> {
    /// Until when a command is the agent's that it is given now, or says that it is at.
    fn lease_until(&self) -> Timestamp {
        self.at.plus_seconds(LEASE_INTERVALS * self.interval_seconds)
    }
}

/// Writes down what agents say of their commands. What they say of commands that are not theirs, or that are finished, changes
/// nothing; that one was done after it had been given up is taken.
pub(super) async fn settle(db: &mut DbConnection, said: &[Said<'_>]) -> Result<(), StoreError> {
    let mut results = Vec::new();
    for said in said {
        let mut last: HashMap<CommandId, &CommandResult> = HashMap::new();
        last.extend(said.results.iter().map(|result| (result.id, result)));
        results.extend(last.into_values().map(|result| (said, result)));
    }
    for results in pieces(&results) {
        let sql = format!(
            "UPDATE commands SET status = said.column3, detail = said.column4, leased_until = said.column6,
                finished_at = CASE WHEN said.column3 = 'started' THEN NULL ELSE said.column5 END
             FROM ({}) AS said
             WHERE commands.site_id = said.column1 AND commands.id = said.column2
                AND (commands.finished_at IS NULL OR commands.status = 'expired')",
            values(results.len(), 6)
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for (said, result) in results {
            query = query
                .bind(said.site.to_string())
                .bind(result.id.to_string())
                .bind(CommandStatus::from(result.outcome).as_str())
                .bind(readable(&result.detail))
                .bind(said.at.unix_ms())
                .bind(said.lease_until().unix_ms());
        }
        query.execute(&mut *db).await?;
    }
    Ok(())
}

/// Gives the agents of `said` the commands that are due, those which wait longest first, and gives up what has been given too
/// often.
pub(super) async fn give(
    db: &mut DbConnection,
    said: &[Said<'_>],
) -> Result<HashMap<SiteId, Vec<SiteCommand>>, StoreError> {
    let mut given: HashMap<SiteId, Vec<(u64, SiteCommand)>> = HashMap::new();
    for said in pieces(said) {
        expire(db, said).await?;
        for row in lease(db, said).await? {
            let command = SiteCommand { id: word(&row, "id")?, order: json(&row, "command")? };
            given
                .entry(word(&row, "site_id")?)
                .or_default()
                .push((count(&row, "number")?, command));
        }
    }
    let in_order = |mut commands: Vec<(u64, SiteCommand)>| {
        commands.sort_by_key(|(number, _)| *number);
        commands.into_iter().map(|(_, command)| command).collect()
    };
    Ok(given.into_iter().map(|(site, commands)| (site, in_order(commands))).collect())
}

async fn expire(db: &mut DbConnection, said: &[Said<'_>]) -> Result<(), StoreError> {
    let sql = format!(
        "UPDATE commands SET status = 'expired', finished_at = said.column2,
            detail = 'the agent was given it {ATTEMPTS_MAX} times and never said what became of it'
         FROM ({}) AS said
         WHERE commands.site_id = said.column1 AND commands.finished_at IS NULL AND commands.leased_until <= said.column2
            AND commands.attempts >= {ATTEMPTS_MAX}",
        values(said.len(), 2)
    );
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for said in said {
        query = query.bind(said.site.to_string()).bind(said.at.unix_ms());
    }
    query.execute(db).await?;
    Ok(())
}

async fn lease(db: &mut DbConnection, said: &[Said<'_>]) -> Result<Vec<DbRow>, StoreError> {
    let sql = format!(
        "UPDATE commands SET status = 'sent', attempts = commands.attempts + 1, leased_until = due.lease_until
         FROM (SELECT c.number AS due_number, said.column3 AS lease_until,
                row_number() OVER (PARTITION BY c.site_id ORDER BY c.number) AS place
            FROM ({}) AS said JOIN commands c
                ON c.site_id = said.column1 AND c.finished_at IS NULL AND c.leased_until <= said.column2) AS due
         WHERE commands.number = due.due_number AND due.place <= {COMMANDS_MAX}
         RETURNING number, id, site_id, command",
        values(said.len(), 3)
    );
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for said in said {
        query = query
            .bind(said.site.to_string())
            .bind(said.at.unix_ms())
            .bind(said.lease_until().unix_ms());
    }
    Ok(query.fetch_all(db).await?)
}

/// What an agent says as people may read it.
fn readable(detail: &str) -> String {
    let visible = |c: char| if c.is_control() { ' ' } else { c };
    detail.chars().take(DETAIL_LEN_MAX).map(visible).collect()
}

async fn load(db: &mut DbConnection, site: SiteId, id: CommandId) -> Result<Command, StoreError> {
    let row = sqlx::query("SELECT * FROM commands WHERE site_id = $1 AND id = $2");
    let row = row.bind(site.to_string()).bind(id.to_string()).fetch_optional(db).await?;
    let missing = || StoreError::Missing { what: "command of this site", id: id.to_string() };
    read(&row.ok_or_else(missing)?)
}

fn read(row: &DbRow) -> Result<Command, StoreError> {
    Ok(Command {
        id: word(row, "id")?,
        site_id: word(row, "site_id")?,
        order: json(row, "command")?,
        status: word(row, "status")?,
        attempts: count(row, "attempts")?,
        created_by: row.try_get("created_by")?,
        created_at: time(row, "created_at")?,
        finished_at: time_opt(row, "finished_at")?,
        detail: row.try_get("detail")?,
        number: count(row, "number")?,
    })
}
