//! People with an account.

use pureboot_protocol::{Page, Timestamp, UserId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::Row;

use crate::auth::rank::Rank;
use crate::random;
use crate::store::page::{Cursor, Paging};
use crate::store::row::{DbConnection, DbRow, count, time, time_opt, word};
use crate::store::{Store, StoreError};

/// A person with an account, as everybody may see it who sees people. The field names are those of the HTTP surface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct User {
    /// Who.
    pub(crate) id: UserId,
    /// As it was written when the account was made.
    pub(crate) name: String,
    /// What it may do.
    pub(crate) role: Rank,
    /// Whether it is let in.
    pub(crate) disabled: bool,
    /// When the account was made.
    pub(crate) created_at: Timestamp,
    /// When it was changed last.
    pub(crate) updated_at: Timestamp,
    /// When it signed in last.
    pub(crate) last_login_at: Option<Timestamp>,
}

/// What an account is made of.
#[derive(Debug, Clone)]
pub(crate) struct NewUser {
    /// The name, unique whatever the case.
    pub(crate) name: String,
    /// What is kept of the password.
    pub(crate) password: String,
    /// What it may do.
    pub(crate) role: Rank,
}

/// What is to change; what is absent stays.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
pub(crate) struct UserPatch {
    /// What it may do.
    pub(crate) role: Option<Rank>,
    /// Whether it is let in. Whoever is not loses sessions and tokens at once and for good.
    pub(crate) disabled: Option<bool>,
}

/// What people's names are compared by.
pub(crate) fn key(name: &str) -> String {
    name.to_lowercase()
}

impl Store {
    /// Makes an account.
    ///
    /// # Errors
    /// The name is taken.
    pub(crate) async fn create_user(
        &self,
        user: NewUser,
        now: Timestamp,
    ) -> Result<User, StoreError> {
        let id = UserId::from_random(random::bytes());
        let mut tx = self.write().await?;
        let made = sqlx::query(
            "INSERT INTO users (id, name, name_key, password, role, created_at, updated_at)
             VALUES ($1, $2, $3, $4, $5, $6, $6) ON CONFLICT (name_key) DO NOTHING",
        )
        .bind(id.to_string())
        .bind(&user.name)
        .bind(key(&user.name))
        .bind(&user.password)
        .bind(user.role.as_str())
        .bind(now.unix_ms())
        .execute(&mut *tx)
        .await?;
        if made.rows_affected() == 0 {
            return Err(StoreError::NameTaken { what: "user", name: user.name });
        }
        let user = load(&mut tx, id).await?;
        tx.commit().await?;
        Ok(user)
    }

