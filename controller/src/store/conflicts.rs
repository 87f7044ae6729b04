//! Conflicts: a site's wish that met another change of the same node, with both sides, the cause, and how it ended.
//!
//! Who is right is decided in [`crate::conflict`], and what that does to a node in [`crate::node`]. A conflict that waits for a
//! person takes in what the same site wishes of the same node after it, so that there is one question and not ten.

use pureboot_protocol::{
    BaseSide, CentralSide, Change, ChangeId, Conflict, ConflictEnding, ConflictId, ConflictKind,
    Decider, Heartbeat, Lifecycle, Node, NodeId, Page, Resolution, SiteId, SiteSide, Timestamp,
};
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use sqlx::Row;

use crate::store::nodes::{Central, Kept};
use crate::store::page::{Cursor, Paging};
use crate::store::row::{
    DbConnection, DbRow, count, count_opt, int, json_opt, time, time_opt, word, word_opt,
};
use crate::store::{Store, StoreError, logs, records, sites};

mod resolve;

pub(super) use resolve::end_mismatch;
pub(crate) use resolve::{Decision, ResolvedAll};

/// Which conflicts a list has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ConflictStatus {
    /// Those that wait for a person.
    #[default]
    Open,
    /// Those that a strategy or a person has ended.
    Resolved,
    /// All.
    All,
}

impl ConflictStatus {
    /// Whether the list has those that wait, and those that have ended.
    pub(super) fn wants(self) -> (bool, bool) {
        match self {
            Self::Open => (true, false),
            Self::Resolved => (false, true),
            Self::All => (true, true),
        }
    }
}

impl Store {
    /// Conflicts of one site or of all, the oldest first.
    ///
    /// # Errors
    /// There is no such site.
    pub(crate) async fn conflicts(
        &self,
        site: Option<SiteId>,
        status: ConflictStatus,
        paging: &Paging,
    ) -> Result<Page<Conflict>, StoreError> {
        let mut tx = self.reader.begin().await?;
        if let Some(id) = site {
            sites::load(&mut tx, id).await?;
        }
        let site = site.map(|id| id.to_string());
        let (wants_open, wants_resolved) = status.wants();
        let (position, id, rows) = paging.rising();
        let rows = sqlx::query(
            "SELECT * FROM conflicts WHERE ($1 IS NULL OR site_id = $1)
               AND (($2 AND resolution IS NULL) OR ($3 AND resolution IS NOT NULL)) AND (created_at, id) > ($4, $5)
             ORDER BY created_at, id LIMIT $6",
        )
        .bind(&site)
        .bind(wants_open)
        .bind(wants_resolved)
        .bind(position)
        .bind(id)
        .bind(rows)
        .fetch_all(&mut *tx)
        .await?;
        let total = sqlx::query(
            "SELECT count(*) AS total FROM conflicts WHERE ($1 IS NULL OR site_id = $1)
               AND (($2 AND resolution IS NULL) OR ($3 AND resolution IS NOT NULL))",
        )
        .bind(&site)
        .bind(wants_open)
        .bind(wants_resolved)
        .fetch_one(&mut *tx)
        .await?;
        let conflicts = rows.iter().map(read).collect::<Result<_, _>>()?;
        Ok(paging.page(conflicts, count(&total, "total")?, |conflict: &Conflict| {
            Cursor::new(conflict.created_at.unix_ms(), conflict.id)
        }))
    }

    /// Forgets the conflicts that ended before `end`; answers how many.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn forget_conflicts(&self, end: Timestamp) -> Result<u64, StoreError> {
        let mut tx = self.write().await?;
        let delete = "DELETE FROM conflicts WHERE resolution IS NOT NULL AND resolved_at < $1";
        let rows = sqlx::query(delete).bind(end.unix_ms()).execute(&mut *tx).await?.rows_affected();
        tx.commit().await?;
        Ok(rows)
    }

    /// The conflict with `id`.
    ///
    /// # Errors
    /// There is none.
    pub(crate) async fn conflict(&self, id: ConflictId) -> Result<Conflict, StoreError> {
        load(&mut *self.reader.acquire().await?, id).await
    }
}

/// A conflict that begins.
pub(super) struct NewConflict<'a> {
    pub(super) site: SiteId,
    pub(super) change: &'a Change,
    /// As the controller calls the node, if it has it.
    pub(super) node: NodeId,
    pub(super) kind: ConflictKind,
    pub(super) cause: &'a str,
    /// The state that the site wishes for, if it does.
    pub(super) wished: Option<Lifecycle>,
    /// The node before the change, if there is one.
    pub(super) before: Option<(&'a Node, Central)>,
    /// How the site's strategy has ended it, and the node's version after that.
    pub(super) ending: Option<(Resolution, Decider, Option<u64>)>,
    pub(super) now: Timestamp,
}

