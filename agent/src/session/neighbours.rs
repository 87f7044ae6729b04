//! Whose address it is: the system's table of neighbours.
#![expect(clippy::disallowed_methods, reason = "shell: reads the clock")]

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use pureboot_protocol::Mac;

/// Made by the kernel while it is read, from memory.
const TABLE: &str = "/proc/net/arp";

/// For how long the table is believed: a thousand machines may ask in one moment, and each reading takes all of it.
const LIFETIME: Duration = Duration::from_millis(500);

/// The neighbours as they were a moment ago.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    read_at: Option<Instant>,
    known: HashMap<Ipv4Addr, Mac>,
}

impl Neighbours {
    /// The machine that has `address`; none behind a router, or where the kernel has no such table.
    pub(super) fn mac_of(&mut self, address: IpAddr) -> Option<Mac> {
        let IpAddr::V4(address) = address.to_canonical() else { return None };
        if address.is_loopback() {
            return None;
        }
        let now = Instant::now();
        let is_fresh = |read_at| now.saturating_duration_since(read_at) < LIFETIME;
        if !self.read_at.is_some_and(is_fresh) {
            self.read_at = Some(now);
            self.known = parse(&fs::read_to_string(TABLE).unwrap_or_default());
        }
        self.known.get(&address).copied()
    }
}

/// Reads lines of `address type flags hardware-address mask device`; one that is not complete has an address of zeros.
fn parse(table: &str) -> HashMap<Ipv4Addr, Mac> {
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        let address = words.next()?.parse().ok()?;
        let mac = words.nth(2)?.parse().ok()?;
        Some((address, mac))
    };
    table.lines().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_who_has_an_address() {
        let table = "\
IP address       HW type     Flags       HW address            Mask     Device
10.73.0.50       0x1         0x2         52:54:00:12:34:56     *        lan
10.73.0.51       0x1         0x0         00:00:00:00:00:00     *        lan
garbage
10.73.0.52
";
        let known = parse(table);
        let mac: Mac = "52:54:00:12:34:56".parse().unwrap();
        assert_eq!(known, HashMap::from([(Ipv4Addr::new(10, 73, 0, 50), mac)]));
    }
}
