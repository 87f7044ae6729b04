//! `backup` and `restore`: all that a controller keeps, as one file.
//!
//! `archive` knows the file and not what is in it, `swap` lets files take the places of others at once, `progress` tells a
//! terminal how far it is; the rows are read and stored by the database's own `dump` and `load`. The order here is the order
//! of safety: a backup is written beside its name and renamed when it is whole and durable; a restore reads the whole file
//! before it touches anything, makes the new database beside the old one, and lets it count in one step.

mod archive;
mod progress;
mod swap;

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use axum::body::Bytes;
use futures_util::StreamExt;
use pureboot_protocol::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::audit::{Actor, Entry};
use crate::config::{self, BackupArguments, ContentPlace, Database, RestoreArguments};
use crate::content::{Location, Objects, Signer};
use crate::data_dir::{DataDir, secrets_key};
use crate::people::{CORRELATION_ID, system_user};
use crate::store::{KeptObject, Loading, Snapshot};
use crate::{now, print_line, vault};

use archive::{MANIFEST, Manifest, Member, Writer};
use progress::Progress;

/// The version of what is in a backup.
const FORMAT: u32 = 1;
/// About how long a member with rows is, in bytes: what is kept in memory at a time.
const ROWS_LEN: usize = 1 << 20;
/// The longest member with rows or a key that is read, in bytes.
const MEMBER_LEN_MAX: u64 = 64 << 20;
/// What is written to the disk at once, in bytes.
const WRITE_LEN: usize = 1 << 20;
/// The folders of the archive.
const ROWS: &str = "database/";
const KEYS: &str = "keys/";
const CONTENT: &str = "content/";
/// The keys, by their names in the archive and in a data directory.
const SIGNING_KEY: &str = "signing-key";
const SECRETS_KEY: &str = "secrets.key";

/// What a backup says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct About {
    format: u32,
    made_at: Timestamp,
    program_version: String,
    /// Which database it came from, for people.
    database: String,
    /// The steps that have led to its schema.
    schema_steps: Vec<i64>,
    with_content: bool,
    /// Each table with the columns that its rows have, in order.
    tables: BTreeMap<String, Vec<String>>,
}

/// Where a controller keeps what is its own.
struct Places {
    data_dir: PathBuf,
    content: ContentPlace,
    signing_key: PathBuf,
    secrets_key: PathBuf,
}

impl Places {
    fn new(
        data_dir: &Path,
        content: Option<ContentPlace>,
        signing_key: Option<PathBuf>,
        secrets_key: Option<PathBuf>,
    ) -> Self {
        let own = |name| data_dir.join(name);
        Self {
            content: content.unwrap_or_else(|| ContentPlace::Dir(own("content"))),
            signing_key: signing_key.unwrap_or_else(|| own(SIGNING_KEY)),
            secrets_key: secrets_key.unwrap_or_else(|| own(SECRETS_KEY)),
            data_dir: data_dir.to_owned(),
        }
    }

