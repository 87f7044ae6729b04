//! Opens what the controller has signed: the signature is checked before the text is read (FAULTS C16, N7).

use pureboot_protocol::{PublicKey, Sealed, Signed};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::de::DeserializeOwned;

/// Why a signed text is not believed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    /// Somebody else has signed it, or nobody.
    #[error("it is signed by key {named}, and not by {pinned}, which this agent has pinned")]
    Signature {
        /// The key that it names; nothing vouches for that.
        named: String,
        /// The key that was pinned when the agent joined.
        pinned: String,
    },
    /// The controller has signed what this agent cannot read.
    #[error("its text does not fit the API: {0}")]
    Text(String),
}

/// What `signed` says, if `key` has signed it.
///
/// # Errors
/// It has not, or the text is no `T`.
pub fn open<T: Sealed + DeserializeOwned>(
    signed: &Signed<T>,
    key: &PublicKey,
) -> Result<T, Unproven> {
    UnparsedPublicKey::new(&ED25519, key.as_bytes())
        .verify(&Signed::<T>::signed_bytes(&signed.payload), signed.signature.as_bytes())
        .map_err(|_| Unproven::Signature {
            named: signed.key_id.chars().take(16).collect(),
            pinned: key.id(),
        })?;
    serde_json::from_slice(signed.payload.as_bytes())
        .map_err(|error| Unproven::Text(error.to_string()))
}
