//! API tokens, by their hash.

use pureboot_protocol::{CredentialHash, Page, Timestamp, TokenId, UserId};
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::Row;

use crate::auth::rank::Rank;
use crate::auth::scope::Scopes;
use crate::auth::{Means, Operator};
use crate::random;
use crate::store::page::{Cursor, Paging};
use crate::store::row::{
    DbConnection, DbRow, count, json_opt, time, time_opt, to_json, word, word_opt,
};
use crate::store::sessions::USE_PERIOD_S;
use crate::store::{Store, StoreError};

/// Tokens of one owner that are valid at a time.
pub(crate) const TOKENS_MAX: i64 = 100;

/// A token, but not the secret, which nobody can tell. The field names are those of the HTTP surface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Token {
    /// Which.
    pub(crate) id: TokenId,
    /// What it is for.
    pub(crate) name: String,
    /// Whose; none if it was made on the controller's own machine.
    pub(crate) user_id: Option<UserId>,
    /// The owner's name.
    pub(crate) user_name: Option<String>,
    /// What it may do, unless its owner may do less.
    pub(crate) role: Rank,
    /// What it is limited to.
    pub(crate) scopes: Option<Scopes>,
    /// When it was made.
    pub(crate) created_at: Timestamp,
    /// When it ends, if ever.
    pub(crate) expires_at: Option<Timestamp>,
    /// When it was used last, to the minute.
    pub(crate) last_used_at: Option<Timestamp>,
    /// When it was ended.
    pub(crate) revoked_at: Option<Timestamp>,
}

/// What a token is made of.
#[derive(Debug, Clone)]
pub(crate) struct NewToken {
    /// Of the secret.
    pub(crate) hash: CredentialHash,
    /// What it is for.
    pub(crate) name: String,
    /// Whose.
    pub(crate) user: Option<UserId>,
    /// What it may do.
    pub(crate) role: Rank,
    /// What it is limited to.
    pub(crate) scopes: Option<Scopes>,
    /// When it ends, if ever.
    pub(crate) expires_at: Option<Timestamp>,
}

const TOKEN: &str =
    "SELECT t.*, u.name AS user_name, u.role AS user_role, u.disabled_at AS user_disabled_at
    FROM api_tokens t LEFT JOIN users u ON u.id = t.user_id ";

impl Store {
    /// Makes a token. One with the same hash is there already if a first start was cut short, and stays as it is.
    ///
    /// # Errors
    /// The owner is gone, or has too many.
    pub(crate) async fn create_token(
        &self,
        token: NewToken,
        now: Timestamp,
    ) -> Result<Token, StoreError> {
        let user_id = token.user.map(|id| id.to_string());
        let mut tx = self.write().await?;
        let held = sqlx::query(
            "SELECT count(*) AS held FROM api_tokens
             WHERE coalesce(user_id, '') = coalesce($1, '') AND revoked_at IS NULL
                AND (expires_at IS NULL OR expires_at > $2)",
        );
        let held = held.bind(&user_id).bind(now.unix_ms()).fetch_one(&mut *tx).await?;
        if count::<i64>(&held, "held")? >= TOKENS_MAX {
            return Err(StoreError::TooManyTokens);
        }
        sqlx::query(
            "INSERT INTO api_tokens (id, hash, name, user_id, role, scopes, created_at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (hash) DO NOTHING",
        )
        .bind(TokenId::from_random(random::bytes()).to_string())
        .bind(token.hash.to_string())
        .bind(&token.name)
        .bind(&user_id)
        .bind(token.role.as_str())
        .bind(token.scopes.as_ref().map(to_json))
        .bind(now.unix_ms())
        .bind(token.expires_at.map(Timestamp::unix_ms))
        .execute(&mut *tx)
        .await?;
        let made = sqlx::query(sqlx::AssertSqlSafe(format!("{TOKEN} WHERE t.hash = $1")));
        let made = read(&made.bind(token.hash.to_string()).fetch_one(&mut *tx).await?)?;
        tx.commit().await?;
        Ok(made)
    }

