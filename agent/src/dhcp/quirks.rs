//! In which form firmware understands that a loader is offered: a table of models, and what individual machines have taught.
//!
//! PXE 2.1 gives a proxy two ways. In mode A option 43 tells the client to load the file of this very offer; in mode B it is
//! absent, and the client comes to port 4011 to ask for the file. Most firmware takes either; the rest is in [`QUIRKS`] or is
//! found out: a client that ignores one of the two twice gets the other from then on. What an operator [says](operator) counts
//! before both.

pub mod operator;
pub mod pacing;

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use pureboot_protocol::Mac;
use serde::{Deserialize, Serialize};

use super::arch::RASPBERRY_PI_OUIS;

/// How many machines' lessons are remembered; the oldest goes first.
pub const LESSONS_MAX: usize = 512;

/// How many offers may be waiting for what the machine does about them; the oldest goes first.
const WAITING_MAX: usize = 1_024;
/// A machine asks again at 0, 4, 12 and 28 s when it has ignored an offer. What comes sooner is the same question by two ways,
/// what comes later is a new start.
const ASKS_AGAIN_AFTER: Duration = Duration::from_secs(2);
const ASKS_AGAIN_WITHIN: Duration = Duration::from_secs(60);
/// How many ignored offers make a lesson.
const IGNORED_MAX: u8 = 2;

/// Option 43 for the boot ROM of a Raspberry Pi: a menu and its prompt (PXE 2.1 §2.2.2, tags 6, 10 and 9).
pub const PI_MENU: &[u8] = b"\x06\x01\x03\x0a\x04\x00PXE\x09\x14\x00\x00\x11Raspberry Pi Boot\xff";

/// The form of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum OfferMode {
    /// Mode A: option 43 says `PXE_DISCOVERY_CONTROL` = 8, "use the file of this offer".
    Direct,
    /// Mode B: no option 43; the client asks again at port 4011.
    BootServer,
    /// Option 43 is a boot menu with the one entry that the ROM of a Raspberry Pi looks for.
    PiMenu,
}

/// A text is no form of an offer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no mode: it is direct, boot_server or pi_menu")]
pub struct OfferModeError(String);

impl TryFrom<String> for OfferMode {
    type Error = OfferModeError;

    fn try_from(text: String) -> Result<Self, OfferModeError> {
        let mut modes = [Self::Direct, Self::BootServer, Self::PiMenu].into_iter();
        modes
            .find(|mode| mode.as_str() == text)
            .ok_or_else(|| OfferModeError(text.chars().take(32).collect()))
    }
}

impl From<OfferMode> for String {
    fn from(mode: OfferMode) -> Self {
        mode.as_str().to_owned()
    }
}

impl OfferMode {
    /// Its name in settings and files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::BootServer => "boot_server",
            Self::PiMenu => "pi_menu",
        }
    }

    /// The value of option 43; none where it is absent.
    pub fn vendor_options(self) -> Option<&'static [u8]> {
        match self {
            Self::Direct => Some(&[6, 1, 8, 0xff]),
            Self::BootServer => None,
            Self::PiMenu => Some(PI_MENU),
        }
    }

    /// What to try with a machine that ignores this form; none for the menu, which no other firmware takes.
    pub fn alternative(self) -> Option<Self> {
        match self {
            Self::Direct => Some(Self::BootServer),
            Self::BootServer => Some(Self::Direct),
            Self::PiMenu => None,
        }
    }
}

/// A model of firmware and the offer that it understands. An empty key matches everything.
#[derive(Debug)]
pub struct Quirk {
    /// Whose firmware it is, for reports.
    pub name: &'static str,
    /// First bytes of the address.
    pub ouis: &'static [[u8; 3]],
    /// Beginning of the vendor class (option 60).
    pub class_prefix: &'static [u8],
    /// Architectures (option 93); a request without one matches only the empty list.
    pub codes: &'static [u16],
    /// The form to use.
    pub mode: OfferMode,
}

impl Quirk {
    fn matches(&self, mac: Mac, class: &[u8], code: Option<u16>) -> bool {
        let is_oui =
            self.ouis.is_empty() || self.ouis.iter().any(|oui| mac.as_bytes().starts_with(oui));
        let is_code = self.codes.is_empty() || code.is_some_and(|code| self.codes.contains(&code));
        is_oui && is_code && class.starts_with(self.class_prefix)
    }
}

