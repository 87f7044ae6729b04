//! Heartbeats as they come, many in one transaction: a commit waits for the disk, and one wait is enough for all of them.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use pureboot_protocol::{
    AgentId, AgentStatus, CommandResult, EngineId, Heartbeat, Instance, SiteCommand, Timestamp,
};
use sqlx::{AssertSqlSafe, Row};

use crate::auth::Agent;
use crate::store::commands::{self, Said};
use crate::store::installation::{CONTENT_NUMBER, note_content_change};
use crate::store::manifests::Basis;
use crate::store::many::{ROWS_MAX, pieces, values};
use crate::store::records::NEWEST;
use crate::store::row::{
    DbConnection, DbRow, count, count_opt, flag, int, time_opt, to_json, word, word_opt,
};
use crate::store::{Origin, Store, StoreError, tenures};

/// Heartbeats that are kept of one site: a day at the default interval.
pub(super) const HEARTBEATS_MAX: u64 = 1_440;
/// Heartbeats of a site from one time that old ones are deleted to the next. What is too old is not shown until then.
const PRUNE_EVERY: u64 = 16;

/// A heartbeat that is to be kept.
#[derive(Debug)]
pub(crate) struct Beat {
    agent: Agent,
    agent_version: String,
    command_results: Vec<CommandResult>,
    body: String,
    received_at: Timestamp,
    instance: Option<Instance>,
    engine: Option<EngineId>,
    address: Option<IpAddr>,
    correlation_id: String,
}

impl Beat {
    /// What `agent` said at `now`.
    pub(crate) fn new(agent: Agent, heartbeat: &Heartbeat, now: Timestamp) -> Self {
        Self {
            agent,
            agent_version: heartbeat.agent_version.clone(),
            command_results: heartbeat.command_results.clone(),
            body: to_json(heartbeat),
            received_at: now,
            instance: heartbeat.instance,
            engine: heartbeat.plugins.as_ref().map(|report| report.engine.clone()),
            address: None,
            correlation_id: String::new(),
        }
    }

    /// Names the request that it came with, and from where.
    pub(crate) fn of_request(self, correlation_id: &str, address: IpAddr) -> Self {
        Self { correlation_id: correlation_id.to_owned(), address: Some(address), ..self }
    }
}

/// What is known of the site of a heartbeat that is kept.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    /// The site's path.
    pub(crate) path: String,
    /// The status that the agent had before.
    pub(crate) before: Option<AgentStatus>,
    /// The version of the site's settings.
    pub(crate) config_version: u64,
    /// The newest number of a change of the site's nodes.
    pub(crate) nodes_version: u64,
    /// The version of the site's manifest, where nothing that it is made of has changed since it was looked at.
    pub(crate) manifest_version: Option<u64>,
    /// What its agent is ordered to do.
    pub(crate) commands: Vec<SiteCommand>,
}

/// What became of each heartbeat, in their order.
pub(crate) type Outcomes = Vec<Result<Heard, StoreError>>;

impl Store {
    /// Keeps `beats` in their order, all of them in one transaction, but for those that cannot be: an agent that another one
    /// has replaced since its credential was looked at, or that has been sent away.
    ///
    /// # Errors
    /// The database fails. Then none is kept.
    pub(crate) async fn keep_beats(&self, beats: &[Beat]) -> Result<Outcomes, StoreError> {
        let mut tx = self.write().await?;
        let mut outcomes = Vec::with_capacity(beats.len());
        for round in rounds(beats) {
            outcomes.extend(keep(&mut tx, round).await?);
        }
        tx.commit().await?;
        Ok(outcomes)
    }
}

/// `beats` in pieces in which every site is named once. Their lengths are powers of two, so that there are few different
/// statements and the database knows them all.
fn rounds(mut beats: &[Beat]) -> Vec<&[Beat]> {
    let mut rounds = Vec::new();
    while !beats.is_empty() {
        let mut sites = HashSet::new();
        let distinct = beats.iter().take(ROWS_MAX);
        let distinct = distinct.take_while(|beat| sites.insert(beat.agent.site_id)).count();
        let (round, rest) = beats.split_at(1 << distinct.ilog2());
        rounds.push(round);
        beats = rest;
    }
    rounds
}

