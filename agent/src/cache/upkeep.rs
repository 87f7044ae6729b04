//! What a sync does with the cache beside filling it: names that change together, and objects that are read again.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Result;
use pureboot_protocol::{Category, ContentHash, ContentKey};

use super::evict::{Candidate, Lifetime, PRIORITY, Room};
use super::sound::{Damage, Identity, Soundness};
use super::{Cache, ChunkList, is_exhausted, lock, pins};

/// What the manifest says of an object that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// The site is to hold it.
    Wanted,
    /// The site is to hold it whatever is short of space.
    Pinned,
}

impl Cache {
    /// What `key` stands for.
    pub fn named(&self, key: &ContentKey) -> Option<ContentHash> {
        self.shared.index().find(key).map(|(hash, _)| hash)
    }

    /// Whether the manifest has brought a name, which a person has not.
    pub fn is_managed(&self, key: &ContentKey) -> bool {
        self.shared.index().managed().contains(key)
    }

    /// Whether an object is held.
    pub fn holds(&self, hash: &ContentHash) -> bool {
        self.shared.index().object(hash).is_some()
    }

    /// The list of an object's chunks, if one is kept.
    pub async fn chunk_list(&self, hash: ContentHash, size_bytes: u64) -> Option<ChunkList> {
        let shared = Arc::clone(&self.shared);
        smol::unblock(move || shared.files.load_list(hash, size_bytes)).await
    }

    /// Objects that content of this name is likely to have pieces in common with, and their lengths: what the name stands for
    /// now, and the latest of those whose names end alike. At most `most`.
    pub fn relatives(&self, key: &ContentKey, most: usize) -> Vec<(ContentHash, u64)> {
        fn last(key: &ContentKey) -> &str {
            key.path().rsplit('/').next().unwrap_or_default()
        }
        let index = self.shared.index();
        let is_alike =
            |other: &ContentKey| other.category() == key.category() && last(other) == last(key);
        let mut alike: Vec<_> = index.entries().filter(|(other, ..)| is_alike(other)).collect();
        alike.sort_by_key(|(other, _, row)| (*other != key, Reverse(row.modified)));
        let mut seen = HashSet::new();
        alike.retain(|(_, hash, _)| seen.insert(*hash));
        alike.into_iter().take(most).map(|(_, hash, row)| (hash, row.size_bytes)).collect()
    }

    /// Every object.
    pub fn hashes(&self) -> BTreeSet<ContentHash> {
        self.shared.index().objects().map(|(hash, _)| hash).collect()
    }

