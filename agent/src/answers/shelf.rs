//! Sheets, texts and what was given to whom, in `state/site.db`.

use std::collections::{BTreeMap, BTreeSet};

use pureboot_protocol::{
    AnswerSheet, ContentHash, FileName, Lifecycle, Mac, Secret, SheetQuestion, Timestamp,
};
use rusqlite::{Connection, OptionalExtension as _, Row, named_params};

use super::gate::{Asker, Given, Grant, Hidden, judge};
use super::sheet::{Texts, texts_of};
use crate::store::{Json, Store, StoreError, Word};

/// How many bytes sheets and texts may have together: a part of the database's own limit.
pub const SIZE_BYTES_MAX: u64 = 16 << 20;

/// A machine's sheet as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The sheet, without secrets.
    pub sheet: AnswerSheet,
    /// The secrets; none once they have been let go.
    pub secrets: Option<BTreeMap<String, Secret>>,
    /// What the controller calls the whole.
    pub digest: ContentHash,
    /// When it was asked for.
    pub asked_at: Timestamp,
}

impl Held {
    /// Whether nothing of what the controller sent is gone.
    pub fn is_whole(&self) -> bool {
        self.secrets.is_some()
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            sheet: row.get::<_, Json<_>>("sheet")?.0,
            secrets: row.get::<_, Option<Json<_>>>("secrets")?.map(|secrets| secrets.0),
            digest: row.get::<_, Word<_>>("digest")?.0,
            asked_at: Timestamp::from_unix_ms(row.get("asked_at")?),
        })
    }
}

/// The way to what is kept.
#[derive(Debug, Clone)]
pub struct Shelf {
    store: Store,
}

