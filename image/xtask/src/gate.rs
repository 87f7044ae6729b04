//! `cargo xtask test`: everything that must be green, as named steps.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use argh::FromArgs;
use pureboot_tests::postgres::{self, Postgres};
use pureboot_tests::process;

use crate::dist::{self, Dist};
use crate::guests::{self, Built};
use crate::languages::Languages;
use crate::sim::Background;
use crate::{cargo, packages};

/// Prove the tree: format, lints, build, tests, documents, dependencies. Installs what it needs where it may.
#[derive(FromArgs)]
#[argh(subcommand, name = "test")]
pub(crate) struct Test {
    /// also the long form of tests that have one, and every row of the firmware matrix instead of a sample
    #[argh(switch)]
    long: bool,

    /// run only the tests whose name contains this, and no other step
    #[argh(positional)]
    filter: Option<String>,
}

/// The plugin host and what authors use, with what compiles policies.
const PLUGIN_HOST: [&str; 6] = [
    "--package",
    "pureboot-plugin-host",
    "--package",
    "pureboot-plugin-author",
    "--features",
    "pureboot-plugin-author/compile",
];

/// The languages of policies, by their modules of tests, in which a new policy takes minutes to build.
const SLOW_LANGUAGES: [&str; 3] = ["lang_rust::", "lang_js::", "lang_python::"];

/// Ask the RustSec database about the dependencies. Needs the network.
#[derive(FromArgs)]
#[argh(subcommand, name = "advisories")]
pub(crate) struct Advisories {}

/// What came of the steps and tests so far.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// What counts as one, by how it ended.
    fn of_one(status: ExitStatus) -> Self {
        let failed = u64::from(!status.success());
        Self { passed: 1 - failed, failed, skipped: 0 }
    }

    /// Reads a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out`.
    fn parse(line: &str) -> Option<Self> {
        let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let mut tally = Self::default();
        for count in counts.split(';') {
            let mut words = count.split_whitespace();
            let number = words.next().and_then(|number| number.parse().ok());
            match (number, words.next()) {
                (Some(number), Some("passed")) => tally.passed = number,
                (Some(number), Some("failed")) => tally.failed = number,
                (Some(number), Some("ignored")) => tally.skipped = number,
                _ => {}
            }
        }
        Some(tally)
    }
}

/// The gate on its way: what has been counted, and what a reader must see at the end.
#[derive(Debug, Default)]
struct Gate {
    tally: Tally,
    notes: Vec<String>,
}

impl Gate {
    /// Runs one step with live output and says how long it took; `run` returns its counts.
    fn step(&mut self, name: &str, run: impl FnOnce(&mut Vec<String>) -> Result<Tally>) {
        println!("\n=== {name}");
        let started = Instant::now();
        let tally = run(&mut self.notes).unwrap_or_else(|error| {
            println!("{name}: {error:#}");
            Tally { failed: 1, ..Tally::default() }
        });
        let seconds = started.elapsed().as_secs_f64();
        let verdict = if tally.failed == 0 { "ok" } else { "FAILED" };
        println!("=== {name}: {verdict} in {seconds:.1} s");
        if tally.failed > 0 {
            self.notes.push(format!("FAILED: {name}"));
        }
        self.tally.add(&tally);
    }

    /// A step that counts as one.
    fn command(&mut self, name: &str, command: Result<Command>) {
        self.step(name, |_| Ok(Tally::of_one(command?.stdin(Stdio::null()).status()?)));
    }

    fn tests(&mut self, command: Result<Command>) {
        self.step("test", |notes| run_tests(command?, notes));
    }

    /// The controller's tests once more, on the other database.
    fn tests_on_postgres(&mut self, filter: Option<&str>) {
        self.step("test on PostgreSQL", |notes| {
            if process::find(postgres::INITDB).is_none() {
                let cure = "the controller's tests on PostgreSQL: apt-get install postgresql";
                notes.push(format!("SKIPPED: {cure}"));
                return Ok(Tally { skipped: 1, ..Tally::default() });
            }
            let server = Postgres::start()?;
            let mut command = Command::new(cargo::test_program("pureboot_controller")?);
            command.current_dir(cargo::root()?.join("controller"));
            command.env("PUREBOOT_TEST_DATABASE", server.url()).args(filter);
            let tally = run_tests(command, notes)?;
            notes.push(format!("ON POSTGRESQL: {} tests of the controller passed", tally.passed));
            Ok(tally)
        });
    }

    /// What ships, from the whole tree: in the long form alone, because that takes compilers many minutes for each kind of machine.
    fn dist(&mut self, is_long: bool) {
        let reason = match is_long {
            true => dist::missing(),
            false => Some("test --long builds them, or cargo xtask dist".to_owned()),
        };
        if let Some(reason) = reason {
            let what = "static programs and packages from the whole tree";
            self.notes.push(format!("SKIPPED: {what}: {reason}"));
            self.tally.skipped += 1;
            return;
        }
        self.step("dist", |_| {
            Dist::default().run()?;
            Ok(Tally { passed: 1, ..Tally::default() })
        });
    }

