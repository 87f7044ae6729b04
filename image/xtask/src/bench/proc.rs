//! What the kernel says of a process.

use std::fs;

use anyhow::{Context, Result};

/// USER_HZ, which is 100 on every Linux that PureBoot runs on (proc(5)).
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time of the process and of its children that have ended, in seconds.
pub(super) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything; after it come fields 3 and on, of which 14 to 17 are the times.
    let (_, fields) = stat.rsplit_once(')').context("a stat line")?;
    let times = fields.split_whitespace().skip(11).take(4).map(str::parse::<f64>);
    Ok(times.sum::<Result<f64, _>>()? / TICKS_PER_SECOND)
}

/// A line of `/proc/<pid>/status`, such as `VmRSS`.
pub(super) fn status(pid: u32, name: &str) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line.with_context(|| format!("no {name} of {pid}"))?.trim().to_owned())
}

/// How many descriptors are open.
pub(super) fn descriptors(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}