/// Writes down a conflict.
pub(super) async fn begin(
    db: &mut DbConnection,
    new: NewConflict<'_>,
) -> Result<ConflictId, StoreError> {
    let id = conflict_id(new.site, new.change.id);
    let base = match (new.change.base_version, new.before) {
        (Some(version), Some((node, _))) if (1..=node.version).contains(&version) => {
            Some(logs::state_at(db, node, version).await?)
        }
        _ => None,
    };
    let central = new.before.map(|(node, central)| (node.state, node.version, central.at));
    let (resolution, by, node_version) = match new.ending {
        Some((resolution, by, node_version)) => (Some(resolution), Some(by), node_version),
        None => (None, None, None),
    };
    sqlx::query(
        "INSERT INTO conflicts (id, site_id, node_id, kind, cause, site_state, site_base_version, site_at, site_clock,
            site_changes, central_state, central_version, central_changed_at, created_at, resolution, resolved_by,
            node_version, resolved_at, base_state)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 1, $10, $11, $12, $13, $14, $15, $16, $17, $18)",
    )
    .bind(id.to_string())
    .bind(new.site.to_string())
    .bind(new.node.to_string())
    .bind(new.kind.as_str())
    .bind(new.cause)
    .bind(new.wished.map(Lifecycle::as_str))
    .bind(new.change.base_version.map(int))
    .bind(new.change.at.unix_ms())
    .bind(new.change.clock.as_str())
    .bind(central.map(|(state, ..)| state.as_str()))
    .bind(central.map(|(_, version, _)| int(version)))
    .bind(central.map(|(.., at)| at.unix_ms()))
    .bind(new.now.unix_ms())
    .bind(resolution.map(Resolution::as_str))
    .bind(by.map(Decider::as_str))
    .bind(node_version.map(int))
    .bind(resolution.map(|_| new.now.unix_ms()))
    .bind(base.map(Lifecycle::as_str))
    .execute(&mut *db)
    .await?;
    if resolution.is_none() {
        // Its record tells the site that the node is in doubt.
        records::renumber_one(db, new.node).await?;
    }
    Ok(id)
}

/// Makes `change` a part of the conflict `id`. One that is open shows the last wish as the site's side.
pub(super) async fn join(
    db: &mut DbConnection,
    id: ConflictId,
    change: &Change,
    wished: Option<Lifecycle>,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE conflicts SET site_changes = site_changes + 1 WHERE id = $1")
        .bind(id.to_string())
        .execute(&mut *db)
        .await?;
    sqlx::query(
        "UPDATE conflicts SET site_state = coalesce($2, site_state), site_at = $3, site_clock = $4
         WHERE id = $1 AND resolution IS NULL",
    )
    .bind(id.to_string())
    .bind(wished.map(Lifecycle::as_str))
    .bind(change.at.unix_ms())
    .bind(change.clock.as_str())
    .execute(db)
    .await?;
    Ok(())
}

/// The conflict of `site` about `node` that nobody has decided.
pub(super) async fn find_open(
    db: &mut DbConnection,
    site: SiteId,
    node: NodeId,
) -> Result<Option<ConflictId>, StoreError> {
    let row = sqlx::query(
        "SELECT id FROM conflicts WHERE site_id = $1 AND node_id = $2 AND resolution IS NULL ORDER BY created_at, id LIMIT 1",
    );
    let row = row.bind(site.to_string()).bind(node.to_string()).fetch_optional(db).await?;
    row.map(|row| word(&row, "id")).transpose()
}

/// The conflict that a change of a chain belongs to or follows, and how it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    pub(super) id: ConflictId,
    pub(super) node: NodeId,
    /// The version that the node got by the site's side, if that stands.
    pub(super) kept_local: Option<u64>,
}

/// The conflict that the change `seq` of an outbox is a part of or follows.
pub(super) async fn conflict_of(
    db: &mut DbConnection,
    outbox_id: i64,
    seq: u64,
) -> Result<Option<ConflictId>, StoreError> {
    let row = sqlx::query("SELECT conflict_id FROM changes WHERE outbox_id = $1 AND seq = $2");
    let row = row.bind(outbox_id).bind(int(seq)).fetch_optional(db).await?;
    Ok(row.map(|row| word_opt(&row, "conflict_id")).transpose()?.flatten())
}

