//! A person brings the installed program to another version: checked, tested in a child, and put in its place with the one before kept
//! beside it as `….prev`.
//!
//! Whoever may write the installed program is believed about it; no signature is asked for. What came from the controller is set
//! aside, because the person means this one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use pureboot_protocol::{PROGRAM_LEN_MAX, ProgramVersion, ReleaseMark};

use super::release;

/// What the program before is called: the installed one's name and this.
const PREVIOUS: &str = "prev";

/// The program in `file`, and which it is.
///
/// # Errors
/// It is no agent for this machine.
pub fn inspect(file: &Path) -> anyhow::Result<(Vec<u8>, ReleaseMark)> {
    let len = fs::metadata(file).with_context(|| format!("cannot read {}", file.display()))?.len();
    ensure!(len <= PROGRAM_LEN_MAX, "{} has {len} bytes: no agent has as many", file.display());
    let program = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mark =
        ReleaseMark::find(&program).with_context(|| format!("{} is refused", file.display()))?;
    let here = release::target();
    ensure!(
        mark.target == here,
        "{} is for {}, and this machine is {here}",
        file.display(),
        mark.target
    );
    Ok((program, mark))
}

/// Refuses what is older than `running`, unless that is wished.
///
/// # Errors
/// It is older.
pub fn check_age(
    offered: ProgramVersion,
    running: ProgramVersion,
    allow_downgrade: bool,
) -> anyhow::Result<()> {
    ensure!(
        allow_downgrade || offered >= running,
        "version {offered} is older than {running}, which is installed; --allow-downgrade takes it all the same"
    );
    Ok(())
}

/// A program that lies beside the installed one and can take its place. It is removed if it does not.
#[derive(Debug)]
pub struct Staged {
    installed: PathBuf,
    place: PathBuf,
}

impl Staged {
    /// Puts `program` beside the installed one, with its owner and rights.
    ///
    /// # Errors
    /// This user may not, or there is no room.
    pub fn beside(installed: &Path, program: &[u8]) -> anyhow::Result<Self> {
        let place = installed.with_added_extension("new");
        let staged = Self { installed: installed.to_owned(), place };
        let write = || -> io::Result<()> {
            let former = fs::metadata(installed)?;
            remove(&staged.place)?;
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged.place)?;
            file.write_all(program)?;
            chown(&staged.place, Some(former.uid()), Some(former.gid()))?;
            file.set_permissions(former.permissions())?;
            file.sync_all()
        };
        write().with_context(|| format!("cannot write {}", staged.place.display()))?;
        Ok(staged)
    }

    /// Where it lies.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Has it take the place of the installed one, of which a second name is made first. At every instant there is a program under the
    /// installed one's name, the old or the new.
    ///
    /// # Errors
    /// It cannot be done; then the old one is in its place.
    pub fn swap(self) -> anyhow::Result<()> {
        let swap = || -> io::Result<()> {
            keep_previous(&self.installed)?;
            fs::rename(&self.place, &self.installed)?;
            sync_dir(&self.installed)
        };
        swap().with_context(|| format!("cannot put {} in its place", self.installed.display()))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        _ = remove(&self.place);
    }
}

fn keep_previous(installed: &Path) -> io::Result<()> {
    let (previous, linked) =
        (installed.with_added_extension(PREVIOUS), installed.with_added_extension("prev-new"));
    remove(&linked)?;
    fs::hard_link(installed, &linked)?;
    fs::rename(&linked, &previous)?;
    sync_dir(installed)
}

/// Puts the program before back, and keeps the present one in its stead; answers whether there was one.
///
/// # Errors
/// This user may not.
pub fn put_back(installed: &Path) -> anyhow::Result<bool> {
    let previous = installed.with_added_extension(PREVIOUS);
    let put_back = || -> io::Result<bool> {
        let place = installed.with_added_extension("new");
        remove(&place)?;
        match fs::hard_link(&previous, &place) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            linked => linked?,
        }
        keep_previous(installed)?;
        fs::rename(&place, installed)?;
        sync_dir(installed)?;
        Ok(true)
    };
    put_back().with_context(|| format!("cannot put {} back", previous.display()))
}

fn sync_dir(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn k18_the_program_before_is_kept_and_can_be_put_back_and_forth() {
        let dir = tempfile::tempdir().expect("a directory");
        let installed = dir.path().join("agent");
        fs::write(&installed, "old").expect("written");
        fs::set_permissions(&installed, fs::Permissions::from_mode(0o755)).expect("its owner");
        let text = |path: &Path| fs::read_to_string(path).expect("readable");
        assert!(!put_back(&installed).expect("nothing is there"));
        drop(Staged::beside(&installed, b"refused").expect("staged"));
        assert_eq!(
            fs::read_dir(dir.path()).expect("a directory").count(),
            1,
            "nothing stays of it"
        );
        Staged::beside(&installed, b"new").expect("staged").swap().expect("swapped");
        let previous = dir.path().join("agent.prev");
        assert_eq!((text(&installed).as_str(), text(&previous).as_str()), ("new", "old"));
        assert_eq!(fs::metadata(&installed).expect("there").mode() & 0o777, 0o755);
        assert!(put_back(&installed).expect("put back"));
        assert_eq!((text(&installed).as_str(), text(&previous).as_str()), ("old", "new"));
    }

    #[test]
    fn u3_what_is_older_needs_the_word_for_it() {
        let version = |text: &str| text.parse::<ProgramVersion>().expect("a version");
        assert!(check_age(version("1.1.0"), version("1.0.9"), false).is_ok());
        assert!(check_age(version("1.0.9"), version("1.0.9"), false).is_ok());
        let error = check_age(version("1.0.9"), version("1.1.0"), false).expect_err("older");
        assert!(error.to_string().contains("--allow-downgrade"), "{error}");
        assert!(check_age(version("1.0.9"), version("1.1.0"), true).is_ok());
    }
}
