//! Where this very program lies.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// The file that this program was started from.
///
/// # Errors
/// The system does not tell, as where `/proc` is not mounted, and neither does the name by which it was started.
pub fn path() -> anyhow::Result<PathBuf> {
    let by_name = || {
        let name = env::args_os().next()?;
        find(&name, &env::var_os("PATH").unwrap_or_default())
    };
    env::current_exe().or_else(|error| by_name().ok_or(error)).context(
        "cannot tell which program runs: mount /proc, or start the program by its whole path",
    )
}

/// The file that a shell means by `name`.
fn find(name: &OsStr, search_path: &OsStr) -> Option<PathBuf> {
    let places: Vec<PathBuf> = match Path::new(name).components().count() {
        1 => env::split_paths(search_path).map(|dir| dir.join(name)).collect(),
        _ => vec![name.into()],
    };
    let place = places.into_iter().find(|place| place.is_file())?;
    fs::canonicalize(place).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_by_the_name_that_a_shell_started_it_by() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = fs::canonicalize(dir.path()).expect("there");
        let program = root.join("agent");
        fs::write(&program, "").expect("written");
        let search_path = env::join_paths([Path::new("/nowhere"), &root]).expect("a path");
        assert_eq!(find("agent".as_ref(), &search_path), Some(program.clone()));
        assert_eq!(find(program.as_os_str(), OsStr::new("")), Some(program));
        assert_eq!(find("other".as_ref(), &search_path), None);
        assert_eq!(find(root.as_os_str(), &search_path), None, "a directory is no program");
    }
}
