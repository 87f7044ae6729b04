//! The engine's settings, which are part of what compiled code is compiled for.

use wasmtime::{Config, ModuleVersionStrategy};

/// The release of wasmtime that is linked. A test holds it to `Cargo.lock`.
macro_rules! release {
    () => {
        "48.0.8"
    };
}

/// The interpreters of this release, each with the name of its engine.
const TARGETS: [(&str, &str); 2] = [
    ("pulley64", concat!("wt", release!(), "-pulley64-pb1")),
    ("pulley32", concat!("wt", release!(), "-pulley32-pb1")),
];

/// Which of [`TARGETS`] this program runs.
const OWN: usize = if cfg!(target_pointer_width = "64") { 0 } else { 1 };

/// What code is compiled for: the release of wasmtime, the interpreter's kind, and the number of the settings below, which rises when one
/// of them changes. Code of another engine is refused, also one of the same minor release: a mended compiler has to compile again.
pub const ENGINE_ID: &str = TARGETS[OWN].1;

/// The engines that this release compiles for: those of 64-bit and of 32-bit agents.
#[cfg(feature = "compile")]
pub const COMPILED_FOR: [&str; 2] = [TARGETS[0].1, TARGETS[1].1];

/// The most stack of one call, in bytes.
const WASM_STACK_LEN_MAX: usize = 256 << 10;

/// The stack on which a call runs, the host's part included, in bytes.
const STACK_LEN: usize = 1 << 20;

/// The address space that is set aside for a memory, so that one that grows never moves: the most that a package may ask for.
const MEMORY_RESERVATION: u64 = 64 << 20;

/// The engine cannot be set up on this host.
#[derive(Debug, thiserror::Error)]
#[error("the engine of plugins cannot be set up: {0}")]
pub struct EngineError(String);

/// Runs compiled policies. Cheap to clone.
#[derive(Clone)]
pub struct Engine(wasmtime::Engine);

impl Engine {
    /// An engine with the settings of [`ENGINE_ID`].
    ///
    /// # Errors
    /// The host cannot do what the settings ask for.
    pub fn new() -> Result<Self, EngineError> {
        Self::of(TARGETS[OWN])
    }

    /// An engine that compiles for the one with the name `id`, which need not be this program's own.
    ///
    /// # Errors
    /// This release does not compile for it.
    #[cfg(feature = "compile")]
    pub fn compiling_for(id: &str) -> Result<Self, EngineError> {
        let known = TARGETS.into_iter().find(|(_, known)| *known == id);
        Self::of(known.ok_or_else(|| {
            EngineError(format!(
                "there is no {id:?} here: this release compiles for {}",
                COMPILED_FOR.join(" and ")
            ))
        })?)
    }

    fn of((target, id): (&str, &str)) -> Result<Self, EngineError> {
        let engine = config(target, id).and_then(|config| wasmtime::Engine::new(&config));
        engine.map(Self).map_err(|error| EngineError(format!("{error:#}")))
    }

    pub(crate) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.0
    }
}

fn config(target: &str, id: &str) -> wasmtime::Result<Config> {
    let mut config = Config::new();
    config.target(target)?;
    config.module_version(ModuleVersionStrategy::Custom(id.to_owned()))?;
    // Counted and not timed: the same call ends at the same instruction on every machine.
    config.consume_fuel(true);
    config.max_wasm_stack(WASM_STACK_LEN_MAX);
    config.async_stack_size(STACK_LEN);
    // No guard pages and no handler of SIGSEGV: bounds are checked by the code, and 4 GiB are not reserved for each memory.
    config.signals_based_traps(false);
    config.memory_reservation(MEMORY_RESERVATION);
    config.memory_guard_size(0);
    config.memory_reservation_for_growth(0);
    config.memory_may_move(false);
    config.generate_address_map(false);
    config.native_unwind_info(false);
    // What differs between processors, and what no policy needs.
    config.wasm_relaxed_simd(false);
    config.wasm_memory64(false);
    #[cfg(feature = "compile")]
    config.cranelift_nan_canonicalization(true);
    Ok(config)
}

#[cfg(test)]
mod tests {
    #[test]
    fn p15_the_engine_s_name_is_that_of_the_release_that_is_linked() {
        let lock = include_str!("../../../Cargo.lock");
        let locked = concat!("name = \"wasmtime\"\nversion = \"", release!(), "\"\n");
        assert!(
            lock.contains(locked),
            "Cargo.lock has another wasmtime: change release!() with it"
        );
    }
}
