//! What an operator knows about a machine or a model: `[[dhcp.quirk]]` in `agent.toml`.
//!
//! It counts before the table and before what machines have taught; the first entry that matches decides.

use std::fmt;
use std::str::FromStr;

use pureboot_protocol::Mac;
use serde::{Deserialize, Serialize};

use super::OfferMode;
use super::pacing::Pace;
use crate::dhcp::arch;
use crate::dhcp::loaders::LoaderFile;
use crate::dhcp::packet::user_classes;

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
    /// Beginning of the user class (option 77), or of one of those that it is made of (RFC 3004).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_class: Option<String>,
    /// Beginning of what one of its programs calls itself over HTTP (`User-Agent`), as it was last heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// Architectures (option 93) as the machine says them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arch: Vec<u16>,
    /// The form of the offer; without it, the table's or the learned one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<OfferMode>,
    /// The loader; without it, that of the machine's architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<LoaderFile>,
    /// How fast files are sent to it over HTTP, in KiB/s; 0 is as fast as the line is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pace_kib_s: Option<Pace>,
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
    #[error(
        "entry {0} of [[dhcp.quirk]] matches every machine: give it oui, vendor_class, user_class, user_agent or arch"
    )]
    MatchesAll(usize),
    /// It does nothing.
    #[error(
        "entry {0} of [[dhcp.quirk]] changes nothing: give it mode, file, pace_kib_s or refuse = true"
    )]
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
    /// It sets a pace for machines that are not known over HTTP.
    #[error(
        "entry {0} of [[dhcp.quirk]] has pace_kib_s, which is for HTTP, where nobody says vendor_class, user_class or arch: give it oui or user_agent alone"
    )]
    UnknownByHttp(usize),
    /// It refuses and offers.
    #[error(
        "entry {0} of [[dhcp.quirk]] has refuse = true, so mode, file and pace_kib_s mean nothing"
    )]
    Contradiction(usize),
}

/// What is known of a machine that asks by DHCP.
#[derive(Debug, Clone, Copy)]
pub struct Traits<'a> {
    /// Its address.
    pub mac: Mac,
    /// Option 60.
    pub class: &'a [u8],
    /// Option 77 as it came.
    pub user_class: &'a [u8],
    /// Option 93.
    pub codes: &'a [u16],
    /// What its programs have called themselves over HTTP.
    pub user_agents: &'a [Box<str>],
}

impl OperatorQuirk {
    /// Whether it is about a machine that says this of itself.
    pub fn matches(&self, traits: &Traits<'_>) -> bool {
        let Traits { mac, class, user_class, codes, user_agents } = traits;
        let is_class =
            self.vendor_class.as_ref().is_none_or(|prefix| class.starts_with(prefix.as_bytes()));
        let is_user_class = self.user_class.as_ref().is_none_or(|prefix| {
            user_classes(user_class).iter().any(|class| class.starts_with(prefix.as_bytes()))
        });
        let is_arch = self.arch.is_empty() || self.arch.iter().any(|code| codes.contains(code));
        self.is_of(Some(*mac)) && is_class && is_user_class && is_arch && self.is_said(user_agents)
    }

    /// The file that an iPXE is to load before anything else which asks for its first script and calls itself `user_agent`.
    pub fn loader_for(&self, mac: Option<Mac>, user_agent: &str) -> Option<&LoaderFile> {
        let is_meant = self.user_agent.is_some() && self.is_about_http(mac, user_agent);
        self.file.as_ref().filter(|_| is_meant)
    }

    /// How fast a file is sent to a machine, if it is known, that asks for it as `user_agent`.
    pub fn pace_for(&self, mac: Option<Mac>, user_agent: &str) -> Option<Pace> {
        self.pace_kib_s.filter(|_| self.is_about_http(mac, user_agent))
    }

    /// Whether it says anything about what is offered by DHCP.
    pub fn is_about_offers(&self) -> bool {
        self.mode.is_some() || self.file.is_some() || self.refuse
    }

    fn is_about_http(&self, mac: Option<Mac>, user_agent: &str) -> bool {
        !self.has_keys_of_dhcp() && self.is_of(mac) && self.is_said(&[user_agent.into()])
    }

    /// Whether it is about what is said by DHCP, which nobody says over HTTP.
    fn has_keys_of_dhcp(&self) -> bool {
        self.vendor_class.is_some() || self.user_class.is_some() || !self.arch.is_empty()
    }

    fn is_of(&self, mac: Option<Mac>) -> bool {
        let starts = |oui: &Oui| mac.is_some_and(|mac| mac.as_bytes().starts_with(&oui.0));
        self.oui.is_empty() || self.oui.iter().any(starts)
    }

