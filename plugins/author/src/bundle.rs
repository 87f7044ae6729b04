//! One file with all of a policy that its author has made: an uncompressed tar of
//!
//! ```text
//! policy.json        what it is, see `Description`
//! policy.wasm        the component, or a core module with the types of its world inside
//! fixtures/*.json    questions with the answers that are expected
//! ```
//!
//! and of nothing else. The same policy makes the same bytes.

use std::collections::BTreeMap;
use std::io::{self, Read};

use pureboot_plugin_host::package::{PluginId, Version};
use tar::{Archive, EntryType, Header};

use crate::description::{DESCRIPTION_LEN_MAX, Description, DescriptionError};

/// The largest component that a controller takes if its operator has not said otherwise, and the largest that may be allowed, in MiB.
pub const COMPONENT_MIB: (u32, u32) = (4, 32);

/// The most fixtures of a policy.
pub const FIXTURES_MAX: usize = 64;

/// The longest fixture, in bytes.
pub const FIXTURE_LEN_MAX: usize = 64 << 10;

/// What a bundle has beside its component, at most, in bytes: the description, the fixtures, and the archive's own.
pub const BESIDE_LEN_MAX: usize =
    DESCRIPTION_LEN_MAX + FIXTURES_MAX * (FIXTURE_LEN_MAX + 1_024) + 16_384;

/// What every file of WebAssembly begins with.
const WASM_MAGIC: &[u8] = b"\0asm";

/// All of a policy that its author has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// What it is.
    pub description: Description,
    /// The component or core module.
    pub wasm: Vec<u8>,
    /// The texts of its fixtures, by name.
    pub fixtures: BTreeMap<String, Vec<u8>>,
}

/// Why bytes are no bundle. The author reads this.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Neither an archive nor WebAssembly.
    #[error("it is neither a bundle nor WebAssembly: make one with `pureboot-agent plugin pack`")]
    Foreign,
    /// The archive cannot be read.
    #[error("the archive cannot be read: {0}")]
    Archive(#[from] io::Error),
    /// A file that has no place in a bundle.
    #[error("it holds {0:?}: a bundle has policy.json, policy.wasm and fixtures/*.json, each once")]
    Stray(String),
    /// A file that has to be there.
    #[error("it has no {0}")]
    Missing(&'static str),
    /// A file is too long.
    #[error("its {what} has {len} bytes, and {max} are taken")]
    Long {
        /// Which file.
        what: String,
        /// How long it is.
        len: u64,
        /// How long it may be.
        max: usize,
    },
    /// Too many fixtures.
    #[error("it has more than {FIXTURES_MAX} fixtures")]
    Fixtures,
    /// A name and a version have to come with a component alone.
    #[error(
        "WebAssembly alone says neither its name nor its version: give both, or pack it with policy.json"
    )]
    Nameless,
    /// The description is none.
    #[error(transparent)]
    Description(#[from] DescriptionError),
}

impl Bundle {
    /// Whether `bytes` are WebAssembly and no bundle.
    pub fn is_wasm(bytes: &[u8]) -> bool {
        bytes.starts_with(WASM_MAGIC)
    }

    /// A component without more, under a name and a version.
    pub fn of_wasm(name: PluginId, version: Version, wasm: Vec<u8>) -> Self {
        let description = Description {
            name,
            version,
            description: String::new(),
            hooks: [].into(),
            capabilities: [].into(),
            memory_mib: 16,
            settings: BTreeMap::new(),
        };
        Self { description, wasm, fixtures: BTreeMap::new() }
    }

