//! The data directory, and files in it that are nobody else's business.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use pureboot_protocol::{PublicKey, Secret};

use crate::cage::rights::{Kept, become_owner};

/// Where the agent keeps everything unless told otherwise.
pub const DEFAULT: &str = "/var/lib/pureboot";

/// The environment variable that tells otherwise, where no argument does.
pub const VARIABLE: &str = "PUREBOOT_DATA_DIR";

/// What the file is called that holds what the controller's signatures are checked with.
pub const SIGNING_KEY: &str = "controller-key";

/// Longer than any secret or settings file that the agent writes, in bytes.
const SMALL_FILE_LEN_MAX: u64 = 64 * 1024;

/// The directory that holds all that an agent keeps. It belongs to the agent's user alone (mode 0700).
#[derive(Debug, Clone)]
pub struct DataDir {
    root: PathBuf,
}

impl DataDir {
    /// Makes the directory where it is missing.
    ///
    /// # Errors
    /// As [`DataDir::open`], or it cannot be made.
    pub fn create(root: &Path) -> anyhow::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .with_context(|| format!("cannot make the data directory {}", root.display()))?;
        Self::open(root)
    }

    /// Takes the directory as it is. Where root runs this program and another user owns the directory, it becomes that user first.
    ///
    /// # Errors
    /// It is missing, no directory, or open to others than the agent's user.
    pub fn open(root: &Path) -> anyhow::Result<Self> {
        become_owner(root, Kept::Nothing)?;
        let metadata = match fs::symlink_metadata(root) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!(
                    "there is no data directory {}: run `pureboot-agent init` first",
                    root.display()
                );
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot use the data directory {}", root.display()));
            }
        };
        if !metadata.is_dir() {
            bail!("{} is not a directory (a symbolic link to one will not do)", root.display());
        }
        check_private(root, &metadata, "700")?;
        Ok(Self { root: root.to_owned() })
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The settings, written by `init` and by people.
    pub fn config_file(&self) -> PathBuf {
        self.root.join("agent.toml")
    }

    /// The registration token, from `init` until it has been redeemed.
    pub fn token_file(&self) -> PathBuf {
        self.root.join("token")
    }

    /// The secret that the agent has made for itself.
    pub fn credential_file(&self) -> PathBuf {
        self.root.join("credential")
    }

    /// The secret that `init --rejoin` or a rotation has prepared, until it is the agent's own.
    pub fn next_credential_file(&self) -> PathBuf {
        self.root.join("credential.next")
    }

    /// Which order to change the credential was begun last.
    pub fn rotation_file(&self) -> PathBuf {
        self.root.join("state").join("rotation.json")
    }

    /// The life of the agent that the controller has answered last, or may have: the first one is noted before it is told.
    pub fn instance_file(&self) -> PathBuf {
        self.root.join("state").join("instance")
    }

    /// What time it is at the least, as the controller said it.
    pub fn clock_file(&self) -> PathBuf {
        self.root.join("state").join("clock")
    }

    /// What the controller's signatures are checked with, since the agent joined.
    pub fn signing_key_file(&self) -> PathBuf {
        self.root.join(SIGNING_KEY)
    }

    /// Where the running agent answers `status` and its kin.
    pub fn socket(&self) -> PathBuf {
        self.root.join("agent.sock")
    }

    /// What machines have taught about their firmware.
    pub fn lessons_file(&self) -> PathBuf {
        self.root.join("state").join("lessons.json")
    }

    /// What was seen of the last boot sessions.
    pub fn boots_file(&self) -> PathBuf {
        self.root.join("boots.jsonl")
    }

    /// When content was last synced by the schedule.
    pub fn schedule_file(&self) -> PathBuf {
        self.root.join("state/schedule.json")
    }

    /// Names of content that a person has pinned.
    pub fn pins_file(&self) -> PathBuf {
        self.root.join("state/pins.json")
    }

    /// The controller's last word on what the site is to hold.
    pub fn manifest_file(&self) -> PathBuf {
        self.root.join("state").join("manifest.json")
    }

    /// Which policies of the site are set aside, and which have gone back.
    pub fn policies_file(&self) -> PathBuf {
        self.root.join("state/policies.json")
    }

    /// What policies were asked and answered.
    pub fn policy_records_file(&self) -> PathBuf {
        self.root.join("policies.jsonl")
    }

    /// Policies that were compiled on this host, sealed with its own key.
    pub fn sealed_policies(&self) -> PathBuf {
        self.root.join("plugins")
    }

    /// What policies were asked about content, and answered.
    pub fn policy_judgements_file(&self) -> PathBuf {
        self.root.join("judgements.jsonl")
    }

    /// Other versions of the agent.
    pub fn update(&self) -> PathBuf {
        self.root.join("update")
    }

    /// Content.
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }
}

/// Refuses what others than the agent's user can read or change.
fn check_private(path: &Path, metadata: &Metadata, mode: &str) -> anyhow::Result<()> {
    if metadata.uid() != geteuid().as_raw() {
        bail!(
            "{} belongs to user {}, and the agent runs as user {}: chown it, or start the agent as its owner",
            path.display(),
            metadata.uid(),
            geteuid()
        );
    }
    if metadata.mode() & 0o077 != 0 {
        bail!(
            "{} has mode {:o}, so others could read or change it: chmod {mode} it",
            path.display(),
            metadata.mode() & 0o7777
        );
    }
    Ok(())
}

