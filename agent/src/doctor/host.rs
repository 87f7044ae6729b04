//! The host under the agent: rights, clock, disk, interfaces. Pure: what was read comes in.

use std::net::Ipv4Addr;

use pureboot_protocol::Timestamp;

use super::finding::Finding;

const CAP_NET_BIND_SERVICE: u32 = 10;
const CAP_NET_RAW: u32 = 13;

/// 2025-01-01 and 2100-01-01 in seconds since 1970: outside of that a clock was never set.
const SANE_SECONDS: std::ops::Range<i64> = 1_735_689_600..4_102_444_800;
/// More than this from the controller's clock and times of changes are corrected by guesswork, in seconds.
const OFFSET_MAX_S: i64 = 60;

/// From here on a file system counts as nearly full, in percent.
const USAGE_MAX_PERCENT: u64 = 95;
/// Less than this and not even the database can grow, in bytes.
const FREE_MIN_BYTES: u64 = 16 << 20;
/// Fewer free inodes than this and the cache cannot take more files.
const FREE_MIN_INODES: u64 = 128;

/// What Ethernet carries, and what firmware expects.
const ETHERNET_MTU: u32 = 1_500;

/// Whether the user may bind low ports and speak on an interface of its choice; `status` is the text of `/proc/self/status`,
/// `unprivileged_from` the lowest port that everybody may bind.
pub fn judge_rights(
    is_root: bool,
    status: &str,
    unprivileged_from: u16,
    lowest_port: u16,
    needs_device: bool,
) -> Finding {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    let Some(effective) = effective else {
        return Finding::skipped("rights", "/proc/self/status does not tell them");
    };
    let has = |capability: u32| effective >> capability & 1 == 1;
    let mut missing = Vec::new();
    if lowest_port < unprivileged_from && !has(CAP_NET_BIND_SERVICE) {
        missing.push("CAP_NET_BIND_SERVICE");
    }
    if needs_device && !has(CAP_NET_RAW) {
        missing.push("CAP_NET_RAW");
    }
    let who = if is_root { "root" } else { "this user" };
    if missing.is_empty() {
        return Finding::ok("rights", format!("{who} may bind what agent.toml asks for"));
    }
    Finding::warn("rights", format!("{who} lacks {}", missing.join(" and ")))
        .cure("start the agent as root or with these capabilities (systemd: AmbientCapabilities=)")
}

/// Whether the clock can be right: `keeper` is who sets it, `offset_s` how far it is ahead of the controller's.
pub fn judge_clock(now: Timestamp, keeper: Option<&str>, offset_s: Option<i64>) -> Finding {
    let name = "clock";
    let seconds = now.unix_ms().div_euclid(1_000);
    let cure = "start an NTP client (systemd-timesyncd, chrony, busybox ntpd), and see to a battery for the clock";
    if !SANE_SECONDS.contains(&seconds) {
        return Finding::fail(name, format!("it shows {now}, which cannot be"))
            .because("certificates hold at no such time, and every record would be misdated")
            .cure(cure);
    }
    match (offset_s, keeper) {
        (Some(offset), _) if offset.abs() > OFFSET_MAX_S => {
            let side = if offset > 0 { "ahead of" } else { "behind" };
            Finding::warn(name, format!("{} s {side} the controller's", offset.abs()))
                .because("changes of this site count as not synced")
                .cure(cure)
        }
        (Some(offset), _) => Finding::ok(name, format!("{} s from the controller's", offset.abs())),
        (None, Some(keeper)) => Finding::ok(name, format!("kept by {keeper}")),
        (None, None) => Finding::warn(name, "nobody was found who sets it").cure(cure),
    }
}

/// The file system of the data directory, as `statvfs` tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Of all blocks that this user may fill.
    pub usable_bytes: u64,
    /// Of those that are free.
    pub free_bytes: u64,
    /// Files that it can hold; zero where it does not count them.
    pub inodes: u64,
    /// Files that it can still take.
    pub free_inodes: u64,
    /// Whether it is mounted read-only.
    pub is_read_only: bool,
    /// Whether it lies in memory.
    pub is_volatile: bool,
}

