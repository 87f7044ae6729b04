//! The files of the cache. Every call blocks.
//!
//! All of them are reached through directories that were opened once, by names that are hashes or numbers; a link, a FIFO or a
//! second name for a file is refused (FAULTS D15).

use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{self, Read, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{UnlinkatFlags, fsync, unlinkat};
use sha2::{Digest, Sha256};

use super::ContentHash;
use super::chunks::{ChunkList, LIST_LEN_MAX};

/// How many damaged objects are kept for somebody to look at.
const QUARANTINED_MAX: usize = 16;

/// What the names of parts begin with.
const PART: &str = "part-";

const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// What the cache leaves free for what is precious: the database of the site lives on the same disk (FAULTS D2).
const FREE_BYTES_MIN: u64 = 64 << 20;

/// What it leaves free of a large disk, in percent.
const FREE_PERCENT_MIN: u64 = 5;

/// How full a file system is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Space {
    /// Bytes that it has left for this program.
    pub(super) free_bytes: u64,
    /// Bytes that it has.
    pub(super) total_bytes: u64,
}

impl Space {
    /// Bytes that the cache may fill.
    pub(super) fn spare_bytes(&self) -> i64 {
        let floor = (self.total_bytes / 100 * FREE_PERCENT_MIN).max(FREE_BYTES_MIN);
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        signed(self.free_bytes) - signed(floor)
    }
}

/// The directories `objects/`, `chunks/`, `tmp/` and `quarantine/`.
pub(super) struct Files {
    path: PathBuf,
    objects: OwnedFd,
    lists: OwnedFd,
    temps: OwnedFd,
    quarantine: OwnedFd,
    temps_made: AtomicU64,
}

