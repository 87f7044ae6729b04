//! The policies of a site: their order, their versions, and how they fare. A new version is loaded beside the old one and takes its
//! place between two questions; a call that is under way ends on the version that it began with.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use smol::Timer;
use smol::future::or;
use smol::lock::Mutex;

use crate::answer::Ground;
use crate::breaker::{Breaker, Change};
use crate::chain::{
    Answer, Call, Judgement, Mode, Note, OnFailure, Patch, Silence, Speaker, Verdict,
};
use crate::facts::{BootFacts, CacheContext, CacheItem, Purpose, Vars};
use crate::package::{self, Hook, PluginId, SuccessionError, Version};
use crate::plugin::{Called, Cost, Failure, Plugin, Said};
use crate::state::LogLine;

/// The most questions that wait for one policy; it answers one at a time.
pub const WAITING_MAX: usize = 64;

/// How long a question waits for its turn; after that it would come too late for the machine.
pub const WAIT_MAX: Duration = Duration::from_secs(2);

/// A version that is set aside so soon after it came goes back to the one before.
pub const PROBATION: Duration = Duration::from_secs(600);

/// The calls of which the fuel is remembered.
const FUEL_SAMPLES: usize = 128;

/// The events that wait to be taken; older ones are dropped.
const EVENTS_MAX: usize = 64;

/// How a site uses a policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assignment {
    /// What is done with its answers.
    pub mode: Mode,
    /// What is done if there is none.
    pub on_failure: OnFailure,
    /// The site's values of its settings.
    pub settings: Vars,
}

/// Something that an operator should hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It failed again and again and is not asked for a while.
    SetAside {
        /// The policy.
        id: PluginId,
        /// The version that failed.
        version: Version,
        /// For how long.
        pause: Duration,
        /// Its last failure.
        failure: String,
    },
    /// It is asked again.
    Back {
        /// The policy.
        id: PluginId,
    },
    /// A version that failed soon after it came has given way to the one before.
    RolledBack {
        /// The policy.
        id: PluginId,
        /// The version that failed.
        from: Version,
        /// The version that is asked now.
        to: Version,
    },
}

/// Why there is no going back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RollbackError {
    /// No such policy.
    #[error("this site has no policy {0}")]
    Unknown(PluginId),
    /// It has always been this version.
    #[error("no earlier version of {0} is here")]
    First(PluginId),
}

/// How a policy fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The policy.
    pub id: PluginId,
    /// The version that is asked.
    pub version: Version,
    /// The version that a roll-back leads to.
    pub previous: Option<Version>,
    /// How the site uses it.
    pub mode: Mode,
    /// How much longer it is set aside, if it is.
    pub aside_for: Option<Duration>,
    /// For how long it was last set aside, until a trial goes well.
    pub pause: Option<Duration>,
    /// What came of its calls.
    pub counts: Counts,
    /// The fuel that 99 of 100 of its last calls stayed within.
    pub fuel_p99: u64,
    /// The fuel of all calls.
    pub fuel_total: u64,
    /// The longest call.
    pub took_max: Duration,
    /// All calls.
    pub took_total: Duration,
    /// The last failure, in words.
    pub last_failure: Option<String>,
}

/// What came of a policy's calls since its version came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Questions that it answered.
    pub answers: u64,
    /// Questions that it said it cannot decide.
    pub errors: u64,
    /// Calls that failed.
    pub failures: u64,
    /// Questions that it was not asked, because it was set aside or too many waited.
    pub skipped: u64,
}

/// A policy that is asked.
pub struct Member {
    /// Whose word it is.
    pub speaker: Speaker,
    /// The version that is asked.
    pub plugin: Rc<Plugin>,
    /// The settings that it is given.
    pub settings: Vars,
}

/// A version of a policy, and how it has fared.
struct Running {
    plugin: Rc<Plugin>,
    since: Duration,
    breaker: Breaker,
    counts: Counts,
    fuel: VecDeque<u64>,
    fuel_total: u64,
    took_max: Duration,
    took_total: Duration,
    last_failure: Option<String>,
}

impl Running {
    fn new(plugin: Rc<Plugin>, since: Duration) -> Self {
        Self {
            plugin,
            since,
            breaker: Breaker::default(),
            counts: Counts::default(),
            fuel: VecDeque::with_capacity(FUEL_SAMPLES),
            fuel_total: 0,
            took_max: Duration::ZERO,
            took_total: Duration::ZERO,
            last_failure: None,
        }
    }

    fn record_cost(&mut self, cost: &Cost) {
        if self.fuel.len() == FUEL_SAMPLES {
            self.fuel.pop_front();
        }
        self.fuel.push_back(cost.fuel);
        self.fuel_total = self.fuel_total.saturating_add(cost.fuel);
        self.took_max = self.took_max.max(cost.took);
        self.took_total = self.took_total.saturating_add(cost.took);
    }

