//! What this host compiled itself, kept in a file between starts.
//!
//! ```text
//! 32 bytes    HMAC-SHA-256 by a key that never leaves the host, over the rest, the engine and the component's hash
//! code
//! ```
//!
//! A file that anybody else wrote, or that was compiled for another engine or of another component, does not open, and is then
//! to be deleted and compiled again.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use pureboot_protocol::ContentHash;
use ring::hmac::{self, HMAC_SHA256};

use crate::engine::ENGINE_ID;
use crate::package::{CODE_LEN_MAX, Trusted};

/// The length of the key, in bytes.
pub const KEY_LEN: usize = 32;

const TAG_LEN: usize = 32;

/// The key of this host. It has no `Debug`: it stays out of logs.
pub struct SealKey(hmac::Key);

impl SealKey {
    /// The key of these bytes, which have to be random and kept with mode 0600.
    pub fn new(bytes: &[u8; KEY_LEN]) -> Self {
        Self(hmac::Key::new(HMAC_SHA256, bytes))
    }

    fn message(component: ContentHash, code: &[u8]) -> Vec<u8> {
        // The two parts before the code cannot run into each other: the hash has a fixed length, and no engine has a NUL.
        [
            b"pureboot sealed code 1\n",
            component.as_bytes().as_slice(),
            ENGINE_ID.as_bytes(),
            b"\0",
            code,
        ]
        .concat()
    }

    /// What is to be written into the file of `component`.
    pub fn seal(&self, component: ContentHash, code: &[u8]) -> Vec<u8> {
        let tag = hmac::sign(&self.0, &Self::message(component, code));
        [tag.as_ref(), code].concat()
    }

    /// The code of `component`, if this host sealed this file for this engine.
    pub fn open<'a>(&self, component: ContentHash, file: &'a [u8]) -> Option<Trusted<'a>> {
        let (tag, code) = file.split_at_checked(TAG_LEN)?;
        hmac::verify(&self.0, &Self::message(component, code), tag).ok()?;
        Some(Trusted::sealed_here(code))
    }
}

/// The file of the key, beside what it seals.
const KEY_FILE: &str = "seal.key";

/// Sealed files in a directory of this host's own, one for each component.
pub struct SealedFiles {
    dir: PathBuf,
    key: SealKey,
}

/// What a file was found to be.
pub enum Found {
    /// There is none.
    Nothing,
    /// It was not sealed here, or not for this engine; it is deleted.
    Foreign(PathBuf),
    /// Sealed code.
    Sealed(Sealed),
}

/// A sealed file in memory.
pub struct Sealed {
    component: ContentHash,
    bytes: Vec<u8>,
}

impl SealedFiles {
    /// The files in `dir`, which is made if it is missing; so is the key, of `random`.
    ///
    /// # Errors
    /// The directory or the key cannot be made or read, or the key has another length.
    pub fn open(dir: &Path, random: [u8; KEY_LEN]) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let path = dir.join(KEY_FILE);
        let mut file = OpenOptions::new();
        match file.write(true).create_new(true).mode(0o600).open(&path) {
            Ok(mut file) => {
                file.write_all(&random)?;
                file.sync_all()?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let key: [u8; KEY_LEN] = fs::read(&path)?.try_into().map_err(|_| {
            let text =
                format!("{} is no key: delete it, and what it sealed is made anew", path.display());
            io::Error::new(io::ErrorKind::InvalidData, text)
        })?;
        Ok(Self { dir: dir.to_owned(), key: SealKey::new(&key) })
    }

    fn path(&self, component: ContentHash) -> PathBuf {
        self.dir.join(format!("{component}.sealed"))
    }

    /// Keeps code that was compiled here of `component`.
    ///
    /// # Errors
    /// The disk's; then nothing is kept.
    pub fn keep(&self, component: ContentHash, code: &[u8]) -> io::Result<()> {
        let path = self.path(component);
        let half = path.with_extension("half");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&half)?;
        file.write_all(&self.key.seal(component, code))?;
        file.sync_all()?;
        fs::rename(half, path)
    }

    /// Reads the file of `component` once, into memory. One that was not sealed here is deleted and never run.
    ///
    /// # Errors
    /// The disk's.
    pub fn find(&self, component: ContentHash) -> io::Result<Found> {
        let path = self.path(component);
        let file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(error),
        };
        let (mut bytes, most) = (Vec::new(), CODE_LEN_MAX + TAG_LEN);
        file.take(u64::try_from(most).unwrap_or(u64::MAX)).read_to_end(&mut bytes)?;
        if self.key.open(component, &bytes).is_none() {
            fs::remove_file(&path)?;
            return Ok(Found::Foreign(path));
        }
        Ok(Found::Sealed(Sealed { component, bytes }))
    }

    /// The code of what was found; it was sealed here.
    pub fn code<'a>(&self, sealed: &'a Sealed) -> Option<Trusted<'a>> {
        self.key.open(sealed.component, &sealed.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(byte: u8) -> ContentHash {
        ContentHash::from_digest([byte; 32])
    }

    #[test]
    fn p10_what_this_host_sealed_opens_and_nothing_else_does() {
        let key = SealKey::new(&[7; KEY_LEN]);
        let file = key.seal(component(1), b"code");
        assert_eq!(key.open(component(1), &file).map(Trusted::bytes), Some(&b"code"[..]));
        assert!(key.open(component(2), &file).is_none(), "of another component");
        assert!(SealKey::new(&[8; KEY_LEN]).open(component(1), &file).is_none(), "by another host");
        assert!(key.open(component(1), &[]).is_none());
        for place in 0..file.len() {
            let mut changed = file.clone();
            changed[place] ^= 1;
            assert!(key.open(component(1), &changed).is_none(), "byte {place} changed");
        }
    }

    fn sealed(found: io::Result<Found>) -> Option<Sealed> {
        match found.unwrap() {
            Found::Sealed(sealed) => Some(sealed),
            Found::Nothing | Found::Foreign(_) => None,
        }
    }

    #[test]
    fn p10_a_sealed_file_that_was_changed_or_is_another_s_is_deleted_and_named() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let files = SealedFiles::open(dir.path(), [7; KEY_LEN]).unwrap();
        files.keep(component(1), b"code").unwrap();
        // Another start finds the key that the first one has made.
        let files = SealedFiles::open(dir.path(), [8; KEY_LEN]).unwrap();
        let found = sealed(files.find(component(1))).unwrap();
        assert_eq!(files.code(&found).map(Trusted::bytes), Some(&b"code"[..]));
        assert!(matches!(files.find(component(2)), Ok(Found::Nothing)));

        let path = dir.path().join(format!("{}.sealed", component(1)));
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(matches!(files.find(component(1)), Ok(Found::Foreign(named)) if named == path));
        assert!(!path.exists());

        let foreign = SealedFiles::open(other.path(), [9; KEY_LEN]).unwrap();
        foreign.keep(component(1), b"code").unwrap();
        fs::copy(other.path().join(path.file_name().unwrap()), &path).unwrap();
        assert!(matches!(files.find(component(1)), Ok(Found::Foreign(_))), "another host's");
    }
}
