//! Content on its way into the cache: temporary file, hash, fsync, rename, fsync of the directory, row.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use hyper::body::Bytes;
use pureboot_protocol::{ContentKey, Timestamp};
use smol::stream::{Stream, StreamExt};

use crate::clock;

use super::chunks::{ChunkList, ListMaker};
use super::files::{Files, Space};
use super::index::Row;
use super::sound::{Identity, Soundness};
use super::{Cache, ContentHash, Shared, lock, pins};

/// How much is collected before a thread writes it.
const WRITE_LEN: usize = 256 << 10;

/// What is known of content before it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expected {
    /// Its length in bytes.
    pub size_bytes: Option<u64>,
    /// What it hashes to.
    pub sha256: Option<ContentHash>,
}

/// What has been taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Added {
    /// What it hashes to.
    pub sha256: ContentHash,
    /// Its length.
    pub size_bytes: u64,
}

/// Why content was not taken in. Nothing of it is left then, and the name stands for what it stood for before.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// Whoever sends it stopped.
    #[error("the content broke off: {0}")]
    Source(#[source] io::Error),
    /// Shorter or longer than announced.
    #[error("the content has {} bytes instead of {expected}", at_least(*.received, *.expected))]
    Size {
        /// As announced.
        expected: u64,
        /// As it came; more than announced is not counted to its end.
        received: u64,
    },
    /// Not what it was said to be.
    #[error("the content hashes to {computed} and not to {expected}")]
    Hash {
        /// As announced.
        expected: ContentHash,
        /// As it came.
        computed: ContentHash,
    },
    /// A piece of it is not what the list of its chunks says.
    #[error("object {sha256} is not what it should be at byte {at}")]
    Chunk {
        /// The object.
        sha256: ContentHash,
        /// Where the chunk begins.
        at: u64,
    },
    /// The disk is full, but for what the cache leaves to others.
    #[error(
        "no space for the content: the cache leaves 5 % of the disk, and 64 MiB at least, to other data"
    )]
    NoSpace,
    /// The disk fails.
    #[error("cannot store the content: {0:#}")]
    Storage(anyhow::Error),
}

fn at_least(received: u64, expected: u64) -> String {
    if received > expected { format!("more than {expected}") } else { received.to_string() }
}

impl From<anyhow::Error> for FillError {
    fn from(error: anyhow::Error) -> Self {
        let is_full = error.chain().any(|cause| {
            let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
            let sqlite = cause.downcast_ref().and_then(rusqlite::Error::sqlite_error_code);
            matches!(io, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
                || sqlite == Some(rusqlite::ErrorCode::DiskFull)
        });
        if is_full { Self::NoSpace } else { Self::Storage(error) }
    }
}

impl From<io::Error> for FillError {
    fn from(error: io::Error) -> Self {
        anyhow::Error::from(error).into()
    }
}

impl Cache {
    /// Takes in what `source` gives and lets `key` stand for it. Until the last step the name stands for what it stood for
    /// before, and whoever reads that reads on. A call that is dropped leaves nothing.
    ///
    /// # Errors
    /// The content is not what was expected, does not come, or cannot be stored.
    pub async fn add(
        &self,
        key: ContentKey,
        mut source: impl Stream<Item = io::Result<Bytes>> + Unpin,
        expected: Expected,
    ) -> Result<Added, FillError> {
        let _permit = self.fills.acquire().await;
        let shared = Arc::clone(&self.shared);
        let size_bytes = expected.size_bytes.unwrap_or(0);
        let mut filling = smol::unblock(move || Filling::begin(shared, size_bytes)).await?;
        let mut received = 0;
        let mut collected = vec![];
        while let Some(bytes) = source.next().await {
            let bytes = bytes.map_err(FillError::Source)?;
            received += bytes.len() as u64;
            if let Some(expected) = expected.size_bytes.filter(|expected| received > *expected) {
                return Err(FillError::Size { expected, received });
            }
            collected.extend_from_slice(&bytes);
            if collected.len() >= WRITE_LEN {
                let bytes = std::mem::take(&mut collected);
                filling = smol::unblock(move || filling.write(&bytes)).await?;
            }
        }
        if let Some(expected) = expected.size_bytes.filter(|expected| received != *expected) {
            return Err(FillError::Size { expected, received });
        }
        let filled = smol::unblock(move || filling.write(&collected)?.end()).await?;
        if let Some(expected) = expected.sha256.filter(|expected| *expected != filled.sha256) {
            return Err(FillError::Hash { expected, computed: filled.sha256 });
        }
        self.commit(Some(key), filled).await
    }

