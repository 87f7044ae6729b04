//! When content is brought up to date by the clock. Values in, values out: the time and its zone come in.
//!
//! Expressions are read in the zone of the host, because who writes "at two in the night" means the night of the site. Where
//! clocks are put forward, what would fall into the missing hour runs at its end; where they are put back, it runs once.

use std::time::Duration;

use anyhow::{Context as _, bail};
use chrono::{DateTime, TimeZone, Utc};
use croner::Cron;
use pureboot_protocol::{SiteId, Timestamp};

/// The most expressions.
const LINES_MAX: usize = 16;

/// A clock that goes back by less has been set right; by more, what was remembered was another clock's time (FAULTS T2, T3).
const STEP_BACK_S: i64 = 3_600;

/// The times at which a site syncs.
#[derive(Debug, Clone)]
pub struct Schedule {
    lines: Vec<Cron>,
    delay: Duration,
}

impl Schedule {
    /// Reads cron expressions of five fields (minute, hour, day of the month, month, day of the week). Every time of theirs
    /// comes later by a part of `jitter` that is this site's own, so that forty sites do not ask in one instant.
    ///
    /// # Errors
    /// One of them is none, or never comes.
    pub fn parse(lines: &[String], jitter: Duration, site: SiteId) -> anyhow::Result<Self> {
        if lines.len() > LINES_MAX {
            bail!("sync.schedule has {} expressions: give at most {LINES_MAX}", lines.len());
        }
        let line = |line: &String| {
            let is_known = line.split_whitespace().count() == 5 || line.starts_with('@');
            let cron = is_known.then(|| line.parse::<Cron>());
            let cron = cron.transpose().ok().flatten().with_context(|| {
                format!(
                    "sync.schedule has '{line}': give minute, hour, day of the month, month and day of the week, as in \"0 2 * * *\" \
                     for every night at two"
                )
            })?;
            if cron.find_next_occurrence(&DateTime::UNIX_EPOCH, false).is_err() {
                bail!("sync.schedule has '{line}', which never comes: that month has no such day");
            }
            Ok(cron)
        };
        let lines: Vec<Cron> = lines.iter().map(line).collect::<anyhow::Result<_>>()?;
        Ok(Self { lines, delay: part_of(jitter, site) })
    }

    /// Whether there is any time.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The first time behind `after`; none where there is no more.
    pub fn next<Z: TimeZone>(&self, after: Timestamp, zone: &Z) -> Option<Timestamp> {
        let delay_ms = i64::try_from(self.delay.as_millis()).unwrap_or(0);
        let after = DateTime::<Utc>::from_timestamp_millis(after.unix_ms().checked_sub(delay_ms)?)?;
        let after = after.with_timezone(zone);
        let next =
            self.lines.iter().filter_map(|line| line.find_next_occurrence(&after, false).ok());
        let next = next.map(|next| next.timestamp_millis()).min()?;
        Some(Timestamp::from_unix_ms(next.saturating_add(delay_ms)))
    }
}

/// A part of `most` that is always the same for a site, to the second.
fn part_of(most: Duration, site: SiteId) -> Duration {
    // FNV-1a: near ids are far apart.
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = site.to_string().bytes().fold(0xcbf2_9ce4_8422_2325, mix);
    Duration::from_secs((hash >> 16) % (most.as_secs() + 1))
}

/// What a schedule says now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// A time has come, or came while nobody could run; one run makes up for all that were missed.
    Now,
    /// Nothing before this.
    At(Timestamp),
    /// Nothing ever.
    Never,
}

/// A schedule, and when it was last kept.
#[derive(Debug, Clone)]
pub struct Timetable {
    schedule: Schedule,
    /// When the last run began; before the first, since when there could have been one.
    last: Timestamp,
}

impl Timetable {
    /// Goes on after a run that began at `last`; without one, what was before `now` is not made up for.
    pub fn new(schedule: Schedule, last: Option<Timestamp>, now: Timestamp) -> Self {
        Self { schedule, last: last.unwrap_or(now) }
    }

    /// Whether there is any time in it.
    pub fn is_empty(&self) -> bool {
        self.schedule.is_empty()
    }

    /// What is due.
    pub fn due<Z: TimeZone>(&mut self, now: Timestamp, zone: &Z) -> Due {
        if self.last.seconds_since(now) > STEP_BACK_S {
            self.last = now;
        }
        match self.schedule.next(self.last, zone) {
            Some(next) if next <= now => Due::Now,
            Some(next) => Due::At(next),
            None => Due::Never,
        }
    }

    /// A run that began at `began` has done what could be done.
    pub fn handle_run(&mut self, began: Timestamp) {
        self.last = began;
    }
}

#[cfg(test)]
mod tests {
    use chrono::FixedOffset;

    use super::*;

    fn site(byte: u8) -> SiteId {
        SiteId::from_random([byte; 16])
    }

    fn schedule(lines: &[&str]) -> Schedule {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        Schedule::parse(&lines, Duration::ZERO, site(1)).expect("a schedule")
    }

    fn at(text: &str) -> Timestamp {
        Timestamp::from_unix_ms(
            DateTime::parse_from_rfc3339(text).expect("a time").timestamp_millis(),
        )
    }

