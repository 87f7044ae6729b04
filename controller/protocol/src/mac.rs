//! Ethernet addresses of machines.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The unicast Ethernet address of one machine's boot interface (IEEE 802, EUI-48).
///
/// Read as `aa:bb:cc:dd:ee:ff`, `aa-bb-cc-dd-ee-ff` or `aabbccddeeff` in any case, written lower-case with colons. The
/// all-zero address and every group address (lowest bit of the first byte set, the broadcast address among them) name no
/// machine and cannot be made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(extend("pattern" = r"^([0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}|[0-9A-Fa-f]{12})$")))]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);

/// Why a text is not the address of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MacError {
    /// Not one of the three forms.
    Form(String),
    /// All bytes are zero, as interfaces without a burnt-in address report it.
    Zero,
    /// A multicast or broadcast address.
    Group(String),
}

impl fmt::Display for MacError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form(text) => write!(
                f,
                "'{text}' is not a MAC address (aa:bb:cc:dd:ee:ff, aa-bb-cc-dd-ee-ff or aabbccddeeff)"
            ),
            Self::Zero => f.write_str("00:00:00:00:00:00 is the address of no machine"),
            Self::Group(text) => {
                write!(f, "'{text}' is a multicast address, not the address of a machine")
            }
        }
    }
}

impl std::error::Error for MacError {}

impl Mac {
    /// The six bytes in transmission order.
    ///
    /// # Errors
    /// The bytes are all zero or form a group address.
    pub fn from_bytes(bytes: [u8; 6]) -> Result<Self, MacError> {
        let mac = Self(bytes);
        if bytes == [0; 6] {
            return Err(MacError::Zero);
        }
        if bytes[0] & 1 == 1 {
            return Err(MacError::Group(mac.to_string()));
        }
        Ok(mac)
    }

    /// The six bytes in transmission order.
    pub fn as_bytes(&self) -> &[u8; 6] {
        &self.0
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let malformed = || MacError::Form(text.chars().take(64).collect());
        let separator = match text.len() {
            12 => None,
            17 => match text.as_bytes().get(2) {
                Some(byte @ (b':' | b'-')) => Some(*byte),
                _ => return Err(malformed()),
            },
            _ => return Err(malformed()),
        };
        let mut bytes = [0; 6];
        let mut digits = 0;
        for (at, byte) in text.bytes().enumerate() {
            if separator.is_some() && at % 3 == 2 {
                if Some(byte) != separator {
                    return Err(malformed());
                }
                continue;
            }
            let nibble = char::from(byte).to_digit(16).ok_or_else(malformed)?;
            let slot: &mut u8 = bytes.get_mut(digits / 2).ok_or_else(malformed)?;
            *slot = *slot << 4 | u8::try_from(nibble).map_err(|_| malformed())?;
            digits += 1;
        }
        Self::from_bytes(bytes)
    }
}

impl TryFrom<String> for Mac {
    type Error = MacError;

    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
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
        fn h15_every_form_reads_as_one_address(mut bytes: [u8; 6], first in 1u8..128) {
            bytes[0] = first << 1;
            let mac = Mac::from_bytes(bytes).expect("a unicast address");
            let text = mac.to_string();
            for form in [text.clone(), text.to_uppercase(), text.replace(':', "-"), text.replace(':', "")] {
                prop_assert_eq!(form.parse::<Mac>(), Ok(mac));
            }
        }

        #[test]
        fn h15_any_text_is_an_address_or_an_error(text in "\\PC{0,20}") {
            let _ = text.parse::<Mac>();
        }
    }

    #[test]
    fn h15_what_names_no_machine_is_refused() {
        for text in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:5",
            "52:54:00:12:34:567",
            "52:54-00:12:34:56",
            "5254.0012.3456",
            "52 54 00 12 34 56",
            "525400123456 ",
            "g2:54:00:12:34:56",
            "+2:54:00:12:34:56",
            "٥٢:٥٤:٠٠",
            "00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
            "01:00:5e:00:00:01",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }
}