/// An agent as it is before its heartbeat.
struct Standing {
    agent_version: String,
    engine: Option<EngineId>,
    interval_told: i64,
    interval: i64,
    last_number: u64,
    /// Whether there is a command that the agent should be given.
    is_wanted: bool,
    tenure: tenures::Kept,
    heard: Heard,
}

impl Standing {
    fn read(row: &DbRow) -> Result<Self, StoreError> {
        Ok(Self {
            agent_version: row.try_get("agent_version")?,
            engine: word_opt(row, "engine")?,
            interval_told: row.try_get("interval_told")?,
            interval: row.try_get("interval_set")?,
            last_number: count(row, "last_number")?,
            is_wanted: flag(row, "is_wanted")?,
            tenure: tenures::Kept::read(row)?,
            heard: Heard {
                path: row.try_get("path")?,
                before: word_opt(row, "agent_status")?,
                config_version: count(row, "version")?,
                nodes_version: count(row, "nodes_version")?,
                manifest_version: manifest_version(row)?,
                commands: Vec::new(),
            },
        })
    }
}

fn manifest_version(row: &DbRow) -> Result<Option<u64>, StoreError> {
    let Some(version) = count_opt(row, "manifest_version")? else { return Ok(None) };
    let now = Basis {
        content_number: count(row, "content_now")?,
        nodes_number: count(row, "nodes_version")?,
        settings_version: count(row, "version")?,
    };
    Ok((Basis::read(row)? == now).then_some(version))
}

/// Keeps heartbeats of different sites. What else a site's agent is to be told with the answer is read here, for all of
/// them at once, as [`standings`] does.
async fn keep(db: &mut DbConnection, beats: &[Beat]) -> Result<Outcomes, StoreError> {
    let mut standings = standings(db, beats).await?;
    admit(db, beats, &mut standings).await?;
    command(db, beats, &mut standings).await?;
    let known: Vec<_> = beats
        .iter()
        .zip(&standings)
        .filter_map(|(beat, standing)| Some((beat, standing.as_ref().ok()?)))
        .collect();
    append(db, &known).await?;
    see(db, &known).await?;
    for (beat, standing) in &known {
        let is_told = standing.interval_told == standing.interval;
        let is_same =
            standing.agent_version == beat.agent_version && standing.engine == beat.engine;
        if !is_told || !is_same {
            update_agent(db, beat, standing).await?;
        }
        if (standing.last_number + 1).is_multiple_of(PRUNE_EVERY) {
            prune(db, beat, standing).await?;
        }
    }
    Ok(standings.into_iter().map(|standing| Ok(standing?.heard)).collect())
}

/// Takes what the agents say of their commands, and gives those commands that are due. Most heartbeats have neither.
async fn command(
    db: &mut DbConnection,
    beats: &[Beat],
    standings: &mut [Result<Standing, StoreError>],
) -> Result<(), StoreError> {
    let (mut talkers, mut wanted) = (Vec::new(), Vec::new());
    for (beat, standing) in beats.iter().zip(&*standings) {
        let Ok(standing) = standing else { continue };
        let said = Said {
            site: beat.agent.site_id,
            results: &beat.command_results,
            at: beat.received_at,
            interval_seconds: standing.interval,
        };
        talkers.extend((!said.results.is_empty()).then_some(said));
        wanted.extend(standing.is_wanted.then_some(said));
    }
    commands::settle(db, &talkers).await?;
    let mut given = commands::give(db, &wanted).await?;
    for (beat, standing) in beats.iter().zip(standings) {
        if let (Ok(standing), Some(given)) = (standing, given.remove(&beat.agent.site_id)) {
            standing.heard.commands = given;
        }
    }
    Ok(())
}

/// Refuses the heartbeats of machines that are not listened to.
async fn admit(
    db: &mut DbConnection,
    beats: &[Beat],
    standings: &mut [Result<Standing, StoreError>],
) -> Result<(), StoreError> {
    for (beat, standing) in beats.iter().zip(standings) {
        let Ok(Standing { tenure, .. }) = standing else { continue };
        let origin = Origin { correlation_id: &beat.correlation_id, now: beat.received_at };
        let site = beat.agent.site_id;
        if let Err(refused) = tenure.admit(db, site, beat.instance, beat.address, origin).await? {
            *standing = Err(refused);
        }
    }
    Ok(())
}

