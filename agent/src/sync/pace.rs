//! How fast content may come over the line, so that it does not fill it: limits by the time of day, and what they cost. Values
//! in, values out.

use std::time::{Duration, Instant};

use anyhow::bail;
use serde::{Deserialize, Serialize};

/// How much may come at once after a rest.
const BURST: Duration = Duration::from_millis(250);

/// The most windows.
const WINDOWS_MAX: usize = 32;

const DAY_MINUTES: u16 = 24 * 60;

/// What has come and has not been waited for, over all that share a line.
#[derive(Debug, Default)]
pub struct Pace {
    owed_bytes: f64,
    settled: Option<Instant>,
}

impl Pace {
    /// `len` bytes have come.
    pub fn handle_bytes(&mut self, len: usize) {
        self.owed_bytes += len as f64;
    }

    /// How long to wait before more are read, with a limit in bytes per second; without one nothing ever waits. A limit that
    /// changes holds from then on, also for what has come before.
    pub fn wait(&mut self, limit: Option<u64>, now: Instant) -> Duration {
        let before = self.settled.replace(now).unwrap_or(now);
        let Some(limit) = limit.filter(|limit| *limit > 0) else {
            self.owed_bytes = 0.0;
            return Duration::ZERO;
        };
        let limit = limit as f64;
        let passed_s = now.saturating_duration_since(before).as_secs_f64();
        self.owed_bytes = (self.owed_bytes - limit * passed_s).max(0.0);
        let wait_s = self.owed_bytes / limit - BURST.as_secs_f64();
        Duration::try_from_secs_f64(wait_s).unwrap_or_default()
    }
}

/// A time of the day, written `HH:MM`; `24:00` is the day's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DayTime {
    minute: u16,
}

impl TryFrom<String> for DayTime {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let number = |digits: &str| (digits.len() == 2).then(|| digits.parse::<u16>().ok())?;
        let minute = text.split_once(':').and_then(|(hour, minute)| {
            let (hour, minute) = (number(hour)?, number(minute).filter(|minute| *minute < 60)?);
            Some(hour * 60 + minute).filter(|minute| *minute <= DAY_MINUTES)
        });
        let minute = minute.ok_or_else(|| format!("'{text}' is no time: give 00:00 to 24:00"))?;
        Ok(Self { minute })
    }
}

impl From<DayTime> for String {
    fn from(time: DayTime) -> String {
        format!("{:02}:{:02}", time.minute / 60, time.minute % 60)
    }
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Day {
    /// All of them, in their order.
    pub const ALL: [Self; 7] =
        [Self::Mon, Self::Tue, Self::Wed, Self::Thu, Self::Fri, Self::Sat, Self::Sun];

    /// The day as settings name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mon => "mon",
            Self::Tue => "tue",
            Self::Wed => "wed",
            Self::Thu => "thu",
            Self::Fri => "fri",
            Self::Sat => "sat",
            Self::Sun => "sun",
        }
    }

    fn before(self) -> Self {
        let at = (self as usize + 6) % 7;
        Self::ALL.into_iter().nth(at).unwrap_or(self)
    }
}

/// A moment of the week, as the site's clocks show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The day.
    pub day: Day,
    /// Minutes since its midnight.
    pub minute: u16,
}

/// `[[sync.rate]]`: how fast content may come at a time of the day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateWindow {
    /// Its begin.
    pub from: DayTime,
    /// Its end; one before the begin is the next day's.
    pub to: DayTime,
    /// The days on which it begins; without any, all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<Day>,
    /// The limit in KiB per second; 0: as fast as the line.
    pub max_kib_s: u32,
}

impl RateWindow {
    fn covers(&self, moment: Moment) -> bool {
        let is_on = |day: Day| self.days.is_empty() || self.days.contains(&day);
        let Moment { day, minute } = moment;
        let (from, to) = (self.from.minute, self.to.minute);
        if from < to {
            return is_on(day) && (from..to).contains(&minute);
        }
        (is_on(day) && minute >= from) || (is_on(day.before()) && minute < to)
    }
}

