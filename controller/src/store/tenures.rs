//! Which life of each agent has the floor, and which was refused; what follows from a call is decided in [`crate::tenure`].

use std::net::IpAddr;

use pureboot_protocol::{Instance, InstanceId, SiteId, Timestamp};
use serde_json::json;
use sqlx::Row;

use crate::audit::{Actor, Entry};
use crate::store::nodes::Origin;
use crate::store::row::{DbConnection, DbRow, time_opt, word_opt};
use crate::store::{StoreError, audit};
use crate::tenure::{Rival, Tenure, Verdict};

/// A machine that goes on calling is written down anew so much later at the earliest, in seconds.
const NOTE_REST_S: i64 = 10;
/// And is put into the audit anew so much later, in seconds.
const AUDIT_REST_S: i64 = 3_600;

/// Why an agent is not listened to. It gets this text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "two machines use the identity of the agent of site {site}: {rival}; stop one of them; this one is listened to when the other has \
     been silent for {silence_s} s, or when it has joined with a new token"
)]
pub(crate) struct Fenced {
    site: SiteId,
    rival: Box<Rival>,
    silence_s: i64,
}

/// An agent's tenure as it is kept.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    tenure: Tenure,
    holder_address: Option<IpAddr>,
    rival_at: Option<Timestamp>,
}

/// What [`Kept::read`] needs of the table `agents`, called `a`, and of `sites`, called `s`.
pub(super) const COLUMNS: &str = "a.instance, a.instance_succeeds, a.instance_former, a.instance_since, a.instance_address, a.rival,
    a.rival_at, a.rival_address, a.heartbeat_interval, s.agent_last_seen";

impl Kept {
    pub(super) fn read(row: &DbRow) -> Result<Self, StoreError> {
        let never = Timestamp::from_unix_ms(0);
        Ok(Self {
            tenure: Tenure {
                holder: word_opt(row, "instance")?,
                succeeds: word_opt(row, "instance_succeeds")?,
                former: word_opt(row, "instance_former")?,
                rival: word_opt(row, "rival")?,
                since: time_opt(row, "instance_since")?.unwrap_or(never),
                seen_at: time_opt(row, "agent_last_seen")?.unwrap_or(never),
                interval_s: row.try_get("heartbeat_interval")?,
            },
            holder_address: address(row, "instance_address")?,
            rival_at: time_opt(row, "rival_at")?,
        })
    }

    /// Lets `claim`, which calls from `address` for the agent of `site`, be listened to or not, and writes down what that changes,
    /// which is seldom anything.
    pub(super) async fn admit(
        &self,
        db: &mut DbConnection,
        site: SiteId,
        claim: Option<Instance>,
        address: Option<IpAddr>,
        origin: Origin<'_>,
    ) -> Result<Result<(), StoreError>, StoreError> {
        let Tenure { holder, .. } = self.tenure;
        let (at, id) = (origin.now, claim.map(|claim| claim.id));
        match self.tenure.judge(claim, at) {
            Verdict::Pass => Ok(Ok(())),
            Verdict::Takes(next) => {
                if let (Some(old), Some(new)) = (holder, id) {
                    tracing::info!(%site, %old, %new, "life {new} of the agent of site {site} follows {old}");
                }
                keep(db, site, &next, address).await?;
                Ok(Ok(()))
            }
            Verdict::Returns(next) => {
                let rival = Rival {
                    instance: holder,
                    address: self.holder_address,
                    holder: id,
                    holder_address: address,
                    at,
                };
                keep(db, site, &next, address).await?;
                self.note(db, site, &rival, true, origin).await?;
                Ok(Ok(()))
            }
            verdict @ (Verdict::Late | Verdict::Refused) => {
                let holder_address = self.holder_address;
                let rival = Rival { instance: id, address, holder, holder_address, at };
                if verdict == Verdict::Refused {
                    self.note(db, site, &rival, false, origin).await?;
                }
                let silence_s = self.tenure.silence_s();
                Ok(Err(Fenced { site, rival: Box::new(rival), silence_s }.into()))
            }
        }
    }

