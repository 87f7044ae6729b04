//! The pieces that an object can be verified by, without I/O: where each begins and ends, and what it hashes to.

use std::sync::Arc;

use pureboot_protocol::{Chunks, ContentHash};
use sha2::{Digest, Sha256};

/// The longest chunk of a list that is believed, in bytes: so much is held in memory to verify one.
const CHUNK_LEN_MAX: usize = 1 << 20;

/// The longest list, in bytes as it is written: that of about 30 GB. What is longer is verified as a whole.
pub const LIST_LEN_MAX: usize = 8 << 20;

/// The chunks of one object, in their order and without a gap. Clones share it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkList {
    rows: Arc<[Row]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    end: u64,
    digest: [u8; 32],
}

/// One chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Its place in the list.
    pub index: usize,
    /// Where it begins in the object.
    pub start: u64,
    /// Where it ends.
    pub end: u64,
    /// What it hashes to.
    pub digest: [u8; 32],
}

impl Chunk {
    /// Its length in bytes.
    pub fn len(&self) -> usize {
        usize::try_from(self.end - self.start).unwrap_or(usize::MAX)
    }

    /// Whether it has no byte, which none of a list has.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether `bytes` are this chunk.
    pub fn is(&self, bytes: &[u8]) -> bool {
        Sha256::digest(bytes)[..] == self.digest
    }
}

impl ChunkList {
    /// Reads a list as it travels ([`Chunks`]); none if it is not one of an object of `size_bytes`.
    pub fn parse(list: &[u8], size_bytes: u64) -> Option<Self> {
        if list.len() > LIST_LEN_MAX || !list.len().is_multiple_of(Chunks::ROW_LEN) {
            return None;
        }
        let mut end = 0;
        let row = |row: &[u8]| {
            let (len, digest) = row.split_first_chunk::<4>()?;
            let len = u32::from_be_bytes(*len);
            let is_chunk = len > 0 && usize::try_from(len).is_ok_and(|len| len <= CHUNK_LEN_MAX);
            end += u64::from(len);
            is_chunk.then_some(Row { end, digest: digest.try_into().ok()? })
        };
        let rows: Option<Arc<[Row]>> = list.chunks(Chunks::ROW_LEN).map(row).collect();
        rows.filter(|_| end == size_bytes).map(|rows| Self { rows })
    }

    /// The list as it travels.
    pub fn emit(&self) -> Vec<u8> {
        let mut list = Vec::with_capacity(self.rows.len() * Chunks::ROW_LEN);
        for chunk in self.iter() {
            list.extend_from_slice(&u32::try_from(chunk.len()).unwrap_or(u32::MAX).to_be_bytes());
            list.extend_from_slice(&chunk.digest);
        }
        list
    }

    /// An object that is one chunk, which its name says all of; none if it is too long for that.
    pub fn whole(sha256: ContentHash, size_bytes: u64) -> Option<Self> {
        let is_short = usize::try_from(size_bytes).is_ok_and(|len| len <= CHUNK_LEN_MAX);
        let row = Row { end: size_bytes, digest: *sha256.as_bytes() };
        is_short.then(|| Self { rows: Arc::new([row]) })
    }

    /// The chunk that the byte at `offset` is in; none behind the end.
    pub fn at(&self, offset: u64) -> Option<Chunk> {
        self.nth(self.rows.partition_point(|row| row.end <= offset))
    }

    /// Every chunk.
    pub fn iter(&self) -> impl Iterator<Item = Chunk> {
        (0..self.rows.len()).filter_map(|index| self.nth(index))
    }

    /// How many chunks there are.
    pub fn count(&self) -> usize {
        self.rows.len()
    }

    fn nth(&self, index: usize) -> Option<Chunk> {
        let Row { end, digest } = *self.rows.get(index)?;
        let before = index.checked_sub(1).and_then(|before| self.rows.get(before));
        Some(Chunk { index, start: before.map_or(0, |row| row.end), end, digest })
    }
}

