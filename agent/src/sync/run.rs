//! Syncs, one at a time: at the start, again and again, when a machine missed something, and when a person says so.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use pureboot_protocol::{Category, ContentHash, ContentKey, ManifestEntry, Timestamp};
use smol::Timer;

use crate::cache::evict::Need;
use crate::cache::{Arrival, Cache, Failure};
use crate::clock;
use crate::rng::Rng;

use super::flights::Flights;
use super::housekeeper::Housekeeper;
use super::jury::Jury;
use super::keeper::{Keeper, Stale};
use super::manifest::Catalog;
use super::pinned::Pinned;
use super::plan::{Group, objects, plan};
use super::report::{
    ERRORS_MAX, GivenUp, LEFT_OUT_MAX, LeftOut, Order, Outcome, PinState, Progress, State, Status,
};
use super::rhythm::{Reach, Rhythm};
use super::wishes::Wishes;

/// Callers that wait for their turn; more are told that theirs is skipped.
const WAITING_MAX: usize = 8;

/// How often a sync that takes long looks whether its manifest is still the newest.
const RECHECK: Duration = Duration::from_secs(60);

/// What is known of the manifest before a sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    /// The one that is held is the controller's, by its own word.
    Told,
    /// The controller has to be asked.
    Unknown,
}

/// Brings the cache up to what the manifest says.
pub struct Sync {
    cache: Cache,
    keeper: Rc<Keeper>,
    flights: Rc<Flights>,
    housekeeper: Rc<Housekeeper>,
    pinned: Rc<Pinned>,
    wishes: Wishes,
    jury: Option<Rc<dyn Jury>>,
    turn: smol::lock::Mutex<()>,
    waiting: Cell<usize>,
    progress: RefCell<Option<(Progress, Option<Arrival>)>>,
    last: RefCell<Option<(Timestamp, Outcome)>>,
    next_at: Cell<Option<Timestamp>>,
}

/// What syncs rest on.
pub struct Parts {
    /// Takes content.
    pub cache: Cache,
    /// Knows what the site is to hold.
    pub keeper: Rc<Keeper>,
    /// Bring it.
    pub flights: Rc<Flights>,
    /// Makes room.
    pub housekeeper: Rc<Housekeeper>,
    /// What persons want held.
    pub pinned: Rc<Pinned>,
    /// Say when.
    pub wishes: Wishes,
    /// May have a word on what is held.
    pub jury: Option<Rc<dyn Jury>>,
}

impl Sync {
    /// Syncs by `parts`.
    pub fn new(parts: Parts) -> Self {
        let Parts { cache, keeper, flights, housekeeper, pinned, wishes, jury } = parts;
        Self {
            cache,
            keeper,
            flights,
            housekeeper,
            pinned,
            wishes,
            jury,
            turn: smol::lock::Mutex::new(()),
            waiting: Cell::new(0),
            progress: RefCell::default(),
            last: RefCell::default(),
            next_at: Cell::new(None),
        }
    }

    /// Syncs in this rhythm and at each wish, for as long as the agent runs and is joined.
    pub async fn run(&self, mut rhythm: Rhythm, rng: &mut Rng) {
        rhythm.begin().await;
        loop {
            let began = clock::now();
            let reach = rhythm.reach(began);
            // Twice, because what tells has a rhythm of its own.
            let news = match self.keeper.is_told(2 * rhythm.interval()) {
                true => News::Told,
                false => News::Unknown,
            };
            let ended = self.take_turn(&Order::default(), reach, news).await;
            if reach == Reach::All && !ended.is_cut_off {
                rhythm.handle_run(began).await;
            }
            self.next_at.set(rhythm.next_at(clock::now()));
            if let Some(lost) = self.housekeeper.scrub().await {
                self.wishes.wish_for(lost);
            }
            let pause = rhythm.pause(clock::now(), rng);
            let rest = async { _ = Timer::after(pause).await };
            let wish = async { self.wishes.heard().await };
            smol::future::or(rest, wish).await;
        }
    }

