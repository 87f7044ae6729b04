//! One object: a file that is open, and reads of it that are bounded.

use std::fmt;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::body::Bytes;
use pureboot_protocol::{ContentHash, Timestamp};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use smol::lock::Semaphore;

use super::lent::{LENT_LEN_MAX, Lent};
use super::sound::SoundFile;

/// Reads that block at a time, over all objects of a cache: as many threads at most wait for the disk.
const READS_MAX: usize = 8;

/// The longest and the shortest chunk that a stream is read in, and what all streams' chunks take together.
const CHUNK_LEN_MAX: usize = 256 << 10;
const CHUNK_LEN_MIN: usize = 32 << 10;
const CHUNKS_LEN_MAX: usize = 16 << 20;

/// Where the bytes of an object are.
#[derive(Clone)]
pub(super) enum Content {
    /// On disk.
    File(Arc<SoundFile>),
    /// Here: a pinned loader.
    Memory(Bytes),
}

/// An object that can be read. Its clones share one open file, which stays readable when the object leaves the cache.
#[derive(Clone)]
pub struct Object {
    /// What its content hashes to.
    pub sha256: ContentHash,
    /// Its length.
    pub size_bytes: u64,
    /// When this site got it.
    pub modified: Timestamp,
    content: Content,
    readers: Arc<Readers>,
}

impl Object {
    pub(super) fn new(
        sha256: ContentHash,
        size_bytes: u64,
        modified: Timestamp,
        content: Content,
        readers: &Arc<Readers>,
    ) -> Self {
        Self { sha256, size_bytes, modified, content, readers: Arc::clone(readers) }
    }

    /// Reads `len` bytes at `offset`; fewer only where the file ends. What has not been read since the start is verified first.
    ///
    /// # Errors
    /// The disk's, or what was asked for is damaged ([`InvalidData`](io::ErrorKind::InvalidData)); it goes into quarantine then.
    pub async fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let file = match &self.content {
            Content::File(file) => Arc::clone(file),
            Content::Memory(bytes) => return Ok(part(bytes, offset, len).to_vec()),
        };
        let permit = self.readers.permits.acquire_arc().await;
        smol::unblock(move || {
            let bytes = file.read(offset, len);
            drop(permit);
            bytes
        })
        .await
    }

    /// Reads up to `len` bytes at `offset` that are in memory and verified, or nothing if that would mean to wait for the disk.
    ///
    /// # Errors
    /// The disk's.
    pub fn read_now(&self, offset: u64, len: usize) -> io::Result<Option<Vec<u8>>> {
        let file = match &self.content {
            Content::File(file) if file.is_sound(offset..offset.saturating_add(len as u64)) => {
                file.file()
            }
            Content::File(_) => return Ok(None),
            Content::Memory(bytes) => return Ok(Some(part(bytes, offset, len).to_vec())),
        };
        let mut bytes = vec![0; len];
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        match preadv2(file, &mut buffers, offset, ReadWriteFlags::NOWAIT) {
            Ok(0) => Ok(None),
            Ok(read_len) => {
                bytes.truncate(read_len);
                Ok(Some(bytes))
            }
            // Not in memory, interrupted, or a file system (UBIFS, FUSE) or a kernel that does not know the flag.
            Err(Errno::AGAIN | Errno::INTR | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Up to `len` bytes at `offset`, verified, to be sent from the kernel's memory; nothing where they are not there, or where they
    /// are in this program's already.
    pub fn lend(&self, offset: u64, len: usize) -> Option<Lent> {
        let len = len.min(LENT_LEN_MAX);
        let Content::File(file) = &self.content else { return None };
        let end = file.sound_until(offset..offset.saturating_add(len as u64));
        Lent::new(file.file(), offset, usize::try_from(end - offset).unwrap_or(len))
    }

    /// Counts a stream of this object as a reader until the answer is dropped.
    pub fn reading(&self) -> Reading {
        self.readers.streams.fetch_add(1, Ordering::Relaxed);
        Reading { readers: Arc::clone(&self.readers) }
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Object({}, {} bytes)", self.sha256, self.size_bytes)
    }
}

fn part(bytes: &[u8], offset: u64, len: usize) -> &[u8] {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    let end = start.saturating_add(len).min(bytes.len());
    bytes.get(start..end).unwrap_or_default()
}

pub(super) fn read_fully_at(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut filled_len = 0;
    while let Some(rest) = bytes.get_mut(filled_len..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset.saturating_add(filled_len as u64)) {
            Ok(0) => break,
            Ok(read_len) => filled_len += read_len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled_len);
    Ok(bytes)
}

/// What all objects of a cache share.
pub(super) struct Readers {
    permits: Arc<Semaphore>,
    streams: AtomicUsize,
}

impl Readers {
    pub(super) fn new() -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(READS_MAX));
        Arc::new(Self { permits, streams: AtomicUsize::new(0) })
    }

    #[cfg(test)]
    pub(super) fn permits(&self) -> &Arc<Semaphore> {
        &self.permits
    }

    /// Streams that are being read.
    pub(super) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }
}

/// One stream among those that are being read.
pub struct Reading {
    readers: Arc<Readers>,
}

impl Reading {
    /// How much to read at once, in bytes: less the more streams there are, so that memory is bounded for all of them.
    pub fn chunk_len(&self) -> usize {
        chunk_len(self.readers.streams())
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.readers.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

fn chunk_len(streams: usize) -> usize {
    (CHUNKS_LEN_MAX / streams.max(1)).clamp(CHUNK_LEN_MIN, CHUNK_LEN_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i7_the_chunks_of_all_streams_have_a_bound() {
        assert_eq!(chunk_len(1), CHUNK_LEN_MAX);
        for streams in 0..400 {
            let len = chunk_len(streams);
            assert!((CHUNK_LEN_MIN..=CHUNK_LEN_MAX).contains(&len));
            assert!(len * streams <= CHUNKS_LEN_MAX || len == CHUNK_LEN_MIN);
        }
    }
}
