//! Joining a site: a one-time token against an identity.
//!
//! The agent makes its secret first, keeps it, and sends only its hash. Whatever is lost or killed on the way, the same token
//! with the same secret gets the same answer, and the token is forgotten only after the identity is on disk.

use std::time::Duration;

use anyhow::{Context as _, bail};
use pureboot_protocol::{CredentialHash, RegistrationRequest, RegistrationToken, Secret};
use sha2::{Digest as _, Sha256};
use smol::Timer;

use crate::clock;
use crate::config::Config;
use crate::data_dir::{self, DataDir};
use crate::rng::Rng;
use crate::store::Identity;
use crate::store::Store;
use crate::uplink::controller::{CallError, Controller};
use crate::uplink::standing::Standing;

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
    if let Some(secret) = data_dir::read_secret(&path)? {
        return Ok(secret);
    }
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).context("the system has no random numbers")?;
    let secret = Secret::from_random(bytes);
    data_dir::write_private(&path, secret.reveal())?;
    Ok(secret)
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

/// What the agent says when it joins.
pub fn request(
    config: &Config,
    token: RegistrationToken,
    credential: &Secret,
    agent_url: String,
) -> RegistrationRequest {
    let digest = Sha256::digest(credential.reveal().as_bytes());
    RegistrationRequest {
        site_id: config.site_id,
        token,
        agent_url,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        capabilities: vec!["tftp".to_owned(), "http".to_owned()],
        credential_hash: Some(CredentialHash::from_digest(digest.into())),
    }
}

/// Tries until the controller has taken the agent in and its answer is on disk.
///
/// # Errors
/// The answer cannot be kept.
pub async fn run(
    controller: &Controller,
    request: &RegistrationRequest,
    data_dir: &DataDir,
    store: &Store,
    standing: &Standing,
    rng: &mut Rng,
) -> anyhow::Result<()> {
    let mut pause = RETRY_MIN;
    loop {
        let outcome = controller.register(request).await;
        standing.learn(&outcome, clock::now());
        match outcome {
            Ok(answer) if answer.config.site_id == request.site_id => {
                let identity = Identity {
                    agent_id: answer.agent_id,
                    config: answer.config,
                    config_version: answer.config_version,
                    registered_at: clock::now(),
                };
                store
                    .save_identity(identity.clone())
                    .await
                    .context("cannot keep the registration")?;
                data_dir::remove(&data_dir.token_file())?;
                log::info!(agent:% = identity.agent_id; "joined site {} ({})", identity.config.site_name, request.site_id);
                standing.join(identity);
                return Ok(());
            }
            Ok(answer) => bail!(
                "asked to join site {}, taken into {}",
                request.site_id,
                answer.config.site_id
            ),
            Err(CallError::Refused(refusal)) if refusal.status.is_client_error() => {
                standing.refuse(refusal.to_string(), clock::now());
                Timer::after(refusal.retry_after.unwrap_or(RETRY_REFUSED).min(RETRY_REFUSED)).await;
            }
            Err(_) => {
                Timer::after(rng.duration_between(RETRY_MIN, pause)).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    }
}
