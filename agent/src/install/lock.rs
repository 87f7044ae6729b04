//! The lock that programs hold while they change a machine's users and groups (lckpwdf(3)): `useradd` and this one do not lose each
//! other's lines.
#![expect(clippy::disallowed_methods, reason = "shell: waits for another program")]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;

/// Where it lies on a machine. The file stays; only who has it locked counts.
pub(super) const PATH: &str = "/etc/.pwd.lock";

/// How long another program is waited for, as lckpwdf(3) does.
const WAIT_MAX: Duration = Duration::from_secs(15);
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// Has the lock until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// Takes the lock at `place`, which another program may have for a while.
///
/// # Errors
/// It has it for longer, or the file cannot be made.
pub(super) fn take(place: &Path) -> anyhow::Result<Lock> {
    take_within(place, WAIT_MAX)
}

fn take_within(place: &Path, limit: Duration) -> anyhow::Result<Lock> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(place);
    let file = file.with_context(|| format!("cannot open {}", place.display()))?;
    let begun = Instant::now();
    loop {
        match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Lock { _file: file }),
            Err(Errno::ACCESS | Errno::AGAIN) if begun.elapsed() < limit => {
                thread::sleep(TRY_AGAIN);
            }
            Err(Errno::ACCESS | Errno::AGAIN) => bail!(
                "another program has changed users for longer than {} s and has {} locked: try again when it is done",
                limit.as_secs(),
                place.display()
            ),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot lock {}", place.display()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::libc;

    use super::*;

    /// Locks as another program would: a lock of an open file is not one of this process.
    fn lock_elsewhere(place: &Path) -> File {
        let file = File::create(place).expect("a file");
        let range = libc::flock {
            l_type: libc::c_short::try_from(libc::F_WRLCK).expect("a kind of lock"),
            l_whence: libc::c_short::try_from(libc::SEEK_SET).expect("the beginning"),
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        fcntl(&file, FcntlArg::F_OFD_SETLK(&range)).expect("a lock");
        file
    }

    #[test]
    fn who_changes_users_waits_for_who_is_at_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let place = dir.path().join(".pwd.lock");
        let other = lock_elsewhere(&place);
        let refused = take_within(&place, Duration::ZERO).expect_err("it is locked").to_string();
        assert!(refused.contains(".pwd.lock locked: try again"), "{refused}");
        drop(other);
        take_within(&place, Duration::ZERO).expect("nobody has it");
    }
}