impl Shelf {
    /// In the site's database.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// The sheet of a machine. One that cannot be read is as good as none: the controller has it.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn held(&self, mac: Mac) -> Result<Option<Held>, StoreError> {
        self.store
            .run(move |db| {
                let mut sheet = db.prepare_cached("SELECT * FROM answer_sheets WHERE mac = ?1")?;
                Ok(readable(sheet.query_row([Word(mac)], Held::read).optional())?)
            })
            .await
    }

    /// Every sheet, in the order of the machines' addresses.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn all(&self) -> Result<Vec<Held>, StoreError> {
        self.store
            .run(|db| {
                let mut sheets = db.prepare("SELECT * FROM answer_sheets ORDER BY mac")?;
                let mut rows = sheets.query([])?;
                let mut all = Vec::new();
                while let Some(row) = rows.next()? {
                    all.extend(readable(Held::read(row).map(Some))?);
                }
                Ok(all)
            })
            .await
    }

    /// The texts of `sheet` that are here.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn texts(&self, sheet: &AnswerSheet) -> Result<Texts, StoreError> {
        let wanted: BTreeSet<_> = texts_of(sheet).collect();
        self.store
            .run(move |db| {
                let mut text =
                    db.prepare_cached("SELECT body FROM answer_texts WHERE sha256 = ?1")?;
                let mut texts = Texts::new();
                for hash in wanted {
                    let body = text.query_row([Word(hash)], |row| row.get(0)).optional()?;
                    texts.extend(body.map(|body| (hash, body)));
                }
                Ok(texts)
            })
            .await
    }

    /// The latest texts, as many as a question may name.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn text_names(&self) -> Result<Vec<ContentHash>, StoreError> {
        self.store
            .run(|db| {
                let sql = "SELECT sha256 FROM answer_texts ORDER BY number DESC LIMIT ?1";
                let mut names = db.prepare_cached(sql)?;
                let names = names.query_map([SheetQuestion::TEXTS_MAX], |row| {
                    row.get::<_, Word<ContentHash>>(0).map(|word| word.0)
                })?;
                Ok(names.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// Keeps `sheet` with `texts`, in place of the machine's former one, and lets texts go that no sheet names any more.
    ///
    /// # Errors
    /// [`StoreError::Full`] also where all that is kept would have more than [`SIZE_BYTES_MAX`]. The former sheet stands then.
    pub async fn put(
        &self,
        sheet: AnswerSheet,
        digest: ContentHash,
        texts: Texts,
        asked_at: Timestamp,
    ) -> Result<(), StoreError> {
        self.store
            .run(move |db| {
                let transaction = db.transaction()?;
                put(&transaction, sheet, digest, &texts, asked_at)?;
                if size(&transaction)? > SIZE_BYTES_MAX {
                    return Err(StoreError::Full);
                }
                Ok(transaction.commit()?)
            })
            .await
    }

    /// Forgets the secrets of all machines but these. The sheets stay.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn let_secrets_go(&self, but_of: BTreeSet<Mac>) -> Result<(), StoreError> {
        self.store
            .run(move |db| {
                let transaction = db.transaction()?;
                let with_secrets: Vec<Word<Mac>> = transaction
                    .prepare_cached("SELECT mac FROM answer_sheets WHERE secrets <> '{}'")?
                    .query_map([], |row| row.get(0))?
                    .collect::<Result<_, _>>()?;
                let sql = "UPDATE answer_sheets SET secrets = NULL WHERE mac = ?1";
                for Word(mac) in with_secrets {
                    if !but_of.contains(&mac) {
                        transaction.prepare_cached(sql)?.execute([Word(mac)])?;
                    }
                }
                Ok(transaction.commit()?)
            })
            .await
    }

    /// Lets one boot session of a machine have secrets, and no other from now on.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn grant(&self, mac: Mac, grant: Grant) -> Result<(), StoreError> {
        self.store
            .run(move |db| {
                let transaction = db.transaction()?;
                let Grant { session, address, granted_at } = grant;
                transaction
                    .prepare_cached(
                        "INSERT INTO answer_grants (mac, session, address, granted_at) VALUES (:mac, :session, :address, :at)
                         ON CONFLICT (mac) DO UPDATE SET session = :session, address = :address, granted_at = :at",
                    )?
                    .execute(named_params! {
                        ":mac": Word(mac),
                        ":session": Word(session),
                        ":address": address.to_string(),
                        ":at": granted_at.unix_ms(),
                    })?;
                transaction
                    .prepare_cached(
                        "DELETE FROM answer_givings WHERE session NOT IN (SELECT session FROM answer_grants)",
                    )?
                    .execute([])?;
                Ok(transaction.commit()?)
            })
            .await
    }

    /// Which boot session of a machine may have secrets.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn granted(&self, mac: Mac) -> Result<Option<Grant>, StoreError> {
        self.store.run(move |db| Ok(load_grant(db, mac)?)).await
    }

    /// Whether `asker` gets `file` of a machine in `state` with its secrets. If so, and it is `taken`, that is on disk when this returns.
    ///
    /// # Errors
    /// See [`StoreError`]; then it must not be given.
    pub async fn open(
        &self,
        mac: Mac,
        file: FileName,
        asker: Asker,
        state: Option<Lifecycle>,
        now: Timestamp,
        taken: bool,
    ) -> Result<Result<(), Hidden>, StoreError> {
        self.store
            .run(move |db| {
                let transaction = db.transaction()?;
                let grant = load_grant(&transaction, mac)?;
                let given = match &grant {
                    Some(grant) => load_given(&transaction, grant, &file)?,
                    None => None,
                };
                let verdict = judge(&asker, state, grant.as_ref(), given, now);
                if let (Ok(()), Some(grant), true) = (&verdict, &grant, taken) {
                    transaction
                        .prepare_cached(
                            "INSERT INTO answer_givings (session, file, first_at, times) VALUES (?1, ?2, ?3, 1)
                             ON CONFLICT (session, file) DO UPDATE SET times = times + 1",
                        )?
                        .execute((Word(grant.session), file.as_str(), now.unix_ms()))?;
                }
                transaction.commit()?;
                Ok(verdict)
            })
            .await
    }
}

