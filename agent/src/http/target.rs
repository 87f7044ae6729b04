//! The path and the query of a request, made safe to compare.

use std::str;

/// Why a path cannot name anything here. The peer gets 404: there is no such thing, however it is spelt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// A percent sign before something that may be a path separator, a dot, or nothing at all.
    #[error("the path holds a percent-encoding that no name here has")]
    Encoding,
    /// A byte that occurs in no name.
    #[error("the path holds the byte {0:#04x}, which no name here has")]
    Byte(u8),
    /// `.` or `..`.
    #[error("the path holds a '.' or '..' segment")]
    Dots,
}

/// A request target: the segments of its path, and the pairs of its query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    path: String,
    query: String,
}

impl Target {
    /// Reads the target of `uri`. Slashes in a row count as one (BOOT §5.2: shim asks `/sb//grubx64.efi`), a slash at the
    /// end as none.
    ///
    /// # Errors
    /// The path has something that no name here has; percent-encoding is undone only where it cannot hide anything.
    pub fn parse(uri: &hyper::Uri) -> Result<Self, TargetError> {
        let mut path = String::with_capacity(uri.path().len());
        for segment in uri.path().split('/').filter(|segment| !segment.is_empty()) {
            if !path.is_empty() {
                path.push('/');
            }
            decode_segment(segment, &mut path)?;
        }
        Ok(Self { path, query: uri.query().unwrap_or_default().to_owned() })
    }

    /// The segments of the path, decoded, none of them empty.
    pub fn segments(&self) -> Vec<&str> {
        self.path.split('/').filter(|segment| !segment.is_empty()).collect()
    }

    /// The path without its first `skipped` segments, joined by single slashes.
    pub fn rest(&self, skipped: usize) -> String {
        self.segments().get(skipped..).unwrap_or_default().join("/")
    }

    /// The value of the first pair of the query that is called `name`, decoded.
    pub fn query(&self, name: &str) -> Option<String> {
        self.query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode_query(key) == name).then(|| decode_query(value))
        })
    }
}

/// What stands for itself in a name and has no meaning in a path.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_~:@=+-".contains(&byte)
}

fn decode_segment(segment: &str, decoded: &mut String) -> Result<(), TargetError> {
    if segment == "." || segment == ".." {
        return Err(TargetError::Dots);
    }
    let mut rest = segment.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        let byte = match byte {
            b'%' => {
                let (value, after) = take_hex(rest).ok_or(TargetError::Encoding)?;
                rest = after;
                // A dot is not among these: `%2e%2e` has no honest sender.
                if is_plain(value) { value } else { return Err(TargetError::Encoding) }
            }
            b'.' => b'.',
            byte if is_plain(*byte) => *byte,
            byte => return Err(TargetError::Byte(*byte)),
        };
        decoded.push(char::from(byte));
    }
    Ok(())
}

/// The value of two hexadecimal digits, and what follows them.
fn take_hex(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let (digits, rest) = bytes.split_first_chunk::<2>()?;
    let digits = str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
    Some((u8::from_str_radix(digits, 16).ok()?, rest))
}

/// Undoes `application/x-www-form-urlencoded`; what is not an encoding stands for itself, what is not UTF-8 becomes U+FFFD.
fn decode_query(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'+' => decoded.push(b' '),
            b'%' => match take_hex(rest) {
                Some((value, after)) => {
                    decoded.push(value);
                    rest = after;
                }
                None => decoded.push(b'%'),
            },
            byte => decoded.push(*byte),
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<String, TargetError> {
        let uri = text.parse().expect("hyper lets nothing else through");
        Target::parse(&uri).map(|target| target.segments().join("|"))
    }

    #[test]
    fn h14_a_path_is_its_segments_or_nothing() {
        for (text, expected) in [
            ("/", Ok("")),
            ("/sb//grubx64.efi", Ok("sb|grubx64.efi")),
            ("/seed/x/", Ok("seed|x")),
            ("/boot/52%3A54:00-aa", Ok("boot|52:54:00-aa")),
            ("/a..b/...", Ok("a..b|...")),
            ("/../etc/passwd", Err(TargetError::Dots)),
            ("/a/./b", Err(TargetError::Dots)),
            ("/%2e%2e/a", Err(TargetError::Encoding)),
            ("/a%2fb", Err(TargetError::Encoding)),
            ("/a%252e", Err(TargetError::Encoding)),
            ("/a%00", Err(TargetError::Encoding)),
            ("/a%0d%0a", Err(TargetError::Encoding)),
            ("/a%", Err(TargetError::Encoding)),
            ("/a%4", Err(TargetError::Encoding)),
            ("/a%+4", Err(TargetError::Encoding)),
            ("/a;b", Err(TargetError::Byte(b';'))),
            ("/a$b", Err(TargetError::Byte(b'$'))),
        ] {
            assert_eq!(parse(text), expected.map(str::to_owned), "{text}");
        }
    }

    #[test]
    fn a_query_is_read_as_firmware_writes_it() {
        let uri =
            "/boot?mac=52%3a54&product=Standard%20PC+(Q35)&empty=&flag&mac=2&x=%zz%e4".parse();
        let target = Target::parse(&uri.expect("a target")).expect("a path");
        for (name, expected) in [
            ("mac", Some("52:54")),
            ("product", Some("Standard PC (Q35)")),
            ("empty", Some("")),
            ("flag", Some("")),
            ("x", Some("%zz\u{fffd}")),
            ("absent", None),
        ] {
            assert_eq!(target.query(name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn the_rest_of_a_path_is_a_key() {
        let target = Target::parse(&"/files/images/a//b/c.iso".parse().expect("a target"));
        assert_eq!(target.map(|target| target.rest(1)), Ok("images/a/b/c.iso".to_owned()));
    }

    proptest! {
        #[test]
        fn h14_no_segment_climbs_or_hides(text in "/([a-b./%;~:]|%2[ef]|%00){0,20}") {
            let Ok(uri) = text.parse::<hyper::Uri>() else { return Ok(()) };
            if let Ok(target) = Target::parse(&uri) {
                for segment in target.segments() {
                    prop_assert!(segment != "." && segment != ".." && !segment.is_empty());
                    prop_assert!(segment.bytes().all(|byte| is_plain(byte) || byte == b'.'));
                }
            }
        }
    }
}
