//! An object's file that is read, and how much of it is known to be what the object's name says.
//!
//! A disk may give other bytes than it took (FAULTS D7). So the first read of a chunk since the start hashes it, and what does
//! not match is given to nobody (I6). It is paid for once: from then on the chunk is read as it is, for as long as the file is
//! the same one and nobody has written to it. What has just come was hashed on its way and is not hashed again. Blocks.

use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use pureboot_protocol::ContentHash;

use super::chunks::{Chunk, ChunkList, ListMaker};
use super::index::Row;
use super::object::read_fully_at;
use super::{Shared, lock};

/// How much is read at a time of a file that has to be read whole.
const READ_LEN: usize = 256 << 10;

/// Tells a file from others, and from itself after a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    inode: u64,
    size_bytes: u64,
    modified: (i64, i64),
}

impl Identity {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            size_bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// What was found of an object's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// The object.
    pub sha256: ContentHash,
    /// The file, which may have been replaced meanwhile.
    pub(super) file: Identity,
}

/// What is known of one file since the start. It outlives the readers.
pub(super) struct Soundness {
    identity: Identity,
    /// Set once every chunk is sound; then nothing else is looked at.
    is_whole: AtomicBool,
    chunks: Mutex<Verified>,
    /// Whoever hashes a chunk; others wait and find it done.
    hashing: Mutex<()>,
}

/// Which chunks are sound.
#[derive(Default)]
struct Verified {
    by_index: Vec<bool>,
    left: usize,
}

impl Soundness {
    /// Of a file that has just been hashed as a whole.
    pub(super) fn whole(identity: Identity) -> Arc<Self> {
        Self::new(identity, true, 0)
    }

    fn new(identity: Identity, is_whole: bool, chunks: usize) -> Arc<Self> {
        Arc::new(Self {
            identity,
            is_whole: AtomicBool::new(is_whole),
            chunks: Mutex::new(Verified { by_index: vec![false; chunks], left: chunks }),
            hashing: Mutex::default(),
        })
    }

    fn is_whole(&self) -> bool {
        self.is_whole.load(Ordering::Acquire)
    }

    fn is_sound(&self, index: usize) -> bool {
        lock(&self.chunks).by_index.get(index).copied().unwrap_or(false)
    }

    fn note_sound(&self, index: usize) {
        let mut chunks = lock(&self.chunks);
        if let Some(is_sound) = chunks.by_index.get_mut(index).filter(|is_sound| !**is_sound) {
            *is_sound = true;
            chunks.left -= 1;
        }
        if chunks.left == 0 {
            self.is_whole.store(true, Ordering::Release);
            *chunks = Verified::default();
        }
    }

    fn is_of(&self, list: &ChunkList) -> bool {
        lock(&self.chunks).by_index.len() == list.count()
    }
}

/// An open file of an object.
pub(super) struct SoundFile {
    file: Arc<File>,
    sha256: ContentHash,
    soundness: Arc<Soundness>,
    /// None where nothing is left to be verified.
    chunks: Option<ChunkList>,
    /// Is told what is found damaged; none for a file that is known to be sound.
    shared: Option<Arc<Shared>>,
}

impl SoundFile {
    /// Opens an object that the index knows. One that has no list of chunks is read whole, which makes it one.
    pub(super) fn open(shared: &Arc<Shared>, sha256: ContentHash, row: Row) -> io::Result<Self> {
        let (file, metadata) = shared.files.open_object(sha256, Some(row.size_bytes))?;
        let identity = Identity::of(&metadata);
        let known = lock(&shared.soundness).get(&sha256).cloned();
        let known = known.filter(|known| known.identity == identity);
        let mut opened = Self {
            file: Arc::new(file),
            sha256,
            soundness: Soundness::whole(identity),
            chunks: None,
            shared: None,
        };
        if let Some(known) = known.as_ref().filter(|known| known.is_whole()) {
            opened.soundness = Arc::clone(known);
            return Ok(opened);
        }
        let chunks = match ChunkList::whole(sha256, row.size_bytes) {
            Some(chunks) => Some(chunks),
            None => shared.files.load_list(sha256, row.size_bytes),
        };
        match chunks {
            Some(chunks) => {
                opened.soundness = known
                    .filter(|known| known.is_of(&chunks))
                    .unwrap_or_else(|| Soundness::new(identity, false, chunks.count()));
                opened.chunks = Some(chunks);
                opened.shared = Some(Arc::clone(shared));
            }
            None => {
                opened.shared = Some(Arc::clone(shared));
                opened.read_whole()?;
            }
        }
        lock(&shared.soundness).insert(sha256, Arc::clone(&opened.soundness));
        Ok(opened)
    }

