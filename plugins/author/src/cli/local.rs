//! A policy compiled for this host alone, in a child process with limits.

use std::path::Path;

#[cfg(feature = "compile")]
use anyhow::Context as _;
use pureboot_plugin_host::package::Header;

/// What the program is called with to compile what comes on its standard input; no author's command.
pub const CHILD: &str = "compile-plugin-from-stdin";

/// What the policy at `path` is, and its code for this program's engine, compiled by a child of this program.
///
/// # Errors
/// It is none, its fixtures fail, or it is not compiled within the child's limits; or this program has no compiler.
#[cfg(feature = "compile")]
pub fn compiled_here(path: &Path) -> anyhow::Result<(Header, Vec<u8>)> {
    use pureboot_plugin_host::engine::ENGINE_ID;

    let bundle = super::source::load(path)?.emit()?;
    let mut child = std::process::Command::new("/proc/self/exe");
    child.args([CHILD, ENGINE_ID]);
    let made = crate::made::in_child(child, &bundle)?;
    let header = made.description.header(ENGINE_ID, made.wasm);
    Ok((header, made.codes.into_iter().next().context("the compiler gave no code")?))
}

/// As with the compiler, which this program does not have.
///
/// # Errors
/// Always.
#[cfg(not(feature = "compile"))]
pub fn compiled_here(path: &Path) -> anyhow::Result<(Header, Vec<u8>)> {
    anyhow::bail!("cannot compile {}: {}", path.display(), super::NO_COMPILER)
}

/// What the child does, if this program was called as one; its first argument is not among `arguments`.
pub fn child(arguments: &[String]) -> Option<anyhow::Result<()>> {
    let (first, engines) = arguments.split_first()?;
    (first == CHILD).then(|| compile(engines))
}

#[cfg(feature = "compile")]
fn compile(engines: &[String]) -> anyhow::Result<()> {
    Ok(crate::made::child(std::io::stdin().lock(), std::io::stdout().lock(), engines)?)
}

#[cfg(not(feature = "compile"))]
fn compile(_: &[String]) -> anyhow::Result<()> {
    anyhow::bail!(super::NO_COMPILER)
}
