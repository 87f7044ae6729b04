//! What is measured about the running agent, for the controller's heartbeat and for the person who asks.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::statvfs::statvfs;
use pureboot_protocol::{ContentKey, Heartbeat, Service, SiteId, Timestamp};
use smol::Timer;

use crate::answers::keeper::Answers;
use crate::boot::library;
use crate::cache::Cache;
use crate::cache::manage::NodeCache;
use crate::cage::Confinement;
use crate::dhcp::loaders::{LoaderFile, Stock};
use crate::dhcp::scribe::Notes;
use crate::outbox::{Counts, Outbox};
use crate::policy::site::SitePolicies;
use crate::session::recorder::Recorder;
use crate::session::step::What;
use crate::status::{CacheReport, DhcpReport, Report};
use crate::store::{Store, StoreError};
use crate::sync::report::Outcome;
use crate::sync::run::Sync;
use crate::tftp::refusals::Refusals;
use crate::update::release;
use crate::update::updater::{Activity, Updater};
use crate::uplink::heartbeat;
use crate::uplink::standing::Standing;
use crate::{clock, data_dir::DataDir};

const HOUR_S: i64 = 3_600;

/// How long a report may wait for the disk.
const DISK_PATIENCE: Duration = Duration::from_secs(1);

/// The parts that can be asked how they are.
pub struct Vitals {
    /// The site that the agent serves.
    pub site_id: SiteId,
    /// The controller's address.
    pub central_url: String,
    /// Where the data are.
    pub data_dir: DataDir,
    /// How the agent stands with its controller.
    pub standing: Rc<Standing>,
    /// What is remembered of nodes.
    pub store: Store,
    /// What waits for the controller.
    pub outbox: Outbox,
    /// Content.
    pub cache: Cache,
    /// Brings it.
    pub sync: Rc<Sync>,
    /// TFTP transfers under way.
    pub transfers: Rc<Cell<usize>>,
    /// TFTP requests that got no answer.
    pub refusals: Arc<Refusals>,
    /// What the agent listens on, and where. A listener lives as long as the agent: one that could not be bound ended its start.
    pub services: BTreeMap<&'static str, String>,
    /// What holds the agent.
    pub confinement: Confinement,
    /// Which files machines are sent for.
    pub loaders: Vec<LoaderFile>,
    /// What machines did.
    pub recorder: Rc<Recorder>,
    /// Answer files.
    pub answers: Rc<Answers>,
    /// The site's policies.
    pub policies: Rc<SitePolicies>,
    /// Other versions of this program.
    pub updater: Rc<Updater>,
    /// What ProxyDHCP has written down; none where it is off.
    pub dhcp: Option<Rc<RefCell<Notes>>>,
    /// What waited when that was last counted.
    pub counted: Cell<Counts>,
    /// The start, by the wall clock.
    pub started_at: Timestamp,
    /// The start, by the monotonic clock.
    pub started: Instant,
}

impl Vitals {
    fn services(&self) -> BTreeMap<String, Service> {
        let service = |(name, address): (&&str, &String)| {
            ((*name).to_owned(), Service { running: true, address: address.clone() })
        };
        self.services.iter().map(service).collect()
    }

    /// Different machines that asked for a script within the last hour.
    fn nodes_seen_last_hour(&self, now: Timestamp) -> u64 {
        let is_recent = |at: Timestamp| now.seconds_since(at) < HOUR_S;
        count(
            self.store
                .nodes()
                .iter()
                .filter(|node| node.last_seen_at.is_some_and(is_recent))
                .count(),
        )
    }

    /// What is remembered of nodes, as the cache's report shows it.
    pub fn node_cache(&self) -> NodeCache {
        let nodes = self.store.nodes();
        let fetched = nodes.iter().filter_map(|node| Some(node.known.as_ref()?.fetched_at));
        NodeCache { count: count(nodes.len()), oldest_entry: fetched.min() }
    }

    /// Which loaders are there. Where ProxyDHCP is off, somebody else says which machines are sent for: then one is missing if
    /// a machine has asked for it.
    pub fn stock(&self) -> Stock {
        let held: BTreeSet<_> = self.cache.entries().into_iter().map(|entry| entry.key).collect();
        let mut stock = Stock::of(&self.loaders, |key| held.contains(key));
        if self.dhcp.is_none() {
            let asked_for = self.asked_for_in_vain();
            stock.missing.retain(|key| asked_for.contains(key));
        }
        stock
    }

    fn asked_for_in_vain(&self) -> BTreeSet<ContentKey> {
        self.recorder.with_sessions(|sessions| {
            let steps = sessions.newest_first().flat_map(|(session, _)| &session.steps);
            let names = steps.filter_map(|step| match &step.what {
                What::Missing { name, .. } => Some(name),
                _ => None,
            });
            names.filter_map(|name| library::key(name)).collect()
        })
    }

    fn dhcp(&self) -> Option<DhcpReport> {
        let notes = self.dhcp.as_ref()?.borrow();
        Some(DhcpReport { lessons: notes.lessons.entries(), notices: notes.notices.entries() })
    }

