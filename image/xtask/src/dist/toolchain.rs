//! What builds static programs: rustup's targets where they are installed, else Debian's compiler, which brings the sources of the
//! standard library, and Zig from PyPI as the C compiler and linker.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use pureboot_tests::{cache_dir, process};

use super::target::{Program, Target};
use crate::{cargo, packages};

/// Debian's compiler, which comes with the sources of the standard library.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_LIBRARY: &str = "/usr/lib/rustlib/src/rust/library";

/// The releases that were tried together.
const ZIG: [&str; 2] = ["ziglang==0.17.1", "cargo-zigbuild==0.24.0"];

/// A program without symbols could name no function of a backtrace: it needs nothing that reads them. And sorting in few words
/// is fast enough for a site.
const STD_FEATURES: &str = "-Zbuild-std-features=backtrace-trace-only,optimize_for_size";

/// What only the last step is told, which optimises a small program as a whole: code that occurs again becomes a function, and functions
/// that differ in constants alone become one.
const SMALLER: [&str; 2] =
    ["-Cllvm-args=-enable-machine-outliner=always", "-Cllvm-args=-enable-global-merge-func"];

/// What SQLite is built without in the agent, which asks for none of it.
const AGENTS_SQLITE: &str = "-USQLITE_ENABLE_DBSTAT_VTAB -USQLITE_ENABLE_FTS3 -USQLITE_ENABLE_FTS3_PARENTHESIS -USQLITE_ENABLE_FTS5 \
    -USQLITE_ENABLE_RTREE -USQLITE_ENABLE_STAT4 -USQLITE_SOUNDEX -DSQLITE_OMIT_JSON -DSQLITE_OMIT_LOAD_EXTENSION";

/// What is to be done where no compiler is there.
const CURE: &str = "rustup target add TARGET (and a C compiler for it), or: apt-get install rustc-web cargo-web rust-web-src python3-venv";

/// A way to build for one target.
pub(crate) enum Toolchain {
    /// The toolchain that builds everything else, with the target's standard library and C compiler.
    Own {
        /// It also links.
        c_compiler: String,
    },
    /// Debian's, which builds the standard library first, and Zig.
    Debian {
        /// Where `zig` and `cargo-zigbuild` are.
        bin: PathBuf,
    },
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own { c_compiler } => write!(f, "built by rustup's target, with {c_compiler}"),
            Self::Debian { .. } => {
                write!(
                    f,
                    "built by Debian's {DEBIAN_RUSTC} with its own standard library, and {}",
                    ZIG.join(" and ")
                )
            }
        }
    }
}

impl Toolchain {
    /// Chooses what is here.
    ///
    /// # Errors
    /// Nothing is; the text says what to install.
    pub(crate) fn find(target: Target) -> Result<Self> {
        if let Some(c_compiler) = own(target) {
            return Ok(Self::Own { c_compiler });
        }
        let has_all = [DEBIAN_RUSTC, DEBIAN_CARGO, DEBIAN_LIBRARY]
            .iter()
            .all(|path| Path::new(path).exists());
        if !has_all {
            bail!(
                "nothing here builds for {}: {}",
                target.triple(),
                CURE.replace("TARGET", target.triple())
            );
        }
        let bin = cache_dir()?.join("tools/zig/bin");
        packages::install_python_packages(&ZIG, &bin.join("cargo-zigbuild"))?;
        Ok(Self::Debian { bin })
    }

    /// Whether programs come out as small as they are to be: rustup's standard library is built for speed, to be unwound and to
    /// read debug information.
    pub(crate) fn is_thrifty(&self) -> bool {
        matches!(self, Self::Debian { .. })
    }

