//! What a project that does not say it in its own language exports and imports: what `policy.json` names.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use pureboot_plugin_host::package::{Capability, Hook};

use crate::cli::{WIT, source};
use crate::description::Description;

/// The world's name.
pub(super) const NAME: &str = "plugin";

/// The package that holds the world, in the contract's language.
///
/// # Errors
/// `policy.json` names no hook, or is none.
pub(super) fn text(project: &Path) -> anyhow::Result<String> {
    let Description { hooks, capabilities, .. } = source::description(project)?;
    ensure!(
        !hooks.is_empty(),
        "{}: name the hooks that the source has, such as \"hooks\": [\"boot\"]",
        project.join("policy.json").display()
    );
    Ok(package(&hooks, &capabilities))
}

fn package(hooks: &BTreeSet<Hook>, capabilities: &BTreeSet<Capability>) -> String {
    let log = "import pureboot:policy/log@0.1.0;".to_owned();
    let imports = capabilities.iter().map(|capability| match capability {
        Capability::Nodes => "import pureboot:policy/nodes@0.1.0;".to_owned(),
    });
    let exports = hooks.iter().map(|hook| {
        let interface = match hook {
            Hook::Boot => "boot",
            Hook::Script => "script",
            Hook::Cache => "cache",
        };
        format!("export pureboot:policy/{interface}@0.1.0;")
    });
    let items: Vec<_> = [log].into_iter().chain(imports).chain(exports).collect();
    format!("package pureboot:project;\nworld {NAME} {{ {} }}\n", items.join(" "))
}

/// Writes the world and the contract to `build/wit`, for tools that read directories.
///
/// # Errors
/// As [`text`], or it cannot be written.
pub(super) fn write(project: &Path) -> anyhow::Result<PathBuf> {
    let dir = project.join("build/wit");
    let contract = dir.join("deps/policy");
    let what = || format!("cannot write {}", dir.display());
    fs::create_dir_all(&contract).with_context(what)?;
    fs::write(contract.join("policy.wit"), WIT).with_context(what)?;
    fs::write(dir.join("world.wit"), text(project)?).with_context(what)?;
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_s_world_is_the_hooks_and_capabilities_that_it_names() {
        let hooks = [Hook::Boot, Hook::Cache].into();
        assert_eq!(
            package(&hooks, &[Capability::Nodes].into()),
            "package pureboot:project;\nworld plugin { import pureboot:policy/log@0.1.0; import pureboot:policy/nodes@0.1.0; \
             export pureboot:policy/boot@0.1.0; export pureboot:policy/cache@0.1.0; }\n"
        );
    }
}
