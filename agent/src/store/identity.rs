//! Who the agent is and which settings it obeys: what a start without controller needs.
//!
//! Beside the database lies a copy of its own. It counts where the database has none: a site that has lost its database has not lost
//! its right to speak, which is in the file of its credential (FAULTS D9).

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use pureboot_protocol::{AgentId, SiteConfig, SiteId, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row, named_params};
use serde::{Deserialize, Serialize};

use super::{Json, Store, StoreError, Word, feed};
use crate::data_dir;

/// The copy.
pub(super) fn copy_in(data_dir: &Path) -> PathBuf {
    data_dir.join("state").join("identity.json")
}

/// What the controller has told the agent about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// The identity that was saved last; none before the first registration. Where the database has none, its copy counts, if it is of
    /// `site`.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn load_identity(&self, site: SiteId) -> Result<Option<Identity>, StoreError> {
        let copy = self.identity_copy.clone();
        self.run(move |db| {
            if let Some(identity) = load(db)? {
                save_copy(&copy, &identity);
                return Ok(Some(identity));
            }
            let found = read_copy(&copy).unwrap_or_else(|error| {
                log::error!("the copy of who this agent is cannot be used: {error:#}");
                None
            });
            let Some(identity) = found.filter(|found| found.config.site_id == site) else {
                return Ok(None);
            };
            log::warn!(agent:% = identity.agent_id; "the database does not know who this agent is; its copy {} does", copy.display());
            save(db, &identity)?;
            Ok(Some(identity))
        })
        .await
    }

    /// Makes `identity` the one that the next start loads.
    ///
    /// # Errors
    /// See [`StoreError`]; the old identity stands.
    pub async fn save_identity(&self, identity: Identity) -> Result<(), StoreError> {
        let copy = self.identity_copy.clone();
        self.run(move |db| {
            let transaction = db.transaction()?;
            if load(&transaction)?.is_some_and(|held| held.agent_id != identity.agent_id) {
                // It may have joined another controller, and the numbers of that one are others.
                feed::begin_anew(&transaction)?;
            }
            save(&transaction, &identity)?;
            transaction.commit()?;
            save_copy(&copy, &identity);
            Ok(())
        })
        .await
    }
}

fn read_copy(path: &Path) -> anyhow::Result<Option<Identity>> {
    let Some(text) = data_dir::read_private(path)? else { return Ok(None) };
    serde_json::from_slice(text.as_bytes())
        .with_context(|| format!("{} is damaged", path.display()))
        .map(Some)
}

/// Writes the copy where it is another. A disk that does not take it costs nothing now: the next start tries again.
fn save_copy(path: &Path, identity: &Identity) {
    if read_copy(path).is_ok_and(|kept| kept.as_ref() == Some(identity)) {
        return;
    }
    let text = serde_json::to_string(identity).expect("an identity has names for keys");
    if let Err(error) = data_dir::write_private(path, &text) {
        log::warn!("who this agent is has no copy beside the database: {error:#}");
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
