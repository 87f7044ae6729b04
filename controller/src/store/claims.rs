//! Claims: nodes of one site that were seen at another, and how it was decided where they belong.
//!
//! A claim is the only way in which a node changes its site without being edited. The conflict that a site's changes about a
//! foreign node begin is the same question seen from the changes, and ends with it.

use pureboot_protocol::{
    ClaimId, Decider, ForeignBoot, ForeignNode, Lifecycle, Mac, MigrationPolicy, Node, NodeId,
    Page, SiteId, Timestamp,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{AssertSqlSafe, Row};

use crate::audit::{Actor, Entry};
use crate::store::conflicts;
use crate::store::nodes::{self, Origin};
use crate::store::page::{Cursor, Paging};
use crate::store::row::{
    DbConnection, DbRow, count, count_opt, int, time, time_opt, word, word_opt,
};
use crate::store::{ConflictStatus, Store, StoreError, audit, check_version, records};
use crate::{claim, node, random};

/// A node of one site that was seen at another. The field names are those of the HTTP surface.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Claim {
    pub(crate) id: ClaimId,
    pub(crate) node_id: NodeId,
    pub(crate) mac_address: Mac,
    hostname: Option<String>,
    /// The node's home when it was claimed.
    pub(crate) from_site_id: SiteId,
    /// Where it was seen.
    pub(crate) to_site_id: SiteId,
    claimed_at: Timestamp,
    /// When it was seen there last.
    seen_at: Timestamp,
    /// How often the site has told of it.
    times: u64,
    /// When the claim ends unless it is decided or the node is seen there again.
    expires_at: Timestamp,
    /// How it ended; null while it waits.
    pub(crate) outcome: Option<ClaimEnding>,
}

/// How a claim ended.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct ClaimEnding {
    pub(crate) decision: ClaimDecision,
    by: ClaimDecider,
    /// The operator's name.
    name: Option<String>,
    comment: Option<String>,
    /// The node's version after it; null where it was not moved.
    pub(crate) node_version: Option<u64>,
    at: Timestamp,
}

/// What became of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ClaimDecision {
    /// The node has moved.
    Approved,
    /// It stays, and the site is not asked about it again for a week.
    Rejected,
    /// Nobody has decided, and the node was not seen there any more.
    Expired,
    /// It has got another home meanwhile.
    Superseded,
}

/// Who ended a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ClaimDecider {
    /// An operator.
    Operator,
    /// The policies of both sites.
    Policy,
    /// Time.
    Expiry,
}

impl ClaimDecision {
    fn as_str(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Superseded => "superseded",
        }
    }
}

impl ClaimDecider {
    fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Policy => "policy",
            Self::Expiry => "expiry",
        }
    }
}

/// Who decides, and why.
#[derive(Debug, Clone, Default)]
pub(crate) struct Word {
    /// The operator; none for a policy.
    pub(crate) name: Option<String>,
    pub(crate) comment: Option<String>,
}

impl Word {
    fn by(&self) -> ClaimDecider {
        if self.name.is_some() { ClaimDecider::Operator } else { ClaimDecider::Policy }
    }
}

/// Which claims a list has.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ClaimFilter {
    pub(crate) status: ConflictStatus,
    pub(crate) node: Option<NodeId>,
    /// Either side.
    pub(crate) site: Option<SiteId>,
}

const CLAIMS: &str =
    "SELECT c.*, n.mac_address, n.hostname FROM node_claims c JOIN nodes n ON n.id = c.node_id";

