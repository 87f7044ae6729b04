//! Where bytes are kept: a directory, or a bucket of a store that speaks S3.
//!
//! Every upload gets a place of its own, which the database learns together with the hash. So a place is written once, appears
//! whole or not at all, and is never the place of anything else: nothing that is deleted can take away what was just stored.

use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use axum::body::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{
    ClientOptions, Error, GetOptions, GetRange, GetResultPayload, MultipartUpload, ObjectStore,
    ObjectStoreExt, PutMode, PutOptions, PutPayload,
};

use crate::config::ContentPlace;
use crate::random;

/// What is handed to a directory at once, in bytes.
const DIR_PART_LEN: usize = 1 << 20;
/// The part of an S3 upload, in bytes: S3 takes 10,000 of them, none but the last below 5 MiB.
const S3_PART_LEN: usize = 16 << 20;
/// What is read of a file at once, in bytes.
const READ_LEN: usize = 256 << 10;
/// How long an S3 store may be silent.
const S3_SILENCE_MAX: Duration = Duration::from_secs(30);
/// What the files of a directory lie under, and the keys of a bucket.
const FOLDER: &str = "objects";
/// The key of the mark that says which database the place belongs to.
const OWNER: &str = "owner";
/// Longer than any mark, in bytes.
const OWNER_LEN_MAX: u64 = 256;

/// Why bytes cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ObjectError {
    /// There is no room.
    #[error("there is no space left for content: {0}")]
    Full(String),
    /// Anything else.
    #[error("the content store does not do its part: {0}")]
    Failed(String),
}

impl From<Error> for ObjectError {
    fn from(error: Error) -> Self {
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(cause) = source {
            if let Some(io) = cause.downcast_ref::<io::Error>()
                && matches!(io.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            {
                return Self::Full(io.to_string());
            }
            source = cause.source();
        }
        Self::Failed(error.to_string())
    }
}

/// The place of one object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Location(String);

impl Location {
    /// A place that nothing has had before.
    fn new() -> Self {
        let bytes: [u8; 16] = random::bytes();
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let shard: String = digits.chars().take(2).collect();
        Self(format!("{shard}/{digits}"))
    }

    /// The place as the database has it.
    pub(crate) fn kept(text: String) -> Self {
        Self(text)
    }

    /// What the database keeps.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    fn path(&self) -> Path {
        Path::from_iter([FOLDER].into_iter().chain(self.0.split('/')))
    }
}

/// Bytes by their places. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Objects {
    store: Arc<dyn ObjectStore>,
    part_len: usize,
    /// The directory, if it is one.
    dir: Option<PathBuf>,
    /// What people know the place by.
    shown: String,
}

impl Objects {
    /// Opens `place`; a directory is made, for the owner alone, if it is not there.
    ///
    /// # Errors
    /// It cannot be used; the text names it.
    pub(crate) fn open(place: &ContentPlace) -> anyhow::Result<Self> {
        match place {
            ContentPlace::Dir(dir) => {
                let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
                made.with_context(|| format!("cannot make {} for content", dir.display()))?;
                let store = LocalFileSystem::new_with_prefix(dir)
                    .with_context(|| format!("cannot use {} for content", dir.display()))?;
                // Synced file, rename, synced directory (FAULTS K13), before the row that names it.
                let store = Arc::new(store.with_fsync(true));
                let shown = dir.display().to_string();
                Ok(Self { store, part_len: DIR_PART_LEN, dir: Some(dir.clone()), shown })
            }
            ContentPlace::S3 { bucket, prefix } => {
                let client = ClientOptions::new()
                    .with_timeout_disabled()
                    .with_read_timeout(S3_SILENCE_MAX)
                    // Whoever gives an endpoint without TLS has seen it.
                    .with_allow_http(true);
                // The library takes the process's provider; none but ring is built in.
                _ = rustls::crypto::ring::default_provider().install_default();
                let s3 = AmazonS3Builder::from_env()
                    .with_client_options(client)
                    .with_bucket_name(bucket)
                    .build()
                    .with_context(|| format!("cannot use s3://{bucket} for content"))?;
                let store = Arc::new(PrefixStore::new(s3, prefix.as_str()));
                let shown = format!("s3://{bucket}/{prefix}");
                Ok(Self { store, part_len: S3_PART_LEN, dir: None, shown })
            }
        }
    }

