//! `pureboot-agent update`: other versions of the agent, by hand.

use std::path::{Path, PathBuf};
use std::process::{Command as ChildProcess, ExitCode, Stdio};

use anyhow::{Context as _, ensure};
use argh::FromArgs;
use pureboot_protocol::{ReleaseMark, UpdateState};

use crate::cli::arguments::{asks, placed};
use crate::cli::json;
use crate::data_dir::DataDir;
use crate::update::files::UpdateDir;
use crate::update::local::{self, Staged};
use crate::update::pin::{self, Pin};
use crate::update::{launch, release};
use crate::{clock, program, store};

/// bring the agent to another version, or back; with a controller its operators do that for all sites (pureboot-controller agent
/// update)
#[derive(FromArgs, Debug)]
#[argh(
    subcommand,
    name = "update",
    note = "A new version takes effect when the agent is started again."
)]
pub(super) struct Update {
    #[argh(subcommand)]
    command: UpdateCommand,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
enum UpdateCommand {
    Status(Status),
    Check(Check),
    Install(Install),
    Rollback(Rollback),
    Pin(PinKey),
}

impl Update {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            UpdateCommand::Status(status) => status.run(),
            UpdateCommand::Check(check) => check.run(),
            UpdateCommand::Install(install) => install.run(),
            UpdateCommand::Rollback(rollback) => rollback.run(),
            UpdateCommand::Pin(pin) => pin.run(),
        }
    }
}

asks! {
    /// tell which version is installed, which came by an update, and how the last update ended
    #[argh(subcommand, name = "status")]
    struct Status {}
}

impl Status {
    fn run(self) -> anyhow::Result<ExitCode> {
        let data_dir = DataDir::open(&self.data_dir)?;
        let journal = UpdateDir::of(&data_dir).load();
        let runs = journal.trial().or(journal.settled());
        let report = journal.report(runs.map(|slot| slot.sha256), release::target());
        if self.json {
            return super::print(&json::pretty(&report)?);
        }
        let mut text = format!("installed  {} ({})\n", release::version(), release::target());
        let mut row = |name: &str, value: String| text.push_str(&format!("{name:<10} {value}\n"));
        if let Some(slot) = runs {
            let how = match report.state {
                UpdateState::OnTrial => "on trial",
                _ => "which came by an update",
            };
            row("runs", format!("{}, {how}", slot.version));
        }
        if let Some(version) = report.candidate.filter(|_| report.state == UpdateState::Staged) {
            row("next", format!("{version}, from the next start on, if it passes its test"));
        }
        if let Some(version) = report.previous {
            row("before", format!("{version}, kept to go back to"));
        }
        if let Some(last) = report.last {
            let why = if last.why.is_empty() { String::new() } else { format!(": {}", last.why) };
            row("last", format!("{} {} at {}{why}", last.version, last.fate, last.at));
        }
        row("key", Pin::open(&data_dir).describe());
        super::print(&text)
    }
}

placed! {
    /// find out whether a program could serve here; nothing is changed
    #[argh(subcommand, name = "check")]
    struct Check {
        /// the program, such as pureboot-agent-x86_64
        #[argh(positional)]
        file: PathBuf,
    }
}

impl Check {
    fn run(self) -> anyhow::Result<ExitCode> {
        let (_, mark) = local::inspect(&self.file)?;
        let file = std::fs::canonicalize(&self.file)?;
        let tested = rehearse(&file, &self.data_dir)?;
        super::print(&format!("{}\n", verdict(mark, tested)))
    }
}

/// On what a program was tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tested {
    /// On all that decides about boots.
    Whole,
    /// Not on the database, which a running agent has open.
    WithoutDatabase,
    /// Not at all: there are no settings yet.
    Nothing,
}

fn rehearse(program: &Path, data_dir: &Path) -> anyhow::Result<Tested> {
    if !data_dir.join("agent.toml").exists() {
        return Ok(Tested::Nothing);
    }
    let data_dir = DataDir::open(data_dir)?;
    let lock = store::lock_data_dir(data_dir.root()).ok();
    launch::rehearse(program, &data_dir, lock.is_some())?;
    Ok(if lock.is_some() { Tested::Whole } else { Tested::WithoutDatabase })
}

