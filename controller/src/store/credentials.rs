//! Who is who: registration tokens, and the agents' credentials that they are redeemed for. Only hashes are kept.

use std::collections::HashMap;

use pureboot_protocol::{
    AgentId, CredentialHash, RegistrationRequest, RegistrationToken, SiteId, Timestamp,
};
use sqlx::{AssertSqlSafe, Row};

use crate::audit::{Actor, Entry};
use crate::auth::{self, Agent, Caller};
use crate::random;
use crate::store::row::{DbConnection, DbRow, count, time_opt, to_json, word};
use crate::store::sites::{self, Site};
use crate::store::{Origin, Store, StoreError, audit};

/// How long a registration token may be redeemed, in hours.
pub(crate) const TOKEN_HOURS: u32 = 24;

/// What an agent has become by redeeming its token.
#[derive(Debug)]
pub(crate) struct Joined {
    /// Who it is.
    pub(crate) agent_id: AgentId,
    /// Where.
    pub(crate) site: Site,
    /// The agent whose credential has ended thereby.
    pub(crate) replaced: Option<AgentId>,
}

/// Whose a credential is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bearer {
    agent: Agent,
    is_revoked: bool,
    /// Whether it is the one that was announced and has not been used yet.
    is_next: bool,
}

impl Bearer {
    fn read(row: &DbRow) -> Result<Self, StoreError> {
        Ok(Self {
            agent: Agent { id: word(row, "id")?, site_id: word(row, "site_id")? },
            is_revoked: time_opt(row, "revoked_at")?.is_some(),
            is_next: count::<u8>(row, "is_next")? == 1,
        })
    }
}

