//! The shell that asks the site's policies what the site keeps: before a sync, in calls of so many names, and never for a machine.
//!
//! Whatever goes wrong the built-in rules stand, for the names of the call that failed.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use pureboot_plugin_host::chain::{Judgement, Speaker};
use pureboot_plugin_host::facts::{CacheContext, CacheItem, Vars};
use pureboot_plugin_host::package::Hook;
use pureboot_plugin_host::plugin::JUDGE_ITEMS_MAX;
use pureboot_plugin_host::policies::Policies;
use pureboot_protocol::{Assignment, ContentKey, PluginVersion, Timestamp};

use super::record::{CallRecorded, JudgementRecorded, Records};
use super::site::SitePolicies;
use super::stock::{Stock, stock};
use crate::cache::Cache;
use crate::cache::evict::Room;
use crate::clock;
use crate::store::Store;
use crate::sync::housekeeper::Housekeeper;
use crate::sync::jury::{Deliberation, Jury};
use crate::sync::keeper::Keeper;
use crate::sync::manifest::Catalog;
use crate::sync::verdicts::{Judged, Verdicts};

/// The most names that policies are asked about; the rest goes by the built-in rules.
const NAMES_MAX: usize = 20_000;

/// A judgement holds for so long, unless manifest or policies change.
const HOLDS_FOR: Duration = Duration::from_secs(600);

/// What one call may take, and all calls of a judgement.
const CALL_TIME: Duration = Duration::from_secs(5);
const ALL_TIME: Duration = Duration::from_secs(60);

/// Policies pin so much of what the cache may hold, at most: one part in so many.
const PIN_SHARE: u64 = 2;

/// What the judge rests on.
pub struct Parts {
    /// Are asked.
    pub policies: Rc<SitePolicies>,
    /// Has the content.
    pub cache: Cache,
    /// Has the manifest.
    pub keeper: Rc<Keeper>,
    /// Has the nodes, which need content.
    pub store: Store,
}

/// Asks the site's policies what the site keeps.
pub struct CacheJury {
    parts: Parts,
    last: RefCell<Option<Last>>,
}

/// What the last judgement rested on.
struct Last {
    asked: Vec<Asked>,
    catalog: Option<Rc<Catalog>>,
    at: Instant,
}

/// A policy as it is asked.
#[derive(PartialEq, Eq)]
pub(super) struct Asked {
    speaker: Speaker,
    version: PluginVersion,
    settings: Vars,
}

/// The policies that are asked about content, in order.
pub(super) fn asked(policies: &Policies) -> Vec<Asked> {
    let asked = policies.members(Hook::Cache).into_iter().map(|member| Asked {
        version: member.plugin.header().version,
        speaker: member.speaker,
        settings: member.settings,
    });
    asked.collect()
}

impl Jury for CacheJury {
    fn judge<'a>(&'a self, house: &'a Housekeeper) -> Deliberation<'a> {
        Box::pin(self.renew(house))
    }
}

impl CacheJury {
    /// Nobody has been asked yet.
    pub fn new(parts: Parts) -> Self {
        Self { parts, last: RefCell::default() }
    }

    async fn renew(&self, house: &Housekeeper) -> Option<Verdicts> {
        let asked = asked(self.parts.policies.running());
        if asked.is_empty() {
            return self.last.take().map(|_| Verdicts::default());
        }
        let (catalog, now) = (self.parts.keeper.catalog(), clock::monotonic());
        if self.last.borrow().as_ref().is_some_and(|last| last.holds(&asked, &catalog, now)) {
            return None;
        }
        let room = match house.room().await {
            Ok(room) => room,
            Err(error) => {
                log::warn!("the site's policies are not asked what it keeps: {error:#}");
                return None;
            }
        };
        let verdicts = self.ask_all(house, &room, catalog.as_deref()).await;
        *self.last.borrow_mut() = Some(Last { asked, catalog, at: now });
        Some(verdicts)
    }

