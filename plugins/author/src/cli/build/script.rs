//! JavaScript and TypeScript: esbuild makes one file of the project, and componentize-qjs a component of it and of QuickJS.

use std::fs;
use std::path::Path;

use anyhow::Context;

use super::{of_project, succeed, world};

/// Where npm puts programs.
const BIN: &str = "node_modules/.bin";

pub(super) fn build(project: &Path, entry: &str) -> anyhow::Result<Vec<u8>> {
    let cure = format!("run `npm install` in {}", project.display());
    let (bundle, made) = (project.join("build/policy.js"), project.join("build/module.wasm"));
    let mut esbuild = of_project(project, BIN, "esbuild");
    esbuild.current_dir(project).args([entry, "--bundle", "--format=esm", "--target=es2022"]);
    esbuild.args(["--external:pureboot:*", "--log-level=warning"]);
    esbuild.arg(format!("--outfile={}", bundle.display()));
    succeed(esbuild, &cure)?;
    let mut componentize = of_project(project, BIN, "componentize-qjs");
    componentize.current_dir(project).args(["--sync", "--world", world::NAME]);
    componentize.arg("--wit").arg(world::write(project)?);
    componentize.arg("--js").arg(&bundle).arg("--output").arg(&made);
    succeed(componentize, &cure)?;
    fs::read(&made).with_context(|| format!("cannot read {}", made.display()))
}
