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
