//! The controller's signed list of the content of a site.
//!
//! The list travels as a text within an envelope ([`Signed`]). What a receiver has to hold against the manifest that it has: the
//! site is its own, `version` is not lower, and with the same version `issued_at` is not earlier.

use serde::{Deserialize, Serialize};

use crate::hex::hex_bytes;
use crate::{ContentHash, ContentKey, PolicyAssignment, Sealed, Signed, SiteId, Timestamp};

hex_bytes! {
    /// An Ed25519 public key (RFC 8032 §5.1.5), written as 64 lower-case hexadecimal digits.
    PublicKey[32] = "a signing key (Ed25519)"
}

impl PublicKey {
    /// The key as the library that made it gives it.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The first 16 digits: enough to tell a log's reader which key it was.
    pub fn id(&self) -> String {
        self.to_string().chars().take(16).collect()
    }
}

hex_bytes! {
    /// An Ed25519 signature (RFC 8032 §5.1.6), written as 128 lower-case hexadecimal digits.
    Signature[64] = "a signature (Ed25519)"
}

impl Signature {
    /// The signature as the library that made it gives it.
    pub fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }
}

/// What a site is to hold. What is not in it, the site need not keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Manifest {
    /// The site that it is for, and no other.
    pub site_id: SiteId,
    /// Rises whenever the entries change, and never goes back.
    pub version: u64,
    /// When these bytes were made. A manifest whose entries stay is issued again from time to time.
    pub issued_at: Timestamp,
    /// When a site that can reach the controller should have a later one. A site without controller goes on with it.
    pub expires_at: Timestamp,
    /// The content, sorted by name.
    pub entries: Vec<ManifestEntry>,
    /// The site's policies in the order in which they are asked, at most [`POLICIES_MAX`](crate::POLICIES_MAX). Their packages
    /// are among the entries. The version rises with any change of them, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicyAssignment>,
}

/// One piece of content of a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ManifestEntry {
    /// Its name, in two fields on the wire: `category` and `path`.
    #[serde(flatten, with = "two_fields")]
    #[cfg_attr(feature = "schema", schemars(with = "two_fields::Fields"))]
    pub key: ContentKey,
    /// Its length.
    pub size_bytes: u64,
    /// What it hashes to.
    pub sha256: ContentHash,
    /// Whether it is to be kept whatever is short of space.
    pub pinned: bool,
    /// How it can be verified piece by piece, for content of more than one piece.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunks: Option<Chunks>,
}

/// How content is verified piece by piece, and how a piece is known again that other content has too: by a list of its chunks,
/// in their order, with [`Chunks::ROW_LEN`] bytes for each: its length as 32 bits, the highest first, and its SHA-256. The list
/// is fetched beside the object and is itself known by its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Chunks {
    /// How the content was cut and how the list is written: [`Chunks::FORMAT`]. A list of another format is of no use to a
    /// receiver, who can still verify the whole.
    pub format: u32,
    /// How many chunks there are.
    pub count: u32,
    /// The SHA-256 of the list.
    pub sha256: ContentHash,
}

impl Chunks {
    /// Cut where the content says so, by FastCDC (the "2020" variant, normalisation level 1) with the lengths below: a change
    /// moves the cuts near it and no others. Whoever changes one of them, or the rows, gives this another number.
    pub const FORMAT: u32 = 1;
    /// The shortest chunk but the last, in bytes.
    pub const LEN_MIN: usize = 32 << 10;
    /// What most chunks are about as long as, in bytes.
    pub const LEN_AVERAGE: usize = 128 << 10;
    /// The longest chunk, in bytes: one is what a reader has to hold before it can believe it.
    pub const LEN_MAX: usize = 512 << 10;
    /// The length of a row of the list, in bytes.
    pub const ROW_LEN: usize = 36;
}

/// A manifest as it travels.
pub type SignedManifest = Signed<Manifest>;

impl Sealed for Manifest {
    const DOMAIN: &str = "pureboot manifest 1\n";
}

/// A [`ContentKey`] as the fields `category` and `path`.
mod two_fields {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::{Category, ContentKey};

    #[derive(Serialize, Deserialize)]
    #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
    pub(super) struct Fields {
        category: Category,
        path: String,
    }

    pub(super) fn serialize<S: Serializer>(key: &ContentKey, to: S) -> Result<S::Ok, S::Error> {
        Fields { category: key.category(), path: key.path().to_owned() }.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ContentKey, D::Error> {
        let fields = Fields::deserialize(from)?;
        ContentKey::new(fields.category, &fields.path).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_back_from_its_fields() {
        let entry = ManifestEntry {
            key: "images/debian/linux".parse().expect("a name"),
            size_bytes: 3 << 20,
            sha256: ContentHash::from_digest([1; 32]),
            pinned: false,
            chunks: Some(Chunks {
                format: Chunks::FORMAT,
                count: 24,
                sha256: ContentHash::from_digest([2; 32]),
            }),
        };
        let text = serde_json::to_string(&entry).expect("JSON");
        assert!(text.starts_with(r#"{"category":"images","path":"debian/linux","size_bytes":"#));
        assert_eq!(serde_json::from_str::<ManifestEntry>(&text).expect("an entry"), entry);
        let climbing = text.replace("debian/linux", "../linux");
        assert!(serde_json::from_str::<ManifestEntry>(&climbing).is_err());
    }
}
