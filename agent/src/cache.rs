//! Verified content, by hash on disk and by name in an index.
//!
//! ```text
//! <data_dir>/cache/objects/ab/abcd…   one file an object, named by its SHA-256
//!                  chunks/            of each longer object, the list that its pieces are verified by
//!                  tmp/               what is being filled; swept at every start, but for parts of objects known by hash
//!                  quarantine/        objects that were found damaged
//!                  index.db           what is held, and under which names
//!                  names.log          the names once more, for the day that index.db is lost
//! ```
//!
//! Invariants: a file in `objects/` is complete, and was what its name says when it came there. A name in a request is a key
//! of the index and never a path. No call here blocks the executor, but for [`Cache::open`], which `main` makes before it
//! serves.

mod arrival;
mod check;
mod chunks;
pub mod evict;
mod files;
mod fill;
mod index;
mod lent;
pub mod manage;
mod names;
mod object;
mod opened;
mod part;
mod pins;
mod sound;
mod store;
mod upkeep;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use nix::errno::Errno;
use pureboot_protocol::{Category, ContentKey, Timestamp};
use smol::channel::{Receiver, Sender, bounded};
use smol::lock::Semaphore;

use crate::clock;

use files::Files;
use index::{Index, Row};
use object::{Content, Readers};
use opened::OpenFiles;
use pins::Pins;
use sound::{SoundFile, Soundness};
use store::Store;

pub use arrival::{Arrival, Failure};
pub use chunks::{Chunk, ChunkList, LIST_LEN_MAX};
pub use fill::{Added, Expected, FillError};
pub use index::Used;
pub use lent::{LENT_LEN_MAX, Lent};
pub use object::{Object, Reading};
pub use part::{Part, Wanted};
pub use pins::PINNED_BYTES_MAX;
pub use pureboot_protocol::ContentHash;
pub use sound::Damage;
pub use upkeep::Standing;

/// Fills at a time: each holds a descriptor and a buffer. More of them wait.
const FILLS_MAX: usize = 8;

/// Objects that are opened at a time: as many threads at most wait for the disk. More of them wait.
const OPENS_MAX: usize = 16;

/// Damaged objects that nobody has looked after yet; what is more is found damaged again.
const DAMAGED_MAX: usize = 64;

/// The handle of the cache. Its clones are the same cache.
#[derive(Clone)]
pub struct Cache {
    shared: Arc<Shared>,
    /// Whoever changes what is held has it locked, so changes are made one after the other.
    store: Arc<smol::lock::Mutex<Store>>,
    fills: Arc<Semaphore>,
    opens: Arc<Semaphore>,
    readers: Arc<Readers>,
}

struct Shared {
    files: Files,
    /// Held for moments only, so that the executor may lock it too.
    index: Mutex<Index>,
    /// Open files of objects.
    opened: Mutex<OpenFiles>,
    /// What has been verified since the start, of objects that are held.
    soundness: Mutex<HashMap<ContentHash, Arc<Soundness>>>,
    /// Objects that were found damaged when somebody read them.
    damage: (Sender<Damage>, Receiver<Damage>),
    /// Loaders in memory.
    pins: Mutex<Pins>,
    /// Objects that could not be opened: each is complained about once.
    broken: Mutex<HashSet<ContentHash>>,
    /// After the loss of the index: what is on disk and has not been read again.
    unverified: Mutex<check::Unverified>,
    hits: AtomicU64,
    misses: AtomicU64,
    damaged: AtomicU64,
}

impl Shared {
    /// The open file of an object, if there is one. While somebody reads it, it holds what its name said whatever has become of the name.
    fn opened(&self, hash: ContentHash) -> Option<Arc<SoundFile>> {
        let opened = lock(&self.opened);
        let is_read = opened.is_read(&hash);
        opened.get(&hash).filter(|file| file.names().is_some_and(|names| is_read || names > 0))
    }

    /// Lets others that want an object have its open file too.
    fn share(&self, hash: ContentHash, file: SoundFile) -> Arc<SoundFile> {
        let file = Arc::new(file);
        lock(&self.opened).insert(hash, &file);
        // Whoever has removed the object meanwhile has not found its file: the disk would be short of what nobody can ask for.
        if self.index().object(&hash).is_none() {
            lock(&self.opened).remove(&hash);
        }
        file
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        lock(&self.index)
    }

    /// Removes the file of an object that the index does not know any more. Blocks.
    fn remove_object(&self, hash: ContentHash) -> io::Result<()> {
        lock(&self.opened).remove(&hash);
        lock(&self.soundness).remove(&hash);
        self.files.remove_object(hash)
    }
}

