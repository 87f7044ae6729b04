//! Objects on their way from the controller: each is fetched once, whoever asks for it and whoever leaves meanwhile.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
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
use crate::cache::{
    Arrival, Cache, ChunkList, Failure, FillError, LIST_LEN_MAX, Object, Part, Wanted,
};
use crate::uplink::controller::{CallError, Controller, Download};

use super::fetch::{Fetch, Head, Next, Use};
use super::housekeeper::Housekeeper;
use super::line::Line;
use super::pieces::{Pieces, Place as Piece, Stretch};

/// Objects that are fetched at a time because a machine asked for them; one more is fetched ahead. More of them wait.
const FETCHES_MAX: usize = 4;

/// Objects that are fetched or wait for it; more are refused.
const FLIGHTS_MAX: usize = 64;

/// How often content that is fetched ahead looks whether machines still wait for other content.
const YIELD_TIME: Duration = Duration::from_millis(200);

/// The most objects whose pieces are looked through for those of a new one.
const RELATIVES_MAX: usize = 4;

/// How much is collected before a thread writes it, in bytes.
const WRITE_LEN: usize = 256 << 10;

/// Fetches objects.
pub struct Flights {
    executor: Rc<LocalExecutor<'static>>,
    cache: Cache,
    controller: Rc<Controller>,
    housekeeper: Rc<Housekeeper>,
    line: Rc<Line>,
    under_way: RefCell<BTreeMap<ContentHash, Flight>>,
    slots: Semaphore,
    stock_slot: Semaphore,
    received_bytes: Cell<u64>,
    reused_bytes: Cell<u64>,
}

/// An object on its way.
#[derive(Clone)]
struct Flight {
    arrival: Arrival,
    /// For whose sake; more than at first where a machine has asked meanwhile.
    need: Rc<Cell<Need>>,
}

/// Why a try has ended before the object was whole.
pub(super) enum Stop {
    /// The line; the pause is the controller's wish.
    Break { failure: Failure, retry_after: Option<Duration> },
    /// What has come is not what the manifest says.
    Mismatch(Failure),
    /// No further try would help.
    Final(Failure),
    /// Machines wait for other content.
    Yield,
}

impl Flights {
    /// Fetches from `controller` into `cache`, all together not faster than `line` allows.
    pub fn new(
        executor: Rc<LocalExecutor<'static>>,
        cache: Cache,
        controller: Rc<Controller>,
        housekeeper: Rc<Housekeeper>,
        line: Rc<Line>,
    ) -> Self {
        Self {
            executor,
            cache,
            controller,
            housekeeper,
            line,
            under_way: RefCell::default(),
            slots: Semaphore::new(FETCHES_MAX),
            stock_slot: Semaphore::new(1),
            received_bytes: Cell::new(0),
            reused_bytes: Cell::new(0),
        }
    }

    /// The fetch of an object: the one that is under way, or one that begins now and goes on whoever waits for it, and that may
    /// take the room of others as `need` says. None if too many objects are on their way.
    pub fn join(self: &Rc<Self>, entry: &ManifestEntry, need: Need) -> Option<Arrival> {
        let mut under_way = self.under_way.borrow_mut();
        if let Some(flight) = under_way.get(&entry.sha256) {
            flight.need.set(flight.need.get().max(need));
            return Some(flight.arrival.clone());
        }
        if under_way.len() >= FLIGHTS_MAX {
            return None;
        }
        let flight = Flight { arrival: Arrival::default(), need: Rc::new(Cell::new(need)) };
        under_way.insert(entry.sha256, flight.clone());
        let (flights, entry, arrival) = (Rc::clone(self), entry.clone(), flight.arrival.clone());
        let bringing = async move {
            let outcome = flights.bring(&entry, &flight).await;
            match &outcome {
                Ok(_) => {
                    if flight.need.get() == Need::Machine {
                        flights.cache.note_asked(entry.sha256);
                    }
                    log::info!(bytes = entry.size_bytes; "{} is here", entry.key);
                }
                Err(failure) => log::warn!("{} did not come: {failure}", entry.key),
            }
            // Before those who wait are told: who asks anew from then on begins anew.
            flights.under_way.borrow_mut().remove(&entry.sha256);
            flight.arrival.end(outcome);
        };
        self.executor.spawn(bringing).detach();
        Some(arrival)
    }

