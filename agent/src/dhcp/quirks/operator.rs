//! What an operator knows about a machine or a model: `[[dhcp.quirk]]` in `agent.toml`.
//!
//! It counts before the table and before what machines have taught; the first entry that matches decides.

use std::fmt;
use std::str::FromStr;

use pureboot_protocol::Mac;
use serde::{Deserialize, Serialize};

use super::OfferMode;
use crate::dhcp::arch;
use crate::dhcp::loaders::LoaderFile;

/// How many entries are read; each is compared with each request.
pub const OPERATOR_QUIRKS_MAX: usize = 256;

/// The first three bytes of an address, written `b8:27:eb`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Oui([u8; 3]);

/// A text is not the beginning of an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not the first three bytes of an address (expected as in b8:27:eb)")]
pub struct OuiError(String);

impl FromStr for Oui {
    type Err = OuiError;

    fn from_str(text: &str) -> Result<Self, OuiError> {
        let error = || OuiError(text.chars().take(32).collect());
        let byte = |part: &str| match part.len() {
            2 => u8::from_str_radix(part, 16).map_err(|_| error()),
            _ => Err(error()),
        };
        let parts: Vec<_> = text.split([':', '-']).map(byte).collect::<Result<_, _>>()?;
        parts.try_into().map(Self).map_err(|_| error())
    }
}

impl TryFrom<String> for Oui {
    type Error = OuiError;

    fn try_from(text: String) -> Result<Self, OuiError> {
        text.parse()
    }
}

impl From<Oui> for String {
    fn from(oui: Oui) -> String {
        oui.to_string()
    }
}

impl fmt::Display for Oui {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}")
    }
}

/// One entry: which machines it is about, and what is done for them. An absent key matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorQuirk {
    /// Beginnings of addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub oui: Vec<Oui>,
    /// Beginning of the vendor class (option 60).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor_class: Option<String>,
    /// Architectures (option 93) as the machine says them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arch: Vec<u16>,
    /// The form of the offer; without it, the table's or the learned one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<OfferMode>,
    /// The loader; without it, that of the machine's architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<LoaderFile>,
    /// Silence, so that the machine boots its disk.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refuse: bool,
}

/// Why an entry cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperatorQuirkError {
    /// More than [`OPERATOR_QUIRKS_MAX`].
    #[error("there are more than {OPERATOR_QUIRKS_MAX} entries [[dhcp.quirk]]")]
    TooMany,
    /// It would be about every machine.
    #[error("entry {0} of [[dhcp.quirk]] matches every machine: give it oui, vendor_class or arch")]
    MatchesAll(usize),
    /// It does nothing.
    #[error("entry {0} of [[dhcp.quirk]] changes nothing: give it mode, file or refuse = true")]
    Idle(usize),
    /// Nothing is offered to these machines, in whatever form.
    #[error(
        "entry {number} of [[dhcp.quirk]] has no effect: there is no loader for architecture {}, so give it a file",
        codes.iter().map(u16::to_string).collect::<Vec<_>>().join(" or ")
    )]
    Unserved {
        /// The entry's place.
        number: usize,
        /// What it is about.
        codes: Vec<u16>,
    },
    /// It refuses and offers.
    #[error("entry {0} of [[dhcp.quirk]] has refuse = true, so mode and file mean nothing")]
    Contradiction(usize),
}

impl OperatorQuirk {
    /// Whether it is about a machine that says this of itself.
    pub fn matches(&self, mac: Mac, class: &[u8], codes: &[u16]) -> bool {
        let is_oui =
            self.oui.is_empty() || self.oui.iter().any(|oui| mac.as_bytes().starts_with(&oui.0));
        let is_class =
            self.vendor_class.as_ref().is_none_or(|prefix| class.starts_with(prefix.as_bytes()));
        let is_arch = self.arch.is_empty() || self.arch.iter().any(|code| codes.contains(code));
        is_oui && is_class && is_arch
    }

    /// Whether it is about architectures alone for which there is nothing to start.
    fn has_no_loader(&self) -> bool {
        let is_served =
            |code: &u16| arch::lookup(*code).is_some_and(|row| row.action != arch::Action::Refuse);
        !self.arch.is_empty() && !self.arch.iter().any(is_served)
    }