/// The table; the first row that matches counts, and what matches none gets [`OfferMode::Direct`].
pub const QUIRKS: &[Quirk] = &[
    Quirk {
        name: "Raspberry Pi boot ROM",
        ouis: &RASPBERRY_PI_OUIS,
        class_prefix: b"PXEClient",
        codes: &[0x00],
        mode: OfferMode::PiMenu,
    },
    Quirk {
        name: "Raspberry Pi rpiboot",
        ouis: &[],
        class_prefix: b"PXEClient",
        codes: &[0x29],
        mode: OfferMode::PiMenu,
    },
    // U-Boot reads no option 43 and knows no port 4011.
    Quirk {
        name: "U-Boot",
        ouis: &[],
        class_prefix: b"U-Boot",
        codes: &[],
        mode: OfferMode::Direct,
    },
    // netboot#43: UEFI of Gen9 ignores an offer with option 43 (PXE-E18).
    Quirk {
        name: "HPE UEFI",
        ouis: &[
            [0x9c, 0xb6, 0x54],
            [0x3c, 0xa8, 0x2a],
            [0x94, 0x57, 0xa5],
            [0x5c, 0xb9, 0x01],
            [0x94, 0x18, 0x82],
            [0x14, 0x02, 0xec],
            [0x1c, 0x98, 0xec],
            [0x70, 0x10, 0x6f],
            [0xec, 0xb1, 0xd7],
        ],
        class_prefix: b"PXEClient",
        codes: &[0x07, 0x09],
        mode: OfferMode::BootServer,
    },
    // bootimus#51.
    Quirk {
        name: "Supermicro UEFI",
        ouis: &[
            [0x00, 0x25, 0x90],
            [0x00, 0x30, 0x48],
            [0x0c, 0xc4, 0x7a],
            [0x3c, 0xec, 0xef],
            [0xac, 0x1f, 0x6b],
        ],
        class_prefix: b"PXEClient",
        codes: &[0x07, 0x09],
        mode: OfferMode::BootServer,
    },
];

/// The row for a machine.
pub fn find(mac: Mac, class: &[u8], code: Option<u16>) -> Option<&'static Quirk> {
    QUIRKS.iter().find(|quirk| quirk.matches(mac, class, code))
}

/// What one machine has taught: that it needs another form of offer than the table says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lesson {
    /// The machine.
    pub mac: Mac,
    /// The form that it gets from now on.
    pub mode: OfferMode,
    /// What became of that.
    pub proof: Proof,
}

impl fmt::Display for Lesson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mac, mode, proof } = self;
        let form = match mode {
            OfferMode::Direct => "with option 43 (the file of this offer)",
            OfferMode::BootServer => "without option 43 (the file is asked for at port 4011)",
            OfferMode::PiMenu => "with the menu of a Raspberry Pi",
        };
        match proof {
            Proof::Untried => {
                write!(f, "{mac} ignored two offers and gets them {form} from now on")
            }
            Proof::Worked => write!(f, "{mac} boots by offers {form}"),
            Proof::BothIgnored => write!(
                f,
                "{mac} ignores offers in both forms and gets them {form} again; does anybody lease it an address?"
            ),
        }
    }
}

/// What became of the form that a machine gets since it ignored another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// Nothing yet.
    Untried,
    /// The machine went on to load something.
    Worked,
    /// It ignored this form as well, so it gets the table's again.
    BothIgnored,
}

/// What a machine was seen doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// It sent a DISCOVER.
    Asked,
    /// It was offered a loader.
    Offered(OfferMode),
    /// It sent a REQUEST to the server that leases addresses, so it is content with the offers that it has.
    Leased,
    /// It did what an offer is for: it came to port 4011, fetched a file by TFTP or HTTP, or runs the loader.
    WentOn,
}

/// An offer that nothing has followed yet.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    mode: OfferMode,
    since: Instant,
    ignored: u8,
    /// Whether the machine has asked for its lease since.
    is_leased: bool,
}

/// Which machines need another form of offer than the table says.
#[derive(Debug, Default)]
pub struct Learned {
    waiting: BTreeMap<Mac, Waiting>,
    /// With the number of the lesson, by which the oldest is found.
    lessons: BTreeMap<Mac, (u64, Lesson)>,
    next_number: u64,
}