    /// What of the plugin host needs a compiler of policies, which no other step builds.
    fn plugins(&mut self, is_long: bool) {
        let mut lint = ["clippy", "--locked", "--all-targets"].to_vec();
        lint.extend(PLUGIN_HOST);
        lint.extend(["--", "-D", "warnings"]);
        self.command("clippy of the plugin host", cargo::command(&lint));
        let mut has_guests = false;
        self.step("guests", |notes| match guests::build()? {
            Built::Here => {
                has_guests = true;
                Ok(Tally { passed: 1, ..Tally::default() })
            }
            Built::NoCompiler(missing) => {
                notes.push(format!(
                    "SKIPPED: the example policies, and the tests that run them: {missing}"
                ));
                Ok(Tally { skipped: 1, ..Tally::default() })
            }
        });
        self.step("test of the plugin host", |notes| {
            let mut test =
                cargo::command(&["test", "--locked", "--test", "policies", "--test", "made"])?;
            test.args(PLUGIN_HOST).arg("--");
            if has_guests {
                test.arg("--include-ignored");
                let languages = Languages::install(is_long)?;
                test.env("PATH", languages.path);
                for (module, why) in languages.missing {
                    notes.push(format!("SKIPPED: policies of {module}: {why}"));
                    test.args(["--skip", &format!("{module}::")]);
                }
            }
            if is_long {
                test.env(pureboot_tests::LONG, "1");
            }
            let is_left_out = has_guests && !is_long;
            if is_left_out {
                for module in SLOW_LANGUAGES {
                    notes
                        .push(format!("SKIPPED: new policies of {module}: test --long makes them"));
                    test.args(["--skip", module]);
                }
            }
            let mut tally = run_tests(test, notes)?;
            tally.skipped += if is_left_out { SLOW_LANGUAGES.len() as u64 } else { 0 };
            Ok(tally)
        });
    }

    fn end(self) -> ExitCode {
        println!();
        for note in &self.notes {
            println!("{note}");
        }
        let Tally { passed, failed, skipped } = self.tally;
        println!("{passed} passed, {failed} failed, {skipped} skipped");
        if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Runs `cargo test`, passes its output on, and counts.
fn run_tests(mut command: Command, notes: &mut Vec<String>) -> Result<Tally> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take().context("standard output is piped")?;
    let mut tally = Tally::default();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        println!("{line}");
        if let Some(result) = Tally::parse(&line) {
            tally.add(&result);
        } else if line.starts_with("test ")
            && [" ignored, ", " is ignored: "].iter().any(|mark| line.contains(mark))
        {
            notes.push(format!("SKIPPED: {line}"));
        } else if line.starts_with("test ") && line.ends_with(" FAILED") {
            notes.push(format!("FAILED: {line}"));
        }
    }
    let status = child.wait()?;
    if !status.success() && tally.failed == 0 {
        // Something failed before it could count: a test that does not build, or a program that died.
        notes.push(format!("the tests ended with {status} without naming a failed test"));
        tally.failed = 1;
    }
    Ok(tally)
}

fn test_command(filter: Option<&str>, is_long: bool) -> Result<Command> {
    let mut command = cargo::command(&["test", "--locked", "--workspace", "--no-fail-fast"])?;
    command.arg("--").args(filter);
    if is_long {
        command.env(pureboot_tests::LONG, "1");
    }
    Ok(command)
}

impl Test {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let mut gate = Gate::default();
        packages::install(self.long);
        packages::install_python_tools();
        let build = cargo::command(&["build", "--locked", "--workspace"]);
        if let Some(filter) = &self.filter {
            gate.command("build", build);
            gate.tests(test_command(Some(filter), self.long));
            gate.tests_on_postgres(Some(filter));
            return Ok(gate.end());
        }
        gate.command("fmt", cargo::command(&["fmt", "--all", "--check"]));
        let guests = ["fmt", "--all", "--check", "--manifest-path", "plugins/examples/Cargo.toml"];
        gate.command("fmt of the guests", cargo::command(&guests));
        let clippy = ["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"];
        gate.command("clippy", cargo::command(&clippy));
        gate.command("build", build);
        gate.dist(self.long);
        let simulation = Background::begin(self.long);
        gate.tests(test_command(None, self.long));
        gate.tests_on_postgres(None);
        gate.plugins(self.long);
        let doc = ["doc", "--locked", "--workspace", "--no-deps", "--document-private-items"];
        gate.command(
            "doc",
            cargo::command(&doc).map(|mut doc| {
                doc.env("RUSTDOCFLAGS", "-D warnings");
                doc
            }),
        );
        gate.step("simulation", |_| Ok(Tally::of_one(simulation?.end()?)));
        gate.step("deny", |_| {
            let mut deny = packages::cargo_deny()?;
            deny.args(["--locked", "--workspace", "check", "bans", "licenses", "sources"]);
            Ok(Tally::of_one(deny.stdin(Stdio::null()).status()?))
        });
        gate.notes.push(
            "NOT PART OF THE GATE: security advisories. They judge the world outside, not this tree, and need the \
             RustSec database from the network: cargo xtask advisories"
                .to_owned(),
        );
        Ok(gate.end())
    }
}

impl Advisories {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let mut deny = packages::cargo_deny()?;
        let status = deny.args(["--locked", "--workspace", "check", "advisories"]).status()?;
        Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_line_is_counted() {
        let line = "test result: FAILED. 12 passed; 1 failed; 3 ignored; 0 measured; 7 filtered out; finished in 0.1s";
        assert_eq!(Tally::parse(line), Some(Tally { passed: 12, failed: 1, skipped: 3 }));
        assert_eq!(Tally::parse("test a_result_line ... ok"), None);
    }
}
