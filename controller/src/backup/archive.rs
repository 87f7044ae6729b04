//! The file of a backup: a tar archive (POSIX 1003.1 ustar, which every `tar` reads) that tells whether it is whole.
//!
//! The last member but one is the [`Manifest`] with the SHA-256 of every member before it. The last one is the seal: the
//! SHA-256 of every byte before itself, headers and padding too. What is cut short or has lost a bit anywhere does not pass
//! [`verify`]. Nothing here knows what the members mean.

use std::io::{self, Read, Write};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tar::Header;

/// The name of the manifest in the archive.
pub(super) const MANIFEST: &str = "manifest.json";
/// The name of the seal in the archive.
const SEAL: &str = "seal.sha256";
/// What tar counts in, in bytes.
const BLOCK_LEN: u64 = 512;
/// What follows the last byte that the seal covers, in bytes: its header, itself, and the two blocks that end an archive.
const TAIL_LEN: u64 = 4 * BLOCK_LEN;
/// The largest manifest that is read, in bytes: a million members.
const MANIFEST_LEN_MAX: u64 = 256 << 20;
/// What is read at once, in bytes.
const READ_LEN: usize = 256 << 10;

/// One member of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) size_bytes: u64,
    /// Hexadecimal.
    pub(super) sha256: String,
}

/// What an archive says of itself: `about`, which is the caller's, and its members in their order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Manifest<T> {
    #[serde(flatten)]
    pub(super) about: T,
    pub(super) members: Vec<Member>,
}

/// Writes an archive, member by member.
pub(super) struct Writer<W> {
    out: W,
    whole: Sha256,
    members: Vec<Member>,
    /// The one that is being written, and how much of it is missing.
    open: Option<(Member, u64, Sha256)>,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, whole: Sha256::new(), members: Vec::new(), open: None }
    }

    /// Writes a whole member.
    pub(super) fn add(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.begin(name, len(bytes))?;
        self.write(bytes)?;
        self.end()
    }

    /// Begins a member of `size_bytes`.
    pub(super) fn begin(&mut self, name: &str, size_bytes: u64) -> io::Result<()> {
        self.put(header(name, size_bytes)?.as_bytes())?;
        let member = Member { name: name.to_owned(), size_bytes, sha256: String::new() };
        self.open = Some((member, size_bytes, Sha256::new()));
        Ok(())
    }

    /// Writes the next bytes of the member that was begun.
    ///
    /// # Errors
    /// They are more than were announced, or cannot be written.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some((member, missing, hash)) = &mut self.open else {
            return Err(io::Error::other("bytes belong to no member"));
        };
        *missing = missing.checked_sub(len(bytes)).ok_or_else(|| {
            io::Error::other(format!("{} is longer than it was said to be", member.name))
        })?;
        hash.update(bytes);
        self.put(bytes)
    }

    /// Ends the member.
    ///
    /// # Errors
    /// Bytes are missing.
    pub(super) fn end(&mut self) -> io::Result<()> {
        let Some((mut member, missing, hash)) = self.open.take() else { return Ok(()) };
        if missing > 0 {
            let text = format!("{} is {missing} bytes shorter than it was said to be", member.name);
            return Err(io::Error::other(text));
        }
        self.put(&padding(member.size_bytes))?;
        member.sha256 = format!("{:x}", hash.finalize());
        self.members.push(member);
        Ok(())
    }

    /// Writes the manifest and the seal, and gives back what was written to.
    pub(super) fn finish(mut self, about: impl Serialize) -> anyhow::Result<W> {
        let manifest = Manifest { about, members: std::mem::take(&mut self.members) };
        let manifest = serde_json::to_vec_pretty(&manifest).context("cannot write a manifest")?;
        self.add(MANIFEST, &manifest)?;
        let tail = tail(self.whole)?;
        self.out.write_all(&tail)?;
        Ok(self.out)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.whole.update(bytes);
        self.out.write_all(bytes)
    }
}

fn len(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn header(name: &str, size_bytes: u64) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    header.set_path(name)?;
    header.set_size(size_bytes);
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    Ok(header)
}

fn padding(size_bytes: u64) -> Vec<u8> {
    let missing = size_bytes.next_multiple_of(BLOCK_LEN) - size_bytes;
    vec![0; usize::try_from(missing).unwrap_or_default()]
}

/// The seal over what `whole` has taken in, and the end of the archive.
fn tail(whole: Sha256) -> io::Result<Vec<u8>> {
    let seal = format!("{:x}\n", whole.finalize());
    let mut tail = header(SEAL, len(seal.as_bytes()))?.as_bytes().to_vec();
    tail.extend(seal.as_bytes());
    tail.extend(padding(len(seal.as_bytes())));
    tail.resize(usize::try_from(TAIL_LEN).unwrap_or_default(), 0);
    Ok(tail)
}

/// Hashes the first bytes that are read through it.
struct Sealed<R> {
    inner: R,
    whole: Sha256,
    /// How many bytes are still to be hashed.
    left: u64,
    /// What came behind them.
    tail: Vec<u8>,
    progress: Box<dyn FnMut(u64)>,
}

