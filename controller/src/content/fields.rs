//! The fields of a request and an answer that carry content: digests, ranges, entity tags. Values in, values out.

use std::ops::Range;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use pureboot_protocol::ContentHash;

/// The SHA-256 in the values of `Content-Digest` (RFC 9530 §2); none where they name other algorithms only.
///
/// # Errors
/// The member that should be one and is not; the text is for people.
pub(crate) fn parse_digest(value: &str) -> Result<Option<ContentHash>, String> {
    let members = value.split(',').filter_map(|member| member.trim().split_once('='));
    let Some((_, bytes)) = members.into_iter().find(|(algorithm, _)| *algorithm == "sha-256")
    else {
        return Ok(None);
    };
    let inner = bytes.strip_prefix(':').and_then(|bytes| bytes.strip_suffix(':'));
    let digest = inner.and_then(|bytes| BASE64_STANDARD.decode(bytes).ok());
    let digest = digest.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let digest = digest.ok_or_else(|| {
        let shown: String = bytes.chars().take(64).collect();
        format!("Content-Digest: 'sha-256={shown}' is not sha-256=:BASE64: of 32 bytes")
    })?;
    Ok(Some(ContentHash::from_digest(digest)))
}

/// What [`parse_digest`] reads.
pub(crate) fn emit_digest(sha256: &ContentHash) -> String {
    format!("sha-256=:{}:", BASE64_STANDARD.encode(sha256.as_bytes()))
}

/// The strong entity tag of content.
pub(crate) fn tag(sha256: &ContentHash) -> String {
    format!("\"{sha256}\"")
}

/// The entity tags of `If-Match` or `If-None-Match` (RFC 9110 §13.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tags(String);

impl Tags {
    /// Takes the field's value.
    pub(crate) fn new(value: &str) -> Self {
        Self(value.to_owned())
    }

    /// Whether `tag`, none where there is nothing, is among them; `W/` before one of them is allowed with `is_weak`.
    fn hold(&self, tag: Option<&str>, is_weak: bool) -> bool {
        let Some(tag) = tag else { return false };
        let is_one = |listed: &str| {
            let listed = listed.trim();
            let strong = listed.strip_prefix("W/").filter(|_| is_weak).unwrap_or(listed);
            listed == "*" || strong == tag
        };
        self.0.split(',').any(is_one)
    }
}

/// Under which condition a name may change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Condition {
    /// `If-Match`: what there is must be among these.
    pub(crate) matching: Option<Tags>,
    /// `If-None-Match`: what there is must not be among these.
    pub(crate) none_matching: Option<Tags>,
}

impl Condition {
    /// Whether it holds where the name means `current`.
    pub(crate) fn holds(&self, current: Option<&ContentHash>) -> bool {
        let tag = current.map(tag);
        let tag = tag.as_deref();
        self.matching.as_ref().is_none_or(|tags| tags.hold(tag, false))
            && self.none_matching.as_ref().is_none_or(|tags| !tags.hold(tag, true))
    }
}

/// Whether who asks with `if_none_match` has what `tag` names already.
pub(crate) fn is_known(if_none_match: &str, tag: &str) -> bool {
    Tags::new(if_none_match).hold(Some(tag), true)
}

/// What part of some content is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it.
    Whole,
    /// These bytes, at least one of them.
    Bytes(Range<u64>),
    /// Nothing: the range begins behind the end.
    Unsatisfiable,
}

impl Part {
    /// Reads the value of `Range` (RFC 9110 §14.1.2) for content of `size_bytes`. One range is served; what is none, or asks
    /// for several, is answered as if it were not there (§14.2).
    pub(crate) fn parse(value: &str, size_bytes: u64) -> Self {
        let (first, last) = match value.strip_prefix("bytes=").and_then(|set| set.split_once('-')) {
            Some(ends) => ends,
            None => return Self::Whole,
        };
        let (from, to) = (number(first), number(last));
        if from.is_none() != first.is_empty() || to.is_none() != last.is_empty() {
            return Self::Whole;
        }
        match (from, to) {
            (None, None) => Self::Whole,
            (Some(from), Some(to)) if from > to => Self::Whole,
            (Some(from), _) if from >= size_bytes => Self::Unsatisfiable,
            (Some(from), to) => {
                let end = to.map_or(size_bytes, |to| to.saturating_add(1).min(size_bytes));
                Self::Bytes(from..end)
            }
            (None, Some(len)) if len == 0 || size_bytes == 0 => Self::Unsatisfiable,
            (None, Some(len)) => Self::Bytes(size_bytes.saturating_sub(len)..size_bytes),
        }
    }
}

