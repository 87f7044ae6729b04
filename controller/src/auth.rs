//! Who may call what. The route table names a [`Role`] for every route; [`authorize`] is the one place that decides.

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use pureboot_protocol::{AgentId, CredentialHash, Secret, SiteId};
use sha2::{Digest, Sha256};

use crate::error::ApiError;
use crate::store::Store;

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Everybody; the handler looks for itself.
    Anyone,
    /// Who has an operator's API token, and nobody else.
    Operator,
    /// Who has an agent's credential, and nobody else.
    Agent,
}

/// Whom a credential belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// An operator.
    Operator,
    /// The agent of a site.
    Agent(Agent),
}

/// The agent that calls. Its site is the credential's, whatever the request says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Agent {
    /// The registration.
    pub(crate) id: AgentId,
    /// The site that it speaks for, and the only one.
    pub(crate) site_id: SiteId,
}

/// The hash that a secret is known by.
pub(crate) fn hash(secret: &Secret) -> CredentialHash {
    CredentialHash::from_digest(Sha256::digest(secret.reveal()).into())
}

/// Lets a request with `headers` pass to a route of `role`; answers the agent where it is one.
///
/// # Errors
/// 401 without a credential that is known, 403 with one of another role.
pub(crate) async fn authorize(
    store: &Store,
    role: Role,
    headers: &HeaderMap,
) -> Result<Option<Agent>, ApiError> {
    if role == Role::Anyone {
        return Ok(None);
    }
    let secret = bearer(headers).ok_or(ApiError::Unauthenticated)?;
    // The hash of 256 random bits needs no comparison in constant time: nothing can be learnt towards its preimage.
    let caller = store.caller(hash(&secret)).await?.ok_or(ApiError::Unauthenticated)?;
    match (role, caller) {
        (Role::Operator, Caller::Operator) => Ok(None),
        (Role::Agent, Caller::Agent(agent)) => Ok(Some(agent)),
        (Role::Anyone | Role::Operator | Role::Agent, _) => Err(ApiError::Forbidden(role)),
    }
}

/// The credential of `Authorization: Bearer …` (RFC 6750 §2.1).
fn bearer(headers: &HeaderMap) -> Option<Secret> {
    let (scheme, secret) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| Secret::new(secret.trim().to_owned()))
}

impl<S: Sync> FromRequestParts<S> for Agent {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let agent = parts.extensions.get().copied();
        agent.ok_or(ApiError::Internal(
            "a handler for agents stands on a route of another role".into(),
        ))
    }
}
