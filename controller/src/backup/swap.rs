//! Files that take the places of others all at once, as far as anybody can see who starts the controller.
//!
//! Each new file lies beside the one that it is to replace. A list of them, written last and durably, is the moment from which
//! they count: whoever finds the list moves them into their places, as often as it takes (FAULTS K1). Without the list they
//! are what a restore has left that was cut short, and mean nothing.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// The name of the list in the data directory.
const LIST: &str = "restore.json";
/// What SQLite keeps beside a database, and would take for the new one's.
const SIDE_FILES: [&str; 3] = ["-wal", "-shm", "-journal"];

#[derive(Debug, Serialize, Deserialize)]
struct List {
    /// Absolute paths of the places that are taken.
    places: Vec<PathBuf>,
}

/// Where the file is made that is to take `place`.
pub(super) fn staged(place: &Path) -> PathBuf {
    place.with_added_extension("restored")
}

/// Removes what an earlier restore has left beside `place`.
///
/// # Errors
/// It cannot be removed.
pub(super) fn clear(place: &Path) -> anyhow::Result<()> {
    let staged = staged(place);
    remove(&staged).with_context(|| format!("cannot remove {}", staged.display()))
}

/// Writes the file that is to take `place`, for the owner alone.
///
/// # Errors
/// It cannot be written.
pub(super) fn stage(place: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    clear(place)?;
    let staged = staged(place);
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write {}", staged.display()))
}

/// Lets the staged files take their `places`: from here on they count, whatever happens.
///
/// # Errors
/// The list cannot be written, and nothing has changed; or a file cannot be moved, and the next start goes on with it.
pub(super) fn commit(data_dir: &Path, places: &[PathBuf]) -> anyhow::Result<()> {
    for place in places {
        let staged = staged(place);
        let sync = || -> io::Result<()> {
            File::open(&staged)?.sync_all()?;
            sync_parent(&staged)
        };
        sync().with_context(|| format!("cannot sync {}", staged.display()))?;
    }
    let absolute = places.iter().map(std::path::absolute).collect::<io::Result<_>>()?;
    let text = serde_json::to_vec(&List { places: absolute }).context("cannot write a list")?;
    let path = list(data_dir);
    stage(&path, &text)?;
    let rename = || -> io::Result<()> {
        fs::rename(staged(&path), &path)?;
        sync_parent(&path)
    };
    rename().with_context(|| format!("cannot write {}", path.display()))?;
    finish(data_dir).map(|_| ())
}

/// Goes on with what [`commit`] has begun; answers whether there was anything.
///
/// # Errors
/// A file cannot be moved.
pub(super) fn finish(data_dir: &Path) -> anyhow::Result<bool> {
    let path = list(data_dir);
    let text = match fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        text => text.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let list: List =
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))?;
    for place in &list.places {
        take(place).with_context(|| format!("cannot replace {}", place.display()))?;
    }
    let end = || -> io::Result<()> {
        remove(&path)?;
        sync_parent(&path)
    };
    end().with_context(|| format!("cannot remove {}", path.display()))?;
    Ok(true)
}

/// Removes what a restore that was killed has left beside `places`, where nothing counts on it any more; answers what it was.
///
/// # Errors
/// A file cannot be removed.
pub(super) fn sweep(places: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut swept = Vec::new();
    for place in places {
        let staged = staged(place);
        for suffix in SIDE_FILES.into_iter().chain([""]) {
            let mut name = staged.clone().into_os_string();
            name.push(suffix);
            let left = PathBuf::from(name);
            match fs::remove_file(&left) {
                Ok(()) => swept.push(left),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot remove {}", left.display()));
                }
            }
        }
    }
    Ok(swept)
}

/// Where the list of a restore in `data_dir` is.
pub(super) fn list(data_dir: &Path) -> PathBuf {
    data_dir.join(LIST)
}

fn take(place: &Path) -> io::Result<()> {
    let staged = staged(place);
    // Once it has been moved, what lies beside the place is its own.
    if !staged.try_exists()? {
        return Ok(());
    }
    for suffix in SIDE_FILES {
        let mut name = place.file_name().map(OsStr::to_owned).unwrap_or_default();
        name.push(suffix);
        remove(&place.with_file_name(name))?;
    }
    sync_parent(place)?;
    fs::rename(&staged, place)?;
    sync_parent(place)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes what was renamed or removed in the directory of `path` durable.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    File::open(dir.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> Option<String> {
        fs::read_to_string(path).ok()
    }

    /// A directory with an old database, its log and an old key, and with new ones staged.
    fn scene() -> (tempfile::TempDir, [PathBuf; 2]) {
        let dir = tempfile::tempdir().expect("a directory");
        let places = ["controller.db", "signing-key"].map(|name| dir.path().join(name));
        for place in &places {
            fs::write(place, "old").expect("written");
            stage(place, b"new").expect("staged");
        }
        fs::write(dir.path().join("controller.db-wal"), "old log").expect("written");
        (dir, places)
    }

    #[test]
    fn before_the_list_is_there_nothing_has_changed() {
        let (dir, places) = scene();
        assert!(!finish(dir.path()).expect("nothing to do"));
        for place in &places {
            assert_eq!(read(place).as_deref(), Some("old"));
        }
    }

    #[test]
    fn k1_wherever_a_swap_is_cut_short_the_next_start_ends_it() {
        // Cut after so many files were moved.
        for moved in 0..=2 {
            let (dir, places) = scene();
            let list = serde_json::to_vec(&List { places: places.to_vec() }).expect("JSON");
            fs::write(dir.path().join(LIST), list).expect("written");
            for place in &places[..moved] {
                take(place).expect("moved");
            }
            if moved > 0 {
                fs::write(dir.path().join("controller.db-wal"), "new log").expect("written");
            }
            assert!(finish(dir.path()).expect("ended"));
            for place in &places {
                assert_eq!(read(place).as_deref(), Some("new"), "{moved}");
            }
            let log = read(&dir.path().join("controller.db-wal"));
            assert_eq!(
                log.as_deref(),
                (moved > 0).then_some("new log"),
                "the old log is not the new database's"
            );
            assert!(!finish(dir.path()).expect("nothing to do"));
        }
    }

    #[test]
    fn k1_what_a_killed_restore_has_left_is_swept_and_nothing_else() {
        let (dir, places) = scene();
        for name in ["controller.db.restored-wal", "restore.json.restored", "mine.restored"] {
            fs::write(dir.path().join(name), "left").expect("written");
        }
        let mut swept = places.to_vec();
        swept.push(list(dir.path()));
        assert_eq!(sweep(&swept).expect("swept").len(), 4);
        assert_eq!(sweep(&swept).expect("swept"), Vec::<PathBuf>::new());
        for place in &places {
            assert_eq!(read(place).as_deref(), Some("old"));
        }
        assert!(dir.path().join("mine.restored").exists(), "it is nobody's here");
    }

    #[test]
    fn a_commit_leaves_the_new_files_and_nothing_else() {
        let (dir, places) = scene();
        commit(dir.path(), &places).expect("committed");
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        assert_eq!(names, ["controller.db", "signing-key"]);
        assert_eq!(read(&places[0]).as_deref(), Some("new"));
    }
}
