//! One policy: loaded from code that may be run, and called with an instance of its own for each question.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::component::{Component, Instance, InstancePre};
use wasmtime::{Store, Trap};

use crate::answer::{self, BadAnswer, Ground};
use crate::contract::{self, boot, cache, script};
use crate::engine::{ENGINE_ID, Engine};
use crate::facts::{
    BootFacts, CacheContext, CacheItem, CacheVerdict, Decision, NodeCache, NodesSaid, Purpose, Vars,
};
use crate::imports;
use crate::package::{Capability, Header, Hook, Signed, Trusted};
use crate::state::{LogBook, State, YIELD_FUEL};

/// The fuel of one decision or one script, the start of its instance included.
pub const FUEL: u64 = 20_000_000;

/// The fuel of a judgement, and what is added for each item.
pub const JUDGE_FUEL: (u64, u64) = (5_000_000, 200_000);

/// The most items that are judged in one call.
pub const JUDGE_ITEMS_MAX: usize = 256;

/// The most bytes that a component hands over in one call or answer.
const HOST_CALL_LEN_MAX: usize = 256 << 10;

/// The most handles that a component holds.
const HANDLES_MAX: usize = 1_000;

/// Why a package is not installed. An operator reads this.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Compiled for another agent.
    #[error(
        "it was compiled for the engine {package:?}, and this agent runs {ENGINE_ID}: have the controller compile it for this one"
    )]
    Engine {
        /// What the header says.
        package: String,
    },
    /// The engine does not take it.
    #[error("its code is not taken by the engine: {0}")]
    Code(String),
    /// It speaks another version of the contract.
    #[error("it has {found}, and this agent speaks pureboot:policy 0.1: build it against that")]
    Contract {
        /// An interface of another version.
        found: String,
    },
    /// It wants something that no policy gets.
    #[error("it asks for {}, which no policy gets: only pureboot:policy/log, /nodes and wasi:* are there", .0.join(", "))]
    Imports(Vec<String>),
    /// It uses what its header does not name.
    #[error("it uses the capability {0}, which its header does not name")]
    Undeclared(Capability),
    /// The site has not granted it.
    #[error("it asks for the capability {0}, which this site has not granted it")]
    NotGranted(Capability),
    /// The header promises what the code has not.
    #[error("its header names the hook {0}, which it does not have")]
    HookMissing(Hook),
    /// The types of a function are others.
    #[error("its hook {hook} has other types than the contract: {why}")]
    Shape {
        /// Which hook.
        hook: Hook,
        /// Where they differ.
        why: String,
    },
    /// It cannot even start.
    #[error("it does not start: {0}")]
    Start(Failure),
}

/// How a call failed. What the policy would have said does not count, and the built-in decision stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It did not come to an end.
    #[error("it used up its fuel of {0}")]
    Fuel(u64),
    /// It wanted more memory than it has, and gave up.
    #[error("it wanted more than its {0} MiB of memory")]
    Memory(u16),
    /// Too deep a recursion.
    #[error("it used up its stack")]
    Stack,
    /// It handed over more than is taken.
    #[error("it handed over more than {HOST_CALL_LEN_MAX} bytes at once")]
    Size,
    /// It broke off, or returned what is no value of the contract.
    #[error("it broke off: {0}")]
    Trap(String),
    /// Its answer cannot be used.
    #[error("its answer is bad: {0}")]
    Answer(#[from] BadAnswer),
    /// The machine cannot wait any longer.
    #[error("it had not answered when its time was up")]
    Time,
    /// More than is judged at once.
    #[error("{0} items are more than {JUDGE_ITEMS_MAX}")]
    Items(usize),
}

/// What a policy came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said<T> {
    /// An answer, which was checked.
    Answer(T),
    /// That it cannot decide, in its own words; as if it had no opinion.
    Error(String),
}

/// What a call cost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cost {
    /// Fuel that was burnt: the same for the same call on every machine.
    pub fuel: u64,
    /// Memory that it had at the end, in bytes.
    pub memory: usize,
    /// How long it took, with the time that others had in between.
    pub took: Duration,
}

