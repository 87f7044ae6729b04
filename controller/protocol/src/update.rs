//! Another version of the agent: what the controller signs of it, what is read from the program itself, and how it fares at a
//! site.
//!
//! A program says in its own bytes which version it is and for which processor ([`ReleaseMark`]), so that nobody has to be
//! believed about it; the controller reads that where it is uploaded and signs it for a site where it is ordered.

use std::io::BufRead as _;

use serde::{Deserialize, Serialize};

use crate::site::words;
use crate::{Category, ContentHash, ContentKey, PluginVersion, Sealed, Signed, SiteId, Timestamp};

/// The version of a program, numbered as policies are.
pub type ProgramVersion = PluginVersion;

/// The largest program that is taken, in bytes: several times what ships, so that a program for finding faults fits, too.
pub const PROGRAM_LEN_MAX: u64 = 128 << 20;

words! {
    /// The processors that agents are built for.
    Target {
        /// x86, 64 bits.
        X86_64 = "x86_64",
        /// ARM, 64 bits.
        Aarch64 = "aarch64",
        /// ARM, 32 bits.
        Armv7 = "armv7",
        /// x86, 32 bits.
        I686 = "i686",
        /// RISC-V, 64 bits.
        Riscv64 = "riscv64",
    }
}

impl Target {
    /// `e_machine` of its programs (System V ABI, chapter 4, "ELF Header").
    fn machine(self) -> u16 {
        match self {
            Self::X86_64 => 62,
            Self::Aarch64 => 183,
            Self::Armv7 => 40,
            Self::I686 => 3,
            Self::Riscv64 => 243,
        }
    }
}

/// The order to run another version, as the controller signs it: for one site, and once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AgentUpdate {
    /// The site that it is for, and no other.
    pub site_id: SiteId,
    /// When it was ordered. An agent obeys none that was ordered before the last that it obeyed, or with it.
    pub issued_at: Timestamp,
    /// What is to run.
    pub version: ProgramVersion,
    /// The processor that it runs on.
    pub target: Target,
    /// Its length, at most [`PROGRAM_LEN_MAX`].
    pub size_bytes: u64,
    /// What it hashes to.
    pub sha256: ContentHash,
    /// Whether it may be older than what runs.
    pub allow_downgrade: bool,
}

impl Sealed for AgentUpdate {
    const DOMAIN: &str = "pureboot agent update 1\n";
}

/// The order as it travels.
pub type SignedUpdate = Signed<AgentUpdate>;

/// The name of the program of a version among the content.
pub fn program_key(version: ProgramVersion, target: Target) -> ContentKey {
    let path = format!("{version}/pureboot-agent-{target}");
    ContentKey::new(Category::Agents, &path).expect("its parts are segments of names of content")
}

/// The version and processor that [`program_key`] has made a name of.
pub fn program_of(key: &ContentKey) -> Option<(ProgramVersion, Target)> {
    let (version, name) = key.path().split_once('/')?;
    let target = name.strip_prefix("pureboot-agent-")?.parse().ok()?;
    (key.category() == Category::Agents).then_some((version.parse().ok()?, target))
}

words! {
    /// How the last update of an agent has ended.
    UpdateFate {
        /// It runs.
        Proven = "proven",
        /// It ran, failed, and the version before runs again.
        GoneBack = "gone_back",
        /// It was not even tried.
        Refused = "refused",
    }
}

words! {
    /// Which of the programs that a site has is running.
    UpdateState {
        /// The one that was installed.
        Installed = "installed",
        /// One that came by an update.
        Updated = "updated",
        /// The installed one or an update, while another one is here and waits for the next start.
        Staged = "staged",
        /// One that came by an update and has not proven itself yet.
        OnTrial = "on_trial",
    }
}

/// The last update that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct UpdateEnded {
    /// The version that was to run.
    pub version: ProgramVersion,
    /// How it ended.
    pub fate: UpdateFate,
    /// Why, in a sentence for people; empty where there is nothing to say.
    pub why: String,
    /// When.
    pub at: Timestamp,
}

/// How an agent stands with other versions of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct UpdateReport {
    /// The processor that it needs programs for.
    pub target: Target,
    /// What is running.
    pub state: UpdateState,
    /// The version that waits or is on trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<ProgramVersion>,
    /// The version that it would go back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<ProgramVersion>,
    /// The last update that has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<UpdateEnded>,
}

/// Which program a file is, as its own bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReleaseMark {
    /// Its version.
    pub version: ProgramVersion,
    /// The processor that it runs on.
    pub target: Target,
}

