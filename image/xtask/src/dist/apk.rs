//! A package for apk, which OpenWrt has from 25.12 on: apk-v3(5) and apk-package(5). One tree of values that says everything of the
//! files, then their content, all deflated. It is not signed, as nobody's key is on a router: `apk add --allow-untrusted`.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::write::DeflateEncoder;
use sha2::{Digest, Sha256};

/// A file: its path without a leading slash, its rights, its content. All are root's.
pub(super) type File<'a> = (&'a str, u32, &'a [u8]);

/// What a package says of itself.
pub(super) struct About<'a> {
    pub(super) name: &'a str,
    /// With a release: `1.2.3-r4`.
    pub(super) version: &'a str,
    pub(super) description: &'a str,
    pub(super) license: &'a str,
    pub(super) maintainer: &'a str,
    /// Of all files, in seconds since 1970.
    pub(super) epoch: u64,
    /// Run after it was installed, before it goes, and after it took the place of another version.
    pub(super) post_install: &'a str,
    pub(super) pre_deinstall: &'a str,
    pub(super) post_upgrade: &'a str,
}

/// Deflated, and what is inside: a package.
const DEFLATED: &[u8] = b"ADBd";
const MAGIC: &[u8] = b"ADB.pckg";
/// Kinds of blocks.
const BLOCK_TREE: u32 = 0;
const BLOCK_DATA: u32 = 2;
const BLOCK_LEN_MAX: usize = 0x3fff_ffff;
const BLOCK_ALIGNMENT: usize = 8;
/// Kinds of values, in the highest four bits.
const INT: u32 = 0x1000_0000;
const INT_32: u32 = 0x2000_0000;
const BLOB_8: u32 = 0x8000_0000;
const BLOB_16: u32 = 0x9000_0000;
const BLOB_32: u32 = 0xa000_0000;
const ARRAY: u32 = 0xd000_0000;
const OBJECT: u32 = 0xe000_0000;
const NULL: u32 = 0;
/// An identity: the beginning of a SHA-256.
const IDENTITY_LEN: usize = 20;
/// What a directory may be entered by.
const DIRECTORY_MODE: u32 = 0o755;

/// Packs `files`.
///
/// # Errors
/// A file is larger than the format has room for.
pub(super) fn pack(about: &About<'_>, files: &[File<'_>]) -> Result<Vec<u8>> {
    let dirs = by_directory(files);
    let tree = tree(about, &dirs)?;
    let mut package = MAGIC.to_vec();
    block(&mut package, BLOCK_TREE, &[&tree])?;
    for (dir, files) in (1_u32..).zip(dirs.values()) {
        for (file, (_, _, content)) in (1_u32..).zip(files) {
            if !content.is_empty() {
                let place = [dir.to_le_bytes(), file.to_le_bytes()].concat();
                block(&mut package, BLOCK_DATA, &[&place, content])?;
            }
        }
    }
    let mut deflated = DeflateEncoder::new(DEFLATED.to_vec(), Compression::best());
    deflated.write_all(&package)?;
    Ok(deflated.finish()?)
}

/// Every directory, the root too, with its files by name: in the order that apk wants both in.
fn by_directory<'a>(files: &[File<'a>]) -> BTreeMap<&'a str, Vec<File<'a>>> {
    let mut dirs = BTreeMap::from([("", Vec::new())]);
    for (path, mode, content) in files {
        for (slash, _) in path.match_indices('/') {
            dirs.entry(path.get(..slash).unwrap_or_default()).or_default();
        }
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        dirs.entry(dir).or_default().push((name, *mode, *content));
    }
    for files in dirs.values_mut() {
        files.sort_unstable_by_key(|(name, ..)| *name);
    }
    dirs
}

/// The tree of values; its slots are numbered as apk-package(5) orders its fields.
fn tree(about: &About<'_>, dirs: &BTreeMap<&str, Vec<File<'_>>>) -> Result<Vec<u8>> {
    let mut values = Values::new();
    let len: usize = dirs.values().flatten().map(|(_, _, content)| content.len()).sum();
    let identity = values.blob(&[0; IDENTITY_LEN])?;
    // The program says itself which processor it is for; the script that runs after it was unpacked finds out.
    let info = [
        values.blob(about.name.as_bytes())?,
        values.blob(about.version.as_bytes())?,
        identity,
        values.blob(about.description.as_bytes())?,
        values.blob(b"noarch")?,
        values.blob(about.license.as_bytes())?,
        NULL,
        values.blob(about.maintainer.as_bytes())?,
        NULL,
        NULL,
        values.int(about.epoch)?,
        values.int(u64::try_from(len)?)?,
    ];
    let info = values.slots(OBJECT, &info)?;
    let mut paths = Vec::new();
    for (dir, files) in dirs {
        let mut entries = Vec::new();
        for (name, mode, content) in files {
            let file = [
                values.blob(name.as_bytes())?,
                values.rights(*mode)?,
                values.int(u64::try_from(content.len())?)?,
                values.int(about.epoch)?,
                values.blob(&Sha256::digest(content))?,
            ];
            entries.push(values.slots(OBJECT, &file)?);
        }
        let dir = [
            values.blob(dir.as_bytes())?,
            values.rights(DIRECTORY_MODE)?,
            values.slots(ARRAY, &entries)?,
        ];
        paths.push(values.slots(OBJECT, &dir)?);
    }
    let paths = values.slots(ARRAY, &paths)?;
    let scripts = [
        NULL,
        NULL,
        values.blob(about.post_install.as_bytes())?,
        values.blob(about.pre_deinstall.as_bytes())?,
        NULL,
        NULL,
        values.blob(about.post_upgrade.as_bytes())?,
    ];
    let scripts = values.slots(OBJECT, &scripts)?;
    let root = values.slots(OBJECT, &[info, paths, scripts])?;
    values.finish(root, identity)
}

