//! How an agent joins.

use serde::{Deserialize, Serialize};

use crate::{AgentId, CredentialHash, PublicKey, RegistrationToken, Secret, SiteConfig, SiteId};

/// An agent's first words: the token proves that it may join, the hash is all that the controller learns of its credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RegistrationRequest {
    /// The site to join.
    pub site_id: SiteId,
    /// The one-time token that an operator made for the site.
    pub token: RegistrationToken,
    /// Where machines of the site reach the agent, for people to read; the controller never calls it.
    pub agent_url: String,
    /// The agent's version.
    pub agent_version: String,
    /// What the agent can do.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// SHA-256 of the secret that the agent has made for itself; without it the controller makes a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_hash: Option<CredentialHash>,
}

/// What an agent needs to know from then on. The same request within the token's life gets the same answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RegistrationAnswer {
    /// Always true; a refusal is a problem document.
    pub success: bool,
    /// The agent's identity from now on.
    pub agent_id: AgentId,
    /// The site's settings.
    pub config: SiteConfig,
    /// The version of `config`.
    pub config_version: u64,
    /// What the controller's signatures are checked with; the agent keeps it and believes no other from then on.
    pub signing_key: PublicKey,
    /// The credential, only where the request had no `credential_hash`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<Secret>,
}

/// An agent's announcement of the credential that is to take the place of the one that it is made under. The old one is good
/// until the first use of the next, so nothing that is lost on the way locks the agent out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CredentialAnnouncement {
    /// SHA-256 of the secret that the agent has made, and keeps, before it says so.
    pub credential_hash: CredentialHash,
}
