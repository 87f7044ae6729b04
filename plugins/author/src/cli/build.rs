//! `plugin build`: drives the compiler of the language that a plugin is written in, and makes a component of what it made.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail, ensure};

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

/// What Rust is compiled for.
const TARGET: &str = "wasm32-unknown-unknown";

/// Debian's compiler, which comes with the sources of the standard library.
const DEBIAN: [&str; 3] = ["/usr/bin/rustc", "/usr/bin/cargo", "/usr/lib/rustlib/src/rust/library"];

/// What a plugin is written in, by the file that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    Rust,
    JavaScript,
    C,
    Python,
}

impl Language {
    fn of(project: &Path) -> anyhow::Result<Self> {
        for (file, language) in [
            ("Cargo.toml", Self::Rust),
            ("policy.js", Self::JavaScript),
            ("policy.ts", Self::JavaScript),
            ("policy.c", Self::C),
            ("policy.py", Self::Python),
        ] {
            if project.join(file).is_file() {
                return Ok(language);
            }
        }
        bail!(
            "{} holds neither Cargo.toml nor policy.js, policy.ts, policy.c or policy.py: `plugin new` makes a project",
            project.display()
        )
    }
}

impl Build {
    /// Builds.
    ///
    /// # Errors
    /// The compiler is not there, or does not take the source; it has said why.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let project = self.project.canonicalize();
        let project = project.with_context(|| format!("there is no {}", self.project.display()))?;
        let wasm = match Language::of(&project)? {
            Language::Rust => rust(&project)?,
            Language::JavaScript => script(&project, "js")?,
            Language::C => script(&project, "c")?,
            Language::Python => script(&project, "python")?,
        };
        let component = component(&wasm)?;
        let out = project.join(COMPONENT);
        let dir = out.parent().context("the component lies in a directory")?;
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
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

/// The core module that cargo makes of a project.
fn rust(project: &Path) -> anyhow::Result<Vec<u8>> {
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
    let said = |arguments: &[&str]| {
        let output = Command::new("rustc").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let libdir = said(&["--print", "target-libdir", "--target", TARGET]);
    if libdir.is_some_and(|libdir| Path::new(&libdir).exists()) {
        return Ok(Command::new("cargo"));
    }
    let [rustc, cargo, _] = DEBIAN;
    let lld = said(&["--print", "sysroot"]).map(|sysroot| {
        let host = format!("lib/rustlib/{}-unknown-linux-gnu/bin/rust-lld", std::env::consts::ARCH);
        Path::new(&sysroot).join(host)
    });
    let linker = [lld, Some("/usr/bin/wasm-ld".into())];
    let linker = linker.into_iter().flatten().find(|linker| linker.is_file());
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

/// What a project's own `build.sh` makes, as its SDK's page says.
fn script(project: &Path, sdk: &str) -> anyhow::Result<Vec<u8>> {
    let script = project.join("build.sh");
    ensure!(
        script.is_file(),
        "{} is not there: a plugin in this language has one, see the page of plugins/sdk-{sdk}",
        script.display()
    );
    let status = Command::new("sh").arg(&script).current_dir(project).status();
    let status = status.context("sh cannot be run")?;
    ensure!(
        status.success(),
        "{} ended with {status}; what it said stands above",
        script.display()
    );
    let made = project.join(COMPONENT);
    fs::read(&made).with_context(|| format!("build.sh did not make {}", made.display()))
}