    /// A file that is still being written, of which nobody reads what was not hashed on its way.
    pub(super) fn growing(file: File, sha256: ContentHash) -> io::Result<Self> {
        let soundness = Soundness::whole(Identity::of(&file.metadata()?));
        Ok(Self { file: Arc::new(file), sha256, soundness, chunks: None, shared: None })
    }

    fn read_whole(&self) -> io::Result<()> {
        let mut maker = ListMaker::default();
        let mut at = 0;
        loop {
            let bytes = read_fully_at(&self.file, at, READ_LEN)?;
            if bytes.is_empty() {
                break;
            }
            maker.update(&bytes);
            at += bytes.len() as u64;
        }
        let (computed, chunks) = maker.finish();
        if computed != self.sha256 {
            return Err(self.damaged(0));
        }
        if let (Some(shared), Some(chunks)) = (&self.shared, chunks)
            && let Err(error) = shared.files.save_list(self.sha256, &chunks)
        {
            log::warn!(error:%; "object {} is read whole again after the next start", self.sha256);
        }
        Ok(())
    }

    /// How many names the file has; none where it is no longer as it was when it was opened.
    pub(super) fn names(&self) -> Option<u64> {
        let now = self.file.metadata().ok()?;
        (Identity::of(&now) == self.soundness.identity).then(|| now.nlink())
    }

    /// The file, for reads that [`is_sound`](Self::is_sound) allows.
    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Whether these bytes have been verified since the start and can be read as they are.
    pub(super) fn is_sound(&self, range: Range<u64>) -> bool {
        let end = range.end;
        self.sound_until(range) == end
    }

    /// Where the first byte of `range` is that has not been verified since the start; its end if there is none.
    pub(super) fn sound_until(&self, range: Range<u64>) -> u64 {
        let Some(chunks) = self.chunks.as_ref().filter(|_| !self.soundness.is_whole()) else {
            return range.end;
        };
        let mut at = range.start;
        while let Some(chunk) = chunks.at(at).filter(|chunk| chunk.start < range.end) {
            if !self.soundness.is_sound(chunk.index) && !self.soundness.is_whole() {
                return at;
            }
            at = chunk.end;
        }
        range.end
    }

    /// Reads `len` bytes at `offset`; fewer only where the file ends.
    ///
    /// # Errors
    /// The disk's, or a chunk of what was asked for is damaged.
    pub(super) fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let end = offset.saturating_add(len as u64);
        if self.is_sound(offset..end) {
            return read_fully_at(&self.file, offset, len);
        }
        let mut bytes = Vec::with_capacity(len.min(READ_LEN));
        let mut at = offset;
        while let Some(chunk) = self.chunks.as_ref().and_then(|chunks| chunks.at(at)) {
            if at >= end {
                break;
            }
            let stop = chunk.end.min(end);
            let wanted_len = usize::try_from(stop - at).unwrap_or(usize::MAX);
            match self.verify(&chunk)? {
                Some(read) => {
                    let skip = usize::try_from(at - chunk.start).unwrap_or(usize::MAX);
                    let part = read.get(skip..).unwrap_or_default();
                    bytes.extend_from_slice(part.get(..wanted_len).unwrap_or(part));
                }
                None => bytes.extend(read_fully_at(&self.file, at, wanted_len)?),
            }
            at = stop;
        }
        Ok(bytes)
    }

    /// Hashes a chunk unless that has been done; the bytes that were read for it.
    fn verify(&self, chunk: &Chunk) -> io::Result<Option<Vec<u8>>> {
        let is_done = || self.soundness.is_whole() || self.soundness.is_sound(chunk.index);
        if is_done() {
            return Ok(None);
        }
        let _turn = lock(&self.soundness.hashing);
        if is_done() {
            return Ok(None);
        }
        let bytes = read_fully_at(&self.file, chunk.start, chunk.len())?;
        if !chunk.is(&bytes) {
            return Err(self.damaged(chunk.start));
        }
        self.soundness.note_sound(chunk.index);
        Ok(Some(bytes))
    }

    fn damaged(&self, at: u64) -> io::Error {
        if let Some(shared) = &self.shared {
            // Who is to hear of it has enough to do if there is no room.
            let (sha256, file) = (self.sha256, self.soundness.identity);
            _ = shared.damage.0.try_send(Damage { sha256, file });
        }
        let text = format!("object {} is not what it should be at byte {at}", self.sha256);
        io::Error::new(io::ErrorKind::InvalidData, text)
    }
}