fn verdict(mark: ReleaseMark, tested: Tested) -> String {
    let ReleaseMark { version, target } = mark;
    let here = release::version();
    let age = match version.cmp(&here) {
        std::cmp::Ordering::Less => "older than",
        std::cmp::Ordering::Equal => "the same as",
        std::cmp::Ordering::Greater => "newer than",
    };
    let tested = match tested {
        Tested::Whole => "it can serve here",
        Tested::WithoutDatabase => {
            "it can serve here (the database, which the running agent has open, was left out)"
        }
        Tested::Nothing => "it was not tested, because there are no settings yet",
    };
    format!("pureboot-agent {version} for {target}, {age} {here}, which is installed: {tested}")
}

placed! {
    /// put a program in the place of the installed one, which is kept as .prev; it is checked and tested first
    #[argh(subcommand, name = "install")]
    struct Install {
        /// the program, such as pureboot-agent-x86_64
        #[argh(positional)]
        file: PathBuf,
        /// take it although it is older than what is installed
        #[argh(switch)]
        allow_downgrade: bool,
    }
}

impl Install {
    fn run(self) -> anyhow::Result<ExitCode> {
        let (program, mark) = local::inspect(&self.file)?;
        local::check_age(mark.version, release::version(), self.allow_downgrade)?;
        let installed = program::path()?;
        let staged = Staged::beside(&installed, &program)?;
        // In a process of its own, because a test gives up the rights that the swap needs.
        let tested = ChildProcess::new(&installed)
            .args(["update", "check"])
            .arg(staged.place())
            .arg("--data-dir")
            .arg(&self.data_dir)
            .stderr(Stdio::inherit())
            .output()
            .context("cannot test it")?;
        ensure!(
            tested.status.success(),
            "it was not installed, because it has not passed its test"
        );
        staged.swap()?;
        forget_others(&self.data_dir)?;
        super::print(&format!(
            "{}Installed as {installed}; the one before is kept as {installed}.prev.\nNext: start the agent again\n",
            String::from_utf8_lossy(&tested.stdout),
            installed = installed.display(),
        ))
    }
}

/// Whoever installs a program means that one, and none that came before from the controller.
fn forget_others(data_dir: &Path) -> anyhow::Result<()> {
    if !data_dir.join("update").exists() {
        return Ok(());
    }
    let dir = UpdateDir::of(&DataDir::open(data_dir)?);
    let mut journal = dir.load();
    journal.clear();
    dir.save(&journal)
}

placed! {
    /// go back to the version before the one that came by an update
    #[argh(subcommand, name = "rollback")]
    struct Rollback {
        /// put the program back that `update install` has kept as .prev, and keep the installed one in its stead
        #[argh(switch)]
        installed: bool,
    }
}

impl Rollback {
    fn run(self) -> anyhow::Result<ExitCode> {
        if self.installed {
            let installed = program::path()?;
            ensure!(local::put_back(&installed)?, "there is no {}.prev", installed.display());
            forget_others(&self.data_dir)?;
            return super::print(
                "The program before is installed again.\nNext: start the agent again\n",
            );
        }
        let data_dir = DataDir::open(&self.data_dir)?;
        let _lock = store::lock_data_dir(data_dir.root()).context("stop the agent first")?;
        let dir = UpdateDir::of(&data_dir);
        let mut journal = dir.load();
        let before = journal
            .roll_back(clock::now())
            .context("--installed puts back what `update install` has kept")?;
        dir.save(&journal)?;
        let runs = before.unwrap_or_else(release::version);
        super::print(&format!("Version {runs} runs from the next start on.\n"))
    }
}

placed! {
    /// pin the controller's key, which other versions of the agent are checked with, beside the data directory, where the running agent cannot
    /// change it; to be run as root, as the unit for systemd does at each start
    #[argh(subcommand, name = "pin")]
    struct PinKey {
        /// forget the key that is pinned, because the site was given to another controller
        #[argh(switch)]
        renew: bool,
    }
}

impl PinKey {
    fn run(self) -> anyhow::Result<ExitCode> {
        if self.renew {
            pin::forget(&self.data_dir)?;
        }
        pin::prepare(&self.data_dir)?;
        let pin = Pin::open(&DataDir::open(&self.data_dir)?);
        super::print(&format!("{}\n", pin.describe()))
    }
}
