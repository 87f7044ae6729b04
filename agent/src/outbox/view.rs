//! What waits for the controller and what it has set aside, for the person who asks (API.md §5, `GET /api/v1/agent/queue`).

use pureboot_protocol::{
    BootId, ChangeId, ClockQuality, ConflictId, Epoch, Mac, NodeId, Outcome, Timestamp,
};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::outcomes::Flight;
use super::record::{epoch, result};
use super::ring::{Borders, ring_use};
use crate::store::{Json, Store, StoreError, Word, load_by_id};

/// The most changes that are shown at once.
pub const ITEMS_MAX: u64 = 500;

/// Which changes somebody wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// None, only the figures.
    Figures,
    /// Those that wait and those that were set aside: at most so many, the oldest first, after this number.
    Open {
        /// At most [`ITEMS_MAX`].
        limit: u64,
        /// The last one that was shown.
        after: u64,
    },
    /// As `Open`, and those that took effect and are still kept.
    All {
        /// At most [`ITEMS_MAX`].
        limit: u64,
        /// The last one that was shown.
        after: u64,
    },
}

/// The queue. The field names are those of the management surface.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Queue {
    /// Changes that the controller has not acknowledged.
    pub pending: u64,
    /// Those of them that are on their way.
    pub processing: u64,
    /// Changes that the controller has parked, of those that are still kept.
    pub failed: u64,
    /// `pending` and `failed` together.
    pub total: u64,
    /// Changes that met another one at the controller, of those that are still kept.
    pub conflicts: u64,
    /// When the oldest that waits was made.
    pub oldest_at: Option<Timestamp>,
    /// Bytes of payload that wait.
    pub size_bytes: u64,
    /// Those of events.
    pub event_bytes: u64,
    /// Events that wait.
    pub events: u64,
    /// The most changes that may wait; events may be 60 % of them.
    pub changes_max: u64,
    /// The most bytes of payload that may wait; events may have 60 % of them.
    pub bytes_max: u64,
    /// Changes that the controller has and that are kept for a while.
    pub kept: u64,
    /// What they take.
    pub kept_bytes: u64,
    /// The life of the outbox.
    pub epoch: Epoch,
    /// The last change that the controller has acknowledged.
    pub acked_through: u64,
    /// Why the last attempt to deliver has failed; none after one that did not.
    pub last_error: Option<String>,
    /// What was asked for.
    pub items: Vec<Item>,
}

/// Where a change is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It waits.
    Pending,
    /// It is being delivered.
    Processing,
    /// It took effect at the controller.
    Applied,
    /// It had come to the controller before.
    Duplicate,
    /// It met another change there.
    Conflict,
    /// The controller keeps it without effect.
    Parked,
}

impl Stage {
    /// The word for it, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Processing => "processing",
            Self::Applied => "applied",
            Self::Duplicate => "duplicate",
            Self::Conflict => "conflict",
            Self::Parked => "parked",
        }
    }
}

impl From<Outcome> for Stage {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Applied => Self::Applied,
            Outcome::Duplicate => Self::Duplicate,
            Outcome::Conflict => Self::Conflict,
            Outcome::Parked => Self::Parked,
        }
    }
}

/// One change. The field names are those of the management surface.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// Its place in the epoch.
    pub seq: u64,
    /// Its id.
    pub id: ChangeId,
    /// `registration`, `state_change`, `event`.
    pub kind: String,
    /// What it says, in a few words.
    pub summary: String,
    /// The node.
    pub node: NodeId,
    /// The node's address, where the site knows it.
    pub mac: Option<Mac>,
    /// When it was made, by the site's clock.
    pub at: Timestamp,
    /// How good that clock was.
    pub clock: ClockQuality,
    /// The boot session that it belongs to.
    pub session: Option<BootId>,
    /// The version of the node that it is based on.
    pub base_version: Option<u64>,
    /// Where it is.
    pub stage: Stage,
    /// Why it is there, in words.
    pub why: String,
    /// When the controller acknowledged it.
    pub acked_at: Option<Timestamp>,
    /// The node's version after it.
    pub node_version: Option<u64>,
    /// The conflict that it is a part of.
    pub conflict_id: Option<ConflictId>,
    /// What it says, in full.
    pub payload: Value,
}

