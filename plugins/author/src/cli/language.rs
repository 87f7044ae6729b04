//! What a plugin is written in.

use std::path::Path;
use std::str::FromStr;

use anyhow::bail;

/// A language that authors have an SDK for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    Rust,
    C,
    JavaScript,
    TypeScript,
    Python,
}

/// Each with its name for `--lang`, and the file that a project in it has.
const ALL: [(Language, &str, &str); 5] = [
    (Language::Rust, "rust", "Cargo.toml"),
    (Language::C, "c", "policy.c"),
    (Language::JavaScript, "js", "policy.js"),
    (Language::TypeScript, "ts", "policy.ts"),
    (Language::Python, "python", "policy.py"),
];

impl Language {
    /// The language of a project.
    ///
    /// # Errors
    /// It has none of the files.
    pub(super) fn of(project: &Path) -> anyhow::Result<Self> {
        let known = ALL.iter().find(|(_, _, file)| project.join(file).is_file());
        match known {
            Some((language, ..)) => Ok(*language),
            None => bail!(
                "{} holds none of {}: `plugin new` makes a project",
                project.display(),
                ALL.map(|(_, _, file)| file).join(", ")
            ),
        }
    }
}

impl FromStr for Language {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = ALL.iter().find(|(_, name, _)| *name == text);
        known.map(|(language, ..)| *language).ok_or_else(|| {
            format!(
                "there is no project for {text:?}: --lang is one of {}",
                ALL.map(|(_, name, _)| name).join(", ")
            )
        })
    }
}
