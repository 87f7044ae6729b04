//! Which pieces of an object the site has already, in other objects. Values in, values out.
//!
//! What is said here is a hint: whoever copies a piece hashes it, and fetches it where it is not what it should be.

use std::ops::Range;

use pureboot_protocol::ContentHash;

use crate::cache::{Chunk, ChunkList};

/// The most pieces that are remembered, of all objects together: 24 bytes each.
const PIECES_MAX: usize = 65_536;

/// Less than this is fetched again in one go with what is missing around it, in bytes: a request of its own costs more.
const GAP_LEN_MIN: u64 = 256 << 10;

/// Pieces that are here.
#[derive(Debug, Default)]
pub struct Pieces {
    /// Sorted by the first bytes of their hashes.
    rows: Vec<Row>,
    sources: Vec<ContentHash>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    key: u64,
    offset: u64,
    len: u32,
    source: u32,
}

/// Where a piece is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The object.
    pub sha256: ContentHash,
    /// Where the piece begins in it.
    pub offset: u64,
}

/// What comes next of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stretch {
    /// A chunk that is here.
    Here(Chunk, Place),
    /// Bytes that have to come.
    Missing(Range<u64>),
}

impl Pieces {
    /// The pieces of objects that are held, as many as may be remembered.
    pub fn of<'a>(objects: impl IntoIterator<Item = (ContentHash, &'a ChunkList)>) -> Self {
        let mut pieces = Self::default();
        for (sha256, chunks) in objects {
            let source = u32::try_from(pieces.sources.len()).unwrap_or(u32::MAX);
            pieces.sources.push(sha256);
            let row = |chunk: Chunk| Row {
                key: key(&chunk),
                offset: chunk.start,
                len: u32::try_from(chunk.len()).unwrap_or(u32::MAX),
                source,
            };
            let room = PIECES_MAX - pieces.rows.len();
            pieces.rows.extend(chunks.iter().map(row).take(room));
        }
        pieces.rows.sort_unstable();
        pieces
    }

    /// Whether nothing is here.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Where a chunk is.
    pub fn find(&self, chunk: &Chunk) -> Option<Place> {
        let key = key(chunk);
        let from = self.rows.partition_point(|row| row.key < key);
        let alike = self.rows.iter().skip(from).take_while(|row| row.key == key);
        let row = alike.into_iter().find(|row| row.len as usize == chunk.len())?;
        let sha256 = *self.sources.get(row.source as usize)?;
        Some(Place { sha256, offset: row.offset })
    }

    /// What comes next of an object of these chunks, of which `at` bytes are there.
    pub fn next(&self, chunks: &ChunkList, at: u64, size_bytes: u64) -> Stretch {
        if self.is_empty() {
            return Stretch::Missing(at..size_bytes);
        }
        if let Some(chunk) = chunks.at(at).filter(|chunk| chunk.start == at)
            && let Some(place) = self.find(&chunk)
        {
            return Stretch::Here(chunk, place);
        }
        let mut end = at;
        let mut gap_len = 0;
        let mut next = at;
        while let Some(chunk) = chunks.at(next) {
            next = chunk.end;
            match self.find(&chunk).filter(|_| chunk.start > at) {
                Some(_) => gap_len += chunk.end - chunk.start,
                None => {
                    end = chunk.end;
                    gap_len = 0;
                }
            }
            if gap_len >= GAP_LEN_MIN {
                break;
            }
        }
        Stretch::Missing(at..end)
    }
}

fn key(chunk: &Chunk) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = chunk.digest;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use pureboot_protocol::Chunks;

    use super::*;

    const LEN: u64 = 100 << 10;

    /// A list of chunks of 100 KiB; each letter is one's content.
    fn list(letters: &str) -> ChunkList {
        let row = |letter: u8| {
            let len = u32::try_from(LEN).expect("a length");
            [&len.to_be_bytes()[..], &[letter; Chunks::ROW_LEN - 4]].concat()
        };
        let list: Vec<u8> = letters.bytes().flat_map(row).collect();
        ChunkList::parse(&list, LEN * letters.len() as u64).expect("a list")
    }

    /// How an object is put together: what is copied as its letters, what is fetched as dots, requests apart.
    fn check(held: &str, wanted: &str, expected: &str) {
        let (held, chunks) = (list(held), list(wanted));
        let pieces = Pieces::of([(ContentHash::from_digest([9; 32]), &held)]);
        let size_bytes = LEN * wanted.len() as u64;
        let (mut at, mut way) = (0, String::new());
        while at < size_bytes {
            match pieces.next(&chunks, at, size_bytes) {
                Stretch::Here(chunk, place) => {
                    assert!(place.offset.is_multiple_of(LEN));
                    way.push(char::from(chunk.digest[0]));
                    at = chunk.end;
                }
                Stretch::Missing(range) => {
                    assert_eq!(range.start, at);
                    let count = usize::try_from((range.end - range.start) / LEN).expect("few");
                    way += &format!("({})", ".".repeat(count));
                    at = range.end;
                }
            }
        }
        assert_eq!(way, expected);
    }

    #[test]
    fn what_is_here_is_copied_and_the_rest_fetched() {
        check("abcdefgh", "abcdefgh", "abcdefgh");
        check("abcdefgh", "abcXefgh", "abc(.)efgh");
        check("abcdefgh", "XYabcdefghZ", "(..)abcdefgh(.)");
        check("abc", "xyz", "(...)");
        check("", "xyz", "(...)");
    }

    #[test]
    fn what_is_not_worth_a_request_is_fetched_with_what_is_around_it() {
        check("abcdefgh", "aXbYc", "a(...)c");
        check("abcdefgh", "aXabYc", "a(....)c");
        check("abcdefgh", "aXabcY", "a(.)abc(.)");
    }

    #[test]
    fn a_fetch_that_broke_off_inside_a_chunk_goes_on_there() {
        let chunks = list("abc");
        let pieces = Pieces::of([(ContentHash::from_digest([9; 32]), &chunks)]);
        let next = pieces.next(&chunks, LEN / 2, 3 * LEN);
        assert_eq!(next, Stretch::Missing(LEN / 2..LEN));
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let letters = "a".repeat(40_000);
        let long = list(&letters);
        let hash = ContentHash::from_digest([9; 32]);
        assert_eq!(Pieces::of([(hash, &long), (hash, &long)]).rows.len(), PIECES_MAX);
    }
}
