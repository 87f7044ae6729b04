//! A bundle compiled and asked: by this process for whoever wrote it, and for others by a child process that can do nothing but
//! compute, and not for long (FAULTS P8).

use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::alarm;
use pureboot_plugin_host::compile::{self, CompileError};
use pureboot_plugin_host::engine::{ENGINE_ID, Engine, EngineError};
use pureboot_plugin_host::outline::Outline;
use pureboot_plugin_host::package::{Capability, Header, Hook};
use pureboot_plugin_host::plugin::{LoadError, Plugin};
use pureboot_plugin_host::seal::{KEY_LEN, SealKey};
use pureboot_protocol::ContentHash;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::bundle::{Bundle, BundleError};
use crate::description::Description;
use crate::fixture::{Asker, Fixture, Nodes, Report};

/// The processor time of a child, in seconds: to begin with, and for each MiB of the component and each engine.
const CPU_S: (u64, u64) = (10, 8);

/// The address space of a child, in bytes: to begin with, and for each byte of the component.
const MEMORY: (u64, u64) = (256 << 20, 28);

/// How much longer than its processor time a child may last, on a machine that has much else to do.
const PATIENCE: u64 = 6;

/// The most files that a child has open: the three that it was given, and a few of the runtime's.
const FILES_MAX: u64 = 16;

/// The longest report, in bytes.
const REPORT_LEN_MAX: usize = 4 << 20;

/// The most that a child answers, in bytes.
const ANSWER_LEN_MAX: u64 = 256 << 20;

/// Why a bundle is not taken. Its author reads this.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It is no bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// It is too large, no component, or not compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// There is no such engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// It cannot be run.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It exports nothing that is asked.
    #[error(
        "it has no hook of pureboot:policy 0.1: it exports {0}, and a policy exports at least one of pureboot:policy/boot@0.1.0, \
         /script@0.1.0 and /cache@0.1.0"
    )]
    Hookless(String),
    /// It has a hook that its description does not name.
    #[error(
        "it has the hook {0}, which policy.json does not name: add it to hooks, or leave hooks out"
    )]
    Unnamed(Hook),
    /// A fixture cannot be read.
    #[error("the fixture {name} is none: {why}")]
    Fixture {
        /// Which.
        name: String,
        /// Why not.
        why: String,
    },
    /// Fixtures whose answers are others than they say.
    #[error("{}", .0.join("\n"))]
    Answers(
        /// One line for each.
        Vec<String>,
    ),
    /// What the child said, which is one of the others.
    #[error("{0}")]
    Said(String),
    /// The child did not come to an end.
    #[error("{0}")]
    Ended(String),
    /// The child cannot be started or spoken with.
    #[error("compiling cannot be begun: {0}")]
    Run(#[from] io::Error),
}

/// What was made of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// What it is, with the hooks that the component has.
    pub description: Description,
    /// The SHA-256 of the component.
    pub wasm: ContentHash,
    /// The component's length, in bytes.
    pub wasm_len: u64,
    /// What came of each fixture.
    pub fixtures: Vec<Report>,
    /// The engines that it was compiled for.
    pub engines: Vec<String>,
    /// The code for each of them.
    #[serde(skip)]
    pub codes: Vec<Vec<u8>>,
}

/// Compiles a component for this program's engine.
///
/// # Errors
/// It is no component, or the compiler does not take it.
pub fn compiled(wasm: &[u8]) -> Result<Compiled, Fault> {
    let engine = Engine::new()?;
    let component = compile::componentize(wasm)?;
    let code = compile::compile(&engine, &component)?;
    let hash = ContentHash::from_digest(Sha256::digest(&component).into());
    let mut key = [0; KEY_LEN];
    getrandom::fill(&mut key).map_err(|error| Fault::Run(error.into()))?;
    let key = SealKey::new(&key);
    let sealed = key.seal(hash, &code);
    Ok(Compiled { engine, component, hash, code, key, sealed })
}

/// A component that this process has compiled.
pub struct Compiled {
    engine: Engine,
    /// The component.
    pub component: Vec<u8>,
    /// Its SHA-256.
    pub hash: ContentHash,
    /// Its code.
    pub code: Vec<u8>,
    key: SealKey,
    sealed: Vec<u8>,
}

impl Compiled {
    /// What the component has and asks for.
    ///
    /// # Errors
    /// The engine does not take the code.
    pub fn outline(&self) -> Result<Outline, Fault> {
        let code = self.key.open(self.hash, &self.sealed);
        Ok(Outline::read(&self.engine, code.expect("this process has just sealed it"))?)
    }