    fn active_boots(&self) -> u64 {
        count(self.transfers.get() + self.cache.streams())
    }

    fn uptime_seconds(&self) -> u64 {
        clock::monotonic().saturating_duration_since(self.started).as_secs()
    }

    /// What waits, or what waited when the disk last answered, and how it fails if it does.
    async fn queue(&self) -> (Counts, Option<String>) {
        let counted = async { Some(self.outbox.counts().await) };
        let late = async {
            Timer::after(DISK_PATIENCE).await;
            None
        };
        let failure = match smol::future::or(counted, late).await {
            Some(Ok(counts)) => {
                self.counted.set(counts);
                None
            }
            Some(Err(error @ (StoreError::Io(_) | StoreError::Damaged(_)))) => {
                Some(error.to_string())
            }
            Some(Err(_)) | None => None,
        };
        (self.counted.get(), failure)
    }

    async fn disk_usage_percent(&self) -> f64 {
        let root = self.data_dir.root().to_owned();
        smol::unblock(move || disk_usage_percent(&root)).await
    }

    /// The report for a person.
    pub async fn report(&self) -> Report {
        let now = clock::now();
        let (queue, store_error) = self.queue().await;
        let trouble = self.outbox.trouble();
        let stats = self.cache.stats();
        Report {
            agent_version: release::version().to_string(),
            site_id: self.site_id,
            site_name: self.standing.site_config().map(|config| config.site_name),
            agent_id: self.standing.agent_id(),
            autonomy_level: self.standing.autonomy(),
            started_at: self.started_at,
            uptime_seconds: self.uptime_seconds(),
            membership: self.standing.membership(),
            services: self.services(),
            central_url: self.central_url.clone(),
            line: self.standing.line_report(),
            last_online_at: self.standing.last_online_at(),
            last_heartbeat_at: self.standing.last_heartbeat_at(),
            nodes_seen_last_hour: self.nodes_seen_last_hour(now),
            nodes_known: count(self.store.node_count()),
            nodes_elsewhere: count(self.store.elsewhere_count()),
            active_boots: self.active_boots(),
            cache: CacheReport {
                entries: stats.entries,
                size_bytes: stats.size_bytes,
                hit_rate: stats.hit_rate(),
            },
            content: self.sync.state(),
            loaders: self.stock(),
            dhcp: self.dhcp(),
            tftp_refused: self.refusals.entries(),
            answers_refused: self.answers.refused(),
            policies: self.policies.report().policies,
            queue_pending: queue.pending,
            queue_processing: self.outbox.in_flight(),
            queue_parked: queue.parked,
            queue_error: trouble.last_error,
            queue_oldest_at: queue.oldest_at,
            store_error,
            disk_usage_percent: self.disk_usage_percent().await,
            confinement: self.confinement.clone(),
            update: Some(self.updater.report()),
        }
    }
}

impl Activity for Vitals {
    fn transfers(&self) -> u64 {
        self.active_boots()
    }
}

impl heartbeat::Measure for Vitals {
    async fn measure(&self) -> Heartbeat {
        let now = clock::now();
        let (queue, _) = self.queue().await;
        let trouble = self.outbox.trouble();
        let stats = self.cache.stats();
        let content = self.sync.state();
        let offline_since = self.standing.line_report().offline_since();
        Heartbeat {
            site_id: self.site_id,
            timestamp: now,
            instance: None,
            agent_version: release::version().to_string(),
            uptime_seconds: self.uptime_seconds(),
            services: self.services(),
            nodes_seen_last_hour: self.nodes_seen_last_hour(now),
            active_boots: self.active_boots(),
            cache_hit_rate: stats.hit_rate(),
            disk_usage_percent: self.disk_usage_percent().await,
            cache_size_bytes: stats.size_bytes,
            cache_entries: stats.entries,
            node_cache_entries: count(self.store.node_count()),
            last_sync_at: content.last_sync_at,
            last_sync_result: content.last.as_ref().map(Outcome::summary),
            pending_sync_items: content.names_missing,
            is_online: offline_since.is_none(),
            last_online_at: self.standing.last_online_at(),
            offline_duration_seconds: offline_since
                .map_or(0, |since| u64::try_from(now.seconds_since(since)).unwrap_or(0)),
            pending_queue_items: queue.pending,
            failed_queue_items: queue.parked,
            conflicts_pending: trouble.conflicts,
            config_version: self.standing.config_version(),
            command_results: Vec::new(),
            plugins: Some(self.policies.report()),
            update: Some(self.updater.report()),
        }
    }
}

fn count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// Of the blocks that this user may fill, how many are; as `df` counts.
#[expect(clippy::cast_precision_loss, reason = "a percentage is shown with no decimals")]
fn disk_usage_percent(path: &Path) -> f64 {
    let Ok(disk) = statvfs(path) else { return 0.0 };
    let used = disk.blocks().saturating_sub(disk.blocks_free()) as f64;
    let usable = used + disk.blocks_available() as f64;
    if usable > 0.0 { 100.0 * used / usable } else { 0.0 }
}