/// Why a file is no agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotAnAgent {
    /// It is no program for Linux at all.
    NotElf,
    /// It ends before its own table of sections does.
    Truncated {
        /// The bytes that there should be at least.
        expected: u64,
        /// Those that there are.
        found: u64,
    },
    /// It does not say which version it is.
    Unmarked,
    /// It says so twice, and differently.
    Ambiguous,
    /// It says that it is for one processor, and is for another.
    Machine {
        /// What it says.
        target: Target,
        /// `e_machine` of its header.
        machine: u16,
    },
}

impl std::fmt::Display for NotAnAgent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotElf => f.write_str("it is no program for Linux (ELF)"),
            Self::Truncated { expected, found } => {
                write!(
                    f,
                    "it has {found} bytes, and its own header speaks of {expected}: it is cut short"
                )
            }
            Self::Unmarked => {
                f.write_str("it is no pureboot-agent, or one from before agents could be updated")
            }
            Self::Ambiguous => f.write_str("it names two versions of pureboot-agent"),
            Self::Machine { target, machine } => {
                write!(f, "it says that it is for {target}, and its header says machine {machine}")
            }
        }
    }
}

impl std::error::Error for NotAnAgent {}

impl ReleaseMark {
    /// What stands before the version in a program, and behind the processor.
    const BEFORE: &str = "pureboot-agent release: ";
    const END: char = ';';
    /// More than version and processor together, in bytes.
    const LEN_MAX: usize = 64;

    /// Reads the mark itself: `pureboot-agent release: 1.2.3 x86_64;` and whatever follows.
    pub fn parse(text: &str) -> Option<Self> {
        Self::parse_behind(text.strip_prefix(Self::BEFORE)?)
    }

    fn parse_behind(text: &str) -> Option<Self> {
        let (mark, _) = text.split_once(Self::END)?;
        let (version, target) = mark.split_once(' ')?;
        Some(Self { version: version.parse().ok()?, target: target.parse().ok()? })
    }

    /// Which agent `program` is.
    ///
    /// # Errors
    /// It is none, or not all of one.
    pub fn find(program: &[u8]) -> Result<Self, NotAnAgent> {
        let mut search = MarkSearch::default();
        search.feed(program);
        search.finish()
    }
}

/// Looks for the mark of a program that comes in pieces.
#[derive(Debug, Default)]
pub struct MarkSearch {
    head: Vec<u8>,
    len: u64,
    /// The last bytes, with which a mark may begin that ends in the next piece.
    tail: Vec<u8>,
    mark: Option<ReleaseMark>,
    is_ambiguous: bool,
}

impl MarkSearch {
    /// The next piece of the program.
    pub fn feed(&mut self, piece: &[u8]) {
        let missing = Header::LEN.saturating_sub(self.head.len()).min(piece.len());
        self.head.extend(piece.iter().take(missing));
        self.len += piece.len() as u64;
        // A mark that crosses from the last piece into this one.
        let mut seam = std::mem::take(&mut self.tail);
        seam.extend(piece.iter().take(ReleaseMark::LEN_MAX));
        self.look(&seam);
        self.look(piece);
        let behind = if piece.len() < ReleaseMark::LEN_MAX { seam.as_slice() } else { piece };
        let from = behind.len().saturating_sub(ReleaseMark::LEN_MAX);
        self.tail = behind.get(from..).unwrap_or_default().to_vec();
    }

    fn look(&mut self, bytes: &[u8]) {
        let before = ReleaseMark::BEFORE.as_bytes();
        let (first, others) = before.split_first().expect("the mark has a first byte");
        let mut rest = bytes;
        // A program has many bytes: these are skipped by the system's own search for one.
        while rest.skip_until(*first).is_ok_and(|skipped| skipped > 0) {
            let Some(text) = rest.strip_prefix(others) else { continue };
            let text = text.get(..ReleaseMark::LEN_MAX - before.len()).unwrap_or(text);
            let text = text.utf8_chunks().next().map_or("", |chunk| chunk.valid());
            let here = ReleaseMark::parse_behind(text);
            self.is_ambiguous |= self.mark.is_some() && here.is_some() && self.mark != here;
            self.mark = self.mark.or(here);
        }
    }

