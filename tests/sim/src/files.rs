//! What a crash leaves of a database: its files as they are at that moment.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Result;

/// Files by their place in the list of names; none for one that is not there.
pub(crate) type Image = Vec<Option<Vec<u8>>>;

/// The files `names` of `dir`.
pub(crate) fn read(dir: &Path, names: &[&str]) -> Result<Image> {
    let read = |name: &&str| match fs::read(dir.join(name)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    };
    names.iter().map(read).collect()
}

/// Makes the files `names` of `dir` those of `image`.
pub(crate) fn write(dir: &Path, names: &[&str], image: &Image) -> Result<()> {
    for (name, bytes) in names.iter().zip(image) {
        let path = dir.join(name);
        match bytes {
            Some(bytes) => fs::write(path, bytes)?,
            None => match fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            },
        }
    }
    Ok(())
}
