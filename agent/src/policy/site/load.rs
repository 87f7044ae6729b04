//! From the manifest's word to policies that run: packages are read once, checked, and loaded from the bytes that were checked.

use std::time::Duration;

use pureboot_plugin_host::engine::{ENGINE_ID, Engine};
use pureboot_plugin_host::facts::{NODES_MAX, Node, NodeCache};
use pureboot_plugin_host::package::{CODE_LEN_MAX, HEADER_LEN_MAX, Unchecked};
use pureboot_plugin_host::plugin::Plugin;
use pureboot_plugin_host::policies::{Assignment, Event};
use pureboot_protocol::{
    Capability, ContentHash, EngineId, Mac, ManifestEntry, PluginId, PluginVersion,
    PolicyAssignment, package_key,
};
use sha2::{Digest as _, Sha256};

use super::SitePolicies;
use crate::clock;
use crate::nodes::fresh;
use crate::policy::facts;
use crate::policy::judge::asked;
use crate::policy::kept::{Aside, RolledBack};
use crate::store::{CachedNode, Store};
use crate::sync::keeper::pinned_key;
use crate::sync::manifest::Catalog;

/// The longest package that is read, in bytes.
const PACKAGE_LEN_MAX: u64 = (HEADER_LEN_MAX + CODE_LEN_MAX + 1_024) as u64;

/// Why an assigned version does not run. What ran before runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Its package is not here yet.
    Awaited(String),
    /// Its package is here, and cannot be run.
    Refused {
        /// The package; another one is tried.
        package: ContentHash,
        /// Why.
        why: String,
    },
}

impl Trouble {
    pub(super) fn why(&self) -> &str {
        match self {
            Self::Awaited(why) | Self::Refused { why, .. } => why,
        }
    }
}

/// The engine of this agent, as packages name it.
pub(super) fn engine_id() -> EngineId {
    ENGINE_ID.parse().expect("the engine's name is one")
}

/// The site's nodes, from memory, for policies that may read them.
pub(super) struct SiteNodes(pub(super) Store);

impl SiteNodes {
    fn node(cached: &CachedNode) -> Option<Node> {
        let known = cached.known.as_ref()?;
        Some(facts::node(&known.record, fresh::age(known.fetched_at, clock::now())))
    }
}

impl NodeCache for SiteNodes {
    fn get(&self, mac: Mac) -> Option<Node> {
        self.0.look_at(mac, Self::node).flatten()
    }

    fn in_group(&self, group: &str) -> Vec<Node> {
        let is_in = |node: &Node| node.group.as_deref() == Some(group);
        let mut nodes: Vec<_> =
            self.0.nodes().iter().filter_map(Self::node).filter(is_in).collect();
        nodes.sort_by_key(|node| node.mac);
        nodes.truncate(NODES_MAX);
        nodes
    }
}

impl SitePolicies {
    /// Loads what the manifest assigns and does not run yet. What is refused displaces nothing.
    pub async fn apply(&self) {
        let Some(catalog) = self.catalog() else { return };
        let is_done = |done: &std::rc::Rc<Catalog>| std::rc::Rc::ptr_eq(done, &catalog);
        if self.applied.borrow().as_ref().is_some_and(is_done) {
            return;
        }
        let assigned = |id: &PluginId| {
            let policy = catalog.policies().iter().find(|policy| policy.plugin == *id);
            policy.map(|policy| policy.version)
        };
        self.kept.borrow_mut().retain(assigned);
        self.troubles.borrow_mut().retain(|id, _| assigned(id).is_some());
        let asked_before = asked(&self.policies);
        let mut is_waiting = false;
        for policy in catalog.policies() {
            match self.bring(policy, &catalog).await {
                Ok(()) => _ = self.troubles.borrow_mut().remove(&policy.plugin),
                Err(trouble) => {
                    is_waiting |= matches!(trouble, Trouble::Awaited(_));
                    self.complain(policy, trouble);
                }
            }
        }
        let order: Vec<_> = catalog.policies().iter().map(|policy| policy.plugin.clone()).collect();
        self.policies.arrange(&order);
        if asked(&self.policies) != asked_before {
            _ = self.stock_news.0.try_send(());
        }
        if !is_waiting {
            *self.applied.borrow_mut() = Some(catalog);
        }
    }