    /// Which agent the program is, of which all pieces have come.
    ///
    /// # Errors
    /// It is none, or not all of one.
    pub fn finish(self) -> Result<ReleaseMark, NotAnAgent> {
        let header = Header::parse(&self.head).ok_or(NotAnAgent::NotElf)?;
        if self.len < header.end {
            return Err(NotAnAgent::Truncated { expected: header.end, found: self.len });
        }
        if self.is_ambiguous {
            return Err(NotAnAgent::Ambiguous);
        }
        let mark = self.mark.ok_or(NotAnAgent::Unmarked)?;
        if mark.target.machine() != header.machine {
            return Err(NotAnAgent::Machine { target: mark.target, machine: header.machine });
        }
        Ok(mark)
    }
}

/// What of an ELF header concerns us. All processors that there are agents for have the lowest byte first.
struct Header {
    machine: u16,
    /// Where the table of sections ends: a program's last bytes.
    end: u64,
}

impl Header {
    /// Its length where addresses have 64 bits, in bytes.
    const LEN: usize = 64;

    fn parse(program: &[u8]) -> Option<Self> {
        let number = |at: usize, len: usize| {
            let bytes = program.get(at..at + len)?;
            Some(bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)))
        };
        let (magic, class) = (program.get(..4)?, program.get(4)?);
        if magic != b"\x7fELF" || program.get(5) != Some(&1) {
            return None;
        }
        let (offset, entry_len, entries) = match class {
            1 => (number(0x20, 4)?, number(0x2e, 2)?, number(0x30, 2)?),
            2 => (number(0x28, 8)?, number(0x3a, 2)?, number(0x3c, 2)?),
            _ => return None,
        };
        let machine = u16::try_from(number(0x12, 2)?).ok()?;
        Some(Self { machine, end: offset.saturating_add(entry_len * entries) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program of 64 bits with a table of two sections at its end, and `text` within.
    fn program(machine: u8, text: &str) -> Vec<u8> {
        let mut program = vec![0; 64];
        program[..6].copy_from_slice(b"\x7fELF\x02\x01");
        program[0x12] = machine;
        program.extend(text.as_bytes());
        let offset = u16::try_from(program.len()).expect("short").to_le_bytes();
        program[0x28..0x2a].copy_from_slice(&offset);
        program[0x3a] = 64;
        program[0x3c] = 2;
        program.extend([0; 128]);
        program
    }

    #[test]
    fn a_program_says_itself_which_it_is() {
        let text = "pureboot-agent release: %s; pureboot-agent release: 1.20.3 x86_64;      ";
        let mark = ReleaseMark::find(&program(62, text)).expect("an agent");
        assert_eq!((mark.version.to_string(), mark.target), ("1.20.3".to_owned(), Target::X86_64));
    }

    #[test]
    fn u1_what_is_no_agent_or_not_all_of_one_is_told() {
        let good = "pureboot-agent release: 1.2.3 x86_64;";
        let mut short = program(62, good);
        short.truncate(short.len() - 1);
        for (program, error) in [
            (b"#!/bin/sh\n".to_vec(), "no program for Linux"),
            (Vec::new(), "no program for Linux"),
            (short, "cut short"),
            (program(62, "pureboot-agent release: 1.2 x86_64;"), "no pureboot-agent"),
            (program(62, "pureboot-agent release: 1.2.3 x86_64"), "no pureboot-agent"),
            (program(62, &format!("{good}pureboot-agent release: 1.2.4 x86_64;")), "two versions"),
            (program(183, good), "for x86_64, and its header says machine 183"),
        ] {
            let found = ReleaseMark::find(&program).expect_err(error).to_string();
            assert!(found.contains(error), "{found}");
        }
    }

    #[test]
    fn a_mark_is_found_wherever_a_program_is_cut_into_pieces() {
        let program = program(62, "pureboot-agent release: 1.20.3 x86_64;");
        let whole = ReleaseMark::find(&program).expect("an agent");
        for len in 1..program.len() {
            let mut search = MarkSearch::default();
            program.chunks(len).for_each(|piece| search.feed(piece));
            assert_eq!(search.finish(), Ok(whole), "in pieces of {len} bytes");
        }
    }

    #[test]
    fn a_program_is_known_again_by_its_name() {
        let version = "1.2.3".parse().expect("a version");
        let key = program_key(version, Target::Armv7);
        assert_eq!(key.to_string(), "agents/1.2.3/pureboot-agent-armv7");
        assert_eq!(program_of(&key), Some((version, Target::Armv7)));
        let other = "images/1.2.3/pureboot-agent-armv7".parse().expect("a name");
        assert_eq!(program_of(&other), None);
    }
}