/// A call and what is seen of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Called<T> {
    /// What came of it.
    pub said: Result<Said<T>, Failure>,
    /// What it cost.
    pub cost: Cost,
    /// What it logged.
    pub log: LogBook,
    /// What it was told of nodes.
    pub nodes: Vec<NodesSaid>,
}

/// The limits of one call.
#[derive(Clone, Copy)]
struct Limits {
    fuel: u64,
    memory_mib: u16,
}

/// A policy that was loaded.
pub struct Plugin {
    engine: Engine,
    header: Header,
    nodes: Option<Arc<dyn NodeCache>>,
    instances: InstancePre<State>,
    boot: Option<boot::GuestIndices>,
    script: Option<script::GuestIndices>,
    cache: Option<cache::GuestIndices>,
}

impl Plugin {
    /// Loads a signed package. It is started once, so that what cannot start is not installed.
    ///
    /// `nodes` is the site's record of its nodes if the site has granted the policy to read it.
    ///
    /// # Errors
    /// It cannot be run here; nothing of it remains.
    pub async fn load(
        engine: &Engine,
        package: &Signed<'_>,
        nodes: Option<Arc<dyn NodeCache>>,
    ) -> Result<Self, LoadError> {
        Self::load_code(engine, package.header().clone(), package.code(), nodes).await
    }