    fn check(&self, number: usize) -> Result<(), OperatorQuirkError> {
        let matches_all = self.oui.is_empty()
            && self.arch.is_empty()
            && self.vendor_class.as_ref().is_none_or(String::is_empty);
        let offers = self.mode.is_some() || self.file.is_some();
        match (matches_all, self.refuse, offers) {
            (true, _, _) => Err(OperatorQuirkError::MatchesAll(number)),
            (false, true, true) => Err(OperatorQuirkError::Contradiction(number)),
            (false, false, false) => Err(OperatorQuirkError::Idle(number)),
            (false, false, true) if self.file.is_none() && self.has_no_loader() => {
                Err(OperatorQuirkError::Unserved { number, codes: self.arch.clone() })
            }
            (false, true, false) | (false, false, true) => Ok(()),
        }
    }
}

/// Whether all entries can be meant.
///
/// # Errors
/// One cannot; it is named by its place, the first being 1.
pub fn check(quirks: &[OperatorQuirk]) -> Result<(), OperatorQuirkError> {
    if quirks.len() > OPERATOR_QUIRKS_MAX {
        return Err(OperatorQuirkError::TooMany);
    }
    (1..).zip(quirks).try_for_each(|(number, quirk)| quirk.check(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Section {
        quirk: Vec<OperatorQuirk>,
    }

    fn parse(lines: &str) -> Result<OperatorQuirk, String> {
        let section: Section =
            toml::from_str(&format!("[[quirk]]\n{lines}")).map_err(|error| error.to_string())?;
        check(&section.quirk).map_err(|error| error.to_string())?;
        section.quirk.into_iter().next().ok_or_else(|| "no entry".to_owned())
    }

    #[test]
    fn every_key_of_an_entry_must_match() {
        let quirk = parse(
            "oui = [\"02-00-00\", \"9c:B6:54\"]\nvendor_class = \"PXEClient:Arch:00007\"\narch = [7, 9]\nmode = \"boot_server\"",
        )
        .expect("an entry");
        let class = b"PXEClient:Arch:00007:UNDI:003016";
        for (mac, class, codes, is_match) in [
            ("9c:b6:54:00:00:01", &class[..], &[7][..], true),
            ("02:00:00:00:00:01", class, &[0, 9], true),
            ("9c:b6:55:00:00:01", class, &[7], false),
            ("9c:b6:54:00:00:01", b"PXEClient", &[7], false),
            ("9c:b6:54:00:00:01", class, &[0], false),
            ("9c:b6:54:00:00:01", class, &[], false),
        ] {
            let mac = mac.parse().expect("an address");
            assert_eq!(quirk.matches(mac, class, codes), is_match, "{mac} {codes:?}");
        }
    }

    #[test]
    fn an_entry_that_cannot_be_meant_is_refused_by_its_number() {
        for (lines, word) in [
            ("refuse = true", "entry 1 of [[dhcp.quirk]] matches every machine"),
            ("vendor_class = \"\"\nrefuse = true", "matches every machine"),
            ("arch = [7]", "changes nothing"),
            ("arch = [7]\nrefuse = true\nmode = \"direct\"", "mean nothing"),
            ("arch = [7]\nmode = \"both\"", "'both' is no mode: it is direct, boot_server or pi_menu"),
            ("arch = [2, 0x7fff]\nmode = \"direct\"", "entry 1 of [[dhcp.quirk]] has no effect: there is no loader for architecture 2 or 32767, so give it a file"),
            ("arch = [7]\nfile = \"../a\"", "file"),
            ("oui = [\"9c:b6\"]\nrefuse = true", "'9c:b6'"),
            ("oui = [\"9c:b6:5x\"]\nrefuse = true", "'9c:b6:5x'"),
            ("arch = [70000]\nrefuse = true", "70000"),
            ("mac = \"9c:b6:54:00:00:01\"\nrefuse = true", "mac"),
        ] {
            let error = parse(lines).expect_err(lines);
            assert!(error.contains(word), "{lines}: {error}");
        }
        let entry = parse("arch = [7]\nrefuse = true").expect("an entry");
        let many = vec![entry; OPERATOR_QUIRKS_MAX + 1];
        assert_eq!(check(&many), Err(OperatorQuirkError::TooMany));
    }
}