/// How the agent of each heartbeat stands, or why nothing is kept of it.
async fn standings(
    db: &mut DbConnection,
    beats: &[Beat],
) -> Result<Vec<Result<Standing, StoreError>>, StoreError> {
    let sql = format!(
        "SELECT a.id, a.agent_version, a.engine, a.revoked_at, {}, a.heartbeat_interval AS interval_told, s.path, s.agent_status, s.version,
            s.heartbeat_interval AS interval_set,
            (SELECT coalesce(max(h.number), 0) FROM heartbeats h WHERE h.site_id = a.site_id) AS last_number,
            EXISTS (SELECT 1 FROM commands c WHERE c.site_id = a.site_id AND c.finished_at IS NULL
                AND c.leased_until <= beat.column3) AS is_wanted, {} AS nodes_version,
            m.version AS manifest_version, m.content_number, m.nodes_number, m.settings_version, {CONTENT_NUMBER} AS content_now
         FROM ({}) AS beat JOIN agents a ON a.site_id = beat.column1 AND a.id = beat.column2
         JOIN sites s ON s.id = a.site_id LEFT JOIN manifest_bases m ON m.site_id = a.site_id",
        tenures::COLUMNS,
        NEWEST.replace("{site}", "beat.column1"),
        values(beats.len(), 3)
    );
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for beat in beats {
        query = query
            .bind(beat.agent.site_id.to_string())
            .bind(beat.agent.id.to_string())
            .bind(beat.received_at.unix_ms());
    }
    let mut found: HashMap<AgentId, _> = HashMap::new();
    for row in query.fetch_all(db).await? {
        let standing = match time_opt(&row, "revoked_at")? {
            Some(_) => Err(StoreError::CredentialRevoked),
            None => Ok(Standing::read(&row)?),
        };
        found.insert(word(&row, "id")?, standing);
    }
    let standing = |beat: &Beat| {
        let id = beat.agent.id;
        let missing = || Err(StoreError::Missing { what: "agent", id: id.to_string() });
        found.remove(&id).unwrap_or_else(missing)
    };
    Ok(beats.iter().map(standing).collect())
}

/// Puts the heartbeats at the end of the histories of their sites.
async fn append(db: &mut DbConnection, known: &[(&Beat, &Standing)]) -> Result<(), StoreError> {
    for known in pieces(known) {
        let sql = format!(
            "INSERT INTO heartbeats (site_id, number, received_at, heartbeat) {}",
            values(known.len(), 4)
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for (beat, standing) in known {
            query = query
                .bind(beat.agent.site_id.to_string())
                .bind(int(standing.last_number + 1))
                .bind(beat.received_at.unix_ms())
                .bind(&beat.body);
        }
        query.execute(&mut *db).await?;
    }
    Ok(())
}

/// Writes down that the agents are there.
async fn see(db: &mut DbConnection, known: &[(&Beat, &Standing)]) -> Result<(), StoreError> {
    for known in pieces(known) {
        let sql = format!(
            "UPDATE sites SET agent_status = 'online', agent_last_seen = beat.column2 FROM ({}) AS beat
             WHERE sites.id = beat.column1",
            values(known.len(), 2)
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for (beat, _) in known {
            query = query.bind(beat.agent.site_id.to_string()).bind(beat.received_at.unix_ms());
        }
        query.execute(&mut *db).await?;
    }
    Ok(())
}

/// Writes down what a heartbeat changes in its agent, which it seldom does.
async fn update_agent(
    db: &mut DbConnection,
    beat: &Beat,
    standing: &Standing,
) -> Result<(), StoreError> {
    if standing.engine != beat.engine {
        note_content_change(&mut *db).await?;
    }
    sqlx::query(
        "UPDATE agents SET agent_version = $2, heartbeat_interval = $3, engine = $4 WHERE site_id = $1",
    )
    .bind(beat.agent.site_id.to_string())
    .bind(&beat.agent_version)
    .bind(standing.interval)
    .bind(beat.engine.as_ref().map(EngineId::as_str))
    .execute(db)
    .await?;
    Ok(())
}

/// Deletes what is too old of the history of the site of `beat`.
async fn prune(db: &mut DbConnection, beat: &Beat, standing: &Standing) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM heartbeats WHERE site_id = $1 AND number <= $2")
        .bind(beat.agent.site_id.to_string())
        .bind(int((standing.last_number + 1).saturating_sub(HEARTBEATS_MAX)))
        .execute(db)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
