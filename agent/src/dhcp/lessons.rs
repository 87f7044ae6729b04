//! What machines have taught about their firmware, since when, and the file that keeps it over a restart.
//!
//! Without I/O; [`super::scribe`] reads and writes the file.

use std::collections::BTreeMap;

use pureboot_protocol::{Mac, Timestamp};
use serde::{Deserialize, Serialize};

use super::quirks::{LESSONS_MAX, Lesson};

/// The form of the file that this program writes and reads.
const FORMAT: u32 = 1;

/// A lesson and when it was learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// What was learned.
    #[serde(flatten)]
    pub lesson: Lesson,
    /// Since when; a proof that comes later does not change it.
    pub since: Timestamp,
}

/// The lessons of a site, at most [`LESSONS_MAX`] of them; the oldest goes first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lessons(BTreeMap<Mac, Kept>);

#[derive(Serialize, Deserialize)]
struct File {
    format: u32,
    lessons: Vec<Kept>,
}

/// Why a file holds no lessons; it is set aside, and they are learned again.
#[derive(Debug, thiserror::Error)]
pub enum LessonsError {
    /// Not written by an agent, or not whole.
    #[error("it is not what an agent writes")]
    Form(#[from] serde_json::Error),
    /// Written by a newer agent.
    #[error("it has format {0} and this program knows {FORMAT}")]
    Format(u32),
}

impl Lessons {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// See [`LessonsError`].
    pub fn parse(text: &str) -> Result<Self, LessonsError> {
        let file: File = serde_json::from_slice(text.as_bytes())?;
        if file.format != FORMAT {
            return Err(LessonsError::Format(file.format));
        }
        let mut lessons = Self::default();
        for kept in file.lessons {
            lessons.note(kept.lesson, kept.since);
        }
        Ok(lessons)
    }

    /// The text of a file.
    pub fn emit(&self) -> String {
        let file = File { format: FORMAT, lessons: self.entries() };
        serde_json::to_string(&file).expect("lessons can be written as JSON")
    }

    /// Takes over a lesson that was learned or proved at `now`.
    pub fn note(&mut self, lesson: Lesson, now: Timestamp) {
        let kept = self.0.entry(lesson.mac).or_insert(Kept { lesson, since: now });
        if kept.lesson.mode != lesson.mode {
            kept.since = now;
        }
        kept.lesson = lesson;
        if self.0.len() > LESSONS_MAX {
            let oldest = self.0.values().filter(|kept| kept.lesson.mac != lesson.mac);
            if let Some(mac) = oldest.min_by_key(|kept| kept.since).map(|kept| kept.lesson.mac) {
                self.0.remove(&mac);
            }
        }
    }

    /// All of them, oldest first.
    pub fn entries(&self) -> Vec<Kept> {
        let mut entries: Vec<_> = self.0.values().copied().collect();
        entries.sort_unstable_by_key(|kept| (kept.since, kept.lesson.mac));
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::quirks::{OfferMode, Proof};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_unix_ms(second * 1_000)
    }

    fn lesson(n: usize, mode: OfferMode, proof: Proof) -> Lesson {
        let [.., high, low] = n.to_be_bytes();
        let mac = Mac::from_bytes([0x52, 0x54, 0, 0, high, low]).expect("unicast");
        Lesson { mac, mode, proof }
    }

    #[test]
    fn lessons_survive_their_own_file() {
        let mut lessons = Lessons::default();
        lessons.note(lesson(2, OfferMode::BootServer, Proof::Untried), at(5));
        lessons.note(lesson(1, OfferMode::Direct, Proof::BothIgnored), at(7));
        assert_eq!(Lessons::parse(&lessons.emit()).expect("read"), lessons);
        let macs: Vec<_> = lessons.entries().iter().map(|kept| kept.lesson.mac).collect();
        assert_eq!(macs, [2, 1].map(|n| lesson(n, OfferMode::Direct, Proof::Untried).mac));
    }

    #[test]
    fn a_proof_does_not_make_a_lesson_younger_and_another_form_does() {
        let mut lessons = Lessons::default();
        let since = |lessons: &Lessons| lessons.entries().first().map(|kept| kept.since);
        lessons.note(lesson(1, OfferMode::BootServer, Proof::Untried), at(5));
        lessons.note(lesson(1, OfferMode::BootServer, Proof::Worked), at(9));
        assert_eq!(since(&lessons), Some(at(5)));
        assert_eq!(lessons.entries().first().map(|kept| kept.lesson.proof), Some(Proof::Worked));
        lessons.note(lesson(1, OfferMode::Direct, Proof::BothIgnored), at(11));
        assert_eq!(since(&lessons), Some(at(11)));
    }

    #[test]
    fn a_full_book_fits_into_a_small_file_and_loses_its_oldest() {
        let mut lessons = Lessons::default();
        for n in 0..LESSONS_MAX + 3 {
            let second = i64::try_from(n).expect("small");
            lessons.note(lesson(n, OfferMode::BootServer, Proof::BothIgnored), at(second));
        }
        assert_eq!(lessons.entries().len(), LESSONS_MAX);
        assert_eq!(lessons.entries().first().map(|kept| kept.since), Some(at(3)));
        assert!(lessons.emit().len() <= 64 * 1024, "{}", lessons.emit().len());
    }

    #[test]
    fn a_damaged_file_is_an_error_and_no_lesson() {
        let text = Lessons::default().emit();
        for damaged in ["", "{", "[]", "\0\0\0", &text[..text.len() - 1], "{\"format\":1}"] {
            assert!(matches!(Lessons::parse(damaged), Err(LessonsError::Form(_))), "{damaged}");
        }
        let error = anyhow::Error::from(Lessons::parse("{").expect_err("half a file"));
        assert_eq!(format!("{error:#}").matches("EOF").count(), 1, "{error:#}");
        let newer = text.replace("\"format\":1", "\"format\":2");
        assert!(matches!(Lessons::parse(&newer), Err(LessonsError::Format(2))));
    }
}