/// Whether the system has no room for another open file, which says nothing of the file.
fn is_exhausted(error: &io::Error) -> bool {
    let codes = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM];
    codes.iter().any(|code| error.raw_os_error() == Some(*code as i32))
}

/// A thread that panicked with the lock left a value that is whole: every change under these locks is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One name and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name.
    pub key: ContentKey,
    /// The object.
    pub sha256: ContentHash,
    /// Its length.
    pub size_bytes: u64,
    /// When this site got it.
    pub modified: Timestamp,
    /// When it was last asked for, or else came.
    pub used_at: Timestamp,
}

/// What one category holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CategoryStats {
    /// Names.
    pub entries: u64,
    /// Bytes of the objects that they stand for; an object with two names counts under both.
    pub size_bytes: u64,
}

/// What the cache holds and how it has been used since the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of all objects, each counted once.
    pub size_bytes: u64,
    /// Names.
    pub entries: u64,
    /// By category; every category is there.
    pub categories: BTreeMap<Category, CategoryStats>,
    /// Lookups that found an object.
    pub hits: u64,
    /// Lookups that did not.
    pub misses: u64,
    /// Objects that were found damaged and set aside.
    pub damaged: u64,
}

impl Stats {
    /// Hits per lookup, from 0 to 1; none before the first lookup.
    pub fn hit_rate(&self) -> Option<f64> {
        let lookups = self.hits + self.misses;
        (lookups > 0).then(|| self.hits as f64 / lookups as f64)
    }
}

impl Cache {
    /// Opens the cache in `directory`, which is made if it is missing. Half-written files are swept, objects without row and
    /// rows without object are dropped, and boot loaders are read again and [pinned](PINNED_BYTES_MAX) (FAULTS K11 to K14, D7). After the loss of the index
    /// only boot loaders are there at first; [`recover`](Self::recover) brings back the others.
    ///
    /// # Errors
    /// The directory cannot be used, or another agent uses it.
    pub fn open(directory: &Path) -> Result<Self> {
        let (files, store, index, unverified) = check::open(directory)?;
        let shared = Shared {
            files,
            index: Mutex::new(index),
            opened: Mutex::default(),
            soundness: Mutex::default(),
            damage: bounded(DAMAGED_MAX),
            pins: Mutex::default(),
            broken: Mutex::default(),
            unverified: Mutex::new(unverified),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
        };
        pins::refresh(&shared);
        Ok(Self {
            shared: Arc::new(shared),
            store: Arc::new(smol::lock::Mutex::new(store)),
            fills: Arc::new(Semaphore::new(FILLS_MAX)),
            opens: Arc::new(Semaphore::new(OPENS_MAX)),
            readers: Readers::new(),
        })
    }

    /// The object that `key` stands for. One whose file is missing, or is not what the index says, is a miss.
    pub async fn find(&self, key: &ContentKey) -> Option<Object> {
        self.try_find(key).await.unwrap_or_default()
    }

    /// As [`Cache::find`], for those to whom a miss is final.
    ///
    /// # Errors
    /// The system lacks descriptors or memory to open the object, which is there.
    pub async fn try_find(&self, key: &ContentKey) -> io::Result<Option<Object>> {
        let found = self.shared.index().find(key);
        Ok(self.count(self.open_object(found).await?))
    }

    /// The object that `key` stands for; where it stands for none, that of `hash`.
    ///
    /// # Errors
    /// As [`Cache::try_find`].
    pub async fn find_or(
        &self,
        key: &ContentKey,
        hash: Option<ContentHash>,
    ) -> io::Result<Option<Object>> {
        let named = self.shared.index().find(key);
        if let Some(object) = self.open_object(named).await? {
            return Ok(self.count(Some(object)));
        }
        let found = hash.and_then(|hash| Some((hash, self.shared.index().object(&hash)?)));
        Ok(self.count(self.open_object(found).await?))
    }

    /// The name that differs from `key` in the case of letters at most; the first by order where there are several.
    pub fn name_ignoring_case(&self, key: &ContentKey) -> Option<ContentKey> {
        self.shared.index().name_ignoring_case(key)
    }

    /// The object of this hash, whatever its names.
    pub async fn find_by_hash(&self, hash: ContentHash) -> Option<Object> {
        self.count(self.held(hash).await)
    }

    /// As [`Cache::find_by_hash`], for those who ask for the cache's own sake and are not counted.
    pub async fn held(&self, hash: ContentHash) -> Option<Object> {
        let found = self.shared.index().object(&hash).map(|row| (hash, row));
        self.open_object(found).await.unwrap_or_default()
    }