impl Queue {
    /// Adds what only the flusher knows.
    pub(super) fn tell_flight(&mut self, flight: Option<Flight>, last_error: Option<String>) {
        self.last_error = last_error;
        self.processing = flight.map_or(0, Flight::len).min(self.pending);
        for item in std::mem::take(&mut self.items) {
            self.items.push(item.told(flight, self.last_error.as_deref()));
        }
    }
}

impl Item {
    /// With what only the flusher knows.
    pub(super) fn told(mut self, flight: Option<Flight>, last_error: Option<&str>) -> Self {
        if self.stage != Stage::Pending {
            return self;
        }
        let is_flying = flight.is_some_and(|it| (it.first_seq..=it.last_seq).contains(&self.seq));
        self.why = match last_error {
            _ if is_flying => {
                self.stage = Stage::Processing;
                "it is being handed over".to_owned()
            }
            Some(error) => error.to_owned(),
            None => "it goes with the next batch".to_owned(),
        };
        self
    }
}

impl Store {
    /// What the outbox holds. What is on its way, and why nothing is, is the flusher's to say.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn queue(&self, wish: Wish) -> Result<Queue, StoreError> {
        let quota = self.quota();
        self.run(move |db| {
            let borders = Borders::load(db)?;
            let used = |is_event: bool| -> rusqlite::Result<(u64, u64)> {
                db.prepare_cached("SELECT row_count, size_bytes FROM outbox_use WHERE is_event = ?1")?
                    .query_row([is_event], |row| Ok((row.get(0)?, row.get(1)?)))
            };
            let ((events, event_bytes), (others, other_bytes)) = (used(true)?, used(false)?);
            let set_aside = |outcome: Outcome| -> rusqlite::Result<u64> {
                let sql = "SELECT count(*) FROM outbox WHERE outcome IN ('parked', 'conflict') AND outcome = ?1";
                db.prepare_cached(sql)?.query_row([outcome.as_str()], |row| row.get(0))
            };
            let oldest_at = db
                .prepare_cached("SELECT at FROM outbox WHERE seq > ?1 ORDER BY seq LIMIT 1")?
                .query_row([borders.acked_through], |row| row.get(0))
                .optional()?;
            let (kept, kept_bytes) = ring_use(db)?;
            let failed = set_aside(Outcome::Parked)?;
            Ok(Queue {
                pending: events + others,
                processing: 0,
                failed,
                total: events + others + failed,
                conflicts: set_aside(Outcome::Conflict)?,
                oldest_at: oldest_at.map(Timestamp::from_unix_ms),
                size_bytes: event_bytes + other_bytes,
                event_bytes,
                events,
                changes_max: quota.outbox_rows,
                bytes_max: quota.outbox_bytes,
                kept,
                kept_bytes,
                epoch: epoch(db)?,
                acked_through: borders.acked_through,
                last_error: None,
                items: items(db, borders, wish)?,
            })
        })
        .await
    }

    /// The change with the number `seq`.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn queued(&self, seq: u64) -> Result<Option<Item>, StoreError> {
        self.run(move |db| {
            let mut statement = db.prepare_cached("SELECT * FROM outbox WHERE seq = ?1")?;
            Ok(statement.query_row([seq], |row| item(db, row)).optional()?)
        })
        .await
    }

    /// The change with this id.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn queued_as(&self, id: ChangeId) -> Result<Option<Item>, StoreError> {
        self.run(move |db| {
            let mut statement = db.prepare_cached("SELECT * FROM outbox WHERE id = ?1")?;
            Ok(statement.query_row([Word(id)], |row| item(db, row)).optional()?)
        })
        .await
    }
}

