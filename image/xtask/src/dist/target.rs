//! What is built, and for which machines.

use std::str::FromStr;

/// A kind of machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// PCs.
    X86_64,
    /// 64-bit ARM.
    Aarch64,
    /// 32-bit ARM with floating point.
    Armv7,
}

/// One of the programs that ship.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// `pureboot-agent`.
    Agent,
    /// `pureboot-agent` for authors of policies: it compiles them.
    AuthorsAgent,
    /// `pureboot-controller`.
    Controller,
}

pub(crate) const TARGETS: [Target; 3] = [Target::X86_64, Target::Aarch64, Target::Armv7];
pub(crate) const PROGRAMS: [Program; 3] =
    [Program::Agent, Program::AuthorsAgent, Program::Controller];

impl Target {
    /// Its name in what is built.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
            Self::Armv7 => "armv7",
        }
    }

    /// Its name for compilers.
    pub(crate) fn triple(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-musl",
            Self::Aarch64 => "aarch64-unknown-linux-musl",
            Self::Armv7 => "armv7-unknown-linux-musleabihf",
        }
    }

    /// Its name in Debian.
    pub(crate) fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
            Self::Armv7 => "armhf",
        }
    }

    /// Its number in the head of a program (ELF, `e_machine`).
    pub(crate) fn machine(self) -> u16 {
        match self {
            Self::X86_64 => 62,
            Self::Aarch64 => 183,
            Self::Armv7 => 40,
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let found = TARGETS.into_iter().find(|target| target.word() == word);
        found.ok_or_else(|| format!("'{word}' is none of x86_64, aarch64, armv7"))
    }
}

impl Program {
    /// Its name among what ships.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Agent => "pureboot-agent",
            Self::AuthorsAgent => "pureboot-agent-compile",
            Self::Controller => "pureboot-controller",
        }
    }

    /// The package of the workspace that it is built from, and the name that cargo gives it.
    pub(crate) fn package(self) -> &'static str {
        match self {
            Self::Agent | Self::AuthorsAgent => "pureboot-agent",
            Self::Controller => "pureboot-controller",
        }
    }

    /// What cargo is told to build, beside the package.
    pub(crate) fn features(self) -> &'static [&'static str] {
        match self {
            Self::Agent | Self::Controller => &[],
            Self::AuthorsAgent => &["--features=compile"],
        }
    }

    /// The profile of `Cargo.toml` that it is built by.
    pub(crate) fn profile(self) -> &'static str {
        if self.is_small() { "small" } else { "release" }
    }

    /// Whether it is to be small before it is fast.
    pub(crate) fn is_small(self) -> bool {
        self != Self::Controller
    }

    /// What it may have in bytes: a router's flash is small.
    pub(crate) fn len_max(self) -> usize {
        match self {
            Self::Agent => 6_000_000,
            Self::AuthorsAgent => 12_000_000,
            Self::Controller => 30_000_000,
        }
    }

    /// Whether it is built for such machines: on a small router there is neither controller nor author.
    pub(crate) fn runs_on(self, target: Target) -> bool {
        self == Self::Agent || target != Target::Armv7
    }
}

impl FromStr for Program {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "agent" => Ok(Self::Agent),
            "agent-compile" => Ok(Self::AuthorsAgent),
            "controller" => Ok(Self::Controller),
            other => Err(format!("'{other}' is none of agent, agent-compile, controller")),
        }
    }
}