impl Store {
    /// Claims, the oldest first.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn claims(
        &self,
        filter: ClaimFilter,
        paging: &Paging,
    ) -> Result<Page<Claim>, StoreError> {
        const WANTED: &str = "WHERE (CAST($1 AS TEXT) IS NULL OR c.node_id = $1)
            AND (CAST($2 AS TEXT) IS NULL OR c.from_site_id = $2 OR c.to_site_id = $2)
            AND (($3 AND c.outcome IS NULL) OR ($4 AND c.outcome IS NOT NULL))";
        let (wants_open, wants_ended) = filter.status.wants();
        let (node, site) =
            (filter.node.map(|id| id.to_string()), filter.site.map(|id| id.to_string()));
        let (position, id, rows) = paging.rising();
        let sql = format!(
            "{CLAIMS} {WANTED} AND (c.claimed_at, c.id) > ($5, $6) ORDER BY c.claimed_at, c.id LIMIT $7"
        );
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(&node)
            .bind(&site)
            .bind(wants_open)
            .bind(wants_ended)
            .bind(position)
            .bind(id)
            .bind(rows)
            .fetch_all(&self.reader)
            .await?;
        let total = format!("SELECT count(*) AS total FROM node_claims c {WANTED}");
        let total = sqlx::query(AssertSqlSafe(total))
            .bind(&node)
            .bind(&site)
            .bind(wants_open)
            .bind(wants_ended)
            .fetch_one(&self.reader)
            .await?;
        let claims = rows.iter().map(read).collect::<Result<_, _>>()?;
        Ok(paging.page(claims, count(&total, "total")?, |claim: &Claim| {
            Cursor::new(claim.claimed_at.unix_ms(), claim.id)
        }))
    }

    /// The claim with `id`.
    ///
    /// # Errors
    /// There is none.
    pub(crate) async fn claim(&self, id: ClaimId) -> Result<Claim, StoreError> {
        load(&mut *self.reader.acquire().await?, id).await
    }

    /// Moves the node of a claim to the site where it was seen. Doing it again has no effect and the same answer.
    ///
    /// # Errors
    /// There is no such claim, it has ended in another way, or the node has another version than `version`.
    pub(crate) async fn approve_claim(
        &self,
        id: ClaimId,
        version: Option<u64>,
        word: &Word,
        origin: Origin<'_>,
    ) -> Result<Claim, StoreError> {
        let mut tx = self.write().await?;
        if !is_ended(&mut tx, id, ClaimDecision::Approved).await? {
            let claim = load(&mut tx, id).await?;
            check_version(version, nodes::load(&mut tx, claim.node_id).await?.version)?;
            approve(&mut tx, &claim, word, origin).await?;
        }
        let claim = load(&mut tx, id).await?;
        tx.commit().await?;
        Ok(claim)
    }

    /// Leaves the node of a claim where it is. Doing it again has no effect and the same answer.
    ///
    /// # Errors
    /// There is no such claim, or it has ended in another way.
    pub(crate) async fn reject_claim(
        &self,
        id: ClaimId,
        word: &Word,
        origin: Origin<'_>,
    ) -> Result<Claim, StoreError> {
        let mut tx = self.write().await?;
        if !is_ended(&mut tx, id, ClaimDecision::Rejected).await? {
            let claim = load(&mut tx, id).await?;
            end(&mut tx, id, ClaimDecision::Rejected, word.by(), word, None, origin.now).await?;
            end_conflicts(&mut tx, &claim, word, origin).await?;
        }
        let claim = load(&mut tx, id).await?;
        tx.commit().await?;
        Ok(claim)
    }

    /// Ends the claims that have waited too long; answers how many.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn expire_claims(&self, origin: Origin<'_>) -> Result<u64, StoreError> {
        let mut tx = self.write().await?;
        let rows =
            sqlx::query("SELECT id FROM node_claims WHERE outcome IS NULL AND expires_at < $1");
        let rows = rows.bind(origin.now.unix_ms()).fetch_all(&mut *tx).await?;
        let word = Word::default();
        for row in &rows {
            let claim = load(&mut tx, word_of(row)?).await?;
            let (decision, by) = (ClaimDecision::Expired, ClaimDecider::Expiry);
            end(&mut tx, claim.id, decision, by, &word, None, origin.now).await?;
            end_conflicts(&mut tx, &claim, &word, origin).await?;
        }
        tx.commit().await?;
        Ok(rows.len() as u64)
    }

    /// Forgets the claims that ended before `end`; answers how many.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn forget_claims(&self, end: Timestamp) -> Result<u64, StoreError> {
        let mut tx = self.write().await?;
        let delete = "DELETE FROM node_claims WHERE outcome IS NOT NULL AND decided_at < $1";
        let rows = sqlx::query(delete).bind(end.unix_ms()).execute(&mut *tx).await?.rows_affected();
        tx.commit().await?;
        Ok(rows)
    }

    /// What `site` is to do with the machine `mac`, if that is a node of another site.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn foreign_node(
        &self,
        site: SiteId,
        mac: Mac,
    ) -> Result<Option<ForeignNode>, StoreError> {
        let row = sqlx::query(
            "SELECT s.foreign_nodes, c.id AS claim_id FROM nodes n JOIN sites s ON s.id = $1
             LEFT JOIN node_claims c ON c.node_id = n.id AND c.to_site_id = $1 AND c.outcome IS NULL
             WHERE n.mac_address = $2 AND n.home_site_id <> $1 AND n.state <> $3",
        )
        .bind(site.to_string())
        .bind(mac.to_string())
        .bind(Lifecycle::Retired.as_str())
        .fetch_optional(&self.reader)
        .await?;
        let read = |row: &DbRow| {
            let boots: ForeignBoot = word(row, "foreign_nodes")?;
            Ok(ForeignNode { boots, claim_id: word_opt(row, "claim_id")? })
        };
        row.as_ref().map(read).transpose()
    }
}