    fn is_said(&self, user_agents: &[Box<str>]) -> bool {
        let is_said =
            |prefix: &String| user_agents.iter().any(|it| it.starts_with(prefix.as_str()));
        self.user_agent.as_ref().is_none_or(is_said)
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
            && [&self.vendor_class, &self.user_class, &self.user_agent]
                .into_iter()
                .all(|prefix| prefix.as_ref().is_none_or(String::is_empty));
        let offers = self.mode.is_some() || self.file.is_some() || self.pace_kib_s.is_some();
        match (matches_all, self.refuse, offers) {
            (true, _, _) => Err(OperatorQuirkError::MatchesAll(number)),
            (false, true, true) => Err(OperatorQuirkError::Contradiction(number)),
            (false, false, false) => Err(OperatorQuirkError::Idle(number)),
            (false, false, true) if self.pace_kib_s.is_some() && self.has_keys_of_dhcp() => {
                Err(OperatorQuirkError::UnknownByHttp(number))
            }
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
            let traits = Traits { mac, class, codes, user_class: b"", user_agents: &[] };
            assert_eq!(quirk.matches(&traits), is_match, "{mac} {codes:?}");
        }
    }

    #[test]
    fn a_user_class_is_found_raw_and_with_lengths_and_a_user_agent_among_all_that_were_heard() {
        let agents = ["UefiHttpBoot/1.0".into(), "iPXE/1.0.0+ (09c5)".into()];
        let traits = |user_class: &'static [u8]| Traits {
            mac: "9c:b6:54:00:00:01".parse().expect("an address"),
            class: b"PXEClient",
            user_class,
            codes: &[7],
            user_agents: &agents,
        };
        for (lines, user_class, is_match) in [
            ("user_class = \"acme\"", &b"acme-rack"[..], true),
            ("user_class = \"acme\"", b"\x03foo\x09acme-rack", true),
            ("user_class = \"acme\"", b"\x09acme-rack", true),
            ("user_class = \"acme\"", b"xacme", false),
            ("user_class = \"acme\"", b"", false),
            ("user_agent = \"iPXE/1.0.0\"", b"", true),
            ("user_agent = \"UefiHttpBoot\"", b"", true),
            ("user_agent = \"PXE/1.0.0\"", b"", false),
            ("user_agent = \"iPXE/1.0.0\"\narch = [9]", b"", false),
        ] {
            let quirk = parse(&format!("{lines}\nrefuse = true")).expect(lines);
            assert_eq!(quirk.matches(&traits(user_class)), is_match, "{lines} {user_class:?}");
        }
    }

    #[test]
    fn a_loader_goes_before_the_script_of_an_ipxe_that_is_named_by_its_user_agent_alone() {
        let mac = "9c:b6:54:00:00:01".parse().ok();
        for (lines, mac, is_meant) in [
            ("user_agent = \"iPXE/1.0\"", None, true),
            ("user_agent = \"iPXE/1.0\"\noui = [\"9c:b6:54\"]", mac, true),
            ("user_agent = \"iPXE/1.0\"\noui = [\"9c:b6:54\"]", None, false),
            ("user_agent = \"iPXE/1.2\"", mac, false),
            ("user_agent = \"iPXE/1.0\"\narch = [7]", mac, false),
            ("oui = [\"9c:b6:54\"]", mac, false),
        ] {
            let quirk = parse(&format!("{lines}\nfile = \"new.kpxe\"")).expect(lines);
            let file = quirk.loader_for(mac, "iPXE/1.0.0+").map(LoaderFile::as_str);
            assert_eq!(file, is_meant.then_some("new.kpxe"), "{lines}");
        }
    }

    #[test]
    fn an_entry_that_cannot_be_meant_is_refused_by_its_number() {
        for (lines, word) in [
            ("refuse = true", "entry 1 of [[dhcp.quirk]] matches every machine"),
            ("vendor_class = \"\"\nrefuse = true", "matches every machine"),
            ("arch = [7]", "changes nothing"),
            ("arch = [7]\nrefuse = true\nmode = \"direct\"", "mean nothing"),
            (
                "arch = [7]\nmode = \"both\"",
                "'both' is no mode: it is direct, boot_server or pi_menu",
            ),
            (
                "arch = [2, 0x7fff]\nmode = \"direct\"",
                "entry 1 of [[dhcp.quirk]] has no effect: there is no loader for architecture 2 or 32767, so give it a file",
            ),
            ("arch = [7]\npace_kib_s = 100", "give it oui or user_agent alone"),
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