    async fn open_object(&self, found: Option<(ContentHash, Row)>) -> io::Result<Option<Object>> {
        let Some((hash, row)) = found else { return Ok(None) };
        let held =
            |content| Object::new(hash, row.size_bytes, row.modified, content, &self.readers);
        let object = |file| Ok(Some(held(Content::File(file))));
        // Nothing that has to do with the disk comes before this.
        if let Some(bytes) = lock(&self.shared.pins).get(hash) {
            return Ok(Some(held(Content::Memory(bytes))));
        }
        if let Some(file) = self.shared.opened(hash) {
            return object(file);
        }
        // When a thousand machines ask for an object at once, one of them waits for the disk and the others for it.
        let permit = self.opens.acquire_arc().await;
        if let Some(file) = self.shared.opened(hash) {
            return object(file);
        }
        let shared = Arc::clone(&self.shared);
        let open = move || {
            let opened = SoundFile::open(&shared, hash, row);
            let opened = opened.map(|file| shared.share(hash, file));
            drop(permit);
            opened
        };
        match smol::unblock(open).await {
            Ok(file) => object(file),
            Err(error) if is_exhausted(&error) => Err(error),
            Err(error) => {
                if lock(&self.shared.broken).insert(hash) {
                    log::warn!(error:%; "object {hash} is in the index and cannot be used");
                }
                Ok(None)
            }
        }
    }

    fn count(&self, found: Option<Object>) -> Option<Object> {
        let counter = match &found {
            Some(object) => {
                self.note_asked(object.sha256);
                &self.shared.hits
            }
            None => &self.shared.misses,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Somebody whom the cache is for has asked for an object, which is held.
    pub fn note_asked(&self, hash: ContentHash) {
        self.shared.index().note_use(hash, clock::now());
    }

    /// How an object has been used.
    pub fn used(&self, hash: &ContentHash) -> Used {
        self.shared.index().used(hash)
    }

    /// Every name, in order.
    pub fn entries(&self) -> Vec<Entry> {
        let index = self.shared.index();
        let entry = |(key, sha256, row): (&ContentKey, ContentHash, Row)| Entry {
            key: key.clone(),
            sha256,
            size_bytes: row.size_bytes,
            modified: row.modified,
            used_at: index.used_at(&sha256, &row),
        };
        index.entries().map(entry).collect()
    }

    /// Objects that are being sent at this moment.
    pub fn streams(&self) -> usize {
        self.readers.streams()
    }

    /// What is held and how it has been used.
    pub fn stats(&self) -> Stats {
        let index = self.shared.index();
        let mut stats = Stats {
            size_bytes: index.objects().map(|(_, row)| row.size_bytes).sum(),
            entries: 0,
            categories: Category::ALL
                .iter()
                .map(|category| (*category, CategoryStats::default()))
                .collect(),
            hits: self.shared.hits.load(Ordering::Relaxed),
            misses: self.shared.misses.load(Ordering::Relaxed),
            damaged: self.shared.damaged.load(Ordering::Relaxed),
        };
        for (key, _, row) in index.entries() {
            let category = stats.categories.entry(key.category()).or_default();
            category.entries += 1;
            category.size_bytes += row.size_bytes;
            stats.entries += 1;
        }
        stats
    }

    /// Lets `key` stand for nothing, and removes the object if that was its last name. The answer is what `key` stood for.
    /// Whoever reads the object at the moment reads on.
    ///
    /// # Errors
    /// The disk's.
    pub async fn remove(&self, key: &ContentKey) -> Result<Option<Entry>> {
        let mut store = self.store.lock_arc().await;
        let (shared, key) = (Arc::clone(&self.shared), key.clone());
        smol::unblock(move || {
            let (found, orphan) = {
                let index = shared.index();
                (index.find(&key), index.orphan(&key, None))
            };
            let Some((sha256, row)) = found else { return Ok(None) };
            // The row goes first: an object without row is swept, a row without object would be missed.
            store.unname(&key, orphan)?;
            let mut index = shared.index();
            let used_at = index.used_at(&sha256, &row);
            index.unname(&key);
            if let Some(orphan) = orphan {
                index.remove(orphan);
                drop(index);
                shared.remove_object(orphan)?;
            } else {
                drop(index);
            }
            pins::refresh(&shared);
            let Row { size_bytes, modified } = row;
            Ok(Some(Entry { key, sha256, size_bytes, modified, used_at }))
        })
        .await
    }
}

#[cfg(test)]
mod tests;
