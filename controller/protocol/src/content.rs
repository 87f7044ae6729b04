//! Names of content: keys into an index, never paths.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::hex::hex_bytes;
use crate::site::words;

words! {
    /// What content is for, which decides how long a site keeps it.
    Category {
        /// What firmware loads first; always kept.
        Bootloaders = "bootloaders",
        /// Scripts for boot loaders.
        Scripts = "scripts",
        /// Answer files to be filled in.
        Templates = "templates",
        /// Packages of site policies; always kept, and for the agent alone.
        Plugins = "plugins",
        /// Versions of the agent itself; what a site is given it is ordered to run.
        Agents = "agents",
        /// Kernels, initial RAM disks, installation images.
        Images = "images",
    }
}

impl Category {
    /// Whether machines may have what is in it. A site's policies, and other versions of the agent, are nobody's business but the agent's.
    pub fn is_for_machines(self) -> bool {
        !matches!(self, Self::Plugins | Self::Agents)
    }
}

hex_bytes! {
    /// The SHA-256 of content: the name of an object, written as 64 lower-case hexadecimal digits.
    ContentHash[32] = "the name of an object (SHA-256)"
}

impl ContentHash {
    /// The digest as computed by the caller.
    pub fn from_digest(digest: [u8; 32]) -> Self {
        Self(digest)
    }
}

/// The longest path below a category, in bytes.
const PATH_LEN_MAX: usize = 255;

/// The name of one piece of content, written `category/path`.
///
/// The path has one or more segments of `[A-Za-z0-9._+@~=-]`, none of them empty, `.` or `..`, so that it can stand in a URL, a
/// TFTP request and a script as it is. It is looked up in an index; no file is ever opened by it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(extend("pattern" = r"^(bootloaders|scripts|templates|images|plugins|agents)/[A-Za-z0-9._+@~=-]+(/[A-Za-z0-9._+@~=-]+)*$")))]
#[serde(try_from = "String", into = "String")]
pub struct ContentKey {
    category: Category,
    path: String,
}

/// Why a text names no content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentKeyError {
    text: String,
}

impl fmt::Display for ContentKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let categories: Vec<_> = Category::ALL.iter().map(|category| category.as_str()).collect();
        write!(
            f,
            "{:?} names no content: expected category/path, the category one of {}, the path of letters, digits and ._+@~=-",
            self.text,
            categories.join(", ")
        )
    }
}

impl std::error::Error for ContentKeyError {}

impl ContentKey {
    /// The name of `path` in `category`.
    ///
    /// # Errors
    /// The path is empty, too long, or has a segment that is not allowed.
    pub fn new(category: Category, path: &str) -> Result<Self, ContentKeyError> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._+@~=-".contains(&byte);
        let is_segment = |segment: &str| {
            !segment.is_empty()
                && segment != "."
                && segment != ".."
                && segment.bytes().all(is_allowed)
        };
        if path.len() <= PATH_LEN_MAX && path.split('/').all(is_segment) {
            Ok(Self { category, path: path.to_owned() })
        } else {
            Err(ContentKeyError {
                text: format!("{category}/{}", path.chars().take(64).collect::<String>()),
            })
        }
    }

    /// What it is for.
    pub fn category(&self) -> Category {
        self.category
    }

    /// The name within the category.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl FromStr for ContentKey {
    type Err = ContentKeyError;

    fn from_str(text: &str) -> Result<Self, ContentKeyError> {
        let error = || ContentKeyError { text: text.chars().take(64).collect() };
        let (category, path) = text.split_once('/').ok_or_else(error)?;
        Self::new(category.parse().map_err(|_| error())?, path)
    }
}

impl TryFrom<String> for ContentKey {
    type Error = ContentKeyError;

    fn try_from(text: String) -> Result<Self, ContentKeyError> {
        text.parse()
    }
}

impl From<ContentKey> for String {
    fn from(key: ContentKey) -> String {
        key.to_string()
    }
}

impl fmt::Display for ContentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.category, self.path)
    }
}

impl fmt::Debug for ContentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_key_survives_its_own_text(path in "[A-Za-z0-9_+@~=-]{1,20}(/[A-Za-z0-9_+@~=-]{1,20}){0,4}") {
            let key = ContentKey::new(Category::Images, &path).expect("an allowed path");
            prop_assert_eq!(key.to_string().parse(), Ok(key));
        }

        #[test]
        fn f13_no_key_climbs_or_hides(text in "[a-z./\\\\%\\x00 ]{0,40}") {
            if let Ok(key) = ContentKey::new(Category::Images, &text) {
                prop_assert!(key.path().split('/').all(|segment| !segment.is_empty() && !segment.trim_matches('.').is_empty() || segment.len() > 2));
                prop_assert!(!key.path().contains(['\\', '%', '\0', ' ']));
            }
        }
    }

    #[test]
    fn an_object_has_one_spelling() {
        let hash = ContentHash::from_digest([0xaf; 32]);
        assert_eq!(hash.to_string().parse(), Ok(hash));
        for other in
            ["", "af", &"AF".repeat(32), &"+5".repeat(32), &"ä".repeat(32), &"a".repeat(65)]
        {
            let error = other.parse::<ContentHash>().expect_err("another spelling");
            assert!(error.to_string().contains("64 lower-case"), "{error}");
        }
    }

    #[test]
    fn f13_what_looks_like_a_path_is_no_key() {
        for text in [
            "bootloaders/../agent.toml",
            "bootloaders/..",
            "bootloaders/.",
            "bootloaders/",
            "bootloaders//a",
            "/bootloaders/a",
            "bootloaders/a/",
            "bootloaders/a\0b",
            "bootloaders/%2e%2e",
            "bootloaders/a b",
            "etc/passwd",
            "",
        ] {
            assert!(text.parse::<ContentKey>().is_err(), "{text}");
        }
        assert!(ContentKey::new(Category::Images, &"a".repeat(256)).is_err());
    }
}
