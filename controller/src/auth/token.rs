//! API tokens as texts, and how long they last.

use std::ops::RangeInclusive;

use pureboot_protocol::Secret;

use crate::random;

/// How a token begins, so that people and scanners see what it is.
const PREFIX: &str = "pbt_";
/// How long a token may last, in days.
pub(crate) const DAYS: RangeInclusive<u32> = 1..=3_650;
/// What is said where it would last shorter or longer.
pub(crate) const DAYS_TEXT: &str = "expected 1 to 3650 days";
/// How long a token lasts where nothing is said, in days.
pub(crate) const DAYS_DEFAULT: u32 = 90;

/// A token of 256 random bits.
pub(crate) fn secret() -> Secret {
    let digits = Secret::from_random(random::bytes());
    Secret::new(format!("{PREFIX}{}", digits.reveal()))
}

/// Whether `text` has the form of a token. Those of earlier versions had no beginning of their own.
pub(crate) fn is_whole(text: &str) -> bool {
    let digits = text.strip_prefix(PREFIX).unwrap_or(text);
    digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}
