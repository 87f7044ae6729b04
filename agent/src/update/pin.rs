//! The key that programs are believed by, kept where the running agent cannot write.
//!
//! What comes by an update is started outside of the cage, so whoever may choose the key that it is checked with can leave the cage. The
//! data directory is the caged agent's own; the key is therefore pinned in a file beside it (`/var/lib/pureboot.pin`), which the cage
//! shuts it out of, and which is root's where root starts the agent. Before the agent has joined that file is empty: it is opened
//! before the cage is closed, and written once, when there is a key.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail, ensure};
use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use pureboot_protocol::PublicKey;

use crate::data_dir::{self, DataDir};

/// Longer than any key, in bytes.
const KEY_LEN_MAX: u64 = 4 << 10;

/// A key is no secret, and the agent's user reads what root has written.
const PINNED_MODE: u32 = 0o644;

/// What waits for a key is written by the agent's user.
const WAITING_MODE: u32 = 0o600;

/// Where the key is pinned of the agent that keeps all else in `data_dir`.
///
/// # Errors
/// There is no such directory.
fn place(data_dir: &Path) -> anyhow::Result<PathBuf> {
    let data_dir = fs::canonicalize(data_dir)
        .with_context(|| format!("there is no data directory {}", data_dir.display()))?;
    Ok(data_dir.with_added_extension("pin"))
}

/// What lies where a key may.
enum Found {
    Nothing,
    /// A file that waits for a key, or whose writing was cut short.
    NoKey,
    Key {
        key: PublicKey,
        /// Who could change it.
        user: u32,
    },
}

/// Looks at `path`, which root or `user` may have written and nobody else.
fn look(path: &Path, user: u32) -> anyhow::Result<Found> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NOFOLLOW.bits() | OFlag::O_NONBLOCK.bits())
        .open(path);
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        opened => opened.with_context(|| format!("cannot open {}", path.display()))?,
    };
    let metadata = file.metadata().with_context(|| format!("cannot look at {}", path.display()))?;
    ensure!(metadata.is_file(), "{} is not a regular file", path.display());
    if ![0, user].contains(&metadata.uid()) || metadata.mode() & 0o022 != 0 {
        bail!(
            "{} could be changed by others (user {}, mode {:o}): remove it",
            path.display(),
            metadata.uid(),
            metadata.mode() & 0o7777
        );
    }
    let mut text = String::new();
    file.take(KEY_LEN_MAX)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.trim().parse().map_or(Found::NoKey, |key| Found::Key { key, user: metadata.uid() }))
}

/// Makes ready that the key is pinned: what an agent has that joined before it could be, or an empty file for one that is yet to join.
/// A key that is pinned stays, and becomes root's where this is root. To be called before rights are given up.
///
/// # Errors
/// This user may not write beside `data_dir`, or somebody else has.
pub fn prepare(data_dir: &Path) -> anyhow::Result<()> {
    let place = place(data_dir)?;
    let owner =
        fs::metadata(data_dir).with_context(|| format!("cannot look at {}", data_dir.display()))?;
    let here = geteuid().as_raw();
    let pinned = look(&place, owner.uid())?;
    let key = match &pinned {
        Found::Key { user, .. } if *user == here || here != 0 => return Ok(()),
        Found::Key { key, .. } => Some(*key),
        _ => match look(&data_dir.join(data_dir::SIGNING_KEY), owner.uid())? {
            Found::Key { key, .. } => Some(key),
            _ => None,
        },
    };
    let write = || -> io::Result<()> {
        let temporary = place.with_added_extension("new");
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let options = options.write(true).create_new(true).mode(WAITING_MODE);
        let mut file = options.custom_flags(OFlag::O_NOFOLLOW.bits()).open(&temporary)?;
        match key {
            Some(key) => {
                file.write_all(key.to_string().as_bytes())?;
                file.set_permissions(Permissions::from_mode(PINNED_MODE))?;
            }
            None if owner.uid() != here => fchown(&file, Some(owner.uid()), Some(owner.gid()))?,
            None => {}
        }
        file.sync_all()?;
        fs::rename(&temporary, &place)?;
        data_dir::sync_parent(&place)
    };
    if key.is_none() && matches!(pinned, Found::NoKey) {
        return Ok(());
    }
    write().with_context(|| format!("cannot write {}", place.display()))
}

/// Unpins the key, so that the one is pinned that the agent has joined with since.
///
/// # Errors
/// This user may not.
pub fn forget(data_dir: &Path) -> anyhow::Result<()> {
    data_dir::remove(&place(data_dir)?)
}

/// The key, as the running agent has it.
#[derive(Debug)]
pub struct Pin {
    state: RefCell<State>,
}

#[derive(Debug)]
enum State {
    Pinned {
        key: PublicKey,
        place: PathBuf,
    },
    /// The agent is yet to join.
    Waits {
        file: File,
        place: PathBuf,
    },
    Missing {
        why: String,
    },
}

