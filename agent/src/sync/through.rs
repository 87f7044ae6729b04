//! Content for one machine past a cache that has no room for it (FAULTS D2): fetched for it alone, and given piece by piece as
//! each has been verified. Nothing of it is kept.

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use hyper::body::Bytes;
use pureboot_protocol::{Chunks, ManifestEntry};
use smol::Timer;
use smol::lock::{Semaphore, SemaphoreGuardArc};
use smol::stream::{self, Stream};

use crate::cache::{ChunkHashes, Failure, Wanted};
use crate::clock;
use crate::uplink::controller::{Controller, Download};

use super::fetch::{Fetch, Next};
use super::flights::{Stop, begin, wanted};
use super::pace::Pace;

/// Machines that are served so at a time: each costs a chunk of memory and its own transfer over the line.
const THROUGH_MAX: usize = 4;

/// Serves machines past the cache.
pub struct Bypass {
    controller: Rc<Controller>,
    pace: Rc<RefCell<Pace>>,
    slots: Arc<Semaphore>,
}

impl Bypass {
    /// Fetches from `controller`, not faster than `pace`.
    pub fn new(controller: Rc<Controller>, pace: Rc<RefCell<Pace>>) -> Self {
        Self { controller, pace, slots: Arc::new(Semaphore::new(THROUGH_MAX)) }
    }

    /// Content for one machine; none while as many are served so as may be.
    ///
    /// # Errors
    /// The controller does not answer, or the content is too long to be verified in memory.
    pub async fn open(&self, entry: &ManifestEntry) -> Result<Option<Through>, Failure> {
        let Some(slot) = self.slots.try_acquire_arc() else { return Ok(None) };
        let wanted = wanted(&self.controller, entry).await.map_err(Stop::into_failure)?;
        let chunks = match wanted.chunks.clone() {
            Some(chunks) => chunks,
            None if entry.size_bytes <= Chunks::SIZE_BYTES => ChunkHashes::whole(&wanted),
            None => {
                let text = "there is no room for it, and no list of its chunks to verify it by";
                return Err(Failure::NoSpace(text.to_owned()));
            }
        };
        let (controller, pace) = (Rc::clone(&self.controller), Rc::clone(&self.pace));
        Ok(Some(Through { controller, pace, wanted, chunks, _slot: slot }))
    }
}

/// Content that passes by the cache.
pub struct Through {
    controller: Rc<Controller>,
    pace: Rc<RefCell<Pace>>,
    wanted: Wanted,
    chunks: ChunkHashes,
    _slot: SemaphoreGuardArc,
}

impl Through {
    /// What it hashes to, and its length.
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// The bytes in `range`, which lies within it. It ends with an error where they do not come or are not the manifest's.
    pub fn bytes(self, range: Range<u64>) -> impl Stream<Item = io::Result<Bytes>> {
        let passing = Passing {
            fetch: Fetch::new(self.wanted.sha256, self.wanted.size_bytes),
            at: self.chunks.start_of(range.start),
            collected: Vec::new(),
            download: None,
            through: self,
        };
        stream::try_unfold((passing, range), |(mut passing, range)| async move {
            if passing.at >= range.end {
                return Ok(None);
            }
            let start = passing.at;
            let chunk = passing.next_chunk().await.map_err(io::Error::other)?;
            let offset = |place: u64| {
                usize::try_from(place.saturating_sub(start)).unwrap_or(usize::MAX).min(chunk.len())
            };
            let bytes = chunk.slice(offset(range.start)..offset(range.end));
            Ok(Some((bytes, (passing, range))))
        })
    }
}

/// Content while it passes.
struct Passing {
    through: Through,
    fetch: Fetch,
    /// Where the chunk begins that comes next.
    at: u64,
    /// What has come of it.
    collected: Vec<u8>,
    download: Option<Download>,
}

impl Passing {
    /// The next chunk, verified.
    async fn next_chunk(&mut self) -> Result<Bytes, Failure> {
        loop {
            let stop = match self.attempt().await {
                Ok(chunk) => return Ok(chunk),
                Err(stop) => stop,
            };
            self.download = None;
            self.collected.clear();
            let (failure, next) = stop.weigh(&mut self.fetch, self.at);
            match next {
                Next::Again(pause) => _ = Timer::after(pause).await,
                Next::GiveUp => return Err(failure),
            }
        }
    }

    async fn attempt(&mut self) -> Result<Bytes, Stop> {
        let Wanted { sha256, size_bytes, .. } = self.through.wanted;
        let download = match &mut self.download {
            Some(download) => download,
            None => {
                self.fetch.handle_start(self.at);
                let begun = begin(&self.through.controller, &self.fetch, sha256, self.at).await?;
                // A controller that does not know ranges sends what is not asked for, too; it is not worth the line.
                if begun.behind > 0 {
                    let text = "the controller does not send parts of content".to_owned();
                    return Err(Stop::Final(Failure::Refused(text)));
                }
                self.download.insert(begun.download)
            }
        };
        let end = self.through.chunks.end_of(self.at, size_bytes);
        let chunk_len = usize::try_from(end - self.at).unwrap_or(usize::MAX);
        while self.collected.len() < chunk_len {
            match download.next().await? {
                Some(bytes) => {
                    let now = clock::monotonic();
                    let pause = self.through.pace.borrow_mut().handle_bytes(bytes.len(), now);
                    self.collected.extend_from_slice(&bytes);
                    if !pause.is_zero() {
                        Timer::after(pause).await;
                    }
                }
                None => return Err(Stop::ended_after(self.at + self.collected.len() as u64)),
            }
        }
        let later = self.collected.split_off(chunk_len);
        let chunk = Bytes::from(std::mem::replace(&mut self.collected, later));
        if !self.through.chunks.is_chunk(self.at, &chunk) {
            let text = format!("object {sha256} is not what it should be at byte {}", self.at);
            return Err(Stop::Mismatch(Failure::Corrupt(text)));
        }
        self.at = end;
        Ok(chunk)
    }
}