    /// Whether there was ever any token.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn has_token(&self) -> Result<bool, StoreError> {
        let row = sqlx::query("SELECT 1 FROM api_tokens LIMIT 1");
        Ok(row.fetch_optional(&self.reader).await?.is_some())
    }

    /// Tokens in the order of their making: all, or those of one owner.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn tokens(
        &self,
        owner: Option<UserId>,
        paging: &Paging,
    ) -> Result<Page<Token>, StoreError> {
        let (position, id, limit) = paging.rising();
        let owner = owner.map(|id| id.to_string());
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "{TOKEN} WHERE (CAST($1 AS TEXT) IS NULL OR t.user_id = $1) AND (t.created_at, t.id) > ($2, $3)
             ORDER BY t.created_at, t.id LIMIT $4"
        )))
        .bind(&owner)
        .bind(position)
        .bind(id)
        .bind(limit)
        .fetch_all(&self.reader)
        .await?;
        let total = sqlx::query(
            "SELECT count(*) AS total FROM api_tokens WHERE CAST($1 AS TEXT) IS NULL OR user_id = $1",
        );
        let total = total.bind(&owner).fetch_one(&self.reader).await?;
        let tokens = rows.iter().map(read).collect::<Result<_, _>>()?;
        Ok(paging.page(tokens, count(&total, "total")?, |token: &Token| {
            Cursor::new(token.created_at.unix_ms(), token.id)
        }))
    }

    /// Ends a token, of one owner if one is named. Doing it twice is doing it once.
    ///
    /// # Errors
    /// There is none with this id, or it is another owner's.
    pub(crate) async fn revoke_token(
        &self,
        id: TokenId,
        owner: Option<UserId>,
        now: Timestamp,
    ) -> Result<Token, StoreError> {
        let mut tx = self.write().await?;
        sqlx::query(
            "UPDATE api_tokens SET revoked_at = coalesce(revoked_at, $3)
             WHERE id = $1 AND (CAST($2 AS TEXT) IS NULL OR user_id = $2)",
        )
        .bind(id.to_string())
        .bind(owner.map(|id| id.to_string()))
        .bind(now.unix_ms())
        .execute(&mut *tx)
        .await?;
        let token = load(&mut tx, id).await?;
        if owner.is_some() && token.user_id != owner {
            return Err(missing(id));
        }
        tx.commit().await?;
        Ok(token)
    }

    /// Whose token has `hash`, and notes that it is in use; none if it is not valid, or its owner is not let in.
    pub(crate) async fn token_holder(
        &self,
        hash: CredentialHash,
        now: Timestamp,
    ) -> Result<Option<Operator>, StoreError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!("{TOKEN} WHERE t.hash = $1")));
        let row = row.bind(hash.to_string()).fetch_optional(&self.reader).await?;
        let Some(row) = row else { return Ok(None) };
        let token = read(&row)?;
        let is_over = token.expires_at.is_some_and(|at| at <= now) || token.revoked_at.is_some();
        if is_over || time_opt(&row, "user_disabled_at")?.is_some() {
            return Ok(None);
        }
        if token.last_used_at.is_none_or(|at| now.seconds_since(at) >= USE_PERIOD_S) {
            let mut tx = self.write().await?;
            sqlx::query("UPDATE api_tokens SET last_used_at = $2 WHERE hash = $1")
                .bind(hash.to_string())
                .bind(now.unix_ms())
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
        }
        // A token never has more than its owner has, also after the owner has been given less.
        let owners: Rank = word_opt(&row, "user_role")?.unwrap_or(token.role);
        Ok(Some(Operator {
            user: token.user_id,
            name: token.user_name.unwrap_or(token.name),
            rank: token.role.min(owners),
            scopes: token.scopes,
            means: Means::Token { id: token.id, expires_at: token.expires_at },
        }))
    }
}

async fn load(db: &mut DbConnection, id: TokenId) -> Result<Token, StoreError> {
    let row = sqlx::query(sqlx::AssertSqlSafe(format!("{TOKEN} WHERE t.id = $1")));
    let row = row.bind(id.to_string()).fetch_optional(db).await?;
    read(&row.ok_or_else(|| missing(id))?)
}

fn missing(id: TokenId) -> StoreError {
    StoreError::Missing { what: "token", id: id.to_string() }
}

fn read(row: &DbRow) -> Result<Token, StoreError> {
    Ok(Token {
        id: word(row, "id")?,
        name: row.try_get("name")?,
        user_id: word_opt(row, "user_id")?,
        user_name: row.try_get("user_name")?,
        role: word(row, "role")?,
        scopes: json_opt(row, "scopes")?,
        created_at: time(row, "created_at")?,
        expires_at: time_opt(row, "expires_at")?,
        last_used_at: time_opt(row, "last_used_at")?,
        revoked_at: time_opt(row, "revoked_at")?,
    })
}
