//! Syncs, one at a time: at the start, again and again, when a machine missed something, and when a person says so.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use pureboot_protocol::{Category, ContentHash, ContentKey, ManifestEntry, Timestamp};
use smol::Timer;
use smol::channel::{Receiver, Sender, bounded};

use crate::cache::evict::Need;
use crate::cache::{Arrival, Cache, Failure};
use crate::clock;
use crate::rng::Rng;

use super::flights::Flights;
use super::housekeeper::Housekeeper;
use super::keeper::Keeper;
use super::manifest::Catalog;
use super::plan::{Group, plan};
use super::report::{ERRORS_MAX, Order, Outcome, Progress, State, Status};

/// Callers that wait for their turn; more are told that theirs is skipped.
const WAITING_MAX: usize = 8;

/// How often a sync that takes long looks whether its manifest is still the newest.
const RECHECK: Duration = Duration::from_secs(60);

/// Says that a sync would be of use. Its clones wish for the same.
#[derive(Clone)]
pub struct Wishes {
    sender: Sender<()>,
    receiver: Receiver<()>,
}

impl Default for Wishes {
    fn default() -> Self {
        // One wish that waits is as good as many.
        let (sender, receiver) = bounded(1);
        Self { sender, receiver }
    }
}

impl Wishes {
    /// A sync soon, please. Nobody waits for it.
    pub fn wish(&self) {
        _ = self.sender.try_send(());
    }
}

/// Brings the cache up to what the manifest says.
pub struct Sync {
    cache: Cache,
    keeper: Rc<Keeper>,
    flights: Rc<Flights>,
    housekeeper: Rc<Housekeeper>,
    wishes: Wishes,
    turn: smol::lock::Mutex<()>,
    waiting: Cell<usize>,
    progress: RefCell<Option<(Progress, Option<Arrival>)>>,
    last: RefCell<Option<(Timestamp, Outcome)>>,
}

impl Sync {
    /// Brings what `keeper` knows by `flights` into `cache`, where `housekeeper` makes room.
    pub fn new(
        cache: Cache,
        keeper: Rc<Keeper>,
        flights: Rc<Flights>,
        housekeeper: Rc<Housekeeper>,
        wishes: Wishes,
    ) -> Self {
        Self {
            cache,
            keeper,
            flights,
            housekeeper,
            wishes,
            turn: smol::lock::Mutex::new(()),
            waiting: Cell::new(0),
            progress: RefCell::default(),
            last: RefCell::default(),
        }
    }

    /// Syncs now, then after each `interval` and at each wish, for as long as the agent runs and is joined.
    pub async fn run(&self, interval: Duration, rng: &mut Rng) {
        loop {
            self.sync(Order::default()).await;
            self.housekeeper.scrub().await;
            // Up to a tenth earlier, so that the agents of forty sites do not ask in one instant.
            let pause = interval - rng.duration_between(Duration::ZERO, interval / 10);
            let rest = async { _ = Timer::after(pause).await };
            let wish = async { _ = self.wishes.receiver.recv().await };
            smol::future::or(rest, wish).await;
        }
    }

    /// Syncs, after those that are under way or were there before.
    pub async fn sync(&self, order: Order) -> Outcome {
        if self.waiting.get() >= WAITING_MAX {
            let errors = vec![format!("{WAITING_MAX} others wait for their turn")];
            let status = Status::Skipped;
            return Outcome { status, errors, ..Run::begin().into_outcome() };
        }
        let _waiting = Waiting::enter(&self.waiting);
        let _turn = self.turn.lock().await;
        let outcome = self.carry_out(&order).await;
        *self.progress.borrow_mut() = None;
        let summary = outcome.summary();
        match outcome.status {
            Status::Failed => log::warn!("a sync of content {summary}"),
            _ if outcome.files_synced > 0 => {
                let (files, bytes) = (outcome.files_synced, outcome.bytes_transferred);
                log::info!(files, bytes; "a sync of content {summary}");
            }
            _ => log::debug!("a sync of content {summary}"),
        }
        *self.last.borrow_mut() = Some((clock::now(), outcome.clone()));
        outcome
    }

