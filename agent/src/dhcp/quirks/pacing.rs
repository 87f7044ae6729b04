//! Which machines hang when files come as fast as the line carries them, and how fast they are sent to those.
//!
//! This is said over HTTP, where a machine is known by its address and by what asks for the file; what DHCP says of it is not.

use std::num::NonZeroU32;

use pureboot_protocol::Mac;
use serde::{Deserialize, Serialize};

use super::operator::OperatorQuirk;

const KIB: u32 = 1_024;
/// Below this an installer takes hours; above it no limit is felt.
const KIB_PER_S_MIN: u32 = 64;
const KIB_PER_S_MAX: u32 = 1 << 20;

/// A speed in KiB/s; 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Pace(u32);

/// A number is no speed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} KiB/s is no pace: give {KIB_PER_S_MIN} to {KIB_PER_S_MAX}, or 0 for as fast as the line is"
)]
pub struct PaceError(u32);

impl Pace {
    /// In bytes; none without a limit.
    pub fn bytes_per_s(self) -> Option<NonZeroU32> {
        NonZeroU32::new(self.0.saturating_mul(KIB))
    }
}

impl TryFrom<u32> for Pace {
    type Error = PaceError;

    fn try_from(kib_per_s: u32) -> Result<Self, PaceError> {
        let is_pace = kib_per_s == 0 || (KIB_PER_S_MIN..=KIB_PER_S_MAX).contains(&kib_per_s);
        is_pace.then_some(Self(kib_per_s)).ok_or(PaceError(kib_per_s))
    }
}

impl From<Pace> for u32 {
    fn from(pace: Pace) -> Self {
        pace.0
    }
}

/// A model that hangs.
#[derive(Debug)]
pub struct Paced {
    /// Which it is, for reports.
    pub name: &'static str,
    /// First bytes of the address.
    pub ouis: &'static [[u8; 3]],
    /// Beginning of what asks calls itself (`User-Agent`).
    pub user_agent_prefix: &'static str,
    /// How fast it is sent files.
    pub pace: Pace,
}

/// The table; the first row that matches counts, and what matches none has no limit.
pub const PACED: &[Paced] = &[
    // ipxe#1023, ipxe#1545: the driver has eight buffers, and stops for ever when more comes at once. Nobody knows from which speed
    // on; 10 Mbit/s was seen to work. Most of these cards have no such fault, so they are not sent that slow: bursts are short.
    Paced {
        name: "Broadcom bnxt under iPXE",
        ouis: &[
            [0x00, 0x0a, 0xf7],
            [0x00, 0x10, 0x18],
            [0x00, 0x62, 0x0b],
            [0x14, 0x23, 0xf2],
            [0x48, 0x57, 0xd2],
            [0x5c, 0x6f, 0x69],
            [0x70, 0xb7, 0xe4],
            [0x84, 0x16, 0x0c],
            [0x9c, 0x21, 0x83],
            [0xb0, 0x26, 0x28],
            [0xbc, 0x97, 0xe1],
            [0xe4, 0x3d, 0x1a],
        ],
        user_agent_prefix: "iPXE/",
        pace: Pace(4 * KIB),
    },
];

/// How fast a file is sent to a machine, if it is known, that asks for it as `user_agent`: what the operator says, else the table.
pub fn pace(quirks: &[OperatorQuirk], mac: Option<Mac>, user_agent: &str) -> Option<NonZeroU32> {
    let said = quirks.iter().find_map(|quirk| quirk.pace_for(mac, user_agent));
    let known = || {
        let is_of = |row: &&Paced| {
            let starts = |mac: Mac| row.ouis.iter().any(|oui| mac.as_bytes().starts_with(oui));
            mac.is_some_and(starts) && user_agent.starts_with(row.user_agent_prefix)
        };
        PACED.iter().find(is_of).map(|row| row.pace)
    };
    said.or_else(known)?.bytes_per_s()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::DhcpConfig;

    fn of(lines: &str, mac: &str, user_agent: &str) -> Option<u32> {
        let config: DhcpConfig = toml::from_str(lines).expect(lines);
        pace(&config.quirks, mac.parse().ok(), user_agent).map(|pace| pace.get() / KIB)
    }

    #[test]
    fn every_row_of_the_table_is_found_by_its_keys() {
        for row in PACED {
            for [a, b, c] in row.ouis {
                let mac = format!("{a:02x}:{b:02x}:{c:02x}:00:00:01");
                assert_eq!(of("", &mac, "iPXE/1.21.1+ (g5c49e)"), Some(row.pace.0), "{mac}");
                assert_eq!(of("", &mac, "Wget"), None, "its installer has another driver");
                assert_eq!(of("", &mac, ""), None);
            }
        }
        assert_eq!(of("", "52:54:00:00:00:01", "iPXE/1.21.1"), None);
        assert_eq!(of("", "behind a router", "iPXE/1.21.1"), None);
    }

    #[test]
    fn what_the_operator_says_counts_before_the_table() {
        let bnxt = "bc:97:e1:00:00:01";
        for (lines, mac, expected) in [
            ("oui = [\"bc:97:e1\"]\npace_kib_s = 1200", bnxt, Some(1_200)),
            ("oui = [\"bc:97:e1\"]\npace_kib_s = 0", bnxt, None),
            ("user_agent = \"iPXE/1.0\"\npace_kib_s = 64", bnxt, Some(4 * KIB)),
            ("user_agent = \"iPXE/1.21\"\npace_kib_s = 64", "52:54:00:00:00:01", Some(64)),
            ("user_agent = \"iPXE/1.21\"\npace_kib_s = 64", "behind a router", Some(64)),
            ("oui = [\"52:54:00\"]\npace_kib_s = 64", "behind a router", None),
            ("oui = [\"bc:97:e1\"]\nmode = \"direct\"", bnxt, Some(4 * KIB)),
        ] {
            assert_eq!(of(&format!("[[quirk]]\n{lines}"), mac, "iPXE/1.21.1"), expected, "{lines}");
        }
    }

    #[test]
    fn a_pace_that_no_boot_survives_is_refused() {
        for (kib_per_s, is_pace) in
            [(0, true), (1, false), (63, false), (64, true), (1 << 20, true), (u32::MAX, false)]
        {
            assert_eq!(Pace::try_from(kib_per_s).is_ok(), is_pace, "{kib_per_s}");
        }
        let error = toml::from_str::<DhcpConfig>("[[quirk]]\narch = [7]\npace_kib_s = 5");
        let error = error.expect_err("too slow").to_string();
        assert!(error.contains("5 KiB/s is no pace: give 64 to 1048576"), "{error}");
    }
}
