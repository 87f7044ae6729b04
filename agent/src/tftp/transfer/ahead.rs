//! The stretch of a file that a transfer holds: what is in flight and a little beyond.
//!
//! Bytes arrive in pieces, in order, one read at a time. The stretch begins with the first block that is not acknowledged and
//! never exceeds [`HELD_BYTES_MAX`], whatever is asked.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::tftp::options::WINDOW_BYTES_MAX;

/// The longest single read, in bytes.
pub const PIECE_BYTES_MAX: usize = 64 << 10;
/// The most bytes of the file in memory. A piece stays until all of it is acknowledged, so this leaves room for a whole window
/// behind an almost acknowledged piece.
const HELD_BYTES_MAX: usize = WINDOW_BYTES_MAX + PIECE_BYTES_MAX;

/// A stretch of a file, which several transfers may hold.
pub type Piece = Rc<Vec<u8>>;

/// The held stretch.
#[derive(Debug)]
pub(super) struct ReadAhead {
    size_bytes: u64,
    piece_bytes: usize,
    pieces: VecDeque<Piece>,
    /// Where in the file the first piece begins.
    start: u64,
    /// Where in the file the last piece ends, and the next read begins.
    end: u64,
    /// The length of the read under way.
    asked: Option<usize>,
}

/// A read that did not bring what it had to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ReadMismatch;

impl ReadAhead {
    /// Nothing of a file of `size_bytes`, to be read `piece_bytes` at a time.
    pub(super) fn new(size_bytes: u64, piece_bytes: usize) -> Self {
        let piece_bytes = piece_bytes.clamp(1, PIECE_BYTES_MAX);
        Self { size_bytes, piece_bytes, pieces: VecDeque::new(), start: 0, end: 0, asked: None }
    }

    /// The read that is due while everything before `needed` may go on the wire, noted as under way.
    pub(super) fn next_read(&mut self, needed: u64) -> Option<(u64, usize)> {
        if self.asked.is_some() || self.end >= self.size_bytes {
            return None;
        }
        let left = usize::try_from(self.size_bytes - self.end).unwrap_or(usize::MAX);
        let held = usize::try_from(self.end - self.start).unwrap_or(HELD_BYTES_MAX);
        let piece = self.piece_bytes.min(left);
        let len = piece.min(HELD_BYTES_MAX.saturating_sub(held));
        let is_needed = self.end < needed;
        // Half a piece before the need, so that the disk works while the wire does.
        let is_worthwhile = len == piece && self.end < needed + to_u64(self.piece_bytes / 2);
        if len == 0 || !(is_needed || is_worthwhile) {
            return None;
        }
        self.asked = Some(len);
        Some((self.end, len))
    }

    /// Takes what the read under way brought: some bytes, and no more than asked.
    pub(super) fn extend(&mut self, bytes: Piece) -> Result<(), ReadMismatch> {
        let asked = self.asked.take().ok_or(ReadMismatch)?;
        if bytes.is_empty() || bytes.len() > asked {
            return Err(ReadMismatch);
        }
        self.end += to_u64(bytes.len());
        self.pieces.push_back(bytes);
        Ok(())
    }

    /// Whether everything before `offset` was read.
    pub(super) fn reaches(&self, offset: u64) -> bool {
        offset <= self.end
    }

    /// Lets go of the pieces that lie before `offset`.
    pub(super) fn release(&mut self, offset: u64) {
        while let Some(piece) = self.pieces.front()
            && self.start + to_u64(piece.len()) <= offset
        {
            self.start += to_u64(piece.len());
            self.pieces.pop_front();
        }
    }

    /// Appends the `len` bytes at `offset`, which must be held, to `out`.
    pub(super) fn copy(&self, offset: u64, len: usize, out: &mut Vec<u8>) {
        let mut skip = usize::try_from(offset.saturating_sub(self.start)).unwrap_or(usize::MAX);
        let mut left = len;
        for piece in &self.pieces {
            let Some(part) = piece.get(skip..) else {
                skip -= piece.len();
                continue;
            };
            let part = part.get(..left).unwrap_or(part);
            out.extend_from_slice(part);
            left -= part.len();
            skip = 0;
            if left == 0 {
                break;
            }
        }
    }
}

fn to_u64(len: usize) -> u64 {
    len.try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn byte_at(offset: u64) -> u8 {
        u8::try_from(offset % 251).expect("a remainder of 251")
    }

    proptest! {
        #[test]
        fn what_is_held_is_the_file_and_bounded(
            size_bytes in 0..600_000u64,
            piece_bytes in 1_000..200_000usize,
            window_bytes in 1..=WINDOW_BYTES_MAX,
            short in 0..3usize,
        ) {
            let window = to_u64(window_bytes);
            let mut ahead = ReadAhead::new(size_bytes, piece_bytes);
            let mut acked = 0;
            while acked < size_bytes {
                let needed = size_bytes.min(acked + window);
                while let Some((offset, len)) = ahead.next_read(needed) {
                    prop_assert_eq!(ahead.next_read(needed), None);
                    let len = (len >> short).max(1);
                    let bytes: Vec<_> = (offset..).take(len).map(byte_at).collect();
                    ahead.extend(bytes.into()).expect("no more than asked");
                    let held: usize = ahead.pieces.iter().map(|piece| piece.len()).sum();
                    prop_assert!(held <= HELD_BYTES_MAX);
                }
                prop_assert!(ahead.reaches(needed));
                let mut out = Vec::new();
                ahead.copy(acked, usize::try_from(needed - acked).expect("a window"), &mut out);
                prop_assert!(out.iter().copied().eq((acked..needed).map(byte_at)));
                acked += (needed - acked).div_ceil(2);
                ahead.release(acked);
            }
            prop_assert!(ahead.pieces.is_empty());
        }
    }

    #[test]
    fn a_read_brings_something_and_no_more_than_asked() {
        let mut ahead = ReadAhead::new(10, PIECE_BYTES_MAX);
        assert_eq!(ahead.extend(vec![1].into()), Err(ReadMismatch));
        assert_eq!(ahead.next_read(10), Some((0, 10)));
        assert_eq!(ahead.extend(vec![].into()), Err(ReadMismatch));
        assert_eq!(ahead.next_read(10), Some((0, 10)));
        assert_eq!(ahead.extend(vec![1; 11].into()), Err(ReadMismatch));
    }
}
