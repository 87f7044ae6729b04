//! `plugin inspect`.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use pureboot_plugin_host::package::{DOMAIN, Header, Unchecked};
use pureboot_protocol::ContentHash;
use sha2::{Digest, Sha256};

use super::{listed, print, size, source};
use crate::description::Description;

/// Show what is in a plugin: a bundle, WebAssembly, a project's directory, or a signed package as sites have it.
#[derive(Debug, argh::FromArgs)]
#[argh(subcommand, name = "inspect", example = "{command_name} rack-window-1.0.0.tar")]
pub struct Inspect {
    /// the file or directory
    #[argh(positional)]
    file: PathBuf,

    /// print JSON
    #[argh(switch)]
    json: bool,
}

impl Inspect {
    /// Shows it.
    ///
    /// # Errors
    /// It cannot be read, or is none of these.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if !self.file.is_dir() {
            let bytes = fs::read(&self.file)
                .with_context(|| format!("cannot read {}", self.file.display()))?;
            if bytes.starts_with(DOMAIN) {
                let package = Unchecked::parse(&bytes)?;
                return Ok(self.show_package(&package.unchecked_header()?, bytes.len()));
            }
        }
        let bundle = source::load(&self.file)?;
        let hash = ContentHash::from_digest(Sha256::digest(&bundle.wasm).into());
        if self.json {
            let text = serde_json::json!({
                "description": bundle.description,
                "wasm_sha256": hash,
                "wasm_bytes": bundle.wasm.len(),
                "fixtures": bundle.fixtures.keys().collect::<Vec<_>>(),
            });
            return Ok(print(&format!("{text}\n")));
        }
        let mut text = described(&bundle.description);
        let len = u64::try_from(bundle.wasm.len()).unwrap_or(u64::MAX);
        _ = writeln!(text, "WebAssembly   {}, SHA-256 {hash}", size(len));
        _ = writeln!(text, "fixtures      {}", listed(bundle.fixtures.keys()));
        Ok(print(&text))
    }

    fn show_package(&self, header: &Header, len: usize) -> ExitCode {
        if self.json {
            let text = serde_json::json!({"package": header});
            return print(&format!("{text}\n"));
        }
        let mut text = String::new();
        _ = writeln!(
            text,
            "signed package of {} {}; its signature is not checked here",
            header.id, header.version
        );
        _ = writeln!(text, "engine        {}", header.engine);
        _ = writeln!(text, "hooks         {}", listed(&header.hooks));
        _ = writeln!(text, "capabilities  {}", listed(&header.capabilities));
        _ = writeln!(text, "memory        {} MiB", header.memory_mib);
        _ = writeln!(text, "settings      {}", listed(header.settings.keys()));
        _ = writeln!(text, "component     SHA-256 {}", header.wasm);
        _ = writeln!(text, "package       {}", size(u64::try_from(len).unwrap_or(u64::MAX)));
        print(&text)
    }
}

/// What an author says of a policy, for people.
fn described(description: &Description) -> String {
    let mut text = String::new();
    let Description { name, version, hooks, capabilities, memory_mib, settings, .. } = description;
    _ = writeln!(text, "{name} {version}");
    if !description.description.is_empty() {
        _ = writeln!(text, "{}", description.description);
    }
    let hooks = if hooks.is_empty() { "those of the component".to_owned() } else { listed(hooks) };
    _ = writeln!(text, "hooks         {hooks}");
    _ = writeln!(text, "capabilities  {}", listed(capabilities));
    _ = writeln!(text, "memory        {memory_mib} MiB");
    for (name, rule) in settings {
        _ = writeln!(text, "setting       {name} = {:?}: {}", rule.default, rule.help);
    }
    text
}
