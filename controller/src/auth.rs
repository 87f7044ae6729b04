//! Who may call what. The route table names a [`Role`] for every route; [`authorize`] is the one place that decides.

pub(crate) mod origin;
pub(crate) mod password;
pub(crate) mod presented;
pub(crate) mod rank;
pub(crate) mod scope;
pub(crate) mod token;

use axum::extract::FromRequestParts;
use axum::http::Method;
use axum::http::request::Parts;
use pureboot_protocol::{AgentId, CredentialHash, Secret, SiteId, Timestamp, TokenId, UserId};
use sha2::{Digest, Sha256};

use crate::auth::rank::Rank;
use crate::auth::scope::{Scope, Scopes};
use crate::error::ApiError;

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Everybody; the handler looks for itself.
    Anyone,
    /// Every person with an account and every API token, whatever the verb.
    Viewer,
    /// Who may change things; what only reads (GET, HEAD) is for viewers as well.
    Operator,
    /// Who decides over people, tokens and the admission of agents.
    Admin,
    /// Who has an agent's credential, and nobody else.
    Agent,
}

impl Role {
    /// What a caller with a rank needs at least; none where no rank opens the route.
    pub(crate) fn rank(self, method: &Method) -> Option<Rank> {
        match self {
            Self::Anyone | Self::Agent => None,
            Self::Viewer => Some(Rank::Viewer),
            Self::Operator if method.is_safe() => Some(Rank::Viewer),
            Self::Operator => Some(Rank::Operator),
            Self::Admin => Some(Rank::Admin),
        }
    }
}

/// Whom a credential belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A person, or a program with an API token.
    Operator(Operator),
    /// The agent of a site.
    Agent(Agent),
}

/// The person that calls, or the API token that a program calls with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Operator {
    /// The account; none behind a token that was made on the controller's own machine.
    pub(crate) user: Option<UserId>,
    /// The account's name, or the token's where there is no account.
    pub(crate) name: String,
    /// What it may do: of a token and its owner, the lesser.
    pub(crate) rank: Rank,
    /// What a token is limited to; none where the rank alone decides.
    pub(crate) scopes: Option<Scopes>,
    /// How it has shown who it is.
    pub(crate) means: Means,
}

impl Operator {
    /// Whoever is limited to scopes must not make, end or unlock what is not.
    ///
    /// # Errors
    /// 403 for a token with scopes.
    pub(crate) fn without_scopes(&self) -> Result<(), ApiError> {
        match self.scopes {
            None => Ok(()),
            Some(_) => Err(ApiError::Scope { needed: None }),
        }
    }

    /// The owner whose tokens the caller may see and end; none for an admin, who may all.
    ///
    /// # Errors
    /// 403 for a token that has no owner and is no admin's.
    pub(crate) fn own_tokens_only(&self) -> Result<Option<UserId>, ApiError> {
        match (self.rank, self.user) {
            (Rank::Admin, _) => Ok(None),
            (_, Some(user)) => Ok(Some(user)),
            (held, None) => Err(ApiError::Rank { needed: Rank::Admin, held }),
        }
    }
}

/// How a caller has shown who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Means {
    /// The cookie of a session.
    Session {
        /// The session.
        hash: CredentialHash,
        /// When it ends at the latest.
        expires_at: Timestamp,
    },
    /// An API token.
    Token {
        /// Which.
        id: TokenId,
        /// When it ends, if ever.
        expires_at: Option<Timestamp>,
    },
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

/// Lets `caller` pass to a route of `role` at `path`.
///
/// # Errors
/// 403 that names what is needed.
pub(crate) fn authorize(
    role: Role,
    method: &Method,
    path: &str,
    caller: &Caller,
) -> Result<(), ApiError> {
    let operator = match (role, caller) {
        (Role::Anyone, _) | (Role::Agent, Caller::Agent(_)) => return Ok(()),
        (Role::Agent, Caller::Operator(_)) => return Err(ApiError::OnlyAgents),
        (_, Caller::Agent(_)) => return Err(ApiError::OnlyOperators),
        (_, Caller::Operator(operator)) => operator,
    };
    let Some(needed) = role.rank(method) else { return Ok(()) };
    if operator.rank < needed {
        return Err(ApiError::Rank { needed, held: operator.rank });
    }
    match (&operator.scopes, Scope::of(needed, path)) {
        (None, _) => Ok(()),
        (Some(scopes), Some(scope)) if scopes.allow(scope) => Ok(()),
        (Some(_), scope) => Err(ApiError::Scope { needed: scope }),
    }
}

impl<S: Sync> FromRequestParts<S> for Agent {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        match parts.extensions.get() {
            Some(Caller::Agent(agent)) => Ok(*agent),
            _ => {
                let fault = "a handler for agents stands on a route of another role";
                Err(ApiError::Internal(fault.into()))
            }
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Operator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        match parts.extensions.get() {
            Some(Caller::Operator(operator)) => Ok(operator.clone()),
            _ => {
                let fault = "a handler for operators stands on a route of another role";
                Err(ApiError::Internal(fault.into()))
            }
        }
    }
}

#[cfg(test)]
mod tests;