    /// The files of the keys by their names in the archive.
    fn keys(&self) -> [(&'static str, &Path); 2] {
        [(SIGNING_KEY, &self.signing_key), (SECRETS_KEY, &self.secrets_key)]
    }
}

/// What of the rows matters beside the database.
#[derive(Debug, Default)]
struct Noted {
    installation: Option<String>,
    signing_key: Option<String>,
    secrets_key_hash: Option<String>,
    /// The bytes of content by their hash.
    objects: HashMap<String, (Location, u64)>,
    rows: u64,
}

impl Noted {
    fn note(&mut self, table: &str, columns: &[String], row: &[Value]) {
        self.rows += 1;
        let value = |name| row.get(columns.iter().position(|column| column == name)?);
        let text = |name| value(name).and_then(Value::as_str).map(str::to_owned);
        match table {
            "installation" => {
                self.installation = text("id");
                self.secrets_key_hash = text("secrets_key_hash");
            }
            "signing_key" => self.signing_key = text("public_key"),
            "objects" => {
                let size = value("size_bytes").and_then(Value::as_u64);
                if let (Some(sha256), Some(place), Some(size)) =
                    (text("sha256"), text("location"), size)
                {
                    self.objects.insert(sha256, (Location::kept(place), size));
                }
            }
            _ => {}
        }
    }
}

/// Does what `backup` says.
///
/// # Errors
/// It cannot be done, and the file is what it was.
pub(crate) async fn run_backup(arguments: BackupArguments) -> anyhow::Result<()> {
    let BackupArguments { file, force, without_content, data_dir, database, .. } = arguments;
    let places = Places::new(
        &data_dir,
        arguments.content,
        arguments.signing_key_file,
        arguments.secrets_key_file,
    );
    may_write(&file, force)?;
    let database = config::database(database.as_deref())?;
    let owned = match &database {
        Some(Database::Server(_)) => DataDir::make(&data_dir)?,
        Some(Database::File(_)) | None => DataDir::existing(&data_dir, database.as_ref())?,
    };
    let database = owned.database(database.as_ref())?;
    let partial = file.with_added_extension("partial");
    let written = write(&partial, &places, &database, !without_content).await;
    let summary = match written.and_then(|summary| may_write(&file, force).map(|()| summary)) {
        Ok(summary) => summary,
        Err(error) => {
            _ = std::fs::remove_file(&partial);
            return Err(error);
        }
    };
    let named = std::fs::rename(&partial, &file).and_then(|()| swap::sync_parent(&file));
    named.with_context(|| format!("cannot name the backup {}", file.display()))?;
    print_line(&format!("{}: {summary}", file.display()))
}

/// Refuses to take the place of what somebody may want to keep, and of what is no file at all, such as a device or a link.
fn may_write(file: &Path, force: bool) -> anyhow::Result<()> {
    let there = match std::fs::symlink_metadata(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        there => there.with_context(|| format!("cannot look at {}", file.display()))?,
    };
    ensure!(
        there.is_file(),
        "{} is there and is no file, so it is left as it is; name a file",
        file.display()
    );
    ensure!(force, "{} is there already; --force replaces it", file.display());
    Ok(())
}

/// Writes a backup to `path`, durably; answers what is in it.
async fn write(
    path: &Path,
    places: &Places,
    database: &Database,
    with_content: bool,
) -> anyhow::Result<String> {
    let snapshot = Snapshot::begin(database).await;
    let mut snapshot = snapshot.with_context(|| format!("cannot read the database {database}"))?;
    _ = std::fs::remove_file(path);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let file = file.with_context(|| format!("cannot write {}", path.display()))?;
    let mut writer = Writer::new(BufWriter::with_capacity(WRITE_LEN, file));
    let mut progress = Progress::new("writing");
    let mut about = About {
        format: FORMAT,
        made_at: now(),
        program_version: env!("CARGO_PKG_VERSION").to_owned(),
        database: snapshot.kind().to_owned(),
        schema_steps: snapshot.steps().await?,
        with_content,
        tables: BTreeMap::new(),
    };
    let mut noted = Noted::default();
    for table in snapshot.tables().await? {
        let columns = table.columns();
        let mut rows = Rows::new(&table.name);
        snapshot
            .rows(&table, |row| {
                noted.note(&table.name, &columns, &row);
                progress.add(rows.add(&row, &mut writer)?);
                Ok(())
            })
            .await
            .with_context(|| format!("cannot copy the table {}", table.name))?;
        rows.flush(&mut writer)?;
        about.tables.insert(table.name, columns);
    }
    let objects = if with_content { snapshot.objects().await? } else { Vec::new() };
    snapshot.end().await;
    check_keys(places, &noted)?;
    for (name, path) in places.keys() {
        let key = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        writer.add(&format!("{KEYS}{name}"), &key)?;
    }
    let store = Objects::open(&places.content)?;
    for object in &objects {
        copy(&store, object, &mut writer, &mut progress).await?;
    }
    let mut file = writer.finish(&about)?;
    file.flush()?;
    file.get_ref().sync_all()?;
    let size = file.get_ref().metadata()?.len();
    progress.end();
    Ok(format!(
        "{} rows of {} tables, 2 keys, {}; {size} bytes",
        noted.rows,
        about.tables.len(),
        if with_content {
            format!("{} files of content", objects.len())
        } else {
            "no content".to_owned()
        },
    ))
}

/// Refuses keys that are not the database's: with them the backup would be of no use.
fn check_keys(places: &Places, noted: &Noted) -> anyhow::Result<()> {
    let path = &places.signing_key;
    let signer = Signer::load(path)?;
    let signer = signer.with_context(|| {
        format!("there is no {}; name the file with --signing-key-file", path.display())
    })?;
    ensure!(
        noted.signing_key.as_ref().is_none_or(|key| *key == signer.public().to_string()),
        "{} is not the signing key of this database; name the right file with --signing-key-file",
        path.display()
    );
    let path = &places.secrets_key;
    let key = secrets_key::load(path)?;
    let key = key.with_context(|| {
        format!("there is no {}; name the file with --secrets-key-file", path.display())
    })?;
    ensure!(
        noted.secrets_key_hash.as_ref().is_none_or(|hash| *hash == vault::hash(&key)),
        "{} is not the key of this database's secrets; name the right file with --secrets-key-file",
        path.display()
    );
    Ok(())
}

/// Rows of one table on their way into members.
struct Rows<'a> {
    table: &'a str,
    number: u32,
    text: Vec<u8>,
}

