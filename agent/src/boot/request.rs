//! Reads a machine's question, `/boot/{mac}` or `/api/v1/boot?mac=…`, into a [`BootRequest`].
//!
//! Firmware says odd things about itself: serial numbers in Latin-1, empty values, the same name twice. Only the address must
//! be right; what else cannot be understood says nothing.

use pureboot_protocol::{BootId, BootRequest, Mac, MacError};

/// The longest query that is read, in bytes: seven facts of 128 characters, each percent-encoded, and room to spare.
pub const QUERY_LEN_MAX: usize = 4_096;

/// The most `name=value` pairs that are read.
pub const PARAMETERS_MAX: usize = 32;

/// Why a question cannot be answered. The machine gets this text in an error script.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// There is no `mac` among the parameters.
    #[error("the question names no machine: mac=aa:bb:cc:dd:ee:ff is missing")]
    MacMissing,
    /// The address is not one.
    #[error(transparent)]
    Mac(#[from] MacError),
    /// More bytes than are read.
    #[error("the question has {0} bytes behind its '?', and {QUERY_LEN_MAX} are read")]
    Long(usize),
    /// More parameters than are read.
    #[error("the question has {0} parameters, and {PARAMETERS_MAX} are read")]
    Parameters(usize),
}

/// Reads `/boot/{mac}?{query}`: the address from the path, the rest from the query, which may be empty.
///
/// # Errors
/// The address is not one, or the query is too large.
pub fn parse_path(mac: &str, query: &str) -> Result<BootRequest, RequestError> {
    let parameters = parameters(query)?;
    learn(decode(mac, Plus::Itself).parse()?, &parameters)
}

/// Reads `/api/v1/boot?{query}`.
///
/// # Errors
/// The address is missing or not one, or the query is too large.
pub fn parse_query(query: &str) -> Result<BootRequest, RequestError> {
    let parameters = parameters(query)?;
    let (_, mac) =
        parameters.iter().find(|(name, _)| name == "mac").ok_or(RequestError::MacMissing)?;
    // iPXE says `mac=` while it has no interface open.
    if mac.is_empty() {
        return Err(RequestError::MacMissing);
    }
    learn(mac.parse()?, &parameters)
}

/// The boot session that a query names, if it names one.
pub fn session(query: &str) -> Option<BootId> {
    let parameters = parameters(query).ok()?;
    let (_, session) = parameters.iter().find(|(name, _)| name == "boot")?;
    session.parse().ok()
}

fn learn(mac: Mac, parameters: &[(String, String)]) -> Result<BootRequest, RequestError> {
    let mut request = BootRequest::new(mac);
    // The last to be learnt stands, and the first of a name shall stand.
    for (name, value) in parameters.iter().rev() {
        request.learn(name, value);
    }
    Ok(request)
}

fn parameters(query: &str) -> Result<Vec<(String, String)>, RequestError> {
    if query.len() > QUERY_LEN_MAX {
        return Err(RequestError::Long(query.len()));
    }
    let pairs = || query.split('&').filter(|pair| !pair.is_empty());
    if pairs().count() > PARAMETERS_MAX {
        return Err(RequestError::Parameters(pairs().count()));
    }
    let decoded = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name, Plus::Space), decode(value, Plus::Space))
    };
    Ok(pairs().map(decoded).collect())
}

/// What a `+` stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Plus {
    /// A plus, in a path.
    Itself,
    /// A space, in a query as forms write it.
    Space,
}

