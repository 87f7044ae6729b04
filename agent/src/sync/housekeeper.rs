//! Room in the cache: what leaves it for what comes, and what leaves it with time.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;
use pureboot_protocol::{Category, ContentHash, ContentKey, PluginId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::cache::evict::{Candidate, Lifetime, Need, Room, make_room, outlived};
use crate::cache::manage::Kept;
use crate::cache::{Cache, Failure, Standing as Wish};
use crate::clock;
use crate::uplink::connectivity::Line;
use crate::uplink::standing::Standing;

use super::keeper::Keeper;
use super::pinned::Pinned;
use super::report::{Evicted, Eviction, EvictionOrder};
use super::verdicts::Verdicts;

/// From the beginning of one round of reading everything again to that of the next, at the least.
const SCRUB_PERIOD: Duration = Duration::from_secs(7 * 24 * 3_600);

const DAY_S: i64 = 24 * 3_600;

/// The days that unused content stays before the controller has said anything.
const RETENTION_DAYS: u32 = 30;

/// Names that policies have given up and that are remembered.
const GONE_MAX: usize = 256;

/// The days that unused content of a category stays at most, where that is less than the site's retention: it is soon fetched again.
fn retention_days(category: Category) -> Option<u32> {
    match category {
        Category::Scripts => Some(1),
        Category::Templates => Some(7),
        Category::Bootloaders | Category::Plugins | Category::Agents | Category::Images => None,
    }
}

/// Lets content go, by the manifest and the site's settings.
pub struct Housekeeper {
    cache: Cache,
    keeper: Rc<Keeper>,
    standing: Rc<Standing>,
    pinned: Rc<Pinned>,
    scrub: RefCell<Scrub>,
    verdicts: RefCell<Rc<Verdicts>>,
    gone: RefCell<VecDeque<Gone>>,
}

/// A name that has left the cache because a policy gave it up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// The name.
    pub name: ContentKey,
    /// Whose word it was.
    pub by: PluginId,
    /// When it left.
    pub at: Timestamp,
}

/// How far the cache has been read again since the start.
#[derive(Debug, Default)]
struct Scrub {
    /// When this round began.
    began: Option<Instant>,
    /// What was read last in it.
    last: Option<ContentHash>,
}

impl Scrub {
    /// The object whose turn it is, of all that are `held`; none until the next round begins.
    fn next(&mut self, held: &BTreeSet<ContentHash>, now: Instant) -> Option<ContentHash> {
        let is_due = |began: Instant| now.duration_since(began) >= SCRUB_PERIOD;
        let behind = match self.last {
            Some(last) => (Bound::Excluded(last), Bound::Unbounded),
            None => (Bound::Unbounded, Bound::Unbounded),
        };
        self.began.get_or_insert(now);
        let next = held.range(behind).next().copied();
        if next.is_some() {
            self.last = next;
        } else if self.began.is_some_and(is_due) {
            *self = Self::default();
        }
        next
    }
}

impl Housekeeper {
    /// Keeps `cache` within the limits of the site's settings, and what is `pinned` in it.
    pub fn new(
        cache: Cache,
        keeper: Rc<Keeper>,
        standing: Rc<Standing>,
        pinned: Rc<Pinned>,
    ) -> Self {
        Self {
            cache,
            keeper,
            standing,
            pinned,
            scrub: RefCell::default(),
            verdicts: RefCell::default(),
            gone: RefCell::default(),
        }
    }

    /// What the site's policies want, until they say something else.
    pub fn obey(&self, verdicts: Verdicts) {
        *self.verdicts.borrow_mut() = Rc::new(verdicts);
    }

    /// What the site's policies want.
    pub fn verdicts(&self) -> Rc<Verdicts> {
        Rc::clone(&self.verdicts.borrow())
    }

    /// What has left because of it since the start, the latest last.
    pub fn gone(&self) -> Vec<Gone> {
        self.gone.borrow().iter().cloned().collect()
    }

    /// Why a name that is held does not leave.
    pub fn kept(&self, key: &ContentKey) -> Kept {
        match self.kept_by_rule(key) {
            Kept::Manifest | Kept::Retention if self.verdicts().is_pinned(key) => Kept::Policy,
            kept => kept,
        }
    }

    /// Whether a name stays whatever the site's policies want.
    pub fn is_required(&self, key: &ContentKey) -> bool {
        match self.kept_by_rule(key) {
            Kept::Pinned | Kept::Loader | Kept::ByHand => true,
            Kept::Manifest | Kept::Retention | Kept::Policy => {
                let catalog = self.keeper.catalog();
                let entry = catalog.as_ref().and_then(|catalog| catalog.entry(key));
                entry.is_some_and(|entry| entry.pinned)
            }
        }
    }

    fn kept_by_rule(&self, key: &ContentKey) -> Kept {
        if self.pinned.contains(key) {
            Kept::Pinned
        } else if key.category() == Category::Bootloaders {
            Kept::Loader
        } else if self.is_in_manifest(key) {
            Kept::Manifest
        } else if self.cache.is_managed(key) {
            Kept::Retention
        } else {
            Kept::ByHand
        }
    }