    /// Makes an object of what has come, and lets `key`, if there is one, stand for it.
    pub(super) async fn commit(
        &self,
        key: Option<ContentKey>,
        filled: Filled,
    ) -> Result<Added, FillError> {
        let mut store = self.store.lock_arc().await;
        smol::unblock(move || {
            let Filled { temp, sha256, size_bytes, modified, identity, chunks } = filled;
            let shared = Arc::clone(&temp.shared);
            let (known, orphan) = {
                let index = shared.index();
                let orphan = key.as_ref().and_then(|key| index.orphan(key, Some(sha256)));
                (index.object(&sha256), orphan)
            };
            let row = known.unwrap_or(Row { size_bytes, modified });
            temp.publish(sha256)?;
            lock(&shared.soundness).insert(sha256, Soundness::whole(identity));
            if let Some(chunks) = chunks
                && let Err(error) = shared.files.save_list(sha256, &chunks)
            {
                log::warn!(error:%; "object {sha256} is read whole again after the next start");
            }
            let kept = match &key {
                Some(key) => store.put(key, sha256, row, orphan),
                None => store.adopt(sha256, row, &[]),
            };
            if let Err(error) = kept {
                if known.is_none() {
                    shared.remove_object(sha256)?;
                }
                return Err(error.into());
            }
            let mut index = shared.index();
            index.insert(sha256, row);
            if let Some(key) = key {
                index.name(key, sha256);
            }
            if let Some(orphan) = orphan {
                index.remove(orphan);
            }
            drop(index);
            pins::refresh(&shared);
            lock(&shared.broken).remove(&sha256);
            // What is open may be a damaged file that this one takes the place of.
            lock(&shared.opened).remove(&sha256);
            if let Some(orphan) = orphan
                && let Err(error) = shared.remove_object(orphan)
            {
                log::warn!(error:%; "object {orphan} has no name left and stays until the next start");
            }
            Ok(Added { sha256, size_bytes })
        })
        .await
    }
}

/// A file in `tmp/`. It is removed with this value, unless it became an object.
pub(super) struct Temp {
    shared: Arc<Shared>,
    name: Option<String>,
}

impl Temp {
    /// The file of a part that is complete.
    pub(super) fn part(shared: Arc<Shared>, sha256: ContentHash) -> Self {
        Self { shared, name: Some(Files::part_name(sha256)) }
    }

    fn publish(mut self, sha256: ContentHash) -> io::Result<()> {
        if let Some(name) = &self.name {
            self.shared.files.publish(name, sha256)?;
        }
        self.name = None;
        Ok(())
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            let shared = Arc::clone(&self.shared);
            let remove = move || {
                if let Err(error) = shared.files.remove_temp(&name) {
                    log::warn!(error:%; "a file of tmp/ stays until the next start");
                }
            };
            // The value may be dropped on the executor's thread.
            smol::unblock(remove).detach();
        }
    }
}

/// Content that is coming. Every call blocks.
struct Filling {
    temp: Temp,
    file: File,
    maker: ListMaker,
    size_bytes: u64,
}

/// Content that has come, and is on disk.
pub(super) struct Filled {
    pub(super) temp: Temp,
    pub(super) sha256: ContentHash,
    pub(super) size_bytes: u64,
    pub(super) modified: Timestamp,
    /// Of the file whose content was hashed.
    pub(super) identity: Identity,
    /// The list of its chunks, where that is not kept already.
    pub(super) chunks: Option<ChunkList>,
}

impl Filling {
    fn begin(shared: Arc<Shared>, size_bytes: u64) -> Result<Self, FillError> {
        check_space(shared.files.space()?, size_bytes)?;
        let (name, file) = shared.files.create_temp()?;
        let temp = Temp { shared, name: Some(name) };
        Ok(Self { temp, file, maker: ListMaker::default(), size_bytes: 0 })
    }

    fn write(mut self, bytes: &[u8]) -> Result<Self, FillError> {
        check_space(self.temp.shared.files.space()?, bytes.len() as u64)?;
        self.maker.update(bytes);
        self.file.write_all(bytes)?;
        self.size_bytes += bytes.len() as u64;
        Ok(self)
    }

    fn end(self) -> Result<Filled, FillError> {
        self.file.sync_all()?;
        let identity = Identity::of(&self.file.metadata()?);
        let (sha256, chunks) = self.maker.finish();
        // Of what is one chunk the name says all.
        let chunks = chunks.filter(|_| ChunkList::whole(sha256, self.size_bytes).is_none());
        let (temp, size_bytes, modified) = (self.temp, self.size_bytes, clock::now());
        Ok(Filled { temp, sha256, size_bytes, modified, identity, chunks })
    }
}

pub(super) fn check_space(space: Space, wanted_bytes: u64) -> Result<(), FillError> {
    let spare_bytes = u64::try_from(space.spare_bytes()).ok();
    match spare_bytes.filter(|spare| *spare >= wanted_bytes) {
        Some(_) => Ok(()),
        None => Err(FillError::NoSpace),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d2_the_cache_leaves_space_for_what_is_precious() {
        let fits = |free_bytes, total_bytes, wanted| {
            check_space(Space { free_bytes, total_bytes }, wanted).is_ok()
        };
        let (small, large) = (100 << 20, 100 << 30);
        assert!(fits((64 << 20) + 10, small, 10));
        assert!(!fits((64 << 20) + 9, small, 10));
        assert!(!fits(64 << 20, small, 1));
        assert!(fits((5 << 30) + 10, large, 10));
        assert!(!fits((5 << 30) - 1, large, 0));
        assert!(!fits(u64::MAX, large, u64::MAX));
    }

    #[test]
    fn d2_a_full_disk_is_told_from_a_failing_one() {
        let of = |kind: io::ErrorKind| FillError::from(io::Error::from(kind));
        assert!(matches!(of(io::ErrorKind::StorageFull), FillError::NoSpace));
        assert!(matches!(of(io::ErrorKind::QuotaExceeded), FillError::NoSpace));
        assert!(matches!(of(io::ErrorKind::PermissionDenied), FillError::Storage(_)));
        let full = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
        let full = anyhow::Error::from(rusqlite::Error::SqliteFailure(full, None));
        assert!(matches!(full.context("writing").into(), FillError::NoSpace));
    }
}
