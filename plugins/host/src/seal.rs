//! What this host compiled itself, kept in a file between starts.
//!
//! ```text
//! 32 bytes    HMAC-SHA-256 by a key that never leaves the host, over the rest, the engine and the component's hash
//! code
//! ```
//!
//! A file that anybody else wrote, or that was compiled for another engine or of another component, does not open, and is then
//! to be deleted and compiled again.

use pureboot_protocol::ContentHash;
use ring::hmac::{self, HMAC_SHA256};

use crate::engine::ENGINE_ID;
use crate::package::Trusted;

/// The length of the key, in bytes.
pub const KEY_LEN: usize = 32;

const TAG_LEN: usize = 32;

/// The key of this host. It has no `Debug`: it stays out of logs.
pub struct SealKey(hmac::Key);

impl SealKey {
    /// The key of these bytes, which have to be random and kept with mode 0600.
    pub fn new(bytes: &[u8; KEY_LEN]) -> Self {
        Self(hmac::Key::new(HMAC_SHA256, bytes))
    }

    fn message(component: ContentHash, code: &[u8]) -> Vec<u8> {
        // The two parts before the code cannot run into each other: the hash has a fixed length, and no engine has a NUL.
        [
            b"pureboot sealed code 1\n",
            component.as_bytes().as_slice(),
            ENGINE_ID.as_bytes(),
            b"\0",
            code,
        ]
        .concat()
    }

    /// What is to be written into the file of `component`.
    pub fn seal(&self, component: ContentHash, code: &[u8]) -> Vec<u8> {
        let tag = hmac::sign(&self.0, &Self::message(component, code));
        [tag.as_ref(), code].concat()
    }

    /// The code of `component`, if this host sealed this file for this engine.
    pub fn open<'a>(&self, component: ContentHash, file: &'a [u8]) -> Option<Trusted<'a>> {
        let (tag, code) = file.split_at_checked(TAG_LEN)?;
        hmac::verify(&self.0, &Self::message(component, code), tag).ok()?;
        Some(Trusted::sealed_here(code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(byte: u8) -> ContentHash {
        ContentHash::from_digest([byte; 32])
    }

    #[test]
    fn p10_what_this_host_sealed_opens_and_nothing_else_does() {
        let key = SealKey::new(&[7; KEY_LEN]);
        let file = key.seal(component(1), b"code");
        assert_eq!(key.open(component(1), &file).map(Trusted::bytes), Some(&b"code"[..]));
        assert!(key.open(component(2), &file).is_none(), "of another component");
        assert!(SealKey::new(&[8; KEY_LEN]).open(component(1), &file).is_none(), "by another host");
        assert!(key.open(component(1), &[]).is_none());
        for place in 0..file.len() {
            let mut changed = file.clone();
            changed[place] ^= 1;
            assert!(key.open(component(1), &changed).is_none(), "byte {place} changed");
        }
    }
}