    /// Whether an object has a name in `category`.
    pub fn is_in(&self, hash: ContentHash, category: Category) -> bool {
        self.shared.index().names_of(hash).any(|key| key.category() == category)
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
            pins::refresh(&shared);
            for orphan in orphans {
                if let Err(error) = shared.remove_object(orphan) {
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
    /// The disk's, or the system lacks descriptors or memory to read it.
    pub async fn verify(&self, hash: ContentHash) -> Result<Option<bool>> {
        if !self.holds(&hash) {
            return Ok(None);
        }
        let shared = Arc::clone(&self.shared);
        match smol::unblock(move || shared.files.verify(hash)).await {
            Ok((true, metadata)) => {
                let sound = Soundness::whole(Identity::of(&metadata));
                lock(&self.shared.soundness).insert(hash, sound);
                Ok(Some(true))
            }
            // Which says nothing of the object.
            Err(error) if is_exhausted(&error) => Err(error.into()),
            Err(error) => {
                log::error!(error:%; "object {hash} cannot be read");
                self.forget(hash).await?;
                Ok(Some(false))
            }
            Ok((false, metadata)) => {
                self.set_aside(Damage { sha256: hash, file: Identity::of(&metadata) }).await?;
                Ok(Some(false))
            }
        }
    }

    /// The next object that was found damaged when somebody read it.
    pub async fn damaged(&self) -> Damage {
        match self.shared.damage.1.recv().await {
            Ok(damage) => damage,
            // The sender lives as long as the receiver.
            Err(_) => std::future::pending().await,
        }
    }

    /// Moves a damaged object into quarantine; it is a miss from then on. A file that has taken its place meanwhile stays.
    ///
    /// # Errors
    /// The disk's.
    pub async fn set_aside(&self, damage: Damage) -> Result<()> {
        let hash = damage.sha256;
        if !self.holds(&hash) {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let is_gone = smol::unblock(move || {
            let (_, now) = shared.files.open_object(hash, None)?;
            let is_it = Identity::of(&now) == damage.file;
            if is_it {
                shared.files.quarantine(hash)?;
            }
            io::Result::Ok(is_it)
        })
        .await;
        let is_gone = match is_gone {
            // Whoever found the damage too was faster, and lets the rest know.
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            is_gone => is_gone?,
        };
        if !is_gone {
            return Ok(());
        }
        log::error!("object {hash} is damaged, it goes into quarantine");
        self.shared.damaged.fetch_add(1, Ordering::Relaxed);
        self.forget(hash).await
    }

    async fn forget(&self, hash: ContentHash) -> Result<()> {
        let mut store = self.store.lock_arc().await;
        let shared = Arc::clone(&self.shared);
        smol::unblock(move || {
            store.remove(hash)?;
            shared.index().remove(hash);
            lock(&shared.opened).remove(&hash);
            lock(&shared.soundness).remove(&hash);
            pins::refresh(&shared);
            Ok(())
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

    /// What may leave, and how much room there is, with a limit of `held_bytes_max`. `wanted` says of an object whether the
    /// manifest names it, and whether it is to stay whatever is short of space.
    ///
    /// # Errors
    /// The disk's.
    pub async fn room(
        &self,
        held_bytes_max: Option<u64>,
        wanted: impl Fn(&ContentHash) -> Option<Standing>,
    ) -> Result<(Vec<Candidate>, Room)> {
        let shared = Arc::clone(&self.shared);
        let space = smol::unblock(move || shared.files.space()).await?;
        let index = self.shared.index();
        let mut by_hand = HashSet::new();
        let mut categories: HashMap<ContentHash, Category> = HashMap::new();
        for (key, hash, _) in index.entries() {
            // They are in the order of how long they are kept, but for boot loaders, which are no candidates.
            let category = categories.entry(hash).or_insert(key.category());
            *category = key.category().max(*category);
            if !index.managed().contains(key) || key.category() == Category::Bootloaders {
                by_hand.insert(hash);
            }
        }
        let opened = lock(&self.shared.opened);
        let mut room = Room { held_bytes: 0, held_bytes_max, spare_bytes: space.spare_bytes() };
        let mut candidates = Vec::new();
        for (sha256, row) in index.objects() {
            room.held_bytes += row.size_bytes;
            let standing = wanted(&sha256);
            let stays = by_hand.contains(&sha256) && standing != Some(Standing::Wanted);
            if stays || standing == Some(Standing::Pinned) || opened.is_read(&sha256) {
                continue;
            }
            candidates.push(Candidate {
                sha256,
                size_bytes: row.size_bytes,
                used_at: index.used_at(&sha256, &row),
                is_wanted: standing.is_some(),
                // What has no name is an image that waits for the rest of its directory.
                category: categories.get(&sha256).copied().unwrap_or(Category::Images),
                priority: PRIORITY,
                lifetime: Lifetime::Usual,
            });
        }
        Ok((candidates, room))
    }

    /// Removes objects and their names; whoever reads one reads on.
    ///
    /// # Errors
    /// The disk's; what is left stays.
    pub async fn drop_objects(&self, hashes: Vec<ContentHash>) -> Result<()> {
        let mut store = self.store.lock_arc().await;
        let shared = Arc::clone(&self.shared);
        smol::unblock(move || {
            for hash in hashes {
                // The row goes first, as everywhere (FAULTS K14).
                store.remove(hash)?;
                shared.index().remove(hash);
                shared.remove_object(hash)?;
            }
            pins::refresh(&shared);
            Ok(())
        })
        .await
    }

    /// The manifest names `keys`: those that are held are its own from now on, and go when it no longer names them. Remembers
    /// at this opportunity when objects were used. What has not changed is not written.
    ///
    /// # Errors
    /// The disk's.
    pub async fn manage(&self, keys: Vec<ContentKey>) -> Result<()> {
        let (managed, uses) = {
            let index = self.shared.index();
            let held = keys.into_iter().filter(|key| index.find(key).is_some());
            let before = index.managed().iter().filter(|key| index.find(key).is_some()).cloned();
            let managed: BTreeSet<ContentKey> = before.chain(held).collect();
            (Some(managed).filter(|managed| managed != index.managed()), index.uses_to_save())
        };
        if managed.is_none() && uses.is_empty() {
            return Ok(());
        }
        let mut store = self.store.lock_arc().await;
        let shared = Arc::clone(&self.shared);
        smol::unblock(move || {
            if let Some(managed) = managed {
                store.save_managed(&managed)?;
                shared.index().set_managed(managed);
            }
            store.save_uses(&uses)?;
            let mut index = shared.index();
            uses.into_iter().for_each(|(hash, at)| index.note_saved_use(hash, at));
            Ok(())
        })
        .await
    }
}