fn word_of(row: &DbRow) -> Result<ClaimId, StoreError> {
    word(row, "id")
}

/// Notes that `node`, of another site, was seen at `site` at `seen_at`.
pub(super) async fn note(
    db: &mut DbConnection,
    site: SiteId,
    node: &Node,
    seen_at: Timestamp,
    now: Timestamp,
) -> Result<(), StoreError> {
    let Some(home) = node.home_site_id.filter(|_| node.state != Lifecycle::Retired) else {
        return Ok(());
    };
    // One that waits is told again; so is one that was rejected lately, which nobody wants to be asked about at every boot.
    let told = sqlx::query(
        "UPDATE node_claims SET seen_at = CASE WHEN seen_at > $3 THEN seen_at ELSE $3 END, times = times + 1,
            expires_at = CASE WHEN expires_at > $4 THEN expires_at ELSE $4 END
         WHERE node_id = $1 AND to_site_id = $2 AND from_site_id = $5
           AND (outcome IS NULL OR (outcome = 'rejected' AND decided_at > $6))",
    )
    .bind(node.id.to_string())
    .bind(site.to_string())
    .bind(seen_at.unix_ms())
    .bind(claim::expiry(now).unix_ms())
    .bind(home.to_string())
    .bind(now.plus_seconds(-claim::CLAIM_DAYS * 24 * 3_600).unix_ms())
    .execute(&mut *db)
    .await?;
    if told.rows_affected() > 0 {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO node_claims (id, node_id, from_site_id, to_site_id, claimed_at, seen_at, times, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, 1, $7) ON CONFLICT DO NOTHING",
    )
    .bind(ClaimId::from_random(random::bytes()).to_string())
    .bind(node.id.to_string())
    .bind(home.to_string())
    .bind(site.to_string())
    .bind(now.unix_ms())
    .bind(seen_at.unix_ms())
    .bind(claim::expiry(now).unix_ms())
    .execute(db)
    .await?;
    tracing::warn!(node = %node.id, from = %home, to = %site, "node {} of site {home} boots at site {site}", node.mac_address);
    Ok(())
}

/// Decides the claims of `site` that need no person.
pub(super) async fn settle(
    db: &mut DbConnection,
    site: SiteId,
    origin: Origin<'_>,
) -> Result<(), StoreError> {
    let rows = sqlx::query(
        "SELECT c.id, c.seen_at, n.last_seen_at, n.home_site_id, f.migration_policy AS gives, t.migration_policy AS takes
         FROM node_claims c JOIN nodes n ON n.id = c.node_id JOIN sites f ON f.id = n.home_site_id
         JOIN sites t ON t.id = c.to_site_id
         WHERE c.to_site_id = $1 AND c.outcome IS NULL AND n.home_site_id = c.from_site_id",
    );
    for row in rows.bind(site.to_string()).fetch_all(&mut *db).await? {
        let (gives, takes): (MigrationPolicy, _) = (word(&row, "gives")?, word(&row, "takes")?);
        let (seen_at, at_home) = (time(&row, "seen_at")?, time_opt(&row, "last_seen_at")?);
        if claim::moves(gives, takes, seen_at, at_home) {
            let claim = load(db, word_of(&row)?).await?;
            approve(db, &claim, &Word::default(), origin).await?;
        }
    }
    Ok(())
}

/// Moves the node of `claim`.
async fn approve(
    db: &mut DbConnection,
    claim: &Claim,
    word: &Word,
    origin: Origin<'_>,
) -> Result<(), StoreError> {
    let before = nodes::load(db, claim.node_id).await?;
    let mut node = before.clone();
    let home = node.home_site_id.replace(claim.to_site_id);
    node::touch(&mut node, origin.now);
    nodes::number_wish(db, &before, &mut node).await?;
    nodes::save(db, &node, None).await?;
    records::leave(db, &node, home).await?;
    follow(db, &node, word, origin.now).await?;
    end_conflicts(db, claim, word, origin).await?;
    let (mac, to) = (node.mac_address, claim.to_site_id);
    tracing::info!(node = %node.id, %to, "node {mac} has moved to site {to}");
    if word.name.is_none() {
        let mut entry =
            Entry::new(origin.now, Actor::nobody(), "node.moved", origin.correlation_id);
        entry.target = Some(node.id.to_string());
        entry.detail = Some(json!({
            "claim_id": claim.id, "from_site_id": home, "to_site_id": to, "by": ClaimDecider::Policy,
        }));
        audit::insert_new(db, &entry).await?;
    }
    Ok(())
}