impl<R: Read> Read for Sealed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let bytes = buffer.get(..read).unwrap_or_default();
        let covered = usize::try_from(self.left).unwrap_or(usize::MAX).min(read);
        let (covered, beyond) = bytes.split_at(covered);
        self.whole.update(covered);
        self.left -= len(covered);
        self.tail.extend(beyond);
        (self.progress)(len(bytes));
        Ok(read)
    }
}

/// Reads an archive of `size_bytes` to its end, and answers its manifest if every byte is as it was written. `progress` is
/// told how many bytes have been read each time.
///
/// # Errors
/// It is something else, is cut short, or has come to harm.
pub(super) fn verify<T: serde::de::DeserializeOwned>(
    file: impl Read,
    size_bytes: u64,
    progress: impl FnMut(u64) + 'static,
) -> anyhow::Result<Manifest<T>> {
    let covered = size_bytes.checked_sub(TAIL_LEN).context("it is too short for a backup")?;
    let progress = Box::new(progress);
    let mut sealed =
        Sealed { inner: file, whole: Sha256::new(), left: covered, tail: Vec::new(), progress };
    let (mut found, mut manifest) = (Vec::new(), None);
    let mut archive = tar::Archive::new(&mut sealed);
    for entry in archive.entries()? {
        let mut entry = entry.context("it is no tar archive, or is damaged")?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        match name.as_str() {
            SEAL => break,
            MANIFEST => {
                ensure!(entry.size() <= MANIFEST_LEN_MAX, "its manifest is too long");
                let mut text = Vec::new();
                entry.read_to_end(&mut text)?;
                manifest = Some(serde_json::from_slice(&text).context("its manifest is damaged")?);
            }
            _ => found.push(member(name, &mut entry)?),
        }
    }
    io::copy(&mut sealed, &mut io::sink())?;
    let Some(manifest): Option<Manifest<T>> = manifest else {
        bail!("it has no manifest: it is no backup, or is cut short");
    };
    let is_sealed = sealed.left == 0 && tail(sealed.whole)? == sealed.tail;
    ensure!(is_sealed, "its seal does not fit: it is damaged or cut short");
    ensure!(found == manifest.members, "its members are not those of its manifest");
    Ok(manifest)
}

fn member(name: String, entry: &mut impl Read) -> io::Result<Member> {
    let (mut hash, mut size_bytes) = (Sha256::new(), 0);
    let mut buffer = vec![0; READ_LEN];
    loop {
        let read = entry.read(&mut buffer)?;
        if read == 0 {
            let sha256 = format!("{:x}", hash.finalize());
            return Ok(Member { name, size_bytes, sha256 });
        }
        let bytes = buffer.get(..read).unwrap_or_default();
        hash.update(bytes);
        size_bytes += len(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup() -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        writer.add("tables/a.jsonl", b"[1]\n").expect("memory");
        writer.begin("content/b", 700).expect("memory");
        writer.write(&[7; 300]).expect("memory");
        writer.write(&[8; 400]).expect("memory");
        writer.end().expect("memory");
        writer.finish(serde_json::json!({"format": 1})).expect("memory")
    }

    fn check(bytes: &[u8]) -> anyhow::Result<Manifest<serde_json::Value>> {
        verify(bytes, len(bytes), |_| {})
    }

    #[test]
    fn what_is_whole_is_read_back_by_us_and_by_tar() {
        let bytes = backup();
        let manifest = check(&bytes).expect("whole");
        let names: Vec<_> = manifest.members.iter().map(|member| member.name.as_str()).collect();
        assert_eq!(names, ["tables/a.jsonl", "content/b"]);
        assert_eq!(manifest.about["format"], 1);
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("backup");
        std::fs::write(&path, &bytes).expect("written");
        let listed = std::process::Command::new("tar").arg("-tf").arg(&path).output();
        let listed = listed.expect("every Linux has tar");
        assert_eq!(
            String::from_utf8_lossy(&listed.stdout),
            "tables/a.jsonl\ncontent/b\nmanifest.json\nseal.sha256\n"
        );
    }

    #[test]
    fn a_backup_with_one_bit_changed_anywhere_is_refused() {
        let whole = backup();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            assert!(check(&bytes).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_backup_that_is_cut_short_or_goes_on_is_refused() {
        let whole = backup();
        for len in 0..whole.len() {
            assert!(check(&whole[..len]).is_err(), "{len} bytes");
        }
        assert!(check(&[&whole[..], &[0]].concat()).is_err());
    }

    #[test]
    fn a_member_has_the_length_that_was_said() {
        let mut writer = Writer::new(Vec::new());
        writer.begin("a", 3).expect("memory");
        assert!(writer.write(b"four").is_err());
        let mut writer = Writer::new(Vec::new());
        writer.begin("a", 3).expect("memory");
        writer.write(b"ab").expect("memory");
        assert!(writer.end().is_err());
    }

    #[test]
    fn a_member_may_be_larger_than_eight_gigabytes() {
        let header = header("content/large", 20 << 30).expect("a header");
        assert_eq!(header.size().expect("a size"), 20 << 30);
    }
}
