//! `cargo xtask guests`: the example policies, built from source for WebAssembly.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use argh::FromArgs;
use pureboot_tests::process;

use crate::cargo;

/// Build the example policies in `plugins/examples` into `target/guests`.
#[derive(FromArgs)]
#[argh(subcommand, name = "guests")]
pub(crate) struct Guests {}

const TARGET: &str = "wasm32-unknown-unknown";

/// Debian's compiler, which comes with the sources of the standard library.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_LIBRARY: &str = "/usr/lib/rustlib/src/rust/library";

/// What is to be done where neither compiler is there.
const CURE: &str = "rustup target add wasm32-unknown-unknown, or: apt-get install rustc-web cargo-web rust-web-src lld";

/// A compiler that can build for [`TARGET`].
enum Compiler {
    /// The one that builds everything else, with the target's standard library.
    Own,
    /// Debian's, which builds the standard library first, and a linker.
    Debian { linker: PathBuf },
}

impl Compiler {
    /// Finds one, or says what each of the two lacks.
    fn find() -> Result<Self, String> {
        let mut print = Command::new("rustc");
        print.args(["--print", "target-libdir", "--target", TARGET]);
        let own = match process::succeed(print) {
            Ok(libdir) if Path::new(libdir.trim()).exists() => return Ok(Self::Own),
            Ok(libdir) => format!("there is no {}", libdir.trim()),
            Err(error) => format!("{error:#}"),
        };
        let debian = [DEBIAN_RUSTC, DEBIAN_CARGO, DEBIAN_LIBRARY];
        if let Some(missing) = debian.iter().find(|path| !Path::new(path).exists()) {
            return Err(format!("{own}; there is no {missing}; {CURE}"));
        }
        match linker() {
            Ok(linker) => Ok(Self::Debian { linker }),
            Err(error) => Err(format!("{own}; {error:#}; {CURE}")),
        }
    }

    fn cargo(&self) -> Result<Command> {
        match self {
            Self::Own => cargo::command(&["build"]),
            Self::Debian { linker } => {
                let mut command = Command::new(DEBIAN_CARGO);
                command.current_dir(cargo::root()?).arg("build");
                command.arg("-Zbuild-std=std,panic_abort");
                command.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
                command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
                Ok(command)
            }
        }
    }
}

/// LLVM's linker for WebAssembly: the one within a Rust toolchain, or Debian's.
fn linker() -> Result<PathBuf> {
    let mut print = Command::new("rustc");
    print.args(["--print", "sysroot"]);
    let sysroot = process::succeed(print)?;
    let own = Path::new(sysroot.trim())
        .join(format!("lib/rustlib/{}-unknown-linux-gnu/bin/rust-lld", std::env::consts::ARCH));
    if own.is_file() {
        return Ok(own);
    }
    process::find("wasm-ld")
        .with_context(|| format!("there is no {}, and no wasm-ld", own.display()))
}

/// What came of building the guests.
pub(crate) enum Built {
    /// They are in `target/guests`.
    Here,
    /// No compiler for them is here; what is missing, and what is to be done.
    NoCompiler(String),
}

/// Builds the example policies.
///
/// # Errors
/// They do not build; cargo has said why.
pub(crate) fn build() -> Result<Built> {
    let compiler = match Compiler::find() {
        Ok(compiler) => compiler,
        Err(missing) => return Ok(Built::NoCompiler(missing)),
    };
    let target_dir = cargo::root()?.join("target/guests");
    let mut command = compiler.cargo()?;
    command.args([
        "--locked",
        "--release",
        "--target",
        TARGET,
        "--manifest-path",
        "plugins/examples/Cargo.toml",
    ]);
    command.arg("--target-dir").arg(&target_dir);
    let status = command.status().context("cargo cannot be run")?;
    ensure!(status.success(), "building the example policies ended with {status}");
    Ok(Built::Here)
}

impl Guests {
    pub(crate) fn run(self) -> Result<ExitCode> {
        match build()? {
            Built::Here => Ok(ExitCode::SUCCESS),
            Built::NoCompiler(missing) => {
                anyhow::bail!("no compiler for {TARGET} is here: {missing}")
            }
        }
    }
}