/// Whether the agent can keep what it must keep.
pub fn judge_disk(disk: &Disk) -> Finding {
    let name = "disk";
    let used = disk.usable_bytes.saturating_sub(disk.free_bytes);
    let percent = used.saturating_mul(100).checked_div(disk.usable_bytes).unwrap_or(0);
    let free = crate::status::size(disk.free_bytes);
    let room = "make room, or move the data directory to a larger disk";
    if disk.is_read_only {
        return Finding::fail(name, "the data directory is mounted read-only")
            .cure("mount it for writing; a disk that turned read-only by itself is failing");
    }
    if disk.free_bytes < FREE_MIN_BYTES {
        return Finding::fail(name, format!("{free} free: reports of machines are refused"))
            .cure(room);
    }
    if disk.inodes > 0 && disk.free_inodes < FREE_MIN_INODES {
        return Finding::fail(name, format!("{} more files fit", disk.free_inodes)).cure(room);
    }
    if disk.is_volatile {
        return Finding::warn(name, "the data directory lies in memory (tmpfs)")
            .because("what machines report is lost with the power")
            .cure("move it to a disk or flash (--data-dir)");
    }
    if percent >= USAGE_MAX_PERCENT {
        return Finding::warn(name, format!("{percent} % used, {free} free")).cure(room);
    }
    Finding::ok(name, format!("{percent} % used, {free} free"))
}

/// An interface that is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its addresses with their masks.
    pub addresses: Vec<(Ipv4Addr, Ipv4Addr)>,
    /// The longest packet that it carries, where that is known.
    pub mtu: Option<u32>,
}

/// The interfaces that machines are on: those of `named`, or all where none is.
pub fn judge_interfaces(interfaces: &[Interface], named: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let is_named = |name: &String| named.is_empty() || named.contains(name);
    for name in named {
        let found = interfaces.iter().find(|interface| interface.name == *name);
        let label = format!("interface {name}");
        match found {
            None => findings.push(
                Finding::fail(label, "it is not there, or down")
                    .cure("correct interfaces in [dhcp], or `ip link set` it up"),
            ),
            Some(found) if found.addresses.is_empty() => findings.push(
                Finding::fail(label, "it has no IPv4 address")
                    .cure("machines boot by IPv4: give it one"),
            ),
            Some(_) => {}
        }
    }
    for interface in interfaces.iter().filter(|interface| is_named(&interface.name)) {
        let label = format!("mtu {}", interface.name);
        match interface.mtu {
            Some(mtu) if mtu < ETHERNET_MTU => findings.push(
                Finding::warn(label, format!("it carries {mtu} bytes and firmware expects {ETHERNET_MTU}"))
                    .cure("full blocks of TFTP are lost where anything on the path carries less than its ends: set one MTU for all"),
            ),
            Some(mtu) if mtu > ETHERNET_MTU => findings.push(
                Finding::warn(label, format!("it carries {mtu} bytes, more than machines and switches may take"))
                    .cure(format!("`ip link set {} mtu {ETHERNET_MTU}` where machines boot", interface.name)),
            ),
            Some(mtu) => findings.push(Finding::ok(label, format!("{mtu} bytes"))),
            None => {}
        }
    }
    findings.extend(judge_subnets(interfaces));
    findings
}

