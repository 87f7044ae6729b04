//! Objects on their way from the controller: each is fetched once, whoever asks for it and whoever leaves meanwhile.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderName};
use hyper::http::response::Parts;
use pureboot_protocol::{Chunks, ContentHash, ManifestEntry};
use sha2::{Digest as _, Sha256};
use smol::lock::Semaphore;
use smol::{LocalExecutor, Timer};

use crate::cache::evict::Need;
use crate::cache::{Arrival, Cache, ChunkHashes, Failure, FillError, Object, Part, Wanted};
use crate::clock;
use crate::uplink::controller::{CallError, Controller, Download};

use super::fetch::{Fetch, Head, Next, Use};
use super::housekeeper::Housekeeper;
use super::pace::Pace;

/// Objects that are fetched at a time. More of them wait.
const FETCHES_MAX: usize = 4;

/// Objects that are fetched or wait for it; more are refused.
const FLIGHTS_MAX: usize = 64;

/// How much is collected before a thread writes it, in bytes.
const WRITE_LEN: usize = 256 << 10;

/// The longest list of chunk hashes that is held in memory, in bytes: that of 128 GiB.
const CHUNK_LIST_LEN_MAX: usize = 4 << 20;

/// Fetches objects.
pub struct Flights {
    executor: Rc<LocalExecutor<'static>>,
    cache: Cache,
    controller: Rc<Controller>,
    housekeeper: Rc<Housekeeper>,
    pace: Rc<RefCell<Pace>>,
    under_way: RefCell<BTreeMap<ContentHash, Arrival>>,
    slots: Semaphore,
    received_bytes: Cell<u64>,
}

/// Why a try has ended before the object was whole.
pub(super) enum Stop {
    /// The line; the pause is the controller's wish.
    Break { failure: Failure, retry_after: Option<Duration> },
    /// What has come is not what the manifest says.
    Mismatch(Failure),
    /// No further try would help.
    Final(Failure),
}

impl Flights {
    /// Fetches from `controller` into `cache`, all together not faster than `pace`.
    pub fn new(
        executor: Rc<LocalExecutor<'static>>,
        cache: Cache,
        controller: Rc<Controller>,
        housekeeper: Rc<Housekeeper>,
        pace: Rc<RefCell<Pace>>,
    ) -> Self {
        Self {
            executor,
            cache,
            controller,
            housekeeper,
            pace,
            under_way: RefCell::default(),
            slots: Semaphore::new(FETCHES_MAX),
            received_bytes: Cell::new(0),
        }
    }

    /// The fetch of an object: the one that is under way, or one that begins now and goes on whoever waits for it, and that may
    /// take the room of others as `need` says. None if too many objects are on their way.
    pub fn join(self: &Rc<Self>, entry: &ManifestEntry, need: Need) -> Option<Arrival> {
        let mut under_way = self.under_way.borrow_mut();
        if let Some(arrival) = under_way.get(&entry.sha256) {
            return Some(arrival.clone());
        }
        if under_way.len() >= FLIGHTS_MAX {
            return None;
        }
        let arrival = Arrival::default();
        under_way.insert(entry.sha256, arrival.clone());
        let (flights, entry, coming) = (Rc::clone(self), entry.clone(), arrival.clone());
        let flight = async move {
            let outcome = flights.bring(&entry, need, &coming).await;
            match &outcome {
                Ok(_) => log::info!(bytes = entry.size_bytes; "{} is here", entry.key),
                Err(failure) => log::warn!("{} did not come: {failure}", entry.key),
            }
            // Before those who wait are told: who asks anew from then on begins anew.
            flights.under_way.borrow_mut().remove(&entry.sha256);
            coming.end(outcome);
        };
        self.executor.spawn(flight).detach();
        Some(arrival)
    }