    /// The policy that it is by `description`, loaded as a site loads it, and ready to be asked.
    ///
    /// # Errors
    /// No site would load it.
    pub fn load(&self, description: &Description) -> Result<Asker, Fault> {
        let header: Header = description.header(ENGINE_ID, self.hash);
        let nodes = Arc::new(Nodes::default());
        let is_granted = header.capabilities.contains(&Capability::Nodes);
        let granted = is_granted.then(|| Arc::clone(&nodes) as _);
        let code = self.key.open(self.hash, &self.sealed);
        let code = code.expect("this process has just sealed it");
        let plugin = block_on(Plugin::load_code(&self.engine, header, code, granted))?;
        Ok(Asker::new(plugin, nodes))
    }

    /// `description` with the hooks that the component has, where it names none.
    ///
    /// # Errors
    /// The component has none, or one that is not named.
    pub fn described(&self, mut description: Description) -> Result<Description, Fault> {
        let outline = self.outline()?;
        if !outline.foreign.is_empty() {
            return Err(LoadError::Imports(outline.foreign).into());
        }
        if description.hooks.is_empty() {
            description.hooks.clone_from(&outline.hooks);
        }
        if description.hooks.is_empty() {
            let exports = outline.exports.join(", ");
            return Err(Fault::Hookless(if exports.is_empty() {
                "nothing".to_owned()
            } else {
                exports
            }));
        }
        match outline.hooks.difference(&description.hooks).next() {
            Some(hook) => Err(Fault::Unnamed(*hook)),
            None => Ok(description),
        }
    }
}

/// Compiles a bundle for `engines`, and asks it what its fixtures say.
///
/// # Errors
/// It is not what a site would run, or answers other than its fixtures say.
pub fn make(bundle: &Bundle, engines: &[String]) -> Result<Made, Fault> {
    let compiled = compiled(&bundle.wasm)?;
    let description = compiled.described(bundle.description.clone())?;
    let asker = compiled.load(&description)?;
    let fixtures = test(&asker, bundle)?;
    let failed: Vec<_> = fixtures
        .iter()
        .filter_map(|report| {
            Some(format!("the fixture {}: {}", report.name, report.fault.as_ref()?))
        })
        .collect();
    if !failed.is_empty() {
        return Err(Fault::Answers(failed));
    }
    let mut codes = Vec::new();
    for engine in engines {
        codes.push(match engine.as_str() {
            ENGINE_ID => compiled.code.clone(),
            other => compile::compile(&Engine::compiling_for(other)?, &compiled.component)?,
        });
    }
    let wasm_len = u64::try_from(compiled.component.len()).unwrap_or(u64::MAX);
    let engines = engines.to_vec();
    Ok(Made { description, wasm: compiled.hash, wasm_len, fixtures, engines, codes })
}

/// What comes of each fixture of a bundle.
///
/// # Errors
/// One of them cannot be read.
pub fn test(asker: &Asker, bundle: &Bundle) -> Result<Vec<Report>, Fault> {
    let mut reports = Vec::new();
    for (name, text) in &bundle.fixtures {
        let fixture =
            Fixture::parse(text).map_err(|why| Fault::Fixture { name: name.clone(), why })?;
        reports.push(block_on(asker.test(name, &fixture)));
    }
    Ok(reports)
}

/// What the child does: gives up all that it does not need, reads a bundle from `input`, and writes what was made of it.
///
/// # Errors
/// As [`make`]; what it prints is for the parent.
pub fn child(
    mut input: impl Read,
    mut output: impl Write,
    engines: &[String],
) -> Result<(), Fault> {
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes)?;
    confine(bytes.len(), engines.len())?;
    let made = make(&Bundle::parse(&bytes, usize::MAX)?, engines)?;
    let report = serde_json::to_vec(&made).map_err(io::Error::from)?;
    output.write_all(&u32::try_from(report.len()).unwrap_or(u32::MAX).to_le_bytes())?;
    output.write_all(&report)?;
    for code in &made.codes {
        output.write_all(&u64::try_from(code.len()).unwrap_or(u64::MAX).to_le_bytes())?;
        output.write_all(code)?;
    }
    Ok(output.flush()?)
}