/// How the conflict `id` stands.
pub(super) async fn link(
    db: &mut DbConnection,
    id: ConflictId,
) -> Result<Option<Link>, StoreError> {
    let row = sqlx::query(
        "SELECT node_id, CASE WHEN resolution = 'keep_local' THEN node_version END AS kept_local FROM conflicts WHERE id = $1",
    );
    let row = row.bind(id.to_string()).fetch_optional(db).await?;
    let read = |row| {
        Ok(Link { id, node: word(row, "node_id")?, kept_local: count_opt(row, "kept_local")? })
    };
    row.as_ref().map(read).transpose()
}

/// What the clock of `site` lacked in milliseconds when it was last compared before `at`; 0 if it never was.
pub(super) async fn clock_offset(
    db: &mut DbConnection,
    site: SiteId,
    at: Timestamp,
) -> Result<i64, StoreError> {
    let row = sqlx::query(
        "SELECT heartbeat, received_at FROM heartbeats WHERE site_id = $1
         ORDER BY CASE WHEN received_at <= $2 THEN 0 ELSE 1 END,
            CASE WHEN received_at <= $2 THEN -received_at ELSE received_at END LIMIT 1",
    );
    let row = row.bind(site.to_string()).bind(at.unix_ms()).fetch_optional(db).await?;
    let Some(row) = row else { return Ok(0) };
    let heartbeat: Option<Heartbeat> = json_opt(&row, "heartbeat")?;
    let received_at = time(&row, "received_at")?.unix_ms();
    Ok(heartbeat.map_or(0, |beat| received_at.saturating_sub(beat.timestamp.unix_ms())))
}

/// The id of the conflict that `change` of `site` begins: the same whenever the change comes.
fn conflict_id(site: SiteId, change: ChangeId) -> ConflictId {
    let digest: [u8; 32] = Sha256::digest(format!("{site} {change}")).into();
    let mut id = [0; 16];
    id.iter_mut().zip(digest).for_each(|(slot, byte)| *slot = byte);
    ConflictId::from_random(id)
}

/// The conflict with `id`.
async fn load(db: &mut DbConnection, id: ConflictId) -> Result<Conflict, StoreError> {
    let row = sqlx::query("SELECT * FROM conflicts WHERE id = $1").bind(id.to_string());
    let row = row.fetch_optional(db).await?;
    read(&row.ok_or_else(|| StoreError::Missing { what: "conflict", id: id.to_string() })?)
}

/// Whether somebody else than a site, or an event of the machine, has moved the node since `conflict` was written down.
fn has_moved(conflict: &Conflict, kept: &Kept) -> bool {
    let now = (kept.node.state, kept.central.version);
    conflict.central.as_ref().is_some_and(|then| now.0 != then.state || now.1 > then.version)
}

fn read(row: &DbRow) -> Result<Conflict, StoreError> {
    let central = match (word_opt(row, "central_state")?, count_opt(row, "central_version")?) {
        (Some(state), Some(version)) => {
            // A node that only sites have changed is kept with the beginning of time.
            let nobody = Timestamp::from_unix_ms(0);
            let changed_at = time_opt(row, "central_changed_at")?.filter(|at| *at != nobody);
            Some(CentralSide { state, version, changed_at })
        }
        _ => None,
    };
    let outcome = match (word_opt(row, "resolution")?, word_opt(row, "resolved_by")?) {
        (Some(resolution), Some(by)) => Some(ConflictEnding {
            resolution,
            by,
            name: row.try_get("resolved_name")?,
            fields: json_opt(row, "merged")?,
            node_version: count_opt(row, "node_version")?,
            at: time_opt(row, "resolved_at")?.unwrap_or(Timestamp::from_unix_ms(0)),
        }),
        _ => None,
    };
    let base_version = count_opt(row, "site_base_version")?;
    let base = word_opt(row, "base_state")?.zip(base_version);
    Ok(Conflict {
        id: word(row, "id")?,
        site_id: word(row, "site_id")?,
        node_id: word(row, "node_id")?,
        kind: word(row, "kind")?,
        cause: row.try_get("cause")?,
        base: base.map(|(state, version)| BaseSide { state, version }),
        site: SiteSide {
            state: word_opt(row, "site_state")?,
            base_version,
            at: time(row, "site_at")?,
            clock: word(row, "site_clock")?,
            changes: count(row, "site_changes")?,
        },
        central,
        created_at: time(row, "created_at")?,
        outcome,
    })
}
