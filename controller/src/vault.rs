//! Seals the secrets of templates, so that a copy of the database alone tells none of them.

use pureboot_protocol::Secret;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

/// The length of the key, in bytes.
pub(crate) const KEY_LEN: usize = 32;

/// What is sealed with another key, or for another place.
#[derive(Debug, thiserror::Error)]
#[error(
    "this secret was not sealed with the key in secrets.key; restore the file that belongs to the database"
)]
pub(crate) struct Sealed;

/// The key, ready for use.
pub(crate) struct Vault(LessSafeKey);

impl Vault {
    /// A vault with this key.
    pub(crate) fn new(key: &[u8; KEY_LEN]) -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).expect("the key has the right length");
        Self(LessSafeKey::new(key))
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

/// The place of a secret: nobody who can write the database can make one node's secret another's.
pub(crate) fn place(scope: &str, name: &str) -> String {
    format!("{scope}/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
