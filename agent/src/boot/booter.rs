//! From one machine's question to its script: asks who may know, decides, remembers, renders.

mod begun;
mod calls;
mod explain;
mod question;

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use pureboot_protocol::{
    BootId, BootRecord, BootRequest, ChangePayload, ContentKey, Lifecycle, Mac, NodeEvent,
    NodeEventKind, NodeId, RegisterNode, Timestamp,
};
use pureboot_templates::BaseUrl;
use smol::channel::Sender;

use self::begun::Begun;
pub use self::calls::{Registered, Sighting, Unregistered};
use self::question::Questions;
use crate::answers::keeper::{Answers, Guest, Unready};
use crate::boot::decide::{Boot, Decision, Effect, Freshness, Mode, OfflineAction};
use crate::boot::inputs::{Found, Inputs};
use crate::boot::render::{Renderer, Scene};
use crate::boot::values::Values;
use crate::clock::{self, Timer};
use crate::nodes::follow::Follower;
use crate::nodes::fresh;
use crate::outbox::{NewChange, Outbox};
use crate::policy::site::{Patched, SitePolicies, Trail};
use crate::session::recorder::Recorder;
use crate::session::step::{Answer, Gives};
use crate::store::{CachedNode, Elsewhere, InstallGiven, KnownRecord, Store, StoreError};
use crate::uplink::controller::{Controller, NodeAnswer};
use crate::uplink::standing::Standing;
use crate::world;

/// When a script leaves at the latest, whatever controller and disk do: below the 2 s that firmware may wait.
const SCRIPT_TIME: Duration = Duration::from_millis(1_700);

/// What one look at the disk may take of that, so that a disk that hangs leaves time for the rest.
const LOOK_TIME: Duration = Duration::from_millis(400);

/// Answers machines; lives on the executor's thread.
pub struct Booter {
    store: Store,
    outbox: Outbox,
    standing: Rc<Standing>,
    questions: Questions,
    renderer: Renderer,
    /// Who has come as far as asking for a script; nobody needs to listen.
    sightings: Sender<Mac>,
    recorder: Rc<Recorder>,
    /// Whose beginning need not be written again.
    begun: RefCell<Begun>,
    answers: Rc<Answers>,
    follower: Rc<Follower>,
    policies: Rc<SitePolicies>,
    offline_action: OfflineAction,
}

/// What a [`Booter`] answers with.
pub struct Parts {
    /// What is remembered.
    pub store: Store,
    /// Takes what is seen.
    pub outbox: Outbox,
    /// How the agent stands with its controller.
    pub standing: Rc<Standing>,
    /// Is asked.
    pub controller: Rc<Controller>,
    /// Makes the scripts.
    pub renderer: Renderer,
    /// Every machine that asks is named here.
    pub sightings: Sender<Mac>,
    /// Is told what machines are told.
    pub recorder: Rc<Recorder>,
    /// Has what installers need; none starts without it.
    pub answers: Rc<Answers>,
    /// Knows how old what is remembered is.
    pub follower: Rc<Follower>,
    /// What the site has to say.
    pub policies: Rc<SitePolicies>,
    /// What the site's owner wants where the controller is away and what is known is nothing, or old.
    pub offline_action: OfflineAction,
}

