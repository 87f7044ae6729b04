//! Running cargo in the workspace.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The root of the workspace.
///
/// # Errors
/// The tree is not as this program was built from.
pub(crate) fn root() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    Ok(root.context("xtask lies in image/xtask")?.to_owned())
}

/// A cargo command in the workspace, with the cargo that runs this program.
///
/// # Errors
/// The workspace is not found.
pub(crate) fn command(arguments: &[&str]) -> Result<Command> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root()?).args(arguments);
    Ok(command)
}

/// The program of the unit tests of a library of the workspace; they are built if they are not.
///
/// # Errors
/// They cannot be built; cargo has said why.
pub(crate) fn test_program(library: &str) -> Result<PathBuf> {
    // The whole workspace as in the other steps: with one package alone cargo would choose other features and build anew.
    let build = ["test", "--locked", "--workspace", "--lib", "--no-run"];
    let mut build = command(&build)?;
    let built = build.arg("--message-format=json").stderr(Stdio::inherit()).output()?;
    ensure!(built.status.success(), "cargo test --no-run ended with {}", built.status);
    let messages = built.stdout.split(|byte| *byte == b'\n');
    let messages = messages.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let programs = messages.filter(|message| {
        message.pointer("/target/name") == Some(&library.into())
            && message.pointer("/profile/test") == Some(&true.into())
    });
    let mut programs =
        programs.filter_map(|message| Some(message.get("executable")?.as_str()?.into()));
    programs.next().with_context(|| format!("cargo names no test program of {library}"))
}

/// Builds both programs.
///
/// # Errors
/// They cannot be built; cargo has said why.
pub(crate) fn build(profile: &str) -> Result<()> {
    let packages = ["--package", "pureboot-controller", "--package", "pureboot-agent"];
    let status = command(&["build", "--locked", "--profile", profile])?.args(packages).status()?;
    ensure!(status.success(), "cargo build ended with {status}");
    Ok(())
}
