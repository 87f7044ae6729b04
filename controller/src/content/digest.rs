//! What is learnt of bytes while they pass: their length, their hash, and where their content cuts them into which chunks.

use fastcdc::v2020::FastCDC;
use pureboot_protocol::{Chunks, ContentHash};
use sha2::{Digest, Sha256};

/// Bytes that have passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Digests {
    /// How many.
    pub(crate) size_bytes: u64,
    /// What all of them hash to.
    pub(crate) sha256: ContentHash,
    /// Their chunks, as [`Chunks`] says.
    pub(crate) chunks: Vec<u8>,
    /// What `chunks` hash to; none where there is one chunk or none, which `sha256` says all of.
    pub(crate) chunks_sha256: Option<ContentHash>,
}

/// Bytes that are passing. It holds what may belong to the next chunk.
#[derive(Debug, Default)]
pub(crate) struct Digester {
    whole: Sha256,
    size_bytes: u64,
    /// What is not cut yet.
    uncut: Vec<u8>,
    chunks: Vec<u8>,
}

impl Digester {
    /// Takes the next bytes in.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.whole.update(bytes);
        self.size_bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        for piece in bytes.chunks(Chunks::LEN_MAX) {
            self.uncut.extend_from_slice(piece);
            // Where the next cut is depends on no byte behind the longest chunk, so not on how the bytes come either.
            self.cut(Chunks::LEN_MAX);
        }
    }

    /// Cuts off chunks as long as `len_min` bytes are left.
    fn cut(&mut self, len_min: usize) {
        let mut rest = self.uncut.as_slice();
        while rest.len() >= len_min {
            let (min, average, max) = (Chunks::LEN_MIN, Chunks::LEN_AVERAGE, Chunks::LEN_MAX);
            let Some(cut) = FastCDC::new(rest, min, average, max).next() else { break };
            let (chunk, later) = rest.split_at(cut.length);
            let len = u32::try_from(chunk.len()).expect("no chunk is longer than LEN_MAX");
            self.chunks.extend_from_slice(&len.to_be_bytes());
            self.chunks.extend_from_slice(&Sha256::digest(chunk));
            rest = later;
        }
        let cut_len = self.uncut.len() - rest.len();
        self.uncut.drain(..cut_len);
    }

    /// Says what was learnt.
    pub(crate) fn finish(mut self) -> Digests {
        self.cut(1);
        let has_many = self.chunks.len() > Chunks::ROW_LEN;
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
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn digests(parts: &[&[u8]]) -> Digests {
        let mut digester = Digester::default();
        parts.iter().for_each(|part| digester.update(part));
        digester.finish()
    }

    /// Bytes in which no stretch comes twice.
    fn noise(len: usize) -> Vec<u8> {
        let words = (0..len.div_ceil(32)).flat_map(|word| Sha256::digest(word.to_le_bytes()));
        words.take(len).collect()
    }

    fn rows(digests: &Digests) -> Vec<&[u8]> {
        digests.chunks.chunks(Chunks::ROW_LEN).collect()
    }

    #[test]
    fn the_cuts_are_those_of_this_format() {
        let digests = digests(&[&noise(1 << 20)]);
        let lens: Vec<u32> = rows(&digests)
            .iter()
            .map(|row| u32::from_be_bytes(row[..4].try_into().expect("four bytes")))
            .collect();
        // Another version of the library that cuts elsewhere would have every site fetch everything again.
        assert_eq!(lens, LENS, "a new FORMAT is needed");
        assert_eq!(lens.iter().sum::<u32>(), 1 << 20);
    }

    const LENS: [u32; 6] = [135_342, 327_432, 98_131, 155_093, 129_096, 203_482];

    #[test]
    fn a_change_costs_the_chunks_around_it() {
        let before = noise(8 << 20);
        let mut after = before.clone();
        after.splice(3_000_000..3_000_010, *b"a longer text than was there");
        let (before, after) = (digests(&[&before]), digests(&[&after]));
        let known: HashSet<&[u8]> = rows(&before).into_iter().collect();
        let new = rows(&after).into_iter().filter(|row| !known.contains(row)).count();
        assert!((1..=2).contains(&new), "{new} of {} chunks", rows(&after).len());
    }

    /// What the second of two files would cost a site that has the first; `ARCHITECTURE.md` has figures.
    #[test]
    #[ignore = "measures two files: set PUREBOOT_OLD and PUREBOOT_NEW"]
    fn what_two_files_have_in_common() {
        let read = |name| {
            let path = std::env::var(name).expect("PUREBOOT_OLD and PUREBOOT_NEW name files");
            digests(&[&std::fs::read(path).expect("a file that can be read")])
        };
        let (old, new) = (read("PUREBOOT_OLD"), read("PUREBOOT_NEW"));
        let known: HashSet<&[u8]> = rows(&old).into_iter().collect();
        let len =
            |row: &&[u8]| u64::from(u32::from_be_bytes(row[..4].try_into().expect("four bytes")));
        let missing: u64 = rows(&new).iter().filter(|row| !known.contains(*row)).map(len).sum();
        let percent = 100.0 * missing as f64 / new.size_bytes as f64;
        let line = format!("{missing} of {} bytes are new: {percent:.1} %\n", new.size_bytes);
        std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes()).expect("told");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn what_is_learnt_depends_on_the_bytes_and_not_on_how_they_come(
            len in 0..(2_usize << 20), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)
        ) {
            let bytes = noise(len);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(len + 1)).collect();
            cuts.extend([0, len]);
            cuts.sort_unstable();
            let parts: Vec<&[u8]> = cuts.windows(2).map(|ends| &bytes[ends[0]..ends[1]]).collect();
            let learnt = digests(&parts);
            prop_assert_eq!(&learnt, &digests(&[&bytes]));
            prop_assert_eq!(learnt.size_bytes, len as u64);
            prop_assert_eq!(learnt.sha256.as_bytes(), &<[u8; 32]>::from(Sha256::digest(&bytes)));
            let mut rest = &bytes[..];
            for row in rows(&learnt) {
                let len = u32::from_be_bytes(row[..4].try_into().expect("four bytes")) as usize;
                let (chunk, later) = rest.split_at(len);
                prop_assert_eq!(&row[4..], &Sha256::digest(chunk)[..]);
                prop_assert!(len <= Chunks::LEN_MAX && (len >= Chunks::LEN_MIN || later.is_empty()));
                rest = later;
            }
            prop_assert!(rest.is_empty());
            let list = ContentHash::from_digest(Sha256::digest(&learnt.chunks).into());
            let has_many = learnt.chunks.len() > Chunks::ROW_LEN;
            prop_assert_eq!(learnt.chunks_sha256, has_many.then_some(list));
        }
    }
}
