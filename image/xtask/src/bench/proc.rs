//! What the kernel says of a process.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// USER_HZ, which is 100 on every Linux that PureBoot runs on (proc(5)).
const TICKS_PER_SECOND: f64 = 100.0;

/// Counts the processor time of a process and of all that it starts.
#[derive(Debug)]
pub(super) struct CpuMeter {
    pid: u32,
    group: Option<PathBuf>,
}

impl CpuMeter {
    /// Begins to count.
    ///
    /// In a control group of version 2 where one can be made. Without one, the time of children that end without being
    /// waited for is lost, and tftpd-hpa's do.
    pub(super) fn new(pid: u32) -> Self {
        Self { pid, group: make_group(pid).ok() }
    }

    /// Whether nothing is lost.
    pub(super) fn is_exact(&self) -> bool {
        self.group.is_some()
    }

    /// The process, and all that it has started where that is known.
    pub(super) fn pids(&self) -> Result<Vec<u32>> {
        let Some(group) = &self.group else { return Ok(vec![self.pid]) };
        let pids = fs::read_to_string(group.join("cgroup.procs"))?;
        Ok(pids.lines().map(str::parse).collect::<Result<_, _>>()?)
    }

    /// Processor time so far, in seconds.
    pub(super) fn seconds(&self) -> Result<f64> {
        let Some(group) = &self.group else { return cpu_seconds(self.pid) };
        let stat = fs::read_to_string(group.join("cpu.stat"))?;
        let used_us = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
        Ok(used_us.context("no usage_usec")?.parse::<f64>()? / 1e6)
    }
}

impl Drop for CpuMeter {
    fn drop(&mut self) {
        if let Some(group) = &self.group {
            // A group that still has a process stays; it is empty again when its server has ended.
            _ = fs::remove_dir(group);
        }
    }
}

fn make_group(pid: u32) -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    let mount =
        mounts.lines().find_map(|line| match line.split(' ').collect::<Vec<_>>().as_slice() {
            [_, mount, "cgroup2", ..] => Some((*mount).to_owned()),
            _ => None,
        });
    let mount = mount.context("no control groups of version 2")?;
    let group = PathBuf::from(mount).join(format!("pureboot-bench-{pid}"));
    fs::create_dir(&group)?;
    fs::write(group.join("cgroup.procs"), pid.to_string())?;
    Ok(group)
}

fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything; after it come fields 3 and on, of which 14 to 17 are the times of the
    // process and of its children.
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

/// A line of `/proc/<pid>/status` that counts kilobytes, in millions of bytes.
pub(super) fn megabytes(pid: u32, name: &str) -> Result<f64> {
    let text = status(pid, name)?;
    let kib = text.strip_suffix(" kB").with_context(|| format!("{name} is {text}"))?;
    Ok(kib.trim().parse::<f64>()? * 1_024.0 / 1e6)
}

/// Sets the peak of what is held (`VmHWM`) to what is held now (proc(5)).
pub(super) fn forget_peak(pid: u32) -> Result<()> {
    Ok(fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}

/// How often its threads have gone to sleep so far, and so how often they were woken.
pub(super) fn wakes(pid: u32) -> Result<u64> {
    let mut wakes = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("status"))?;
        let count = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        wakes += count.context("no voluntary_ctxt_switches")?.trim().parse::<u64>()?;
    }
    Ok(wakes)
}

/// What it has caused to be written to disks so far.
pub(super) fn written_bytes(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/io"))?;
    let count = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    Ok(count.context("no write_bytes")?.parse()?)
}
