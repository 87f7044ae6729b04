//! Rust: cargo, for a target without system.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

use super::{host_tools, on_path, said};

/// What Rust is compiled for.
const TARGET: &str = "wasm32-unknown-unknown";

/// Debian's compiler, which comes with the sources of the standard library.
const DEBIAN: [&str; 3] = ["/usr/bin/rustc", "/usr/bin/cargo", "/usr/lib/rustlib/src/rust/library"];

/// The core module that cargo makes of a project.
pub(super) fn build(project: &Path) -> anyhow::Result<Vec<u8>> {
    let target_dir = project.join("build/target");
    let mut cargo = cargo()?;
    cargo.current_dir(project);
    cargo.args(["build", "--release", "--target", TARGET, "--target-dir"]).arg(&target_dir);
    let status =
        cargo.status().context("cargo cannot be run: install Rust from https://rustup.rs")?;
    ensure!(status.success(), "cargo ended with {status}; what it said stands above");
    let dir = target_dir.join(TARGET).join("release");
    let is_module = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "wasm");
    let entries = fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut modules = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_module);
    match (modules.next(), modules.next()) {
        (Some(module), None) => {
            fs::read(&module).with_context(|| format!("cannot read {}", module.display()))
        }
        (None, _) => {
            bail!("cargo made no module: Cargo.toml needs `[lib]` with `crate-type = [\"cdylib\"]`")
        }
        (Some(_), Some(_)) => bail!("{} holds several modules: delete build/target", dir.display()),
    }
}

/// Cargo with a compiler for [`TARGET`]: the one that is there, with rustup's target, or Debian's, which builds the standard library.
fn cargo() -> anyhow::Result<Command> {
    let libdir = said("rustc", &["--print", "target-libdir", "--target", TARGET]);
    if libdir.is_some_and(|libdir| Path::new(&libdir).exists()) {
        return Ok(Command::new("cargo"));
    }
    let [rustc, cargo, _] = DEBIAN;
    let own = host_tools().map(|dir| dir.join("rust-lld")).filter(|linker| linker.is_file());
    let linker = own.or_else(|| on_path("wasm-ld"));
    match linker {
        Some(linker) if DEBIAN.iter().all(|path| Path::new(path).exists()) => {
            let mut command = Command::new(cargo);
            command
                .arg("-Zbuild-std=std,panic_abort")
                .env("RUSTC", rustc)
                .env("RUSTC_BOOTSTRAP", "1");
            command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
            Ok(command)
        }
        _ => bail!(
            "no Rust compiler for {TARGET} is here: `rustup target add {TARGET}`, or `apt-get install rustc-web cargo-web rust-web-src lld`"
        ),
    }
}