    /// Loads code that this host has compiled of the component that `header` names.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub async fn load_code(
        engine: &Engine,
        header: Header,
        code: Trusted<'_>,
        nodes: Option<Arc<dyn NodeCache>>,
    ) -> Result<Self, LoadError> {
        if header.engine != ENGINE_ID {
            return Err(LoadError::Engine { package: header.engine });
        }
        let component = deserialize(engine, code)?;
        let wanted = imports::wanted(engine.wasmtime(), &component);
        if !wanted.foreign.is_empty() {
            return Err(LoadError::Imports(wanted.foreign));
        }
        if wanted.nodes && !header.capabilities.contains(&Capability::Nodes) {
            return Err(LoadError::Undeclared(Capability::Nodes));
        }
        if wanted.nodes && nodes.is_none() {
            return Err(LoadError::NotGranted(Capability::Nodes));
        }
        let link = |_| {
            imports::linker(engine.wasmtime(), &component, wanted.nodes)?
                .instantiate_pre(&component)
        };
        let instances = Ok(())
            .and_then(link)
            .map_err(|error: wasmtime::Error| LoadError::Code(format!("{error:#}")))?;
        let has = |hook| header.hooks.contains(&hook);
        let plugin = Self {
            boot: has(Hook::Boot).then(|| boot::GuestIndices::new(&instances).ok()).flatten(),
            script: has(Hook::Script).then(|| script::GuestIndices::new(&instances).ok()).flatten(),
            cache: has(Hook::Cache).then(|| cache::GuestIndices::new(&instances).ok()).flatten(),
            engine: engine.clone(),
            nodes: nodes.filter(|_| wanted.nodes),
            header,
            instances,
        };
        plugin.check_hooks(&component)?;
        plugin.check_start().await?;
        Ok(plugin)
    }

    fn check_hooks(&self, component: &Component) -> Result<(), LoadError> {
        let component = component.component_type();
        let is_other =
            |name: &&str| name.starts_with(contract::PACKAGE) && !contract::is_spoken(name);
        let other = component.exports(self.engine.wasmtime()).map(|(name, _)| name).find(is_other);
        if let Some(found) = other {
            return Err(LoadError::Contract { found: found.to_owned() });
        }
        match self.header.hooks.iter().find(|hook| !self.has(**hook)) {
            Some(hook) => Err(LoadError::HookMissing(*hook)),
            None => Ok(()),
        }
    }

    /// Starts an instance and looks at the types of its functions.
    async fn check_start(&self) -> Result<(), LoadError> {
        let limits = self.limits(FUEL);
        let mut store = self.store(limits, 0);
        let started = self.instances.instantiate_async(&mut store).await;
        let instance =
            started.map_err(|error| LoadError::Start(failure(&error, &store, limits)))?;
        let shape = |hook| {
            move |error: wasmtime::Error| LoadError::Shape { hook, why: format!("{error:#}") }
        };
        if let Some(boot) = &self.boot {
            boot.load(&mut store, &instance).map_err(shape(Hook::Boot))?;
        }
        if let Some(script) = &self.script {
            script.load(&mut store, &instance).map_err(shape(Hook::Script))?;
        }
        if let Some(cache) = &self.cache {
            cache.load(&mut store, &instance).map_err(shape(Hook::Cache))?;
        }
        Ok(())
    }

    /// The same policy with other answers to its questions for nodes, as when a call is repeated; one that may not ask still may not.
    pub fn with_nodes(&self, nodes: Arc<dyn NodeCache>) -> Self {
        Self {
            engine: self.engine.clone(),
            header: self.header.clone(),
            nodes: self.nodes.as_ref().map(|_| nodes),
            instances: self.instances.clone(),
            boot: self.boot.clone(),
            script: self.script.clone(),
            cache: self.cache.clone(),
        }
    }

    /// What its package says of it.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Whether it can be asked this.
    pub fn has(&self, hook: Hook) -> bool {
        match hook {
            Hook::Boot => self.boot.is_some(),
            Hook::Script => self.script.is_some(),
            Hook::Cache => self.cache.is_some(),
        }
    }

    /// The values of its settings: what the site says, and its own defaults. A setting that it does not declare is not passed on.
    pub fn settings(&self, of_site: &Vars) -> Vars {
        let declared = self.header.settings.iter();
        let value = |(name, setting): (&String, &crate::package::Setting)| {
            (name.clone(), of_site.get(name).unwrap_or(&setting.default).clone())
        };
        declared.map(value).collect()
    }

    /// Asks what a machine boots. None if the policy has no such hook.
    pub async fn decide(
        &self,
        facts: &BootFacts,
        settings: &Vars,
        ground: &dyn Ground,
    ) -> Option<Called<Decision>> {
        let boot = self.boot.as_ref()?;
        let request = contract::request(facts, settings);
        let ask = async |store: &mut Store<State>, instance: &Instance| {
            boot.load(&mut *store, instance)?.call_decide(&mut *store, &request).await
        };
        let called = self.call(self.limits(FUEL), facts.now, ask).await;
        Some(called.checked(|raw| answer::check_decision(raw.into(), ground)))
    }

    /// Asks for another text of the script that a machine is about to get. None if the policy has no such hook.
    pub async fn patch(
        &self,
        facts: &BootFacts,
        settings: &Vars,
        purpose: Purpose,
        text: &str,
        ground: &dyn Ground,
    ) -> Option<Called<Option<String>>> {
        let script = self.script.as_ref()?;
        let request = contract::request(facts, settings);
        let purpose = contract::purpose(purpose);
        let ask = async |store: &mut Store<State>, instance: &Instance| {
            script
                .load(&mut *store, instance)?
                .call_patch(&mut *store, &request, purpose, text)
                .await
        };
        let called = self.call(self.limits(FUEL), facts.now, ask).await;
        let check =
            |raw: Option<String>| raw.map(|text| answer::check_script(text, ground)).transpose();
        Some(called.checked(check))
    }

    /// Asks what the site keeps. None if the policy has no such hook.
    pub async fn judge(
        &self,
        context: &CacheContext,
        settings: &Vars,
        items: &[CacheItem],
    ) -> Option<Called<Vec<Option<CacheVerdict>>>> {
        let cache = self.cache.as_ref()?;
        if items.len() > JUDGE_ITEMS_MAX {
            return Some(Called::failed(Failure::Items(items.len()), Duration::ZERO));
        }
        let (fuel, fuel_per_item) = JUDGE_FUEL;
        let fuel = fuel + fuel_per_item * u64::try_from(items.len()).unwrap_or_default();
        let question = contract::context(context, settings);
        let asked: Vec<_> = items.iter().map(contract::item).collect();
        let ask = async |store: &mut Store<State>, instance: &Instance| {
            cache.load(&mut *store, instance)?.call_judge(&mut *store, &question, &asked).await
        };
        let called = self.call(self.limits(fuel), context.now, ask).await;
        let check = |raw: Vec<Option<cache::Verdict>>| {
            let verdicts = raw.into_iter().map(|verdict| verdict.map(CacheVerdict::from));
            answer::check_verdicts(verdicts.collect(), items)
        };
        Some(called.checked(check))
    }

    fn limits(&self, fuel: u64) -> Limits {
        Limits { fuel, memory_mib: self.header.memory_mib }
    }

    fn store(&self, limits: Limits, now: u32) -> Store<State> {
        let state = State::new(limits.memory_mib, self.nodes.clone(), now);
        let mut store = Store::new(self.engine.wasmtime(), state);
        store.limiter(|state| &mut state.meter);
        store.set_hostcall_fuel(HOST_CALL_LEN_MAX);
        store.set_max_component_handles(HANDLES_MAX);
        let fuelled = store
            .set_fuel(limits.fuel)
            .and_then(|()| store.fuel_async_yield_interval(Some(YIELD_FUEL)));
        fuelled.expect("the engine's settings turn fuel on");
        store
    }

    /// A call with a store and an instance of its own; both end with it, so nothing that it did is there the next time.
    async fn call<T>(
        &self,
        limits: Limits,
        now: u32,
        ask: impl AsyncFnOnce(
            &mut Store<State>,
            &Instance,
        ) -> wasmtime::Result<Result<T, contract::types::PolicyError>>,
    ) -> Called<T> {
        let started_at = Instant::now();
        let mut store = self.store(limits, now);
        let answer = match self.instances.instantiate_async(&mut store).await {
            Ok(instance) => ask(&mut store, &instance).await,
            Err(error) => Err(error),
        };
        let said = match answer {
            Ok(Ok(answer)) => Ok(Said::Answer(answer)),
            Ok(Err(error)) => {
                Ok(Said::Error(error.message.chars().take(answer::LINE_LEN_MAX).collect()))
            }
            Err(error) => Err(failure(&error, &store, limits)),
        };
        let fuel = limits.fuel - store.get_fuel().unwrap_or_default();
        let state = store.into_data();
        let cost = Cost { fuel, memory: state.meter.memory_len(), took: started_at.elapsed() };
        Called { said, cost, log: state.log, nodes: state.nodes_said }
    }
}

