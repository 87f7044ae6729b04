//! How a session stands: a function of what was seen and of how long ago that was.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::step::{Answer, Boots, Ending, Gives, Phase, Role, Session, Transfer, What};
use crate::{NodeEventKind, Timestamp};

/// How long firmware takes from an offer to the first request for a file: UEFI asks four times within 28 s (BOOT.md §2).
const FETCH_TIME: Duration = Duration::from_secs(60);
/// How long a loader takes to find its network and to ask for more.
const START_TIME: Duration = Duration::from_secs(90);
/// How long a machine that was told to ask again rests before it does: `unknown.ipxe` has it wait for 30 s.
const REST_TIME: Duration = Duration::from_secs(90);
/// How long an installer takes from its kernel to its first report.
const CALL_BACK_TIME: Duration = Duration::from_secs(15 * 60);
/// How long an installer works without a word: the time that a workflow has by default.
const INSTALL_TIME: Duration = Duration::from_secs(60 * 60);

/// How a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Outcome {
    /// Something follows soon, as a rule.
    UnderWay,
    /// What usually follows did not.
    Stuck {
        /// Where.
        at: Stuck,
    },
    /// The machine was sent to its disk; nothing more has to be seen.
    LeftToDisk,
    /// The installer has ended well, or the operating system runs.
    CalledBack {
        /// What was reported last.
        event: NodeEventKind,
    },
    /// The installer has given up.
    Failed,
}

/// Where a machine stands that does not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Stuck {
    /// There is no answer for it.
    Refused,
    /// The answer could not be sent.
    Unsent,
    /// It was offered a file, and fetched nothing.
    Offer,
    /// It was to ask on port 4011, and did not.
    BootServer,
    /// It asked for the size of a file, and did not fetch it.
    SizeProbe,
    /// It asked for a file that is not here.
    MissingFile,
    /// Its loader did not arrive whole.
    LoaderTransfer,
    /// Its loader arrived, and did nothing that was seen.
    LoaderStart,
    /// It has the first script, and did not ask what to boot.
    FirstScript,
    /// It could not be told what to boot.
    Script,
    /// It was told to ask again, and did not.
    Waiting,
    /// It was told to start an installer, and fetched no kernel.
    Kernel,
    /// A file that its script names did not arrive whole.
    FileTransfer,
    /// It has its files, and nothing called back.
    CallBack,
    /// The installer has begun, and fell silent.
    Installer,
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "the first question: there is no answer for this machine",
            Self::Unsent => "the first question: the answer could not be sent",
            Self::Offer => "the offer: it fetched nothing",
            Self::BootServer => "the offer: it did not ask on port 4011",
            Self::SizeProbe => "the size of a file: it did not fetch the file",
            Self::MissingFile => "a file that is not here",
            Self::LoaderTransfer => "the loader: it did not arrive whole",
            Self::LoaderStart => "the loader: it arrived, and did not go on",
            Self::FirstScript => "the first script: it did not ask what to boot",
            Self::Script => "the script: it could not be told what to boot",
            Self::Waiting => "the script: it was to ask again, and did not",
            Self::Kernel => "the script: it did not fetch the kernel",
            Self::FileTransfer => "a file of its script: it did not arrive whole",
            Self::CallBack => "the kernel: nothing called back",
            Self::Installer => "the installer: it fell silent",
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnderWay => f.write_str("under way"),
            Self::Stuck { at } => write!(f, "stuck at {at}"),
            Self::LeftToDisk => f.write_str("left to its disk"),
            Self::CalledBack { event } => write!(f, "called back: {event}"),
            Self::Failed => f.write_str("the installation failed"),
        }
    }
}

impl Session {
    /// How it stands at `now`.
    pub fn outcome(&self, now: Timestamp) -> Outcome {
        let reported = self.steps.iter().rev().find_map(|step| match step.what {
            What::Reported { event, .. } => Some(event),
            _ => None,
        });
        let open = self.steps.iter().rev().find_map(|step| while_open(&step.what));
        let expected = match (reported, open, self.steps.last()) {
            (Some(event), _, _) => after_report(event),
            (None, Some(open), _) => open,
            (None, None, Some(last)) => self.after(&last.what),
            (None, None, None) => return Outcome::UnderWay,
        };
        match expected {
            Expected::Nothing(outcome) => outcome,
            Expected::Within(patience, at) if self.silence(now) >= patience => {
                Outcome::Stuck { at }
            }
            Expected::Within(..) => Outcome::UnderWay,
        }
    }

