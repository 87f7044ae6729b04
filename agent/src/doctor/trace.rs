//! What was seen of one machine's boot, as the diagnosis reads it.
//!
//! Whoever keeps boots in another form turns them into these: that is the seam between the doctor and the rest.

use std::net::Ipv4Addr;

use pureboot_protocol::{Mac, Timestamp};
use serde::{Deserialize, Serialize};

use crate::dhcp::quirks::OfferMode;

/// One boot of one machine, in the order in which it was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// The machine.
    pub mac: Mac,
    /// What was seen and when, the earliest first.
    pub steps: Vec<(Timestamp, Step)>,
}

/// How a file is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// TFTP.
    Tftp,
    /// HTTP.
    Http,
}

/// One thing that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// Firmware was offered a loader on port 67.
    Offered {
        /// The file name or URL.
        file: String,
        /// The form; none over HTTP.
        mode: Option<OfferMode>,
    },
    /// iPXE was told where its script is.
    ScriptOffered,
    /// An answer could not be sent.
    Unsent {
        /// What the system said.
        error: String,
    },
    /// The machine got no answer, because there is nothing to start it with or nobody wants to.
    Refused {
        /// Why.
        reason: String,
    },
    /// The loop guard gave a machine that came back again and again the script in place of the loader.
    LoopBroken,
    /// The machine asked the server that leases addresses for one.
    LeaseAsked,
    /// Another server was heard to name a boot file.
    OtherServer {
        /// Its address.
        server: Ipv4Addr,
        /// What it names.
        file: String,
    },
    /// The machine asked for its file at port 4011.
    BootServerAsked {
        /// Whether it was answered.
        is_answered: bool,
    },
    /// The machine asked for the length of a file and hung up, as firmware does before it loads it.
    Probed {
        /// The name.
        file: String,
    },
    /// A file was sent whole.
    Fetched {
        /// The name or path.
        file: String,
        /// How.
        way: Way,
        /// Its length.
        size_bytes: u64,
        /// How long that took.
        duration_ms: u64,
        /// The agreed window of TFTP in blocks; none over HTTP.
        window: Option<u16>,
    },
    /// A transfer ended before the file did.
    Cut {
        /// The name or path.
        file: String,
        /// How.
        way: Way,
        /// What arrived.
        sent_bytes: u64,
        /// The agreed block of TFTP in bytes; none over HTTP.
        block_len: Option<u16>,
    },
    /// There is no such file.
    Missing {
        /// The name or path.
        file: String,
        /// How.
        way: Way,
        /// The length of the answer's body; TFTP has a message in place of one.
        body_len: u64,
    },
    /// The machine was asked to come back later (HTTP 503).
    Postponed {
        /// The path.
        file: String,
    },
    /// The machine was given a script.
    Scripted,
}
