//! The rules of RFC 9110 §13 and §14 as cases.

use proptest::prelude::*;

use super::*;

const ETAG: &str = "\"5f\"";
const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

fn representation(size_bytes: u64) -> Representation {
    // Half a second that no HTTP date can say.
    let modified = Timestamp::from_unix_ms(784_111_777_500);
    Representation { size_bytes, etag: ETAG.to_owned(), modified }
}

fn fields(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}

fn check(pairs: &[(&'static str, &str)], expected: Selection) {
    assert_eq!(select(&fields(pairs), &representation(100), true), expected, "{pairs:?}");
}

#[test]
fn a_date_is_written_as_rfc_9110_says() {
    assert_eq!(http_date(representation(0).modified), MODIFIED);
    assert_eq!(http_date(Timestamp::from_unix_ms(0)), "Thu, 01 Jan 1970 00:00:00 GMT");
    assert_eq!(http_date(Timestamp::from_unix_ms(i64::MAX)), "Fri, 31 Dec 9999 23:59:59 GMT");
}

#[test]
fn a_single_range_is_given_exactly() {
    for (range, expected) in [
        ("bytes=0-0", 0..1),
        ("bytes=0-", 0..100),
        ("bytes=10-19", 10..20),
        ("BYTES=99-", 99..100),
        ("bytes=90-1000", 90..100),
        ("bytes=90-99999999999999999999999", 90..100),
        ("bytes=-1", 99..100),
        ("bytes=-1000", 0..100),
        ("bytes=-18446744073709551616", 0..100),
    ] {
        check(&[("range", range)], Selection::Part(expected));
    }
}

#[test]
fn h10_a_range_beyond_the_end_is_416() {
    for range in [
        "bytes=100-",
        "bytes=100-200",
        "bytes=-0",
        "bytes=18446744073709551615-",
        "bytes=18446744073709551616-18446744073709551617",
    ] {
        check(&[("range", range)], Selection::Unsatisfiable);
    }
    let empty = select(&fields(&[("range", "bytes=0-")]), &representation(0), true);
    assert_eq!(empty, Selection::Unsatisfiable);
}

#[test]
fn h10_what_is_not_one_range_is_answered_with_everything() {
    let many = format!("bytes={}", vec!["0-1"; 100].join(","));
    for range in [
        many.as_str(),
        "bytes=0-1,5-6",
        "bytes=5-4",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=+1-2",
        "bytes=--1",
        "bytes= 1 - 2",
        "bytes",
        "lines=1-2",
        "",
    ] {
        check(&[("range", range)], Selection::Whole);
    }
    check(&[("range", "bytes=0-1"), ("range", "bytes=0-1")], Selection::Whole);
}

#[test]
fn a_range_counts_only_for_what_if_range_names() {
    let range = ("range", "bytes=1-");
    for (condition, expected) in [
        (ETAG, Selection::Part(1..100)),
        (MODIFIED, Selection::Part(1..100)),
        ("\"60\"", Selection::Whole),
        ("W/\"5f\"", Selection::Whole),
        (EARLIER, Selection::Whole),
        (LATER, Selection::Whole),
        ("5f", Selection::Whole),
        ("", Selection::Whole),
    ] {
        check(&[range, ("if-range", condition)], expected);
    }
    check(&[range, ("if-match", "\"60\"")], Selection::PreconditionFailed);
    check(&[range, ("if-match", ETAG)], Selection::Part(1..100));
}

#[test]
fn preconditions_are_judged_in_order() {
    for (pairs, expected) in [
        (&[("if-match", "*")][..], Selection::Whole),
        (&[("if-match", "\"1\", \"5f\"")], Selection::Whole),
        (&[("if-match", "W/\"5f\"")], Selection::PreconditionFailed),
        (&[("if-match", "")], Selection::PreconditionFailed),
        (&[("if-match", ETAG), ("if-unmodified-since", EARLIER)], Selection::Whole),
        (&[("if-unmodified-since", EARLIER)], Selection::PreconditionFailed),
        (&[("if-unmodified-since", MODIFIED)], Selection::Whole),
        (&[("if-unmodified-since", "yesterday")], Selection::Whole),
        (&[("if-none-match", ETAG)], Selection::NotModified),
        (&[("if-none-match", "W/\"5f\"")], Selection::NotModified),
        (&[("if-none-match", "*")], Selection::NotModified),
        (&[("if-none-match", "\"1\""), ("if-modified-since", MODIFIED)], Selection::Whole),
        (&[("if-modified-since", MODIFIED)], Selection::NotModified),
        (&[("if-modified-since", EARLIER)], Selection::Whole),
        (&[("if-match", "\"1\""), ("if-none-match", ETAG)], Selection::PreconditionFailed),
    ] {
        check(pairs, expected);
    }
}

#[test]
fn a_head_has_no_ranges() {
    let asked = fields(&[("range", "bytes=1-")]);
    assert_eq!(select(&asked, &representation(100), false), Selection::Whole);
}

proptest! {
    #[test]
    fn h10_a_part_is_never_empty_and_never_beyond_the_end(
        text in "bytes=([0-9]{0,22}-[0-9]{0,22},?){0,3}|.{0,30}",
        size_bytes in prop_oneof![0u64..5, any::<u64>()],
    ) {
        let Ok(value) = header::HeaderValue::from_str(&text) else { return Ok(()) };
        let asked = HeaderMap::from_iter([(header::RANGE, value)]);
        if let Selection::Part(range) = select(&asked, &representation(size_bytes), true) {
            prop_assert!(!range.is_empty());
            prop_assert!(range.end <= size_bytes);
        }
    }

    #[test]
    fn a_range_that_fits_is_given_as_asked(first in 0u64..1_000, len in 1u64..1_000, beyond in 0u64..1_000) {
        let asked = fields(&[("range", &format!("bytes={first}-{}", first + len - 1))]);
        let size_bytes = first + len + beyond;
        prop_assert_eq!(
            select(&asked, &representation(size_bytes), true),
            Selection::Part(first..first + len)
        );
    }
}
