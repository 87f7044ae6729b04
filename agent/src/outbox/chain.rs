//! The chain through the changes of an epoch: who has the same link has the same changes before it.

use pureboot_protocol::{ChainHash, ChangeHead};
use sha2::{Digest, Sha256};

/// The link of a change that follows the link `before`.
pub(super) fn link(before: ChainHash, head: &ChangeHead) -> ChainHash {
    ChainHash::from_digest(Sha256::digest(head.link(before)).into())
}
