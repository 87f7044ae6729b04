//! What policies in other languages than Rust are built with, and what the gate does where one of these is not here.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use pureboot_tests::{cache_dir, process};

use crate::{cargo, packages};

/// What is installed from PyPI for the long form. The release is that of the projects that `plugin new` makes.
const COMPONENTIZE_PY: &str = "componentize-py==0.25.1";

/// The programs that the package of npm's below brings.
const NPM_PROGRAMS: [&str; 2] = ["esbuild", "componentize-qjs"];

/// The languages that policies can be built in here, beside Rust.
pub(crate) struct Languages {
    /// Where their compilers are.
    pub(crate) path: OsString,
    /// The module of tests of a language that cannot be, and why.
    pub(crate) missing: Vec<(&'static str, String)>,
}

impl Languages {
    /// Installs what is not here, where the registries answer; `is_long` is for those whose tests take minutes.
    ///
    /// # Errors
    /// There is no home directory, or the path cannot be written down.
    pub(crate) fn install(is_long: bool) -> Result<Self> {
        let mut dirs = Vec::new();
        let mut missing = Vec::new();
        let mut found = |module, dir: Result<Option<PathBuf>>| match dir {
            Ok(dir) => dirs.extend(dir),
            Err(why) => missing.push((module, format!("{why:#}"))),
        };
        found("lang_c", clang());
        if is_long {
            found("lang_js", from_npm().map(Some));
            found("lang_python", from_pypi().map(Some));
        }
        let before = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths(dirs.into_iter().chain(env::split_paths(&before)))?;
        Ok(Self { path, missing })
    }
}

/// Clang is where Debian puts it, or nowhere: it is no program of ours.
fn clang() -> Result<Option<PathBuf>> {
    ensure!(process::find("clang").is_some(), "there is no clang: apt-get install clang");
    Ok(None)
}

/// Where what npm installs for the example in JavaScript has its programs.
fn from_npm() -> Result<PathBuf> {
    let wanted = cargo::root()?.join("plugins/examples/reboot-loop-js/package.json");
    let dir = cache_dir()?.join("tools/npm");
    let bin = dir.join("node_modules/.bin");
    let is_same = fs::read(&wanted)? == fs::read(dir.join("package.json")).unwrap_or_default();
    if is_same && NPM_PROGRAMS.iter().all(|name| bin.join(name).is_file()) {
        return Ok(bin);
    }
    if process::find("npm").is_none() {
        bail!("there is no npm: apt-get install nodejs npm");
    }
    println!("installing {} from npm", NPM_PROGRAMS.join(" and "));
    fs::create_dir_all(&dir)?;
    fs::copy(&wanted, dir.join("package.json"))?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]);
    let status = npm.current_dir(&dir).stdin(Stdio::null()).status().context("npm")?;
    if !status.success() {
        // A directory without what it is for would pass for whole the next time.
        fs::remove_dir_all(&dir)?;
        bail!("npm install ended with {status}: is the registry of npm in reach?");
    }
    Ok(bin)
}

/// Where componentize-py is.
fn from_pypi() -> Result<PathBuf> {
    let bin = cache_dir()?.join("tools").join(COMPONENTIZE_PY).join("bin");
    packages::install_python_packages(&[COMPONENTIZE_PY], &bin.join("componentize-py"))?;
    Ok(bin)
}
