//! C: clang and LLVM's linker, without a libc. Which hooks the module has is added afterwards, as the world of `policy.json`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use super::{host_tools, on_path, succeed};

const CURE: &str = "apt-get install clang lld, or LLVM 14 or later from elsewhere";

/// What makes a module that needs nothing, small and cheap to call. A stack overflow ends the call, as it lies below all data.
const FLAGS: [&str; 12] = [
    "--target=wasm32-unknown-unknown",
    "-std=c11",
    "-O2",
    "-Wall",
    "-Wextra",
    "-ffreestanding",
    "-mbulk-memory",
    "-nostdlib",
    "-Wl,--no-entry",
    "-Wl,--stack-first",
    "-Wl,--strip-all",
    "-Wl,-z,stack-size=65536",
];

pub(super) fn build(project: &Path) -> anyhow::Result<Vec<u8>> {
    let module = project.join("build/module.wasm");
    let mut clang = Command::new("clang");
    clang.args(FLAGS).arg("-o").arg(&module);
    if on_path("wasm-ld").is_none() {
        let own = host_tools().map(|dir| dir.join("gcc-ld/wasm-ld"));
        let own = own.filter(|linker| linker.is_file());
        let own = own.with_context(|| format!("there is no wasm-ld: {CURE}"))?;
        clang.arg(format!("-fuse-ld={}", own.display()));
    }
    for dir in [project.to_owned(), project.join("sdk")] {
        clang.args(sources(&dir)?);
    }
    succeed(clang, CURE)?;
    let bytes = fs::read(&module).with_context(|| format!("cannot read {}", module.display()))?;
    with_world(bytes, project)
}

/// The files of C in a directory, always in the same order.
fn sources(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| {
        format!(
            "cannot read {}: a project in C has policy.c, and plugins/sdk-c as sdk",
            dir.display()
        )
    })?;
    let is_source = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "c");
    let mut sources: Vec<_> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_source).collect();
    ensure!(!sources.is_empty(), "{} holds no file of C", dir.display());
    sources.sort();
    Ok(sources)
}

#[cfg(feature = "compile")]
fn with_world(mut module: Vec<u8>, project: &Path) -> anyhow::Result<Vec<u8>> {
    use wit_component::{StringEncoding, embed_component_metadata};

    let mut resolve = wit_parser::Resolve::default();
    resolve.push_str("policy.wit", crate::cli::WIT)?;
    let package = resolve.push_str("world.wit", &super::world::text(project)?)?;
    let world = resolve.select_world(&[package], Some(super::world::NAME))?;
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    Ok(module)
}

#[cfg(not(feature = "compile"))]
fn with_world(_: Vec<u8>, project: &Path) -> anyhow::Result<Vec<u8>> {
    anyhow::bail!("cannot build {}: {}", project.display(), crate::cli::NO_COMPILER)
}
