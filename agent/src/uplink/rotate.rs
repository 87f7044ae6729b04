//! Changing the credential: the next one is made and kept, announced under the one that it follows, and takes its place.
//!
//! The controller ends the old one at the first use of the next, so nothing is lost by being cut short: before the announcement
//! the old one is good, after it both are, and the next is used only once it is the agent's own on disk.

use std::time::Duration;

use anyhow::Context as _;
use pureboot_protocol::CredentialHash;
use sha2::{Digest as _, Sha256};
use smol::Timer;

use crate::data_dir::{self, DataDir};
use crate::uplink::controller::{CallError, Controller};
use crate::uplink::join::make_credential;

/// Between tries to finish what a former life has begun.
const RETRY: Duration = Duration::from_secs(30);

/// Gives the agent another credential; one that was prepared before is used.
///
/// # Errors
/// The controller is away or refuses, or the files cannot be written. The old credential is good then, and the same call goes on
/// where this one has ended.
pub async fn rotate(data_dir: &DataDir, controller: &Controller) -> anyhow::Result<()> {
    let (next, current) = (data_dir.next_credential_file(), data_dir.credential_file());
    let path = next.clone();
    let secret = smol::unblock(move || match data_dir::read_secret(&path)? {
        Some(secret) => Ok(secret),
        None => make_credential(&path),
    })
    .await?;
    let digest = Sha256::digest(secret.reveal().as_bytes());
    controller
        .announce(CredentialHash::from_digest(digest.into()))
        .await
        .context("the controller has not taken the next credential")?;
    smol::unblock(move || data_dir::promote(&next, &current)).await?;
    controller.authenticate(secret);
    log::info!("this agent has another credential");
    Ok(())
}

/// Finishes a rotation that was cut short, if there is one. A controller that refuses the next credential ends the attempt, and
/// one that refuses the agent itself is waited for.
pub async fn finish(data_dir: &DataDir, controller: &Controller) {
    while data_dir.next_credential_file().exists() {
        let Err(error) = rotate(data_dir, controller).await else { return };
        log::warn!("the change of the credential is not complete: {error:#}");
        if let Some(CallError::Refused(refusal)) = error.downcast_ref()
            && matches!(refusal.status.as_u16(), 404 | 405 | 409 | 422)
        {
            let next = data_dir.next_credential_file();
            if let Err(error) = smol::unblock(move || data_dir::remove(&next)).await {
                log::warn!("cannot give up the next credential: {error:#}");
            }
        }
        Timer::after(RETRY).await;
    }
}
