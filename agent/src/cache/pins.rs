//! Small loaders in memory: what firmware loads first is there at once whatever the disk does.
//!
//! Firmware asks for a loader once or a few times and then gives up, and no loader can make it wait. So the bytes of loaders are
//! read when they come into the cache and at the start of the agent, checked against their hash, and kept. Blocks.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::FileExt as _;

use hyper::body::Bytes;
use pureboot_protocol::Category;
use sha2::{Digest as _, Sha256};

use super::index::{Index, Row};
use super::{ContentHash, Shared, lock};

/// What all pinned loaders may take, in bytes. A dozen usual ones are less; the smallest come first.
pub const PINNED_BYTES_MAX: u64 = 3 << 20;

/// The loaders that are in memory.
#[derive(Debug, Default)]
pub(super) struct Pins {
    held: HashMap<ContentHash, Bytes>,
}

impl Pins {
    pub(super) fn get(&self, hash: ContentHash) -> Option<Bytes> {
        self.held.get(&hash).cloned()
    }
}

/// Makes what is pinned what the index wants pinned. A loader that cannot be read stays on disk alone, and is complained about.
pub(super) fn refresh(shared: &Shared) {
    let wanted = plan(&shared.index());
    let missing: Vec<_> = {
        let mut pins = lock(&shared.pins);
        pins.held.retain(|hash, _| wanted.iter().any(|(wanted, _)| wanted == hash));
        wanted.into_iter().filter(|(hash, _)| !pins.held.contains_key(hash)).collect()
    };
    for (hash, row) in missing {
        match read(shared, hash, row) {
            Ok(bytes) => _ = lock(&shared.pins).held.insert(hash, bytes),
            Err(error) => log::warn!(error:%; "loader {hash} is not kept in memory: {error}"),
        }
    }
}

/// The loaders to be pinned: the smallest first, as many as fit.
fn plan(index: &Index) -> Vec<(ContentHash, Row)> {
    let named = index.entries().filter(|(key, ..)| key.category() == Category::Bootloaders);
    let loaders: HashMap<_, _> = named.map(|(_, hash, row)| (hash, row)).collect();
    let mut loaders: Vec<_> = loaders.into_iter().collect();
    loaders.sort_unstable_by_key(|(hash, row)| (row.size_bytes, *hash.as_bytes()));
    let mut taken_bytes = 0;
    loaders.retain(|(_, row)| {
        taken_bytes += row.size_bytes;
        taken_bytes <= PINNED_BYTES_MAX
    });
    loaders
}

fn read(shared: &Shared, hash: ContentHash, row: Row) -> io::Result<Bytes> {
    let (file, _) = shared.files.open_object(hash, Some(row.size_bytes))?;
    let len = usize::try_from(row.size_bytes).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0)?;
    if ContentHash::from_digest(Sha256::digest(&bytes).into()) != hash {
        return Err(io::Error::other("its content is not what its name says"));
    }
    Ok(bytes.into())
}
