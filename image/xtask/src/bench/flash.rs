//! What a program writes below a directory: on a router that is flash, which wears.

use std::fs;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::fd::OwnedFd;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

/// How often the kernel is asked: what is written twice to one file in less than this counts once.
const STEP: Duration = Duration::from_millis(10);

/// Hears of every write below a directory.
#[derive(Debug)]
pub(super) struct Flash {
    events: OwnedFd,
}

impl Flash {
    /// Begins to listen, in the directories that are there now.
    pub(super) fn below(dir: &Path) -> Result<Self> {
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let what = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_TO
            | WatchFlags::ONLYDIR;
        for dir in dirs(dir)? {
            inotify::add_watch(&events, &dir, what).with_context(|| dir.display().to_string())?;
        }
        Ok(Self { events })
    }

    /// How many writes there are within `duration`.
    pub(super) fn count(&self, duration: Duration) -> Result<usize> {
        let (begun, mut count) = (Instant::now(), 0);
        while begun.elapsed() < duration {
            thread::sleep(STEP);
            count += self.arrived()?;
        }
        Ok(count)
    }

    fn arrived(&self) -> Result<usize> {
        let mut buffer = [const { MaybeUninit::uninit() }; 4_096];
        let mut reader = inotify::Reader::new(&self.events, &mut buffer);
        let mut count = 0;
        loop {
            match reader.next() {
                Ok(_) => count += 1,
                Err(Errno::AGAIN) => return Ok(count),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A directory and all that lie in it.
fn dirs(top: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![top.to_owned()];
    let mut next = 0;
    while let Some(dir) = found.get(next).cloned() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                found.push(entry.path());
            }
        }
        next += 1;
    }
    Ok(found)
}