/// Appends a block, filled up to where the next may begin.
fn block(package: &mut Vec<u8>, kind: u32, parts: &[&[u8]]) -> Result<()> {
    let len = size_of::<u32>() + parts.iter().map(|part| part.len()).sum::<usize>();
    ensure!(len <= BLOCK_LEN_MAX, "a file of {len} bytes is too large for a package");
    package.extend((kind << 30 | u32::try_from(len)?).to_le_bytes());
    package.extend(parts.concat());
    package.resize(package.len() + (len.next_multiple_of(BLOCK_ALIGNMENT) - len), 0);
    Ok(())
}

/// Values one after the other; those that are no small number are known by their places.
struct Values {
    bytes: Vec<u8>,
}

/// Where the root's value stands, after the versions of the format.
const ROOT_AT: usize = 4;

impl Values {
    fn new() -> Self {
        Self { bytes: vec![0; ROOT_AT + size_of::<u32>()] }
    }

    fn put(&mut self, kind: u32, alignment: usize, parts: &[&[u8]]) -> Result<u32> {
        self.bytes.resize(self.bytes.len().next_multiple_of(alignment), 0);
        let place = u32::try_from(self.bytes.len())?;
        ensure!(place < INT, "what a package says of its files is too long");
        self.bytes.extend(parts.concat());
        Ok(kind | place)
    }

    fn int(&mut self, number: u64) -> Result<u32> {
        let number = u32::try_from(number)?;
        if number < INT { Ok(INT | number) } else { self.put(INT_32, 4, &[&number.to_le_bytes()]) }
    }

    fn blob(&mut self, bytes: &[u8]) -> Result<u32> {
        if bytes.is_empty() {
            return Ok(NULL);
        }
        if let Ok(len) = u8::try_from(bytes.len()) {
            self.put(BLOB_8, 1, &[&[len], bytes])
        } else if let Ok(len) = u16::try_from(bytes.len()) {
            self.put(BLOB_16, 2, &[&len.to_le_bytes(), bytes])
        } else {
            self.put(BLOB_32, 4, &[&u32::try_from(bytes.len())?.to_le_bytes(), bytes])
        }
    }

    /// An array or an object: how many words it has, this one too, and what is in it. Nothing at its end is left out.
    fn slots(&mut self, kind: u32, values: &[u32]) -> Result<u32> {
        let len = values.iter().rposition(|value| *value != NULL).map_or(0, |last| last + 1);
        let Some(values) = values.get(..len).filter(|values| !values.is_empty()) else {
            return Ok(NULL);
        };
        let count = u32::try_from(len + 1)?;
        let words: Vec<_> = [count].iter().chain(values).flat_map(|it| it.to_le_bytes()).collect();
        self.put(kind, 4, &[&words])
    }

    /// Who may do what with a file: its rights, and root twice.
    fn rights(&mut self, mode: u32) -> Result<u32> {
        let words = [self.int(mode.into())?, self.blob(b"root")?, self.blob(b"root")?];
        self.slots(OBJECT, &words)
    }

    /// The whole, known by its hash as it is while the place of that is empty.
    fn finish(mut self, root: u32, identity: u32) -> Result<Vec<u8>> {
        let put = |bytes: &mut [u8], at: usize, new: &[u8]| {
            let place = bytes.get_mut(at..at + new.len()).context("a place in the tree")?;
            place.copy_from_slice(new);
            Ok::<_, anyhow::Error>(())
        };
        put(&mut self.bytes, ROOT_AT, &root.to_le_bytes())?;
        let digest = Sha256::digest(&self.bytes);
        let at = usize::try_from(identity ^ BLOB_8)? + 1;
        put(&mut self.bytes, at, digest.get(..IDENTITY_LEN).context("a SHA-256 is longer")?)?;
        Ok(self.bytes)
    }
}

#[cfg(test)]
mod tests;