    #[test]
    fn the_next_time_is_the_sites_own_and_not_utc() {
        let nightly = schedule(&["0 2 * * *"]);
        let now = at("2026-03-10T12:00:00Z");
        assert_eq!(nightly.next(now, &Utc), Some(at("2026-03-11T02:00:00Z")));
        let tokyo = FixedOffset::east_opt(9 * 3_600).expect("a zone");
        assert_eq!(nightly.next(now, &tokyo), Some(at("2026-03-10T17:00:00Z")));
        let both = schedule(&["0 2 * * *", "30 12 * * 1-5"]);
        assert_eq!(both.next(now, &Utc), Some(at("2026-03-10T12:30:00Z")), "the first of all");
    }

    #[test]
    fn sites_are_late_by_times_of_their_own_that_stay() {
        let jitter = Duration::from_secs(600);
        let lines = ["0 2 * * *".to_owned()];
        let next = |number| {
            let schedule = Schedule::parse(&lines, jitter, site(number)).expect("a schedule");
            let late = |day: &str| {
                let midnight = at(&format!("2026-03-{day}T00:00:00Z"));
                let next = schedule.next(midnight, &Utc).expect("a time");
                next.seconds_since(midnight) - 7_200
            };
            assert_eq!(late("10"), late("11"));
            // A time that is just over is not the next one.
            let due = at("2026-03-10T02:00:00Z").plus_seconds(late("10"));
            assert_eq!(schedule.next(due, &Utc), Some(due.plus_seconds(86_400)));
            late("10")
        };
        let late: std::collections::BTreeSet<i64> = (0..40).map(next).collect();
        assert!(late.iter().all(|late| (0..=600).contains(late)), "{late:?}");
        assert!(late.len() > 30, "{late:?}");
    }

    /// Asks every minute from `now` on, as the agent does, and runs what is due; the times of the runs.
    fn live(timetable: &mut Timetable, now: &mut Timestamp, minutes: usize) -> Vec<Timestamp> {
        let mut runs = Vec::new();
        for _ in 0..minutes {
            if timetable.due(*now, &Utc) == Due::Now {
                timetable.handle_run(*now);
                runs.push(*now);
            }
            *now = now.plus_seconds(60);
        }
        runs
    }

    #[test]
    fn what_was_missed_is_made_up_for_once() {
        let nightly = schedule(&["0 2 * * *"]);
        let last = Some(at("2026-03-01T02:00:10Z"));
        let mut now = at("2026-03-10T12:00:00Z");
        let mut timetable = Timetable::new(nightly.clone(), last, now);
        let runs = live(&mut timetable, &mut now, 24 * 60);
        assert_eq!(runs, [at("2026-03-10T12:00:00Z"), at("2026-03-11T02:00:00Z")]);
        let mut first = Timetable::new(nightly, None, now);
        assert_eq!(first.due(now, &Utc), Due::At(at("2026-03-12T02:00:00Z")), "a new site");
    }

    #[test]
    fn t2_t3_a_clock_that_jumps_costs_one_run_and_stops_none() {
        const TEN_YEARS_S: i64 = 10 * 365 * 86_400;
        let start = at("2026-03-10T12:00:00Z");
        for jump_s in [TEN_YEARS_S, -TEN_YEARS_S] {
            let mut now = start;
            let mut timetable = Timetable::new(schedule(&["0 2 * * *"]), Some(start), start);
            assert_eq!(live(&mut timetable, &mut now, 24 * 60).len(), 1);
            now = now.plus_seconds(jump_s);
            let runs = live(&mut timetable, &mut now, 24 * 60);
            assert!((1..=2).contains(&runs.len()), "{runs:?}");
            now = now.plus_seconds(-jump_s);
            let runs = live(&mut timetable, &mut now, 24 * 60);
            assert!((1..=2).contains(&runs.len()), "{runs:?}");
        }
    }

    #[test]
    fn t3_a_clock_that_is_set_right_by_a_second_does_not_run_twice() {
        let mut timetable =
            Timetable::new(schedule(&["0 2 * * *"]), None, at("2026-03-10T01:00:00Z"));
        let run = at("2026-03-10T02:00:00Z");
        assert_eq!(timetable.due(run, &Utc), Due::Now);
        timetable.handle_run(run);
        let tomorrow = Due::At(at("2026-03-11T02:00:00Z"));
        assert_eq!(timetable.due(run.plus_seconds(-1), &Utc), tomorrow);
        assert_eq!(timetable.due(run, &Utc), tomorrow);
    }

    #[test]
    fn what_is_no_schedule_is_named_with_the_cure() {
        for line in ["", "2", "0 2 * *", "0 25 * * *", "61 * * * *", "0 0 2 * * *", "night"] {
            let error = Schedule::parse(&[line.to_owned()], Duration::ZERO, site(1));
            let error = format!("{:#}", error.expect_err(line));
            assert!(error.contains(&format!("'{line}'")) && error.contains("0 2 * * *"), "{error}");
        }
        assert!(schedule(&[]).is_empty());
        let never = Schedule::parse(&["0 0 30 2 *".to_owned()], Duration::ZERO, site(1));
        let error = never.expect_err("a day that no February has").to_string();
        assert!(error.contains("'0 0 30 2 *', which never comes"), "{error}");
        assert!(schedule(&["0 0 29 2 *"]).next(at("2026-03-10T12:00:00Z"), &Utc).is_some());
    }
}
