//! The shell: keeps the policies loaded that the manifest assigns, asks them, remembers their fate and tells of it.

mod candidate;
mod load;
mod report;

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use pureboot_plugin_host::chain::{Judgement, Note, Verdict};
use pureboot_plugin_host::engine::Engine;
use pureboot_plugin_host::facts::{Action, BootFacts, CacheContext, CacheItem, Site, Vars};
use pureboot_plugin_host::package::Hook;
use pureboot_plugin_host::policies::Policies;
use pureboot_plugin_host::state::Severity;
use pureboot_protocol::{
    Assignment, ContentHash, ContentKey, PluginId, PolicyAssignment, SiteId, Timestamp, Workflow,
};
use pureboot_templates::BaseUrl;
use smol::Timer;
use smol::channel::{Receiver, Sender, bounded};

use self::load::Trouble;
use super::attempts::Attempts;
use super::facts::{Circumstances, boot_facts, purpose};
use super::fold::{conclude, instead};
use super::ground::{Heard, Holdings, SiteGround};
use super::kept::Kept;
use super::record::{BootRecorded, CallRecorded, JudgementRecorded, Records};
use crate::boot::decide::{Decision, decide};
use crate::boot::inputs::Inputs;
use crate::boot::render::Scene;
use crate::cache::Cache;
use crate::clock;
use crate::data_dir::DataDir;
use crate::store::Store;
use crate::sync::keeper::Keeper;
use crate::sync::manifest::Catalog;
use crate::uplink::standing::Standing;

/// What all policies together may take to decide about a machine that waits.
const DECIDE_TIME: Duration = Duration::from_millis(500);

/// What is left of a boot's time for everything behind that.
const DECIDE_REST: Duration = Duration::from_millis(400);

/// What all policies together may take for a script.
const PATCH_TIME: Duration = Duration::from_millis(200);

/// What is left of a boot's time for everything behind that.
const PATCH_REST: Duration = Duration::from_millis(250);

/// Between two looks whether the manifest or what it names has changed.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// What the policies rest on.
pub struct Parts {
    /// Where their fate is kept.
    pub data_dir: DataDir,
    /// The site.
    pub site_id: SiteId,
    /// Where they come from; none where no content comes, and so no policy either.
    pub content: Option<Content>,
    /// Has the nodes.
    pub store: Store,
    /// How the site stands to its controller.
    pub standing: Rc<Standing>,
}

/// Where a site's policies come from.
pub struct Content {
    /// Has their packages.
    pub cache: Cache,
    /// Has the manifest, which assigns them.
    pub manifest: Rc<Keeper>,
}

/// The site's policies; lives on the executor's thread.
pub struct SitePolicies {
    parts: Parts,
    /// Made with the first package: a site without policies has none.
    engine: OnceCell<Engine>,
    policies: Policies,
    /// Why an assigned version does not run.
    troubles: RefCell<BTreeMap<PluginId, Trouble>>,
    kept: RefCell<Kept>,
    attempts: RefCell<Attempts>,
    records: Records<BootRecorded>,
    judgements: Records<JudgementRecorded>,
    /// The manifest of which all is done.
    applied: RefCell<Option<Rc<Catalog>>>,
    news: (Sender<()>, Receiver<()>),
    /// Says that policies which are asked about content have come, gone or changed.
    stock_news: (Sender<()>, Receiver<()>),
}

/// What policies had to do with a boot, until it is written down.
pub struct Trail {
    facts: BootFacts,
    heard: Heard,
    decided: Vec<CallRecorded>,
    patched: Vec<CallRecorded>,
    /// Variables of templates that they have set.
    pub set: Vars,
}

/// What has become of a script.
pub enum Patched {
    /// It is to be sent.
    Script(String),
    /// The machine gets something else: a policy failed that must not be passed over.
    Instead(Decision),
}

