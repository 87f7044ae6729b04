//! An object on its way whose hash and length are known before it comes.
//!
//! It lies in `tmp/` under its hash, so that what has come survives a kill and is gone on with. Nothing in the file is believed
//! because it is there: whoever goes on with it hashes it first.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use hyper::body::Bytes;
use pureboot_protocol::{ContentHash, Timestamp};
use sha2::{Digest, Sha256};

use crate::clock;

use super::chunks::ChunkList;
use super::files::Files;
use super::fill::{FillError, Filled, Temp, check_space};
use super::object::{Content, read_fully_at};
use super::sound::{Identity, SoundFile};
use super::{Cache, Object, Shared};

/// How much of a part is read at a time when it is hashed again.
const READ_LEN: usize = 256 << 10;

/// What is known of an object before it comes.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What it hashes to.
    pub sha256: ContentHash,
    /// Its length.
    pub size_bytes: u64,
    /// How it can be believed before all of it is there.
    pub chunks: Option<ChunkList>,
}

/// An object that grows. Dropping it keeps what has come, for whoever goes on with it.
pub struct Part {
    /// None while a thread has it.
    filling: Option<Box<Growing>>,
    object: Object,
    cache: Cache,
}

impl Cache {
    /// Goes on with what has come of an object, or begins. There is one part of an object at a time; the caller sees to that.
    ///
    /// # Errors
    /// There is no room for the rest, or the disk fails.
    pub async fn part(&self, wanted: Wanted) -> Result<Part, FillError> {
        let shared = Arc::clone(&self.shared);
        let (filling, file) = smol::unblock(move || {
            let filling = Growing::open(shared, wanted)?;
            let file = filling.file.try_clone()?;
            Ok::<_, FillError>((filling, file))
        })
        .await?;
        let Wanted { sha256, size_bytes, .. } = filling.wanted;
        let content = Content::File(Arc::new(SoundFile::growing(file, sha256)?));
        let object = Object::new(sha256, size_bytes, filling.modified, content, &self.readers);
        Ok(Part { filling: Some(Box::new(filling)), object, cache: self.clone() })
    }
}

impl Part {
    /// Bytes that have come, and need not come again.
    pub fn received_len(&self) -> u64 {
        self.filling.as_ref().map_or(0, |filling| filling.len)
    }

    /// How much of it can be believed already: nothing, where chunks are not known.
    pub fn believed_len(&self) -> u64 {
        self.filling.as_ref().map_or(0, |filling| filling.believed.len)
    }

    /// What can be read of it, up to [`believed_len`](Self::believed_len).
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// There is no room for them, or the disk fails; or they are not what the object has there, and then they are forgotten as
    /// far back as it can be believed.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), FillError> {
        let mut filling = self.take()?;
        let (filling, written) = smol::unblock(move || {
            let written = filling.write(&bytes);
            (filling, written)
        })
        .await;
        self.filling = Some(filling);
        written
    }

    /// Makes an object of it, which has no name yet.
    ///
    /// # Errors
    /// It is not what was wanted, and then nothing of it is left; or the disk fails.
    pub async fn end(mut self) -> Result<Object, FillError> {
        let filling = self.take()?;
        let filled = smol::unblock(move || filling.end()).await?;
        self.cache.commit(None, filled).await?;
        Ok(self.object)
    }

    /// Removes what has come.
    pub async fn discard(self) {
        let (cache, sha256) = (self.cache, self.object.sha256);
        let shared = Arc::clone(&cache.shared);
        let removed = smol::unblock(move || shared.files.remove_temp(&Files::part_name(sha256)));
        if let Err(error) = removed.await {
            log::warn!(error:%; "what has come of object {sha256} stays until the next start");
        }
    }

    fn take(&mut self) -> io::Result<Box<Growing>> {
        self.filling.take().ok_or_else(|| io::Error::other("an earlier write was given up"))
    }
}

/// The file behind a part. Every call blocks.
struct Growing {
    shared: Arc<Shared>,
    wanted: Wanted,
    file: File,
    modified: Timestamp,
    /// Of all that has come.
    hasher: Sha256,
    len: u64,
    /// Of what has come of the chunk at the end.
    chunk_hasher: Sha256,
    believed: Believed,
}

