//! Names that a person has pinned at this site: what they stand for never leaves by itself.

use std::cell::RefCell;
use std::collections::BTreeSet;

use anyhow::{Context as _, bail};
use pureboot_protocol::ContentKey;
use serde::{Deserialize, Serialize};

use crate::data_dir::{self, DataDir};

/// The most names.
const PINNED_MAX: usize = 1_000;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    names: BTreeSet<ContentKey>,
}

/// The names, on disk and in memory.
pub struct Pinned {
    data_dir: DataDir,
    names: RefCell<BTreeSet<ContentKey>>,
    /// Changes are made one after the other.
    turn: smol::lock::Mutex<()>,
}

impl Pinned {
    /// Takes up what was pinned in a former life.
    ///
    /// # Errors
    /// The file is there and cannot be read: nothing is to be evicted that a person has pinned.
    pub fn load(data_dir: &DataDir) -> anyhow::Result<Self> {
        let path = data_dir.pins_file();
        let kept = match data_dir::read_private(&path)? {
            Some(text) => serde_json::from_slice(text.as_bytes()).with_context(|| {
                format!("{} is damaged: mend it, or remove it and pin again", path.display())
            })?,
            None => Kept::default(),
        };
        let names = RefCell::new(kept.names);
        Ok(Self { data_dir: data_dir.clone(), names, turn: smol::lock::Mutex::new(()) })
    }

    /// Whether a name is pinned.
    pub fn contains(&self, key: &ContentKey) -> bool {
        self.names.borrow().contains(key)
    }

    /// Every pinned name.
    pub fn names(&self) -> BTreeSet<ContentKey> {
        self.names.borrow().clone()
    }

    /// Pins a name, or lets it go; returns whether that has changed anything. It is on disk then.
    ///
    /// # Errors
    /// There are too many, or the disk fails; then nothing has changed.
    pub async fn set(&self, key: &ContentKey, is_pinned: bool) -> anyhow::Result<bool> {
        let _turn = self.turn.lock().await;
        let mut names = self.names();
        let is_new = match is_pinned {
            true => names.insert(key.clone()),
            false => names.remove(key),
        };
        if !is_new {
            return Ok(false);
        }
        if names.len() > PINNED_MAX {
            bail!("{PINNED_MAX} names are pinned: `pureboot-agent cache unpin` one of them first");
        }
        let text = serde_json::to_string(&Kept { names: names.clone() })
            .context("cannot write the pinned names as JSON")?;
        let path = self.data_dir.pins_file();
        smol::unblock(move || data_dir::write_private(&path, &text)).await?;
        *self.names.borrow_mut() = names;
        Ok(true)
    }
}
