//! What this host tells of itself: `/proc`, `/sys`, `statvfs` and the sockets that can be bound. Blocks; the shell of
//! [`super::ports`] and [`super::host`].

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::statvfs::{FsFlags, statvfs};

use super::host::{Disk, Interface};
use super::ports::{Bound, Holder, Transport, Wanted, parse};
use crate::store;

/// How many processes are looked at for the holder of a port.
const PROCESSES_MAX: usize = 8_192;
/// How many open files of each.
const FILES_MAX: usize = 4_096;

/// Programs that set the clock, as `/proc/<pid>/comm` cuts their names.
const KEEPERS: [&str; 6] =
    ["chronyd", "ntpd", "systemd-timesyn", "openntpd", "ntpd-rs-daemon", "ptp4l"];

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().map_while(Result::ok);
    entries.take(PROCESSES_MAX).filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn name_of(pid: u32) -> String {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    comm.trim().to_owned()
}

/// Who has the sockets that leave no room for `wanted`; empty where this user may not see it.
pub(super) fn holders(wanted: &Wanted) -> Vec<Holder> {
    let files: [&str; 2] = match wanted.transport {
        Transport::Udp => ["/proc/net/udp", "/proc/net/udp6"],
        Transport::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
    };
    let read = |path| parse(&fs::read_to_string(path).unwrap_or_default(), wanted.transport);
    let sockets: Vec<String> = files
        .into_iter()
        .flat_map(read)
        .filter(|bound: &Bound| wanted.collides(bound))
        .map(|bound| format!("socket:[{}]", bound.inode))
        .collect();
    if sockets.is_empty() {
        return Vec::new();
    }
    let holds = |pid: &u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
        files.map_while(Result::ok).take(FILES_MAX).any(|file| {
            let target = fs::read_link(file.path()).unwrap_or_default();
            sockets.iter().any(|socket| target == Path::new(socket))
        })
    };
    processes().filter(holds).map(|pid| Holder { pid, name: name_of(pid) }).collect()
}

/// Whether the port can be bound now; it is let go of at once.
pub(super) fn try_bind(wanted: &Wanted) -> Result<(), io::ErrorKind> {
    match wanted.transport {
        Transport::Udp => UdpSocket::bind(wanted.address).map(|_| ()),
        Transport::Tcp => TcpListener::bind(wanted.address).map(|_| ()),
    }
    .map_err(|error| error.kind())
}

/// The text of `/proc/self/status`.
pub(super) fn own_status() -> String {
    fs::read_to_string("/proc/self/status").unwrap_or_default()
}

/// The lowest port that everybody may bind.
pub(super) fn unprivileged_from() -> u16 {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1_024)
}

/// Who sets the clock.
pub(super) fn clock_keeper() -> Option<String> {
    if Path::new("/run/systemd/timesync/synchronized").exists() {
        return Some("systemd-timesyncd".to_owned());
    }
    processes().map(name_of).find(|name| KEEPERS.contains(&name.as_str()))
}

/// The file system under the data directory.
pub(super) fn disk(path: &Path) -> io::Result<Disk> {
    let stat = statvfs(path)?;
    let block = stat.fragment_size();
    let used = stat.blocks().saturating_sub(stat.blocks_free());
    let usable = used.saturating_add(stat.blocks_available());
    Ok(Disk {
        usable_bytes: usable.saturating_mul(block),
        free_bytes: stat.blocks_available().saturating_mul(block),
        inodes: stat.files(),
        free_inodes: stat.files_available(),
        is_read_only: stat.flags().contains(FsFlags::ST_RDONLY),
        is_volatile: store::is_volatile(path),
    })
}

/// The interfaces that are up and not the loopback.
pub(super) fn interfaces() -> Vec<Interface> {
    let mut found = BTreeMap::<String, Vec<(Ipv4Addr, Ipv4Addr)>>::new();
    for entry in getifaddrs().into_iter().flatten() {
        let is_up = entry.flags.contains(InterfaceFlags::IFF_UP);
        if !is_up || entry.flags.contains(InterfaceFlags::IFF_LOOPBACK) {
            continue;
        }
        let addresses = found.entry(entry.interface_name).or_default();
        let address = entry.address.as_ref().and_then(|address| address.as_sockaddr_in());
        let mask = entry.netmask.as_ref().and_then(|mask| mask.as_sockaddr_in());
        if let Some(address) = address {
            let mask = mask.map_or(Ipv4Addr::BROADCAST, |mask| mask.ip());
            addresses.push((address.ip(), mask));
        }
    }
    let mtu = |name: &str| {
        fs::read_to_string(format!("/sys/class/net/{name}/mtu")).ok()?.trim().parse().ok()
    };
    let interface = |(name, addresses): (String, _)| Interface { mtu: mtu(&name), name, addresses };
    found.into_iter().map(interface).collect()
}