impl Files {
    /// Opens the directories below `path`, making those that are missing.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let root = nix::fcntl::open(path, DIRECTORY, Mode::empty())?;
        Ok(Self {
            path: path.to_owned(),
            objects: open_directory(&root, "objects")?,
            lists: open_directory(&root, "chunks")?,
            temps: open_directory(&root, "tmp")?,
            quarantine: open_directory(&root, "quarantine")?,
            temps_made: AtomicU64::new(0),
        })
    }

    /// A new file for content that is not verified yet, and its name.
    pub(super) fn create_temp(&self) -> io::Result<(String, File)> {
        let name = format!("fill-{}", self.temps_made.fetch_add(1, Ordering::Relaxed));
        let flags =
            OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&self.temps, name.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
        Ok((name, File::from(file)))
    }

    /// The name in `tmp/` of what has come of an object.
    pub(super) fn part_name(hash: ContentHash) -> String {
        format!("{PART}{hash}")
    }

    /// The file of what has come of an object, made where it is missing.
    pub(super) fn open_part(&self, hash: ContentHash) -> io::Result<File> {
        let name = Self::part_name(hash);
        let flags = OFlag::O_RDWR
            | OFlag::O_CREAT
            | OFlag::O_NOFOLLOW
            | OFlag::O_CLOEXEC
            | OFlag::O_NONBLOCK;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let file = File::from(openat(&self.temps, name.as_str(), flags, mode)?);
        let metadata = file.metadata()?;
        if metadata.is_file() && metadata.nlink() == 1 {
            return Ok(file);
        }
        self.remove_temp(&name)?;
        Ok(File::from(openat(&self.temps, name.as_str(), flags | OFlag::O_EXCL, mode)?))
    }

    /// Removes what has come of objects that `is_wanted` does not know.
    pub(super) fn sweep_parts(&self, is_wanted: impl Fn(ContentHash) -> bool) -> io::Result<usize> {
        self.sweep(|name| part_hash(name).is_some_and(|hash| !is_wanted(hash)))
    }

    /// Removes a file that did not become an object.
    pub(super) fn remove_temp(&self, name: &str) -> io::Result<()> {
        remove(&self.temps, name)
    }

    /// Removes what an earlier run left half-written, but for parts of objects that can be gone on with.
    pub(super) fn sweep_temps(&self) -> io::Result<usize> {
        self.sweep(|name| part_hash(name).is_none())
    }

    fn sweep(&self, is_rubbish: impl Fn(&str) -> bool) -> io::Result<usize> {
        let mut swept = 0;
        for entry in fs::read_dir(self.path.join("tmp"))? {
            if let Ok(name) = entry?.file_name().into_string()
                && is_rubbish(&name)
            {
                remove(&self.temps, &name)?;
                swept += 1;
            }
        }
        Ok(swept)
    }

    /// Makes an object of a temporary file whose content is on disk: from here on it exists, and survives a power cut.
    pub(super) fn publish(&self, temp: &str, hash: ContentHash) -> io::Result<()> {
        let name = hash.to_string();
        let shard = self.make_shard(&name)?;
        renameat(&self.temps, temp, &shard, name.as_str())?;
        fsync(&shard)?;
        Ok(())
    }

    /// Opens an object. It must be a plain file with one name and, if `size_bytes` is given, of that length.
    pub(super) fn open_object(
        &self,
        hash: ContentHash,
        size_bytes: Option<u64>,
    ) -> io::Result<(File, Metadata)> {
        let name = hash.to_string();
        let shard = openat(&self.objects, shard_name(&name), DIRECTORY, Mode::empty())?;
        let (file, metadata) = open_plain(&shard, &name)?;
        match size_bytes {
            Some(expected) if expected != metadata.len() => {
                let text = format!("it has {} bytes instead of {expected}", metadata.len());
                Err(io::Error::other(text))
            }
            _ => Ok((file, metadata)),
        }
    }

    /// Whether an object's content is what its name says.
    pub(super) fn verify(&self, hash: ContentHash) -> io::Result<(bool, Metadata)> {
        let (file, metadata) = self.open_object(hash, None)?;
        Ok((hash_of(file)? == hash, metadata))
    }

    /// Removes an object. One that is not there is removed already.
    pub(super) fn remove_object(&self, hash: ContentHash) -> io::Result<()> {
        let name = hash.to_string();
        remove(&self.lists, &name)?;
        match openat(&self.objects, shard_name(&name), DIRECTORY, Mode::empty()) {
            Ok(shard) => remove(&shard, &name),
            Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Moves a damaged object out of the way, where it may be looked at.
    pub(super) fn quarantine(&self, hash: ContentHash) -> io::Result<()> {
        if fs::read_dir(self.path.join("quarantine"))?.count() >= QUARANTINED_MAX {
            return self.remove_object(hash);
        }
        let name = hash.to_string();
        // Whatever makes a list anew reads the object whole, so one that has come to harm itself is not believed for ever.
        remove(&self.lists, &name)?;
        let shard = openat(&self.objects, shard_name(&name), DIRECTORY, Mode::empty())?;
        renameat(&shard, name.as_str(), &self.quarantine, name.as_str())?;
        Ok(())
    }

    /// The objects on disk. What is not named like an object is left alone.
    pub(super) fn hashes(&self) -> io::Result<Vec<ContentHash>> {
        let mut hashes = vec![];
        for shard in fs::read_dir(self.path.join("objects"))? {
            let shard = shard?;
            if !shard.file_type()?.is_dir() {
                continue;
            }
            for entry in fs::read_dir(shard.path())? {
                let name = entry?.file_name();
                hashes.extend(name.to_str().and_then(|name| name.parse::<ContentHash>().ok()));
            }
        }
        Ok(hashes)
    }

    /// Keeps the list of an object's chunks, behind its own hash. It is of use, but nothing is lost with it.
    pub(super) fn save_list(&self, hash: ContentHash, chunks: &ChunkList) -> io::Result<()> {
        let list = chunks.emit();
        let (temp, mut file) = self.create_temp()?;
        let written = file.write_all(&Sha256::digest(&list)).and_then(|()| file.write_all(&list));
        let kept = written.and_then(|()| {
            Ok(renameat(&self.temps, temp.as_str(), &self.lists, hash.to_string().as_str())?)
        });
        kept.inspect_err(|_| _ = self.remove_temp(&temp))
    }

    /// The list that is kept of an object; none if there is none that can be believed.
    pub(super) fn load_list(&self, hash: ContentHash, size_bytes: u64) -> Option<ChunkList> {
        let (file, _) = open_plain(&self.lists, &hash.to_string()).ok()?;
        let mut text = Vec::new();
        file.take((LIST_LEN_MAX + DIGEST_LEN + 1) as u64).read_to_end(&mut text).ok()?;
        let (digest, list) = text.split_at_checked(DIGEST_LEN)?;
        (Sha256::digest(list)[..] == *digest).then(|| ChunkList::parse(list, size_bytes))?
    }

    /// Removes lists of objects that `is_wanted` does not know.
    pub(super) fn sweep_lists(&self, is_wanted: impl Fn(ContentHash) -> bool) -> io::Result<()> {
        for entry in fs::read_dir(self.path.join("chunks"))? {
            if let Ok(name) = entry?.file_name().into_string()
                && !name.parse().is_ok_and(&is_wanted)
            {
                remove(&self.lists, &name)?;
            }
        }
        Ok(())
    }

    /// Whether something has come of an object.
    pub(super) fn has_part(&self, hash: ContentHash) -> bool {
        self.path.join("tmp").join(Self::part_name(hash)).exists()
    }

    /// How full the file system is.
    #[allow(clippy::useless_conversion, reason = "the figures have 32 bits on some targets")]
    pub(super) fn space(&self) -> io::Result<Space> {
        let figures = fstatvfs(&self.temps)?;
        let block_bytes = u64::from(figures.fragment_size());
        let bytes = |blocks: u64| blocks.saturating_mul(block_bytes);
        Ok(Space {
            free_bytes: bytes(u64::from(figures.blocks_available())),
            total_bytes: bytes(u64::from(figures.blocks())),
        })
    }

    fn make_shard(&self, name: &str) -> io::Result<OwnedFd> {
        let shard = shard_name(name);
        match mkdirat(&self.objects, shard, Mode::S_IRWXU) {
            // The directory entry of the directory, too, must survive a power cut.
            Ok(()) => fsync(&self.objects)?,
            Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(openat(&self.objects, shard, DIRECTORY, Mode::empty())?)
    }
}

/// The object that a file in `tmp/` is a part of.
fn part_hash(name: &str) -> Option<ContentHash> {
    name.strip_prefix(PART)?.parse().ok()
}

const DIGEST_LEN: usize = 32;

/// Opens a file, which must be a plain one with one name.
fn open_plain(directory: &OwnedFd, name: &str) -> io::Result<(File, Metadata)> {
    // O_NONBLOCK: to open a FIFO would wait for its writer for ever.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let file = File::from(openat(directory, name, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.nlink() != 1 {
        return Err(io::Error::other("it is not a plain file with one name"));
    }
    Ok((file, metadata))
}

/// What a file hashes to.
fn hash_of(mut file: File) -> io::Result<ContentHash> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(ContentHash::from_digest(hasher.finalize().into())),
            Ok(len) => hasher.update(buffer.get(..len).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn open_directory(parent: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    match mkdirat(parent, name, Mode::S_IRWXU) {
        Ok(()) => fsync(parent)?,
        Err(Errno::EEXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let at = |error: Errno| {
        io::Error::new(io::Error::from(error).kind(), format!("cannot open {name}/: {error}"))
    };
    openat(parent, name, DIRECTORY, Mode::empty()).map_err(at)
}

/// The directory of an object: the first two digits of its name.
fn shard_name(name: &str) -> &str {
    name.get(..2).unwrap_or(name)
}

fn remove(directory: &OwnedFd, name: &str) -> io::Result<()> {
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
