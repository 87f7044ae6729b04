//! Changing the credential: the next one is made and kept, announced under the one that it follows, and takes its place.
//!
//! The controller ends the old one at the first use of the next, so nothing is lost by being cut short: before the announcement
//! the old one is good, after it both are, and the next is used only once it is the agent's own on disk.
//!
//! An order to change it is written down before it is obeyed, with the credential that it found. When it comes again after a
//! sudden end, another credential in that place means that it has been obeyed.

use std::time::Duration;

use anyhow::Context as _;
use pureboot_protocol::{CommandId, CredentialHash, Secret};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use smol::Timer;
use smol::lock::Mutex;

use crate::data_dir::{self, DataDir};
use crate::uplink::controller::{CallError, Controller};
use crate::uplink::join::{credential, make_credential};
use crate::uplink::orders::Ending;

/// Between tries to finish what a former life has begun.
const RETRY: Duration = Duration::from_secs(30);

/// The order that was obeyed last, or that was to be.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Begun {
    command: CommandId,
    /// What the credential was before.
    before: CredentialHash,
}

/// Changes the agent's credential, one change at a time.
pub struct Rotation<'a> {
    data_dir: &'a DataDir,
    controller: &'a Controller,
    turn: Mutex<()>,
}

impl<'a> Rotation<'a> {
    /// Changes the credential in `data_dir` that `controller` is called with.
    pub fn new(data_dir: &'a DataDir, controller: &'a Controller) -> Self {
        Self { data_dir, controller, turn: Mutex::new(()) }
    }

    /// Changes the credential because the centre orders it, once for each order. None if it could not be done now; what was
    /// begun is gone on with when the order comes again.
    pub async fn obey(&self, command: CommandId) -> Option<Ending> {
        let _turn = self.turn.lock().await;
        match self.is_done(command).await {
            Ok(true) => return Some(Ending::completed("the credential has been changed before")),
            Ok(false) => {}
            Err(error) => {
                log::error!("the order to change the credential cannot be written down: {error:#}");
                return None;
            }
        }
        match self.rotate().await {
            Ok(()) => Some(Ending::completed("the credential has been changed")),
            Err(error) => {
                self.give_up_if_refused(&error).await.then(|| Ending::failed(format!("{error:#}")))
            }
        }
    }

    /// Finishes a rotation that was cut short, if there is one. A controller that refuses the next credential ends the attempt, and
    /// one that refuses the agent itself is waited for.
    pub async fn finish(&self) {
        loop {
            let turn = self.turn.lock().await;
            if !self.data_dir.next_credential_file().exists() {
                return;
            }
            let Err(error) = self.rotate().await else { return };
            self.give_up_if_refused(&error).await;
            drop(turn);
            Timer::after(RETRY).await;
        }
    }

    /// Whether `command` has been obeyed; if not, it is written down as begun.
    async fn is_done(&self, command: CommandId) -> anyhow::Result<bool> {
        let data_dir = self.data_dir.clone();
        smol::unblock(move || {
            let before = hash(&credential(&data_dir)?);
            let file = data_dir.rotation_file();
            let text = data_dir::read_private(&file)?.unwrap_or_default();
            // What cannot be read tells of no order.
            let last = serde_json::from_slice::<Begun>(text.as_bytes()).ok();
            if let Some(last) = last.filter(|last| last.command == command) {
                return Ok(last.before != before);
            }
            let begun = serde_json::to_string(&Begun { command, before })
                .context("cannot put the order into words")?;
            data_dir::write_private(&file, &begun)?;
            Ok(false)
        })
        .await
    }

    /// Gives the agent another credential; one that was prepared before is used.
    ///
    /// # Errors
    /// The controller is away or refuses, or the files cannot be written. The old credential is good then, and the same call goes
    /// on where this one has ended.
    async fn rotate(&self) -> anyhow::Result<()> {
        let (next, current) =
            (self.data_dir.next_credential_file(), self.data_dir.credential_file());
        let path = next.clone();
        let secret = smol::unblock(move || match data_dir::read_secret(&path)? {
            Some(secret) => Ok(secret),
            None => make_credential(&path),
        })
        .await?;
        self.controller
            .announce(hash(&secret))
            .await
            .context("the controller has not taken the next credential")?;
        smol::unblock(move || data_dir::promote(&next, &current)).await?;
        self.controller.authenticate(secret);
        log::info!("this agent has another credential");
        Ok(())
    }

    /// Gives the next credential up where the controller does not want it; answers whether that is so.
    async fn give_up_if_refused(&self, error: &anyhow::Error) -> bool {
        log::warn!("the change of the credential is not complete: {error:#}");
        let Some(CallError::Refused(refusal)) = error.downcast_ref() else { return false };
        if !matches!(refusal.status.as_u16(), 404 | 405 | 409 | 422) {
            return false;
        }
        let next = self.data_dir.next_credential_file();
        if let Err(error) = smol::unblock(move || data_dir::remove(&next)).await {
            log::warn!("cannot give up the next credential: {error:#}");
        }
        true
    }
}

fn hash(secret: &Secret) -> CredentialHash {
    CredentialHash::from_digest(Sha256::digest(secret.reveal().as_bytes()).into())
}

#[cfg(test)]
mod tests;
