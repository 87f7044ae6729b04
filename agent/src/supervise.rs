//! Who starts the agent again when it ends: systemd, procd, a container's own supervisor, or, where there is none, this program in
//! a process that does nothing else.
#![expect(clippy::disallowed_methods, reason = "shell: waits for a child")]

use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use async_signal::{Signal, Signals};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use smol::stream::StreamExt as _;

use crate::program;

/// The exit code of an agent that has fetched another version of itself and is to be started again.
pub const RESTART: u8 = 75;

/// By which an agent is told that somebody starts it again; `install` and the packages say so.
const SUPERVISED: &str = "PUREBOOT_SUPERVISED";

/// How long is waited before an agent that has failed is started again.
const PAUSE: Duration = Duration::from_secs(2);

/// Whether somebody starts this process again when it ends.
pub fn is_supervised() -> bool {
    // systemd, as the unit has it, gives a socket to notify it by.
    ["NOTIFY_SOCKET", SUPERVISED]
        .into_iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// Starts this program with the same arguments, but for `--supervise`, and again whenever it ends, until SIGTERM or SIGINT.
///
/// # Errors
/// It cannot be started.
pub fn run() -> anyhow::Result<ExitCode> {
    let program = program::path()?;
    let arguments: Vec<_> = std::env::args_os().skip(1).filter(|it| it != "--supervise").collect();
    let mut signals =
        Signals::new([Signal::Term, Signal::Int]).context("cannot listen for signals")?;
    loop {
        let mut child = Command::new(&program)
            .args(&arguments)
            .env(SUPERVISED, "1")
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let pid = i32::try_from(child.id()).context("a process id beyond 2^31")?;
        let mut end = smol::unblock(move || child.wait());
        let asked = async {
            signals.next().await;
            None
        };
        let ended = smol::block_on(smol::future::or(async { Some((&mut end).await) }, asked));
        let status = match ended {
            Some(status) => status.context("cannot wait for the agent")?,
            None => {
                _ = kill(Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
                smol::block_on(end).context("cannot wait for the agent")?;
                return Ok(ExitCode::SUCCESS);
            }
        };
        if status.code() != Some(i32::from(RESTART)) {
            log::warn!("the agent has ended with {status} and is started again");
            thread::sleep(PAUSE);
        }
    }
}
