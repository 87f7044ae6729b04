//! How far a transfer is, as a line for people: bytes, rate, time left. Times come in.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::remote::screen::size;

/// The rate is that of this last stretch.
const WINDOW: Duration = Duration::from_secs(5);
/// Samples are no closer than this.
const SAMPLE: Duration = Duration::from_millis(200);

/// A transfer that is under way.
#[derive(Debug)]
pub(crate) struct Meter {
    /// What is done with what, such as `sending images/debian/linux`.
    what: String,
    total: u64,
    started: Instant,
    /// When how many bytes had passed, the oldest first; never empty.
    samples: VecDeque<(Instant, u64)>,
}

impl Meter {
    /// A transfer of `total` bytes that begins `now`.
    pub(crate) fn new(what: String, total: u64, now: Instant) -> Self {
        Self { what, total, started: now, samples: VecDeque::from([(now, 0)]) }
    }

    /// Takes in that `done` bytes have passed.
    pub(crate) fn record(&mut self, done: u64, now: Instant) {
        let is_due = |(at, _): &(Instant, u64)| now.saturating_duration_since(*at) >= SAMPLE;
        if self.samples.back().is_none_or(is_due) {
            self.samples.push_back((now, done));
        }
        while self.samples.len() > 1
            && self
                .samples
                .front()
                .is_some_and(|(at, _)| now.saturating_duration_since(*at) > WINDOW)
        {
            self.samples.pop_front();
        }
    }

    /// The line for `done` bytes.
    pub(crate) fn line(&self, done: u64, now: Instant) -> String {
        let what = &self.what;
        let percent = (u128::from(done) * 100).checked_div(u128::from(self.total)).unwrap_or(100);
        let mut line = format!("{what}  {} of {}  {percent} %", size(done), size(self.total));
        if let Some(rate) = self.rate(done, now) {
            let left = Duration::from_secs(self.total.saturating_sub(done) / rate);
            line = format!("{line}  {}/s  {} left", size(rate), time(left));
        }
        line
    }

    /// The line for a transfer that is done.
    pub(crate) fn summary(&self, now: Instant) -> String {
        let took = now.saturating_duration_since(self.started);
        let rate = per_second(self.total, took).map(|rate| format!(", {}/s", size(rate)));
        format!("{} in {}{}", size(self.total), time(took), rate.unwrap_or_default())
    }

    /// Bytes a second, of late; none as long as nothing can be said.
    fn rate(&self, done: u64, now: Instant) -> Option<u64> {
        let (at, before) = self.samples.front()?;
        per_second(done.saturating_sub(*before), now.saturating_duration_since(*at))
    }
}

fn per_second(bytes: u64, took: Duration) -> Option<u64> {
    let rate = (u128::from(bytes) * 1_000).checked_div(took.as_millis())?;
    u64::try_from(rate).ok().filter(|&rate| rate > 0)
}

/// A stretch of time for people.
fn time(stretch: Duration) -> String {
    let seconds = stretch.as_secs();
    match (seconds / 3_600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds @ 0..10) => format!("{seconds}.{} s", stretch.subsec_millis() / 100),
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds:02} s"),
        (hours, minutes, _) => format!("{hours} h {minutes:02} min"),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    /// The lines of a transfer of 100 MB at these milliseconds, with this many MB done.
    fn told(steps: &[(u64, u64)]) -> String {
        let start = Instant::now();
        let mut meter = Meter::new("sending a".to_owned(), 100_000_000, start);
        let mut lines = Vec::new();
        for (ms, mb) in steps {
            let now = start + Duration::from_millis(*ms);
            meter.record(mb * 1_000_000, now);
            lines.push(meter.line(mb * 1_000_000, now));
        }
        lines.join("\n")
    }

    #[test]
    fn a_line_tells_bytes_rate_and_time_left() {
        expect![[r#"
            sending a  0 B of 100.0 MB  0 %
            sending a  10.0 MB of 100.0 MB  10 %  10.0 MB/s  9.0 s left
            sending a  50.0 MB of 100.0 MB  50 %  10.0 MB/s  5.0 s left"#]]
        .assert_eq(&told(&[(0, 0), (1_000, 10), (5_000, 50)]));
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let lines = told(&[(1_000, 50), (2_000, 51), (4_000, 53), (6_500, 55), (7_500, 56)]);
        let last = lines.lines().last().expect("a line");
        assert!(last.contains("  857.1 kB/s  51 s left"), "{last}");
    }

    #[test]
    fn nothing_can_be_said_of_a_transfer_that_stands_still() {
        assert!(!told(&[(0, 0), (9_000, 0)]).contains("left"));
        let empty = Meter::new("sending a".to_owned(), 0, Instant::now());
        assert_eq!(empty.line(0, Instant::now()), "sending a  0 B of 0 B  100 %");
    }

    #[test]
    fn a_stretch_of_time_is_told_in_the_units_that_count() {
        for (seconds, text) in
            [(0, "0.0 s"), (9, "9.0 s"), (10, "10 s"), (61, "1 min 01 s"), (7_260, "2 h 01 min")]
        {
            assert_eq!(time(Duration::from_secs(seconds)), text);
        }
        let start = Instant::now();
        let meter = Meter::new("sending a".to_owned(), 45_600_000, start);
        let summary = meter.summary(start + Duration::from_millis(4_100));
        assert_eq!(summary, "45.6 MB in 4.1 s, 11.1 MB/s");
    }
}