    /// For how long nothing was seen.
    pub fn silence(&self, now: Timestamp) -> Duration {
        let last_ms = i64::try_from(self.last_ms()).unwrap_or(i64::MAX);
        let silent_ms = now.unix_ms() - self.started_at.unix_ms().saturating_add(last_ms);
        Duration::from_millis(u64::try_from(silent_ms).unwrap_or(0))
    }

    /// What usually follows a step.
    fn after(&self, what: &What) -> Expected {
        use Expected::{Nothing, Within};
        match what {
            What::Refused { .. } => Nothing(Outcome::Stuck { at: Stuck::Refused }),
            What::Unsent { .. } => Nothing(Outcome::Stuck { at: Stuck::Unsent }),
            What::Offered(_) | What::Leased { .. } => self.after_lease(),
            What::Missing { .. } => Within(FETCH_TIME, Stuck::MissingFile),
            What::Transfer(transfer) => self.after_transfer(transfer),
            What::Script { answer: Some(Answer { gives, .. }) } => match gives {
                Gives::Installer => Within(FETCH_TIME, Stuck::Kernel),
                Gives::Disk => Nothing(Outcome::LeftToDisk),
                Gives::Wait => Within(REST_TIME, Stuck::Waiting),
                Gives::Error => Nothing(Outcome::Stuck { at: Stuck::Script }),
            },
            What::Script { answer: None } => Nothing(Outcome::UnderWay),
            What::Reported { event, .. } => after_report(*event),
        }
    }

    /// A lease does not say what comes next: what was offered before it does.
    fn after_lease(&self) -> Expected {
        let offer = self.steps.iter().rev().find_map(|step| match &step.what {
            What::Offered(offer) => Some((offer.boots, offer.port)),
            _ => None,
        });
        let at = match (self.reached, offer) {
            (Phase::FirstScript, _) => Stuck::FirstScript,
            (_, Some((boots, _))) if boots.is_script() => Stuck::Offer,
            (Phase::Loader, _) => Stuck::LoaderStart,
            (_, Some((Boots::LoaderByBootServer, 67))) => Stuck::BootServer,
            _ => Stuck::Offer,
        };
        Expected::Within(FETCH_TIME, at)
    }

    fn after_transfer(&self, transfer: &Transfer) -> Expected {
        use Expected::Within;
        let is_whole = transfer.ending == Some(Ending::Whole);
        match (transfer.role, transfer.ending) {
            (_, Some(Ending::Probe)) => Within(FETCH_TIME, Stuck::SizeProbe),
            (Role::Loader, _) if is_whole => Within(START_TIME, Stuck::LoaderStart),
            (Role::Loader, _) => Within(FETCH_TIME, Stuck::LoaderTransfer),
            (Role::FirstScript, _) => Within(START_TIME, Stuck::FirstScript),
            (
                Role::Content | Role::Answers | Role::AnswersHidden,
                Some(Ending::Whole | Ending::Part),
            ) => Within(CALL_BACK_TIME, Stuck::CallBack),
            (Role::Content | Role::Answers | Role::AnswersHidden, _) => {
                Within(FETCH_TIME, Stuck::FileTransfer)
            }
        }
    }
}

/// What is to be seen next.
enum Expected {
    /// No more.
    Nothing(Outcome),
    /// Something within this time, or the machine is stuck there.
    Within(Duration, Stuck),
}

/// How long a step may be under way; none if it is over.
fn while_open(what: &What) -> Option<Expected> {
    match what {
        What::Transfer(Transfer { ending: None, role, .. }) => {
            let at = match role {
                Role::Loader | Role::FirstScript => Stuck::LoaderTransfer,
                Role::Content | Role::Answers | Role::AnswersHidden => Stuck::FileTransfer,
            };
            Some(Expected::Within(INSTALL_TIME, at))
        }
        What::Script { answer: None } => Some(Expected::Within(FETCH_TIME, Stuck::Script)),
        _ => None,
    }
}

fn after_report(event: NodeEventKind) -> Expected {
    match event {
        NodeEventKind::InstallComplete | NodeEventKind::FirstBoot | NodeEventKind::Heartbeat => {
            Expected::Nothing(Outcome::CalledBack { event })
        }
        NodeEventKind::InstallFailed => Expected::Nothing(Outcome::Failed),
        NodeEventKind::BootStarted
        | NodeEventKind::InstallStarted
        | NodeEventKind::InstallProgress => Expected::Within(INSTALL_TIME, Stuck::Installer),
    }
}
