//! Python: componentize-py makes a component of the project and of CPython.

use std::fs;
use std::path::Path;

use anyhow::Context;

use super::{of_project, succeed, world};

/// Where an environment of the project's has its programs.
const BIN: &str = ".venv/bin";

pub(super) fn build(project: &Path) -> anyhow::Result<Vec<u8>> {
    let made = project.join("build/module.wasm");
    let sdk = project.join("sdk").canonicalize();
    let sdk = sdk.context("a project in Python has plugins/sdk-python as sdk")?;
    let mut componentize = of_project(project, BIN, "componentize-py");
    componentize.current_dir(project).arg("--wit-path").arg(world::write(project)?);
    componentize.args(["--world", world::NAME, "componentize", "--python-path"]).arg(project);
    componentize.arg("--python-path").arg(sdk).arg("policy").arg("--output").arg(&made);
    let cure = format!("pip install -r {}/requirements.txt", project.display());
    succeed(componentize, &cure)?;
    fs::read(&made).with_context(|| format!("cannot read {}", made.display()))
}
