//! Content: bytes come in, are hashed on their way to where they are kept, and get a name; sites learn by a signed manifest
//! what they are to hold.
//!
//! `digest`, `fields` and `selection` are pure; `objects` keeps bytes, `receive` is an upload from its first byte to its name,
//! `signing` holds the key. The names are the database's: no name is ever a path.

mod digest;
mod fields;
mod objects;
mod receive;
mod selection;
mod signing;

use std::sync::Arc;

use anyhow::{Context, bail};
use tokio::sync::Semaphore;

use crate::config::ContentConfig;
use crate::store::Store;

pub(crate) use digest::Digests;
pub(crate) use fields::{Condition, Part, Tags, emit_digest, is_known, parse_digest, tag};
pub(crate) use objects::{Location, ObjectError, Objects};
pub(crate) use receive::{ReceiveError, Upload, receive};
pub(crate) use selection::{Selection, check_pattern, is_pinned};
pub(crate) use signing::Signer;

/// Uploads at a time: each holds up to a part of an S3 upload in memory.
const UPLOADS_MAX: usize = 8;

/// What handlers need to take and give content. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    /// The bytes.
    pub(crate) objects: Objects,
    /// Vouches for manifests.
    pub(crate) signer: Arc<Signer>,
    /// The largest file, in bytes.
    pub(crate) file_len_max: u64,
    /// Places for uploads.
    pub(crate) uploads: Arc<Semaphore>,
}

impl Content {
    /// Opens the place of the bytes and the key, both made at the first start.
    ///
    /// # Errors
    /// One of them cannot be used, the place is another database's, or the key is another than the one that agents have pinned.
    pub(crate) async fn open(config: &ContentConfig, store: &Store) -> anyhow::Result<Self> {
        let objects = Objects::open(&config.place)?;
        objects.claim(&store.installation().await?).await?;
        Ok(Self {
            objects,
            signer: Arc::new(signer(config, store).await?),
            file_len_max: config.file_len_max,
            uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
        })
    }
}

async fn signer(config: &ContentConfig, store: &Store) -> anyhow::Result<Signer> {
    let path = &config.signing_key_file;
    if config.replaces_signing_key {
        store.forget_signing_key().await?;
        tracing::warn!("the signing key is given up: every agent has to join again");
    }
    let signer = match Signer::load(path)? {
        Some(signer) => signer,
        None => {
            if let Some(pinned) = store.signing_key().await? {
                let id = pinned.id();
                let path = path.display();
                bail!(
                    "{path} is missing, and agents believe signatures of the key {id} only: copy it from another controller or \
                     a backup; if it is lost, start once with --replace-signing-key and let every agent join again"
                );
            }
            Signer::make(path)?
        }
    };
    let is_pinned = store.is_signing_key(signer.public()).await;
    if !is_pinned.context("cannot compare the signing key")? {
        bail!(
            "{} holds the key {}, which is not the one of this database: copy the file from the controller that was first",
            path.display(),
            signer.public().id()
        );
    }
    Ok(signer)
}

#[cfg(test)]
pub(crate) mod tests;
