//! Who the agent is and which settings it obeys: what a start without controller needs.

use pureboot_protocol::{AgentId, SiteConfig, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row, named_params};

use super::{Json, Store, StoreError, Word, feed};

/// What the controller has told the agent about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The agent's id since its registration.
    pub agent_id: AgentId,
    /// The site's settings.
    pub config: SiteConfig,
    /// The version of `config`.
    pub config_version: u64,
    /// When the agent joined.
    pub registered_at: Timestamp,
}

impl Store {
    /// The identity that was saved last; none before the first registration.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn load_identity(&self) -> Result<Option<Identity>, StoreError> {
        self.run(|db| Ok(load(db)?)).await
    }

    /// Makes `identity` the one that the next start loads.
    ///
    /// # Errors
    /// See [`StoreError`]; the old identity stands.
    pub async fn save_identity(&self, identity: Identity) -> Result<(), StoreError> {
        self.run(move |db| {
            let transaction = db.transaction()?;
            if load(&transaction)?.is_some_and(|held| held.agent_id != identity.agent_id) {
                // It may have joined another controller, and the numbers of that one are others.
                feed::begin_anew(&transaction)?;
            }
            save(&transaction, &identity)?;
            Ok(transaction.commit()?)
        })
        .await
    }
}

pub(super) fn load(db: &Connection) -> rusqlite::Result<Option<Identity>> {
    db.query_row("SELECT * FROM identity", [], |row: &Row<'_>| {
        Ok(Identity {
            agent_id: row.get::<_, Word<_>>("agent_id")?.0,
            config: row.get::<_, Json<_>>("config")?.0,
            config_version: row.get("config_version")?,
            registered_at: Timestamp::from_unix_ms(row.get("registered_at")?),
        })
    })
    .optional()
}

pub(super) fn save(db: &Connection, identity: &Identity) -> rusqlite::Result<()> {
    db.execute(
        "INSERT OR REPLACE INTO identity (only_row, agent_id, config, config_version, registered_at)
         VALUES (1, :agent_id, :config, :config_version, :registered_at)",
        named_params! {
            ":agent_id": Word(identity.agent_id),
            ":config": Json(&identity.config),
            ":config_version": identity.config_version,
            ":registered_at": identity.registered_at.unix_ms(),
        },
    )?;
    Ok(())
}
