//! Which bytes of a representation a request wants, if any (RFC 9110 §13 and §14), without I/O.

use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::header::{self, AsHeaderName, HeaderMap};

use pureboot_protocol::Timestamp;

/// What a request is judged against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Representation {
    /// Its length.
    pub size_bytes: u64,
    /// The strong entity tag in its double quotes.
    pub etag: String,
    /// When it last changed.
    pub modified: Timestamp,
}

/// What a GET or HEAD is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// 200 and everything.
    Whole,
    /// 206 and these bytes, at least one.
    Part(Range<u64>),
    /// 304.
    NotModified,
    /// 412.
    PreconditionFailed,
    /// 416 with `Content-Range: bytes */size`.
    Unsatisfiable,
}

/// Judges the fields of a request; `with_range` is false for HEAD, where RFC 9110 §14.2 defines no ranges.
pub fn select(fields: &HeaderMap, representation: &Representation, with_range: bool) -> Selection {
    let modified_s = representation.modified.unix_ms() / 1_000;
    // RFC 9110 §13.2.2: a tag decides before a date, a precondition before a cache, and a range comes last.
    if fields.contains_key(header::IF_MATCH) {
        if !any_tag(fields, header::IF_MATCH, |tag| tag == representation.etag) {
            return Selection::PreconditionFailed;
        }
    } else if date(fields, header::IF_UNMODIFIED_SINCE).is_some_and(|since_s| modified_s > since_s)
    {
        return Selection::PreconditionFailed;
    }
    if fields.contains_key(header::IF_NONE_MATCH) {
        let weak = |tag: &str| tag.trim_start_matches("W/") == representation.etag;
        if any_tag(fields, header::IF_NONE_MATCH, weak) {
            return Selection::NotModified;
        }
    } else if date(fields, header::IF_MODIFIED_SINCE).is_some_and(|since_s| modified_s <= since_s) {
        return Selection::NotModified;
    }
    if with_range && if_range_holds(fields, representation, modified_s) {
        return select_range(fields, representation.size_bytes);
    }
    Selection::Whole
}

/// A time as HTTP writes it (RFC 9110 §5.6.7).
pub(super) fn http_date(time: Timestamp) -> String {
    let since_epoch = Duration::from_millis(u64::try_from(time.unix_ms()).unwrap_or_default());
    httpdate::fmt_http_date(UNIX_EPOCH + since_epoch)
}

/// Whether one of the listed tags matches; `*` always does, because the representation exists.
fn any_tag(fields: &HeaderMap, name: impl AsHeaderName, matches: impl Fn(&str) -> bool) -> bool {
    fields
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        // No tag of ours holds a comma, so cutting a foreign tag in two cannot make a match.
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || matches(tag))
}

/// The date in seconds since 1970; a field that does not parse does not exist (RFC 9110 §13.1.3, §13.1.4).
fn date(fields: &HeaderMap, name: impl AsHeaderName) -> Option<i64> {
    let time = httpdate::parse_http_date(fields.get(name)?.to_str().ok()?).ok()?;
    unix_s(time)
}

fn unix_s(time: SystemTime) -> Option<i64> {
    i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()
}

fn if_range_holds(fields: &HeaderMap, representation: &Representation, modified_s: i64) -> bool {
    match fields.get(header::IF_RANGE).map(|value| value.to_str().unwrap_or_default().trim()) {
        None => true,
        Some(tag) if tag == representation.etag => true,
        // RFC 9110 §13.1.5: the date must be the very one that was sent.
        Some(_) => date(fields, header::IF_RANGE) == Some(modified_s),
    }
}

fn select_range(fields: &HeaderMap, size_bytes: u64) -> Selection {
    let mut values = fields.get_all(header::RANGE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Selection::Whole };
    // RFC 9110 §14.2: what is not understood, and more than one range counts as that here, is answered with everything.
    let Some(range) = value.to_str().ok().and_then(parse_range) else { return Selection::Whole };
    let selected = match range {
        Asked::From { first, last } => {
            first..last.map_or(size_bytes, |last| last.saturating_add(1).min(size_bytes))
        }
        Asked::Last(len) => size_bytes.saturating_sub(len)..size_bytes,
    };
    if selected.is_empty() { Selection::Unsatisfiable } else { Selection::Part(selected) }
}

#[derive(Debug, PartialEq, Eq)]
enum Asked {
    From { first: u64, last: Option<u64> },
    Last(u64),
}

fn parse_range(text: &str) -> Option<Asked> {
    let (unit, spec) = text.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = spec.trim().split_once('-')?;
    match (first, last) {
        ("", last) => Some(Asked::Last(position(last)?)),
        (first, "") => Some(Asked::From { first: position(first)?, last: None }),
        (first, last) => {
            let (first, last) = (position(first)?, position(last)?);
            (first <= last).then_some(Asked::From { first, last: Some(last) })
        }
    }
}

/// A decimal number of any length; what does not fit lies beyond every representation.
fn position(digits: &str) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