    /// Content of this name is not to be believed without looking: what is held of it is read again, the controller is asked
    /// for the manifest, and what is missing then is fetched. Until the replacement is verified the bytes stay (FAULTS C15).
    pub async fn invalidate(&self, key: &ContentKey) -> Outcome {
        if let Some(hash) = self.cache.named(key)
            && let Err(error) = self.cache.verify(hash).await
        {
            log::warn!("cannot read {key} again: {error:#}");
        }
        if let Err(error) = self.keeper.refresh(Duration::ZERO, true).await {
            log::warn!("no newer manifest for {key}: {error}");
        }
        self.sync(Order { force: false, categories: vec![key.category()] }).await
    }

    /// How the site's content is.
    pub fn state(&self) -> State {
        let catalog = self.keeper.catalog();
        let entries = catalog.as_ref().map_or(&[][..], |catalog| catalog.entries());
        let last = self.last.borrow().clone();
        State {
            manifest_version: catalog.as_ref().map(|catalog| catalog.version()),
            manifest_confirmed_at: self.keeper.confirmed_at(),
            manifest_expired: catalog.as_ref().is_some_and(|held| held.is_expired(clock::now())),
            names_wanted: entries.len() as u64,
            names_missing: entries.iter().filter(|entry| self.is_missing(entry)).count() as u64,
            progress: self.progress(),
            last_sync_at: last.as_ref().map(|(at, _)| *at),
            last: last.map(|(_, outcome)| outcome),
        }
    }

    fn progress(&self) -> Option<Progress> {
        let under_way = self.progress.borrow();
        let (progress, arrival) = under_way.as_ref()?;
        let coming = arrival.as_ref().map_or(0, Arrival::received_len);
        Some(Progress { bytes_done: progress.bytes_done + coming, ..progress.clone() })
    }

    fn is_missing(&self, entry: &ManifestEntry) -> bool {
        self.cache.named(&entry.key) != Some(entry.sha256)
    }

    async fn carry_out(&self, order: &Order) -> Outcome {
        let mut run = Run::begin();
        let refreshed = self.keeper.refresh(Duration::ZERO, order.force).await;
        if let Err(error) = refreshed {
            run.note_error(error.to_string());
        }
        let Some(mut catalog) = self.keeper.catalog() else { return run.into_outcome() };
        if order.force {
            self.read_again(&catalog, order, &mut run).await;
        }
        loop {
            let groups = self.plan(&catalog, order);
            self.begin_progress(&run, &groups);
            match self.bring(groups, &catalog, &mut run).await {
                Pass::Done => break,
                Pass::Newer(newer) => catalog = newer,
            }
        }
        if run.errors.is_empty() {
            self.sweep(&catalog).await;
            // Only then: what is wanted no more may be what is served until its successor is here.
            if let Err(error) = self.housekeeper.tidy().await {
                run.note_error(format!("cannot tidy the cache: {error:#}"));
            }
        }
        run.into_outcome()
    }

    fn plan(&self, catalog: &Catalog, order: &Order) -> Vec<Group> {
        let categories =
            if order.categories.is_empty() { Category::ALL } else { &order.categories[..] };
        let named = |key: &ContentKey| self.cache.named(key);
        plan(catalog.entries(), categories, named, |hash| self.cache.holds(hash))
    }

    fn begin_progress(&self, run: &Run, groups: &[Group]) {
        let missing = || groups.iter().flat_map(|group| &group.missing);
        let progress = Progress {
            started_at: run.started_at,
            files_total: run.files_synced + missing().count() as u64,
            files_done: run.files_synced,
            bytes_total: run.bytes_done + missing().map(|entry| entry.size_bytes).sum::<u64>(),
            bytes_done: run.bytes_done,
            current: None,
        };
        *self.progress.borrow_mut() = Some((progress, None));
    }

    /// Fetches and names one group after the other, until all is here or the controller has a newer manifest.
    async fn bring(&self, groups: Vec<Group>, catalog: &Rc<Catalog>, run: &mut Run) -> Pass {
        let wanted: HashSet<ContentHash> =
            catalog.entries().iter().map(|entry| entry.sha256).collect();
        for group in groups {
            let is_here = match self.fetch_all(&group, run).await {
                Ok(is_here) => is_here,
                // Nothing else would come either.
                Err(LineIsDown) => return Pass::Done,
            };
            if is_here
                && let Err(error) =
                    self.cache.assume(group.names, |hash| wanted.contains(hash)).await
            {
                run.note_error(format!("cannot name what has come: {error:#}"));
            }
            if !group.missing.is_empty() && self.keeper.refresh(RECHECK, false).await.is_ok() {
                let newest = self.keeper.catalog().filter(|newest| !Rc::ptr_eq(newest, catalog));
                if let Some(newest) = newest.filter(|newest| newest.version() > catalog.version()) {
                    return Pass::Newer(newest);
                }
            }
        }
        Pass::Done
    }