impl<'a> Rows<'a> {
    fn new(table: &'a str) -> Self {
        Self { table, number: 0, text: Vec::new() }
    }

    /// Adds a row; answers how many bytes it has.
    fn add(&mut self, row: &[Value], writer: &mut Writer<impl Write>) -> anyhow::Result<u64> {
        let before = self.text.len();
        serde_json::to_writer(&mut self.text, row).context("cannot write a row")?;
        self.text.push(b'\n');
        let len = self.text.len() - before;
        if self.text.len() >= ROWS_LEN {
            self.flush(writer)?;
        }
        Ok(u64::try_from(len).unwrap_or_default())
    }

    fn flush(&mut self, writer: &mut Writer<impl Write>) -> anyhow::Result<()> {
        if !self.text.is_empty() {
            self.number += 1;
            let name = format!("{ROWS}{}/{:06}.jsonl", self.table, self.number);
            writer.add(&name, &self.text)?;
            self.text.clear();
        }
        Ok(())
    }
}

/// Copies the bytes of `object` into the archive.
async fn copy(
    store: &Objects,
    object: &KeptObject,
    writer: &mut Writer<impl Write>,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let KeptObject { sha256, size_bytes, location } = object;
    let failed = || format!("cannot copy the content {sha256}; --without-content leaves it out");
    let mut bytes = store.read(location, 0..*size_bytes).await.with_context(failed)?;
    let mut hash = Sha256::new();
    writer.begin(&format!("{CONTENT}{sha256}"), *size_bytes)?;
    while let Some(chunk) = bytes.next().await {
        let chunk = chunk.with_context(failed)?;
        hash.update(&chunk);
        writer.write(&chunk)?;
        progress.add(u64::try_from(chunk.len()).unwrap_or_default());
    }
    writer.end().with_context(failed)?;
    ensure!(
        format!("{:x}", hash.finalize()) == sha256.to_string(),
        "the content {sha256} has come to harm where it is kept: upload it again or delete it; --without-content leaves all out"
    );
    Ok(())
}

/// Ends a restore that was cut short after the step from which on it counts, and removes what one that was cut short before it
/// has left beside the `keys` and the `database`.
///
/// # Errors
/// A file cannot be moved into its place, or be removed.
pub(crate) fn finish_restore(
    data_dir: &Path,
    keys: &[&Path],
    database: Option<&Database>,
) -> anyhow::Result<()> {
    if swap::finish(data_dir)? {
        tracing::warn!("a restore was cut short; its last step is done now");
    }
    let file = match database {
        Some(Database::File(path)) => Some(path.clone()),
        Some(Database::Server(_)) => None,
        None => Some(data_dir.join("controller.db")),
    };
    let keys = keys.iter().map(|path| path.to_path_buf());
    let places: Vec<_> = keys.chain(file).chain([swap::list(data_dir)]).collect();
    for left in swap::sweep(&places)? {
        let left = left.display();
        tracing::warn!("a restore was killed before it counted; what it left is removed: {left}");
    }
    Ok(())
}

