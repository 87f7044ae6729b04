//! What policies were asked, what they answered and what it cost: one line of JSON for each boot, or for each call about content, in
//! two files that take turns.
//!
//! Nobody waits for it, and none of it is needed to boot. The files are open to the agent's user alone: a question may hold what an
//! installer is told.

use std::fs::{self, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::marker::PhantomData;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use pureboot_plugin_host::chain::{
    Mode as PolicyMode, Note, OnFailure, Outcome, Silence, Speaker, Word,
};
use pureboot_plugin_host::facts::{BootFacts, CacheContext, CacheItem, NodesSaid, Vars};
use pureboot_plugin_host::plugin::Failure;
use pureboot_protocol::{BootId, ContentHash, PluginId, PluginVersion, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use smol::channel::{Receiver, Sender, bounded};

use super::ground::Heard;
use crate::boot::inputs::Inputs;

/// The most bytes of both files together.
pub const RECORDS_LEN_MAX: u64 = 1 << 20;

/// Lines that wait for the disk; more are dropped.
const WAITING_MAX: usize = 64;

/// One boot that policies had a part in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootRecorded {
    /// When.
    pub at: Timestamp,
    /// Its session.
    pub session: BootId,
    /// Where the machine reached the agent.
    pub base: String,
    /// What the built-in decision rested on.
    pub inputs: Inputs,
    /// What policies were asked.
    pub facts: BootFacts,
    /// What their answers had to agree with.
    pub ground: Heard,
    /// The policies that were asked what the machine boots, in order.
    pub decided: Vec<CallRecorded>,
    /// The policies that were asked for another script, in order.
    pub patched: Vec<CallRecorded>,
    /// What the machine booted, in one word.
    pub boot: String,
    /// Why, in the order in which it was found.
    pub reasons: Vec<String>,
    /// The SHA-256 of the script that it got.
    pub script_sha256: ContentHash,
}

/// One call about content that has changed what is to be kept, or has failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgementRecorded {
    /// When.
    pub at: Timestamp,
    /// How full the cache was.
    pub context: CacheContext,
    /// What policies were asked about.
    pub items: Vec<CacheItem>,
    /// The policies that were asked, in order.
    pub called: Vec<CallRecorded>,
    /// The word that counts for each item.
    pub words: Vec<Option<Word>>,
    /// What a shadow would have said of each.
    pub shadows: Vec<Option<Word>>,
}

/// One policy's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRecorded {
    /// The policy.
    pub plugin: PluginId,
    /// The version that was asked; none where none was.
    pub version: Option<PluginVersion>,
    /// What was done with its answer.
    pub mode: PolicyMode,
    /// What was to be done if there was none.
    pub on_failure: OnFailure,
    /// Its settings.
    pub settings: Vars,
    /// What it came to, in words.
    pub said: String,
    /// Why it was not heard to the end, where that is not of its own doing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unheard: Option<Unheard>,
    /// The fuel that it burnt.
    pub fuel: u64,
    /// How long it took, in microseconds.
    pub took_us: u64,
    /// What it was told of nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodesSaid>,
}

/// Why a policy was not heard to the end, where its code is not the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unheard {
    /// It was set aside.
    SetAside,
    /// Too many waited for it.
    Busy,
    /// The machine could not wait any longer.
    Late,
}

impl Unheard {
    fn of(outcome: &Outcome) -> Option<Self> {
        match outcome {
            Outcome::Silent(Silence::SetAside) => Some(Self::SetAside),
            Outcome::Silent(Silence::Busy) => Some(Self::Busy),
            Outcome::Silent(Silence::Failed(Failure::Time)) => Some(Self::Late),
            _ => None,
        }
    }

    /// As the chain of policies takes it.
    pub fn silence(self) -> Silence {
        match self {
            Self::SetAside => Silence::SetAside,
            Self::Busy => Silence::Busy,
            Self::Late => Silence::Failed(Failure::Time),
        }
    }
}

