//! Points in time as records carry them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const MS_PER_SECOND: i64 = 1_000;
const MS_PER_DAY: i64 = 86_400 * MS_PER_SECOND;
/// 9999-12-31T23:59:59.999Z: RFC 3339 has four digits for the year.
const MAX_MS: i64 = 253_402_300_799_999;

/// A point in time in UTC with the resolution of a millisecond, from the year 1970 to the year 9999.
///
/// On the wire it is RFC 3339 text such as `2026-11-21T03:04:05.678Z`; a numeric offset is understood and turned into UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(extend("format" = "date-time")))]
#[serde(try_from = "String", into = "String")]
pub struct Timestamp {
    unix_ms: i64,
}

/// Why a text is not a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimestampError {
    text: String,
}

impl fmt::Display for TimestampError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' is not a time (RFC 3339, such as 2026-11-21T03:04:05Z)", self.text)
    }
}

impl std::error::Error for TimestampError {}

impl Timestamp {
    /// Milliseconds since 1970-01-01T00:00:00Z; what lies outside the representable years becomes their first or last moment.
    pub fn from_unix_ms(unix_ms: i64) -> Self {
        Self { unix_ms: unix_ms.clamp(0, MAX_MS) }
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub fn unix_ms(self) -> i64 {
        self.unix_ms
    }

    /// This moment and `seconds` more.
    pub fn plus_seconds(self, seconds: i64) -> Self {
        Self::from_unix_ms(self.unix_ms.saturating_add(seconds.saturating_mul(MS_PER_SECOND)))
    }

    /// Whole seconds from `earlier` to this moment; negative if `earlier` is the later one.
    pub fn seconds_since(self, earlier: Self) -> i64 {
        (self.unix_ms - earlier.unix_ms) / MS_PER_SECOND
    }
}

/// Days since 1970-01-01 of a date in the proleptic Gregorian calendar (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The inverse of [`days_from_civil`]: year, month, day.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(self.unix_ms.div_euclid(MS_PER_DAY));
        let ms = self.unix_ms.rem_euclid(MS_PER_DAY);
        let (hour, minute) = (ms / 3_600_000, ms / 60_000 % 60);
        let (second, ms) = (ms / MS_PER_SECOND % 60, ms % MS_PER_SECOND);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
    }
}

/// Takes `len` ASCII digits off the front.
fn digits(text: &mut &[u8], len: usize) -> Option<i64> {
    let (head, rest) = text.split_at_checked(len)?;
    *text = rest;
    head.iter().try_fold(0, |value, byte| {
        byte.is_ascii_digit().then(|| value * 10 + i64::from(byte - b'0'))
    })
}

/// Takes one byte off the front if it is one of `wanted`.
fn one_of(text: &mut &[u8], wanted: &[u8]) -> Option<u8> {
    let (first, rest) = text.split_first()?;
    wanted.contains(first).then(|| {
        *text = rest;
        *first
    })
}

fn parse(mut text: &[u8]) -> Option<Timestamp> {
    let text = &mut text;
    let year = digits(text, 4)?;
    one_of(text, b"-")?;
    let month = digits(text, 2)?;
    one_of(text, b"-")?;
    let day = digits(text, 2)?;
    one_of(text, b"Tt ")?;
    let hour = digits(text, 2)?;
    one_of(text, b":")?;
    let minute = digits(text, 2)?;
    one_of(text, b":")?;
    let second = digits(text, 2)?;
    let mut ms = 0;
    if one_of(text, b".").is_some() {
        let len = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let mut fraction = text.get(..len.min(3))?;
        ms = digits(&mut fraction, len.min(3))? * [0, 100, 10, 1].get(len.min(3))?;
        *text = text.get(len..)?;
        (len > 0).then_some(())?;
    }
    let offset_minutes = match one_of(text, b"Zz+-")? {
        b'Z' | b'z' => 0,
        sign => {
            let hours = digits(text, 2)?;
            one_of(text, b":")?;
            let minutes = digits(text, 2)?;
            (hours <= 23 && minutes <= 59).then_some(())?;
            (hours * 60 + minutes) * if sign == b'-' { -1 } else { 1 }
        }
    };
    text.is_empty().then_some(())?;
    // RFC 3339 §5.7: second 60 is a leap second; it is read as the last moment of its minute.
    let in_range = (1..=12).contains(&month) && hour <= 23 && minute <= 59 && second <= 60;
    let days = days_from_civil(year, month, day);
    (in_range && civil_from_days(days) == (year, month, day)).then_some(())?;
    let unix_ms = days * MS_PER_DAY
        + ((hour * 60 + minute - offset_minutes) * 60 + second.min(59)) * MS_PER_SECOND
        + ms;
    (0..=MAX_MS).contains(&unix_ms).then_some(Timestamp { unix_ms })
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, TimestampError> {
        parse(text.as_bytes())
            .ok_or_else(|| TimestampError { text: text.chars().take(64).collect() })
    }
}

impl TryFrom<String> for Timestamp {
    type Error = TimestampError;

    fn try_from(text: String) -> Result<Self, TimestampError> {
        text.parse()
    }
}

impl From<Timestamp> for String {
    fn from(time: Timestamp) -> String {
        time.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn t7_a_time_survives_its_own_text(unix_ms in 0..=MAX_MS) {
            let time = Timestamp::from_unix_ms(unix_ms);
            prop_assert_eq!(time.to_string().parse::<Timestamp>(), Ok(time));
        }

        #[test]
        fn any_text_is_a_time_or_an_error(text in "[0-9TZ:+. -]{0,32}") {
            let _ = text.parse::<Timestamp>();
        }
    }

    #[test]
    fn t7_known_moments_are_read_and_written() {
        for (text, unix_ms) in [
            ("1970-01-01T00:00:00.000Z", 0),
            ("2000-02-29T12:00:00.000Z", 951_825_600_000),
            ("2026-11-21T03:04:05.678Z", 1_795_230_245_678),
            ("2038-01-19T03:14:08.000Z", 2_147_483_648_000),
            ("2106-02-07T06:28:16.000Z", 4_294_967_296_000),
            ("9999-12-31T23:59:59.999Z", MAX_MS),
        ] {
            assert_eq!(text.parse::<Timestamp>().map(Timestamp::unix_ms), Ok(unix_ms));
            assert_eq!(Timestamp::from_unix_ms(unix_ms).to_string(), text);
        }
    }

    #[test]
    fn offsets_and_fractions_are_understood() {
        for text in ["2026-11-21T05:04:05.6+02:00", "2026-11-20t22:34:05.600999-04:30"] {
            assert_eq!(
                text.parse::<Timestamp>().map(|time| time.to_string()),
                Ok("2026-11-21T03:04:05.600Z".to_owned())
            );
        }
    }

    #[test]
    fn what_is_not_a_moment_is_refused() {
        for text in [
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00Z ",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+01:00",
            "",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }
}