impl SitePolicies {
    /// None is loaded yet.
    pub fn new(parts: Parts) -> Self {
        let records = Records::new(parts.data_dir.policy_records_file());
        let judgements = Records::new(parts.data_dir.policy_judgements_file());
        let kept = RefCell::new(Kept::load(&parts.data_dir));
        Self {
            parts,
            engine: OnceCell::new(),
            policies: Policies::new(Box::new(|id, lines, dropped| {
                for line in lines {
                    let level = match line.severity {
                        Severity::Debug => log::Level::Debug,
                        Severity::Info => log::Level::Info,
                        Severity::Warn => log::Level::Warn,
                    };
                    log::log!(level, policy:% = id; "policy {id}: {}", line.text);
                }
                if dropped > 0 {
                    log::debug!(policy:% = id, dropped; "policy {id} logged {dropped} more lines");
                }
            })),
            troubles: RefCell::default(),
            kept,
            attempts: RefCell::default(),
            records,
            judgements,
            applied: RefCell::default(),
            // One word that waits is as good as many.
            news: bounded(1),
            stock_news: bounded(1),
        }
    }

    /// Keeps what runs to what the manifest assigns, for as long as the agent runs.
    pub async fn run(&self) {
        loop {
            let tick = async { _ = Timer::after(LOOK_PAUSE).await };
            smol::future::or(tick, async { _ = self.news.1.recv().await }).await;
            self.apply().await;
            self.settle().await;
        }
    }

    /// Takes what policies answer to be written down.
    pub fn records(&self) -> &Records<BootRecorded> {
        &self.records
    }

    /// Takes what they answer about content.
    pub fn judgements(&self) -> &Records<JudgementRecorded> {
        &self.judgements
    }

    /// Returns when what policies say about content may have changed.
    pub async fn stock_changed(&self) {
        _ = self.stock_news.1.recv().await;
    }

    /// What the site keeps, by its policies; no machine waits for it.
    pub(super) async fn judge(
        &self,
        context: &CacheContext,
        items: &[CacheItem],
        deadline: Instant,
    ) -> Judgement {
        let judgement = self.policies.judge(context, items, deadline).await;
        self.hear_of_failures(&judgement.notes);
        judgement
    }

    fn catalog(&self) -> Option<Rc<Catalog>> {
        self.parts.content.as_ref()?.manifest.catalog()
    }

    /// The policies that are assigned, in order.
    fn assigned(&self) -> Vec<PolicyAssignment> {
        self.catalog().map(|catalog| catalog.policies().to_vec()).unwrap_or_default()
    }

    /// Those that run.
    pub(crate) fn running(&self) -> &Policies {
        &self.policies
    }

    /// What a machine boots by the rules and by the site's policies. With policies there is more to be told of it.
    pub async fn decide(
        &self,
        inputs: &Inputs,
        base: &BaseUrl,
        address: Option<IpAddr>,
        deadline: Instant,
    ) -> (Decision, Option<Trail>) {
        if !self.policies.has(Hook::Boot) && !self.policies.has(Hook::Script) {
            return (decide(&inputs.facts()), None);
        }
        // A boot without policies does not carry what one with them needs.
        let (decision, trail) = Box::pin(self.ask(inputs, base, address, deadline)).await;
        (decision, Some(trail))
    }

    async fn ask(
        &self,
        inputs: &Inputs,
        base: &BaseUrl,
        address: Option<IpAddr>,
        deadline: Instant,
    ) -> (Decision, Trail) {
        let now = clock::monotonic();
        let attempt = self.attempts.borrow_mut().note(inputs.request.mac, now);
        let facts = boot_facts(inputs, &self.circumstances(address, attempt));
        let ground = SiteGround::new(inputs, self, base);
        let latest = deadline.checked_sub(DECIDE_REST).unwrap_or(deadline);
        let verdict = self.policies.decide(&facts, &ground, latest.min(now + DECIDE_TIME)).await;
        self.hear_of_failures(&verdict.notes);
        let heard = ground.into_heard();
        let decision = conclude(&inputs.facts(), &verdict, chosen(&verdict, &heard));
        let decided = CallRecorded::all(&verdict.notes);
        let trail = Trail { facts, heard, decided, patched: Vec::new(), set: verdict.set };
        (decision, trail)
    }

