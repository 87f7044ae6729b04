//! What a boot session is made of, as it is kept in memory, in the journal and in answers.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::mode::Mode;
use crate::{BootId, HardwareFact, Mac, NodeEventKind, Timestamp};

/// How many steps of a session are its first ones, which are never folded; what is too much goes from behind them.
pub const STEPS_FIRST: usize = 16;
/// Where PXE clients ask a boot server for their file (PXE 2.1 §2.2.3).
pub const BOOT_SERVER_PORT: u16 = 4011;

/// One attempt of one machine to boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Session {
    /// Its id, which every URL of its scripts carries.
    pub id: BootId,
    /// The machine, once something has named it.
    pub mac: Option<Mac>,
    /// The machine's last known address.
    pub address: Option<IpAddr>,
    /// The first packet.
    pub started_at: Timestamp,
    /// How far it has come.
    pub reached: Phase,
    /// What its programs call themselves over HTTP (`User-Agent`), in the order in which they were first seen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub user_agents: Vec<Box<str>>,
    /// How many steps are missing from the middle of `steps`.
    pub steps_folded: u32,
    /// What was seen, in the order in which it began.
    pub steps: Vec<Step>,
}

impl Session {
    /// When something was last seen, in milliseconds since the start.
    pub fn last_ms(&self) -> u64 {
        self.steps.iter().map(Step::end_ms).max().unwrap_or(0)
    }
}

/// How far a machine has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It asks for an address and for what to load.
    Asking,
    /// It has a loader.
    Loader,
    /// It has the script that makes it ask what to boot.
    FirstScript,
    /// It has asked what to boot.
    Script,
    /// It has a file that its script names: a kernel, as a rule.
    Files,
    /// Its installer or its operating system has reported.
    CalledBack,
}

/// Something that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Step {
    /// Its number within the session, from 0; it stays when steps before it are folded.
    pub number: u32,
    /// When it began, in milliseconds since the session did.
    pub at_ms: u64,
    /// How long it took, once it is over; of one that was repeated, from the first time to the last.
    pub took_ms: Option<u64>,
    /// How often it was seen in a row.
    pub times: u32,
    /// What it was.
    #[serde(flatten)]
    pub what: What,
}

impl Step {
    fn end_ms(&self) -> u64 {
        self.at_ms.saturating_add(self.took_ms.unwrap_or(0))
    }
}

/// What a machine did, or was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum What {
    /// It asked by DHCP and was told what to load.
    Offered(Offer),
    /// It asked by DHCP, and the answer could not be sent.
    Unsent {
        /// Its transaction.
        xid: u32,
        /// What the system said.
        error: Box<str>,
    },
    /// It asked by DHCP and got no answer.
    Refused {
        /// Its transaction.
        xid: u32,
        /// The port on which it asked, 67 or 4011.
        port: u16,
        /// Why, as a sentence.
        reason: Box<str>,
    },
    /// It asked the server that leases addresses for one.
    Leased {
        /// Its transaction.
        xid: u32,
        /// The address, if it named one.
        wanted: Option<Ipv4Addr>,
    },
    /// It read a file, or reads it.
    Transfer(Transfer),
    /// It asked for a file that is not here.
    Missing {
        /// How.
        by: Protocol,
        /// What it asked for.
        name: Box<str>,
    },
    /// It asked what to boot.
    Script {
        /// What it was told; none before it was.
        answer: Option<Answer>,
    },
    /// Its installer or its operating system said how it goes.
    Reported {
        /// What happened.
        event: NodeEventKind,
        /// Per cent.
        progress: Option<u8>,
        /// A sentence of the reporter's.
        message: Option<HardwareFact>,
    },
}

/// What a machine was told by DHCP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Offer {
    /// Its transaction.
    pub xid: u32,
    /// The port on which it asked, 67 or 4011.
    pub port: u16,
    /// Its architecture, the code of option 93.
    pub arch: Option<u16>,
    /// What the file is.
    pub boots: Boots,
    /// The file or URL that it was told.
    pub file: Box<str>,
    /// What it was taken for, as a phrase.
    pub how: Box<str>,
}

/// What an offer leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Boots {
    /// A loader, to be fetched at once.
    Loader,
    /// A loader, for which the machine is to ask again on port 4011.
    LoaderByBootServer,
    /// The first script, because iPXE asks.
    Script,
    /// The first script, because the machine came back for the same loader again and again.
    ScriptByLoopGuard,
}

impl Boots {
    /// Whether it is the first script.
    pub fn is_script(self) -> bool {
        matches!(self, Self::Script | Self::ScriptByLoopGuard)
    }
}

/// How a machine reads a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TFTP.
    Tftp,
    /// HTTP.
    Http,
}

/// A file on its way to a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Transfer {
    /// How.
    pub by: Protocol,
    /// What the file is to the machine.
    pub role: Role,
    /// Its name.
    pub name: Box<str>,
    /// Its length in bytes, where that is known beforehand.
    pub size_bytes: Option<u64>,
    /// How many bytes of it the machine has taken.
    pub sent_bytes: u64,
    /// How it ended; none while it is under way.
    pub ending: Option<Ending>,
}

impl Transfer {
    /// A transfer that begins.
    pub fn new(by: Protocol, role: Role, name: &str, size_bytes: Option<u64>) -> Self {
        Self { by, role, name: name.into(), size_bytes, sent_bytes: 0, ending: None }
    }
}

/// What a file is to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// What firmware starts, or what that starts.
    Loader,
    /// The script that makes iPXE ask what to boot.
    FirstScript,
    /// What a script names: kernels, images.
    Content,
    /// What an installer reads instead of asking a person.
    Answers,
    /// The same, with its secrets hidden.
    AnswersHidden,
}

/// How a transfer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// With the last byte.
    Whole,
    /// With all that was asked for, which was not the end of the file.
    Part,
    /// The machine wanted to know the size.
    Probe,
    /// The machine broke it off.
    Cut,
    /// The machine fell silent.
    Silent,
    /// The agent could not read the file.
    Unread,
    /// It had to make room for another.
    Displaced,
    /// The agent was stopped.
    Stopped,
}

/// What a machine was told to boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Answer {
    /// What its script does.
    pub gives: Gives,
    /// How the site stood to its controller.
    pub mode: Mode,
    /// Why, as sentences.
    pub because: Box<str>,
}

/// What a script does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Gives {
    /// Starts an installer.
    Installer,
    /// Leaves the machine to its disk.
    Disk,
    /// Has it ask again later.
    Wait,
    /// Says what went wrong, and leaves the machine to its disk.
    Error,
}