/// Does what `restore` says.
///
/// # Errors
/// It cannot be done. Database and keys are then what they were, or, once they began to be replaced, will be the new ones at
/// the next start.
pub(crate) async fn run_restore(arguments: RestoreArguments) -> anyhow::Result<()> {
    let RestoreArguments { file: path, force, check, data_dir, database, .. } = arguments;
    let places = Places::new(
        &data_dir,
        arguments.content,
        arguments.signing_key_file,
        arguments.secrets_key_file,
    );
    let mut file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let manifest = verify(&file).with_context(|| format!("cannot use {}", path.display()))?;
    let About { made_at, format, .. } = &manifest.about;
    ensure!(
        *format == FORMAT,
        "{} is of the format {format}, and this version knows {FORMAT}; restore it with the version that made it",
        path.display()
    );
    if check {
        return print_line(&format!("{}: whole, of {made_at}", path.display()));
    }
    let owned = DataDir::make(&data_dir)?;
    let _lock = owned.lock()?;
    let database = config::database(database.as_deref())?;
    let keys = places.keys().map(|(_, path)| path);
    finish_restore(&data_dir, &keys, database.as_ref())?;
    let database = database.unwrap_or_else(|| Database::File(data_dir.join("controller.db")));
    let mut replaced: Vec<PathBuf> = places.keys().map(|(_, path)| path.to_owned()).to_vec();
    if let Database::File(path) = &database {
        replaced.push(path.clone());
    }
    may_replace(&replaced, force)?;
    file.rewind()?;
    let noted = fill(file, &manifest, &places, &database, force).await;
    let noted = match noted {
        Ok(noted) => noted,
        Err(error) => {
            replaced.iter().for_each(|place| _ = swap::clear(place));
            return Err(error.context("nothing was restored"));
        }
    };
    swap::commit(&places.data_dir, &replaced)?;
    print_line(&format!(
        "restored {} rows and {} files of content, as they were on {made_at}",
        noted.rows,
        if manifest.about.with_content { noted.objects.len() } else { 0 },
    ))?;
    print_line(
        "accounts, tokens and agents that were ended since then are as they were: look with `token list`, `user list`; agents that \
         joined or changed their credential since then join again",
    )
}

fn verify(file: &File) -> anyhow::Result<Manifest<About>> {
    let size = file.metadata()?.len();
    let mut progress = Progress::new("checking");
    let whole = BufReader::with_capacity(WRITE_LEN, file).take(size);
    archive::verify(whole, size, move |bytes| progress.add(bytes))
}

fn may_replace(places: &[PathBuf], force: bool) -> anyhow::Result<()> {
    for place in places {
        let len = match place.metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
            metadata => {
                metadata.with_context(|| format!("cannot look at {}", place.display()))?.len()
            }
        };
        ensure!(force || len == 0, "{} is there already; --force replaces it", place.display());
    }
    Ok(())
}