/// How far the content is what the list of chunks says, and the hash up to there.
#[derive(Default)]
struct Believed {
    len: u64,
    hasher: Sha256,
}

impl Growing {
    fn open(shared: Arc<Shared>, wanted: Wanted) -> Result<Self, FillError> {
        let file = shared.files.open_part(wanted.sha256)?;
        let found_len = file.metadata()?.len();
        let mut growing = Self {
            shared,
            wanted,
            file,
            modified: clock::now(),
            hasher: Sha256::new(),
            len: 0,
            chunk_hasher: Sha256::new(),
            believed: Believed::default(),
        };
        if let Some(chunks) = growing.wanted.chunks.as_ref().filter(|chunks| chunks.count() > 1) {
            growing.shared.files.save_list(growing.wanted.sha256, chunks)?;
        }
        if found_len <= growing.wanted.size_bytes {
            growing.read_again(found_len)?;
        }
        growing.file.set_len(growing.len)?;
        let missing_bytes = growing.wanted.size_bytes - growing.len;
        check_space(growing.shared.files.space()?, missing_bytes)?;
        Ok(growing)
    }

    /// Hashes what an earlier run has left. Behind the first chunk that is not what it should be, nothing is used.
    fn read_again(&mut self, found_len: u64) -> io::Result<()> {
        while self.len < found_len {
            let wanted_len = usize::try_from(found_len - self.len).unwrap_or(usize::MAX);
            let bytes = read_fully_at(&self.file, self.len, wanted_len.min(READ_LEN))?;
            if bytes.is_empty() || self.absorb(&bytes).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), FillError> {
        let received = self.len.saturating_add(bytes.len() as u64);
        if received > self.wanted.size_bytes {
            self.forget_doubtful()?;
            return Err(FillError::Size { expected: self.wanted.size_bytes, received });
        }
        check_space(self.shared.files.space()?, bytes.len() as u64)?;
        let at = self.len;
        self.file.write_all_at(bytes, at)?;
        self.absorb(bytes).inspect_err(|_| {
            // What is behind a damaged chunk is of no use, whether it can be cut off or not.
            _ = self.file.set_len(self.len);
        })
    }

    /// Takes in bytes that are in the file already.
    fn absorb(&mut self, mut bytes: &[u8]) -> Result<(), FillError> {
        let Some(chunks) = self.wanted.chunks.clone() else {
            self.hasher.update(bytes);
            self.len += bytes.len() as u64;
            return Ok(());
        };
        while let Some(chunk) = chunks.at(self.len).filter(|_| !bytes.is_empty()) {
            let left = usize::try_from(chunk.end - self.len).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(left.min(bytes.len()));
            self.hasher.update(now);
            self.chunk_hasher.update(now);
            self.len += now.len() as u64;
            bytes = later;
            if self.len < chunk.end {
                continue;
            }
            if self.chunk_hasher.finalize_reset()[..] != chunk.digest {
                self.return_to_believed();
                return Err(FillError::Chunk { sha256: self.wanted.sha256, at: chunk.start });
            }
            self.believed = Believed { len: self.len, hasher: self.hasher.clone() };
        }
        Ok(())
    }

    fn return_to_believed(&mut self) {
        self.len = self.believed.len;
        self.hasher = self.believed.hasher.clone();
        self.chunk_hasher = Sha256::new();
    }

    fn forget_doubtful(&mut self) -> io::Result<()> {
        self.return_to_believed();
        self.file.set_len(self.len)
    }

    fn end(self) -> Result<Filled, FillError> {
        let Wanted { sha256, size_bytes, .. } = self.wanted;
        if self.len != size_bytes {
            return Err(FillError::Size { expected: size_bytes, received: self.len });
        }
        self.file.sync_all()?;
        let identity = Identity::of(&self.file.metadata()?);
        let temp = Temp::part(self.shared, sha256);
        let computed = ContentHash::from_digest(self.hasher.finalize().into());
        if computed != sha256 {
            return Err(FillError::Hash { expected: sha256, computed });
        }
        let modified = self.modified;
        Ok(Filled { temp, sha256, size_bytes, modified, identity, chunks: None })
    }
}