    /// Marks the place as that of the database `installation`, so that no other one takes what is here for strays.
    ///
    /// # Errors
    /// It is another one's, or cannot be read or written.
    pub(crate) async fn claim(&self, installation: &str) -> anyhow::Result<()> {
        let path = Path::from(OWNER);
        let mark = || PutPayload::from(format!("{installation}\n").into_bytes());
        let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let put = match self.store.put_opts(&path, mark(), create).await {
            // Some stores that speak S3 know no conditions.
            Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => {
                match self.store.head(&path).await {
                    Err(Error::NotFound { .. }) => self.store.put(&path, mark()).await.map(|_| ()),
                    found => found.map(|_| ()),
                }
            }
            Err(Error::AlreadyExists { .. }) => Ok(()),
            put => put.map(|_| ()),
        };
        put.with_context(|| format!("cannot mark {} as this database's", self.shown))?;
        let kept = self.store.get(&path).await.with_context(|| format!("cannot read {path}"))?;
        ensure!(kept.meta.size <= OWNER_LEN_MAX, "{path} in {} is no mark", self.shown);
        let kept = kept.bytes().await.with_context(|| format!("cannot read {path}"))?;
        let owner = String::from_utf8_lossy(&kept);
        let owner = owner.trim();
        ensure!(
            owner == installation,
            "the content in {} belongs to the database {owner}, and this one is {installation}: two would delete each other's \
             files. Give this one a place of its own with --content; if the other is gone for good, delete the file '{OWNER}' \
             there",
            self.shown
        );
        Ok(())
    }

    /// Begins to keep bytes.
    pub(crate) fn begin(&self) -> Writer {
        self.begin_at(Location::new())
    }

    /// Begins to keep bytes that a backup knows to be at `location`.
    pub(crate) fn begin_at(&self, location: Location) -> Writer {
        Writer {
            objects: self.clone(),
            location,
            pending: Vec::new(),
            pending_len: 0,
            multipart: None,
        }
    }

    /// Whether there are `size_bytes` at `location`.
    pub(crate) async fn is_whole(&self, location: &Location, size_bytes: u64) -> bool {
        self.store.head(&location.path()).await.is_ok_and(|meta| meta.size == size_bytes)
    }

    /// Reads the bytes of `range` at `location`; nothing is read of an empty one.
    ///
    /// # Errors
    /// They are not there.
    pub(crate) async fn read(
        &self,
        location: &Location,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, ObjectError>>, ObjectError> {
        if range.is_empty() {
            return Ok(stream::empty().boxed());
        }
        let range = Some(GetRange::Bounded(range));
        let options = GetOptions { range, ..GetOptions::default() };
        let result = self.store.get_opts(&location.path(), options).await?;
        let range = result.range.clone();
        Ok(match result.payload {
            GetResultPayload::File(file, _) => read_file(file, range).boxed(),
            GetResultPayload::Stream(stream) => stream.map(|bytes| Ok(bytes?)).boxed(),
        })
    }

    /// Deletes what is at `location`; what is not there is deleted already.
    ///
    /// # Errors
    /// It cannot be deleted.
    pub(crate) async fn delete(&self, location: &Location) -> Result<(), ObjectError> {
        match self.store.delete(&location.path()).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes what was stored before `before` at a place that is not in `known`, and what uploads that were cut short before
    /// then have left. Answers how many were deleted.
    ///
    /// # Errors
    /// The store cannot be listed, or something cannot be deleted.
    pub(crate) async fn sweep(
        &self,
        known: &HashSet<Location>,
        before: SystemTime,
    ) -> Result<usize, ObjectError> {
        let folder = Path::from(FOLDER);
        let mut swept = 0;
        let mut listed = self.store.list(Some(&folder));
        while let Some(meta) = listed.next().await {
            let meta = meta?;
            let Some(parts) = meta.location.prefix_match(&folder) else { continue };
            let parts: Vec<_> = parts.map(|part| part.as_ref().to_owned()).collect();
            let location = Location(parts.join("/"));
            if SystemTime::from(meta.last_modified) < before && !known.contains(&location) {
                self.delete(&location).await?;
                swept += 1;
            }
        }
        let Some(dir) = self.dir.clone() else { return Ok(swept) };
        let staged = tokio::task::spawn_blocking(move || sweep_staged(&dir.join(FOLDER), before));
        Ok(swept + staged.await.unwrap_or_default())
    }
}

/// Deletes the files, `place#number`, in which a directory store collects what is not whole yet; the store itself hides them.
fn sweep_staged(folder: &std::path::Path, before: SystemTime) -> usize {
    let entries = |dir: &std::path::Path| std::fs::read_dir(dir).into_iter().flatten().flatten();
    let files = entries(folder).flat_map(|shard| entries(&shard.path()).collect::<Vec<_>>());
    let is_stale = |file: &std::fs::DirEntry| {
        let modified = file.metadata().and_then(|metadata| metadata.modified());
        file.file_name().to_string_lossy().contains('#')
            && modified.is_ok_and(|modified| modified < before)
    };
    files.filter(is_stale).filter(|file| std::fs::remove_file(file.path()).is_ok()).count()
}

/// Reads a file in pieces, each on a thread that may block.
fn read_file(
    file: std::fs::File,
    range: Range<u64>,
) -> impl futures_util::Stream<Item = Result<Bytes, ObjectError>> {
    let failed = |error: &dyn std::fmt::Display| ObjectError::Failed(error.to_string());
    stream::try_unfold((Arc::new(file), range), move |(file, rest)| async move {
        if rest.is_empty() {
            return Ok(None);
        }
        let len = usize::try_from(rest.end - rest.start).unwrap_or(READ_LEN).min(READ_LEN);
        let (reader, start) = (Arc::clone(&file), rest.start);
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; len];
            reader.read_exact_at(&mut bytes, start).map(|()| bytes)
        });
        let bytes = read.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        let rest = rest.start + u64::try_from(len).unwrap_or(u64::MAX)..rest.end;
        Ok(Some((Bytes::from(bytes), (file, rest))))
    })
}

