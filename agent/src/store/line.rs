//! The line to the controller when it was last lost or found again, so that a restart knows since when the site is alone.

use pureboot_protocol::Timestamp;
use rusqlite::{OptionalExtension, Row, named_params};

use super::{Store, StoreError};
use crate::uplink::connectivity::Remembered;

impl Store {
    /// What was saved last.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn load_line(&self) -> Result<Remembered, StoreError> {
        self.run(|db| {
            let read = |row: &Row<'_>| {
                let time = |name| row.get::<_, Option<i64>>(name);
                Ok(Remembered {
                    offline_since: time("offline_since")?.map(Timestamp::from_unix_ms),
                    last_online_at: time("last_online_at")?.map(Timestamp::from_unix_ms),
                })
            };
            let line = db.query_row("SELECT * FROM line", [], read).optional()?;
            Ok(line.unwrap_or_default())
        })
        .await
    }

    /// Makes `line` what the next start finds.
    ///
    /// # Errors
    /// See [`StoreError`]; the next start finds what was saved before.
    pub async fn save_line(&self, line: Remembered) -> Result<(), StoreError> {
        self.run(move |db| {
            db.execute(
                "INSERT OR REPLACE INTO line (only_row, offline_since, last_online_at)
                 VALUES (1, :offline_since, :last_online_at)",
                named_params! {
                    ":offline_since": line.offline_since.map(Timestamp::unix_ms),
                    ":last_online_at": line.last_online_at.map(Timestamp::unix_ms),
                },
            )?;
            Ok(())
        })
        .await
    }
}