/// Undoes percent-encoding (RFC 3986 §2.1) once. A `%` without two hex digits stays; bytes that are not UTF-8 become U+FFFD.
fn decode(text: &str, plus: Plus) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let escaped = behind.first_chunk().filter(|_| *first == b'%').and_then(hex_pair);
        bytes.push(match escaped {
            Some(byte) => byte,
            None if *first == b'+' && plus == Plus::Space => b' ',
            None => *first,
        });
        rest = match escaped {
            Some(_) => behind.get(2..).unwrap_or_default(),
            None => behind,
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex_pair(digits: &[u8; 2]) -> Option<u8> {
    let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
    u8::try_from(high? << 4 | low?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use pureboot_protocol::{Arch, HardwareFact, Platform};

    use super::*;

    fn fact(fact: &Option<HardwareFact>) -> Option<&str> {
        fact.as_ref().map(HardwareFact::as_str)
    }

    #[test]
    fn what_ipxe_asks_is_understood() {
        // As iPXE of 2019 wrote it under SeaBIOS: the colons encoded, the plus not.
        let request = parse_query(
            "mac=52%3A54%3A00%3A12%3A34%3A56&arch=i386&platform=pcbios&uuid=4c4c4544-0042-3010-8052-c4c04f4d3232&serial=\
             &vendor=QEMU&product=Standard%20PC%20(i440FX%20+%20PIIX,%201996)&boot=42424242-4242-4242-8242-424242424242",
        )
        .expect("a request");
        assert_eq!(request.mac.to_string(), "52:54:00:12:34:56");
        assert_eq!(request.arch, Some(Arch::I386));
        assert_eq!(request.platform, Some(Platform::Pcbios));
        assert_eq!(fact(&request.uuid), Some("4c4c4544-0042-3010-8052-c4c04f4d3232"));
        assert_eq!(request.serial, None);
        assert_eq!(fact(&request.vendor), Some("QEMU"));
        assert_eq!(fact(&request.product), Some("Standard PC _i440FX   PIIX_ 1996_"));
    }

    #[test]
    fn h15_every_form_of_an_address_is_one_machine() {
        for mac in [
            "52:54:00:ab:cd:ef",
            "52:54:00:AB:CD:EF",
            "52-54-00-ab-cd-ef",
            "52-54-00-AB-CD-EF",
            "525400abcdef",
            "525400ABCDEF",
            "52%3a54%3A00%3aab%3Acd%3aef",
            "52%2d54%2D00-ab-cd-ef",
            "%35254%30%30abcdef",
        ] {
            let by_path = parse_path(mac, "").expect(mac);
            let by_query = parse_query(&format!("arch=x&mac={mac}")).expect(mac);
            assert_eq!(by_path.mac.to_string(), "52:54:00:ab:cd:ef", "{mac}");
            assert_eq!(by_query, by_path, "{mac}");
        }
    }

    #[test]
    fn h15_what_names_no_machine_is_refused_by_its_name() {
        for (mac, text) in [
            ("00:00:00:00:00:00", "00:00:00:00:00:00 is the address of no machine"),
            (
                "ff:ff:ff:ff:ff:ff",
                "'ff:ff:ff:ff:ff:ff' is a multicast address, not the address of a machine",
            ),
            (
                "01:00:5e:00:00:01",
                "'01:00:5e:00:00:01' is a multicast address, not the address of a machine",
            ),
        ] {
            assert_eq!(parse_path(mac, "").expect_err(mac).to_string(), text);
            assert_eq!(parse_query(&format!("mac={mac}")).expect_err(mac).to_string(), text);
        }
        for mac in [
            "525400abcdef0",
            "52:54:00:ab:cd:ef:01",
            "52:54:00:ab:cd",
            "52:54-00:ab:cd:ef",
            "5254.00ab.cdef",
            "52%2054%2000%20ab%20cd%20ef",
            "525400abcdeg",
            "%d9%a5%d9%a2%d9%a5%d9%a4%d9%a0%d9%a0",
            "525400abcd%ff",
            "525400abcde%00",
            "52%253a54%253a00%253aab%253acd%253aef",
            "../../etc/passwd",
        ] {
            assert!(matches!(parse_path(mac, ""), Err(RequestError::Mac(_))), "{mac}");
            let by_query = parse_query(&format!("mac={mac}"));
            assert!(matches!(by_query, Err(RequestError::Mac(_))), "{mac}");
        }
        for query in ["", "mac", "mac=", "MAC=525400abcdef", "arch=i386", "&&=&"] {
            assert_eq!(parse_query(query), Err(RequestError::MacMissing), "{query}");
        }
        assert!(parse_path("", "mac=525400abcdef").is_err());
    }

    #[test]
    fn the_first_of_a_name_stands_even_if_it_says_nothing() {
        let query = "mac=525400abcdef&mac=525400000001&serial=A&serial=B&vendor=&vendor=C&platform=amiga&platform=efi";
        let request = parse_query(query).expect("a request");
        assert_eq!(request.mac.to_string(), "52:54:00:ab:cd:ef");
        assert_eq!(fact(&request.serial), Some("A"));
        assert_eq!((request.vendor, request.platform), (None, None));
    }

    #[test]
    fn the_path_says_which_machine_it_is() {
        let request =
            parse_path("525400abcdef", "mac=525400000001&platform=efi").expect("a request");
        assert_eq!(request.mac.to_string(), "52:54:00:ab:cd:ef");
        assert_eq!(request.platform, Some(Platform::Efi));
    }

    #[test]
    fn h20_facts_are_decoded_once_and_cleaned() {
        let request = parse_path(
            "525400abcdef",
            "vendor=a+b%2Bc&serial=%zz%4&product=x%0achain%20http://evil/%24{y}&uuid=%fc%2541",
        )
        .expect("a request");
        assert_eq!(fact(&request.vendor), Some("a b_c"));
        assert_eq!(fact(&request.serial), Some("_zz_4"));
        assert_eq!(fact(&request.product), Some("x_chain http://evil/__y_"));
        assert_eq!(fact(&request.uuid), Some("__41"));
    }

    #[test]
    fn a_question_has_its_limits() {
        let long = format!("mac=525400abcdef&serial={}", "a".repeat(QUERY_LEN_MAX));
        assert_eq!(parse_query(&long), Err(RequestError::Long(long.len())));
        let most = format!("mac=525400abcdef{}", "&a=b".repeat(PARAMETERS_MAX - 1));
        assert!(parse_query(&most).is_ok());
        assert_eq!(
            parse_path("525400abcdef", &format!("{most}&c")),
            Err(RequestError::Parameters(PARAMETERS_MAX + 1))
        );
        assert_eq!(session(&format!("{most}&boot=42424242-4242-4242-8242-424242424242")), None);
    }

    #[test]
    fn a_session_is_read_where_one_is_named() {
        let id = "42424242-4242-4242-8242-424242424242";
        assert_eq!(session(&format!("mac=x&boot={id}&boot=y")), id.parse().ok());
        for query in ["", "boot=", "boot=1", "boat=1"] {
            assert_eq!(session(query), None, "{query}");
        }
    }

    proptest! {
        #[test]
        fn h15_any_question_is_a_request_or_an_error(mac in "\\PC{0,20}", query in "(mac=)?[%0-9a-f+&=:]{0,60}|\\PC{0,60}") {
            let _ = parse_path(&mac, &query);
            let _ = parse_query(&query);
            let _ = session(&query);
        }

        #[test]
        fn an_encoded_text_is_read_as_it_was(text in "\\PC{0,40}|[\\x00-\\x7f]{0,40}") {
            let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
            prop_assert_eq!(decode(&encoded, Plus::Space), text.clone());
            prop_assert_eq!(decode(&encoded.to_lowercase(), Plus::Itself), text);
        }
    }
}
