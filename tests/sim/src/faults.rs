//! What can go wrong in a run, and the bugs that are planted to see whether a run would notice.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::dice::Dice;

macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The word on the command line.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                Self::ALL.iter().copied().find(|it| it.as_str() == text).ok_or_else(|| {
                    let known: Vec<_> = Self::ALL.iter().map(|it| it.as_str()).collect();
                    format!("'{text}' is none of {}", known.join(", "))
                })
            }
        }
    };
}

named! {
    /// A kind of fault. The number is that of the catalogue.
    Fault {
        /// A site's line is down, for minutes or for months (N1, N2).
        LineDown = "line-down",
        /// A line that is down swallows packets instead of refusing them (N1, N3).
        BlackHole = "black-hole",
        /// A request is lost on its way.
        LoseRequest = "lose-request",
        /// A request has its effect and its answer is lost (N4).
        LoseAnswer = "lose-answer",
        /// A request arrives twice, the second time up to a day later.
        Repeat = "repeat",
        /// Requests and answers take up to half a minute (N10).
        Slow = "slow",
        /// An answer is cut short (N5).
        Truncate = "truncate",
        /// A captive portal answers 200 to everything (N7).
        Portal = "portal",
        /// Something before the controller answers 502, 503 or 429 (C1, C2, N11).
        Unavailable = "unavailable",
        /// The answer to an older request comes in the place of the one to this (N6).
        LateAnswer = "late-answer",
        /// Something before the controller refuses certain changes whenever it sees them (C10).
        Refuses = "refuses",
        /// A machine does not hear what its site's agent answers, and asks or reports again.
        LanLoses = "lan-loses",
        /// The agent's process ends before or after a commit (K1 to K6).
        Crash = "crash",
        /// The agent's disk is full (D1, D3).
        DiskFull = "disk-full",
        /// The agent's disk fails to write (D4, D5).
        DiskFails = "disk-fails",
        /// The agent's database is damaged and replaced by what can be read of it (D8, D9).
        DiskDamaged = "disk-damaged",
        /// The agent's clock jumps by up to ten years (T1 to T3).
        ClockJumps = "clock-jumps",
        /// The controller ends and is started again (K19).
        CentreCrash = "centre-crash",
        /// The controller is brought back from a backup (N12).
        CentreRestore = "centre-restore",
        /// The site's own operator wishes for states, and conflicts with those of the centre.
        SiteWishes = "site-wishes",
        /// Somebody with another site's credential, or with none, speaks about a site's nodes (A5, I8).
        Impostor = "impostor",
        /// Operators edit workflows, names and strategies while sites are away.
        Operators = "operators",
    }
}

impl Fault {
    /// Those that a seed enables: half of them, another half each time, so that none hides behind the others.
    pub fn swarm(seed: u64) -> BTreeSet<Self> {
        let mut dice = Dice::new(seed, "swarm");
        Self::ALL.iter().copied().filter(|_| dice.percent(50)).collect()
    }
}

named! {
    /// A bug that is planted at a seam of the simulation: the network, the disk, a machine, the moment of a crash. No line of the
    /// product knows of them.
    Planted {
        /// A machine is answered before the commit of its report is durable.
        AckBeforeCommit = "ack-before-commit",
        /// What a machine repeats is taken for something new.
        RetryWithoutId = "retry-without-id",
        /// A report is answered before it is written, and written some time later.
        WriteBehind = "write-behind",
        /// A wish says that it rests on the controller's newest version, whatever the site has seen.
        VersionNotCompared = "version-not-compared",
        /// One change more is deleted than was acknowledged.
        PrefixOffByOne = "prefix-off-by-one",
        /// A restart forgets which installations have been given.
        OnceForgotten = "once-forgotten",
        /// What follows a change that is parked overtakes what came before it.
        PoisonOvertaken = "poison-overtaken",
        /// Any answer with 200 counts as an acknowledgement.
        AnyAnswerCounts = "any-answer-counts",
        /// The controller loses a conflict when it is killed.
        ConflictLost = "conflict-lost",
        /// The controller loses the rows by which it knows a repetition when it is killed.
        DedupeLost = "dedupe-lost",
        /// Another name of a node that waits for its installation is another wish to install it.
        RenameRepeats = "rename-repeats",
        /// A heartbeat of a stranger is taken for the agent's.
        CredentialIgnored = "credential-ignored",
    }
}

impl Planted {
    /// The faults in whose company it shows.
    pub fn faults(self) -> BTreeSet<Fault> {
        let faults: &[Fault] = match self {
            Self::AckBeforeCommit => &[Fault::Crash, Fault::LineDown],
            Self::RetryWithoutId => &[Fault::LanLoses],
            Self::WriteBehind => &[Fault::LineDown],
            Self::PrefixOffByOne => {
                &[Fault::LineDown, Fault::Slow, Fault::LoseAnswer, Fault::DiskFails]
            }
            Self::VersionNotCompared => &[Fault::LineDown, Fault::SiteWishes, Fault::Operators],
            Self::OnceForgotten => &[Fault::LineDown, Fault::Crash],
            Self::PoisonOvertaken => &[Fault::LineDown, Fault::Refuses],
            Self::AnyAnswerCounts => &[Fault::Portal, Fault::Truncate],
            Self::ConflictLost => &[Fault::LineDown, Fault::SiteWishes, Fault::CentreCrash],
            Self::DedupeLost => &[Fault::CentreCrash],
            Self::RenameRepeats => &[Fault::LineDown, Fault::Operators],
            Self::CredentialIgnored => &[Fault::Impostor],
        };
        faults.iter().copied().collect()
    }
}
