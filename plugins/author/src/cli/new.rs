//! `plugin new`: a project that builds, with a fixture that it answers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use pureboot_plugin_host::package::PluginId;

use super::print;

/// Make a plugin that builds and answers its first fixture.
#[derive(Debug, argh::FromArgs)]
#[argh(subcommand, name = "new", example = "{command_name} rack-window --lang rust")]
pub struct New {
    /// its name: a-z, 0-9 and '-'
    #[argh(positional)]
    name: PluginId,

    /// what it is written in: rust
    #[argh(option)]
    lang: String,

    /// the directory to make (default: the name)
    #[argh(option)]
    dir: Option<PathBuf>,
}

/// The contract, as projects have it.
const WIT: &str = include_str!("../../../wit/since-0.1/policy.wit");

/// What every project begins with; NAME stands for its name.
const COMMON: &[(&str, &str)] = &[
    ("policy.json", include_str!("new/policy.json")),
    ("fixtures/a-virtual-machine.json", include_str!("new/a-virtual-machine.json")),
    ("fixtures/any-other-machine.json", include_str!("new/any-other-machine.json")),
    ("wit/since-0.1/policy.wit", WIT),
    (".gitignore", "build/\n"),
];

/// A project in Rust brings the SDK with it, which is one file.
const RUST: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("new/rust/Cargo.toml.txt")),
    ("src/lib.rs", include_str!("new/rust/lib.rs.txt")),
    ("sdk/Cargo.toml", include_str!("../../../sdk/Cargo.toml")),
    ("sdk/src/lib.rs", include_str!("../../../sdk/src/lib.rs")),
];

fn files(lang: &str) -> anyhow::Result<&'static [(&'static str, &'static str)]> {
    match lang {
        "rust" => Ok(RUST),
        _ => bail!("there is no project for {lang:?}: --lang is rust"),
    }
}

impl New {
    /// Makes the project.
    ///
    /// # Errors
    /// There is something already, or it cannot be written.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let dir = self.dir.unwrap_or_else(|| self.name.as_str().into());
        let files = files(&self.lang)?;
        ensure!(!dir.exists(), "{} is there already: choose another --dir", dir.display());
        for (path, text) in COMMON.iter().chain(files) {
            write(&dir.join(path), &text.replace("NAME", self.name.as_str()))?;
        }
        let shown = dir.display();
        Ok(print(&format!(
            "made {shown}; now `plugin build {shown}`, `plugin test {shown}`, `plugin pack {shown}`\n"
        )))
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let what = || format!("cannot write {}", path.display());
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(what)?;
    }
    fs::write(path, text).with_context(what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::description::Description;
    use crate::fixture::Fixture;

    #[test]
    fn what_every_project_begins_with_is_what_the_tools_read() {
        for (path, text) in COMMON {
            let text = text.replace("NAME", "rack-window");
            if path.starts_with("fixtures/") {
                Fixture::parse(text.as_bytes()).expect("a fixture");
            } else if *path == "policy.json" {
                let description = Description::parse(text.as_bytes()).expect("a description");
                assert_eq!(description.name.as_str(), "rack-window");
            }
        }
    }

    #[test]
    fn nothing_that_is_there_is_written_over() {
        let dir = tempfile::tempdir().expect("a directory");
        let new = || New {
            name: "a".parse().expect("a name"),
            lang: "rust".to_owned(),
            dir: Some(dir.path().join("a")),
        };
        new().run().expect("made");
        assert!(dir.path().join("a/sdk/src/lib.rs").is_file());
        assert!(new().run().expect_err("there").to_string().contains("already"));
    }
}