    fn complain(&self, policy: &PolicyAssignment, trouble: Trouble) {
        let PolicyAssignment { plugin, version, .. } = policy;
        let before = self.troubles.borrow_mut().insert(plugin.clone(), trouble.clone());
        if before.as_ref() == Some(&trouble) {
            return;
        }
        match trouble {
            Trouble::Awaited(why) => {
                log::info!(policy:% = plugin; "policy {plugin} {version} does not run yet: {why}");
            }
            Trouble::Refused { why, .. } => {
                log::error!(policy:% = plugin; "policy {plugin} {version} is refused: {why}");
            }
        }
    }

    /// Sees to it that a policy runs in the version that is wanted, and as it is to be used.
    async fn bring(&self, policy: &PolicyAssignment, catalog: &Catalog) -> Result<(), Trouble> {
        let id = &policy.plugin;
        let used = Assignment {
            mode: policy.mode,
            on_failure: policy.on_failure,
            settings: policy.settings.clone(),
        };
        let wanted = self.kept.borrow().version(id, policy.version);
        let status = self.policies.status();
        let runs = status.iter().find(|status| status.id == *id);
        if runs.is_some_and(|status| status.version == wanted) {
            self.policies.assign(id, used);
            return Ok(());
        }
        let plugin = match self.load(policy, wanted, catalog).await {
            Ok(plugin) => plugin,
            Err(trouble) => {
                // After a restart: what ran before is as good as it was.
                if runs.is_none()
                    && let Some(before) = version_before(catalog, id, wanted)
                    && let Ok(plugin) = self.load(policy, before, catalog).await
                {
                    self.policies.replace(plugin, used);
                    self.restore(id, before);
                }
                return Err(trouble);
            }
        };
        let (version, previous) = (wanted, runs.map(|status| status.version));
        self.policies.replace(plugin, used);
        log::info!(policy:% = id; "policy {id} runs in version {version}");
        self.restore(id, version);
        if previous.is_none()
            && let Some(before) = version_before(catalog, id, version)
            && let Ok(plugin) = self.load(policy, before, catalog).await
        {
            self.policies.keep_previous(plugin);
        }
        Ok(())
    }

    /// A policy that was set aside before the agent was started anew still is.
    fn restore(&self, id: &PluginId, version: PluginVersion) {
        let aside = self.kept.borrow().aside.get(id).copied();
        if let Some(aside) = aside.filter(|aside| aside.version == version) {
            let pause = Duration::from_secs(aside.pause_s);
            self.policies.set_aside(id, aside.rest(clock::now()), pause);
        }
    }

    async fn load(
        &self,
        policy: &PolicyAssignment,
        version: PluginVersion,
        catalog: &Catalog,
    ) -> Result<Plugin, Trouble> {
        let key = package_key(&policy.plugin, version, &engine_id());
        let entry = catalog.entry(&key).ok_or_else(|| {
            Trouble::Awaited(format!("the controller has not compiled it for {ENGINE_ID} yet"))
        })?;
        let refused = |why: String| Trouble::Refused { package: entry.sha256, why };
        let known = self.troubles.borrow().get(&policy.plugin).cloned();
        if let Some(Trouble::Refused { package, why }) = known
            && package == entry.sha256
        {
            return Err(refused(why));
        }
        let bytes = self.read(entry).await?;
        let data_dir = self.parts.data_dir.clone();
        let key = smol::unblock(move || pinned_key(&data_dir)).await;
        let key = key.map_err(|error| refused(format!("{error:#}")))?;
        let package = Unchecked::parse(&bytes).map_err(|error| refused(error.to_string()))?;
        let signed = package.check(&[key]).map_err(|error| refused(error.to_string()))?;
        let header = signed.header();
        let is_other = version == policy.version && header.wasm != policy.wasm;
        if header.id != policy.plugin || header.version != version || is_other {
            return Err(refused(format!(
                "the package is {} {} of component {}, which is not what is assigned",
                header.id, header.version, header.wasm
            )));
        }
        let nodes = policy.grants.contains(&Capability::Nodes).then(|| self.nodes());
        let engine = self.engine().map_err(|error| refused(error.to_string()))?;
        Plugin::load(engine, &signed, nodes).await.map_err(|error| refused(error.to_string()))
    }

