//! What the system says of this process, by the names that dashboards know.

use std::fs;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Registers what can be found out; without `/proc`, nothing.
pub(super) fn register(registry: &mut Registry) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(bytes) = resident_bytes(&status) {
        let help = "Memory that is resident";
        registry.register_with_unit("process_resident_memory", help, Unit::Bytes, gauge(bytes));
    }
    if let Some(threads) = field(&status, "Threads:") {
        registry.register("process_threads", "Threads", gauge(threads));
    }
    // One of them is the directory that is being read.
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        let open = u64::try_from(entries.count().saturating_sub(1)).unwrap_or(u64::MAX);
        registry.register("process_open_fds", "File descriptors in use", gauge(open));
    }
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    if let Some(max) = fds_max(&limits) {
        registry.register("process_max_fds", "File descriptors that there may be", gauge(max));
    }
}

fn gauge(value: u64) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    gauge
}

/// The first number behind `name` in a text of `/proc`.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

fn resident_bytes(status: &str) -> Option<u64> {
    field(status, "VmRSS:")?.checked_mul(1_024)
}

fn fds_max(limits: &str) -> Option<u64> {
    field(limits, "Max open files")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_read_in_bytes_and_pieces() {
        let status = "Name:\tpureboot\nVmRSS:\t   13704 kB\nThreads:\t7\n";
        assert_eq!(resident_bytes(status), Some(13_704 * 1_024));
        assert_eq!(field(status, "Threads:"), Some(7));
        let limits =
            "Limit    Soft Limit  Hard Limit  Units\nMax open files    1024    524288    files\n";
        assert_eq!(fds_max(limits), Some(1_024));
        assert_eq!(fds_max("Max open files  unlimited  unlimited  files\n"), None);
        assert_eq!(resident_bytes(""), None);
    }
}
