//! `plugin new`: a project that builds, with a fixture that it answers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use pureboot_plugin_host::package::PluginId;

use super::language::Language;
use super::{WIT, print};

/// Make a plugin that builds and answers its first fixture.
#[derive(Debug, argh::FromArgs)]
#[argh(subcommand, name = "new", example = "{command_name} rack-window --lang rust")]
pub struct New {
    /// its name: a-z, 0-9 and '-'
    #[argh(positional)]
    name: PluginId,

    /// what it is written in: rust, c, js, ts or python
    #[argh(option)]
    lang: Language,

    /// the directory to make (default: the name)
    #[argh(option)]
    dir: Option<PathBuf>,
}

/// Paths and texts.
type Files = &'static [(&'static str, &'static str)];

/// What every project begins with. NAME stands for its name, MAX_FUEL for what a first answer may burn, MEMORY_MIB for what a call needs.
const COMMON: Files = &[
    ("policy.json", include_str!("new/policy.json")),
    ("fixtures/a-virtual-machine.json", include_str!("new/a-virtual-machine.json")),
    ("fixtures/any-other-machine.json", include_str!("new/any-other-machine.json")),
    ("wit/since-0.1/policy.wit", WIT),
];

/// A project brings its SDK with it, which is a file or two.
const RUST: Files = &[
    ("Cargo.toml", include_str!("new/rust/Cargo.toml.txt")),
    ("src/lib.rs", include_str!("new/rust/lib.rs.txt")),
    ("sdk/Cargo.toml", include_str!("../../../sdk/Cargo.toml")),
    ("sdk/src/lib.rs", include_str!("../../../sdk/src/lib.rs")),
    (".gitignore", "build/\n"),
];

const C: Files = &[
    ("policy.c", include_str!("new/c/policy.c")),
    ("sdk/pureboot_policy.c", include_str!("../../../sdk-c/pureboot_policy.c")),
    ("sdk/pureboot_policy.h", include_str!("../../../sdk-c/pureboot_policy.h")),
    (".gitignore", "build/\n"),
];

const JAVASCRIPT: Files = &[
    ("policy.js", include_str!("new/js/policy.js")),
    ("package.json", include_str!("new/js/package.json")),
    ("sdk/policy.js", include_str!("../../../sdk-js/policy.js")),
    ("sdk/policy.d.ts", include_str!("../../../sdk-js/policy.d.ts")),
    (".gitignore", "build/\nnode_modules/\n"),
];

const TYPESCRIPT: Files = &[
    ("policy.ts", include_str!("new/ts/policy.ts")),
    ("package.json", include_str!("new/js/package.json")),
    ("tsconfig.json", include_str!("new/ts/tsconfig.json")),
    ("sdk/policy.js", include_str!("../../../sdk-js/policy.js")),
    ("sdk/policy.d.ts", include_str!("../../../sdk-js/policy.d.ts")),
    (".gitignore", "build/\nnode_modules/\n"),
];

const PYTHON: Files = &[
    ("policy.py", include_str!("new/python/policy.py")),
    ("requirements.txt", include_str!("new/python/requirements.txt")),
    (
        "sdk/pureboot_policy/__init__.py",
        include_str!("../../../sdk-python/pureboot_policy/__init__.py"),
    ),
    ("sdk/pureboot_policy/boot.py", include_str!("../../../sdk-python/pureboot_policy/boot.py")),
    (".gitignore", "build/\n.venv/\n__pycache__/\n"),
];

/// What a project in a language begins with.
struct Start {
    files: Files,
    max_fuel: u64,
    memory_mib: u16,
    /// What an author does once before the first build.
    tools: Option<&'static str>,
}

impl Start {
    fn of(language: Language) -> Self {
        let start =
            |files, max_fuel, memory_mib, tools| Self { files, max_fuel, memory_mib, tools };
        match language {
            Language::Rust => start(RUST, 100_000, 16, None),
            Language::C => start(C, 100_000, 16, None),
            Language::JavaScript => start(JAVASCRIPT, 2_000_000, 16, Some("npm install")),
            Language::TypeScript => start(TYPESCRIPT, 2_000_000, 16, Some("npm install")),
            Language::Python => start(
                PYTHON,
                2_000_000,
                64,
                Some("python3 -m venv .venv && .venv/bin/pip install -r requirements.txt"),
            ),
        }
    }

    /// A text with what it leaves open.
    fn filled(&self, text: &str, name: &PluginId) -> String {
        text.replace("NAME", name.as_str())
            .replace("MAX_FUEL", &self.max_fuel.to_string())
            .replace("MEMORY_MIB", &self.memory_mib.to_string())
    }
}

impl New {
    /// Makes the project.
    ///
    /// # Errors
    /// There is something already, or it cannot be written.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let dir = self.dir.unwrap_or_else(|| self.name.as_str().into());
        let start = Start::of(self.lang);
        ensure!(!dir.exists(), "{} is there already: choose another --dir", dir.display());
        for (path, text) in COMMON.iter().chain(start.files) {
            write(&dir.join(path), &start.filled(text, &self.name))?;
        }
        let shown = dir.display();
        let tools =
            start.tools.map(|tools| format!("`(cd {shown} && {tools})`, ")).unwrap_or_default();
        Ok(print(&format!(
            "made {shown}; now {tools}`plugin build {shown}`, `plugin test {shown}`, `plugin pack {shown}`\n"
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

    const LANGUAGES: [&str; 5] = ["rust", "c", "js", "ts", "python"];

    #[test]
    fn what_every_project_begins_with_is_what_the_tools_read() {
        let name = "rack-window".parse().expect("a name");
        for language in LANGUAGES {
            let start = Start::of(language.parse().expect("a language"));
            for (path, text) in COMMON {
                let text = start.filled(text, &name);
                if path.starts_with("fixtures/") {
                    Fixture::parse(text.as_bytes()).expect("a fixture");
                } else if *path == "policy.json" {
                    let description = Description::parse(text.as_bytes()).expect("a description");
                    assert_eq!(description.name, name);
                }
            }
        }
    }

    #[test]
    fn a_project_of_each_language_is_known_by_its_files() {
        for lang in LANGUAGES {
            let dir = tempfile::tempdir().expect("a directory");
            let lang: Language = lang.parse().expect("a language");
            let dir = dir.path().join("a");
            let name = "a".parse().expect("a name");
            New { name, lang, dir: Some(dir.clone()) }.run().expect("made");
            assert_eq!(Language::of(&dir).expect("a project"), lang);
        }
        let error = "go".parse::<Language>().expect_err("no such language");
        assert!(LANGUAGES.iter().all(|name| error.contains(name)), "{error}");
    }

    #[test]
    fn nothing_that_is_there_is_written_over() {
        let dir = tempfile::tempdir().expect("a directory");
        let new = || New {
            name: "a".parse().expect("a name"),
            lang: Language::Rust,
            dir: Some(dir.path().join("a")),
        };
        new().run().expect("made");
        assert!(dir.path().join("a/sdk/src/lib.rs").is_file());
        assert!(new().run().expect_err("there").to_string().contains("already"));
    }
}
