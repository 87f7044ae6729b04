//! A controller that says exactly what a test wants said.

use pureboot_protocol::{
    Chunks, ContentHash, Manifest, ManifestEntry, PublicKey, Signature, SignedManifest, SiteId,
    Timestamp,
};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use sha2::{Digest as _, Sha256};

pub(super) fn hash_of(bytes: &[u8]) -> ContentHash {
    ContentHash::from_digest(Sha256::digest(bytes).into())
}

/// [`Chunks::SIZE_BYTES`]
const CHUNK_LEN: usize = 1 << 20;

/// The list of chunk hashes, as the controller serves it.
pub(super) fn chunk_list(bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(CHUNK_LEN).flat_map(Sha256::digest).collect()
}

pub(super) fn site() -> SiteId {
    SiteId::from_random([2; 16])
}

pub(super) fn entry(name: &str, bytes: &[u8]) -> ManifestEntry {
    let has_chunks = bytes.len() as u64 > Chunks::SIZE_BYTES;
    ManifestEntry {
        key: name.parse().expect("a name"),
        size_bytes: bytes.len() as u64,
        sha256: hash_of(bytes),
        pinned: name.starts_with("bootloaders/"),
        chunks: has_chunks.then(|| Chunks {
            size_bytes: Chunks::SIZE_BYTES,
            sha256: hash_of(&chunk_list(bytes)),
        }),
    }
}

pub(super) fn manifest(version: u64, entries: Vec<ManifestEntry>) -> Manifest {
    Manifest {
        site_id: site(),
        version,
        issued_at: Timestamp::from_unix_ms(1_000),
        expires_at: Timestamp::from_unix_ms(4_000_000_000_000),
        entries,
    }
}

/// The controller's key.
pub(super) struct Signer(Ed25519KeyPair);

impl Signer {
    pub(super) fn new(seed: u8) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("32 bytes are a seed"))
    }

    pub(super) fn public(&self) -> PublicKey {
        let bytes = self.0.public_key().as_ref().try_into().expect("32 bytes");
        PublicKey::from_bytes(bytes)
    }

    pub(super) fn sign(&self, manifest: &Manifest) -> SignedManifest {
        let payload = serde_json::to_string(manifest).expect("JSON");
        let signature = self.0.sign(&SignedManifest::signed_bytes(&payload));
        let signature = Signature::from_bytes(signature.as_ref().try_into().expect("64 bytes"));
        SignedManifest { payload, signature, key_id: self.public().id() }
    }
}