    /// Whether the manifest names `key`.
    pub fn is_in_manifest(&self, key: &ContentKey) -> bool {
        self.keeper.catalog().is_some_and(|held| held.entry(key).is_some())
    }

    /// Whether nothing that leaves could be fetched again now.
    pub fn is_cut_off(&self) -> bool {
        matches!(self.standing.line(), Line::Offline { .. })
    }

    /// Lets go what has to leave so that `size_bytes` more fit.
    ///
    /// # Errors
    /// They would not fit whatever left; then nothing has. Or the disk fails.
    pub async fn make_room(&self, size_bytes: u64, need: Need) -> Result<(), Failure> {
        let storage = |error: anyhow::Error| Failure::Storage(format!("{error:#}"));
        let (candidates, room) = self.survey().await.map_err(storage)?;
        match make_room(candidates, &room, size_bytes, need) {
            Some(leaving) => self.drop_all(leaving, "for what comes").await.map_err(storage),
            None => Err(Failure::NoSpace(format!(
                "{size_bytes} bytes do not fit: the cache holds {}{}, and the disk has {} for it",
                room.held_bytes,
                room.held_bytes_max.map_or(String::new(), |most| format!(" of at most {most}")),
                room.spare_bytes.max(0)
            ))),
        }
    }

    /// Lets go what nobody wants any more: what is over the limits now, the rest when it has been unused for long.
    ///
    /// # Errors
    /// The disk's.
    pub async fn tidy(&self) -> Result<()> {
        let Some(catalog) = self.keeper.catalog() else { return Ok(()) };
        self.cache
            .manage(catalog.entries().iter().map(|entry| entry.key.clone()).collect())
            .await?;
        let (mut candidates, mut room) = self.survey().await?;
        let unused = outlived(&candidates, clock::now(), self.retention_s());
        room.held_bytes -= unused.iter().map(|candidate| candidate.size_bytes).sum::<u64>();
        candidates.retain(|candidate| !unused.contains(candidate));
        let (given_up, unused): (Vec<_>, Vec<_>) =
            unused.into_iter().partition(|candidate| candidate.lifetime == Lifetime::Over);
        self.give_up(given_up).await?;
        self.drop_all(unused, "unused for long").await?;
        let over = make_room(candidates, &room, 0, Need::Tidiness).unwrap_or_default();
        self.drop_all(over, "over the limit").await
    }

    /// Lets go what a person wants gone. What the manifest names comes back with the next sync; while there can be none, it stays.
    ///
    /// # Errors
    /// The disk's.
    pub async fn evict(&self, order: &EvictionOrder) -> Result<Evicted> {
        let (mut candidates, room) = self.survey().await?;
        if let Some(category) = order.category {
            candidates.retain(|candidate| self.cache.is_in(candidate.sha256, category));
        }
        let all_count = candidates.len();
        if order.policy == Eviction::All && self.is_cut_off() {
            candidates.retain(|candidate| !candidate.is_wanted);
        }
        let required_count = (all_count - candidates.len()) as u64;
        let mut leaving = match order.policy {
            Eviction::Expired => outlived(&candidates, clock::now(), self.retention_s()),
            Eviction::Lru => make_room(candidates, &room, 0, Need::Tidiness).unwrap_or_default(),
            Eviction::All => {
                candidates.sort_by_key(|candidate| (candidate.is_wanted, candidate.used_at));
                candidates
            }
        };
        leaving.truncate(order.max_evict.unwrap_or(usize::MAX));
        let evicted = Evicted {
            evicted_count: leaving.len() as u64,
            freed_bytes: leaving.iter().map(|candidate| candidate.size_bytes).sum(),
            required_count,
        };
        self.drop_all(leaving, "by order").await?;
        Ok(evicted)
    }

    /// Reads one object again whose turn it is, unless machines are being served (FAULTS D7). Answers it if it was damaged: it is
    /// missing then.
    pub async fn scrub(&self) -> Option<ContentHash> {
        if self.cache.streams() > 0 {
            return None;
        }
        let held = self.cache.hashes();
        let hash = self.scrub.borrow_mut().next(&held, clock::monotonic())?;
        match self.cache.verify(hash).await {
            Ok(Some(false)) => Some(hash),
            Ok(_) => None,
            Err(error) => {
                log::warn!("cannot read object {hash} again: {error:#}");
                None
            }
        }
    }

    /// When objects leave, if nobody asks for them until then and their room is not needed before; those that stay are not in it.
    ///
    /// # Errors
    /// The disk's.
    pub async fn departures(&self) -> Result<HashMap<ContentHash, Timestamp>> {
        let (candidates, _) = self.survey().await?;
        let retention_s = self.retention_s();
        let departure =
            |candidate: &Candidate| Some((candidate.sha256, candidate.leaves_at(&retention_s)?));
        Ok(candidates.iter().filter_map(departure).collect())
    }