/// Why a decision cannot be carried out.
#[derive(Debug, thiserror::Error)]
enum Unkept {
    #[error("the disk did not answer in time")]
    Late,
    #[error("it was given to this machine a moment ago")]
    GivenBefore,
    #[error(transparent)]
    Unready(#[from] Unready),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Booter {
    /// Answers with `parts`.
    pub fn new(parts: Parts) -> Self {
        let Parts {
            store,
            outbox,
            standing,
            controller,
            renderer,
            sightings,
            recorder,
            answers,
            follower,
            policies,
            offline_action,
        } = parts;
        let questions = Questions::new(controller, Rc::clone(&standing));
        Self {
            store,
            outbox,
            standing,
            questions,
            renderer,
            sightings,
            recorder,
            begun: RefCell::default(),
            answers,
            follower,
            policies,
            offline_action,
        }
    }

    /// The first script of a boot session, which has the machine ask again and say more about itself; before that it tries to
    /// start `loader`.
    pub fn autoexec(&self, base: BaseUrl, session: BootId, loader: Option<ContentKey>) -> String {
        self.renderer.autoexec(&self.scene(base, session), loader)
    }

    /// The script for a machine whose question cannot be understood.
    pub fn error(&self, base: BaseUrl, message: &str) -> String {
        log::warn!("a machine gets the error script: {message}");
        self.renderer.error(&self.scene(base, new_session()), message)
    }

    /// The script for a machine that asks from `address`; `named` is the boot session that its first script named.
    pub async fn script(
        &self,
        request: BootRequest,
        named: Option<BootId>,
        address: Option<IpAddr>,
        base: BaseUrl,
    ) -> String {
        let deadline = clock::monotonic() + SCRIPT_TIME;
        let mac = request.mac;
        // ProxyDHCP learns from it. Where it is off or busy, nothing is lost but a lesson.
        _ = self.sightings.try_send(mac);
        let named = self.own_session(mac, named).await;
        let (session, step) = self.recorder.begin_script(mac, named, address);
        let found = self.find(mac).await;
        let values = Values::of(&request, found.record());
        let mut scene = Scene { platform: request.platform, values, ..self.scene(base, session) };
        let inputs = self.inputs(request, found, scene.mode);
        let (decision, trail) = self.policies.decide(&inputs, &scene.base, address, deadline).await;
        if let Some(trail) = &trail {
            scene.values.set(&trail.set);
        }
        let told = self.tell(inputs, address, deadline, &scene, decision, trail).await;
        if let Some(step) = step {
            self.recorder.end_script(step, told.answer(scene.mode));
        }
        self.answers.note(mac);
        told.script
    }

    /// Puts a decision into words and carries it out, or says why that cannot be.
    async fn tell(
        &self,
        inputs: Inputs,
        address: Option<IpAddr>,
        deadline: Instant,
        scene: &Scene,
        decision: Decision,
        mut trail: Option<Trail>,
    ) -> Told {
        let (mac, session) = (decision.mac, scene.session);
        let drafted = self.draft(&inputs, scene, decision, &mut trail, deadline).await;
        let (decision, script) = match drafted {
            Ok(drafted) => drafted,
            Err(told) => return *told,
        };
        let because = sentences(&decision);
        log::info!(
            mac:%, session:%, boot:% = decision.boot;
            "{mac} boots: {because}"
        );
        let gives = gives(&decision.boot);
        let guest = Guest { mac, session, address, base: &scene.base };
        let request = inputs.request.clone();
        let kept = async {
            if let Boot::Install(workflow) = &decision.boot {
                self.answers.admit(guest, workflow, deadline).await?;
            }
            self.keep(&decision, request, session, address).await
        };
        let told = match in_time(deadline, kept).await {
            Ok(()) => Told { script, gives, because },
            Err(error) if decision.effects.iter().any(is_needed_for_safety) => {
                log::error!(mac:%, error:%; "no installer is given to {mac}");
                let because = format!("no installer is given now: {error}");
                let script = self.renderer.error(scene, &because);
                Told { script, gives: Gives::Error, because }
            }
            Err(error) => {
                log::error!(mac:%, error:%; "a boot is served and could not be written down");
                Told { script, gives, because }
            }
        };
        if let Some(trail) = trail {
            let hash = explain::script_hash(&told.script);
            self.policies.note(trail, inputs, scene, &decision, hash);
        }
        told
    }

    /// The script of a decision, as the site's policies want it; a policy that failed may change the decision itself.
    async fn draft(
        &self,
        inputs: &Inputs,
        scene: &Scene,
        decision: Decision,
        trail: &mut Option<Trail>,
        deadline: Instant,
    ) -> Result<(Decision, String), Box<Told>> {
        let script = self.render(scene, &decision)?;
        let Some(trail) = trail else { return Ok((decision, script)) };
        let base = &scene.base;
        match self.policies.patch(&decision, script, trail, inputs, base, deadline).await {
            Patched::Script(script) => Ok((decision, script)),
            Patched::Instead(decision) => {
                let script = self.render(scene, &decision)?;
                Ok((decision, script))
            }
        }
    }

    fn render(&self, scene: &Scene, decision: &Decision) -> Result<String, Box<Told>> {
        self.renderer.decision(scene, decision).map_err(|unrenderable| {
            let mac = decision.mac;
            log::error!(mac:%; "a decision cannot be put into a script: {unrenderable}");
            let because = unrenderable.to_string();
            Box::new(Told { script: unrenderable.script, gives: Gives::Error, because })
        })
    }

    /// The session that the machine names, unless it is another machine's.
    async fn own_session(&self, mac: Mac, named: Option<BootId>) -> Option<BootId> {
        let named = named?;
        let owner = match self.recorder.machine_of(named) {
            Some(Some(owner)) => Some(owner),
            // The store remembers more of them.
            _ => in_time(soon(), self.store.session_mac(named)).await.ok()?,
        };
        owner.is_none_or(|owner| owner == mac).then_some(named)
    }

    fn scene(&self, base: BaseUrl, session: BootId) -> Scene {
        let mode = self.standing.line().into();
        Scene { base, session, platform: None, mode, values: Values::default() }
    }

    async fn find(&self, mac: Mac) -> Found {
        if self.is_to_ask(mac) {
            let asked_at = clock::now();
            if let Some(NodeAnswer { record, foreign, version }) = self.questions.ask(mac).await {
                self.follower.hear(Some(version), asked_at);
                return match (record, foreign) {
                    (Some(record), _) => self.learn(record, asked_at).await,
                    (None, Some(foreign)) => {
                        Found::Elsewhere { foreign, freshness: Freshness::Asked }
                    }
                    (None, None) => self.learn_of_none(mac, asked_at).await,
                };
            }
        }
        let node = self.store.node(mac);
        if let Some(Elsewhere { node, told_at }) = node.as_ref().and_then(|node| node.elsewhere) {
            let age = fresh::age(told_at, clock::now());
            return Found::Elsewhere { foreign: node, freshness: Freshness::Past { age } };
        }
        let age = node.as_ref().and_then(|node| self.follower.age(node)).unwrap_or_default();
        match node.and_then(|node| node.known) {
            Some(known) => {
                Found::Known { freshness: Freshness::Past { age }, record: Box::new(known.record) }
            }
            None => Found::Unreachable,
        }
    }

    /// An operator's order counts at once, so the controller is asked at every boot. While it does not even answer checks, no
    /// machine waits for it whose record holds.
    fn is_to_ask(&self, mac: Mac) -> bool {
        let is_fresh = || self.store.node(mac).is_some_and(|node| self.follower.is_fresh(&node));
        self.standing.is_worth_asking() && !(self.standing.is_failing() && is_fresh())
    }

    /// The controller knows no such machine at any site.
    async fn learn_of_none(&self, mac: Mac, asked_at: Timestamp) -> Found {
        let was_elsewhere = self.store.look_at(mac, |node| node.elsewhere).flatten().is_some();
        if was_elsewhere
            && let Err(error) =
                in_time(soon(), self.store.note_elsewhere(mac, None, asked_at)).await
        {
            log::warn!(error:%, mac:%; "that {mac} is no node of another site could not be kept");
        }
        Found::Unknown
    }

    /// Keeps what the controller says, unless the machine has reported something that the controller does not know yet.
    async fn learn(&self, record: BootRecord, asked_at: Timestamp) -> Found {
        let saved = in_time(soon(), self.store.save_record(record.clone(), asked_at)).await;
        let node = match saved {
            Ok(node) => Some(node),
            Err(error) => {
                log::warn!(error:%, mac:% = record.mac_address; "what the controller says could not be kept");
                self.store.node(record.mac_address).filter(|node| node.state_seq.is_some())
            }
        };
        match node.and_then(|node| node.known) {
            Some(known) if known.record != record => {
                Found::Known { record: Box::new(known.record), freshness: Freshness::Cached }
            }
            _ => Found::Known { record: Box::new(record), freshness: Freshness::Asked },
        }
    }

    /// All that a decision rests on.
    fn inputs(&self, request: BootRequest, found: Found, mode: Mode) -> Inputs {
        let has_given = |record| self.store.look_at(request.mac, |node| node.has_given(record));
        let install_given = match &found {
            Found::Known { record, .. } => has_given(record) == Some(true),
            Found::Elsewhere { .. } | Found::Unknown | Found::Unreachable => false,
        };
        Inputs {
            request,
            found,
            mode,
            autonomy: self.standing.autonomy(),
            install_given,
            offline_action: self.offline_action,
        }
    }

    /// Writes down what a decision rests on, before the machine acts on it.
    async fn keep(
        &self,
        decision: &Decision,
        request: BootRequest,
        session: BootId,
        address: Option<IpAddr>,
    ) -> Result<(), Unkept> {
        if decision.effects.iter().all(|effect| self.is_settled(decision.mac, effect))
            && self.begun.borrow().has(session, &request, clock::monotonic())
        {
            return Ok(());
        }
        let (now, asked) = (clock::now(), request.clone());
        let before = self.store.node(decision.mac).map(|node| node.facts);
        let node = self.store.begin_session(session, request, new_node(), now).await?;
        for effect in &decision.effects {
            if let Effect::RememberInstall { wish, is_limited } = *effect {
                let given = self.store.mark_install_given(decision.mac, wish).await?;
                if is_limited && given == InstallGiven::Before {
                    return Err(Unkept::GivenBefore);
                }
            }
        }
        let is_discovered = decision.effects.contains(&Effect::Discover);
        if decision.effects.contains(&Effect::Claim) {
            // Where it belongs is asked once, however it boots meanwhile; what it does here is told to nobody.
            self.register(&node, session, address, now).await?;
            for effect in &decision.effects {
                if let Effect::RememberElsewhere(foreign) = *effect {
                    self.store.note_elsewhere(decision.mac, Some(foreign), now).await?;
                }
            }
            self.begun.borrow_mut().note(session, asked, clock::monotonic());
            return Ok(());
        }
        if is_discovered || node.known.is_some() && before.as_ref() != Some(&node.facts) {
            self.register(&node, session, address, now).await?;
        }
        if is_discovered || node.known.is_some() {
            let event = ChangePayload::Event(NodeEvent::new(NodeEventKind::BootStarted));
            self.record(node.node_id, session, now, event, |_| {}).await?;
            self.begun.borrow_mut().note(session, asked, clock::monotonic());
        }
        Ok(())
    }

    /// Whether nothing is left to be written for an effect.
    fn is_settled(&self, mac: Mac, effect: &Effect) -> bool {
        match effect {
            Effect::Discover | Effect::RememberInstall { .. } => false,
            // Once in a session, which is what has begun.
            Effect::Claim => true,
            Effect::RememberElsewhere(foreign) => {
                let kept = self.store.look_at(mac, |node| node.elsewhere).flatten();
                kept.map(|kept| kept.node) == Some(*foreign)
            }
        }
    }

    /// Tells the controller about a machine, and remembers it as discovered where nothing else is known.
    async fn register(
        &self,
        node: &CachedNode,
        session: BootId,
        address: Option<IpAddr>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let ip_address = address.map(|address| address.to_canonical().to_string());
        let payload = RegisterNode { request: node.facts.clone(), ip_address };
        let effect = move |node: &mut CachedNode| {
            if node.known.is_none() {
                node.known = Some(KnownRecord { record: discovered(node), fetched_at: now });
            }
        };
        self.record(node.node_id, session, now, ChangePayload::Registration(payload), effect).await
    }

    async fn record(
        &self,
        node: NodeId,
        session: BootId,
        at: Timestamp,
        payload: ChangePayload,
        effect: impl FnOnce(&mut CachedNode) + Send + 'static,
    ) -> Result<(), StoreError> {
        // Before the agent has joined there is nobody to tell.
        let Some(agent) = self.standing.agent_id() else { return Ok(()) };
        let clock = self.standing.clock();
        let change = NewChange {
            agent,
            node,
            base_version: None,
            at,
            clock,
            session: Some(session),
            payload,
        };
        self.outbox.record(change, effect).await.map(|_| ())
    }
}

/// What a machine is told, and what that is to its boot session.
struct Told {
    script: String,
    gives: Gives,
    because: String,
}

impl Told {
    fn answer(&self, mode: Mode) -> Answer {
        Answer { gives: self.gives, mode, because: self.because.as_str().into() }
    }
}

fn gives(boot: &Boot) -> Gives {
    match boot {
        Boot::Install(_) => Gives::Installer,
        Boot::ComeBackLater | Boot::Elsewhere => Gives::Wait,
        Boot::Discovered
        | Boot::PendingWithoutWorkflow
        | Boot::Foreign { .. }
        | Boot::Installing
        | Boot::InstallFailed
        | Boot::LocalDisk
        | Boot::Disputed
        | Boot::Retired
        | Boot::Guest
        | Boot::TurnedAway
        | Boot::Chain { .. }
        | Boot::PolicyScript { .. } => Gives::Disk,
        Boot::Hold { .. } => Gives::Wait,
        Boot::Refused { .. } => Gives::Error,
    }
}

/// The record of a machine that only this site knows.
fn discovered(node: &CachedNode) -> BootRecord {
    BootRecord::new(node.node_id, node.mac(), Lifecycle::Discovered, 0)
}

/// Without this effect on disk the same wish could wipe a disk twice.
fn is_needed_for_safety(effect: &Effect) -> bool {
    match effect {
        Effect::RememberInstall { .. } => true,
        Effect::Discover | Effect::Claim | Effect::RememberElsewhere(_) => false,
    }
}

/// The decision's reasons in one line.
fn sentences(decision: &Decision) -> String {
    let reasons: Vec<_> = decision.reasons.iter().map(ToString::to_string).collect();
    reasons.join("; ")
}

/// When a look at the disk that begins now has to be over.
fn soon() -> Instant {
    clock::monotonic() + LOOK_TIME
}

async fn in_time<T, E>(
    deadline: Instant,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, Unkept>
where
    Unkept: From<E>,
{
    let late = async {
        Timer::at(deadline).await;
        Err(Unkept::Late)
    };
    smol::future::or(async { Ok(work.await?) }, late).await
}

fn new_session() -> BootId {
    BootId::from_random(random())
}

fn new_node() -> NodeId {
    NodeId::from_random(random())
}

fn random() -> [u8; 16] {
    world::random().expect("a system that has started has random numbers")
}
