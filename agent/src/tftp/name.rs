//! The name of a file in a request: a key into an index, never a path.
//!
//! `..` is a name like any other here. It climbs nowhere, because nothing opens a file by a [`Name`].

use std::fmt;

/// The longest name, in bytes.
const NAME_LEN_MAX: usize = 255;

/// A requested name in its one form: printable ASCII, `/` between its parts, none at its start and never two in a row.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Name(String);

/// Why a request names nothing that could be here. The machine gets ERROR 1, the log gets this text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing is left of it.
    #[error("the name is empty")]
    Empty,
    /// Longer than any name here.
    #[error("the name has {0} bytes, at most {NAME_LEN_MAX} are allowed")]
    Long(usize),
    /// A byte that no name here holds.
    #[error("the name holds byte {0:#04x}, only printable ASCII is allowed")]
    Byte(u8),
}

impl Name {
    /// Reads a name as machines write it: Windows' boot manager with backslashes, shim with a doubled slash.
    ///
    /// # Errors
    /// No file can have this name.
    pub fn parse(asked: &[u8]) -> Result<Self, NameError> {
        if asked.len() > NAME_LEN_MAX {
            return Err(NameError::Long(asked.len()));
        }
        let mut name = String::with_capacity(asked.len());
        for byte in asked {
            match byte {
                b'/' | b'\\' if name.is_empty() || name.ends_with('/') => {}
                b'/' | b'\\' => name.push('/'),
                b' '..=b'~' => name.push(char::from(*byte)),
                _ => return Err(NameError::Byte(*byte)),
            }
        }
        if name.is_empty() { Err(NameError::Empty) } else { Ok(Self(name)) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn f14_slashes_of_all_kinds_are_one() {
        for asked in ["a/b.efi", "/a/b.efi", "//a//b.efi", "\\a\\b.efi", "a\\/b.efi"] {
            assert_eq!(Name::parse(asked.as_bytes()).as_ref().map(Name::as_str), Ok("a/b.efi"));
        }
    }

    #[test]
    fn f13_what_climbs_is_a_key_that_nothing_has() {
        for (asked, key) in [
            ("../../etc/passwd", "../../etc/passwd"),
            ("..\\x", "../x"),
            ("/etc/passwd", "etc/passwd"),
            ("C:\\boot.ini", "C:/boot.ini"),
            ("%2e%2e/x", "%2e%2e/x"),
            ("....//x", "..../x"),
        ] {
            assert_eq!(Name::parse(asked.as_bytes()).as_ref().map(Name::as_str), Ok(key));
        }
    }

    #[test]
    fn f13_bytes_that_no_name_holds_are_refused() {
        for (asked, error) in [
            (&b""[..], NameError::Empty),
            (b"//", NameError::Empty),
            (b"a\nb", NameError::Byte(b'\n')),
            (b"a\0b", NameError::Byte(0)),
            (b"\xc0\xae\xc0\xae/x", NameError::Byte(0xc0)),
            (&[b'a'; 256], NameError::Long(256)),
        ] {
            assert_eq!(Name::parse(asked), Err(error));
        }
    }

    proptest! {
        #[test]
        fn f13_a_name_has_one_form(asked in vec(prop_oneof![any::<u8>(), Just(b'/'), Just(b'\\')], 0..300)) {
            if let Ok(name) = Name::parse(&asked) {
                prop_assert!(!name.as_str().starts_with('/') && !name.as_str().contains("//"));
                prop_assert!(name.as_str().bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'\\'));
                prop_assert_eq!(Name::parse(name.as_str().as_bytes()), Ok(name));
            }
        }
    }
}
