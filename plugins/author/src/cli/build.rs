//! `plugin build`: drives the compiler of the language that a plugin is written in, and makes a component of what it made.

mod c;
mod python;
mod rust;
mod script;
mod world;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, ensure};

use super::language::Language;
use super::source::COMPONENT;
use super::{print, size};

/// Compile a plugin from its source to build/policy.wasm.
#[derive(Debug, argh::FromArgs)]
#[argh(subcommand, name = "build", example = "{command_name} rack-window")]
pub struct Build {
    /// the plugin's directory (default: this one)
    #[argh(positional, default = "PathBuf::from(\".\")")]
    project: PathBuf,
}

impl Build {
    /// Builds.
    ///
    /// # Errors
    /// The compiler is not there, or does not take the source; it has said why.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let project = self.project.canonicalize();
        let project = project.with_context(|| format!("there is no {}", self.project.display()))?;
        let out = project.join(COMPONENT);
        let dir = out.parent().context("the component lies in a directory")?;
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let wasm = match Language::of(&project)? {
            Language::Rust => rust::build(&project)?,
            Language::C => c::build(&project)?,
            Language::JavaScript => script::build(&project, "policy.js")?,
            Language::TypeScript => script::build(&project, "policy.ts")?,
            Language::Python => python::build(&project)?,
        };
        let component = component(&wasm)?;
        fs::write(&out, &component).with_context(|| format!("cannot write {}", out.display()))?;
        let len = u64::try_from(component.len()).unwrap_or(u64::MAX);
        Ok(print(&format!("{}: {}\n", self.project.join(COMPONENT).display(), size(len))))
    }
}

#[cfg(feature = "compile")]
fn component(wasm: &[u8]) -> anyhow::Result<Vec<u8>> {
    Ok(pureboot_plugin_host::compile::componentize(wasm)?)
}

/// A core module stays one: the controller makes the component.
#[cfg(not(feature = "compile"))]
fn component(wasm: &[u8]) -> anyhow::Result<Vec<u8>> {
    Ok(wasm.to_owned())
}

/// Runs a tool, which says by itself what it does not like; `cure` is for where it is not there.
fn succeed(mut tool: Command, cure: &str) -> anyhow::Result<()> {
    let name = Path::new(tool.get_program()).file_name().unwrap_or_default().to_owned();
    let name = name.to_string_lossy();
    let status = tool.status().with_context(|| format!("{name} cannot be run: {cure}"))?;
    ensure!(status.success(), "{name} ended with {status}; what it said stands above");
    Ok(())
}

/// What a tool says; none if it cannot be run, or says nothing.
fn said(tool: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(tool).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Where a Rust toolchain has its own LLVM's programs.
fn host_tools() -> Option<PathBuf> {
    let sysroot = said("rustc", &["--print", "sysroot"])?;
    let host = format!("lib/rustlib/{}-unknown-linux-gnu/bin", std::env::consts::ARCH);
    Some(Path::new(&sysroot).join(host))
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|program| program.is_file())
}

/// A program that the project brings with it in `dir`, or one above it does, or else the one of this machine.
fn of_project(project: &Path, dir: &str, name: &str) -> Command {
    let own = project.ancestors().map(|above| above.join(dir).join(name));
    Command::new(own.into_iter().find(|program| program.is_file()).unwrap_or_else(|| name.into()))
}