    /// Reads a bundle whose component has at most `wasm_len_max` bytes.
    ///
    /// # Errors
    /// It is none, or a part of it is too long.
    pub fn parse(bytes: &[u8], wasm_len_max: usize) -> Result<Self, BundleError> {
        const USTAR: std::ops::Range<usize> = 257..262;
        if Self::is_wasm(bytes) {
            return Err(BundleError::Nameless);
        }
        if bytes.get(USTAR) != Some(b"ustar") {
            return Err(BundleError::Foreign);
        }
        let (mut description, mut wasm, mut fixtures) = (None, None, BTreeMap::new());
        for entry in Archive::new(bytes).entries()? {
            let mut entry = entry?;
            if entry.header().entry_type() == EntryType::Directory {
                continue;
            }
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let name = path.strip_prefix("./").unwrap_or(&path).to_owned();
            let stray = || BundleError::Stray(name.chars().take(100).collect());
            if entry.header().entry_type() != EntryType::Regular {
                return Err(stray());
            }
            let fixture = fixture_name(&name);
            let max = match name.as_str() {
                "policy.json" => DESCRIPTION_LEN_MAX,
                "policy.wasm" => wasm_len_max,
                _ => FIXTURE_LEN_MAX,
            };
            let len = entry.size();
            if usize::try_from(len).map_or(true, |len| len > max) {
                return Err(BundleError::Long { what: name, len, max });
            }
            let mut text = Vec::new();
            entry.read_to_end(&mut text)?;
            let before = match (name.as_str(), fixture) {
                ("policy.json", _) => description.replace(text),
                ("policy.wasm", _) => wasm.replace(text),
                (_, Some(fixture)) => fixtures.insert(fixture.to_owned(), text),
                (_, None) => return Err(stray()),
            };
            if before.is_some() {
                return Err(stray());
            }
            if fixtures.len() > FIXTURES_MAX {
                return Err(BundleError::Fixtures);
            }
        }
        let description = description.ok_or(BundleError::Missing("policy.json"))?;
        Ok(Self {
            description: Description::parse(&description)?,
            wasm: wasm.ok_or(BundleError::Missing("policy.wasm"))?,
            fixtures,
        })
    }

    /// The bytes of the bundle.
    ///
    /// # Errors
    /// A fixture has a name that no archive takes.
    pub fn emit(&self) -> Result<Vec<u8>, BundleError> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = Header::new_ustar();
            header.set_size(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            header.set_mode(0o644);
            header.set_mtime(0);
            archive.append_data(&mut header, name, bytes)
        };
        add("policy.json", &self.description.emit())?;
        add("policy.wasm", &self.wasm)?;
        for (name, text) in &self.fixtures {
            add(&format!("fixtures/{name}.json"), text)?;
        }
        Ok(archive.into_inner()?)
    }
}

/// The name of a fixture, of its path in a bundle.
fn fixture_name(path: &str) -> Option<&str> {
    let name = path.strip_prefix("fixtures/")?.strip_suffix(".json")?;
    let is_name = !name.is_empty() && !name.contains('/') && name.len() <= 80;
    is_name.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle() -> Bundle {
        let mut bundle = Bundle::of_wasm(
            "a".parse().expect("a name"),
            "1.0.0".parse().expect("a version"),
            b"\0asm".to_vec(),
        );
        bundle.fixtures.insert("one".to_owned(), b"{}".to_vec());
        bundle
    }

    fn with(name: &str, bytes: &[u8]) -> Vec<u8> {
        let mut all = bundle().emit().expect("bytes");
        // Two blocks of zeros end an archive.
        all.truncate(all.len() - 1_024);
        let mut archive = tar::Builder::new(all);
        let mut header = Header::new_ustar();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes).expect("added");
        archive.into_inner().expect("bytes")
    }

    #[test]
    fn a_bundle_is_read_back_and_is_the_same_bytes_every_time() {
        let bytes = bundle().emit().expect("bytes");
        assert_eq!(Bundle::parse(&bytes, 4).expect("a bundle"), bundle());
        assert_eq!(bundle().emit().expect("bytes"), bytes);
    }

    #[test]
    fn p7_what_is_no_bundle_is_refused_with_what_is_wrong_with_it() {
        let refused = |bytes: &[u8]| Bundle::parse(bytes, 4).expect_err("refused").to_string();
        assert!(refused(b"").contains("neither"));
        assert!(refused(b"\0asm").contains("give both"));
        assert!(refused(&with("evil.sh", b"")).contains("evil.sh"));
        assert!(refused(&with("fixtures/a/b.json", b"")).contains("a/b.json"));
        assert!(refused(&with("policy.json", b"")).contains("each once"));
        assert!(refused(&with("fixtures/b.json", &[b' '; FIXTURE_LEN_MAX + 1])).contains("65537"));
        let long = Bundle { wasm: vec![0; 5], ..bundle() }.emit().expect("bytes");
        assert!(refused(&long).contains("5 bytes, and 4 are taken"));
        let bytes = bundle().emit().expect("bytes");
        for len in 0..bytes.len() {
            // Nothing that is cut reads as something else: what is missing is zeros, or a file.
            if let Ok(cut) = Bundle::parse(&bytes[..len], 4) {
                assert_eq!(cut.description, bundle().description);
            }
        }
    }
}
