//! Files of objects that are open: those that somebody reads, and the few that were opened last. A machine that asks for one range after
//! the other finds its file open, and no thread is woken for each of them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use pureboot_protocol::ContentHash;

use super::sound::SoundFile;

/// Files that stay open when nobody reads them.
const RECENT_MAX: usize = 8;

/// Open files by what they are to hold.
#[derive(Default)]
pub(super) struct OpenFiles {
    files: HashMap<ContentHash, Weak<SoundFile>>,
    /// The one that was opened last stands last.
    recent: VecDeque<(ContentHash, Arc<SoundFile>)>,
}

impl OpenFiles {
    /// The file of an object that somebody reads or has read.
    pub(super) fn get(&self, hash: &ContentHash) -> Option<Arc<SoundFile>> {
        self.files.get(hash)?.upgrade()
    }

    /// A file that was opened just now takes the place of others that hold the same.
    pub(super) fn insert(&mut self, hash: ContentHash, file: &Arc<SoundFile>) {
        self.remove(&hash);
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((hash, Arc::clone(file)));
        self.files.retain(|_, file| file.strong_count() > 0);
        self.files.insert(hash, Arc::downgrade(file));
    }

    /// Nobody finds the file any more; whoever reads it reads on.
    pub(super) fn remove(&mut self, hash: &ContentHash) {
        self.files.remove(hash);
        self.recent.retain(|(recent, _)| recent != hash);
    }

    /// Whether somebody reads an object.
    pub(super) fn is_read(&self, hash: &ContentHash) -> bool {
        let own = self.recent.iter().filter(|(recent, _)| recent == hash).count();
        self.files.get(hash).is_some_and(|file| file.strong_count() > own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(byte: u8) -> ContentHash {
        ContentHash::from_digest([byte; 32])
    }

    fn file(byte: u8) -> Arc<SoundFile> {
        let file = tempfile::tempfile().expect("a file");
        Arc::new(SoundFile::growing(file, hash(byte)).expect("an open file"))
    }

    #[test]
    fn what_was_opened_last_stays_open_and_is_read_by_nobody() {
        let mut opened = OpenFiles::default();
        let most = u8::try_from(RECENT_MAX).expect("a few");
        for byte in 0..=most {
            opened.insert(hash(byte), &file(byte));
        }
        assert!(opened.get(&hash(0)).is_none(), "it had to make room");
        assert!((1..=most).all(|byte| opened.get(&hash(byte)).is_some()));
        assert!((0..=most).all(|byte| !opened.is_read(&hash(byte))));
        let read = opened.get(&hash(most));
        assert!(opened.is_read(&hash(most)));
        drop(read);
        assert!(!opened.is_read(&hash(most)));
    }

    #[test]
    fn what_is_removed_is_closed_with_its_last_reader() {
        let mut opened = OpenFiles::default();
        let first = file(1);
        opened.insert(hash(1), &first);
        opened.remove(&hash(1));
        assert!(opened.get(&hash(1)).is_none());
        assert_eq!(Arc::strong_count(&first), 1, "nothing else holds the file");
        opened.insert(hash(1), &first);
        opened.insert(hash(1), &file(1));
        assert_eq!(Arc::strong_count(&first), 1, "another one has its place");
    }
}