    async fn ask_all(
        &self,
        house: &Housekeeper,
        room: &Room,
        catalog: Option<&Catalog>,
    ) -> Verdicts {
        let now = clock::now();
        let mut stock = self.stock(house, catalog, now);
        if stock.len() > NAMES_MAX {
            let names = stock.len();
            log::warn!(names; "policies are asked about {NAMES_MAX} of {names} names");
            stock.truncate(NAMES_MAX);
        }
        let most_bytes = most_bytes(room);
        let context = CacheContext {
            site: self.parts.policies.site(now),
            now: u32::try_from(now.unix_ms() / 1_000).unwrap_or_default(),
            used_mib: mib(room.held_bytes),
            limit_mib: mib(most_bytes),
        };
        let (before, deadline) = (house.verdicts(), clock::monotonic() + ALL_TIME);
        let mut judged = Vec::with_capacity(stock.len());
        for part in stock.chunks(JUDGE_ITEMS_MAX) {
            let items: Vec<CacheItem> = part.iter().map(|stock| stock.item.clone()).collect();
            let latest = deadline.min(clock::monotonic() + CALL_TIME);
            let judgement = self.parts.policies.judge(&context, &items, latest).await;
            let part = judgement_of(part, &judgement);
            if !part.iter().all(|judged| before.agrees(judged)) || judgement.has_failed() {
                self.note(&context, items, &judgement, now);
            }
            judged.extend(part);
        }
        Verdicts::new(now, judged, most_bytes / PIN_SHARE)
    }

    fn stock(&self, house: &Housekeeper, catalog: Option<&Catalog>, now: Timestamp) -> Vec<Stock> {
        let Parts { cache, store, .. } = &self.parts;
        let nodes = store.nodes();
        let workflows = nodes.iter().filter_map(|node| {
            node.known.as_ref()?.record.workflow.as_ref().and_then(Assignment::workflow)
        });
        let assigned: BTreeSet<ContentKey> = workflows
            .flat_map(|workflow| workflow.boot.content())
            .map(|(_, key)| key.clone())
            .collect();
        let entries = catalog.map_or(&[][..], Catalog::entries);
        let used = |hash| cache.used(&hash);
        stock(cache.entries(), entries, used, |key| house.is_required(key), &assigned, now)
    }

    fn note(
        &self,
        context: &CacheContext,
        items: Vec<CacheItem>,
        judgement: &Judgement,
        at: Timestamp,
    ) {
        let policies = &self.parts.policies;
        let records: &Records<JudgementRecorded> = policies.judgements();
        records.note(&JudgementRecorded {
            at,
            context: context.clone(),
            items,
            called: CallRecorded::all(&judgement.notes),
            words: judgement.words.clone(),
            shadows: judgement.shadows.clone(),
        });
    }
}

impl Last {
    fn holds(&self, asked: &[Asked], catalog: &Option<Rc<Catalog>>, now: Instant) -> bool {
        let is_same_manifest = match (&self.catalog, catalog) {
            (Some(before), Some(catalog)) => Rc::ptr_eq(before, catalog),
            (before, catalog) => before.is_none() && catalog.is_none(),
        };
        is_same_manifest && self.asked == asked && now.duration_since(self.at) < HOLDS_FOR
    }
}

/// What the cache may hold: its limit, or what it and its disk have.
fn most_bytes(room: &Room) -> u64 {
    let spare = u64::try_from(room.spare_bytes).unwrap_or_default();
    room.held_bytes_max.unwrap_or(room.held_bytes.saturating_add(spare))
}

fn mib(bytes: u64) -> u32 {
    u32::try_from(bytes >> 20).unwrap_or(u32::MAX)
}

fn judgement_of(part: &[Stock], judgement: &Judgement) -> Vec<Judged> {
    let words = judgement.words.iter().zip(&judgement.shadows);
    let judged = part.iter().zip(words).map(|(stock, (word, shadow))| Judged {
        key: stock.item.key.clone(),
        size_bytes: stock.size_bytes,
        is_in_manifest: stock.is_in_manifest,
        is_needed: stock.item.assigned,
        word: word.clone(),
        shadow: shadow.clone(),
    });
    judged.collect()
}