    /// Fetches what a group is missing; returns whether all of it is here then.
    async fn fetch_all(&self, group: &Group, run: &mut Run) -> Result<bool, LineIsDown> {
        let mut is_here = true;
        for entry in &group.missing {
            if run.given_up.contains(&entry.sha256) {
                is_here = false;
                continue;
            }
            let before = self.flights.received_bytes();
            let outcome = match self.flights.join(entry, Need::Stock) {
                Some(arrival) => {
                    self.show(Some((entry, &arrival)), run);
                    arrival.whole().await.map(|_| ())
                }
                None => Err(Failure::Refused("too many objects are on their way".to_owned())),
            };
            run.bytes_transferred += self.flights.received_bytes() - before;
            match outcome {
                Ok(()) => {
                    run.files_synced += 1;
                    run.bytes_done += entry.size_bytes;
                }
                Err(failure) => {
                    is_here = false;
                    run.given_up.insert(entry.sha256);
                    run.note_error(format!("{}: {failure}", entry.key));
                    if matches!(failure, Failure::Line(_)) {
                        return Err(LineIsDown);
                    }
                }
            }
            self.show(None, run);
        }
        Ok(is_here)
    }

    fn show(&self, current: Option<(&ManifestEntry, &Arrival)>, run: &Run) {
        if let Some((progress, arrival)) = &mut *self.progress.borrow_mut() {
            progress.files_done = run.files_synced;
            progress.bytes_done = run.bytes_done;
            progress.current = current.map(|(entry, _)| entry.key.to_string());
            *arrival = current.map(|(_, arrival)| arrival.clone());
        }
    }

    /// Reads again what the manifest names; what is damaged is missing then, and is fetched.
    async fn read_again(&self, catalog: &Catalog, order: &Order, run: &mut Run) {
        let is_chosen = |entry: &&ManifestEntry| {
            order.categories.is_empty() || order.categories.contains(&entry.key.category())
        };
        let chosen = catalog.entries().iter().filter(is_chosen);
        let hashes: BTreeSet<_> = chosen.map(|entry| entry.sha256).collect();
        for hash in hashes {
            if let Err(error) = self.cache.verify(hash).await {
                run.note_error(format!("cannot read object {hash} again: {error:#}"));
            }
        }
    }

    /// Parts of objects that the manifest no longer names are of no use.
    async fn sweep(&self, catalog: &Catalog) {
        let wanted = catalog.entries().iter().map(|entry| entry.sha256).collect();
        match self.cache.sweep_parts(wanted).await {
            Ok(0) => {}
            Ok(swept) => log::info!(swept; "removed parts of content that is no longer wanted"),
            Err(error) => log::warn!("cannot remove parts of content: {error:#}"),
        }
    }
}

/// How a pass over the plan ended.
enum Pass {
    /// There is nothing left that could be done.
    Done,
    /// The controller has another manifest.
    Newer(Rc<Catalog>),
}

/// The controller cannot be reached.
struct LineIsDown;

/// One sync while it runs.
struct Run {
    started_at: Timestamp,
    started: Instant,
    files_synced: u64,
    bytes_transferred: u64,
    bytes_done: u64,
    given_up: HashSet<ContentHash>,
    errors: Vec<String>,
}

impl Run {
    fn begin() -> Self {
        Self {
            started_at: clock::now(),
            started: clock::monotonic(),
            files_synced: 0,
            bytes_transferred: 0,
            bytes_done: 0,
            given_up: HashSet::new(),
            errors: Vec::new(),
        }
    }

    fn note_error(&mut self, error: String) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(error);
        }
    }

    fn into_outcome(self) -> Outcome {
        Outcome {
            status: if self.errors.is_empty() { Status::Completed } else { Status::Failed },
            files_synced: self.files_synced,
            bytes_transferred: self.bytes_transferred,
            errors: self.errors,
            duration_seconds: clock::monotonic().duration_since(self.started).as_secs_f64(),
        }
    }
}

/// A caller among those that wait.
struct Waiting<'a>(&'a Cell<usize>);

impl<'a> Waiting<'a> {
    fn enter(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