    /// Sets aside what was found damaged when somebody read it, and has it fetched anew, for as long as the agent runs.
    pub async fn mend(&self) {
        loop {
            let damage = self.cache.damaged().await;
            let sha256 = damage.sha256;
            match self.cache.set_aside(damage).await {
                Ok(()) => self.wishes.wish_for(sha256),
                Err(error) => log::error!("cannot set object {sha256} aside: {error:#}"),
            }
        }
    }

    /// Syncs everything, after those that are under way or were there before.
    pub async fn sync(&self, order: Order) -> Outcome {
        if self.waiting.get() >= WAITING_MAX {
            let errors = vec![format!("{WAITING_MAX} others wait for their turn")];
            let status = Status::Skipped;
            return Outcome { status, errors, ..Run::begin().into_outcome() };
        }
        self.take_turn(&order, Reach::All, News::Unknown).await.outcome
    }

    /// A heartbeat has told which manifest the site has, or that it does not tell. One that is newer is asked for at once.
    pub fn hear(&self, version: Option<u64>, now: Timestamp) {
        if self.keeper.hear(version, now) {
            self.wishes.wake();
        }
    }

    /// A sync soon, please: what is to be held may have changed.
    pub fn wish(&self) {
        self.wishes.wake();
    }

    async fn take_turn(&self, order: &Order, reach: Reach, news: News) -> Ended {
        let _waiting = Waiting::enter(&self.waiting);
        let _turn = self.turn.lock().await;
        let ended = self.carry_out(order, reach, news).await;
        *self.progress.borrow_mut() = None;
        let outcome = &ended.outcome;
        let summary = outcome.summary();
        match outcome.status {
            Status::Failed => log::warn!("a sync of content {summary}"),
            _ if outcome.files_synced > 0 => {
                let (files, bytes) = (outcome.files_synced, outcome.bytes_transferred);
                log::info!(files, bytes, reused = outcome.bytes_reused; "a sync of content {summary}");
            }
            _ => log::debug!("a sync of content {summary}"),
        }
        *self.last.borrow_mut() = Some((clock::now(), outcome.clone()));
        ended
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

    /// What a pin means for a name; what is missing of it comes soon.
    pub fn pin_state(&self, key: &ContentKey, is_pinned: bool) -> PinState {
        let held = self.cache.named(key).is_some();
        let in_manifest = match is_pinned && !held {
            true => self.replace(key),
            false => self.in_manifest(key).is_some(),
        };
        PinState { name: key.clone(), pinned: is_pinned, held, in_manifest }
    }

    /// Has content fetched that is not here, at once and not only when the schedule says so. Returns whether the manifest names it.
    pub fn replace(&self, key: &ContentKey) -> bool {
        let wanted = self.in_manifest(key);
        if let Some(sha256) = wanted {
            self.wishes.wish_for(sha256);
        }
        wanted.is_some()
    }

    fn in_manifest(&self, key: &ContentKey) -> Option<ContentHash> {
        self.keeper.catalog().and_then(|catalog| Some(catalog.entry(key)?.sha256))
    }

    /// How the site's content is.
    pub fn state(&self) -> State {
        let catalog = self.keeper.catalog();
        let entries = catalog.as_ref().map_or(&[][..], |catalog| catalog.entries());
        let last = self.last.borrow().clone();
        let count = |is: &dyn Fn(&ManifestEntry) -> bool| {
            entries.iter().filter(|entry| is(entry)).count() as u64
        };
        State {
            manifest_version: catalog.as_ref().map(|catalog| catalog.version()),
            manifest_coming: self.keeper.coming(),
            manifest_confirmed_at: self.keeper.confirmed_at(),
            manifest_expired: catalog.as_ref().is_some_and(|held| held.is_expired(clock::now())),
            names_wanted: entries.len() as u64,
            names_missing: count(&|entry| self.is_missing(entry)),
            names_left_out: count(&|entry| self.is_left_out(entry)),
            received_bytes: self.flights.received_bytes(),
            reused_bytes: self.flights.reused_bytes(),
            progress: self.progress(),
            last_sync_at: last.as_ref().map(|(at, _)| *at),
            last: last.map(|(_, outcome)| outcome),
            next_sync_at: self.next_at.get(),
        }
    }

    /// What is not here because the site's policies give it up.
    pub fn given_up(&self) -> GivenUp {
        let (verdicts, catalog) = (self.housekeeper.verdicts(), self.keeper.catalog());
        let is_left_out = |key: &ContentKey| {
            let entry = catalog.as_ref().and_then(|catalog| catalog.entry(key));
            entry.is_some_and(|entry| self.is_left_out(entry))
        };
        let left_out = verdicts.given_up().filter(|(key, _)| is_left_out(key));
        let left_out =
            left_out.map(|(key, word)| LeftOut { name: key.clone(), by: word.by.clone() });
        GivenUp { left_out: left_out.take(LEFT_OUT_MAX).collect(), gone: self.housekeeper.gone() }
    }

    fn progress(&self) -> Option<Progress> {
        let under_way = self.progress.borrow();
        let (progress, arrival) = under_way.as_ref()?;
        let coming = arrival.as_ref().map_or(0, Arrival::received_len);
        let received = self.flights.received_bytes();
        Some(Progress {
            bytes_done: progress.bytes_done + coming,
            // Until here it was the count at the beginning.
            bytes_received: received.saturating_sub(progress.bytes_received),
            ..progress.clone()
        })
    }

    fn is_here(&self, entry: &ManifestEntry) -> bool {
        self.cache.named(&entry.key) == Some(entry.sha256)
    }

    fn is_missing(&self, entry: &ManifestEntry) -> bool {
        !self.is_here(entry) && !self.is_given_up(&entry.key)
    }

    fn is_left_out(&self, entry: &ManifestEntry) -> bool {
        !self.is_here(entry) && self.is_given_up(&entry.key)
    }

    /// Whether the site's policies do not want a name fetched ahead that no person wants either.
    fn is_given_up(&self, key: &ContentKey) -> bool {
        self.housekeeper.verdicts().is_given_up(key) && !self.pinned.contains(key)
    }

    async fn carry_out(&self, order: &Order, reach: Reach, news: News) -> Ended {
        let mut run = Run::begin();
        run.received_before = self.flights.received_bytes();
        let reused_before = self.flights.reused_bytes();
        let refreshed = match news {
            News::Told => Ok(()),
            News::Unknown => self.keeper.refresh(Duration::ZERO, order.force).await,
        };
        if let Err(error) = refreshed {
            run.is_cut_off |= matches!(error, Stale::Call(_));
            run.note_error(error.to_string());
        }
        if let Some(catalog) = self.keeper.catalog() {
            self.bring_all(catalog, order, reach, &mut run).await;
        }
        run.bytes_reused = self.flights.reused_bytes() - reused_before;
        run.end()
    }

    async fn bring_all(
        &self,
        mut catalog: Rc<Catalog>,
        order: &Order,
        reach: Reach,
        run: &mut Run,
    ) {
        if order.force {
            self.read_again(&catalog, order, run).await;
        }
        loop {
            self.ask_jury().await;
            let groups = self.plan(&catalog, order, reach);
            self.begin_progress(run, &groups);
            match self.bring(groups, &catalog, run).await {
                Pass::Done => break,
                Pass::Newer(newer) => catalog = newer,
            }
        }
        if !run.errors.is_empty() {
            return;
        }
        let absent = catalog.entries().iter().filter(|entry| !self.is_here(entry));
        let absent: HashSet<ContentHash> = absent.map(|entry| entry.sha256).collect();
        // An object that is here waits for the rest of its directory, as long as its name does not stand for it.
        self.wishes.asked_for.borrow_mut().retain(|hash| absent.contains(hash));
        self.sweep(&catalog).await;
        let is_missing = catalog.entries().iter().any(|entry| self.is_missing(entry));
        // Only when nothing is missing: what is wanted no more may be what is served until its successor is here.
        if (reach == Reach::All || !is_missing)
            && let Err(error) = self.housekeeper.tidy().await
        {
            run.note_error(format!("cannot tidy the cache: {error:#}"));
        }
    }

    fn plan(&self, catalog: &Catalog, order: &Order, reach: Reach) -> Vec<Group> {
        let categories =
            if order.categories.is_empty() { Category::ALL } else { &order.categories[..] };
        let named = |key: &ContentKey| self.cache.named(key);
        let mut groups = plan(catalog.entries(), categories, named, |hash| self.cache.holds(hash));
        let (asked_for, verdicts) = (self.wishes.asked_for.borrow(), self.housekeeper.verdicts());
        let is_asked_for = |(key, hash): &(ContentKey, ContentHash)| {
            asked_for.contains(hash) || self.pinned.contains(key)
        };
        groups.retain(|group| {
            let is_given_up = group.names.iter().all(|(key, _)| verdicts.is_given_up(key));
            !is_given_up || group.names.iter().any(is_asked_for)
        });
        if reach == Reach::Prompt {
            groups.retain(|group| {
                group.category != Category::Images
                    || group.missing.is_empty()
                    || group.names.iter().any(is_asked_for)
                    || group.names.iter().any(|(key, _)| verdicts.is_pinned(key))
            });
        }
        groups
    }

    /// Whoever has a word on what the site keeps is asked before anything is fetched or leaves.
    async fn ask_jury(&self) {
        if let Some(jury) = &self.jury
            && let Some(verdicts) = jury.judge(&self.housekeeper).await
        {
            self.housekeeper.obey(verdicts);
        }
    }

    fn begin_progress(&self, run: &Run, groups: &[Group]) {
        let missing = objects(groups);
        let progress = Progress {
            started_at: run.started_at,
            files_total: run.files_synced + missing.len() as u64,
            files_done: run.files_synced,
            bytes_total: run.bytes_done + missing.values().sum::<u64>(),
            bytes_done: run.bytes_done,
            bytes_received: run.received_before,
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
                Err(LineIsDown) => {
                    run.is_cut_off = true;
                    return Pass::Done;
                }
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
            if run.brought.contains(&entry.sha256) && self.cache.holds(&entry.sha256) {
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
                    run.brought.insert(entry.sha256);
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
        match self.flights.sweep(wanted).await {
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

/// A sync that has ended.
struct Ended {
    outcome: Outcome,
    /// Whether the line was what ended it, so that it should be gone on with when the line is back.
    is_cut_off: bool,
}

/// One sync while it runs.
struct Run {
    started_at: Timestamp,
    started: Instant,
    files_synced: u64,
    bytes_transferred: u64,
    bytes_reused: u64,
    bytes_done: u64,
    /// What flights had received when it began.
    received_before: u64,
    /// Whether the line was what ended it.
    is_cut_off: bool,
    /// Objects that have come; another group may need them as well.
    brought: HashSet<ContentHash>,
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
            bytes_reused: 0,
            bytes_done: 0,
            received_before: 0,
            is_cut_off: false,
            brought: HashSet::new(),
            given_up: HashSet::new(),
            errors: Vec::new(),
        }
    }

    fn note_error(&mut self, error: String) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(error);
        }
    }

    fn end(self) -> Ended {
        Ended { is_cut_off: self.is_cut_off, outcome: self.into_outcome() }
    }

    fn into_outcome(self) -> Outcome {
        Outcome {
            status: if self.errors.is_empty() { Status::Completed } else { Status::Failed },
            files_synced: self.files_synced,
            bytes_transferred: self.bytes_transferred,
            bytes_reused: self.bytes_reused,
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