fn items(db: &Connection, borders: Borders, wish: Wish) -> rusqlite::Result<Vec<Item>> {
    let (sql, limit, after) = match wish {
        Wish::Figures => return Ok(Vec::new()),
        Wish::Open { limit, after } => (
            "SELECT * FROM outbox WHERE seq > ?1 AND outcome IN ('parked', 'conflict')
             UNION ALL SELECT * FROM outbox WHERE seq > max(?1, ?3) ORDER BY seq LIMIT ?2",
            limit,
            after,
        ),
        Wish::All { limit, after } => {
            ("SELECT * FROM outbox WHERE seq > ?1 AND ?3 >= 0 ORDER BY seq LIMIT ?2", limit, after)
        }
    };
    let mut statement = db.prepare_cached(sql)?;
    let found = statement
        .query_map((after, limit.min(ITEMS_MAX), borders.acked_through), |row| item(db, row))?;
    found.collect()
}

fn item(db: &Connection, row: &Row<'_>) -> rusqlite::Result<Item> {
    let payload = row.get::<_, Json<Value>>("payload")?.0;
    let node = row.get::<_, Word<NodeId>>("node")?.0;
    let result = result(row)?;
    let stage = result.as_ref().map_or(Stage::Pending, |result| result.outcome.into());
    let known = load_by_id(db, node)?;
    Ok(Item {
        seq: row.get("seq")?,
        id: row.get::<_, Word<_>>("id")?.0,
        kind: payload.get("kind").and_then(Value::as_str).unwrap_or("unknown").to_owned(),
        summary: summary(&payload),
        node,
        mac: known.map(|node| node.mac()).or_else(|| {
            let mac = payload.pointer("/payload/request/mac")?;
            mac.as_str()?.parse().ok()
        }),
        at: Timestamp::from_unix_ms(row.get("at")?),
        clock: match row.get("is_clock_synced")? {
            true => ClockQuality::Synced,
            false => ClockQuality::Unsynced,
        },
        session: row.get::<_, Option<Word<_>>>("session")?.map(|session| session.0),
        base_version: row.get("base_version")?,
        stage,
        why: why(stage, result.as_ref().and_then(|result| result.reason.as_deref())),
        acked_at: row.get::<_, Option<i64>>("acked_at")?.map(Timestamp::from_unix_ms),
        node_version: result.as_ref().and_then(|result| result.node_version),
        conflict_id: result.as_ref().and_then(|result| result.conflict_id),
        payload: match payload {
            Value::Object(mut fields) => fields.remove("payload").unwrap_or_default(),
            other => {
                let error = format!("a payload is an object, not {other}");
                return Err(rusqlite::Error::FromSqlConversionFailure(0, Type::Text, error.into()));
            }
        },
    })
}

fn summary(payload: &Value) -> String {
    let word = |pointer| payload.pointer(pointer).and_then(Value::as_str);
    match word("/kind") {
        Some("event") => {
            let progress = payload.pointer("/payload/progress").and_then(Value::as_u64);
            let kind = word("/payload/event_type").unwrap_or("event");
            progress.map_or(kind.to_owned(), |progress| format!("{kind} {progress} %"))
        }
        Some("state_change") => format!("becomes {}", word("/payload/state").unwrap_or("unknown")),
        Some("registration") => "seen for the first time, or with new facts".to_owned(),
        Some(other) => other.to_owned(),
        None => "unknown".to_owned(),
    }
}

fn why(stage: Stage, reason: Option<&str>) -> String {
    let reason = reason.unwrap_or("no reason was given");
    match stage {
        Stage::Pending | Stage::Processing => "it waits".to_owned(),
        Stage::Applied => "it took effect".to_owned(),
        Stage::Duplicate => "the controller had it before".to_owned(),
        Stage::Conflict => format!("it met another change at the controller: {reason}"),
        Stage::Parked => format!("the controller keeps it without effect: {reason}"),
    }
}