    /// The bytes of a package, which are what the manifest says.
    async fn read(&self, entry: &ManifestEntry) -> Result<Vec<u8>, Trouble> {
        let awaited = |why: String| Trouble::Awaited(why);
        if entry.size_bytes > PACKAGE_LEN_MAX {
            let why = format!("{} has {} bytes", entry.key, entry.size_bytes);
            return Err(Trouble::Refused { package: entry.sha256, why });
        }
        let object = match &self.parts.content {
            Some(content) => content.cache.held(entry.sha256).await,
            None => None,
        };
        let object = object.ok_or_else(|| awaited(format!("{} is on its way", entry.key)))?;
        let len = usize::try_from(object.size_bytes).unwrap_or(usize::MAX);
        let bytes = object.read_at(0, len).await.map_err(|error| {
            awaited(format!("{} cannot be read, and is fetched anew: {error}", entry.key))
        })?;
        let found = ContentHash::from_digest(Sha256::digest(&bytes).into());
        if found == entry.sha256 {
            Ok(bytes)
        } else {
            Err(awaited(format!("{} was changed on the disk, and is fetched anew", entry.key)))
        }
    }

    pub(super) fn engine(&self) -> Result<&Engine, pureboot_plugin_host::engine::EngineError> {
        if let Some(engine) = self.engine.get() {
            return Ok(engine);
        }
        let engine = Engine::new()?;
        Ok(self.engine.get_or_init(|| engine))
    }

    /// Tells what has happened to policies, and keeps what has to survive a restart.
    pub(super) async fn settle(&self) {
        let events = self.policies.take_events();
        if events.is_empty() {
            return;
        }
        let now = clock::now();
        for event in events {
            match event {
                Event::SetAside { id, version, pause, failure } => log::warn!(
                    policy:% = id;
                    "policy {id} {version} failed again and again and is not asked for {} s: {failure}",
                    pause.as_secs()
                ),
                Event::Back { id } => log::info!(policy:% = id; "policy {id} is asked again"),
                Event::RolledBack { id, from, to } => {
                    log::warn!(policy:% = id; "policy {id} went back from {from}, which failed, to {to}");
                    self.kept.borrow_mut().rolled_back.insert(id, RolledBack { from, to });
                }
            }
        }
        let aside = self.policies.status().into_iter().filter_map(|status| {
            let (rest, pause) = status.aside_for.zip(status.pause)?;
            let rest_s = i64::try_from(rest.as_secs()).unwrap_or(i64::MAX).saturating_add(1);
            let until = now.plus_seconds(rest_s);
            Some((status.id, Aside { version: status.version, until, pause_s: pause.as_secs() }))
        });
        self.kept.borrow_mut().aside = aside.collect();
        self.keep().await;
    }

    async fn keep(&self) {
        let (kept, data_dir) = (self.kept.borrow().clone(), self.parts.data_dir.clone());
        if let Err(error) = smol::unblock(move || kept.save(&data_dir)).await {
            log::error!("the fate of the site's policies cannot be kept: {error:#}");
        }
    }

    /// Asks a policy again that is set aside, in the version that is assigned; false if there is none of this name.
    pub async fn reset(&self, id: &PluginId) -> bool {
        if !self.policies.reset(id) && !self.troubles.borrow().contains_key(id) {
            return false;
        }
        {
            let mut kept = self.kept.borrow_mut();
            kept.rolled_back.remove(id);
            kept.aside.remove(id);
        }
        self.troubles.borrow_mut().remove(id);
        *self.applied.borrow_mut() = None;
        self.keep().await;
        self.apply().await;
        true
    }
}

/// The highest version below `version` of which the manifest has a package for this agent.
fn version_before(
    catalog: &Catalog,
    id: &PluginId,
    version: PluginVersion,
) -> Option<PluginVersion> {
    let engine = engine_id();
    let versions = catalog.entries().iter().filter_map(|entry| {
        let found = entry.key.path().split('/').nth(1)?.parse().ok()?;
        (entry.key == package_key(id, found, &engine)).then_some(found)
    });
    versions.filter(|found| *found < version).max()
}