impl Store {
    /// The agent that has each of `hashes`, in their order; none is another's, or nobody's.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn bearers(
        &self,
        hashes: &[CredentialHash],
    ) -> Result<Vec<Option<Bearer>>, StoreError> {
        // The lengths are powers of two, so that there are few different statements and the database knows them all.
        let len = hashes.len().next_power_of_two();
        let places: Vec<_> = (1..=len).map(|number| format!("${number}")).collect();
        let places = places.join(", ");
        let sql = format!(
            "SELECT credential_hash AS hash, id, site_id, revoked_at, CAST(0 AS BIGINT) AS is_next
             FROM agents WHERE credential_hash IN ({places})
             UNION ALL
             SELECT next_credential_hash AS hash, id, site_id, revoked_at, CAST(1 AS BIGINT) AS is_next
             FROM agents WHERE next_credential_hash IN ({places})"
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        let again = std::iter::repeat(hashes.last()).flatten();
        for hash in hashes.iter().chain(again).take(len) {
            query = query.bind(hash.to_string());
        }
        let mut found = HashMap::new();
        for row in query.fetch_all(&self.reader).await? {
            let hash: CredentialHash = word(&row, "hash")?;
            found.insert(hash, Bearer::read(&row)?);
        }
        Ok(hashes.iter().map(|hash| found.get(hash).copied()).collect())
    }

    /// Lets the agent `bearer` call with `hash`. The first use of its next credential ends the one before it.
    ///
    /// # Errors
    /// It has been sent away, or the database fails.
    pub(crate) async fn agent_calls(
        &self,
        bearer: Bearer,
        hash: CredentialHash,
        now: Timestamp,
    ) -> Result<Caller, StoreError> {
        if bearer.is_revoked {
            return Err(StoreError::CredentialRevoked);
        }
        if bearer.is_next {
            self.promote_credential(bearer.agent, hash, now).await?;
        }
        Ok(Caller::Agent(bearer.agent))
    }

    /// Puts the credential that `agent` has announced in the place of the one that it had.
    async fn promote_credential(
        &self,
        agent: Agent,
        hash: CredentialHash,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let promoted = sqlx::query(
            "UPDATE agents SET credential_hash = next_credential_hash, next_credential_hash = NULL
             WHERE id = $1 AND next_credential_hash = $2",
        );
        let promoted = promoted.bind(agent.id.to_string()).bind(hash.to_string());
        // Of two first uses at once, one is the first.
        if promoted.execute(&mut *tx).await?.rows_affected() == 1 {
            let actor = Actor::agent(agent.id);
            let mut entry = Entry::new(now, actor, "agent.credential_rotated", "");
            entry.target = Some(agent.site_id.to_string());
            audit::insert_new(&mut tx, &entry).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Keeps the hash of the credential that `agent` will use next. The one that it has stays good until then.
    ///
    /// # Errors
    /// Another agent has it, or the agent is gone.
    pub(crate) async fn announce_credential(
        &self,
        agent: Agent,
        next: CredentialHash,
        origin: Origin<'_>,
    ) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let holders = sqlx::query(
            "SELECT id, credential_hash FROM agents WHERE credential_hash = $1 OR next_credential_hash = $1",
        );
        let holders = holders.bind(next.to_string()).fetch_all(&mut *tx).await?;
        for holder in &holders {
            if word::<AgentId>(holder, "id")? != agent.id {
                return Err(StoreError::CredentialInUse);
            }
            if holder.try_get::<String, _>("credential_hash")? == next.to_string() {
                return Ok(());
            }
        }
        let kept = sqlx::query(
            "UPDATE agents SET next_credential_hash = $2 WHERE id = $1 AND revoked_at IS NULL",
        );
        let kept = kept.bind(agent.id.to_string()).bind(next.to_string()).execute(&mut *tx).await?;
        if kept.rows_affected() == 0 {
            return Err(StoreError::Missing { what: "agent", id: agent.id.to_string() });
        }
        let (actor, action) = (Actor::agent(agent.id), "agent.credential_announced");
        let mut entry = Entry::new(origin.now, actor, action, origin.correlation_id);
        entry.target = Some(agent.site_id.to_string());
        audit::insert_new(&mut tx, &entry).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Ends the credential of the agent of `site`, and the registration token that could give it another. Doing it twice is
    /// doing it once.
    ///
    /// # Errors
    /// There is no such site, or it has no agent.
    pub(crate) async fn revoke_agent(
        &self,
        site: SiteId,
        now: Timestamp,
    ) -> Result<AgentId, StoreError> {
        let site_id = site.to_string();
        let mut tx = self.write().await?;
        let row = sqlx::query("SELECT id FROM agents WHERE site_id = $1").bind(&site_id);
        let row = row.fetch_optional(&mut *tx).await?;
        let missing = || StoreError::Missing { what: "agent of a site", id: site_id.clone() };
        let agent_id = word(&row.ok_or_else(missing)?, "id")?;
        sqlx::query("UPDATE agents SET revoked_at = coalesce(revoked_at, $2) WHERE site_id = $1")
            .bind(&site_id)
            .bind(now.unix_ms())
            .execute(&mut *tx)
            .await?;
        sqlx::query("DELETE FROM registration_tokens WHERE site_id = $1")
            .bind(&site_id)
            .execute(&mut *tx)
            .await?;
        sqlx::query("UPDATE sites SET agent_status = 'offline' WHERE id = $1")
            .bind(&site_id)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(agent_id)
    }

    /// Makes `token` the registration token of `site`; the one before it ends.
    ///
    /// # Errors
    /// There is no such site.
    pub(crate) async fn set_registration_token(
        &self,
        site: SiteId,
        token: &RegistrationToken,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        sites::load(&mut tx, site).await?;
        sqlx::query(
            "INSERT INTO registration_tokens (site_id, token_id, secret_hash, expires_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (site_id) DO UPDATE SET token_id = $2, secret_hash = $3, expires_at = $4, used_by = NULL,
                used_at = NULL",
        )
        .bind(site.to_string())
        .bind(token.id())
        .bind(auth::hash(token.secret()).to_string())
        .bind(now.plus_seconds(i64::from(TOKEN_HOURS) * 3_600).unix_ms())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Redeems the token of `request` for the credential with `hash`. The same hash again within the token's life changes
    /// nothing and gets the same answer.
    ///
    /// # Errors
    /// There is no such site, nobody has made a token for it, the token is not valid, or another site's agent has `hash`.
    pub(crate) async fn redeem(
        &self,
        request: &RegistrationRequest,
        hash: CredentialHash,
        now: Timestamp,
    ) -> Result<Joined, StoreError> {
        let mut tx = self.write().await?;
        sites::load(&mut tx, request.site_id).await?;
        let site_id = request.site_id.to_string();
        let has_token = sqlx::query("SELECT 1 FROM registration_tokens WHERE site_id = $1");
        if has_token.bind(&site_id).fetch_optional(&mut *tx).await?.is_none() {
            return Err(StoreError::NoToken);
        }
        let redeemed = sqlx::query(
            "UPDATE registration_tokens SET used_by = $4, used_at = coalesce(used_at, $5)
             WHERE site_id = $1 AND token_id = $2 AND secret_hash = $3 AND expires_at > $5
               AND (used_by IS NULL OR used_by = $4)",
        )
        .bind(&site_id)
        .bind(request.token.id())
        .bind(auth::hash(request.token.secret()).to_string())
        .bind(hash.to_string())
        .bind(now.unix_ms())
        .execute(&mut *tx)
        .await?;
        if redeemed.rows_affected() == 0 {
            return Err(StoreError::TokenRefused);
        }
        let (agent_id, replaced) = enrol(&mut tx, request, hash, now).await?;
        let site = sites::load(&mut tx, request.site_id).await?;
        tx.commit().await?;
        Ok(Joined { agent_id, site, replaced })
    }
}

/// Makes the holder of `hash` the agent of the site, unless it is already; answers its id and that of the one before it.
async fn enrol(
    db: &mut DbConnection,
    request: &RegistrationRequest,
    hash: CredentialHash,
    now: Timestamp,
) -> Result<(AgentId, Option<AgentId>), StoreError> {
    let holders = sqlx::query(
        "SELECT id, site_id, credential_hash, next_credential_hash, revoked_at FROM agents
         WHERE site_id = $1 OR credential_hash = $2 OR next_credential_hash = $2",
    )
    .bind(request.site_id.to_string())
    .bind(hash.to_string())
    .fetch_all(&mut *db)
    .await?;
    let mut replaced = None;
    for holder in &holders {
        let site_id: SiteId = word(holder, "site_id")?;
        let held = holder.try_get::<String, _>("credential_hash")? == hash.to_string();
        match (site_id == request.site_id, held) {
            (true, true) if time_opt(holder, "revoked_at")?.is_some() => {
                return Err(StoreError::CredentialRevoked);
            }
            (true, true) => return Ok((word(holder, "id")?, None)),
            (true, false) => replaced = Some(word(holder, "id")?),
            (false, _) => return Err(StoreError::CredentialInUse),
        }
    }
    let agent_id = AgentId::from_random(random::bytes());
    sqlx::query(
        "INSERT INTO agents (site_id, id, credential_hash, agent_version, capabilities, heartbeat_interval, registered_at)
         SELECT id, $2, $3, $4, $5, heartbeat_interval, $6 FROM sites WHERE id = $1
         ON CONFLICT (site_id) DO UPDATE SET id = $2, credential_hash = $3, next_credential_hash = NULL, revoked_at = NULL,
            instance = NULL, instance_succeeds = NULL, instance_former = NULL, instance_since = NULL, instance_address = NULL,
            rival = NULL, rival_at = NULL, rival_address = NULL, agent_version = $4, capabilities = $5, heartbeat_interval = excluded.heartbeat_interval, registered_at = $6,
            beats_before = (SELECT coalesce(max(number), 0) FROM heartbeats WHERE site_id = $1)",
    )
    .bind(request.site_id.to_string())
    .bind(agent_id.to_string())
    .bind(hash.to_string())
    .bind(&request.agent_version)
    .bind(to_json(&request.capabilities))
    .bind(now.unix_ms())
    .execute(&mut *db)
    .await?;
    sqlx::query(
        "UPDATE sites SET agent_url = $2, agent_status = 'online', agent_last_seen = $3 WHERE id = $1",
    )
    .bind(request.site_id.to_string())
    .bind(&request.agent_url)
    .bind(now.unix_ms())
    .execute(db)
    .await?;
    Ok((agent_id, replaced))
}