/// Reads a file that only the agent's user may read; none if there is no such file.
///
/// # Errors
/// It is open to others, no regular file, a symbolic link, too long, or cannot be read.
pub fn read_private(path: &Path) -> anyhow::Result<Option<String>> {
    read_private_up_to(path, SMALL_FILE_LEN_MAX)
}

/// The key that was pinned when the agent joined; none before.
///
/// # Errors
/// As [`read_private`], or the file holds no key.
pub fn signing_key(data_dir: &DataDir) -> anyhow::Result<Option<PublicKey>> {
    let path = data_dir.signing_key_file();
    let Some(text) = read_private(&path)? else { return Ok(None) };
    let key = text.trim().parse();
    key.map(Some).with_context(|| format!("{} holds no key", path.display()))
}

/// As [`read_private`], of a file that may have up to `len_max` bytes.
///
/// # Errors
/// As [`read_private`].
pub fn read_private_up_to(path: &Path, len_max: u64) -> anyhow::Result<Option<String>> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NOFOLLOW.bits() | OFlag::O_NONBLOCK.bits())
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
    };
    let metadata = file.metadata().with_context(|| format!("cannot look at {}", path.display()))?;
    if !metadata.is_file() {
        bail!("{} is not a regular file", path.display());
    }
    check_private(path, &metadata, "600")?;
    if metadata.len() > len_max {
        bail!(
            "{} has {} bytes, more than anything that belongs there",
            path.display(),
            metadata.len()
        );
    }
    let mut text = String::new();
    file.take(len_max)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Some(text))
}

/// Reads a secret that stands alone in its file.
///
/// # Errors
/// As [`read_private`].
pub fn read_secret(path: &Path) -> anyhow::Result<Option<Secret>> {
    Ok(read_private(path)?.map(|text| Secret::new(text.trim().to_owned())))
}

/// Writes a file that only the agent's user may read: it is there whole or not at all, whenever the power fails, and at no
/// instant is it open to others.
///
/// # Errors
/// It cannot be written; then what was there before is still there.
pub fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let temporary = path.with_added_extension("new");
    let write = || -> io::Result<()> {
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_parent(path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Puts `next` in the place of `current` for good; without a next one nothing changes.
///
/// # Errors
/// It cannot be moved.
pub fn promote(next: &Path, current: &Path) -> anyhow::Result<()> {
    match fs::rename(next, current) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error)
            .with_context(|| format!("cannot move {} to {}", next.display(), current.display())),
        _ => sync_parent(current)
            .with_context(|| format!("cannot keep {} for good", current.display())),
    }
}

/// Removes a file for good; one that is not there is removed already.
///
/// # Errors
/// It cannot be removed.
pub fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => {
            sync_parent(path).with_context(|| format!("cannot remove {} for good", path.display()))
        }
    }
}

/// Makes the directory entry of `path` survive a power cut.
///
/// # Errors
/// Its directory cannot be read, or the disk fails.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("the test owns it");
    }

    #[test]
    fn a_private_file_is_read_back_and_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("credential");
        assert_eq!(read_secret(&path).expect("nothing is no error"), None);
        write_private(&path, "first\n").expect("written");
        write_private(&path, "secret\n").expect("written over");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
        assert_eq!(read_secret(&path).expect("read"), Some(Secret::new("secret".to_owned())));
        remove(&path).expect("removed");
        remove(&path).expect("removed already");
        assert_eq!(read_secret(&path).expect("gone"), None);
    }

    #[test]
    fn a11_a_secret_that_others_can_reach_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("credential");
        write_private(&path, "secret").expect("written");
        mode(&path, 0o644);
        let error = read_secret(&path).expect_err("readable by others").to_string();
        assert!(error.contains("has mode 644") && error.contains("chmod 600"), "{error}");
        assert!(!error.contains("secret"), "{error}");

        let link = dir.path().join("link");
        mode(&path, 0o600);
        symlink(&path, &link).expect("a link");
        assert!(read_secret(&link).is_err(), "a link is not followed");
        assert!(read_secret(dir.path()).is_err(), "a directory is no secret");
    }

    #[test]
    fn a11_a_data_directory_that_others_can_reach_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("data");
        DataDir::create(&root).expect("made");
        assert_eq!(fs::metadata(&root).expect("there").mode() & 0o777, 0o700);
        let link = dir.path().join("link");
        symlink(&root, &link).expect("a link");
        assert!(DataDir::open(&link).is_err());
        mode(&root, 0o777);
        let error = DataDir::open(&root).expect_err("open to all").to_string();
        assert!(error.contains("chmod 700"), "{error}");
    }

    #[test]
    fn a11_a_credential_of_another_user_is_refused() {
        if !geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("credential");
        write_private(&path, "secret").expect("written");
        std::os::unix::fs::chown(&path, Some(12_345), None).expect("root may");
        let error = read_secret(&path).expect_err("somebody else's").to_string();
        assert!(error.contains("belongs to user 12345"), "{error}");
    }

    #[test]
    fn d15_a_fifo_in_the_place_of_a_secret_does_not_hang() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("credential");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).expect("a fifo");
        assert!(read_secret(&path).is_err());
    }
}
