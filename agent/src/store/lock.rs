//! One agent a data directory, and what the directory is made of.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

/// Held for as long as the agent runs; the operating system lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct DataDirLock {
    _file: File,
}

/// Why the data directory could not be claimed. The person who started the agent gets this text.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent is at work.
    #[error(
        "another agent{holder} already uses {}; stop it or name another --data-dir", path.display()
    )]
    Held {
        /// The data directory.
        path: PathBuf,
        /// ` (process 123)` where it is known.
        holder: String,
    },
    /// Something that is not a plain file stands where the lock should be.
    #[error("{} is not a plain file; remove it", .0.display())]
    NotAFile(PathBuf),
    /// The lock cannot be opened.
    #[error("cannot lock {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Claims `data_dir`, which must exist, by a lock on the file `lock` in it.
///
/// # Errors
/// Another process has it, or the file cannot be made.
pub fn lock_data_dir(data_dir: &Path) -> Result<DataDirLock, LockError> {
    let path = data_dir.join("lock");
    let io = |source| LockError::Io { path: path.clone(), source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        // A planted symlink is refused, and a planted FIFO does not make the agent wait.
        .custom_flags(O_NOFOLLOW | O_NONBLOCK)
        .open(&path)
        .map_err(io)?;
    if !file.metadata().map_err(io)?.is_file() {
        return Err(LockError::NotAFile(path));
    }
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::Error(source)) => return Err(io(source)),
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // Who holds it is a courtesy; that it is held is known.
            let _ = (&file).take(20).read_to_string(&mut text);
            let holder = text.trim().parse::<u32>();
            let holder = holder.map(|pid| format!(" (process {pid})")).unwrap_or_default();
            return Err(LockError::Held { path: data_dir.to_owned(), holder });
        }
    }
    let noted = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    // A full disk must not keep the agent from starting (FAULTS D3): the lock holds without the note.
    if let Err(error) = noted {
        log::warn!(error:%; "cannot note the process id in {}", path.display());
    }
    Ok(DataDirLock { _file: file })
}

/// Whether what is written to `data_dir` is gone after a restart of the machine: it lies in memory (FAULTS D14).
pub fn is_volatile(data_dir: &Path) -> bool {
    statfs(data_dir).is_ok_and(|fs| fs.filesystem_type() == TMPFS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d16_a_second_agent_on_one_data_dir_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock_data_dir(dir.path()).unwrap();
        let refused = lock_data_dir(dir.path()).unwrap_err().to_string();
        assert_eq!(
            refused,
            format!(
                "another agent (process {}) already uses {}; stop it or name another --data-dir",
                std::process::id(),
                dir.path().display()
            )
        );
        drop(held);
        lock_data_dir(dir.path()).unwrap();
    }

    #[test]
    fn d15_a_planted_lock_is_refused_and_does_not_hang() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &path).unwrap();
        assert!(matches!(lock_data_dir(dir.path()), Err(LockError::Io { .. })));
        assert!(!dir.path().join("elsewhere").exists());
        std::fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(lock_data_dir(dir.path()), Err(LockError::NotAFile(_))));
    }

    #[test]
    fn d14_memory_is_told_from_a_disk() {
        if let Ok(shm) = tempfile::tempdir_in("/dev/shm") {
            assert!(is_volatile(shm.path()));
        }
        assert!(!is_volatile(Path::new("/proc")));
    }
}
