//! Seals the secrets of templates, so that a copy of the database alone tells none of them.

use std::path::Path;

use anyhow::bail;
use pureboot_protocol::Secret;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sha2::{Digest, Sha256};

use crate::data_dir::secrets_key;
use crate::store::Store;

/// The length of the key, in bytes.
pub(crate) const KEY_LEN: usize = 32;

/// What is sealed with another key, or for another place.
#[derive(Debug, thiserror::Error)]
#[error("this secret was not sealed with the key of this controller")]
pub(crate) struct Sealed;

/// The key, ready for use.
pub(crate) struct Vault(LessSafeKey);

impl Vault {
    /// A vault with this key.
    pub(crate) fn new(key: &[u8; KEY_LEN]) -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).expect("the key has the right length");
        Self(LessSafeKey::new(key))
    }

    /// The vault of `store`, with the key in `path`, which is made if the database has none yet.
    ///
    /// # Errors
    /// The key cannot be read or kept, is missing, or is another one's.
    pub(crate) async fn load(path: &Path, replaces: bool, store: &Store) -> anyhow::Result<Self> {
        if replaces {
            let secrets = store.forget_secrets().await?;
            tracing::warn!("the key of the secrets is given up, and {secrets} secrets with it");
        }
        let key = match secrets_key::load(path)? {
            Some(key) => key,
            None => {
                if store.secrets_key_hash().await?.is_some() {
                    bail!(
                        "{} is missing, and this database has secrets that are sealed with it: copy it from another controller \
                         or a backup; if it is lost, start once with --replace-secrets-key and set every secret again",
                        path.display()
                    );
                }
                secrets_key::make(path)?
            }
        };
        let vault = Self::new(&key);
        // A database of an earlier version has secrets and does not know their key yet.
        let sealed = store.any_secret().await?;
        let is_opened = sealed
            .is_none_or(|[scope, name, sealed]| vault.open(&place(&scope, &name), &sealed).is_ok());
        if !is_opened || !store.is_secrets_key(&hash(&key)).await? {
            bail!(
                "{} is not the key that the secrets of this database are sealed with: copy the file from the controller that was \
                 first, or name it with --secrets-key-file",
                path.display()
            );
        }
        Ok(vault)
    }

    /// Seals `secret` for one place, as ChaCha20-Poly1305 (RFC 8439) with `nonce`, which the caller drew; hexadecimal digits.
    ///
    /// A nonce must not come twice under one key; of random ones 2^32 may be drawn before that is to be feared.
    pub(crate) fn seal(&self, place: &str, secret: &Secret, nonce: [u8; NONCE_LEN]) -> String {
        let mut bytes = secret.reveal().as_bytes().to_vec();
        self.0
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(place),
                &mut bytes,
            )
            .expect("a secret is far shorter than the cipher's limit");
        nonce.iter().chain(&bytes).map(|byte| format!("{byte:02x}")).collect()
    }

    /// The secret that was sealed for `place`.
    ///
    /// # Errors
    /// It was sealed with another key or for another place.
    pub(crate) fn open(&self, place: &str, sealed: &str) -> Result<Secret, Sealed> {
        let digit = |at| sealed.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        let bytes: Option<Vec<u8>> = (0..sealed.len()).step_by(2).map(digit).collect();
        let bytes = bytes.ok_or(Sealed)?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>().ok_or(Sealed)?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.0.open_in_place(nonce, Aad::from(place), &mut sealed);
        let text = opened.map_err(|_| Sealed)?.to_vec();
        String::from_utf8(text).map(Secret::new).map_err(|_| Sealed)
    }
}

/// What a database knows a key by. Of 256 random bits a hash tells nothing.
pub(crate) fn hash(key: &[u8; KEY_LEN]) -> String {
    let mut hash = Sha256::new();
    hash.update(b"pureboot secrets key 1\n");
    hash.update(key);
    format!("{:x}", hash.finalize())
}

/// The place of a secret: nobody who can write the database can make one node's secret another's.
pub(crate) fn place(scope: &str, name: &str) -> String {
    format!("{scope}/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::database;

    #[test]
    fn a_secret_opens_with_its_key_in_its_place_and_nowhere_else() {
        let vault = Vault::new(&[1; KEY_LEN]);
        let sealed = vault.seal("/root", &Secret::new("correct horse".to_owned()), [7; NONCE_LEN]);
        assert_eq!(vault.open("/root", &sealed).expect("it opens").reveal(), "correct horse");
        assert!(vault.open("/other", &sealed).is_err());
        assert!(Vault::new(&[2; KEY_LEN]).open("/root", &sealed).is_err());
        for broken in ["", "zz", "00", "é", &sealed[2..], &sealed[..sealed.len() - 2]] {
            assert!(vault.open("/root", broken).is_err(), "{broken}");
        }
    }

    #[tokio::test]
    async fn another_key_than_the_databases_is_refused_until_it_is_replaced_on_purpose() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&database(dir.path()).await).await.expect("a database");
        let load = async |name: &str, replaces| {
            let vault = Vault::load(&dir.path().join(name), replaces, &store).await;
            vault.map_err(|error| error.to_string())
        };
        assert!(load("key", false).await.is_ok(), "made");
        assert!(load("key", false).await.is_ok(), "found");
        let error = load("none", false).await.err().expect("no key");
        assert!(error.contains("--replace-secrets-key"), "{error}");
        assert!(!dir.path().join("none").exists(), "no second key is made behind a lost one");
        secrets_key::make(&dir.path().join("other")).expect("made");
        let error = load("other", false).await.err().expect("another key");
        assert!(error.contains("--secrets-key-file"), "{error}");
        assert!(load("other", true).await.is_ok(), "replaced");
        assert!(load("key", false).await.is_err(), "given up");
    }
}
