//! The files that keep sessions over a restart: lines of JSON, the last line of a session counts.
//!
//! What is in them explains the past and decides nothing, so it costs the flash little: a session is written when it has come to
//! rest, several in one write, without fsync; a torn or foreign line is skipped. There are two files; when the current one is
//! full it takes the place of the old one.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::fcntl::OFlag;
use pureboot_protocol::BootId;

use super::ring::{ASKING_MAX, SESSIONS_MAX};
use super::step::{Phase, Session};
use crate::data_dir::DataDir;

/// How long one of the two files may become, in bytes; as much at least is kept.
pub const FILE_LEN_MAX: u64 = 2 << 20;

/// Where sessions are kept. Its functions wait for the disk.
#[derive(Debug, Clone)]
pub struct Journal {
    current: PathBuf,
    old: PathBuf,
}

/// What was found in the files.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The last [`SESSIONS_MAX`] of machines that have come further than asking and the last [`ASKING_MAX`] of others, oldest
    /// first.
    pub sessions: Vec<Session>,
    /// How many lines of which file were none.
    pub skipped: Vec<(PathBuf, usize)>,
}

impl Journal {
    /// The journal in a data directory.
    pub fn new(data_dir: &DataDir) -> Self {
        let current = data_dir.boots_file();
        Self { old: current.with_added_extension("old"), current }
    }

    /// The file that is written to.
    pub fn path(&self) -> &Path {
        &self.current
    }

    /// Reads what earlier runs have written.
    ///
    /// # Errors
    /// A file is there and cannot be read; the text names it.
    pub fn load(&self) -> anyhow::Result<Loaded> {
        let mut sessions = HashMap::<BootId, Session>::new();
        let mut skipped = Vec::new();
        for path in [&self.old, &self.current] {
            let bytes = read(path).with_context(|| format!("cannot read {}", path.display()))?;
            let mut others = 0;
            for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                match serde_json::from_slice::<Session>(line) {
                    Ok(session) => _ = sessions.insert(session.id, session),
                    Err(_) => others += 1,
                }
            }
            if others > 0 {
                skipped.push((path.clone(), others));
            }
        }
        let mut sessions: Vec<_> = sessions.into_values().collect();
        sessions.sort_by_key(|session| (session.started_at, *session.id.as_bytes()));
        let is_asking = |session: &Session| session.reached == Phase::Asking;
        let asking = sessions.iter().filter(|session| is_asking(session)).count();
        let mut surplus = asking.saturating_sub(ASKING_MAX);
        let mut surplus_proven = (sessions.len() - asking).saturating_sub(SESSIONS_MAX);
        sessions.retain(|session| {
            let surplus = if is_asking(session) { &mut surplus } else { &mut surplus_proven };
            let is_kept = *surplus == 0;
            *surplus = surplus.saturating_sub(1);
            is_kept
        });
        Ok(Loaded { sessions, skipped })
    }

    /// Writes these down.
    ///
    /// # Errors
    /// The disk does not take them; they may be tried again.
    pub fn append(&self, sessions: &[Session]) -> io::Result<()> {
        // What a power cut has left of the last line is no part of the next one.
        let mut lines = vec![b'\n'];
        for session in sessions {
            serde_json::to_writer(&mut lines, session)?;
            lines.push(b'\n');
        }
        let mut file = self.open_current()?;
        let mut len = file.metadata()?.len();
        if len > 0 && len.saturating_add(lines.len() as u64) > FILE_LEN_MAX {
            fs::rename(&self.current, &self.old)?;
            file = self.open_current()?;
            len = 0;
        }
        let written = file.write_all(&lines);
        if written.is_err() {
            // FAULTS D3: what a full disk has taken of them would only be in the way. If it stays, it is skipped.
            _ = file.set_len(len);
        }
        written
    }

    fn open_current(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600);
        options.custom_flags(OFlag::O_NOFOLLOW.bits() | OFlag::O_NONBLOCK.bits());
        plain(options.open(&self.current)?)
    }
}

/// Reads a file that is not longer than it may be; one that is not there is empty.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(OFlag::O_NOFOLLOW.bits() | OFlag::O_NONBLOCK.bits());
    let file = match options.open(path) {
        Ok(file) => plain(file)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(FILE_LEN_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Refuses what would hang or be written elsewhere: a pipe, a device, a directory.
fn plain(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file; move it away"))
    }
}

#[cfg(test)]
mod tests;