impl<T> Called<T> {
    /// A call of which nothing is seen but that it failed.
    pub(crate) fn failed(failure: Failure, took: Duration) -> Self {
        let cost = Cost { took, ..Cost::default() };
        Self { said: Err(failure), cost, log: LogBook::default(), nodes: Vec::new() }
    }

    fn checked<U>(self, check: impl FnOnce(T) -> Result<U, BadAnswer>) -> Called<U> {
        let said = self.said.and_then(|said| match said {
            Said::Answer(answer) => Ok(Said::Answer(check(answer)?)),
            Said::Error(message) => Ok(Said::Error(message)),
        });
        Called { said, cost: self.cost, log: self.log, nodes: self.nodes }
    }
}

fn failure(error: &wasmtime::Error, store: &Store<State>, limits: Limits) -> Failure {
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => Failure::Fuel(limits.fuel),
        Some(Trap::StackOverflow) => Failure::Stack,
        _ if store.data().meter.was_denied => Failure::Memory(limits.memory_mib),
        Some(trap) => Failure::Trap(trap.to_string()),
        None => {
            let text = format!("{error:#}");
            // The engine has no type of its own for this one; a test holds the text to its release.
            if text.contains("fuel allocated for hostcalls") {
                Failure::Size
            } else {
                Failure::Trap(text)
            }
        }
    }
}

/// The one place in the workspace that is `unsafe`.
#[expect(
    unsafe_code,
    reason = "wasmtime takes compiled code through an unsafe function: code that was changed could do anything. `Trusted` is only made \
              of bytes whose signature or seal was checked, they are these very bytes, and nobody can change them in between"
)]
pub(crate) fn deserialize(engine: &Engine, code: Trusted<'_>) -> Result<Component, LoadError> {
    // SAFETY: the bytes are what `Engine::precompile_component` gave the signer or this host; see `Trusted`.
    let component = unsafe { Component::deserialize(engine.wasmtime(), code.bytes()) };
    component.map_err(|error| LoadError::Code(format!("{error:#}")))
}