    /// Removes what has come of objects that are not in `wanted`; answers how much. While something is fetched ahead nothing is removed:
    /// it may be what no manifest names, as another version of the agent is.
    ///
    /// # Errors
    /// The disk's.
    pub async fn sweep(&self, wanted: HashSet<ContentHash>) -> anyhow::Result<usize> {
        let Some(_slot) = self.stock_slot.try_acquire() else { return Ok(0) };
        self.cache.sweep_parts(wanted).await
    }

    /// Bytes that have come since the start.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.get()
    }

    /// Bytes of objects on their way that were here already in others, since the start.
    pub fn reused_bytes(&self) -> u64 {
        self.reused_bytes.get()
    }

    /// Whether this flight has to leave the line to machines that wait for other content.
    fn has_to_yield(&self, flight: &Flight) -> bool {
        let is_stock = flight.need.get() < Need::Machine;
        let under_way = self.under_way.borrow();
        is_stock && under_way.values().any(|other| other.need.get() == Need::Machine)
    }

    async fn bring(&self, entry: &ManifestEntry, flight: &Flight) -> Result<Object, Failure> {
        let slots = match flight.need.get() {
            Need::Machine => &self.slots,
            Need::Stock | Need::Tidiness => &self.stock_slot,
        };
        let _slot = slots.acquire().await;
        // Whoever asked may have looked before the last fetch of it ended.
        if let Some(object) = self.cache.held(entry.sha256).await {
            return Ok(object);
        }
        self.housekeeper.make_room(entry.size_bytes, flight.need.get()).await?;
        let mut fetch = Fetch::new(entry.sha256, entry.size_bytes);
        let mut place = Place::default();
        loop {
            while self.has_to_yield(flight) {
                Timer::after(YIELD_TIME).await;
            }
            let stop = match self.attempt(entry, &mut place, &mut fetch, flight).await {
                Ok(object) => return Ok(object),
                Err(Stop::Yield) => continue,
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
        flight: &Flight,
    ) -> Result<Object, Stop> {
        let wanted = match &place.wanted {
            Some(wanted) => wanted.clone(),
            None => {
                let wanted = wanted(&self.cache, &self.controller, entry).await?;
                place.pieces = self.pieces(entry, &wanted).await;
                place.wanted.insert(wanted).clone()
            }
        };
        let mut part = match place.part.take() {
            Some(part) => part,
            None => self.cache.part(wanted.clone()).await?,
        };
        while part.received_len() < entry.size_bytes {
            let here = part.received_len();
            let next = match &wanted.chunks {
                Some(chunks) => place.pieces.next(chunks, here, entry.size_bytes),
                None => Stretch::Missing(here..entry.size_bytes),
            };
            let came = match next {
                Stretch::Here(chunk, piece) => {
                    if !self.copy(&mut part, piece, chunk.len()).await? {
                        place.pieces = Pieces::default();
                    }
                    tell(&flight.arrival, &part);
                    Ok(())
                }
                Stretch::Missing(range) => {
                    self.receive(entry, &mut part, fetch, flight, range).await
                }
            };
            if let Err(stop) = came {
                place.part = Some(part);
                return Err(stop);
            }
        }
        Ok(part.end().await?)
    }

    /// What is here already of an object, in those that it is likely to be a successor of.
    async fn pieces(&self, entry: &ManifestEntry, wanted: &Wanted) -> Pieces {
        if wanted.chunks.as_ref().is_none_or(|chunks| chunks.count() < 2) {
            return Pieces::default();
        }
        let mut lists = Vec::new();
        for (sha256, size_bytes) in self.cache.relatives(&entry.key, RELATIVES_MAX) {
            if sha256 != entry.sha256
                && let Some(chunks) = self.cache.chunk_list(sha256, size_bytes).await
            {
                lists.push((sha256, chunks));
            }
        }
        Pieces::of(lists.iter().map(|(sha256, chunks)| (*sha256, chunks)))
    }

    /// Copies a piece that is here; returns whether it was what it should be.
    async fn copy(&self, part: &mut Part, piece: Piece, len: usize) -> Result<bool, Stop> {
        let Some(source) = self.cache.held(piece.sha256).await else { return Ok(false) };
        let Ok(bytes) = source.read_at(piece.offset, len).await else { return Ok(false) };
        let copied = bytes.len() as u64;
        match part.write(Bytes::from(bytes)).await {
            Ok(()) => {
                self.reused_bytes.set(self.reused_bytes.get() + copied);
                Ok(true)
            }
            Err(FillError::Chunk { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Fetches what of an object lies in `range`; it goes on to the end where the controller does not send parts.
    async fn receive(
        &self,
        entry: &ManifestEntry,
        part: &mut Part,
        fetch: &mut Fetch,
        flight: &Flight,
        range: Range<u64>,
    ) -> Result<(), Stop> {
        let mut end = range.end;
        fetch.handle_start(range);
        tell(&flight.arrival, part);
        let Begun { mut download, mut behind } =
            begin(&self.controller, fetch, entry.sha256).await?;
        if behind > 0 {
            end = entry.size_bytes;
        }
        let mut collected = Vec::new();
        loop {
            let next = download.next().await;
            if let Ok(Some(bytes)) = &next {
                self.received_bytes.set(self.received_bytes.get() + bytes.len() as u64);
                let known = usize::try_from(behind).unwrap_or(usize::MAX).min(bytes.len());
                behind -= known as u64;
                collected.extend_from_slice(bytes.get(known..).unwrap_or_default());
                self.line.take(bytes.len()).await;
                if collected.len() < WRITE_LEN && !self.has_to_yield(flight) {
                    continue;
                }
            }
            if !collected.is_empty() {
                part.write(Bytes::from(std::mem::take(&mut collected))).await?;
                tell(&flight.arrival, part);
            }
            if next?.is_none() {
                break;
            }
            if self.has_to_yield(flight) {
                return Err(Stop::Yield);
            }
        }
        if part.received_len() < end {
            return Err(Stop::ended_after(part.received_len()));
        }
        Ok(())
    }
}

/// What is known of an object before it comes; where its chunks can be verified, their list has come before it.
pub(super) async fn wanted(
    cache: &Cache,
    controller: &Rc<Controller>,
    entry: &ManifestEntry,
) -> Result<Wanted, Stop> {
    let ManifestEntry { sha256, size_bytes, .. } = *entry;
    let list_len = |chunks: &Chunks| (chunks.count as usize).saturating_mul(Chunks::ROW_LEN);
    let is_ours =
        |chunks: &Chunks| chunks.format == Chunks::FORMAT && list_len(chunks) <= LIST_LEN_MAX;
    let Some(named) = entry.chunks.filter(is_ours) else {
        return Ok(Wanted { sha256, size_bytes, chunks: ChunkList::whole(sha256, size_bytes) });
    };
    let is_named = |list: &[u8]| Sha256::digest(list)[..] == named.sha256.as_bytes()[..];
    if let Some(kept) = cache.chunk_list(sha256, size_bytes).await
        && is_named(&kept.emit())
    {
        return Ok(Wanted { sha256, size_bytes, chunks: Some(kept) });
    }
    let list = controller.object_chunks(sha256, list_len(&named)).await?;
    match ChunkList::parse(&list, size_bytes).filter(|_| is_named(&list)) {
        Some(chunks) => Ok(Wanted { sha256, size_bytes, chunks: Some(chunks) }),
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

/// Asks for what `fetch` is to bring of an object.
pub(super) async fn begin(
    controller: &Rc<Controller>,
    fetch: &Fetch,
    sha256: ContentHash,
) -> Result<Begun, Stop> {
    let download = controller.object(sha256, fetch.range()).await?;
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
            Self::Yield => (yielded(), Next::Again(YIELD_TIME)),
        }
    }

    /// What is told of a try that is not repeated.
    pub(super) fn into_failure(self) -> Failure {
        match self {
            Self::Break { failure, .. } | Self::Mismatch(failure) | Self::Final(failure) => failure,
            Self::Yield => yielded(),
        }
    }
}

fn yielded() -> Failure {
    Failure::Line("machines wait for other content".to_owned())
}

/// Where an object is being put together, from try to try.
#[derive(Default)]
struct Place {
    wanted: Option<Wanted>,
    pieces: Pieces,
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