/// A number of digits only; one that is too large is larger than any content.
fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash() -> ContentHash {
        ContentHash::from_digest([7; 32])
    }

    #[test]
    fn a_digest_is_read_back_and_what_is_none_is_refused() {
        let text = emit_digest(&hash());
        for value in [text.clone(), format!("md5=:AAAA:, {text}"), format!("{text},sha-512=:AA==:")]
        {
            assert_eq!(parse_digest(&value), Ok(Some(hash())), "{value}");
        }
        for value in ["", "md5=:AAAA:", "SHA-256=:AAAA:", "sha-512=:AA==:"] {
            assert_eq!(parse_digest(value), Ok(None), "{value}");
        }
        for value in ["sha-256=", "sha-256=:AAAA:", "sha-256=AAAA", "sha-256=::", "sha-256=:!:"] {
            let error = parse_digest(value).expect_err(value);
            assert!(error.contains("32 bytes"), "{error}");
        }
    }

    #[test]
    fn h10_one_range_is_served_and_every_abuse_is_answered_with_416_or_all_of_it() {
        let many = format!("bytes={}", vec!["0-1"; 100].join(","));
        for (value, size_bytes, expected) in [
            ("bytes=0-0", 10, Part::Bytes(0..1)),
            ("bytes=2-5", 10, Part::Bytes(2..6)),
            ("bytes=2-", 10, Part::Bytes(2..10)),
            ("bytes=-3", 10, Part::Bytes(7..10)),
            ("bytes=-30", 10, Part::Bytes(0..10)),
            ("bytes=9-99999999999999999999999", 10, Part::Bytes(9..10)),
            ("bytes=0-18446744073709551615", 10, Part::Bytes(0..10)),
            ("bytes=10-", 10, Part::Unsatisfiable),
            ("bytes=18446744073709551616-", 10, Part::Unsatisfiable),
            ("bytes=-0", 10, Part::Unsatisfiable),
            ("bytes=0-", 0, Part::Unsatisfiable),
            ("bytes=-1", 0, Part::Unsatisfiable),
            ("bytes=5-2", 10, Part::Whole),
            ("bytes=--1", 10, Part::Whole),
            ("bytes=-", 10, Part::Whole),
            ("bytes=", 10, Part::Whole),
            ("bytes=1-x", 10, Part::Whole),
            ("bytes=+1-2", 10, Part::Whole),
            ("bytes= 1-2", 10, Part::Whole),
            ("items=0-1", 10, Part::Whole),
            (&many, 10, Part::Whole),
        ] {
            assert_eq!(Part::parse(value, size_bytes), expected, "{value}");
        }
    }

    #[test]
    fn a_condition_compares_with_what_there_is() {
        let (this, other) = (tag(&hash()), tag(&ContentHash::from_digest([8; 32])));
        let matching =
            |value: &str| Condition { matching: Some(Tags::new(value)), ..Condition::default() };
        let none_matching = |value: &str| Condition {
            none_matching: Some(Tags::new(value)),
            ..Condition::default()
        };
        for (condition, with, without) in [
            (Condition::default(), true, true),
            (matching("*"), true, false),
            (matching(&this), true, false),
            (matching(&format!("{other}, {this}")), true, false),
            (matching(&format!("W/{this}")), false, false),
            (matching(&other), false, false),
            (matching(""), false, false),
            (none_matching("*"), false, true),
            (none_matching(&this), false, true),
            (none_matching(&format!("W/{this}")), false, true),
            (none_matching(&other), true, true),
        ] {
            assert_eq!(condition.holds(Some(&hash())), with, "{condition:?}");
            assert_eq!(condition.holds(None), without, "{condition:?}");
        }
    }
}