    /// What the policies make of the script of a decision.
    pub async fn patch(
        &self,
        decision: &Decision,
        script: String,
        trail: &mut Trail,
        inputs: &Inputs,
        base: &BaseUrl,
        deadline: Instant,
    ) -> Patched {
        if !self.policies.has(Hook::Script) {
            return Patched::Script(script);
        }
        let ground = SiteGround::new(inputs, self, base);
        let latest = deadline.checked_sub(PATCH_REST).unwrap_or(deadline);
        let latest = latest.min(clock::monotonic() + PATCH_TIME);
        let purpose = purpose(&decision.boot);
        let patch = self.policies.patch(&trail.facts, purpose, script, &ground, latest);
        let patch = Box::pin(patch).await;
        self.hear_of_failures(&patch.notes);
        trail.patched = CallRecorded::all(&patch.notes);
        match &patch.instead {
            Some((by, action)) => Patched::Instead(instead(decision.mac, action, by, decision)),
            None => Patched::Script(patch.script),
        }
    }

    /// Has a boot written down.
    pub fn note(
        &self,
        trail: Trail,
        inputs: Inputs,
        scene: &Scene,
        decision: &Decision,
        script_sha256: ContentHash,
    ) {
        let Trail { facts, heard, decided, patched, .. } = trail;
        self.records.note(&BootRecorded {
            at: clock::now(),
            session: scene.session,
            base: scene.base.to_string(),
            inputs,
            facts,
            ground: heard,
            decided,
            patched,
            boot: decision.boot.to_string(),
            reasons: decision.reasons.iter().map(ToString::to_string).collect(),
            script_sha256,
        });
    }

    /// Whether a policy was set aside is looked at at once, so that a restart knows it.
    fn hear_of_failures(&self, notes: &[Note]) {
        if notes.iter().any(is_silent) || !self.kept.borrow().aside.is_empty() {
            _ = self.news.0.try_send(());
        }
    }

    /// What a question that a machine would ask now says of the site and the time.
    pub fn circumstances_now(&self, inputs: &Inputs) -> Circumstances {
        let now = clock::monotonic();
        let attempt = self.attempts.borrow().next(inputs.request.mac, now);
        self.circumstances(None, attempt)
    }

    fn circumstances(&self, address: Option<IpAddr>, attempt: u32) -> Circumstances {
        Circumstances { address, site: self.site(clock::now()), now: clock::now(), attempt }
    }

    pub(super) fn site(&self, now: Timestamp) -> Site {
        let since = self.parts.standing.line_report().offline_since();
        let seconds = since.map(|since| now.seconds_since(since));
        let ahead_s = chrono::Local::now().offset().local_minus_utc();
        Site {
            id: self.parts.site_id.to_string(),
            offline_for: seconds.map(|seconds| u32::try_from(seconds).unwrap_or_default()),
            utc_offset_minutes: i16::try_from(ahead_s / 60).unwrap_or_default(),
        }
    }
}

impl Holdings for SitePolicies {
    fn workflow(&self, name: &str) -> Option<Workflow> {
        let nodes = self.parts.store.nodes();
        let mut assigned = nodes.iter().filter_map(|node| {
            node.known.as_ref()?.record.workflow.as_ref().and_then(Assignment::workflow)
        });
        assigned.find(|workflow| workflow.name == name).cloned()
    }

    fn has(&self, key: &ContentKey) -> bool {
        let is_named = |catalog: Rc<Catalog>| catalog.entry(key).is_some();
        self.holds(key) || self.catalog().is_some_and(is_named)
    }

    fn holds(&self, key: &ContentKey) -> bool {
        self.parts.content.as_ref().is_some_and(|content| content.cache.named(key).is_some())
    }
}

/// The workflow that a verdict names, as the ground has found it.
pub fn chosen<'a>(verdict: &Verdict, heard: &'a Heard) -> Option<&'a Workflow> {
    match &verdict.action {
        Some(Action::Workflow(name)) => heard.workflows.get(name)?.as_ref().ok(),
        _ => None,
    }
}

fn is_silent(note: &Note) -> bool {
    matches!(note.outcome, pureboot_plugin_host::chain::Outcome::Silent(_))
}

#[cfg(test)]
mod tests;