    /// Bytes that have come since the start.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.get()
    }

    async fn bring(
        &self,
        entry: &ManifestEntry,
        need: Need,
        arrival: &Arrival,
    ) -> Result<Object, Failure> {
        let _slot = self.slots.acquire().await;
        // Whoever asked may have looked before the last fetch of it ended.
        if let Some(object) = self.cache.held(entry.sha256).await {
            return Ok(object);
        }
        self.housekeeper.make_room(entry.size_bytes, need).await?;
        let mut fetch = Fetch::new(entry.sha256, entry.size_bytes);
        let mut place = Place { wanted: None, part: None };
        loop {
            let stop = match self.attempt(entry, &mut place, &mut fetch, arrival).await {
                Ok(object) => return Ok(object),
                Err(stop) => stop,
            };
            let here = place.part.as_ref().map_or(0, Part::received_len);
            let (failure, next) = stop.weigh(&mut fetch, here);
            match (next, failure) {
                (Next::Again(pause), failure) => {
                    log::info!(
                        "{}: {failure}; trying again in {} ms",
                        entry.key,
                        pause.as_millis()
                    );
                    Timer::after(pause).await;
                }
                // What was fetched in vain is not to fill the disk.
                (Next::GiveUp, failure @ (Failure::NoSpace(_) | Failure::Corrupt(_))) => {
                    if let Some(part) = place.part {
                        part.discard().await;
                    }
                    return Err(failure);
                }
                (Next::GiveUp, failure) => return Err(failure),
            }
        }
    }

    /// One try: what is missing of the object, to its end.
    async fn attempt(
        &self,
        entry: &ManifestEntry,
        place: &mut Place,
        fetch: &mut Fetch,
        arrival: &Arrival,
    ) -> Result<Object, Stop> {
        let wanted = match &place.wanted {
            Some(wanted) => wanted.clone(),
            None => place.wanted.insert(wanted(&self.controller, entry).await?).clone(),
        };
        let mut part = match place.part.take() {
            Some(part) => part,
            None => self.cache.part(wanted).await?,
        };
        if part.received_len() < entry.size_bytes {
            let received = self.receive(entry, &mut part, fetch, arrival).await;
            if let Err(stop) = received {
                place.part = Some(part);
                return Err(stop);
            }
        }
        Ok(part.end().await?)
    }

    async fn receive(
        &self,
        entry: &ManifestEntry,
        part: &mut Part,
        fetch: &mut Fetch,
        arrival: &Arrival,
    ) -> Result<(), Stop> {
        let here = part.received_len();
        fetch.handle_start(here);
        tell(arrival, part);
        let Begun { mut download, mut behind } =
            begin(&self.controller, fetch, entry.sha256, here).await?;
        let mut collected = Vec::new();
        loop {
            let next = download.next().await;
            if let Ok(Some(bytes)) = &next {
                self.received_bytes.set(self.received_bytes.get() + bytes.len() as u64);
                let known = usize::try_from(behind).unwrap_or(usize::MAX).min(bytes.len());
                behind -= known as u64;
                collected.extend_from_slice(bytes.get(known..).unwrap_or_default());
                if collected.len() < WRITE_LEN {
                    continue;
                }
            }
            if !collected.is_empty() {
                let bytes = Bytes::from(std::mem::take(&mut collected));
                let pause = self.pace.borrow_mut().handle_bytes(bytes.len(), clock::monotonic());
                part.write(bytes).await?;
                tell(arrival, part);
                if !pause.is_zero() {
                    Timer::after(pause).await;
                }
            }
            if next?.is_none() {
                break;
            }
        }
        if part.received_len() < entry.size_bytes {
            return Err(Stop::ended_after(part.received_len()));
        }
        Ok(())
    }
}

/// What is known of an object before it comes; where its chunks can be verified, their hashes have come before it.
pub(super) async fn wanted(
    controller: &Rc<Controller>,
    entry: &ManifestEntry,
) -> Result<Wanted, Stop> {
    let ManifestEntry { sha256, size_bytes, .. } = *entry;
    let is_ours = |chunks: &Chunks| chunks.size_bytes == Chunks::SIZE_BYTES;
    let Some(chunks) = entry.chunks.filter(is_ours) else {
        return Ok(Wanted { sha256, size_bytes, chunks: None });
    };
    let list_len = ChunkHashes::list_len(chunks.size_bytes, size_bytes);
    let Some(list_len) = list_len.filter(|len| *len <= CHUNK_LIST_LEN_MAX) else {
        return Ok(Wanted { sha256, size_bytes, chunks: None });
    };
    let list = controller.object_chunks(sha256, list_len).await?;
    let computed = ContentHash::from_digest(Sha256::digest(&list).into());
    let hashes = ChunkHashes::new(list, chunks.size_bytes, size_bytes);
    match hashes.filter(|_| computed == chunks.sha256) {
        Some(hashes) => Ok(Wanted { sha256, size_bytes, chunks: Some(hashes) }),
        None => {
            let text = "the list of its chunks is not the one that the manifest names".to_owned();
            Err(Stop::Mismatch(Failure::Corrupt(text)))
        }
    }
}