fn put(
    db: &Connection,
    mut sheet: AnswerSheet,
    digest: ContentHash,
    texts: &Texts,
    asked_at: Timestamp,
) -> rusqlite::Result<()> {
    let mac = sheet.mac_address;
    let secrets = std::mem::take(&mut sheet.secrets);
    db.prepare_cached(
            "INSERT INTO answer_sheets (mac, sheet, secrets, digest, asked_at) VALUES (:mac, :sheet, :secrets, :digest, :asked_at)
             ON CONFLICT (mac) DO UPDATE SET sheet = :sheet, secrets = :secrets, digest = :digest, asked_at = :asked_at",
    )?
        .execute(named_params! {
            ":mac": Word(mac),
            ":sheet": Json(&sheet),
            ":secrets": Json(&secrets),
            ":digest": Word(digest),
            ":asked_at": asked_at.unix_ms(),
        })?;
    db.prepare_cached("DELETE FROM answer_uses WHERE mac = ?1")?.execute([Word(mac)])?;
    let mut using =
        db.prepare_cached("INSERT OR IGNORE INTO answer_uses (mac, sha256) VALUES (?1, ?2)")?;
    let mut keeping =
        db.prepare_cached("INSERT OR IGNORE INTO answer_texts (sha256, body) VALUES (?1, ?2)")?;
    for hash in texts_of(&sheet) {
        using.execute((Word(mac), Word(hash)))?;
        if let Some(body) = texts.get(&hash) {
            keeping.execute((Word(hash), body))?;
        }
    }
    db.prepare_cached(
        "DELETE FROM answer_texts WHERE sha256 NOT IN (SELECT sha256 FROM answer_uses)",
    )?
    .execute([])?;
    Ok(())
}

fn size(db: &Connection) -> rusqlite::Result<u64> {
    let sql = "SELECT (SELECT coalesce(sum(length(CAST(body AS BLOB))), 0) FROM answer_texts)
        + (SELECT coalesce(sum(length(CAST(sheet AS BLOB)) + coalesce(length(CAST(secrets AS BLOB)), 0)), 0) FROM answer_sheets)";
    db.prepare_cached(sql)?.query_row([], |row| row.get(0))
}

fn load_grant(db: &Connection, mac: Mac) -> rusqlite::Result<Option<Grant>> {
    let read = |row: &Row<'_>| {
        let address: String = row.get("address")?;
        Ok(address.parse().ok().map(|address| {
            Ok::<_, rusqlite::Error>(Grant {
                session: row.get::<_, Word<_>>("session")?.0,
                address,
                granted_at: Timestamp::from_unix_ms(row.get("granted_at")?),
            })
        }))
    };
    let mut grant = db.prepare_cached("SELECT * FROM answer_grants WHERE mac = ?1")?;
    grant.query_row([Word(mac)], read).optional()?.flatten().transpose()
}

fn load_given(db: &Connection, grant: &Grant, file: &FileName) -> rusqlite::Result<Option<Given>> {
    let sql = "SELECT first_at, times FROM answer_givings WHERE session = ?1 AND file = ?2";
    let read = |row: &Row<'_>| {
        Ok(Given { first_at: Timestamp::from_unix_ms(row.get(0)?), times: row.get(1)? })
    };
    db.prepare_cached(sql)?.query_row((Word(grant.session), file.as_str()), read).optional()
}

/// A row that cannot be read is as good as none.
fn readable<T>(result: rusqlite::Result<Option<T>>) -> rusqlite::Result<Option<T>> {
    match result {
        // What the error says may repeat what was read.
        Err(error) if error.sqlite_error_code().is_none() => {
            log::error!("an answer sheet cannot be read; the controller will be asked for it anew");
            Ok(None)
        }
        result => result,
    }
}

#[cfg(test)]
mod tests;