    fn fuel_p99(&self) -> u64 {
        let mut sorted: Vec<_> = self.fuel.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get((sorted.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
    }

    fn version(&self) -> Version {
        self.plugin.header().version
    }
}

struct Slot {
    id: PluginId,
    assignment: RefCell<Assignment>,
    running: RefCell<Running>,
    previous: RefCell<Option<Rc<Plugin>>>,
    /// Machines are waiting.
    turn: Mutex<()>,
    /// Nobody waits for what the site keeps, and it takes longer: no machine waits for it either.
    stock_turn: Mutex<()>,
    waiting: Cell<usize>,
}

fn note_call(notes: &mut [Note], call: Option<Call>) {
    if let Some(note) = notes.last_mut() {
        note.call = call;
    }
}

async fn late<T>(at: Instant) -> Option<T> {
    Timer::at(at).await;
    None
}

/// What `answering` comes to, unless the deadline is before it; then it is dropped, and its instance with it. A policy at work gives
/// way all the time, so nobody has to wake it for that.
async fn until<T>(deadline: Instant, answering: impl Future<Output = T>) -> Option<T> {
    let mut answering = pin!(answering);
    poll_fn(|context| match answering.as_mut().poll(context) {
        Poll::Ready(answer) => Poll::Ready(Some(answer)),
        Poll::Pending if Instant::now() >= deadline => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// One that waits, for as long as it lives.
struct Waiting<'a>(&'a Cell<usize>);

impl<'a> Waiting<'a> {
    fn begin(count: &'a Cell<usize>) -> Option<Self> {
        let waiting = count.get();
        (waiting < WAITING_MAX).then(|| {
            count.set(waiting + 1);
            Self(count)
        })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// What a policy logged while it was asked, for the agent's log.
pub type LogSink = Box<dyn Fn(&PluginId, &[LogLine], u64)>;

/// The policies of a site. For one thread, as the agent's executor is.
pub struct Policies {
    slots: RefCell<Vec<Rc<Slot>>>,
    events: RefCell<VecDeque<Event>>,
    log: LogSink,
    began_at: Instant,
}

impl Policies {
    /// A site without policies. What policies log goes to `log`, with how many lines were dropped.
    pub fn new(log: LogSink) -> Self {
        Self {
            slots: RefCell::default(),
            events: RefCell::default(),
            log,
            began_at: Instant::now(),
        }
    }

    fn now(&self) -> Duration {
        self.began_at.elapsed()
    }

    /// Puts a loaded policy into use: at the end of the order if it is new, in place of its earlier version if it is not.
    ///
    /// # Errors
    /// It is older than the version that is asked now, or another component with the same version.
    pub fn activate(&self, plugin: Plugin, assignment: Assignment) -> Result<(), SuccessionError> {
        if let Some(slot) = self.slot(&plugin.header().id) {
            package::succeeds(plugin.header(), Some(slot.running.borrow().plugin.header()))?;
        }
        self.replace(plugin, assignment);
        Ok(())
    }

    /// As [`Self::activate`], whatever the version: for those to whom the site's own signed list says which it is to be.
    pub fn replace(&self, plugin: Plugin, assignment: Assignment) {
        let id = plugin.header().id.clone();
        let plugin = Rc::new(plugin);
        let running = Running::new(Rc::clone(&plugin), self.now());
        let Some(slot) = self.slot(&id) else {
            self.slots.borrow_mut().push(Rc::new(Slot {
                id,
                assignment: RefCell::new(assignment),
                running: RefCell::new(running),
                previous: RefCell::default(),
                turn: Mutex::new(()),
                stock_turn: Mutex::new(()),
                waiting: Cell::default(),
            }));
            return;
        };
        let replaced = slot.running.replace(running).plugin;
        if replaced.header().wasm != plugin.header().wasm {
            slot.previous.replace(Some(replaced));
        }
        slot.assignment.replace(assignment);
    }

    /// Has a version at hand that a roll-back leads to; false if there is no policy of this name.
    pub fn keep_previous(&self, plugin: Plugin) -> bool {
        let slot = self.slot(&plugin.header().id);
        slot.map(|slot| slot.previous.replace(Some(Rc::new(plugin)))).is_some()
    }

    /// Sets a policy aside as it was before the agent was started anew; false if there is none of this name.
    pub fn set_aside(&self, id: &PluginId, rest: Duration, pause: Duration) -> bool {
        let breaker = Breaker::set_aside(self.now() + rest, pause);
        let slot = self.slot(id);
        slot.map(|slot| slot.running.borrow_mut().breaker = breaker).is_some()
    }

    /// Whether any policy is asked this.
    pub fn has(&self, hook: Hook) -> bool {
        !self.asked(hook).is_empty()
    }

    /// The policies that are asked this, in order, with what each is asked with: for those who ask them beside the count.
    pub fn members(&self, hook: Hook) -> Vec<Member> {
        let member = |slot: &Rc<Slot>| {
            let plugin = Rc::clone(&slot.running.borrow().plugin);
            let settings = plugin.settings(&slot.assignment.borrow().settings);
            Member { speaker: slot.speaker(), plugin, settings }
        };
        self.asked(hook).iter().map(member).collect()
    }

    /// Asks policies in this order from now on, and forgets those that are not named.
    pub fn arrange(&self, order: &[PluginId]) {
        let slots = order.iter().filter_map(|id| self.slot(id)).collect();
        self.slots.replace(slots);
    }

    /// Changes how a policy is used; false if there is none of this name.
    pub fn assign(&self, id: &PluginId, assignment: Assignment) -> bool {
        let slot = self.slot(id);
        slot.map(|slot| slot.assignment.replace(assignment)).is_some()
    }

    /// Goes back to the version before; the one that is left can be gone back to in turn.
    ///
    /// # Errors
    /// There is none.
    pub fn roll_back(&self, id: &PluginId) -> Result<Version, RollbackError> {
        let slot = self.slot(id).ok_or_else(|| RollbackError::Unknown(id.clone()))?;
        let previous = slot.previous.take().ok_or_else(|| RollbackError::First(id.clone()))?;
        let version = previous.header().version;
        let left = slot.running.replace(Running::new(previous, self.now()));
        slot.previous.replace(Some(left.plugin));
        Ok(version)
    }

    /// Asks a policy again that is set aside; false if there is none of this name.
    pub fn reset(&self, id: &PluginId) -> bool {
        let slot = self.slot(id);
        slot.map(|slot| slot.running.borrow_mut().breaker = Breaker::default()).is_some()
    }

    /// What has happened since this was last asked.
    pub fn take_events(&self) -> Vec<Event> {
        self.events.take().into()
    }

    /// How each policy fares, in order.
    pub fn status(&self) -> Vec<Status> {
        let status = |slot: &Rc<Slot>| {
            let running = slot.running.borrow();
            let now = self.now();
            Status {
                id: slot.id.clone(),
                version: running.version(),
                previous: slot.previous.borrow().as_ref().map(|plugin| plugin.header().version),
                mode: slot.assignment.borrow().mode,
                aside_for: running.breaker.aside_until(now).map(|until| until.saturating_sub(now)),
                pause: running.breaker.pause(),
                counts: running.counts,
                fuel_p99: running.fuel_p99(),
                fuel_total: running.fuel_total,
                took_max: running.took_max,
                took_total: running.took_total,
                last_failure: running.last_failure.clone(),
            }
        };
        self.slots.borrow().iter().map(status).collect()
    }

    /// What this machine boots, by the site's policies. A policy that has not answered by the deadline has failed.
    pub async fn decide(
        &self,
        facts: &BootFacts,
        ground: &dyn Ground,
        deadline: Instant,
    ) -> Verdict {
        let mut verdict = Verdict::default();
        for slot in self.asked(Hook::Boot) {
            let speaker = slot.speaker();
            if speaker.mode == Mode::On && verdict.is_decided() {
                continue;
            }
            let ask = async |plugin: &Plugin, settings: &Vars| {
                plugin.decide(facts, settings, ground).await
            };
            if let Some((answer, call)) = self.ask(&slot, &slot.turn, deadline, ask).await {
                verdict.offer(&speaker, answer);
                note_call(&mut verdict.notes, call);
            }
        }
        verdict
    }

    /// What the site's policies make of a script, by the deadline.
    pub async fn patch(
        &self,
        facts: &BootFacts,
        purpose: Purpose,
        script: String,
        ground: &dyn Ground,
        deadline: Instant,
    ) -> Patch {
        let mut patch = Patch::new(script);
        for slot in self.asked(Hook::Script) {
            let text = &patch.script;
            let ask = async |plugin: &Plugin, settings: &Vars| {
                plugin.patch(facts, settings, purpose, text, ground).await
            };
            if let Some((answer, call)) = self.ask(&slot, &slot.turn, deadline, ask).await {
                patch.offer(&slot.speaker(), answer);
                note_call(&mut patch.notes, call);
            }
        }
        patch
    }

    /// What the site keeps, by its policies; at most [`crate::plugin::JUDGE_ITEMS_MAX`] items at once.
    pub async fn judge(
        &self,
        context: &CacheContext,
        items: &[CacheItem],
        deadline: Instant,
    ) -> Judgement {
        let mut judgement = Judgement::new(items.len());
        for slot in self.asked(Hook::Cache) {
            let ask = async |plugin: &Plugin, settings: &Vars| {
                plugin.judge(context, settings, items).await
            };
            if let Some((answer, call)) = self.ask(&slot, &slot.stock_turn, deadline, ask).await {
                judgement.offer(&slot.speaker(), answer);
                note_call(&mut judgement.notes, call);
            }
        }
        judgement
    }

    fn slot(&self, id: &PluginId) -> Option<Rc<Slot>> {
        self.slots.borrow().iter().find(|slot| slot.id == *id).cloned()
    }

    /// The policies that have a hook and are not off, as they stand now.
    fn asked(&self, hook: Hook) -> Vec<Rc<Slot>> {
        let is_asked = |slot: &&Rc<Slot>| {
            slot.assignment.borrow().mode != Mode::Off && slot.running.borrow().plugin.has(hook)
        };
        self.slots.borrow().iter().filter(is_asked).cloned().collect()
    }

    /// Asks one policy when it is its turn. None if its newest version has lost the hook in the meantime.
    async fn ask<T>(
        &self,
        slot: &Slot,
        turn: &Mutex<()>,
        deadline: Instant,
        ask: impl AsyncFnOnce(&Plugin, &Vars) -> Option<Called<T>>,
    ) -> Option<(Answer<T>, Option<Call>)> {
        let Some(waiting) = Waiting::begin(&slot.waiting) else {
            return Some((slot.skip(Silence::Busy), None));
        };
        let patience = deadline.min(Instant::now() + WAIT_MAX);
        let turn = or(async { Some(turn.lock().await) }, late(patience)).await;
        drop(waiting);
        let Some(_turn) = turn else { return Some((slot.skip(Silence::Busy), None)) };
        if slot.running.borrow().breaker.aside_until(self.now()).is_some() {
            return Some((slot.skip(Silence::SetAside), None));
        }
        let plugin = Rc::clone(&slot.running.borrow().plugin);
        let settings = plugin.settings(&slot.assignment.borrow().settings);
        let asked_at = Instant::now();
        let called = match until(deadline, ask(&plugin, &settings)).await {
            Some(called) => called?,
            None => Called::failed(Failure::Time, asked_at.elapsed()),
        };
        if !called.log.lines.is_empty() {
            (self.log)(&slot.id, &called.log.lines, called.log.dropped);
        }
        self.record(slot, &plugin, &called);
        let Called { said, cost, nodes, .. } = called;
        let version = plugin.header().version;
        let call = Call { version, settings, fuel: cost.fuel, took: cost.took, nodes };
        Some((said.map_err(Silence::Failed), Some(call)))
    }

    fn record<T>(&self, slot: &Slot, plugin: &Rc<Plugin>, called: &Called<T>) {
        let now = self.now();
        let mut running = slot.running.borrow_mut();
        // A version that was replaced during the call does not count for the one that came.
        if !Rc::ptr_eq(&running.plugin, plugin) {
            return;
        }
        running.record_cost(&called.cost);
        let change = match &called.said {
            Ok(Said::Answer(_)) => {
                running.counts.answers += 1;
                running.breaker.record_answer()
            }
            Ok(Said::Error(_)) => {
                running.counts.errors += 1;
                running.breaker.record_answer()
            }
            Err(failure) => {
                running.counts.failures += 1;
                running.last_failure = Some(failure.to_string());
                running.breaker.record_failure(now)
            }
        };
        let (id, version) = (slot.id.clone(), running.version());
        let is_on_probation = now.saturating_sub(running.since) < PROBATION;
        let failure = running.last_failure.clone().unwrap_or_default();
        drop(running);
        match change {
            Change::None => {}
            Change::Back => self.tell(Event::Back { id }),
            Change::SetAside { until } => {
                let pause = until.saturating_sub(now);
                self.tell(Event::SetAside { id: id.clone(), version, pause, failure });
                let previous =
                    slot.previous.borrow().as_ref().map(|plugin| plugin.header().version);
                // Back to an older one only: what was gone back to has nothing to go back to.
                if is_on_probation
                    && previous.is_some_and(|previous| previous < version)
                    && let Ok(to) = self.roll_back(&id)
                {
                    self.tell(Event::RolledBack { id, from: version, to });
                }
            }
        }
    }

    fn tell(&self, event: Event) {
        let mut events = self.events.borrow_mut();
        if events.len() == EVENTS_MAX {
            events.pop_front();
        }
        events.push_back(event);
    }
}

impl Slot {
    fn speaker(&self) -> Speaker {
        let assignment = self.assignment.borrow();
        Speaker { id: self.id.clone(), mode: assignment.mode, on_failure: assignment.on_failure }
    }

    fn skip<T>(&self, silence: Silence) -> Answer<T> {
        self.running.borrow_mut().counts.skipped += 1;
        Err(silence)
    }
}
