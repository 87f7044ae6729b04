//! `plugin pack`.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use super::{print, source};

/// Put a plugin that was built into one file with its description and fixtures, for `pureboot-controller plugin add`.
///
/// Nothing is signed here: the controller compiles, tests and signs what it is given.
#[derive(Debug, argh::FromArgs)]
#[argh(subcommand, name = "pack", example = "{command_name} rack-window --out rack-window.tar")]
pub struct Pack {
    /// the plugin's directory (default: this one)
    #[argh(positional, default = "PathBuf::from(\".\")")]
    project: PathBuf,

    /// the file to write (default: NAME-VERSION.tar in this directory)
    #[argh(option)]
    out: Option<PathBuf>,
}

impl Pack {
    /// Packs.
    ///
    /// # Errors
    /// The plugin has not been built, or the file cannot be written.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let bundle = source::load(&self.project)?;
        let bytes = bundle.emit()?;
        let name = format!("{}-{}.tar", bundle.description.name, bundle.description.version);
        let out = self.out.unwrap_or_else(|| name.into());
        fs::write(&out, &bytes).with_context(|| format!("cannot write {}", out.display()))?;
        Ok(print(&format!(
            "{}: {}, {} fixtures; `pureboot-controller plugin add {}` uploads it\n",
            out.display(),
            super::size(u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
            bundle.fixtures.len(),
            out.display()
        )))
    }
}
