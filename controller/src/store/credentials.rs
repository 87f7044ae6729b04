//! Who is who: operators' tokens, registration tokens, and the credentials that they are redeemed for. Only hashes are kept.

use pureboot_protocol::{
    AgentId, CredentialHash, RegistrationRequest, RegistrationToken, SiteId, Timestamp,
};
use sqlx::Row;

use crate::auth::{self, Agent, Caller};
use crate::random;
use crate::store::row::{DbConnection, to_json, word, word_opt};
use crate::store::sites::{self, Site};
use crate::store::{Store, StoreError};

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

impl Store {
    /// Whom a credential belongs to.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn caller(&self, hash: CredentialHash) -> Result<Option<Caller>, StoreError> {
        let row = sqlx::query(
            "SELECT NULL AS id, NULL AS site_id FROM operator_tokens WHERE hash = $1
             UNION ALL SELECT id, site_id FROM agents WHERE credential_hash = $1",
        )
        .bind(hash.to_string())
        .fetch_optional(&self.reader)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let agent = word_opt(&row, "id")?.zip(word_opt(&row, "site_id")?);
        Ok(Some(match agent {
            Some((id, site_id)) => Caller::Agent(Agent { id, site_id }),
            None => Caller::Operator,
        }))
    }

    /// Whether there is any operator's token.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn has_operator_token(&self) -> Result<bool, StoreError> {
        let row = sqlx::query("SELECT 1 FROM operator_tokens LIMIT 1");
        Ok(row.fetch_optional(&self.reader).await?.is_some())
    }

    /// Lets the holder of the secret with `hash` in as an operator.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn add_operator_token(
        &self,
        hash: CredentialHash,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        sqlx::query("INSERT INTO operator_tokens (hash, created_at) VALUES ($1, $2) ON CONFLICT (hash) DO NOTHING")
            .bind(hash.to_string())
            .bind(now.unix_ms())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
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
             ON CONFLICT (site_id) DO UPDATE SET token_id = $2, secret_hash = $3, expires_at = $4, used_by = NULL, used_at = NULL",
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
        "SELECT id, site_id, credential_hash FROM agents WHERE site_id = $1 OR credential_hash = $2",
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
            (true, true) => return Ok((word(holder, "id")?, None)),
            (true, false) => replaced = Some(word(holder, "id")?),
            (false, _) => return Err(StoreError::CredentialInUse),
        }
    }
    let agent_id = AgentId::from_random(random::bytes());
    sqlx::query(
        "INSERT INTO agents (site_id, id, credential_hash, agent_version, capabilities, heartbeat_interval, registered_at)
         SELECT id, $2, $3, $4, $5, heartbeat_interval, $6 FROM sites WHERE id = $1
         ON CONFLICT (site_id) DO UPDATE SET id = $2, credential_hash = $3, agent_version = $4, capabilities = $5,
            heartbeat_interval = excluded.heartbeat_interval, registered_at = $6, heartbeat = NULL",
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