/// Makes the list of content that came without one, in chunks of one length, and what all of it hashes to.
#[derive(Debug, Default)]
pub(super) struct ListMaker {
    whole: Sha256,
    chunk: Sha256,
    chunk_len: usize,
    end: u64,
    rows: Vec<Row>,
}

impl ListMaker {
    /// Takes the next bytes in.
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        self.whole.update(bytes);
        while !bytes.is_empty() {
            let room = Chunks::LEN_AVERAGE - self.chunk_len;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.chunk.update(now);
            self.chunk_len += now.len();
            self.end += now.len() as u64;
            if self.chunk_len == Chunks::LEN_AVERAGE {
                self.end_chunk();
            }
            bytes = later;
        }
    }

    fn end_chunk(&mut self) {
        self.rows.push(Row { end: self.end, digest: self.chunk.finalize_reset().into() });
        self.chunk_len = 0;
    }

    /// What all that was taken in hashes to, and its chunks; no list where it would be longer than [`LIST_LEN_MAX`].
    pub(super) fn finish(mut self) -> (ContentHash, Option<ChunkList>) {
        if self.chunk_len > 0 {
            self.end_chunk();
        }
        let sha256 = ContentHash::from_digest(self.whole.finalize().into());
        let is_short = self.rows.len() <= LIST_LEN_MAX / Chunks::ROW_LEN;
        (sha256, is_short.then(|| ChunkList { rows: self.rows.into() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(lens: &[u32]) -> Vec<u8> {
        let row = |(index, len): (usize, &u32)| {
            [&len.to_be_bytes()[..], &[u8::try_from(index).expect("few"); 32]].concat()
        };
        lens.iter().enumerate().flat_map(row).collect()
    }

    #[test]
    fn a_byte_is_in_one_chunk_and_the_chunks_leave_no_gap() {
        let chunks = ChunkList::parse(&list(&[3, 1, 4]), 8).expect("a list");
        let place = |offset| chunks.at(offset).map(|chunk| (chunk.index, chunk.start, chunk.end));
        assert_eq!(place(0), Some((0, 0, 3)));
        assert_eq!(place(2), Some((0, 0, 3)));
        assert_eq!(place(3), Some((1, 3, 4)));
        assert_eq!(place(7), Some((2, 4, 8)));
        assert_eq!(place(8), None);
        assert_eq!(chunks.emit(), list(&[3, 1, 4]));
        assert_eq!(chunks.iter().map(|chunk| chunk.len()).sum::<usize>(), 8);
    }

    #[test]
    fn c11_a_list_that_does_not_fit_its_object_is_none() {
        assert_eq!(ChunkList::parse(&list(&[3, 4]), 8), None);
        assert_eq!(ChunkList::parse(&list(&[8, 0]), 8), None, "no chunk is empty");
        let long = u32::try_from(CHUNK_LEN_MAX).expect("a length") + 1;
        assert_eq!(ChunkList::parse(&list(&[long]), u64::from(long)), None);
        assert_eq!(ChunkList::parse(&list(&[8])[1..], 8), None);
        assert_eq!(ChunkList::parse(&vec![0; LIST_LEN_MAX + 1], 8), None);
    }

    #[test]
    fn a_list_is_made_of_what_came_however_it_came() {
        let bytes: Vec<u8> = (0..300_000_u32).map(|at| at.to_le_bytes()[1]).collect();
        let made = |step: usize| {
            let mut maker = ListMaker::default();
            bytes.chunks(step).for_each(|piece| maker.update(piece));
            maker.finish()
        };
        let (sha256, chunks) = made(1_000);
        assert_eq!(sha256.as_bytes()[..], Sha256::digest(&bytes)[..]);
        let chunks = chunks.expect("a list");
        let of =
            |chunk: &Chunk| &bytes[usize::try_from(chunk.start).expect("short")..][..chunk.len()];
        assert!(chunks.iter().all(|chunk| chunk.is(of(&chunk))));
        assert_eq!(chunks.count(), 3);
        assert_eq!(made(300_000), (sha256, Some(chunks)));
    }
}