impl Learned {
    /// What was learned before, oldest first.
    pub fn restore(lessons: impl IntoIterator<Item = Lesson>) -> Self {
        let mut learned = Self::default();
        for lesson in lessons {
            learned.insert(lesson);
        }
        learned
    }

    /// The form that a machine has taught.
    pub fn mode(&self, mac: Mac) -> Option<OfferMode> {
        self.lessons.get(&mac).map(|(_, lesson)| lesson.mode)
    }

    /// Takes over what a machine was seen doing; answers the lesson if that made or confirmed one.
    pub fn learn(&mut self, mac: Mac, sight: Sight, now: Instant) -> Option<Lesson> {
        match sight {
            Sight::Asked => self.learn_asked(mac, now),
            Sight::Offered(mode) => {
                self.learn_offered(mac, mode, now);
                None
            }
            Sight::Leased => {
                if let Some(waiting) = self.waiting.get_mut(&mac) {
                    waiting.is_leased = true;
                }
                None
            }
            Sight::WentOn => self.learn_went_on(mac, now),
        }
    }

    fn learn_asked(&mut self, mac: Mac, now: Instant) -> Option<Lesson> {
        let waiting = self.waiting.get_mut(&mac)?;
        let elapsed = now.saturating_duration_since(waiting.since);
        if elapsed > ASKS_AGAIN_WITHIN {
            self.waiting.remove(&mac);
            return None;
        }
        // Whether mode B has worked is seen at port 4011, not by the lease.
        if waiting.is_leased && waiting.mode == OfferMode::Direct {
            self.waiting.remove(&mac);
            return None;
        }
        if elapsed < ASKS_AGAIN_AFTER {
            return None;
        }
        waiting.ignored = waiting.ignored.saturating_add(1);
        if waiting.ignored < IGNORED_MAX {
            return None;
        }
        let ignored = waiting.mode;
        self.waiting.remove(&mac);
        let proof = match self.lessons.get(&mac) {
            None => Proof::Untried,
            Some((_, lesson)) if lesson.proof == Proof::Untried => Proof::BothIgnored,
            // What has worked once, or is hopeless, is not given up for a network that leases no addresses today.
            Some(_) => return None,
        };
        let lesson = Lesson { mac, mode: ignored.alternative()?, proof };
        self.insert(lesson);
        Some(lesson)
    }

    fn learn_offered(&mut self, mac: Mac, mode: OfferMode, now: Instant) {
        match self.waiting.get_mut(&mac) {
            Some(waiting) if waiting.mode == mode => {
                // An answer to the same question by another way does not postpone the next one.
                if now.saturating_duration_since(waiting.since) >= ASKS_AGAIN_AFTER {
                    waiting.since = now;
                }
            }
            _ => {
                if self.waiting.len() >= WAITING_MAX {
                    let oldest = self.waiting.iter().min_by_key(|(_, waiting)| waiting.since);
                    if let Some(mac) = oldest.map(|(mac, _)| *mac) {
                        self.waiting.remove(&mac);
                    }
                }
                let waiting = Waiting { mode, since: now, ignored: 0, is_leased: false };
                self.waiting.insert(mac, waiting);
            }
        }
    }

    fn learn_went_on(&mut self, mac: Mac, now: Instant) -> Option<Lesson> {
        let waiting = self.waiting.remove(&mac)?;
        let is_soon = now.saturating_duration_since(waiting.since) <= ASKS_AGAIN_WITHIN;
        let (_, lesson) = self.lessons.get_mut(&mac)?;
        if waiting.mode != lesson.mode || !is_soon || lesson.proof == Proof::Worked {
            return None;
        }
        lesson.proof = Proof::Worked;
        Some(*lesson)
    }

    fn insert(&mut self, lesson: Lesson) {
        self.lessons.insert(lesson.mac, (self.next_number, lesson));
        self.next_number += 1;
        if self.lessons.len() > LESSONS_MAX {
            let oldest = self.lessons.iter().min_by_key(|(_, (number, _))| *number);
            if let Some(mac) = oldest.map(|(mac, _)| *mac) {
                self.lessons.remove(&mac);
            }
        }
    }
}

#[cfg(test)]
mod tests;
