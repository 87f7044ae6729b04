//! Processors and priorities, so that other work on the machine stays out of the figures. Needs root.

use std::fs;
use std::process::Stdio;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use pureboot_tests::process;

use super::proc::CpuMeter;

const SERVER_CPU: usize = 0;
const CLIENT_CPU: usize = 1;

fn pin(task: i32, cpus: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(task), &set)?)
}

/// Gives a server its processor.
pub(super) fn server(meter: &CpuMeter) -> Result<()> {
    for pid in meter.pids()? {
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let name = task?.file_name();
            pin(name.to_str().context("a number")?.parse()?, &[SERVER_CPU])?;
        }
    }
    Ok(())
}

/// Gives this program, which is the client, its processor and priority for a turn.
pub(super) fn client(is_with_server: bool, is_real_time: bool) {
    // Where this is not allowed, the notes say so.
    _ = pin(0, &[if is_with_server { SERVER_CPU } else { CLIENT_CPU }]);
    set_priority(std::process::id(), is_real_time);
}

/// What children of this program begin with.
pub(super) fn rest() {
    _ = pin(0, &[SERVER_CPU, CLIENT_CPU]);
    set_priority(std::process::id(), false);
}

/// Gives a server its priority for a turn: real time keeps other work out, but a server that spins would keep everybody out,
/// and some do on a bad path.
pub(super) fn schedule(meter: &CpuMeter, is_real_time: bool) {
    for pid in meter.pids().unwrap_or_default() {
        set_priority(pid, is_real_time);
    }
}

fn set_priority(pid: u32, is_real_time: bool) {
    let policy: &[&str] = if is_real_time { &["--rr"] } else { &["--other"] };
    let priority = if is_real_time { "1" } else { "0" };
    let Ok(mut command) = process::system("chrt") else { return };
    command.args(["--all-tasks"]).args(policy).args(["--pid", priority, &pid.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Where this is not allowed, the figures are noisier.
    _ = command.status();
}
