//! Identities: UUIDs (RFC 9562) that cannot be mistaken for one another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdError {
    text: String,
}

impl fmt::Display for IdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "'{}' is not an id (a UUID such as 0b8f5c1e-6f0e-4d52-9a55-0c8f3f1c2a77)",
            self.text
        )
    }
}

impl std::error::Error for IdError {}

const TEXT_LEN: usize = 36;
const HYPHENS: [usize; 4] = [8, 13, 18, 23];

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    if text.len() != TEXT_LEN {
        return None;
    }
    let mut bytes = [0; 16];
    let mut digits = 0;
    for (at, byte) in text.bytes().enumerate() {
        if HYPHENS.contains(&at) {
            if byte != b'-' {
                return None;
            }
            continue;
        }
        let nibble = u8::try_from(char::from(byte).to_digit(16)?).ok()?;
        let slot = bytes.get_mut(digits / 2)?;
        *slot = *slot << 4 | nibble;
        digits += 1;
    }
    Some(bytes)
}

fn emit_uuid(bytes: [u8; 16], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (at, byte) in bytes.iter().enumerate() {
        if [4, 6, 8, 10].contains(&at) {
            f.write_str("-")?;
        }
        write!(f, "{byte:02x}")?;
    }
    Ok(())
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(extend("format" = "uuid")))]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; 16]);

        impl $name {
            /// A version 4 UUID (RFC 9562 §5.4) made of 16 random bytes that the caller drew.
            pub fn from_random(mut bytes: [u8; 16]) -> Self {
                bytes[6] = bytes[6] & 0x0f | 0x40;
                bytes[8] = bytes[8] & 0x3f | 0x80;
                Self(bytes)
            }

            /// The 16 bytes in network order.
            pub fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_uuid(text).map(Self).ok_or_else(|| IdError { text: text.chars().take(64).collect() })
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                emit_uuid(self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id!(
    /// A machine that boots.
    NodeId
);
id!(
    /// A place with machines and one agent.
    SiteId
);
id!(
    /// A logical group of nodes. A site is a group too, and has the same id as one.
    GroupId
);
id!(
    /// One registration of one agent; a site that registers anew gets another.
    AgentId
);
id!(
    /// What to install and how.
    WorkflowId
);
id!(
    /// A person with an account at the controller.
    UserId
);
id!(
    /// An API token of the controller; not the token itself, which is a secret.
    TokenId
);
id!(
    /// An answer file to be filled in.
    TemplateId
);
id!(
    /// One order to a site's agent.
    CommandId
);
id!(
    /// A disagreement between a site and the controller about one node.
    ConflictId
);
id!(
    /// A node of one site that was seen at another.
    ClaimId
);
id!(
    /// A boot session: one attempt of one node, from its first packet to the operating system's call-back.
    BootId
);

impl From<SiteId> for GroupId {
    fn from(site: SiteId) -> Self {
        Self(site.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_id_survives_its_own_text(bytes: [u8; 16]) {
            let id = NodeId::from_random(bytes);
            prop_assert_eq!(id.to_string().parse::<NodeId>(), Ok(id));
            prop_assert_eq!(id.to_string().to_uppercase().parse::<NodeId>(), Ok(id));
        }

        #[test]
        fn any_text_is_an_id_or_an_error(text in ".{0,50}") {
            let _ = text.parse::<SiteId>();
        }
    }

    #[test]
    fn an_id_is_written_as_rfc_9562_says() {
        let id = NodeId::from_random([0xff; 16]);
        assert_eq!(id.to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }

    #[test]
    fn what_is_not_a_uuid_is_refused() {
        for text in [
            "",
            "ffffffffffff4fffbfffffffffffffff",
            "ffffffff-ffff-4fff-bfff-fffffffffff",
            "ffffffff-ffff-4fff-bfff-fffffffffffg",
            "ffffffff_ffff_4fff_bfff_ffffffffffff",
            "../../../../etc/passwd/////////////..",
        ] {
            assert!(text.parse::<NodeId>().is_err(), "{text}");
        }
    }
}
