//! Bytes of a fixed number that are written as lower-case hexadecimal digits.

/// Why a text is not one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HexError {
    pub(crate) what: &'static str,
    pub(crate) bytes: usize,
}

impl std::fmt::Display for HexError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} has {} lower-case hexadecimal digits", self.what, self.bytes * 2)
    }
}

impl std::error::Error for HexError {}

/// A newtype of bytes whose one spelling is lower-case hexadecimal: a second spelling would be a second name.
macro_rules! hex_bytes {
    ($(#[$doc:meta])* $name:ident[$len:literal] = $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; $len]);

        impl $name {
            /// The bytes themselves.
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::HexError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let is_lower = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
                let bytes = is_lower.then(|| $crate::secret::unhex(text)).flatten();
                bytes.map(Self).ok_or($crate::HexError { what: $what, bytes: $len })
            }
        }

        impl TryFrom<String> for $name {
            type Error = $crate::HexError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(bytes: $name) -> String {
                bytes.to_string()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        }
    };
}
pub(crate) use hex_bytes;