    /// Whether there is any account.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn has_user(&self) -> Result<bool, StoreError> {
        let row = sqlx::query("SELECT 1 FROM users LIMIT 1").fetch_optional(&self.reader).await?;
        Ok(row.is_some())
    }

    /// The accounts in the order of their making.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn users(&self, paging: &Paging) -> Result<Page<User>, StoreError> {
        let (position, id, limit) = paging.rising();
        let rows = sqlx::query(
            "SELECT * FROM users WHERE (created_at, id) > ($1, $2) ORDER BY created_at, id LIMIT $3",
        )
        .bind(position)
        .bind(id)
        .bind(limit)
        .fetch_all(&self.reader)
        .await?;
        let total = sqlx::query("SELECT count(*) AS total FROM users");
        let total = total.fetch_one(&self.reader).await?;
        let users = rows.iter().map(read).collect::<Result<_, _>>()?;
        Ok(paging.page(users, count(&total, "total")?, |user: &User| {
            Cursor::new(user.created_at.unix_ms(), user.id)
        }))
    }

    /// One account.
    ///
    /// # Errors
    /// There is none with this id.
    pub(crate) async fn user(&self, id: UserId) -> Result<User, StoreError> {
        let mut reader = self.reader.acquire().await?;
        load(&mut reader, id).await
    }

    /// The account with a name, in any case, and what is kept of its password; none if there is none.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn user_named(
        &self,
        name: &str,
    ) -> Result<Option<(User, String)>, StoreError> {
        // PostgreSQL takes no U+0000, not even to look for it, and no name has one.
        if name.contains('\0') {
            return Ok(None);
        }
        let row = sqlx::query("SELECT * FROM users WHERE name_key = $1").bind(key(name));
        let row = row.fetch_optional(&self.reader).await?;
        row.map(|row| Ok((read(&row)?, row.try_get("password")?))).transpose()
    }

    /// Changes an account.
    ///
    /// # Errors
    /// There is none with this id, or it would leave the controller without admin.
    pub(crate) async fn update_user(
        &self,
        id: UserId,
        patch: UserPatch,
        now: Timestamp,
    ) -> Result<User, StoreError> {
        let mut tx = self.write().await?;
        let old = load(&mut tx, id).await?;
        let role = patch.role.unwrap_or(old.role);
        let disabled = patch.disabled.unwrap_or(old.disabled);
        if role != Rank::Admin || disabled {
            keep_an_admin(&mut tx, &old).await?;
        }
        sqlx::query(
            "UPDATE users SET role = $2, updated_at = $4,
                disabled_at = CASE WHEN $3 THEN coalesce(disabled_at, $4) END
             WHERE id = $1",
        )
        .bind(id.to_string())
        .bind(role.as_str())
        .bind(disabled)
        .bind(now.unix_ms())
        .execute(&mut *tx)
        .await?;
        if disabled {
            end_sessions(&mut tx, id).await?;
            sqlx::query(
                "UPDATE api_tokens SET revoked_at = coalesce(revoked_at, $2) WHERE user_id = $1",
            )
            .bind(id.to_string())
            .bind(now.unix_ms())
            .execute(&mut *tx)
            .await?;
        }
        let user = load(&mut tx, id).await?;
        tx.commit().await?;
        Ok(user)
    }

    /// Gives an account another password; all its sessions end. Its tokens stay: they have no password in them.
    ///
    /// # Errors
    /// There is none with this id.
    pub(crate) async fn set_password(
        &self,
        id: UserId,
        password: &str,
        now: Timestamp,
    ) -> Result<User, StoreError> {
        let mut tx = self.write().await?;
        load(&mut tx, id).await?;
        sqlx::query("UPDATE users SET password = $2, updated_at = $3 WHERE id = $1")
            .bind(id.to_string())
            .bind(password)
            .bind(now.unix_ms())
            .execute(&mut *tx)
            .await?;
        end_sessions(&mut tx, id).await?;
        let user = load(&mut tx, id).await?;
        tx.commit().await?;
        Ok(user)
    }

    /// Removes an account with its sessions and tokens.
    ///
    /// # Errors
    /// There is none with this id, or it is the last admin.
    pub(crate) async fn delete_user(&self, id: UserId) -> Result<User, StoreError> {
        let mut tx = self.write().await?;
        let user = load(&mut tx, id).await?;
        keep_an_admin(&mut tx, &user).await?;
        sqlx::query("DELETE FROM users WHERE id = $1")
            .bind(id.to_string())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(user)
    }
}

/// Refuses to go on without `leaving` if no other admin is let in.
async fn keep_an_admin(db: &mut DbConnection, leaving: &User) -> Result<(), StoreError> {
    if leaving.role != Rank::Admin || leaving.disabled {
        return Ok(());
    }
    let other = sqlx::query(
        "SELECT 1 FROM users WHERE role = 'admin' AND disabled_at IS NULL AND id <> $1 LIMIT 1",
    );
    match other.bind(leaving.id.to_string()).fetch_optional(db).await? {
        Some(_) => Ok(()),
        None => Err(StoreError::LastAdmin),
    }
}

async fn end_sessions(db: &mut DbConnection, id: UserId) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM sessions WHERE user_id = $1").bind(id.to_string()).execute(db).await?;
    Ok(())
}

/// One account.
pub(super) async fn load(db: &mut DbConnection, id: UserId) -> Result<User, StoreError> {
    let row = sqlx::query("SELECT * FROM users WHERE id = $1").bind(id.to_string());
    let row = row.fetch_optional(db).await?;
    read(&row.ok_or_else(|| StoreError::Missing { what: "user", id: id.to_string() })?)
}

fn read(row: &DbRow) -> Result<User, StoreError> {
    Ok(User {
        id: word(row, "id")?,
        name: row.try_get("name")?,
        role: word(row, "role")?,
        disabled: time_opt(row, "disabled_at")?.is_some(),
        created_at: time(row, "created_at")?,
        updated_at: time(row, "updated_at")?,
        last_login_at: time_opt(row, "last_login_at")?,
    })
}