/// Bytes that are being kept. What is neither finished nor aborted leaves no object.
pub(crate) struct Writer {
    objects: Objects,
    location: Location,
    pending: Vec<Bytes>,
    pending_len: usize,
    /// Begun with the first part that is full.
    multipart: Option<Box<dyn MultipartUpload>>,
}

impl Writer {
    /// Takes the next bytes; returns when there is room for more.
    ///
    /// # Errors
    /// They cannot be kept; abort.
    pub(crate) async fn write(&mut self, mut bytes: Bytes) -> Result<(), ObjectError> {
        while !bytes.is_empty() {
            let room = self.objects.part_len - self.pending_len;
            let now = bytes.split_to(room.min(bytes.len()));
            self.pending_len += now.len();
            self.pending.push(now);
            if self.pending_len == self.objects.part_len {
                self.put_part().await?;
            }
        }
        Ok(())
    }

    async fn put_part(&mut self) -> Result<(), ObjectError> {
        self.pending_len = 0;
        let payload = PutPayload::from_iter(std::mem::take(&mut self.pending));
        let multipart = match &mut self.multipart {
            Some(multipart) => multipart,
            None => {
                let begun = self.objects.store.put_multipart(&self.location.path()).await?;
                self.multipart.insert(begun)
            }
        };
        Ok(multipart.put_part(payload).await?)
    }

    /// Makes all that was taken one object, whole and durable.
    ///
    /// # Errors
    /// It cannot be kept, and nothing is.
    pub(crate) async fn finish(mut self) -> Result<Location, ObjectError> {
        let finished = self.publish().await;
        if let Err(error) = finished {
            self.abort().await;
            return Err(error);
        }
        Ok(self.location)
    }

    async fn publish(&mut self) -> Result<(), ObjectError> {
        if self.multipart.is_none() {
            let payload = PutPayload::from_iter(std::mem::take(&mut self.pending));
            self.objects.store.put(&self.location.path(), payload).await?;
            return Ok(());
        }
        if self.pending_len > 0 {
            self.put_part().await?;
        }
        if let Some(multipart) = &mut self.multipart {
            multipart.complete().await?;
        }
        Ok(())
    }

    /// Lets go of all that was taken.
    pub(crate) async fn abort(mut self) {
        if let Some(multipart) = &mut self.multipart
            && let Err(error) = multipart.abort().await
        {
            tracing::debug!(error = %error, "an upload was over before it was taken back: {error}");
        }
        // A directory store that fails to publish leaves what it collected, on a disk that may be full.
        if let Some(dir) = &self.objects.dir {
            let staged = dir.join(FOLDER).join(format!("{}#1", self.location.as_str()));
            _ = tokio::fs::remove_file(staged).await;
        }
    }
}

#[cfg(test)]
mod tests;
