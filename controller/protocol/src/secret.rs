//! Secrets, and what may be told of them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that must not reach a log, an argument list, a URL or an error. It has no `Display`, and `Debug` hides it.
///
/// It is serialised as it is, because registration and configuration carry secrets on purpose; [`Secret::reveal`] is the one
/// other way to the text, so a search for `reveal` finds every use.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// A bearer secret of 64 hexadecimal digits made of 32 random bytes that the caller drew.
    pub fn from_random(bytes: [u8; 32]) -> Self {
        Self(hex(&bytes))
    }

    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The SHA-256 of a secret's text: all that the side which did not make the secret ever stores.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(extend("pattern" = "^[0-9a-f]{64}$")))]
#[serde(try_from = "String", into = "String")]
pub struct CredentialHash([u8; 32]);

impl CredentialHash {
    /// The digest as computed by the caller.
    pub fn from_digest(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// The digest.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for CredentialHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for CredentialHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for CredentialHash {
    type Error = TokenError;

    fn try_from(text: String) -> Result<Self, TokenError> {
        unhex(&text).map(Self).ok_or(TokenError::Hash)
    }
}

impl From<CredentialHash> for String {
    fn from(hash: CredentialHash) -> String {
        hash.to_string()
    }
}

/// A one-time registration token, `id.secret`: the id names the controller's row, the secret proves the right to use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(extend("pattern" = "^[0-9a-f]{12}\\.[0-9a-f]{64}$")))]
#[serde(try_from = "String", into = "String")]
pub struct RegistrationToken {
    id: String,
    secret: Secret,
}

const TOKEN_ID_LEN: usize = 12;
const TOKEN_SECRET_LEN: usize = 64;

/// Why a text is not a token or a hash. The text itself is a secret and is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenError {
    /// Not `id.secret` with the lengths and digits that the controller makes.
    Token,
    /// Not 64 hexadecimal digits.
    Hash,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token => write!(
                f,
                "this is not a registration token: expected {TOKEN_ID_LEN} hexadecimal digits, a full stop and \
                 {TOKEN_SECRET_LEN} hexadecimal digits; was it copied whole?"
            ),
            Self::Hash => f.write_str("a credential hash has 64 hexadecimal digits (SHA-256)"),
        }
    }
}

impl std::error::Error for TokenError {}

impl RegistrationToken {
    /// A token made of random bytes that the caller drew.
    pub fn from_random(id: [u8; 6], secret: [u8; 32]) -> Self {
        Self { id: hex(&id), secret: Secret::from_random(secret) }
    }

    /// The public half, 12 hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The half that proves.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// The whole token for its one showing, or for the file that keeps it.
    pub fn reveal(&self) -> String {
        format!("{}.{}", self.id, self.secret.reveal())
    }
}

impl FromStr for RegistrationToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let is_hex = |part: &str, len| {
            part.len() == len && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        match text.split_once('.') {
            Some((id, secret)) if is_hex(id, TOKEN_ID_LEN) && is_hex(secret, TOKEN_SECRET_LEN) => {
                Ok(Self { id: id.to_owned(), secret: Secret::new(secret.to_owned()) })
            }
            _ => Err(TokenError::Token),
        }
    }
}

impl TryFrom<String> for RegistrationToken {
    type Error = TokenError;

    fn try_from(text: String) -> Result<Self, TokenError> {
        text.parse()
    }
}

impl From<RegistrationToken> for String {
    fn from(token: RegistrationToken) -> String {
        token.reveal()
    }
}

/// Lower-case hexadecimal text.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of hexadecimal text of exactly the right length.
pub(crate) fn unhex<const LEN: usize>(text: &str) -> Option<[u8; LEN]> {
    if text.len() != LEN * 2 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; LEN];
    for (slot, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        for digit in pair {
            let nibble = char::from(*digit).to_digit(16)?;
            *slot = *slot << 4 | u8::try_from(nibble).ok()?;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a10_a_secret_does_not_show_in_debug_output() {
        let token = RegistrationToken::from_random([1; 6], [0xab; 32]);
        assert!(!format!("{token:?}").contains("abab"));
    }

    #[test]
    fn a3_a_token_is_read_back_whole_or_not_at_all() {
        let token = RegistrationToken::from_random([1; 6], [0xab; 32]);
        let text = token.reveal();
        assert_eq!(text.parse(), Ok(token));
        for damaged in
            [&text[1..], &text[..text.len() - 1], &text.to_uppercase(), &text.replace('.', ":"), ""]
        {
            assert_eq!(damaged.parse::<RegistrationToken>(), Err(TokenError::Token));
        }
    }

    #[test]
    fn a_hash_survives_its_own_text() {
        let hash = CredentialHash::from_digest([0x5f; 32]);
        assert_eq!(CredentialHash::try_from(hash.to_string()), Ok(hash));
        assert_eq!(CredentialHash::try_from("5f".to_owned()), Err(TokenError::Hash));
        assert_eq!(CredentialHash::try_from("ä".repeat(32)), Err(TokenError::Hash));
    }
}