    /// Builds one program in `dir`; returns where it lies.
    ///
    /// # Errors
    /// It does not build; the compiler has said why.
    pub(crate) fn build(
        &self,
        program: Program,
        target: Target,
        dir: &Path,
        jobs: Option<u32>,
    ) -> Result<PathBuf> {
        let triple = target.triple();
        let variable = triple.replace('-', "_");
        let mut command = match self {
            Self::Own { c_compiler } => {
                let mut command = cargo::command(&["rustc"])?;
                command.env(format!("CARGO_TARGET_{}_LINKER", variable.to_uppercase()), c_compiler);
                command.env(format!("CC_{variable}"), c_compiler);
                command
            }
            Self::Debian { bin } => {
                let mut command = Command::new(bin.join("cargo-zigbuild"));
                command
                    .args(["rustc", "-Zbuild-std=std,panic_abort", STD_FEATURES])
                    .current_dir(cargo::root()?);
                command.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
                command.env("CARGO", DEBIAN_CARGO);
                // Ours comes by rustup, and would be found first.
                command.env(
                    "PATH",
                    env::join_paths([bin.as_path(), "/usr/bin".as_ref(), "/bin".as_ref()])?,
                );
                command.env_remove("RUSTUP_TOOLCHAIN");
                command
            }
        };
        command.args(["--locked", "--package", program.package(), "--bin", program.package()]);
        command.args(["--target", triple]);
        command.args(["--profile", program.profile()]).args(program.features());
        command.arg("--target-dir").arg(dir);
        if program != Program::Controller {
            command.env("LIBSQLITE3_FLAGS", AGENTS_SQLITE);
        }
        command.args(jobs.map(|jobs| format!("--jobs={jobs}")));
        command.env("RUSTFLAGS", self.flags(dir)?.join(" "));
        command.env(format!("CFLAGS_{variable}"), c_flags(dir)?.join(" "));
        command.env("SOURCE_DATE_EPOCH", super::package::EPOCH.to_string());
        if program.is_small() {
            command.arg("--").args(SMALLER);
        }
        let status = command.status().context("cargo cannot be run")?;
        ensure!(status.success(), "building {} for {triple} ended with {status}", program.name());
        Ok(dir.join(triple).join(program.profile()).join(program.package()))
    }

    /// A program that needs nothing of the machine, and that tells nothing of the one that it was built on.
    fn flags(&self, dir: &Path) -> Result<Vec<String>> {
        let mut flags: Vec<_> = [
            "-Ctarget-feature=+crt-static",
            "-Crelocation-model=static",
            // A panic ends the program with its message: nobody walks up the stack.
            "-Cforce-unwind-tables=no",
        ]
        .map(String::from)
        .into();
        if matches!(self, Self::Debian { .. }) {
            // Debian's has no start code of musl; Zig brings it.
            flags.push("-Clink-self-contained=no".to_owned());
        }
        flags.extend(
            places(dir)?
                .iter()
                .map(|(place, name)| format!("--remap-path-prefix={}={name}", place.display())),
        );
        Ok(flags)
    }
}

fn c_flags(dir: &Path) -> Result<Vec<String>> {
    let flag =
        |(place, name): &(PathBuf, &str)| format!("-ffile-prefix-map={}={name}", place.display());
    let without_tables =
        ["-fno-unwind-tables", "-fno-asynchronous-unwind-tables"].map(String::from);
    Ok(without_tables.into_iter().chain(places(dir)?.iter().map(flag)).collect())
}

/// Directories of the machine that builds, and what they are called in what it builds.
fn places(dir: &Path) -> Result<Vec<(PathBuf, &'static str)>> {
    let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cargo_home = env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    // The one that is named last counts where one lies in the other.
    Ok(vec![(cargo_home, "/cargo"), (cargo::root()?, "/pureboot"), (dir.to_owned(), "/build")])
}

/// The C compiler for a target whose standard library rustup has installed.
fn own(target: Target) -> Option<String> {
    let mut print = Command::new("rustc");
    print.args(["--print", "target-libdir", "--target", target.triple()]);
    let libdir = process::succeed(print).ok()?;
    let has_library = Path::new(libdir.trim()).exists();
    let names = match target {
        Target::X86_64 => ["x86_64-linux-musl-gcc", "musl-gcc"],
        Target::Aarch64 => ["aarch64-linux-musl-gcc", "aarch64-linux-gnu-gcc"],
        Target::Armv7 => ["armv7l-linux-musleabihf-gcc", "arm-linux-gnueabihf-gcc"],
    };
    let compiler = names.into_iter().find(|name| process::find(name).is_some())?;
    has_library.then(|| compiler.to_owned())
}