/// Whether windows can be meant.
///
/// # Errors
/// One is empty, or there are too many.
pub fn check(windows: &[RateWindow]) -> anyhow::Result<()> {
    if windows.len() > WINDOWS_MAX {
        bail!("[[sync.rate]] is there {} times: give at most {WINDOWS_MAX}", windows.len());
    }
    if let Some(window) = windows.iter().find(|window| window.from == window.to) {
        let time = String::from(window.from);
        bail!(
            "[[sync.rate]] has from and to both at {time}: for a whole day give from = \"00:00\", to = \"24:00\""
        );
    }
    Ok(())
}

/// The limit at a moment, in bytes per second: that of the first window that covers it, or else the `usual` one.
pub fn limit(windows: &[RateWindow], usual: Option<u64>, moment: Moment) -> Option<u64> {
    match windows.iter().find(|window| window.covers(moment)) {
        Some(window) => bytes_per_second(window.max_kib_s),
        None => usual,
    }
}

/// KiB per second as bytes; 0 is no limit.
pub fn bytes_per_second(kib: u32) -> Option<u64> {
    (kib > 0).then_some(u64::from(kib) * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n10_content_comes_no_faster_than_it_may() {
        let (mut pace, start) = (Pace::default(), crate::clock::monotonic());
        let mut now = start;
        let come = |pace: &mut Pace, len, now| {
            pace.handle_bytes(len);
            pace.wait(Some(1_000), now)
        };
        for _ in 0..100 {
            now += come(&mut pace, 100, now);
        }
        assert_eq!((now - start).as_millis(), 10_000 - BURST.as_millis());
        now += Duration::from_secs(3_600);
        let rest = come(&mut pace, 100, now);
        assert_eq!(rest, Duration::ZERO, "a rest is not saved up, but for a burst");
        assert!(come(&mut pace, 1_000, now) > Duration::from_millis(700));
    }

    #[test]
    fn a_limit_that_changes_holds_for_who_waits_already() {
        let (mut pace, now) = (Pace::default(), crate::clock::monotonic());
        pace.handle_bytes(1_000_000);
        assert!(pace.wait(Some(1_000), now) > Duration::from_secs(900));
        assert!(pace.wait(Some(1_000_000), now) < Duration::from_secs(1));
        assert_eq!(pace.wait(None, now), Duration::ZERO);
        assert_eq!(pace.wait(Some(1), now), Duration::ZERO, "what was free is not charged later");
    }

    fn window(from: &str, to: &str, days: &[Day], max_kib_s: u32) -> RateWindow {
        let time = |text: &str| text.to_owned().try_into().expect("a time");
        RateWindow { from: time(from), to: time(to), days: days.to_vec(), max_kib_s }
    }

    #[test]
    fn the_first_window_that_covers_the_moment_counts() {
        let windows = [
            window("12:00", "13:00", &[], 0),
            window("08:00", "18:00", &[Day::Mon, Day::Fri], 500),
            window("22:00", "02:00", &[Day::Fri], 100),
        ];
        let at = |day, hour: u16, minute| {
            limit(&windows, Some(7), Moment { day, minute: hour * 60 + minute })
        };
        let (office, night) = (Some(500 * 1_024), Some(100 * 1_024));
        assert_eq!(at(Day::Mon, 7, 59), Some(7));
        assert_eq!(at(Day::Mon, 8, 0), office);
        assert_eq!(at(Day::Mon, 12, 30), None, "as fast as the line");
        assert_eq!(at(Day::Mon, 17, 59), office);
        assert_eq!(at(Day::Mon, 18, 0), Some(7));
        assert_eq!(at(Day::Tue, 9, 0), Some(7));
        assert_eq!((at(Day::Fri, 22, 0), at(Day::Sat, 1, 59)), (night, night));
        assert_eq!((at(Day::Fri, 1, 59), at(Day::Sat, 22, 0)), (Some(7), Some(7)));
        assert_eq!(at(Day::Sat, 2, 0), Some(7));
    }

    #[test]
    fn times_are_read_as_they_are_written() {
        for text in ["00:00", "08:05", "23:59", "24:00"] {
            assert_eq!(DayTime::try_from(text.to_owned()).map(String::from), Ok(text.to_owned()));
        }
        for text in ["", "8:00", "08:60", "24:01", "0800", "08:5", "-1:00", "٠٨:٠٠"] {
            assert!(DayTime::try_from(text.to_owned()).is_err(), "{text}");
        }
        assert!(check(&[window("08:00", "08:00", &[], 1)]).is_err());
        assert!(check(&vec![window("08:00", "09:00", &[], 1); 33]).is_err());
    }
}
