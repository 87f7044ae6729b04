//! Content for one machine past a cache that has no room for it (FAULTS D2): fetched for it alone, and given piece by piece as
//! each has been verified. Nothing of it is kept.

use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use hyper::body::Bytes;
use pureboot_protocol::ManifestEntry;
use smol::Timer;
use smol::lock::{Semaphore, SemaphoreGuardArc};
use smol::stream::{self, Stream};

use crate::cache::{Cache, ChunkList, Failure, Wanted};
use crate::uplink::controller::{Controller, Download};

use super::fetch::{Fetch, Next};
use super::flights::{Stop, begin, wanted};
use super::line::Line;

/// Machines that are served so at a time: each costs a chunk of memory and its own transfer over the line.
const THROUGH_MAX: usize = 4;

/// Serves machines past the cache.
pub struct Bypass {
    cache: Cache,
    controller: Rc<Controller>,
    line: Rc<Line>,
    slots: Arc<Semaphore>,
}

impl Bypass {
    /// Fetches from `controller` past `cache`, not faster than `line` allows.
    pub fn new(cache: Cache, controller: Rc<Controller>, line: Rc<Line>) -> Self {
        Self { cache, controller, line, slots: Arc::new(Semaphore::new(THROUGH_MAX)) }
    }

    /// Content for one machine; none while as many are served so as may be.
    ///
    /// # Errors
    /// The controller does not answer, or the content is too long to be verified in memory.
    pub async fn open(&self, entry: &ManifestEntry) -> Result<Option<Through>, Failure> {
        let Some(slot) = self.slots.try_acquire_arc() else { return Ok(None) };
        let wanted = wanted(&self.cache, &self.controller, entry).await;
        let wanted = wanted.map_err(Stop::into_failure)?;
        let Some(chunks) = wanted.chunks.clone() else {
            let text = "there is no room for it, and no list of its chunks to verify it by";
            return Err(Failure::NoSpace(text.to_owned()));
        };
        let (controller, line) = (Rc::clone(&self.controller), Rc::clone(&self.line));
        Ok(Some(Through { controller, line, wanted, chunks, _slot: slot }))
    }
}

/// Content that passes by the cache.
pub struct Through {
    controller: Rc<Controller>,
    line: Rc<Line>,
    wanted: Wanted,
    chunks: ChunkList,
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
            at: self.chunks.at(range.start).map_or(0, |chunk| chunk.start),
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
        let sha256 = self.through.wanted.sha256;
        let Some(expected) = self.through.chunks.at(self.at) else {
            return Err(Stop::ended_after(self.at));
        };
        let download = match &mut self.download {
            Some(download) => download,
            None => {
                let rest = self.at..self.through.wanted.size_bytes;
                self.fetch.handle_start(rest);
                let begun = begin(&self.through.controller, &self.fetch, sha256).await?;
                // A controller that does not know ranges sends what is not asked for, too; it is not worth the line.
                if begun.behind > 0 {
                    let text = "the controller does not send parts of content".to_owned();
                    return Err(Stop::Final(Failure::Refused(text)));
                }
                self.download.insert(begun.download)
            }
        };
        while self.collected.len() < expected.len() {
            match download.next().await? {
                Some(bytes) => {
                    self.through.line.take(bytes.len()).await;
                    self.collected.extend_from_slice(&bytes);
                }
                None => return Err(Stop::ended_after(self.at + self.collected.len() as u64)),
            }
        }
        let later = self.collected.split_off(expected.len());
        let chunk = Bytes::from(std::mem::replace(&mut self.collected, later));
        if !expected.is(&chunk) {
            let text = format!("object {sha256} is not what it should be at byte {}", self.at);
            return Err(Stop::Mismatch(Failure::Corrupt(text)));
        }
        self.at = expected.end;
        Ok(chunk)
    }
}
