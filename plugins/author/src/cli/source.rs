//! Where a policy is: a project's directory, a bundle, or WebAssembly alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::bundle::{Bundle, FIXTURES_MAX};
use crate::description::Description;

/// Where `plugin build` puts the component, below a project.
pub(super) const COMPONENT: &str = "build/policy.wasm";

/// Reads the policy at `path`.
///
/// # Errors
/// It is none, or has not been built.
pub(super) fn load(path: &Path) -> anyhow::Result<Bundle> {
    if path.is_dir() {
        let component = path.join(COMPONENT);
        let wasm = fs::read(&component).with_context(|| {
            format!("cannot read {}: run `plugin build` first", component.display())
        })?;
        return of_project(path, wasm);
    }
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    if !Bundle::is_wasm(&bytes) {
        return Bundle::parse(&bytes, usize::MAX)
            .with_context(|| format!("{} is not taken", path.display()));
    }
    // Beside its description, or in the directory that `plugin build` made for it.
    let dir = path.parent().map_or_else(PathBuf::new, Path::to_owned);
    for project in [dir.clone(), dir.join("..")] {
        if project.join("policy.json").is_file() {
            return of_project(&project, bytes);
        }
    }
    let stem =
        path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase().replace('_', "-");
    let name = stem.parse().context("WebAssembly alone is named after its file")?;
    let version = "0.0.0".parse().context("no version")?;
    Ok(Bundle::of_wasm(name, version, bytes))
}

/// The description of a project.
///
/// # Errors
/// There is none.
pub(super) fn description(project: &Path) -> anyhow::Result<Description> {
    let path = project.join("policy.json");
    let text = fs::read(&path).with_context(|| {
        format!("cannot read {}: a plugin has one, `plugin new` makes it", path.display())
    })?;
    Ok(Description::parse(&text)?)
}

fn of_project(project: &Path, wasm: Vec<u8>) -> anyhow::Result<Bundle> {
    let mut fixtures = BTreeMap::new();
    let dir = project.join("fixtures");
    if dir.is_dir() {
        for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let text =
                fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            fixtures.insert(name, text);
        }
    }
    if fixtures.len() > FIXTURES_MAX {
        bail!("{} holds {} fixtures, at most {FIXTURES_MAX}", dir.display(), fixtures.len());
    }
    Ok(Bundle { description: description(project)?, wasm, fixtures })
}