impl Pin {
    /// What is pinned beside `data_dir`. To be called before the cage is closed.
    pub fn open(data_dir: &DataDir) -> Self {
        let open = || -> anyhow::Result<State> {
            let place = place(data_dir.root())?;
            match look(&place, geteuid().as_raw())? {
                Found::Key { key, .. } => Ok(State::Pinned { key, place }),
                Found::NoKey => {
                    let mut options = OpenOptions::new();
                    let file =
                        options.write(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(&place);
                    let file = file.with_context(|| format!("cannot write {}", place.display()))?;
                    Ok(State::Waits { file, place })
                }
                Found::Nothing => bail!("there is no {}", place.display()),
            }
        };
        let state = open().unwrap_or_else(|error| State::Missing { why: format!("{error:#}") });
        Self { state: RefCell::new(state) }
    }

    /// None, of an agent that obeys nobody.
    pub fn none() -> Self {
        Self { state: RefCell::new(State::Missing { why: "this is a test".to_owned() }) }
    }

    /// What programs are checked with.
    ///
    /// # Errors
    /// The agent has not joined, or no key is pinned; the text names the cure.
    pub fn key(&self) -> anyhow::Result<PublicKey> {
        match &*self.state.borrow() {
            State::Pinned { key, .. } => Ok(*key),
            State::Waits { .. } => bail!("this agent has joined no controller yet"),
            State::Missing { why } => Err(anyhow!(
                "the controller's key is pinned nowhere but in the agent's own directory, where whoever breaks into the agent could \
                 change it ({why}): run `pureboot-agent update pin` as root, and start the agent again"
            )),
        }
    }

    /// The agent has joined a controller that signs with `key`. What is pinned stays.
    pub async fn fix(&self, key: PublicKey) {
        let missing = State::Missing { why: "it is being written".to_owned() };
        let next = match self.state.replace(missing) {
            State::Waits { file, place } => {
                let written = smol::unblock(move || write_once(file, key)).await;
                match written {
                    Ok(()) => State::Pinned { key, place },
                    Err(error) => {
                        State::Missing { why: format!("cannot write {}: {error}", place.display()) }
                    }
                }
            }
            kept => kept,
        };
        if let State::Pinned { key: pinned, place } = &next
            && *pinned != key
        {
            log::error!(
                "the controller signs with another key than the one in {}, so this agent takes no other version from it: if that is \
                 meant, run `pureboot-agent update pin --renew` as root, and start the agent again",
                place.display()
            );
        }
        self.state.replace(next);
    }

    /// Where the key is, for a person.
    pub fn describe(&self) -> String {
        match &*self.state.borrow() {
            State::Pinned { key, place } => {
                format!("{}, pinned in {}", key.id(), place.display())
            }
            State::Waits { place, .. } => {
                format!("{} waits for the agent to join", place.display())
            }
            State::Missing { why } => {
                format!(
                    "NOT PINNED, so no update is taken ({why}); cure: `pureboot-agent update pin` as root"
                )
            }
        }
    }
}

fn write_once(mut file: File, key: PublicKey) -> io::Result<()> {
    file.set_len(0)?;
    file.write_all(key.to_string().as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use smol::future::block_on;

    use super::*;

    const FIRST: [u8; 32] = [1; 32];
    const OTHER: [u8; 32] = [2; 32];

    fn key(bytes: [u8; 32]) -> PublicKey {
        PublicKey::from_bytes(bytes)
    }

    fn data_dir(dir: &tempfile::TempDir) -> DataDir {
        DataDir::create(&dir.path().join("agent")).expect("made")
    }

    fn has(data_dir: &DataDir, bytes: [u8; 32]) {
        let file = data_dir.signing_key_file();
        data_dir::write_private(&file, &key(bytes).to_string()).expect("written");
    }

    fn pinned(data_dir: &DataDir) -> Option<PublicKey> {
        prepare(data_dir.root()).expect("prepared");
        Pin::open(data_dir).key().ok()
    }

    #[test]
    fn u1_the_key_is_pinned_once_and_none_in_the_agents_own_directory_counts_after_that() {
        let dir = tempfile::tempdir().expect("a directory");
        let data_dir = data_dir(&dir);
        assert_eq!(pinned(&data_dir), None);
        let pin = Pin::open(&data_dir);
        block_on(pin.fix(key(FIRST)));
        assert_eq!(pin.key().ok(), Some(key(FIRST)), "in the life that joined");
        has(&data_dir, OTHER);
        block_on(pin.fix(key(OTHER)));
        assert_eq!(pin.key().ok(), Some(key(FIRST)));
        assert_eq!(pinned(&data_dir), Some(key(FIRST)));
        forget(data_dir.root()).expect("a person may");
        assert_eq!(pinned(&data_dir), Some(key(OTHER)));
    }

    #[test]
    fn u1_an_agent_that_joined_before_there_were_pins_is_pinned_when_it_starts() {
        let dir = tempfile::tempdir().expect("a directory");
        let data_dir = data_dir(&dir);
        assert_eq!(Pin::open(&data_dir).key().ok(), None);
        has(&data_dir, FIRST);
        assert_eq!(Pin::open(&data_dir).key().ok(), None, "it is not the agent that pins it");
        assert_eq!(pinned(&data_dir), Some(key(FIRST)));
    }

    #[test]
    fn u1_a_pin_whose_writing_was_cut_short_is_written_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let data_dir = data_dir(&dir);
        prepare(data_dir.root()).expect("prepared");
        let place = place(data_dir.root()).expect("there");
        let text = key(FIRST).to_string();
        fs::write(&place, &text[..text.len() / 2]).expect("written");
        assert_eq!(pinned(&data_dir), None);
        has(&data_dir, FIRST);
        assert_eq!(pinned(&data_dir), Some(key(FIRST)));
    }

    #[test]
    fn u1_a_pin_that_others_could_have_changed_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let data_dir = data_dir(&dir);
        has(&data_dir, FIRST);
        prepare(data_dir.root()).expect("prepared");
        let place = place(data_dir.root()).expect("there");
        fs::set_permissions(&place, Permissions::from_mode(0o666)).expect("its owner");
        let error = Pin::open(&data_dir).key().expect_err("anybody's").to_string();
        assert!(error.contains("mode 666") && error.contains("update pin"), "{error}");
        assert!(prepare(data_dir.root()).is_err());
    }
}
