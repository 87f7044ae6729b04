//! The file in which a compiled policy travels, and the one way to its code.
//!
//! ```text
//! "pureboot plugin 1\n"   what it is, and the domain of the signature
//! u32, little endian      length of the header
//! header                  JSON, see `Header`
//! code                    compiled for `Header::engine`
//! 64 bytes                Ed25519 (RFC 8032 §5.1.6) over everything before
//! ```
//!
//! Compiled code is code: whoever can write it can do what the agent can. So [`Unchecked::check`] is given the keys first, and only
//! what it returns knows its header and its code.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub use pureboot_protocol::{Capability, PluginId, PluginVersion as Version};
use pureboot_protocol::{ContentHash, PublicKey, Signature};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

/// What a package begins with.
pub const DOMAIN: &[u8] = b"pureboot plugin 1\n";

/// The longest header, in bytes: 64 settings with their help.
pub const HEADER_LEN_MAX: usize = 64 << 10;

/// The most compiled code, in bytes: a Python interpreter has 30 MB.
pub const CODE_LEN_MAX: usize = 48 << 20;

const SIGNATURE_LEN: usize = 64;

/// The most settings that a policy declares.
const SETTINGS_MAX: usize = 64;

/// The smallest and the largest memory that a policy may ask for, in MiB.
pub const MEMORY_MIB: std::ops::RangeInclusive<u16> = 1..=64;

/// Why bytes are not a package that may be run. An operator reads this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackageError {
    /// Another kind of file.
    #[error("it does not begin as a plugin package does: pack it with this release's tools")]
    Foreign,
    /// It ends early.
    #[error("it ends inside its {0}: fetch it again")]
    Truncated(&'static str),
    /// More than is read.
    #[error("its {what} has {len} bytes, and {max} are taken")]
    Long {
        /// Which part.
        what: &'static str,
        /// How long it is.
        len: usize,
        /// How long it may be.
        max: usize,
    },
    /// No key that is trusted has signed exactly these bytes.
    #[error("it is not signed by a key that this site trusts ({0}): have the controller sign it")]
    Signature(String),
    /// The header was signed, but this program does not understand it.
    #[error("its header is not understood: {0}")]
    Header(String),
}

/// What a policy may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    /// `boot.decide`.
    Boot,
    /// `script.patch`.
    Script,
    /// `cache.judge`.
    Cache,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Boot => "boot.decide",
            Self::Script => "script.patch",
            Self::Cache => "cache.judge",
        })
    }
}

/// A value that a site may set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// What it is where the site says nothing.
    pub default: String,
    /// What it is for.
    pub help: String,
}

/// What a package says of itself. A field that this program does not know may be a restriction, so it is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The policy.
    pub id: PluginId,
    /// Its version; a site takes none that is lower than the one it has.
    pub version: Version,
    /// The engine that the code was compiled for: [`crate::engine::ENGINE_ID`] of the agent that can run it.
    pub engine: String,
    /// The SHA-256 of the component that was compiled: what the policy is, whatever the engine.
    pub wasm: ContentHash,
    /// The hooks that it has; the code must have them too.
    pub hooks: BTreeSet<Hook>,
    /// What it asks for.
    #[serde(default)]
    pub capabilities: BTreeSet<Capability>,
    /// The memory that one call may use, in MiB.
    #[serde(default = "memory_mib_default")]
    pub memory_mib: u16,
    /// What a site may set.
    #[serde(default)]
    pub settings: BTreeMap<String, Setting>,
}

fn memory_mib_default() -> u16 {
    16
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Self, PackageError> {
        let header: Self = serde_json::from_slice(bytes)
            .map_err(|error| PackageError::Header(error.to_string()))?;
        if header.hooks.is_empty() {
            return Err(PackageError::Header("it names no hook".to_owned()));
        }
        if !MEMORY_MIB.contains(&header.memory_mib) {
            let (least, most) = MEMORY_MIB.into_inner();
            let asked = header.memory_mib;
            return Err(PackageError::Header(format!(
                "memory_mib is {asked}, and may be {least} to {most}"
            )));
        }
        if header.settings.len() > SETTINGS_MAX {
            let settings = header.settings.len();
            return Err(PackageError::Header(format!(
                "it has {settings} settings, at most {SETTINGS_MAX}"
            )));
        }
        Ok(header)
    }
}

/// Writes a package. `sign` makes the Ed25519 signature of the bytes that it is given.
///
/// # Errors
/// The header or the code is longer than any site takes, or the header is one that no site understands.
pub fn emit(
    header: &Header,
    code: &[u8],
    sign: impl FnOnce(&[u8]) -> Signature,
) -> Result<Vec<u8>, PackageError> {
    let header =
        serde_json::to_vec(header).map_err(|error| PackageError::Header(error.to_string()))?;
    Header::parse(&header)?;
    bounded("header", header.len(), HEADER_LEN_MAX)?;
    bounded("code", code.len(), CODE_LEN_MAX)?;
    let header_len = u32::try_from(header.len()).map_err(|_| PackageError::Truncated("header"))?;
    let mut bytes = [DOMAIN, &header_len.to_le_bytes(), &header, code].concat();
    let signature = sign(&bytes);
    bytes.extend_from_slice(signature.as_bytes());
    Ok(bytes)
}

