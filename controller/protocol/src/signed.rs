//! What the controller signs and agents believe.
//!
//! `signature = Ed25519(key, T::DOMAIN ++ payload)` (RFC 8032 §5.1). The payload is a text and no object, so that it is verified
//! before it is parsed and no canonical form of JSON is needed; the domain keeps a signature of one kind from being one of
//! another.

use std::marker::PhantomData;

use serde::{Deserialize, Serialize};

use crate::{PublicKey, Signature};

/// What can be signed.
pub trait Sealed {
    /// What stands before the payload in the bytes that are signed: its kind, and a line feed.
    const DOMAIN: &str;
}

/// A `T` as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(bound = "")]
pub struct Signed<T> {
    /// A `T` in JSON; not to be parsed before the signature has been checked.
    pub payload: String,
    /// The signature of [`Signed::signed_bytes`].
    pub signature: Signature,
    /// [`PublicKey::id`] of the key that signed, for people.
    pub key_id: String,
    #[serde(skip)]
    what: PhantomData<fn() -> T>,
}

impl<T: Sealed> Signed<T> {
    /// `payload` with the signature that `key` has made of its [`Signed::signed_bytes`].
    pub fn new(payload: String, signature: Signature, key: &PublicKey) -> Self {
        Self { payload, signature, key_id: key.id(), what: PhantomData }
    }

    /// The bytes that are signed.
    pub fn signed_bytes(payload: &str) -> Vec<u8> {
        [T::DOMAIN, payload].concat().into_bytes()
    }
}
