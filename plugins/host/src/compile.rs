//! Components made, and compiled to the code that agents run: for authors and the controller.
//!
//! A compiler can be made to work for ever and to take any memory (FAULTS P8). So [`in_child`] has a process of its own compile,
//! which limits itself before it reads its input.

use std::io::{self, Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use rustix::process::{Resource, Rlimit, setrlimit};
use wit_component::ComponentEncoder;

use crate::engine::Engine;

/// The processor time that compiling may take, in seconds.
pub const CPU_S_MAX: u64 = 10;

/// The address space that compiling may take, in bytes.
pub const MEMORY_MAX: u64 = 256 << 20;

/// The largest component that is compiled if the operator has not said otherwise, in bytes.
pub const COMPONENT_LEN_MAX: usize = 256 << 10;

/// Why there is no code.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// Larger than is compiled.
    #[error(
        "the component has {len} bytes, and {max} are compiled: build it with opt-level=\"z\" and strip it"
    )]
    Long {
        /// How large it is.
        len: usize,
        /// How large it may be.
        max: usize,
    },
    /// It is no component.
    #[error("it cannot be made a component: {0}")]
    Component(String),
    /// The compiler does not take it.
    #[error("it cannot be compiled: {0}")]
    Refused(String),
    /// The child did not come to an end within its limits.
    #[error("the compiler was ended ({status}): it may use {CPU_S_MAX} s of processor time and {} MiB of memory", MEMORY_MAX >> 20)]
    Ended {
        /// How.
        status: ExitStatus,
    },
    /// The child cannot be started or spoken with.
    #[error("the compiler cannot be run: {0}")]
    Run(#[from] io::Error),
}

/// Makes a component of a core module with the types of its world inside, as `wit-bindgen` leaves it. A component stays as it is.
///
/// # Errors
/// It is neither, or its world and its functions do not fit together.
pub fn componentize(wasm: &[u8]) -> Result<Vec<u8>, CompileError> {
    /// What a component has where a module has its version (the component model's binary format).
    const COMPONENT_LAYER: [u8; 4] = [0x0d, 0, 1, 0];
    if wasm.get(4..8) == Some(&COMPONENT_LAYER) {
        return Ok(wasm.to_owned());
    }
    let encoder = ComponentEncoder::default().validate(true).module(wasm);
    let component = encoder.and_then(|mut encoder| encoder.encode());
    component.map_err(|error| CompileError::Component(format!("{error:#}")))
}

/// Compiles a component here and now, without limits: only for components that are one's own.
///
/// # Errors
/// The compiler does not take it.
pub fn compile(engine: &Engine, component: &[u8]) -> Result<Vec<u8>, CompileError> {
    let code = engine.wasmtime().precompile_component(component);
    code.map_err(|error| CompileError::Refused(format!("{error:#}")))
}

/// What the child does: limits itself, reads a component from `input` and writes its code to `output`.
///
/// # Errors
/// The limits cannot be set, the component is no component, or the pipes are closed.
pub fn child(mut input: impl Read, mut output: impl Write) -> Result<(), CompileError> {
    let limit = |resource, most| {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
            .map_err(io::Error::from)
    };
    limit(Resource::Cpu, CPU_S_MAX)?;
    limit(Resource::As, MEMORY_MAX)?;
    limit(Resource::Core, 0)?;
    let mut wasm = Vec::new();
    input.read_to_end(&mut wasm)?;
    let engine = Engine::new().map_err(|error| CompileError::Refused(error.to_string()))?;
    output.write_all(&compile(&engine, &componentize(&wasm)?)?)?;
    Ok(output.flush()?)
}

/// Compiles in the child process that `command` starts, which has to call [`child`] with its standard input and output.
///
/// # Errors
/// The component is larger than `len_max`, the compiler does not take it, or the child was ended by its limits.
pub fn in_child(
    mut command: Command,
    wasm: &[u8],
    len_max: usize,
) -> Result<Vec<u8>, CompileError> {
    if wasm.len() > len_max {
        return Err(CompileError::Long { len: wasm.len(), max: len_max });
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let input = child.stdin.take();
    let output = thread::scope(|scope| {
        // A child that ends early closes its end: how it ended says more than the pipe.
        scope.spawn(move || input.map(|mut input| input.write_all(wasm)));
        child.wait_with_output()
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    match (output.status.code(), text.trim()) {
        (Some(1), text) if !text.is_empty() => Err(CompileError::Refused(text.to_owned())),
        _ => Err(CompileError::Ended { status: output.status }),
    }
}
