//! What a start makes sure of, and how a lost index comes back.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use pureboot_protocol::{Category, ContentKey, Timestamp};

use super::files::Files;
use super::index::{Index, Row};
use super::store::{Found, Store};
use super::{Cache, ContentHash, lock};

/// Objects that are on disk and not in the index, because that was lost, and the names that are remembered.
#[derive(Debug, Default)]
pub(super) struct Unverified {
    hashes: Vec<ContentHash>,
    names: BTreeMap<ContentKey, ContentHash>,
}

/// Opens files and index, and makes them agree. Blocks.
pub(super) fn open(directory: &Path) -> Result<(Files, Store, Index, Unverified)> {
    let files = Files::open(directory)
        .with_context(|| format!("cannot use {} as cache", directory.display()))?;
    let swept = files.sweep_temps().context("cannot sweep the cache's tmp/")?;
    if swept > 0 {
        log::info!(swept; "removed half-written files of an earlier run");
    }
    let (mut store, found) = Store::open(directory)?;
    let (index, unverified) = match found {
        Found::Index(mut index) => {
            drop_lost(&files, &mut store, &mut index)?;
            check_bootloaders(&files, &mut store, &mut index)?;
            sweep_unindexed(&files, &index)?;
            (index, Unverified::default())
        }
        Found::Names(names) => rebuild(&files, &mut store, names)?,
    };
    let is_of_use = |hash| {
        index.object(&hash).is_some() || files.has_part(hash) || unverified.hashes.contains(&hash)
    };
    files.sweep_lists(is_of_use).context("cannot sweep the cache's chunks/")?;
    Ok((files, store, index, unverified))
}

/// A row whose object is missing, or has another length, is dropped.
fn drop_lost(files: &Files, store: &mut Store, index: &mut Index) -> Result<()> {
    let rows: Vec<(ContentHash, Row)> = index.objects().collect();
    for (hash, row) in rows {
        if let Err(error) = files.open_object(hash, Some(row.size_bytes)) {
            log::warn!(error:%; "object {hash} is lost, it has to be fetched again");
            store.remove(hash)?;
            index.remove(hash);
        }
    }
    Ok(())
}

/// FAULTS D7: what firmware loads first is read again at every start.
fn check_bootloaders(files: &Files, store: &mut Store, index: &mut Index) -> Result<()> {
    let hashes: Vec<ContentHash> =
        index.objects().map(|(hash, _)| hash).filter(|hash| index.is_bootloader(*hash)).collect();
    for hash in hashes {
        if read_again(files, hash).is_none() {
            store.remove(hash)?;
            index.remove(hash);
        }
    }
    Ok(())
}

/// FAULTS K12: an object without row was never acknowledged to anybody.
fn sweep_unindexed(files: &Files, index: &Index) -> Result<()> {
    for hash in files.hashes().context("cannot list the cache's objects")? {
        if index.object(&hash).is_none()
            && let Err(error) = files.remove_object(hash)
        {
            log::warn!(error:%; "cannot remove object {hash}, which nobody asked for");
        }
    }
    Ok(())
}

/// FAULTS D18: boot loaders are back before anything is served, everything else waits for [`Cache::recover`].
fn rebuild(
    files: &Files,
    store: &mut Store,
    names: BTreeMap<ContentKey, ContentHash>,
) -> Result<(Index, Unverified)> {
    let mut index = Index::default();
    let hashes = files.hashes().context("cannot list the cache's objects")?;
    let bootloaders: HashSet<&ContentHash> = names
        .iter()
        .filter(|(key, _)| key.category() == Category::Bootloaders)
        .map(|(_, hash)| hash)
        .collect();
    let (first, later): (Vec<_>, Vec<_>) =
        hashes.into_iter().partition(|hash| bootloaders.contains(hash));
    for hash in first {
        if let Some(row) = read_again(files, hash) {
            let keys = names_left(&index, &names, hash);
            store.adopt(hash, row, &keys)?;
            take_in(&mut index, hash, row, keys);
        }
    }
    if later.is_empty() {
        store.complete()?;
    }
    Ok((index, Unverified { hashes: later, names }))
}

/// Those of an object's names that stand for nothing newer.
fn names_left(
    index: &Index,
    names: &BTreeMap<ContentKey, ContentHash>,
    hash: ContentHash,
) -> Vec<ContentKey> {
    let is_left =
        |(key, named): &(&ContentKey, &ContentHash)| **named == hash && index.find(key).is_none();
    names.iter().filter(is_left).map(|(key, _)| key.clone()).collect()
}

fn take_in(index: &mut Index, hash: ContentHash, row: Row, keys: Vec<ContentKey>) {
    index.insert(hash, row);
    for key in keys {
        index.name(key, hash);
    }
}

/// Reads an object again. One that is damaged goes into quarantine, one that cannot be read stays where it is; neither is
/// served.
fn read_again(files: &Files, hash: ContentHash) -> Option<Row> {
    match files.verify(hash) {
        Ok((true, metadata)) => {
            let modified = metadata.modified().ok()?.duration_since(UNIX_EPOCH).unwrap_or_default();
            let modified_ms = i64::try_from(modified.as_millis()).unwrap_or(i64::MAX);
            let modified = Timestamp::from_unix_ms(modified_ms);
            Some(Row { size_bytes: metadata.len(), modified })
        }
        Ok((false, _)) => {
            log::error!("object {hash} is damaged, it goes into quarantine");
            if let Err(error) = files.quarantine(hash) {
                log::error!(error:%; "cannot move object {hash} into quarantine");
            }
            None
        }
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                log::error!(error:%; "cannot read object {hash}");
            }
            None
        }
    }
}

impl Cache {
    /// After the loss of the index: reads everything again that is on disk and brings back what is sound. A task does this
    /// while the agent serves; without such a loss it has nothing to do. The answer is how many objects came back.
    ///
    /// # Errors
    /// The disk's; what is left waits for the next start.
    pub async fn recover(&self) -> Result<usize> {
        let hashes = std::mem::take(&mut lock(&self.shared.unverified).hashes);
        if hashes.is_empty() {
            return Ok(0);
        }
        let mut recovered = 0;
        for hash in hashes {
            let shared = Arc::clone(&self.shared);
            if shared.index().object(&hash).is_some() {
                // It has been added anew meanwhile, which verified it.
                continue;
            }
            let Some(row) = smol::unblock(move || read_again(&shared.files, hash)).await else {
                continue;
            };
            let mut store = self.store.lock_arc().await;
            let shared = Arc::clone(&self.shared);
            smol::unblock(move || {
                let keys = names_left(&shared.index(), &lock(&shared.unverified).names, hash);
                store.adopt(hash, row, &keys)?;
                take_in(&mut shared.index(), hash, row, keys);
                anyhow::Ok(())
            })
            .await?;
            recovered += 1;
        }
        let mut store = self.store.lock_arc().await;
        smol::unblock(move || store.complete()).await?;
        log::info!(recovered; "the cache's index is rebuilt");
        Ok(recovered)
    }
}