/// Two interfaces in one network: answers may leave by the other one, and machines drop them.
fn judge_subnets(interfaces: &[Interface]) -> Vec<Finding> {
    let network = |(address, mask): &(Ipv4Addr, Ipv4Addr)| {
        (address.to_bits() & mask.to_bits(), mask.to_bits())
    };
    let mut findings = Vec::new();
    for (index, one) in interfaces.iter().enumerate() {
        for other in interfaces.iter().skip(index + 1) {
            let shared = one.addresses.iter().find(|ours| {
                other.addresses.iter().any(|theirs| {
                    let ((left, left_mask), (right, right_mask)) = (network(ours), network(theirs));
                    // Point-to-point links have no network to share.
                    let mask = left_mask & right_mask;
                    mask != u32::MAX && left & mask == right & mask
                })
            });
            if let Some((address, _)) = shared {
                findings.push(
                    Finding::warn(
                        "networks",
                        format!("{} and {} are in one network ({address})", one.name, other.name),
                    )
                    .because("an answer may leave by the other interface")
                    .cure("give each its own network, or join them in a bridge"),
                );
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Severity;

    fn status(capabilities: &str) -> String {
        format!("Name:\tpureboot\nCapInh:\t0000000000000000\nCapEff:\t{capabilities}\n")
    }

    #[test]
    fn rights_are_those_that_the_settings_need() {
        for (capabilities, from, lowest, needs_device, missing) in [
            ("000001ffffffffff", 1_024, 67, true, None),
            ("0000000000000000", 1_024, 8_080, false, None),
            ("0000000000000000", 0, 69, false, None),
            ("0000000000000000", 1_024, 69, false, Some("CAP_NET_BIND_SERVICE")),
            ("0000000000000400", 1_024, 69, true, Some("lacks CAP_NET_RAW")),
            ("0000000000002400", 1_024, 67, true, None),
        ] {
            let finding = judge_rights(false, &status(capabilities), from, lowest, needs_device);
            match missing {
                None => assert_eq!(finding.severity, Severity::Ok, "{finding}"),
                Some(text) => assert!(finding.what.contains(text), "{finding}"),
            }
        }
        assert_eq!(judge_rights(true, "", 0, 69, true).severity, Severity::Skipped);
    }

    #[test]
    fn a_clock_is_sane_and_kept_or_told() {
        let now = Timestamp::from_unix_ms(1_795_000_000_000);
        for (now, keeper, offset, severity, word) in [
            (Timestamp::from_unix_ms(0), Some("chronyd"), None, Severity::Fail, "1970"),
            (Timestamp::from_unix_ms(4_200_000_000_000), None, None, Severity::Fail, "2103"),
            (now, None, Some(3), Severity::Ok, "3 s from"),
            (now, Some("chronyd"), Some(-3_600), Severity::Warn, "3600 s behind"),
            (now, None, Some(61), Severity::Warn, "61 s ahead of"),
            (now, Some("chronyd"), None, Severity::Ok, "chronyd"),
            (now, None, None, Severity::Warn, "nobody"),
        ] {
            let finding = judge_clock(now, keeper, offset);
            assert_eq!(finding.severity, severity, "{finding}");
            assert!(finding.what.contains(word), "{finding}");
        }
    }

    #[test]
    fn a_disk_that_cannot_keep_things_is_told() {
        let good = Disk {
            usable_bytes: 100 << 30,
            free_bytes: 50 << 30,
            inodes: 1_000_000,
            free_inodes: 500_000,
            is_read_only: false,
            is_volatile: false,
        };
        for (disk, severity, word) in [
            (good, Severity::Ok, "50 % used"),
            (Disk { inodes: 0, free_inodes: 0, ..good }, Severity::Ok, "50 %"),
            (Disk { free_bytes: 4 << 30, ..good }, Severity::Warn, "96 % used"),
            (Disk { is_volatile: true, ..good }, Severity::Warn, "in memory"),
            (Disk { free_bytes: 1 << 20, ..good }, Severity::Fail, "1.0 MB free"),
            (Disk { free_inodes: 3, ..good }, Severity::Fail, "3 more files"),
            (Disk { is_read_only: true, ..good }, Severity::Fail, "read-only"),
            (Disk { usable_bytes: 0, free_bytes: 0, ..good }, Severity::Fail, "0 B free"),
        ] {
            let finding = judge_disk(&disk);
            assert_eq!(finding.severity, severity, "{finding}");
            assert!(finding.what.contains(word), "{finding}");
        }
    }

    #[test]
    fn interfaces_are_judged_by_what_machines_need() {
        let interface = |name: &str, address: &str, prefix: u32, mtu| Interface {
            name: name.to_owned(),
            addresses: vec![(
                address.parse().expect("an address"),
                Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - prefix).unwrap_or(0)),
            )],
            mtu: Some(mtu),
        };
        let lines = |interfaces: &[Interface], named: &[&str]| {
            let named: Vec<_> = named.iter().map(|name| (*name).to_owned()).collect();
            judge_interfaces(interfaces, &named)
                .iter()
                .map(|finding| (finding.severity, format!("{}: {}", finding.name, finding.what)))
                .collect::<Vec<_>>()
        };
        let lan = interface("lan", "10.0.0.1", 24, 1_500);
        assert_eq!(
            lines(std::slice::from_ref(&lan), &["lan"]),
            [(Severity::Ok, "mtu lan: 1500 bytes".to_owned())]
        );
        assert_eq!(
            lines(&[lan.clone(), interface("wg0", "10.1.0.1", 24, 1_420)], &[]),
            [
                (Severity::Ok, "mtu lan: 1500 bytes".to_owned()),
                (
                    Severity::Warn,
                    "mtu wg0: it carries 1420 bytes and firmware expects 1500".to_owned()
                ),
            ]
        );
        let two = lines(&[lan.clone(), interface("eth1", "10.0.0.9", 16, 1_500)], &["lan"]);
        assert_eq!(
            two.last(),
            Some(&(
                Severity::Warn,
                "networks: lan and eth1 are in one network (10.0.0.1)".to_owned()
            ))
        );
        let host = interface("tun0", "10.0.0.1", 32, 1_500);
        assert_eq!(lines(&[host.clone(), host], &[]).len(), 2, "two ends of point-to-point links");
        assert_eq!(
            lines(&[Interface { addresses: vec![], ..lan }], &["lan", "br9"])[..2],
            [
                (Severity::Fail, "interface lan: it has no IPv4 address".to_owned()),
                (Severity::Fail, "interface br9: it is not there, or down".to_owned()),
            ]
        );
    }
}
