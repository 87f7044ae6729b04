//! Running cargo in the workspace.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

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
