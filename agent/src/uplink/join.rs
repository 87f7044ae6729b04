//! Joining a site: a one-time token against an identity.
//!
//! The agent makes its secret first, keeps it, and sends only its hash. Whatever is lost or killed on the way, the same token
//! with the same secret gets the same answer, and the token is forgotten only after the identity is on disk.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use pureboot_protocol::{
    CredentialHash, RegistrationAnswer, RegistrationRequest, RegistrationToken, Secret,
};
use sha2::{Digest as _, Sha256};

use crate::clock::{self, Timer};
use crate::config::Config;
use crate::data_dir::{self, DataDir};
use crate::rng::Rng;
use crate::store::Identity;
use crate::store::Store;
use crate::update::release;
use crate::update::updater::Updater;
use crate::uplink::controller::{CallError, Controller, Trust};
use crate::uplink::standing::Standing;
use crate::world;

/// Between tries when the controller is away: doubled from the first to the last.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Between tries when the controller has refused: a new token may have been made, or the refusal may have been an error.
const RETRY_REFUSED: Duration = Duration::from_secs(300);

/// The secret that the agent speaks for itself with; made at the first call.
///
/// # Errors
/// The file is open to others or cannot be written.
pub fn credential(data_dir: &DataDir) -> anyhow::Result<Secret> {
    let path = data_dir.credential_file();
    match data_dir::read_secret(&path)? {
        Some(secret) => Ok(secret),
        None => make_credential(&path),
    }
}

/// The secret that a token is redeemed with: the next one where `init --rejoin` has prepared one, else the agent's own.
///
/// # Errors
/// As [`credential`].
fn credential_to_join(data_dir: &DataDir) -> anyhow::Result<Secret> {
    match data_dir::read_secret(&data_dir.next_credential_file())? {
        Some(secret) => Ok(secret),
        None => credential(data_dir),
    }
}

/// Makes a secret and keeps it, before anybody is told of it.
///
/// # Errors
/// The file cannot be written.
pub fn make_credential(path: &Path) -> anyhow::Result<Secret> {
    let bytes = world::random().context("the system has no random numbers")?;
    let secret = Secret::from_random(bytes);
    data_dir::write_private(path, secret.reveal())?;
    Ok(secret)
}

/// What lies between a token and an identity.
pub struct Joining<'a> {
    /// The settings.
    pub config: &'a Config,
    /// Keeps token and credentials.
    pub data_dir: &'a DataDir,
    /// Redeems the token.
    pub controller: &'a Controller,
    /// Keeps the identity.
    pub store: &'a Store,
    /// Is told how it goes.
    pub standing: &'a Standing,
    /// Pins the key that other versions of the agent are checked with.
    pub updater: &'a Updater,
    /// Where machines reach the agent, for the controller's operators to read.
    pub agent_url: String,
}

/// The token that has not been redeemed yet; none once it has.
///
/// # Errors
/// The file is open to others or holds no token.
pub fn pending_token(data_dir: &DataDir) -> anyhow::Result<Option<RegistrationToken>> {
    let path = data_dir.token_file();
    let Some(secret) = data_dir::read_secret(&path)? else { return Ok(None) };
    let token =
        secret.reveal().parse().with_context(|| format!("{} is damaged", path.display()))?;
    Ok(Some(token))
}

impl Joining<'_> {
    /// Tries until the controller has taken the agent in and its answer is on disk; returns the credential to go on with.
    ///
    /// An agent that has joined before and whose token is refused goes on as what it is: it was killed between keeping the
    /// answer and forgetting the token, or the new token was no good.
    ///
    /// # Errors
    /// The files of the data directory are open to others, or cannot be written.
    pub async fn run(&self, token: RegistrationToken, rng: &mut Rng) -> anyhow::Result<Secret> {
        let secret = credential_to_join(self.data_dir)?;
        let request = self.request(token, &secret);
        let mut pause = RETRY_MIN;
        loop {
            let outcome = self.controller.register(&request).await;
            self.standing.learn(&outcome, clock::now());
            let rest = match outcome {
                Ok(answer) => match self.keep(answer).await {
                    Ok(()) => return Ok(secret),
                    Err(error) => {
                        log::error!("the registration is not complete, trying again: {error:#}");
                        RETRY_MAX
                    }
                },
                Err(CallError::Refused(refusal)) if refusal.status.is_client_error() => {
                    if self.standing.agent_id().is_some() {
                        log::error!("the token is refused, going on as before: {refusal}");
                        return self.give_up().await;
                    }
                    self.standing.refuse(refusal.to_string(), clock::now());
                    refusal.retry_after.unwrap_or(RETRY_REFUSED).clamp(RETRY_MIN, RETRY_REFUSED)
                }
                Err(_) => {
                    pause = (pause * 2).min(RETRY_MAX);
                    rng.duration_between(RETRY_MIN, pause)
                }
            };
            Timer::after(rest).await;
        }
    }

    /// What the agent says when it joins.
    fn request(&self, token: RegistrationToken, secret: &Secret) -> RegistrationRequest {
        let digest = Sha256::digest(secret.reveal().as_bytes());
        let mut capabilities = vec!["tftp".to_owned(), "http".to_owned()];
        if self.config.dhcp.enabled {
            capabilities.push("proxydhcp".to_owned());
        }
        RegistrationRequest {
            site_id: self.config.site_id,
            token,
            agent_url: self.agent_url.clone(),
            agent_version: release::version().to_string(),
            capabilities,
            credential_hash: Some(CredentialHash::from_digest(digest.into())),
        }
    }

    /// Keeps an answer: credential and signing key first, then who the agent is, and the token goes last. Cut short anywhere, the next
    /// start either repeats the request with the same secret or has all that it needs.
    async fn keep(&self, answer: RegistrationAnswer) -> anyhow::Result<()> {
        let site = self.config.site_id;
        ensure!(
            answer.config.site_id == site,
            "asked to join site {site}, taken into {}",
            answer.config.site_id
        );
        let (next, current) =
            (self.data_dir.next_credential_file(), self.data_dir.credential_file());
        smol::unblock(move || data_dir::promote(&next, &current)).await?;
        // Joining anew is the one way to another key: a person has brought the token for it.
        let (key_file, key) = (self.data_dir.signing_key_file(), answer.signing_key.to_string());
        smol::unblock(move || data_dir::write_private(&key_file, &key)).await?;
        self.controller.trust(Trust { site_id: site, key: answer.signing_key });
        self.updater.join(answer.signing_key).await;
        let identity = Identity {
            agent_id: answer.agent_id,
            config: answer.config,
            config_version: answer.config_version,
            registered_at: clock::now(),
        };
        self.store
            .save_identity(identity.clone())
            .await
            .context("cannot keep who this agent is")?;
        let token = self.data_dir.token_file();
        smol::unblock(move || data_dir::remove(&token)).await?;
        log::info!(agent:% = identity.agent_id; "joined site {} ({site})", identity.config.site_name);
        self.standing.join(identity);
        Ok(())
    }

    async fn give_up(&self) -> anyhow::Result<Secret> {
        let files = [self.data_dir.token_file(), self.data_dir.next_credential_file()];
        smol::unblock(move || files.iter().try_for_each(|file| data_dir::remove(file))).await?;
        credential(self.data_dir)
    }
}
