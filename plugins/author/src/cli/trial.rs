//! `plugin check`, `plugin test` and `plugin run`: a policy compiled here and asked.

use std::path::PathBuf;
use std::process::ExitCode;

/// Say whether sites would take a plugin: contract, hooks, imports, sizes, settings.
#[derive(Debug, argh::FromArgs)]
#[argh(subcommand, name = "check", example = "{command_name} rack-window")]
pub struct Check {
    /// the plugin's directory, a bundle, or WebAssembly (default: this directory)
    #[argh(positional, default = "PathBuf::from(\".\")")]
    plugin: PathBuf,
}

/// Ask a plugin what its fixtures say, and compare.
#[derive(Debug, argh::FromArgs)]
#[argh(subcommand, name = "test", example = "{command_name} rack-window")]
pub struct Test {
    /// the plugin's directory, a bundle, or WebAssembly (default: this directory)
    #[argh(positional, default = "PathBuf::from(\".\")")]
    plugin: PathBuf,

    /// print JSON, one line for each fixture
    #[argh(switch)]
    json: bool,
}

/// Ask a plugin one question, and show its answer, its log and what it cost.
#[derive(Debug, argh::FromArgs)]
#[argh(
    subcommand,
    name = "run",
    example = "{command_name} rack-window --request rack-window/fixtures/in-the-window.json"
)]
pub struct Run {
    /// the plugin's directory, a bundle, or WebAssembly (default: this directory)
    #[argh(positional, default = "PathBuf::from(\".\")")]
    plugin: PathBuf,

    /// the question: a fixture, of which what is expected does not matter
    #[argh(option)]
    request: PathBuf,

    /// print JSON
    #[argh(switch)]
    json: bool,
}

#[cfg(not(feature = "compile"))]
mod absent {
    use super::{Check, ExitCode, Run, Test};
    use crate::cli::NO_COMPILER;

    impl Check {
        /// Checks.
        ///
        /// # Errors
        /// This program has no compiler.
        pub fn run(self) -> anyhow::Result<ExitCode> {
            anyhow::bail!("cannot check {}: {NO_COMPILER}", self.plugin.display())
        }
    }

    impl Test {
        /// Tests.
        ///
        /// # Errors
        /// This program has no compiler.
        pub fn run(self) -> anyhow::Result<ExitCode> {
            let _ = self.json;
            anyhow::bail!("cannot test {}: {NO_COMPILER}", self.plugin.display())
        }
    }

    impl Run {
        /// Asks.
        ///
        /// # Errors
        /// This program has no compiler.
        pub fn run(self) -> anyhow::Result<ExitCode> {
            let _ = (self.json, self.request);
            anyhow::bail!("cannot ask {}: {NO_COMPILER}", self.plugin.display())
        }
    }
}

#[cfg(feature = "compile")]
mod present {
    use std::fmt::Write as _;
    use std::fs;

    use anyhow::Context;
    use pureboot_plugin_host::compile::COMPONENT_LEN_MAX;
    use pureboot_plugin_host::engine::ENGINE_ID;

    use super::{Check, ExitCode, Run, Test};
    use crate::cli::{listed, print, size, source};
    use crate::fixture::{Asked, Fixture, Report};
    use crate::made::{self, block_on};