/// Makes the new database and the new keys beside the old ones, or, of PostgreSQL, in their place; brings content back.
async fn fill(
    file: File,
    manifest: &Manifest<About>,
    places: &Places,
    database: &Database,
    force: bool,
) -> anyhow::Result<Noted> {
    let target = match database {
        Database::File(path) => {
            swap::stage(path, b"")?;
            Database::File(swap::staged(path))
        }
        Database::Server(url) => Database::Server(url.clone()),
    };
    let loading = Loading::begin(&target, &manifest.about.schema_steps, force).await;
    let mut loading = loading.with_context(|| format!("cannot fill the database {database}"))?;
    let objects = Objects::open(&places.content)?;
    let mut noted = Noted::default();
    let mut table = "";
    let mut progress = Progress::new("restoring");
    let mut members = manifest.members.iter();
    let mut archive = tar::Archive::new(BufReader::with_capacity(WRITE_LEN, file));
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if name == MANIFEST {
            break;
        }
        let member = members.next().filter(|member| member.name == name);
        let member = member.context("the file has changed since it was checked")?;
        progress.add(member.size_bytes);
        if let Some(sha256) = name.strip_prefix(CONTENT) {
            bring_back(&objects, sha256, &noted, &mut entry).await?;
            continue;
        }
        let bytes = read(&mut entry, member)?;
        if let Some(key) = name.strip_prefix(KEYS) {
            let known = places.keys().into_iter().find(|(name, _)| *name == key);
            let (_, path) = known.with_context(|| format!("there is no key called {key}"))?;
            swap::stage(path, &bytes)?;
            // The rows are all there: from here on the place of content is this database's.
            if let Some(installation) = &noted.installation {
                objects.claim(installation).await?;
            }
            continue;
        }
        let of = name.strip_prefix(ROWS).and_then(|rest| rest.split('/').next());
        let of = of.with_context(|| format!("{name} is nothing that a backup holds"))?;
        let known = manifest.about.tables.get_key_value(of);
        let (of, columns) = known.with_context(|| format!("the columns of {of} are not known"))?;
        if table != of {
            loading.table(of, columns).await?;
            table = of;
        }
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let row: Vec<Value> =
                serde_json::from_slice(line).with_context(|| format!("{name} is damaged"))?;
            noted.note(of, columns, &row);
            loading.row(row).await?;
        }
    }
    if !manifest.about.with_content {
        tell_missing(&objects, &noted).await;
    }
    let actor = Actor::command_line(system_user());
    let mut entry = Entry::new(now(), actor, "restore", CORRELATION_ID);
    entry.detail = Some(json!({"made_at": manifest.about.made_at}));
    loading.finish(&entry).await.with_context(|| format!("cannot fill the database {database}"))?;
    progress.end();
    Ok(noted)
}

/// The bytes of a member, as they were when the file was checked.
fn read(entry: &mut impl Read, member: &Member) -> anyhow::Result<Vec<u8>> {
    ensure!(member.size_bytes <= MEMBER_LEN_MAX, "{} is too long", member.name);
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes)?;
    let sha256 = format!("{:x}", Sha256::digest(&bytes));
    ensure!(sha256 == member.sha256, "{} has changed since it was checked", member.name);
    Ok(bytes)
}

/// Stores the bytes with the hash `sha256` where the database knows them to be, also over what is there: it may be what has come
/// to harm.
async fn bring_back(
    objects: &Objects,
    sha256: &str,
    noted: &Noted,
    bytes: &mut impl Read,
) -> anyhow::Result<()> {
    let known = noted.objects.get(sha256);
    let (location, _) = known.with_context(|| format!("no row knows the content {sha256}"))?;
    let mut writer = objects.begin_at(location.clone());
    let mut hash = Sha256::new();
    let mut buffer = vec![0; WRITE_LEN];
    loop {
        let read = bytes.read(&mut buffer)?;
        let chunk = buffer.get(..read).unwrap_or_default();
        if chunk.is_empty() {
            break;
        }
        hash.update(chunk);
        writer.write(Bytes::copy_from_slice(chunk)).await?;
    }
    if format!("{:x}", hash.finalize()) != sha256 {
        writer.abort().await;
        bail!("the content {sha256} has changed since it was checked");
    }
    writer.finish().await?;
    Ok(())
}

/// Says how much of the content that the database knows is not in its place.
async fn tell_missing(objects: &Objects, noted: &Noted) {
    let mut missing = 0;
    for (location, size) in noted.objects.values() {
        missing += u64::from(!objects.is_whole(location, *size).await);
    }
    if missing > 0 {
        tracing::warn!(
            "{missing} files of content are not in their place: the backup was made without content"
        );
    }
}

#[cfg(test)]
mod tests;