/// An object whose bytes come next.
pub(super) struct Begun {
    pub(super) download: Download,
    /// So many of its first bytes are here already.
    pub(super) behind: u64,
}

/// Asks for an object without its first `here` bytes.
pub(super) async fn begin(
    controller: &Rc<Controller>,
    fetch: &Fetch,
    sha256: ContentHash,
    here: u64,
) -> Result<Begun, Stop> {
    let download = controller.object(sha256, here).await?;
    match fetch.handle_head(&head(&download.head)) {
        Use::TakeBehind(behind) => Ok(Begun { download, behind }),
        Use::Refusal => Err(download.refusal().await.into()),
        Use::Mismatch => {
            let text = format!("the controller has object {sha256} with another length");
            Err(Stop::Mismatch(Failure::Corrupt(text)))
        }
        Use::Foreign => {
            let text = format!("{}, and not object {sha256}", download.head.status);
            Err(CallError::Foreign(text).into())
        }
    }
}

impl Stop {
    /// The controller ended its answer before the object's end.
    pub(super) fn ended_after(here: u64) -> Self {
        let failure = Failure::Line(format!("it ended after {here} bytes"));
        Self::Break { failure, retry_after: None }
    }

    /// What is told if nothing helps, and what to do now that `here` bytes are here.
    pub(super) fn weigh(self, fetch: &mut Fetch, here: u64) -> (Failure, Next) {
        match self {
            Self::Break { failure, retry_after } => {
                (failure, fetch.handle_break(here, retry_after))
            }
            Self::Mismatch(failure) => (failure, fetch.handle_mismatch()),
            Self::Final(failure) => (failure, Next::GiveUp),
        }
    }

    /// What is told of a try that is not repeated.
    pub(super) fn into_failure(self) -> Failure {
        match self {
            Self::Break { failure, .. } | Self::Mismatch(failure) | Self::Final(failure) => failure,
        }
    }
}

/// Where an object is being put together, from try to try.
struct Place {
    wanted: Option<Wanted>,
    part: Option<Part>,
}

fn tell(arrival: &Arrival, part: &Part) {
    arrival.note_received(part.received_len());
    if part.believed_len() > 0 {
        arrival.advance(part.object(), part.believed_len());
    }
}

fn head(parts: &Parts) -> Head {
    let field = |name: HeaderName| parts.headers.get(name)?.to_str().ok().map(ToOwned::to_owned);
    Head {
        status: parts.status,
        etag: field(ETAG),
        content_range: field(CONTENT_RANGE),
        content_length: field(CONTENT_LENGTH).and_then(|text| text.parse().ok()),
    }
}

impl From<CallError> for Stop {
    fn from(error: CallError) -> Self {
        let text = error.to_string();
        match error {
            CallError::Refused(refusal)
                if refusal.status.is_server_error() || refusal.status.as_u16() == 429 =>
            {
                let failure = Failure::Line(text);
                Self::Break { failure, retry_after: refusal.retry_after }
            }
            CallError::Refused(_) => Self::Final(Failure::Refused(text)),
            _ => Self::Break { failure: Failure::Line(text), retry_after: None },
        }
    }
}

impl From<FillError> for Stop {
    fn from(error: FillError) -> Self {
        let text = error.to_string();
        match error {
            FillError::Size { .. } | FillError::Hash { .. } | FillError::Chunk { .. } => {
                Self::Mismatch(Failure::Corrupt(text))
            }
            FillError::NoSpace => Self::Final(Failure::NoSpace(text)),
            FillError::Source(_) | FillError::Storage(_) => Self::Final(Failure::Storage(text)),
        }
    }
}
