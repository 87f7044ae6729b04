//! What a machine gets that asks for content: from the cache, or from what is on its way.

use std::rc::Rc;
use std::time::Duration;

use pureboot_protocol::{Category, ContentKey, ManifestEntry};
use smol::Timer;

use crate::cache::evict::Need;
use crate::cache::{Arrival, Cache, Failure, Object};
use crate::uplink::standing::Standing;

use super::flights::Flights;
use super::keeper::Keeper;
use super::through::{Bypass, Through};
use super::wishes::Wishes;

/// Content of up to this length is given when all of it is here and verified, in bytes. Loaders, kernels and scripts are.
const WHOLE_LEN_MAX: u64 = 8 << 20;

/// How long a machine waits for content that has to be here first, before it is told to come back.
const WHOLE_TIME: Duration = Duration::from_secs(20);

/// How long for a boot loader: firmware that is told to come back gives up instead.
const LOADER_TIME: Duration = Duration::from_secs(60);

/// How long for the first verified bytes of long content.
const FIRST_BYTES_TIME: Duration = Duration::from_secs(10);

/// How long a request by TFTP is held; the machine asks again before its own patience ends.
const TFTP_TIME: Duration = Duration::from_secs(2);

/// A name that the manifest does not have makes the agent ask for a newer one, at most once in this time.
const UNKNOWN_REST: Duration = Duration::from_millis(500);

/// How long a machine waits for that answer.
const UNKNOWN_TIME: Duration = Duration::from_secs(2);

/// What there is of a name.
pub enum Found {
    /// All of it.
    Here(Object),
    /// Its beginning; the rest comes.
    Coming(Object, Arrival),
    /// All of it, but not in the cache: there is no room.
    Passing(Through),
    /// It is on its way, and the machine may ask again.
    Later,
    /// It should be here and does not come.
    Failed(Failure),
    /// The site is not to hold it.
    Unknown,
}

/// Finds content for machines.
pub struct Demand {
    cache: Cache,
    keeper: Rc<Keeper>,
    flights: Rc<Flights>,
    bypass: Bypass,
    standing: Rc<Standing>,
    wishes: Wishes,
}

impl Demand {
    /// Looks into `cache`, and behind it; what the cache has no room for takes the `bypass`.
    pub fn new(
        cache: Cache,
        keeper: Rc<Keeper>,
        flights: Rc<Flights>,
        bypass: Bypass,
        standing: Rc<Standing>,
        wishes: Wishes,
    ) -> Self {
        Self { cache, keeper, flights, bypass, standing, wishes }
    }

    /// What a machine gets that asks by HTTP. It may wait for it, and may leave: what was begun goes on.
    pub async fn find(&self, key: &ContentKey) -> Found {
        if !key.category().is_for_machines() {
            return Found::Unknown;
        }
        let (held, entry) = self.look(key).await;
        if let Some(object) = held {
            return Found::Here(object);
        }
        let entry = match entry {
            Some(entry) => entry,
            None => match self.ask_for(key).await {
                Some(entry) => entry,
                None => return Found::Unknown,
            },
        };
        let arrival = match self.fetch(&entry) {
            Ok(arrival) => arrival,
            Err(found) => return found,
        };
        let category = entry.key.category();
        if category == Category::Bootloaders || entry.size_bytes <= WHOLE_LEN_MAX {
            let patience = if category == Category::Bootloaders { LOADER_TIME } else { WHOLE_TIME };
            return match within(patience, arrival.whole()).await {
                Some(Ok(object)) => Found::Here(object),
                Some(Err(failure)) => self.pass(&entry, failure).await,
                None => Found::Later,
            };
        }
        match within(FIRST_BYTES_TIME, arrival.readable()).await {
            Some(Ok(object)) => Found::Coming(object, arrival),
            Some(Err(failure)) => self.pass(&entry, failure).await,
            None => Found::Later,
        }
    }

    /// What a machine gets that asks by TFTP, which knows no answer for "later" but silence.
    ///
    /// # Errors
    /// As [`Cache::try_find`].
    pub async fn find_briefly(&self, key: &ContentKey) -> std::io::Result<Found> {
        if !key.category().is_for_machines() {
            return Ok(Found::Unknown);
        }
        let entry = self.entry(key);
        let hash = entry.as_ref().map(|entry| entry.sha256);
        if let Some(object) = self.cache.find_or(key, hash).await? {
            return Ok(Found::Here(object));
        }
        let Some(entry) = entry else { return Ok(Found::Unknown) };
        let arrival = match self.fetch(&entry) {
            Ok(arrival) => arrival,
            Err(found) => return Ok(found),
        };
        Ok(match within(TFTP_TIME, arrival.whole()).await {
            Some(Ok(object)) => Found::Here(object),
            Some(Err(failure)) => Found::Failed(failure),
            None => Found::Later,
        })
    }

    /// Content that does not come into the cache: where only room is lacking, it is given past it.
    async fn pass(&self, entry: &ManifestEntry, failure: Failure) -> Found {
        let Failure::NoSpace(_) = failure else { return Found::Failed(failure) };
        match self.bypass.open(entry).await {
            Ok(Some(through)) => Found::Passing(through),
            Ok(None) => Found::Later,
            Err(failure) => Found::Failed(failure),
        }
    }

    async fn look(&self, key: &ContentKey) -> (Option<Object>, Option<ManifestEntry>) {
        let entry = self.entry(key);
        let hash = entry.as_ref().map(|entry| entry.sha256);
        (self.cache.find_or(key, hash).await.unwrap_or_default(), entry)
    }

    fn entry(&self, key: &ContentKey) -> Option<ManifestEntry> {
        self.keeper.catalog()?.entry(key).cloned()
    }

    /// Whether the controller has given the site this name meanwhile.
    async fn ask_for(&self, key: &ContentKey) -> Option<ManifestEntry> {
        if !self.standing.is_worth_asking() {
            return None;
        }
        // A script has sent the machine for an image, so somebody has ordered it a moment ago. Other names that nobody has are
        // what loaders try one after the other, and must not cost them a second each.
        if key.category() == Category::Images {
            Timer::after(self.keeper.until_older_than(UNKNOWN_REST)).await;
        }
        let asked = within(UNKNOWN_TIME, self.keeper.refresh(UNKNOWN_REST, false)).await;
        if let Some(Err(error)) = asked {
            log::debug!("no newer manifest for {key}: {error}");
        }
        self.entry(key)
    }

    fn fetch(&self, entry: &ManifestEntry) -> Result<Arrival, Found> {
        if !self.standing.is_worth_asking() {
            let text = "this site does not hold it, and the controller is away".to_owned();
            return Err(Found::Failed(Failure::Line(text)));
        }
        // The sync names what has come, and brings what belongs to it.
        self.wishes.wish_for(entry.sha256);
        self.flights.join(entry, Need::Machine).ok_or(Found::Later)
    }
}

/// What `work` returns, unless it takes longer than `patience`.
async fn within<T>(patience: Duration, work: impl Future<Output = T>) -> Option<T> {
    let late = async {
        Timer::after(patience).await;
        None
    };
    smol::future::or(async { Some(work.await) }, late).await
}
