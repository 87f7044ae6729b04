//! Where programs that came by an update lie: `update/` in the data directory, each under its hash, beside the journal.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use pureboot_protocol::{AgentUpdate, ContentHash, MarkSearch, PublicKey, SiteId};
use sha2::{Digest as _, Sha256};

use super::journal::{Journal, Slot};
use super::release;
use crate::data_dir::{self, DataDir};
use crate::seal;

/// Longer than any journal, in bytes: three slots with what the controller has signed.
const JOURNAL_LEN_MAX: u64 = 64 << 10;

/// The directory.
#[derive(Debug, Clone)]
pub struct UpdateDir {
    root: PathBuf,
}

/// Whose programs run here.
#[derive(Debug, Clone, Copy)]
pub struct Trusted {
    /// The key that is pinned where the agent cannot write.
    pub key: PublicKey,
    /// The agent's site.
    pub site_id: SiteId,
}

impl UpdateDir {
    /// That of `data_dir`; it need not be there.
    pub fn of(data_dir: &DataDir) -> Self {
        Self { root: data_dir.update() }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn journal(&self) -> PathBuf {
        self.root.join("journal.json")
    }

    /// Where the program lies that hashes to `sha256`.
    pub fn program(&self, sha256: ContentHash) -> PathBuf {
        self.root.join(sha256.to_string())
    }

    /// What is remembered. What is no journal is set aside: then the installed program runs.
    pub fn load(&self) -> Journal {
        let path = self.journal();
        let unused = |error: &dyn fmt::Display| {
            log::error!(
                "{} is not used, and the installed program runs: {error:#}",
                path.display()
            );
            Journal::default()
        };
        match data_dir::read_private_up_to(&path, JOURNAL_LEN_MAX) {
            Ok(None) => Journal::default(),
            Ok(Some(text)) => serde_json::from_slice(text.as_bytes()).unwrap_or_else(|error| {
                _ = fs::rename(&path, path.with_added_extension("corrupt"));
                unused(&error)
            }),
            // It may be read at the next start.
            Err(error) => unused(&error),
        }
    }

    /// Remembers `journal` for good, whole or not at all.
    ///
    /// # Errors
    /// It cannot be written; then what was remembered still is.
    pub fn save(&self, journal: &Journal) -> anyhow::Result<()> {
        self.make()?;
        let text = serde_json::to_string(journal).context("cannot write the journal")?;
        data_dir::write_private(&self.journal(), &text)
    }

    fn make(&self) -> anyhow::Result<()> {
        let made = DirBuilder::new().mode(0o700).create(&self.root);
        match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made
                .and_then(|()| data_dir::sync_parent(&self.root))
                .with_context(|| format!("cannot make {}", self.root.display())),
        }
    }

    /// Begins to put the program here that `update` names.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn begin(&self, update: &AgentUpdate) -> anyhow::Result<Incoming> {
        self.make()?;
        let place = self.program(update.sha256);
        let temporary = place.with_added_extension("new");
        let create = || -> io::Result<File> {
            remove(&temporary)?;
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o700)
                .custom_flags(OFlag::O_NOFOLLOW.bits())
                .open(&temporary)
        };
        let file = create().with_context(|| not_kept(&self.root))?;
        let (hasher, mark) = (Sha256::new(), MarkSearch::default());
        Ok(Incoming { file, temporary, place, hasher, mark })
    }

    /// Removes what `journal` does not name.
    pub fn sweep(&self, journal: &Journal) {
        let kept: Vec<_> = journal.kept().map(|sha256| sha256.to_string()).collect();
        for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_program =
                name.len() >= 64 && name.bytes().take(64).all(|byte| byte.is_ascii_hexdigit());
            if is_program && !kept.contains(&name) {
                _ = remove(&entry.path());
            }
        }
    }

    /// The program in `slot`, if the controller has signed it for this site and no byte of it has changed since.
    ///
    /// # Errors
    /// It has not, one has, or others could change it.
    pub fn vouch(&self, slot: &Slot, trusted: Trusted) -> anyhow::Result<PathBuf> {
        let update = seal::open::<AgentUpdate>(&slot.signed, &trusted.key)?;
        ensure!(update.site_id == trusted.site_id, "it was signed for site {}", update.site_id);
        ensure!(update.target == release::target(), "it is for {}", update.target);
        ensure!(
            (update.version, update.sha256) == (slot.version, slot.sha256),
            "it was signed as another version"
        );
        let path = self.program(slot.sha256);
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NOFOLLOW.bits() | OFlag::O_NONBLOCK.bits())
            .open(&path);
        let mut file = opened.with_context(|| format!("cannot open {}", path.display()))?;
        let metadata = file.metadata()?;
        if !metadata.is_file()
            || metadata.uid() != geteuid().as_raw()
            || metadata.mode() & 0o022 != 0
        {
            bail!("{} is no file of the agent's alone", path.display());
        }
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let len = file.read(&mut buffer)?;
            let Some(bytes) = buffer.get(..len).filter(|bytes| !bytes.is_empty()) else { break };
            hasher.update(bytes);
        }
        let found = ContentHash::from_digest(hasher.finalize().into());
        ensure!(found == slot.sha256, "the bytes of {} have changed", path.display());
        Ok(path)
    }
}

/// A program that is being written, and is gone again unless it comes to its end.
pub struct Incoming {
    file: File,
    temporary: PathBuf,
    place: PathBuf,
    hasher: Sha256,
    mark: MarkSearch,
}

impl Incoming {
    /// The next piece of the program.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&mut self, piece: &[u8]) -> anyhow::Result<()> {
        self.hasher.update(piece);
        self.mark.feed(piece);
        self.file.write_all(piece).with_context(|| not_kept(&self.place))
    }

    /// The program is here, whole, durable and as the controller has signed it in `update`.
    ///
    /// # Errors
    /// It is another one, or cannot be written.
    pub fn finish(mut self, update: &AgentUpdate) -> anyhow::Result<()> {
        let found = ContentHash::from_digest(self.hasher.finalize_reset().into());
        ensure!(
            found == update.sha256,
            "what came is not the program that the controller has signed"
        );
        let mark = std::mem::take(&mut self.mark).finish()?;
        ensure!(
            mark.version == update.version && mark.target == update.target,
            "the controller has signed it as {} for {}, and it says that it is {} for {}",
            update.version,
            update.target,
            mark.version,
            mark.target
        );
        let keep = || -> io::Result<()> {
            self.file.sync_all()?;
            fs::rename(&self.temporary, &self.place)?;
            data_dir::sync_parent(&self.place)
        };
        keep().with_context(|| not_kept(&self.place))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Nothing has that name any more where the program has come to its end.
        _ = remove(&self.temporary);
    }
}

fn not_kept(place: &Path) -> String {
    format!("cannot keep the program in {}", place.display())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