/// Ends the claims on `node`, which has just got another home: of its new site's as approved, of others as superseded.
pub(super) async fn follow(
    db: &mut DbConnection,
    node: &Node,
    word: &Word,
    now: Timestamp,
) -> Result<(), StoreError> {
    let open = sqlx::query(
        "SELECT id, to_site_id FROM node_claims WHERE node_id = $1 AND outcome IS NULL",
    );
    for row in open.bind(node.id.to_string()).fetch_all(&mut *db).await? {
        let is_its = node.home_site_id == word_opt(&row, "to_site_id")?;
        let (decision, version) = match is_its {
            true => (ClaimDecision::Approved, Some(node.version)),
            false => (ClaimDecision::Superseded, None),
        };
        end(db, word_of(&row)?, decision, word.by(), word, version, now).await?;
    }
    Ok(())
}

/// Ends the claim of `site` on `node` as rejected, if one waits: an operator has decided so over the conflict.
pub(super) async fn refuse(
    db: &mut DbConnection,
    site: SiteId,
    node: NodeId,
    word: &Word,
    now: Timestamp,
) -> Result<(), StoreError> {
    let open = sqlx::query(
        "SELECT id FROM node_claims WHERE node_id = $1 AND to_site_id = $2 AND outcome IS NULL",
    );
    let open = open.bind(node.to_string()).bind(site.to_string());
    if let Some(row) = open.fetch_optional(&mut *db).await? {
        end(db, word_of(&row)?, ClaimDecision::Rejected, word.by(), word, None, now).await?;
    }
    Ok(())
}

/// Whether the claim `id` has ended with `decision`.
///
/// # Errors
/// There is no such claim, or it has ended in another way.
async fn is_ended(
    db: &mut DbConnection,
    id: ClaimId,
    decision: ClaimDecision,
) -> Result<bool, StoreError> {
    match load(db, id).await?.outcome {
        None => Ok(false),
        Some(ending) if ending.decision == decision => Ok(true),
        Some(ending) => {
            Err(StoreError::ClaimDecided { claim: id, decision: ending.decision.as_str() })
        }
    }
}

async fn end(
    db: &mut DbConnection,
    id: ClaimId,
    decision: ClaimDecision,
    by: ClaimDecider,
    word: &Word,
    node_version: Option<u64>,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE node_claims SET outcome = $2, decided_by = $3, decided_name = $4, comment = $5, node_version = $6,
            decided_at = $7
         WHERE id = $1",
    )
    .bind(id.to_string())
    .bind(decision.as_str())
    .bind(by.as_str())
    .bind(&word.name)
    .bind(&word.comment)
    .bind(node_version.map(int))
    .bind(now.unix_ms())
    .execute(db)
    .await?;
    Ok(())
}

/// Ends the conflicts that changes of the claiming site about the node have begun: the node's state stays the controller's.
async fn end_conflicts(
    db: &mut DbConnection,
    claim: &Claim,
    word: &Word,
    origin: Origin<'_>,
) -> Result<(), StoreError> {
    let node = nodes::load(db, claim.node_id).await?;
    let by = match word.name {
        Some(_) => Decider::Operator,
        None => Decider::Claim,
    };
    conflicts::end_mismatch(db, claim.to_site_id, &node, by, word, origin).await
}

async fn load(db: &mut DbConnection, id: ClaimId) -> Result<Claim, StoreError> {
    let row = sqlx::query(AssertSqlSafe(format!("{CLAIMS} WHERE c.id = $1"))).bind(id.to_string());
    let row = row.fetch_optional(db).await?;
    read(&row.ok_or_else(|| StoreError::Missing { what: "claim", id: id.to_string() })?)
}

fn read(row: &DbRow) -> Result<Claim, StoreError> {
    let outcome = match (word_opt(row, "outcome")?, word_opt(row, "decided_by")?) {
        (Some(decision), Some(by)) => Some(ClaimEnding {
            decision,
            by,
            name: row.try_get("decided_name")?,
            comment: row.try_get("comment")?,
            node_version: count_opt(row, "node_version")?,
            at: time(row, "decided_at")?,
        }),
        _ => None,
    };
    Ok(Claim {
        id: word(row, "id")?,
        node_id: word(row, "node_id")?,
        mac_address: word(row, "mac_address")?,
        hostname: row.try_get("hostname")?,
        from_site_id: word(row, "from_site_id")?,
        to_site_id: word(row, "to_site_id")?,
        claimed_at: time(row, "claimed_at")?,
        seen_at: time(row, "seen_at")?,
        times: count(row, "times")?,
        expires_at: time(row, "expires_at")?,
        outcome,
    })
}
