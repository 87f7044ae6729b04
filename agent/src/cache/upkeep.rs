//! What a sync does with the cache beside filling it: names that change together, and objects that are read again.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::Result;
use pureboot_protocol::{ContentHash, ContentKey};

use super::check::read_again;
use super::{Cache, lock};

impl Cache {
    /// What `key` stands for.
    pub fn named(&self, key: &ContentKey) -> Option<ContentHash> {
        self.shared.index().find(key).map(|(hash, _)| hash)
    }

    /// Whether an object is held.
    pub fn holds(&self, hash: &ContentHash) -> bool {
        self.shared.index().object(hash).is_some()
    }

    /// Lets names stand for objects that are held, all of them at one instant. Objects that have no name left by that are
    /// removed, but for those that are wanted; whoever reads one reads on.
    ///
    /// # Errors
    /// The disk's; then no name has changed.
    pub async fn assume(
        &self,
        names: Vec<(ContentKey, ContentHash)>,
        is_wanted: impl Fn(&ContentHash) -> bool,
    ) -> Result<()> {
        let former = names.iter().filter_map(|(key, _)| self.named(key));
        let kept: HashSet<ContentHash> = former.filter(is_wanted).collect();
        let mut store = self.store.lock_arc().await;
        let shared = Arc::clone(&self.shared);
        smol::unblock(move || {
            let mut orphans = shared.index().orphans(&names);
            orphans.retain(|hash| !kept.contains(hash));
            store.put_all(&names, &orphans)?;
            let mut index = shared.index();
            for (key, hash) in names {
                index.name(key, hash);
            }
            orphans.iter().for_each(|orphan| index.remove(*orphan));
            drop(index);
            for orphan in orphans {
                if let Err(error) = shared.files.remove_object(orphan) {
                    log::warn!(error:%; "object {orphan} has no name left and stays until the next start");
                }
            }
            Ok(())
        })
        .await
    }

    /// Reads an object again. One that is not what its name says goes into quarantine and is a miss from then on (FAULTS D7).
    /// Returns whether it is sound; none if it is not held.
    ///
    /// # Errors
    /// The disk's.
    pub async fn verify(&self, hash: ContentHash) -> Result<Option<bool>> {
        if !self.holds(&hash) {
            return Ok(None);
        }
        let shared = Arc::clone(&self.shared);
        if smol::unblock(move || read_again(&shared.files, hash)).await.is_some() {
            return Ok(Some(true));
        }
        let mut store = self.store.lock_arc().await;
        let shared = Arc::clone(&self.shared);
        smol::unblock(move || {
            store.remove(hash)?;
            shared.index().remove(hash);
            lock(&shared.opened).remove(&hash);
            Ok(Some(false))
        })
        .await
    }

    /// Removes what has come of objects that are not in `wanted`.
    ///
    /// # Errors
    /// The disk's.
    pub async fn sweep_parts(&self, wanted: HashSet<ContentHash>) -> Result<usize> {
        let shared = Arc::clone(&self.shared);
        Ok(smol::unblock(move || shared.files.sweep_parts(|hash| wanted.contains(&hash))).await?)
    }
}
