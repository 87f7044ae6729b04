//! Answer files: what an installer reads instead of asking a person.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::site::words;

words! {
    /// Who reads what a template is rendered to.
    TemplateKind {
        /// Anaconda.
        Kickstart = "kickstart",
        /// The installer of Debian.
        Preseed = "preseed",
        /// Subiquity, the installer of Ubuntu Server.
        Autoinstall = "autoinstall",
        /// cloud-init, at the first start of a system.
        CloudInit = "cloud-init",
        /// A shell, or whatever its first line names.
        Script = "script",
    }
}

/// The name under which a machine asks for an answer file of its workflow: `user-data`, `ks.cfg`.
///
/// 1 to 64 of `[A-Za-z0-9._-]`, the first no dot, so that it can stand in a URL as it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub struct FileName(String);

/// The longest [`FileName`], in bytes.
const FILE_NAME_LEN_MAX: usize = 64;

/// Why a text is no [`FileName`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileNameError(String);

impl fmt::Display for FileNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no name of an answer file: expected 1 to {FILE_NAME_LEN_MAX} letters, digits and ._-, such as user-data",
            self.0
        )
    }
}

impl std::error::Error for FileNameError {}

impl FileName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FileName {
    type Err = FileNameError;

    fn from_str(text: &str) -> Result<Self, FileNameError> {
        let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if (1..=FILE_NAME_LEN_MAX).contains(&text.len())
            && !text.starts_with('.')
            && text.bytes().all(is_allowed)
        {
            Ok(Self(text.to_owned()))
        } else {
            Err(FileNameError(text.chars().take(64).collect()))
        }
    }
}

impl TryFrom<String> for FileName {
    type Error = FileNameError;

    fn try_from(text: String) -> Result<Self, FileNameError> {
        text.parse()
    }
}

impl From<FileName> for String {
    fn from(name: FileName) -> String {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f13_a_file_name_is_one_harmless_segment() {
        for text in ["user-data", "ks.cfg", "a"] {
            assert_eq!(text.parse::<FileName>().map(String::from), Ok(text.to_owned()));
        }
        for text in ["", ".", "..", ".profile", "a/b", "a b", "a%2fb", "ü"] {
            assert!(text.parse::<FileName>().is_err(), "{text}");
        }
        assert!("a".repeat(FILE_NAME_LEN_MAX + 1).parse::<FileName>().is_err());
    }
}