    impl Check {
        /// Checks.
        ///
        /// # Errors
        /// No site would take it; the text says why.
        pub fn run(self) -> anyhow::Result<ExitCode> {
            let bundle = source::load(&self.plugin)?;
            let compiled = made::compiled(&bundle.wasm)?;
            let outline = compiled.outline()?;
            let len = |bytes: &[u8]| size(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            let mut text = String::new();
            let name = (&bundle.description.name, bundle.description.version);
            _ = writeln!(text, "{} {}", name.0, name.1);
            _ = writeln!(
                text,
                "contract    pureboot:policy 0.1, which this program and its sites speak"
            );
            _ = writeln!(text, "hooks       {}", listed(&outline.hooks));
            _ = writeln!(text, "exports     {}", listed(&outline.exports));
            _ = writeln!(text, "imports     {}", listed(&outline.imports));
            _ = writeln!(text, "uses        {}", listed(&outline.capabilities));
            _ = writeln!(
                text,
                "component   {}, SHA-256 {}",
                len(&compiled.component),
                compiled.hash
            );
            _ = writeln!(text, "code        {} for {ENGINE_ID}", len(&compiled.code));
            print(&text);
            let description = compiled.described(bundle.description)?;
            compiled.load(&description)?;
            if compiled.component.len() > COMPONENT_LEN_MAX {
                print(&format!(
                    "note        it is larger than {}, which a site that compiles for itself takes; a controller takes 4 MiB, or what \
                     its --plugin-max-mb says\n",
                    size(u64::try_from(COMPONENT_LEN_MAX).unwrap_or(u64::MAX))
                ));
            }
            Ok(print("sites take it\n"))
        }
    }

    impl Test {
        /// Tests.
        ///
        /// # Errors
        /// The plugin cannot be loaded, or has no fixtures.
        pub fn run(self) -> anyhow::Result<ExitCode> {
            let bundle = source::load(&self.plugin)?;
            anyhow::ensure!(
                !bundle.fixtures.is_empty(),
                "{} has no fixtures: put a question and its answer into fixtures/NAME.json, as plugins/README.md shows",
                bundle.description.name
            );
            let compiled = made::compiled(&bundle.wasm)?;
            let description = compiled.described(bundle.description.clone())?;
            let reports = made::test(&compiled.load(&description)?, &bundle)?;
            let mut text = String::new();
            for report in &reports {
                if self.json {
                    _ = writeln!(text, "{}", serde_json::to_string(report)?);
                } else {
                    text.push_str(&line(report));
                }
            }
            let failed = reports.iter().filter(|report| report.fault.is_some()).count();
            if !self.json {
                _ = writeln!(
                    text,
                    "{} of {} fixtures answered as they should",
                    reports.len() - failed,
                    reports.len()
                );
            }
            print(&text);
            Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }

    fn line(report: &Report) -> String {
        let mut text = String::new();
        let verdict = if report.fault.is_some() { "FAILED" } else { "ok    " };
        _ = writeln!(text, "{verdict} {}: {}", report.name, cost(&report.asked));
        if let Some(fault) = &report.fault {
            _ = writeln!(text, "       {fault}");
        }
        for line in &report.asked.log {
            _ = writeln!(text, "       log {line}");
        }
        text
    }

    /// What a call cost, as authors compare it: fuel is the same everywhere, time is not.
    fn cost(asked: &Asked) -> String {
        let Asked { fuel, fuel_max, memory_bytes, took_us, .. } = asked;
        // A tenth of a per cent is as much as anybody compares.
        let mille = fuel.saturating_mul(1_000).checked_div(*fuel_max).unwrap_or_default();
        format!(
            "{fuel} fuel ({}.{} % of the limit), {}, {took_us} us here",
            mille / 10,
            mille % 10,
            size(*memory_bytes)
        )
    }

    impl Run {
        /// Asks.
        ///
        /// # Errors
        /// The plugin cannot be loaded, or the question cannot be read.
        pub fn run(self) -> anyhow::Result<ExitCode> {
            let bundle = source::load(&self.plugin)?;
            let what = || format!("cannot read {}", self.request.display());
            let question = Fixture::parse(&fs::read(&self.request).with_context(what)?);
            let question =
                question.map_err(|why| anyhow::anyhow!("{}: {why}", self.request.display()))?;
            let compiled = made::compiled(&bundle.wasm)?;
            let description = compiled.described(bundle.description)?;
            let asker = compiled.load(&description)?;
            let asked = block_on(asker.ask(&question));
            if self.json {
                return Ok(print(&format!("{}\n", serde_json::to_string(&asked)?)));
            }
            let mut text = format!("{}\n", asked.outcome);
            for line in &asked.log {
                _ = writeln!(text, "log {line}");
            }
            _ = writeln!(text, "{}", cost(&asked));
            Ok(print(&text))
        }
    }
}