fn bounded(what: &'static str, len: usize, max: usize) -> Result<(), PackageError> {
    if len <= max { Ok(()) } else { Err(PackageError::Long { what, len, max }) }
}

/// A package of which nothing is known but where its parts lie.
#[derive(Debug, Clone, Copy)]
pub struct Unchecked<'a> {
    signed: &'a [u8],
    header: &'a [u8],
    code: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Unchecked<'a> {
    /// Finds the parts.
    ///
    /// # Errors
    /// It is another kind of file, ends early, or is longer than any package.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PackageError> {
        let rest = bytes.strip_prefix(DOMAIN).ok_or(PackageError::Foreign)?;
        let (header_len, rest) =
            rest.split_first_chunk().ok_or(PackageError::Truncated("header's length"))?;
        let header_len = usize::try_from(u32::from_le_bytes(*header_len)).unwrap_or(usize::MAX);
        bounded("header", header_len, HEADER_LEN_MAX)?;
        let (header, rest) =
            rest.split_at_checked(header_len).ok_or(PackageError::Truncated("header"))?;
        let (code, signature) = rest
            .len()
            .checked_sub(SIGNATURE_LEN)
            .and_then(|code_len| rest.split_at_checked(code_len))
            .ok_or(PackageError::Truncated("signature"))?;
        bounded("code", code.len(), CODE_LEN_MAX)?;
        let signed_len = bytes.len() - SIGNATURE_LEN;
        let signed = bytes.get(..signed_len).ok_or(PackageError::Truncated("signature"))?;
        Ok(Self { signed, header, code, signature })
    }

    /// What it says of itself, for people who look at it: nobody has vouched for it, and it opens no way to the code.
    ///
    /// # Errors
    /// The header is not understood.
    pub fn unchecked_header(&self) -> Result<Header, PackageError> {
        Header::parse(self.header)
    }

    /// Checks the signature, and then reads the header.
    ///
    /// # Errors
    /// None of `keys` has signed it, or its header is not understood.
    pub fn check(self, keys: &[PublicKey]) -> Result<Signed<'a>, PackageError> {
        let has_signed = |key: &&PublicKey| {
            UnparsedPublicKey::new(&ED25519, key.as_bytes())
                .verify(self.signed, self.signature)
                .is_ok()
        };
        let Some(key) = keys.iter().find(has_signed) else {
            let known: Vec<_> = keys.iter().map(PublicKey::id).collect();
            let known =
                if known.is_empty() { "it trusts none".to_owned() } else { known.join(", ") };
            return Err(PackageError::Signature(known));
        };
        Ok(Signed { header: Header::parse(self.header)?, code: self.code, key: *key })
    }
}

/// A package that a trusted key has signed.
#[derive(Debug, Clone)]
pub struct Signed<'a> {
    header: Header,
    code: &'a [u8],
    key: PublicKey,
}

impl<'a> Signed<'a> {
    /// What it says of itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The key that has signed it.
    pub fn key(&self) -> PublicKey {
        self.key
    }

    /// Its code, which may be run.
    pub fn code(&self) -> Trusted<'a> {
        Trusted(self.code)
    }
}

/// Code that may be run: a trusted key has signed these very bytes, or this host has sealed them itself.
#[derive(Debug, Clone, Copy)]
pub struct Trusted<'a>(&'a [u8]);

impl<'a> Trusted<'a> {
    pub(crate) fn sealed_here(code: &'a [u8]) -> Self {
        Self(code)
    }

    pub(crate) fn bytes(self) -> &'a [u8] {
        self.0
    }
}

/// Why a package does not follow the one that is installed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SuccessionError {
    /// It is older.
    #[error(
        "it is version {offered}, older than {installed}, which is installed: go back with a roll-back"
    )]
    Older {
        /// What came.
        offered: Version,
        /// What is here.
        installed: Version,
    },
    /// It has the same number and is something else.
    #[error(
        "it says that it is {0}, as the installed one does, and is another component: give it a higher version"
    )]
    Ambiguous(Version),
}

/// Whether `offered` may take the place of `installed`.
///
/// # Errors
/// It is older, or another component under the same version.
pub fn succeeds(offered: &Header, installed: Option<&Header>) -> Result<(), SuccessionError> {
    let Some(installed) = installed else { return Ok(()) };
    if offered.version < installed.version {
        return Err(SuccessionError::Older {
            offered: offered.version,
            installed: installed.version,
        });
    }
    if offered.version == installed.version && offered.wasm != installed.wasm {
        return Err(SuccessionError::Ambiguous(offered.version));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
