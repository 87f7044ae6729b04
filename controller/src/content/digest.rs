//! What is learnt of bytes while they pass: their length, their hash, and the hash of each chunk.

use pureboot_protocol::{Chunks, ContentHash};
use sha2::{Digest, Sha256};

/// Bytes that have passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Digests {
    /// How many.
    pub(crate) size_bytes: u64,
    /// What all of them hash to.
    pub(crate) sha256: ContentHash,
    /// What each chunk hashes to, 32 bytes each.
    pub(crate) chunks: Vec<u8>,
    /// What `chunks` hash to; none where there is one chunk or none, which `sha256` says all of.
    pub(crate) chunks_sha256: Option<ContentHash>,
}

/// Bytes that are passing.
#[derive(Debug, Default)]
pub(crate) struct Digester {
    whole: Sha256,
    chunk: Sha256,
    /// Bytes in the chunk that is under way.
    chunk_len: u64,
    size_bytes: u64,
    chunks: Vec<u8>,
}

impl Digester {
    /// Takes the next bytes in.
    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        self.whole.update(bytes);
        while !bytes.is_empty() {
            let room = usize::try_from(Chunks::SIZE_BYTES - self.chunk_len).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.chunk.update(now);
            let len = u64::try_from(now.len()).unwrap_or(u64::MAX);
            self.chunk_len += len;
            self.size_bytes += len;
            if self.chunk_len == Chunks::SIZE_BYTES {
                self.end_chunk();
            }
            bytes = later;
        }
    }

    fn end_chunk(&mut self) {
        self.chunks.extend_from_slice(&std::mem::take(&mut self.chunk).finalize());
        self.chunk_len = 0;
    }

    /// Says what was learnt.
    pub(crate) fn finish(mut self) -> Digests {
        if self.chunk_len > 0 {
            self.end_chunk();
        }
        let has_many = self.size_bytes > Chunks::SIZE_BYTES;
        let chunks_sha256 =
            has_many.then(|| ContentHash::from_digest(Sha256::digest(&self.chunks).into()));
        Digests {
            size_bytes: self.size_bytes,
            sha256: ContentHash::from_digest(self.whole.finalize().into()),
            chunks: self.chunks,
            chunks_sha256,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digests(parts: &[&[u8]]) -> Digests {
        let mut digester = Digester::default();
        parts.iter().for_each(|part| digester.update(part));
        digester.finish()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn what_is_learnt_depends_on_the_bytes_and_not_on_how_they_come(
            len in 0..(3_usize << 20), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)
        ) {
            let bytes: Vec<u8> = (0..len).map(|at| (at >> 8 ^ at).to_le_bytes()[0]).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(len + 1)).collect();
            cuts.extend([0, len]);
            cuts.sort_unstable();
            let parts: Vec<&[u8]> = cuts.windows(2).map(|ends| &bytes[ends[0]..ends[1]]).collect();
            let expected: Vec<u8> =
                bytes.chunks(1 << 20).flat_map(|chunk| <[u8; 32]>::from(Sha256::digest(chunk))).collect();
            let learnt = digests(&parts);
            prop_assert_eq!(learnt.size_bytes, len as u64);
            prop_assert_eq!(learnt.sha256.as_bytes(), &<[u8; 32]>::from(Sha256::digest(&bytes)));
            let list = ContentHash::from_digest(Sha256::digest(&expected).into());
            prop_assert_eq!(learnt.chunks_sha256, (len > 1 << 20).then_some(list));
            prop_assert_eq!(learnt.chunks, expected);
        }
    }
}