/// Gives up the network, where the system lets a process do that, and sets limits that fit a bundle of `len` bytes.
fn confine(len: usize, engines: usize) -> io::Result<()> {
    let len = u64::try_from(len).unwrap_or(u64::MAX);
    let engines = u64::try_from(engines).unwrap_or(u64::MAX).saturating_add(1);
    let (cpu, cpu_per_mib) = CPU_S;
    let cpu = cpu.saturating_add(cpu_per_mib.saturating_mul(len >> 20).saturating_mul(engines));
    let (memory, memory_per_byte) = MEMORY;
    let memory = memory.saturating_add(memory_per_byte.saturating_mul(len));
    // A system that forbids it to everybody has its own way of keeping processes apart.
    _ = unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET);
    for (resource, most) in [
        (Resource::RLIMIT_AS, memory),
        (Resource::RLIMIT_NOFILE, FILES_MAX),
        (Resource::RLIMIT_CORE, 0),
    ] {
        setrlimit(resource, most, most)?;
    }
    // Where both limits are the same, Linux ends the process by the signal of a system that is short of memory.
    setrlimit(Resource::RLIMIT_CPU, cpu, cpu.saturating_add(1))?;
    // Not caught, so it ends the process.
    alarm::set(u32::try_from(cpu.saturating_mul(PATIENCE)).unwrap_or(u32::MAX));
    Ok(())
}

/// Makes a bundle in the child process that `command` starts, which has to call [`child`].
///
/// # Errors
/// As [`make`], or the child was ended by its limits.
pub fn in_child(mut command: Command, bundle: &[u8]) -> Result<Made, Fault> {
    command.env_clear().current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let (answer, ended) = thread::scope(|scope| {
        // A child that ends early closes its end: how it ended says more than the pipe.
        scope.spawn(move || input.map(|mut input| input.write_all(bundle)));
        let read = scope.spawn(move || {
            let mut answer = Vec::new();
            let read = output.map(|output| output.take(ANSWER_LEN_MAX).read_to_end(&mut answer));
            read.transpose().map(|_| answer)
        });
        let ended = child.wait_with_output();
        let answer =
            read.join().unwrap_or_else(|_| Err(io::Error::other("the reader has panicked")));
        (answer, ended)
    });
    let (answer, ended) = (answer?, ended?);
    if ended.status.success() {
        return Made::read(&answer)
            .ok_or_else(|| Fault::Ended("the compiler's answer was cut".to_owned()));
    }
    let text = String::from_utf8_lossy(&ended.stderr);
    match (ended.status.code(), text.trim()) {
        (Some(1), text) if !text.is_empty() => Err(Fault::Said(text.to_owned())),
        _ => Err(Fault::Ended(format!(
            "compiling was ended ({}): it takes more {} than a component of this size is given",
            ended.status,
            exhausted(ended.status)
        ))),
    }
}

/// What a child ran out of that ended with `status`.
fn exhausted(status: ExitStatus) -> &'static str {
    match status.signal().and_then(|signal| Signal::try_from(signal).ok()) {
        Some(Signal::SIGALRM) => "time",
        Some(Signal::SIGXCPU) => "processor time",
        Some(Signal::SIGABRT | Signal::SIGSEGV | Signal::SIGBUS | Signal::SIGKILL) => "memory",
        _ => "processor time or memory",
    }
}

impl Made {
    fn read(answer: &[u8]) -> Option<Self> {
        let (len, rest) = answer.split_first_chunk()?;
        let len =
            usize::try_from(u32::from_le_bytes(*len)).ok().filter(|len| *len <= REPORT_LEN_MAX)?;
        let (report, mut rest) = rest.split_at_checked(len)?;
        let mut made: Self = serde_json::from_slice(report).ok()?;
        while let Some((len, more)) = rest.split_first_chunk() {
            let (code, more) =
                more.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
            made.codes.push(code.to_owned());
            rest = more;
        }
        (made.codes.len() == made.engines.len() && rest.is_empty()).then_some(made)
    }
}

/// Waits for a policy's answer. It never waits for anything but its own turn.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p8_a_child_that_was_ended_is_told_by_what_ended_it() {
        let of = |signal: Signal| exhausted(ExitStatus::from_raw(signal as i32));
        assert_eq!(of(Signal::SIGALRM), "time");
        assert_eq!(of(Signal::SIGXCPU), "processor time");
        assert_eq!(of(Signal::SIGABRT), "memory");
        // So the kernel ends whatever takes the most of a system that is short of memory.
        assert_eq!(of(Signal::SIGKILL), "memory");
        assert_eq!(exhausted(ExitStatus::from_raw(101 << 8)), "processor time or memory");
    }
}