impl CallRecorded {
    /// The parts that `notes` tell of.
    pub fn all(notes: &[Note]) -> Vec<Self> {
        notes.iter().map(Self::of).collect()
    }

    fn of(note: &Note) -> Self {
        let Speaker { id, mode, on_failure } = note.speaker.clone();
        let call = note.call.as_ref();
        Self {
            plugin: id,
            version: call.map(|call| call.version),
            mode,
            on_failure,
            settings: call.map(|call| call.settings.clone()).unwrap_or_default(),
            said: note.outcome.to_string(),
            unheard: Unheard::of(&note.outcome),
            fuel: call.map_or(0, |call| call.fuel),
            took_us: call
                .map_or(0, |call| u64::try_from(call.took.as_micros()).unwrap_or(u64::MAX)),
            nodes: call.map(|call| call.nodes.clone()).unwrap_or_default(),
        }
    }
}

/// Takes records of one kind; clones write to the same files.
#[derive(Debug, Clone)]
pub struct Records<T> {
    path: PathBuf,
    lines: (Sender<String>, Receiver<String>),
    kind: PhantomData<T>,
}

impl<T: Serialize + DeserializeOwned + Send + 'static> Records<T> {
    /// Writes to `path`, and to the one beside it that ends in `.old`.
    pub fn new(path: PathBuf) -> Self {
        Self { path, lines: bounded(WAITING_MAX), kind: PhantomData }
    }

    /// Has something written down soon.
    pub fn note(&self, record: &T) {
        match serde_json::to_string(record) {
            Ok(line) => _ = self.lines.0.try_send(line),
            Err(error) => log::debug!("what policies answered cannot be written down: {error}"),
        }
    }

    /// Writes for as long as the agent runs.
    pub async fn keep(self) {
        while let Ok(line) = self.lines.1.recv().await {
            let path = self.path.clone();
            let written = smol::unblock(move || append(&path, &line, RECORDS_LEN_MAX / 2)).await;
            if let Err(error) = written {
                log::debug!(error:%; "what policies answered is not written down");
            }
        }
    }

    /// All that is still written down, the oldest first.
    pub async fn load(&self) -> Vec<T> {
        let path = self.path.clone();
        smol::unblock(move || load(&path)).await
    }
}

fn old(path: &Path) -> PathBuf {
    path.with_extension("old")
}

/// Adds a line; a file that would grow beyond `len_max` takes the place of the old one first.
fn append(path: &Path, line: &str, len_max: u64) -> io::Result<()> {
    let len = fs::metadata(path).map_or(0, |metadata| metadata.len());
    let line_len = u64::try_from(line.len()).unwrap_or(u64::MAX);
    if line_len >= len_max {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    if len + line_len >= len_max {
        fs::rename(path, old(path))?;
    }
    let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    file.write_all(format!("{line}\n").as_bytes())
}

/// Every line of both files that is whole; a power cut may have torn one.
fn load<T: DeserializeOwned>(path: &Path) -> Vec<T> {
    let files =
        [old(path), path.to_owned()].into_iter().filter_map(|path| fs::File::open(path).ok());
    let lines = files.flat_map(|file| BufReader::new(file).lines().map_while(Result::ok));
    lines.filter_map(|line| serde_json::from_slice(line.as_bytes()).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_take_turns_and_never_grow_beyond_their_limit() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("policies.jsonl");
        let sizes = || {
            let len = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
            len(&path) + len(&old(&path))
        };
        for number in 0..1_000 {
            append(&path, &format!("{{\"number\":{number}}}"), 500).expect("written");
            assert!(sizes() <= 1_000, "{} bytes", sizes());
        }
        let text = fs::read_to_string(&path).expect("read");
        assert!(text.ends_with("{\"number\":999}\n"), "{text}");
        assert!(append(&path, &"x".repeat(500), 500).is_err());
        assert_eq!(load::<BootRecorded>(&path), [], "what is no record is passed over");
    }
}
