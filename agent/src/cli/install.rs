//! `pureboot-agent install` and `pureboot-agent uninstall`

use std::path::PathBuf;
use std::process::ExitCode;

use argh::FromArgs;

use crate::install::machine::{Machine, Outcome};
use crate::install::plan::{self, Step, System};

/// make the agent at home on this machine: copy the program, make its user and directory, have it start with the machine. Says
/// what it would do, and does it with --yes
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "install")]
pub(super) struct Install {
    /// do it
    #[argh(switch)]
    yes: bool,
    /// what starts programs on the machine: systemd, procd (OpenWrt) or none (default: what is found)
    #[argh(option)]
    system: Option<System>,
    /// the tree of another machine, such as an image that is being made (default: /, this machine)
    #[argh(option, default = "\"/\".into()")]
    root: PathBuf,
}

/// take away what install has made; data stay. Says what it would do, and does it with --yes
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "uninstall")]
pub(super) struct Uninstall {
    /// do it
    #[argh(switch)]
    yes: bool,
    /// remove the data and the user too, also what the controller has not heard of yet
    #[argh(switch)]
    purge: bool,
    /// what starts programs on the machine: systemd, procd (OpenWrt) or none (default: what it was installed for)
    #[argh(option)]
    system: Option<System>,
    /// the tree of another machine (default: /, this machine)
    #[argh(option, default = "\"/\".into()")]
    root: PathBuf,
}

impl Install {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let machine = Machine::at(&self.root)?;
        let system = self.system.unwrap_or_else(|| machine.system());
        carry_out(&machine, &plan::install(system), self.yes)?;
        if !self.yes {
            return super::print("Nothing was done yet: add --yes to do it.\n");
        }
        super::print(&format!(
            "Next: pureboot-agent init --data-dir {} --site-id ID --central-url URL --token-file FILE\nThen: {}\n",
            system.data_dir(),
            system.start_command(),
        ))
    }
}

impl Uninstall {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let machine = Machine::at(&self.root)?;
        let system =
            self.system.or_else(|| machine.installed_for()).unwrap_or_else(|| machine.system());
        carry_out(&machine, &plan::uninstall(system, self.purge), self.yes)?;
        match (self.yes, self.purge) {
            (false, _) => super::print("Nothing was done yet: add --yes to do it.\n"),
            (true, true) => super::print("Nothing of the agent is left.\n"),
            (true, false) => super::print(&format!(
                "{} stays, with what the controller has not heard of; --purge removes it.\n",
                system.data_dir()
            )),
        }
    }
}

/// Says each step, and does it if that is wished.
fn carry_out(machine: &Machine, steps: &[Step], is_wished: bool) -> anyhow::Result<()> {
    for step in steps {
        let came = if is_wished {
            match machine.carry_out(step)? {
                Outcome::Done => "done",
                Outcome::WasSo => "was so",
                Outcome::NotHere => "not here",
                Outcome::Refused => "refused",
            }
        } else {
            "would"
        };
        super::print(&format!("{came:<9} {step}\n"))?;
    }
    Ok(())
}
