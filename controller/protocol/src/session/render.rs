//! The timeline of a session as a person reads it.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

use super::outcome::Outcome;
use super::step::{
    BOOT_SERVER_PORT, Boots, Ending, Gives, Offer, Protocol, Role, STEPS_FIRST, Session, Step,
    Transfer, What,
};
use crate::Timestamp;

/// Where the columns of a step begin to be filled with its bytes, in characters.
const TEXT_WIDTH: usize = 56;

/// A session as it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BootView {
    /// The session.
    #[serde(flatten)]
    pub session: Session,
    /// The machine's name, if it has one.
    pub hostname: Option<String>,
    /// From the first packet to the last thing that was seen.
    pub duration_ms: u64,
    /// How it stands.
    pub outcome: Outcome,
}

impl BootView {
    /// A session as it stands at `now`.
    pub fn new(session: Session, hostname: Option<String>, now: Timestamp) -> Self {
        Self { duration_ms: session.last_ms(), outcome: session.outcome(now), hostname, session }
    }

    /// Who boots, when, for how long, and how it stands: one line without its end.
    pub fn header(&self) -> String {
        let Session { id, mac, address, started_at, .. } = &self.session;
        let mut text = match (mac, address) {
            (Some(mac), _) => mac.to_string(),
            (None, Some(address)) => address.to_string(),
            (None, None) => id.to_string(),
        };
        if let Some(hostname) = &self.hostname {
            _ = write!(text, "  {}", printable(hostname));
        }
        _ = write!(text, "  {started_at}  {}  {}", span(self.duration_ms), self.outcome);
        text
    }

    /// The whole timeline, each line with its end.
    pub fn render(&self) -> String {
        let mut text = format!("{}\n  boot session {}\n", self.header(), self.session.id);
        if !self.session.user_agents.is_empty() {
            let agents = printable(&self.session.user_agents.join(", "));
            _ = writeln!(text, "  over HTTP it calls itself {agents}");
        }
        let folded = self.session.steps_folded;
        for (at, step) in self.session.steps.iter().enumerate() {
            if folded > 0 && at == STEPS_FIRST {
                _ = writeln!(text, "  {:>11}  {folded} more steps", "…");
            }
            _ = writeln!(text, "{}", line(step));
        }
        text
    }
}

/// One step in one line, without its end.
pub fn line(step: &Step) -> String {
    let mut text = step.what.to_string();
    if step.times > 1 {
        _ = write!(text, ", {} times", step.times);
    }
    let mut text = format!("  +{:>10}  {text}", span(step.at_ms));
    let details = details(step);
    if !details.is_empty() {
        let width = TEXT_WIDTH + 15;
        text = format!("{text:<width$}  {details}");
    }
    text
}

/// Bytes, duration and rate, as far as a step has them.
fn details(step: &Step) -> String {
    let mut text = String::new();
    if let What::Transfer(transfer) = &step.what {
        if transfer.ending.is_none() {
            return match transfer.size_bytes {
                Some(bytes) => format!("{:>9}  under way", size(bytes)),
                None => "under way".to_owned(),
            };
        }
        if transfer.ending != Some(Ending::Probe) {
            _ = write!(text, "{:>9}", size(transfer.sent_bytes));
        }
    }
    if let Some(took_ms) = step.took_ms {
        let gap = if text.is_empty() { "" } else { "  " };
        _ = write!(text, "{gap}{:>10}", span(took_ms));
        if let What::Transfer(Transfer { sent_bytes, .. }) = &step.what
            && let Some(per_second) = sent_bytes.saturating_mul(1_000).checked_div(took_ms)
            && *sent_bytes > 0
        {
            _ = write!(text, "  {:>9}/s", size(per_second));
        }
    }
    text
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offered(offer) => offer.fmt(f),
            Self::Unsent { error, .. } => {
                write!(f, "DHCP: the answer could not be sent: {}", printable(error))
            }
            Self::Refused { port, reason, .. } => {
                write!(f, "DHCP{}: no answer: {}", on_port(*port), printable(reason))
            }
            Self::Leased { wanted: Some(wanted), .. } => {
                write!(f, "DHCP: asks its server for {wanted}")
            }
            Self::Leased { wanted: None, .. } => {
                f.write_str("DHCP: asks its server for an address")
            }
            Self::Transfer(transfer) => transfer.fmt(f),
            Self::Missing { by, name } => write!(f, "{by}: {} is not here", printable(name)),
            Self::Script { answer: None } => f.write_str("asks what to boot"),
            Self::Script { answer: Some(answer) } => {
                let gives = match answer.gives {
                    Gives::Installer => "its installer",
                    Gives::Disk => "its disk",
                    Gives::Wait => "to ask again later",
                    Gives::Error => "no boot, but an error",
                };
                write!(
                    f,
                    "asks what to boot: {gives} ({}; {})",
                    answer.mode,
                    printable(&answer.because)
                )
            }
            Self::Reported { event, progress, message } => {
                write!(f, "reports {event}")?;
                if let Some(progress) = progress {
                    write!(f, " {progress} %")?;
                }
                match message {
                    Some(message) => write!(f, ": {message}"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on_port = on_port(self.port);
        let what = match self.boots {
            Boots::Loader | Boots::LoaderByBootServer => "offered",
            Boots::Script | Boots::ScriptByLoopGuard => "iPXE is offered",
        };
        write!(f, "DHCP{on_port}: {what} {} ({}", printable(&self.file), printable(&self.how))?;
        match self.arch {
            Some(arch) => write!(f, ", architecture {arch:#06x})"),
            None => f.write_str(")"),
        }
    }
}

impl fmt::Display for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.role {
            Role::FirstScript => "first script ",
            Role::Loader => "loader ",
            Role::Answers | Role::AnswersHidden => "answer file ",
            Role::Content => "",
        };
        write!(f, "{}: {what}{}", self.by, printable(&self.name))?;
        if self.role == Role::AnswersHidden {
            f.write_str(", its secrets hidden")?;
        }
        f.write_str(match self.ending {
            None | Some(Ending::Whole) => "",
            Some(Ending::Part) => ", in part",
            Some(Ending::Probe) => ", only its size",
            Some(Ending::Cut) => ", broken off by the machine",
            Some(Ending::Silent) => ", the machine fell silent",
            Some(Ending::Unread) => ", it cannot be read",
            Some(Ending::Displaced) => ", given up for another request",
            Some(Ending::Stopped) => ", the agent was stopped",
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tftp => "TFTP",
            Self::Http => "HTTP",
        })
    }
}

/// The port of a question by DHCP, where it is not the usual one.
fn on_port(port: u16) -> &'static str {
    match port {
        BOOT_SERVER_PORT => " on port 4011",
        _ => "",
    }
}

/// What a terminal must not obey is shown as what it is not.
pub fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '?' } else { char }).collect()
}

/// A span of time: to the millisecond where it is short.
fn span(ms: u64) -> String {
    let seconds = ms / 1_000;
    match seconds {
        0..60 => format!("{seconds}.{:03} s", ms % 1_000),
        60..3_600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3_600, seconds / 60 % 60),
    }
}

/// A number of bytes in the decimal unit that fits.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}