    /// Writes down that `rival` was refused, now and then, or that it has lost the floor again.
    async fn note(
        &self,
        db: &mut DbConnection,
        site: SiteId,
        rival: &Rival,
        is_return: bool,
        origin: Origin<'_>,
    ) -> Result<(), StoreError> {
        let rest = self.rival_at.map(|at| origin.now.seconds_since(at));
        if !is_return && rest.is_some_and(|rest| rest < NOTE_REST_S) {
            return Ok(());
        }
        // Who names no life does not make the one forgotten that was refused before.
        sqlx::query(
            "UPDATE agents SET rival = coalesce(CAST($2 AS TEXT), rival), rival_at = $3, rival_address = $4 WHERE site_id = $1",
        )
        .bind(site.to_string())
        .bind(rival.instance.map(|it| it.to_string()))
        .bind(rival.at.unix_ms())
        .bind(rival.address.map(|it| it.to_string()))
        .execute(&mut *db)
        .await?;
        let is_known = rival.instance == self.tenure.rival;
        if !is_return && is_known && rest.is_some_and(|rest| rest < AUDIT_REST_S) {
            return Ok(());
        }
        tracing::error!(%site, "two machines use the identity of the agent of site {site}: {rival}");
        let (actor, action) = (Actor::nobody(), "agent.identity_in_use");
        let mut entry = Entry::new(origin.now, actor, action, origin.correlation_id);
        entry.target = Some(site.to_string());
        entry.address = rival.address;
        entry.detail = Some(json!({
            "holder": rival.holder, "holder_address": rival.holder_address,
            "rival": rival.instance, "rival_address": rival.address,
        }));
        audit::insert_new(db, &entry).await
    }
}

/// As [`Kept::admit`], of an agent that is yet to be looked up. A site without one has nobody to be taken for.
pub(super) async fn admit(
    db: &mut DbConnection,
    site: SiteId,
    claim: Option<Instance>,
    address: Option<IpAddr>,
    origin: Origin<'_>,
) -> Result<Result<(), StoreError>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM agents a JOIN sites s ON s.id = a.site_id WHERE a.site_id = $1"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(site.to_string());
    match row.fetch_optional(&mut *db).await? {
        Some(row) => Kept::read(&row)?.admit(db, site, claim, address, origin).await,
        None => Ok(Ok(())),
    }
}

/// The machine that was refused last in the place of the agent of `site`.
pub(super) async fn last_rival(
    db: &mut DbConnection,
    site: SiteId,
) -> Result<Option<Rival>, StoreError> {
    let sql = "SELECT instance, instance_address, rival, rival_at, rival_address FROM agents WHERE site_id = $1 AND rival_at IS NOT NULL";
    let row = sqlx::query(sql).bind(site.to_string()).fetch_optional(db).await?;
    let Some(row) = &row else { return Ok(None) };
    let Some(at) = time_opt(row, "rival_at")? else { return Ok(None) };
    Ok(Some(Rival {
        instance: word_opt(row, "rival")?,
        address: address(row, "rival_address")?,
        holder: word_opt(row, "instance")?,
        holder_address: address(row, "instance_address")?,
        at,
    }))
}

async fn keep(
    db: &mut DbConnection,
    site: SiteId,
    tenure: &Tenure,
    address: Option<IpAddr>,
) -> Result<(), StoreError> {
    let text = |id: Option<InstanceId>| id.map(|id| id.to_string());
    sqlx::query(
        "UPDATE agents SET instance = $2, instance_succeeds = $3, instance_former = $4, instance_since = $5,
            instance_address = $6 WHERE site_id = $1",
    )
    .bind(site.to_string())
    .bind(text(tenure.holder))
    .bind(text(tenure.succeeds))
    .bind(text(tenure.former))
    .bind(tenure.since.unix_ms())
    .bind(address.map(|address| address.to_string()))
    .execute(db)
    .await?;
    Ok(())
}

/// An address that this program has written; another text is none.
fn address(row: &DbRow, column: &str) -> Result<Option<IpAddr>, StoreError> {
    Ok(row.try_get::<Option<String>, _>(column)?.and_then(|text| text.parse().ok()))
}
