//! Disks that take nothing more: a small file system in memory that can be filled, and a file that has turned read-only. Mounting
//! needs root.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::process;

/// The files that fit on a small disk.
const INODES_MAX: usize = 2_000;

/// A file system of a few MiB, until it is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    root: PathBuf,
}

impl SmallDisk {
    /// Makes the directory `root` and mounts it there, open to root alone.
    ///
    /// # Errors
    /// The directory is there, or this user may not mount.
    pub fn mount(root: &Path, mebibytes: u32) -> Result<Self> {
        fs::create_dir(root)?;
        let mut command = process::system("mount")?;
        let options = format!("size={mebibytes}m,nr_inodes={INODES_MAX},mode=700");
        command.args(["-t", "tmpfs", "-o", &options, "pureboot-test"]).arg(root);
        process::succeed(command)?;
        Ok(Self { root: root.to_owned() })
    }

    fn filling(&self) -> PathBuf {
        self.root.join("filling")
    }

    /// Takes all the space that is left.
    ///
    /// # Errors
    /// The file that takes it cannot be made.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::create(self.filling()).context("cannot fill the disk")?;
        for len in [64 << 10, 1] {
            while file.write_all(&vec![0; len]).is_ok() {}
        }
        Ok(())
    }

    /// Takes all inodes that are left: files of no length, for which there is always room.
    ///
    /// # Errors
    /// The disk has more of them than are tried.
    pub fn fill_inodes(&self) -> Result<()> {
        let dir = self.filling();
        fs::create_dir(&dir)?;
        let is_full =
            (0..INODES_MAX).any(|number| File::create(dir.join(number.to_string())).is_err());
        ensure!(is_full, "{INODES_MAX} files fit on the disk");
        Ok(())
    }

    /// Gives back what [`SmallDisk::fill_inodes`] took.
    ///
    /// # Errors
    /// Nothing was taken.
    pub fn free_inodes(&self) -> Result<()> {
        fs::remove_dir_all(self.filling()).context("the disk was not filled")
    }

    /// Gives back what [`SmallDisk::fill`] took.
    ///
    /// # Errors
    /// Nothing was taken.
    pub fn free(&self) -> Result<()> {
        fs::remove_file(self.filling()).context("the disk was not filled")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Whoever still has a file open there keeps it until it ends.
        _ = process::system("umount")
            .map(|mut command| command.arg("--lazy").arg(&self.root).status());
    }
}

/// A file to which every write fails as on a file system that has turned read-only, until this is dropped. (A whole file system
/// cannot be made so by `mount` while a program has files open there for writing.)
#[derive(Debug)]
pub struct ReadOnlyFile {
    path: PathBuf,
}

impl ReadOnlyFile {
    /// Makes the file where it is missing.
    ///
    /// # Errors
    /// This user may not mount.
    pub fn mount(path: &Path) -> Result<Self> {
        File::options().append(true).create(true).open(path)?;
        let mut bind = process::system("mount")?;
        bind.arg("--bind").args([path, path]);
        process::succeed(bind)?;
        let file = Self { path: path.to_owned() };
        let mut turn = process::system("mount")?;
        turn.args(["-o", "remount,bind,ro"]).arg(path);
        process::succeed(turn)?;
        Ok(file)
    }
}

impl Drop for ReadOnlyFile {
    fn drop(&mut self) {
        _ = process::system("umount")
            .map(|mut command| command.arg("--lazy").arg(&self.path).status());
    }
}

/// A file system on which the power can fail: an ext4 in a file in memory.
#[derive(Debug)]
pub struct CrashDisk {
    root: PathBuf,
    /// Power cuts and repairs so far; each is survived by a copy of the file. A namespace that was made meanwhile may still have the file system
    /// mounted that was shut down, and to mount the same file again would be to get it back.
    cuts: usize,
    /// Holds the file; unmounted last.
    store: SmallDisk,
}

/// Shuts a file system down without writing anything more: `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH` (Linux, fs/ext4/ext4.h).
const SHUT_DOWN: &str = r#"open(my $root, "<", $ARGV[0]) or die "$ARGV[0]: $!"; my $flag = pack("L", 2);
    ioctl($root, 0x8004587d, $flag) or die "shut down: $!""#;

impl CrashDisk {
    /// Makes the directory `root` and mounts a new file system of so many MiB there, open to root alone.
    ///
    /// # Errors
    /// The directory is there, or this user may not mount.
    pub fn mount(root: &Path, mebibytes: u32) -> Result<Self> {
        // Some copies may stay for a while; of each, only what is written takes memory.
        let store = SmallDisk::mount(&root.with_added_extension("disk"), 8 * mebibytes)?;
        let disk = Self { root: root.to_owned(), cuts: 0, store };
        File::create(disk.image())?.set_len(u64::from(mebibytes) << 20)?;
        let mut format = process::system("mkfs.ext4")?;
        format.args(["-q", "-F", "-E", "root_owner=0:0"]).arg(disk.image());
        process::succeed(format)?;
        fs::create_dir(root)?;
        disk.attach()?;
        // Nothing but the agent's own files is to be there.
        fs::remove_dir(root.join("lost+found"))?;
        fs::set_permissions(root, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        File::open(root)?.sync_all()?;
        Ok(disk)
    }

    fn image(&self) -> PathBuf {
        self.store.root.join(format!("image.{}", self.cuts))
    }

    fn attach(&self) -> Result<()> {
        let mut mount = process::system("mount")?;
        mount.args(["-t", "ext4", "-o", "loop"]).args([&self.image(), &self.root]);
        process::succeed(mount).map(|_| ())
    }

    /// The power fails, and comes back. `end` ends whoever has files open there. False if something outlived it that nobody had made
    /// durable: then it was no power cut.
    ///
    /// # Errors
    /// The file system cannot be shut down, or not be mounted again.
    pub fn cut_power(&mut self, end: impl FnOnce()) -> Result<bool> {
        let volatile = self.root.join("volatile");
        fs::write(&volatile, "not for long")?;
        let mut shut_down = process::system("perl")?;
        shut_down.args(["-e", SHUT_DOWN]).arg(&self.root);
        process::succeed(shut_down)?;
        end();
        self.come_back()?;
        Ok(fs::read(&volatile).is_ok_and(|left| left.is_empty()) || !volatile.exists())
    }

    /// The kernel finds the file system damaged while it is used, and lets nobody write to it any more (ext4's `abort`). What is there
    /// can be read.
    ///
    /// # Errors
    /// This user may not mount.
    pub fn turn_read_only(&self) -> Result<()> {
        let mut remount = process::system("mount")?;
        remount.args(["-o", "remount,abort"]).arg(&self.root);
        process::succeed(remount).map(|_| ())
    }

    /// Somebody repairs what [`CrashDisk::turn_read_only`] has done. `end` ends whoever has files open there.
    ///
    /// # Errors
    /// It cannot be mounted again.
    pub fn mend(&mut self, end: impl FnOnce()) -> Result<()> {
        end();
        self.come_back()
    }

    /// Mounts anew what is on the disk.
    fn come_back(&mut self) -> Result<()> {
        let mut unmount = process::system("umount")?;
        unmount.arg(&self.root);
        process::succeed(unmount)?;
        let former = self.image();
        self.cuts += 1;
        let mut copy = process::system("cp")?;
        copy.arg("--sparse=always").args([&former, &self.image()]);
        process::succeed(copy)?;
        fs::remove_file(former)?;
        self.attach()
    }
}

impl Drop for CrashDisk {
    fn drop(&mut self) {
        _ = process::system("umount")
            .map(|mut command| command.arg("--lazy").arg(&self.root).status());
    }
}
