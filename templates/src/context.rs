//! What scripts are filled in with.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::Serialize;

use pureboot_protocol::{BootId, CommandLine, ContentKey, Mac, Platform, SanSource};

/// Where machines reach this agent: `http://192.0.2.1:8080`, always an address and never a name, because a name needs a
/// resolver in the machine's lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct BaseUrl(String);

/// Why a text is not the address of an agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not where an agent is reached (http://192.0.2.1:8080, an address and a port and nothing behind)"
)]
pub struct BaseUrlError(String);

impl BaseUrl {
    /// The text, without a slash at its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<SocketAddr> for BaseUrl {
    fn from(address: SocketAddr) -> Self {
        // A scope id is this host's own name for a link and means nothing to the machine, so only address and port are taken.
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        Self(format!("http://{address}"))
    }
}

impl FromStr for BaseUrl {
    type Err = BaseUrlError;

    fn from_str(text: &str) -> Result<Self, BaseUrlError> {
        text.strip_prefix("http://")
            .and_then(|address| address.parse::<SocketAddr>().ok())
            .map(Self::from)
            .ok_or_else(|| BaseUrlError(text.chars().take(64).collect()))
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What every script says.
///
/// The texts may hold letters, digits, the space and `._:/-`; anything else is a [`RenderError`](crate::RenderError).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// Where the machine reached the agent; every URL of the script begins with it.
    pub base: BaseUrl,
    /// The boot session, named in every URL.
    pub session: BootId,
    /// What the machine runs on; where it is not known, the script finds out.
    pub platform: Option<Platform>,
    /// How the site stands to its controller, for people.
    pub mode: String,
    /// Why the machine gets this script, one sentence a line.
    pub reasons: Vec<String>,
}

/// A script and what only it says. The texts are limited as in [`Context`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Script {
    /// The first one: has the machine ask what it boots.
    Autoexec {
        /// What it starts before that; if it cannot, it asks nevertheless.
        loader: Option<ContentKey>,
    },
    /// The machine is not known and cannot be discovered now; it asks again, for a while.
    Unknown {
        /// The machine.
        mac: Mac,
    },
    /// The machine is listed, and nobody has a plan for it.
    Discovered {
        /// The machine.
        mac: Mac,
    },
    /// The machine starts the installer of its workflow.
    Install {
        /// The machine.
        mac: Mac,
        /// The workflow's name.
        workflow: String,
        /// The kernel.
        kernel: ContentKey,
        /// The initial RAM disks, loaded in this order.
        initrds: Vec<ContentKey>,
        /// What the kernel is told by the workflow.
        command_line: CommandLine,
        /// What the installer writes, where it is one that writes images.
        image: Option<DiskImage>,
    },
    /// The machine starts another loader.
    Chain {
        /// The machine.
        mac: Mac,
        /// The workflow's name.
        workflow: String,
        /// The loader.
        target: ContentKey,
    },
    /// The machine starts from a disk in the network.
    Sanboot {
        /// The machine.
        mac: Mac,
        /// The workflow's name.
        workflow: String,
        /// The disk.
        source: NetworkDisk,
        /// The number of its drive, as iPXE reads it.
        drive: String,
    },
    /// The machine is to be installed in a way that this agent does not know.
    Foreign {
        /// The machine.
        mac: Mac,
        /// The workflow's name.
        workflow: String,
        /// How it would be installed.
        method: String,
    },
    /// The machine is to be installed, and nobody said with what.
    Pending {
        /// The machine.
        mac: Mac,
    },
    /// The installer has been started before.
    Installing {
        /// The machine.
        mac: Mac,
    },
    /// The installer has given up too often.
    InstallFailed {
        /// The machine.
        mac: Mac,
    },
    /// The machine boots its disk.
    Local {
        /// The machine.
        mac: Mac,
    },
    /// The machine boots its disk, because site and controller disagree about it.
    Disputed {
        /// The machine.
        mac: Mac,
    },
    /// The machine is gone for good, and yet it asks.
    Retired {
        /// The machine.
        mac: Mac,
    },
    /// The machine is a node of another site and asks again, for a while: it waits for its move.
    Elsewhere {
        /// The machine.
        mac: Mac,
    },
    /// The machine is a node of another site and boots its disk, as one would that nobody knows.
    Guest {
        /// The machine.
        mac: Mac,
    },
    /// The machine is a node of another site, which this site does not serve.
    TurnedAway {
        /// The machine.
        mac: Mac,
    },
    /// The machine waits, and asks again.
    Hold {
        /// The machine.
        mac: Mac,
        /// For how many seconds.
        seconds: String,
    },
    /// The site's policy does not serve the machine.
    Refused {
        /// The machine.
        mac: Mac,
        /// Why, in the policy's words.
        lines: Vec<String>,
    },
    /// The question or the answer to it went wrong.
    Error {
        /// What is wrong and what cures it.
        lines: Vec<String>,
    },
}

impl Script {
    /// The name of its template.
    pub(crate) fn template(&self) -> &'static str {
        match self {
            Self::Autoexec { .. } => "autoexec",
            Self::Unknown { .. } => "unknown",
            Self::Discovered { .. } => "discovered",
            Self::Install { .. } => "install",
            Self::Chain { .. } => "chain",
            Self::Sanboot { .. } => "sanboot",
            Self::Foreign { .. } => "foreign",
            Self::Pending { .. } => "pending",
            Self::Installing { .. } => "installing",
            Self::InstallFailed { .. } => "install_failed",
            Self::Local { .. } => "local",
            Self::Disputed { .. } => "disputed",
            Self::Retired { .. } => "retired",
            Self::Elsewhere { .. } => "elsewhere",
            Self::Guest { .. } => "guest",
            Self::TurnedAway { .. } => "turned_away",
            Self::Hold { .. } => "hold",
            Self::Refused { .. } => "refused",
            Self::Error { .. } => "error",
        }
    }
}

/// An image, and the disk that it is written to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiskImage {
    /// The image.
    pub content: ContentKey,
    /// The disk, as Linux names it.
    pub disk: String,
}

/// A disk in the network: exactly one of the two is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkDisk {
    content: Option<ContentKey>,
    address: Option<String>,
}

impl From<SanSource> for NetworkDisk {
    fn from(source: SanSource) -> Self {
        match source {
            SanSource::Content(key) => Self { content: Some(key), address: None },
            SanSource::Network(uri) => {
                Self { content: None, address: Some(uri.as_str().to_owned()) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_is_an_address_and_a_port() {
        for (text, expected) in [
            ("http://192.0.2.1:8080", Some("http://192.0.2.1:8080")),
            ("http://[2001:db8::1]:8080", Some("http://[2001:db8::1]:8080")),
            ("http://[::ffff:192.0.2.1]:80", Some("http://192.0.2.1:80")),
            ("http://[fe80::1%3]:80", Some("http://[fe80::1]:80")),
            ("http://192.0.2.1:8080/", None),
            ("http://192.0.2.1", None),
            ("https://192.0.2.1:8080", None),
            ("http://boot.example:8080", None),
            ("http://user@192.0.2.1:8080", None),
            ("192.0.2.1:8080", None),
            ("", None),
        ] {
            let url = text.parse::<BaseUrl>().ok();
            assert_eq!(url.as_ref().map(BaseUrl::as_str), expected, "{text}");
        }
    }
}
