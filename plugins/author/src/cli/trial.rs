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
    use pureboot_plugin_host::engine::ENGINE_ID;
    use pureboot_plugin_host::package::CODE_LEN_MAX;

    use super::{Check, ExitCode, Run, Test};
    use crate::bundle::COMPONENT_MIB;
    use crate::cli::{listed, print, size, source};
    use crate::fixture::{Asked, Fixture, Report};
    use crate::made::{self, block_on};

    /// More code than an author of Rust or C sees, in bytes.
    const LARGE_CODE_LEN: usize = 2 << 20;

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
            let memory_mib = description.memory_mib;
            for note in notes(compiled.component.len(), compiled.code.len(), memory_mib)? {
                print(&format!("note        {note}\n"));
            }
            Ok(print("sites take it\n"))
        }
    }

    /// What controllers and sites have to be ready for, where a policy is larger than most.
    ///
    /// # Errors
    /// None of them takes it.
    fn notes(
        component_len: usize,
        code_len: usize,
        memory_mib: u16,
    ) -> anyhow::Result<Vec<String>> {
        let (default, most) = COMPONENT_MIB;
        let mib = u32::try_from(component_len.div_ceil(1 << 20)).unwrap_or(u32::MAX);
        anyhow::ensure!(
            mib <= most,
            "no controller takes it: the component has {mib} MiB, and {most} are the most"
        );
        anyhow::ensure!(
            code_len <= CODE_LEN_MAX,
            "no site takes it: the code has {}, and {} are the most",
            size(u64::try_from(code_len).unwrap_or(u64::MAX)),
            size(u64::try_from(CODE_LEN_MAX).unwrap_or(u64::MAX))
        );
        let mut notes = Vec::new();
        if mib > default {
            notes.push(format!(
                "a controller takes components of {default} MiB: this one has to be started with `serve --plugin-max-mb {mib}`"
            ));
        }
        if code_len > LARGE_CODE_LEN {
            notes.push(format!(
                "each site keeps {} of code in memory for it, and a call takes up to {memory_mib} MiB more: not for routers with little",
                size(u64::try_from(code_len).unwrap_or(u64::MAX))
            ));
        }
        Ok(notes)
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

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_large_policy_says_what_it_asks_of_controllers_and_sites() {
            assert_eq!(notes(1 << 20, 200_000, 16).expect("taken"), [""; 0]);
            let [controller, site] = &notes(18_319_252, 30_000_000, 32).expect("taken")[..] else {
                panic!("two notes")
            };
            assert!(controller.contains("--plugin-max-mb 18"), "{controller}");
            assert!(site.contains("30 MB of code") && site.contains("32 MiB"), "{site}");
            let error = notes(33 << 20, 1, 16).expect_err("too large").to_string();
            assert!(error.contains("33 MiB, and 32"), "{error}");
            let error = notes(1, 49 << 20, 16).expect_err("too much code").to_string();
            assert!(error.contains("no site takes it"), "{error}");
        }
    }
}