    /// How full the cache is.
    ///
    /// # Errors
    /// The disk's.
    pub async fn room(&self) -> Result<Room> {
        Ok(self.cache.room(self.held_bytes_max(), |_| None).await?.1)
    }

    fn held_bytes_max(&self) -> Option<u64> {
        let config = self.standing.site_config();
        let most = config.and_then(|config| config.cache_max_size_gb);
        most.map(|gb| u64::from(gb) * 1_000_000_000)
    }

    async fn survey(&self) -> Result<(Vec<Candidate>, Room)> {
        let mut wishes: HashMap<ContentHash, Wish> = HashMap::new();
        if let Some(catalog) = self.keeper.catalog() {
            for entry in catalog.entries() {
                let is_kept =
                    matches!(entry.key.category(), Category::Bootloaders | Category::Plugins);
                let is_pinned = entry.pinned || is_kept;
                let wish = if is_pinned { Wish::Pinned } else { Wish::Wanted };
                let known = wishes.entry(entry.sha256).or_insert(wish);
                *known = wish.max(*known);
            }
        }
        for key in self.pinned.names() {
            if let Some(hash) = self.cache.named(&key) {
                wishes.insert(hash, Wish::Pinned);
            }
        }
        let held_bytes_max = self.held_bytes_max();
        let room = self.cache.room(held_bytes_max, |hash| wishes.get(hash).copied());
        let (candidates, room) = room.await?;
        let verdicts = self.verdicts();
        if verdicts.is_empty() {
            return Ok((candidates, room));
        }
        Ok((verdicts.heed(candidates, &self.names(), self.is_cut_off()), room))
    }

    /// Every name by what it stands for, or is to stand for.
    fn names(&self) -> HashMap<ContentHash, Vec<ContentKey>> {
        let held = self.cache.entries().into_iter().map(|entry| (entry.sha256, entry.key));
        let catalog = self.keeper.catalog();
        let wanted = catalog.iter().flat_map(|catalog| catalog.entries());
        let wanted = wanted.map(|entry| (entry.sha256, entry.key.clone()));
        let mut names: HashMap<_, Vec<_>> = HashMap::new();
        for (hash, key) in held.chain(wanted) {
            names.entry(hash).or_default().push(key);
        }
        names
    }

    /// How long content of a category stays unused, in seconds.
    fn retention_s(&self) -> impl Fn(Category) -> i64 + use<> {
        let config = self.standing.site_config();
        let days = config.map_or(RETENTION_DAYS, |config| config.cache_retention_days);
        move |category| {
            let days = retention_days(category).map_or(days, |most| days.min(most));
            DAY_S * i64::from(days)
        }
    }

    async fn give_up(&self, leaving: Vec<Candidate>) -> Result<()> {
        if leaving.is_empty() {
            return Ok(());
        }
        let (verdicts, now) = (self.verdicts(), clock::now());
        let leaves: BTreeSet<_> = leaving.iter().map(|candidate| candidate.sha256).collect();
        let entries = self.cache.entries().into_iter();
        let by = |key: &ContentKey| verdicts.told(key).map(|opinion| opinion.word.by);
        let gone: Vec<_> = entries
            .filter(|entry| leaves.contains(&entry.sha256))
            .filter_map(|entry| Some(Gone { by: by(&entry.key)?, name: entry.key, at: now }))
            .collect();
        self.drop_all(leaving, "given up by the site's policies").await?;
        let mut remembered = self.gone.borrow_mut();
        for gone in gone {
            log::info!(policy:% = gone.by; "{} has left the cache: policy {} gives it up", gone.name, gone.by);
            if remembered.len() == GONE_MAX {
                remembered.pop_front();
            }
            remembered.push_back(gone);
        }
        Ok(())
    }

    async fn drop_all(&self, leaving: Vec<Candidate>, why: &str) -> Result<()> {
        if leaving.is_empty() {
            return Ok(());
        }
        let bytes: u64 = leaving.iter().map(|candidate| candidate.size_bytes).sum();
        let objects = leaving.len();
        log::info!(objects, bytes; "{objects} objects leave the cache, {why}");
        self.cache.drop_objects(leaving.iter().map(|candidate| candidate.sha256).collect()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d7_everything_is_read_again_and_then_there_is_a_rest() {
        let hash = |byte| ContentHash::from_digest([byte; 32]);
        let (mut scrub, now) = (Scrub::default(), clock::monotonic());
        let mut held = BTreeSet::from([hash(1), hash(3)]);
        assert_eq!(scrub.next(&held, now), Some(hash(1)));
        held.insert(hash(2));
        assert_eq!(scrub.next(&held, now), Some(hash(2)));
        assert_eq!(scrub.next(&held, now), Some(hash(3)));
        assert_eq!(scrub.next(&held, now), None);
        let later = now + SCRUB_PERIOD;
        assert_eq!(scrub.next(&held, later), None, "the round ends");
        assert_eq!(scrub.next(&held, later), Some(hash(1)));
        assert_eq!(Scrub::default().next(&BTreeSet::new(), now), None);
    }
}
