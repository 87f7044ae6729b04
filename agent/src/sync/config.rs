//! `[sync]` in `agent.toml`.

use std::time::Duration;

use anyhow::bail;
use pureboot_protocol::SiteId;
use serde::{Deserialize, Deserializer, Serialize};

use super::pace::{self, RateWindow};
use super::schedule::Schedule;

/// `[sync]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SyncConfig {
    /// Seconds between questions whether the controller has other content for the site, where its heartbeats do not tell.
    pub interval_s: u32,
    /// Cron expressions, in the host's time zone, of when images are fetched ahead; without any, as soon as they are known. All
    /// other content, and what a machine asks for, comes at once.
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub schedule: Vec<String>,
    /// How many seconds after the schedule's times the latest site begins.
    pub schedule_jitter_s: u32,
    /// How fast content may come from the controller, in KiB per second; 0: as fast as the line.
    pub rate_max_kib_s: u32,
    /// Other limits by the time of day, in the host's time zone; the first that fits counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rate: Vec<RateWindow>,
}

impl SyncConfig {
    /// The seconds between questions that are allowed.
    const INTERVAL_S: std::ops::RangeInclusive<u32> = 5..=86_400;

    /// The longest time over which sites are spread.
    const JITTER_S_MAX: u32 = 6 * 3_600;

    /// The time between questions.
    pub fn interval(&self) -> Duration {
        Duration::from_secs(self.interval_s.into())
    }

    /// The times of `site`.
    ///
    /// # Errors
    /// An expression is none.
    pub fn schedule(&self, site: SiteId) -> anyhow::Result<Schedule> {
        Schedule::parse(&self.schedule, Duration::from_secs(self.schedule_jitter_s.into()), site)
    }

    /// The usual limit in bytes per second, if there is one.
    pub fn bytes_per_second(&self) -> Option<u64> {
        pace::bytes_per_second(self.rate_max_kib_s)
    }

    /// Whether the values are allowed.
    ///
    /// # Errors
    /// One is not; the text says what to do.
    pub fn check(&self, site: SiteId) -> anyhow::Result<()> {
        if !Self::INTERVAL_S.contains(&self.interval_s) {
            let (min, max) = Self::INTERVAL_S.into_inner();
            bail!("sync.interval_s is {}: take {min} to {max}", self.interval_s);
        }
        if self.schedule_jitter_s > Self::JITTER_S_MAX {
            let (jitter, max) = (self.schedule_jitter_s, Self::JITTER_S_MAX);
            bail!("sync.schedule_jitter_s is {jitter}: take at most {max}");
        }
        self.schedule(site)?;
        pace::check(&self.rate)
    }
}

impl Default for SyncConfig {
    fn default() -> Self {
        Self {
            interval_s: 60,
            schedule: Vec::new(),
            schedule_jitter_s: 600,
            rate_max_kib_s: 0,
            rate: Vec::new(),
        }
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "give a cron expression in quotes, as in \"0 2 * * *\" for every night at two, or several of them in brackets"
    )]
    enum Lines {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Lines::deserialize(from)? {
        Lines::One(line) => vec![line],
        Lines::Many(lines) => lines,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<SyncConfig, String> {
        let config: SyncConfig = toml::from_str(text).map_err(|error| error.to_string())?;
        config.check(SiteId::from_random([1; 16])).map_err(|error| format!("{error:#}"))?;
        let text = toml::to_string(&config).expect("it can be written");
        assert_eq!(toml::from_str::<SyncConfig>(&text).expect("and read"), config);
        Ok(config)
    }

    #[test]
    fn content_is_asked_for_neither_all_the_time_nor_never() {
        let told = parse("rate_max_kib_s = 100").expect("a config");
        assert_eq!((told.interval().as_secs(), told.bytes_per_second()), (60, Some(102_400)));
        let error = parse("interval_s = 0").expect_err("too often");
        assert!(error.contains("interval_s is 0: take 5 to 86400"), "{error}");
    }

    #[test]
    fn times_and_limits_are_read_and_checked() {
        let one = parse("schedule = \"0 2 * * *\"").expect("a config");
        assert_eq!(one.schedule, ["0 2 * * *"]);
        let config = parse(
            "schedule = [\"0 2 * * *\", \"0 12 * * 6\"]\n[[rate]]\nfrom = \"08:00\"\nto = \"18:00\"\n\
             days = [\"mon\", \"fri\"]\nmax_kib_s = 500\n[[rate]]\nfrom = \"00:00\"\nto = \"24:00\"\nmax_kib_s = 0",
        );
        let config = config.expect("a config");
        assert_eq!((config.schedule.len(), config.rate.len()), (2, 2));
        for (text, words) in [
            ("schedule = \"at night\"", "'at night'"),
            ("schedule = 2", "schedule = 2"),
            ("schedule = 2", "as in \"0 2 * * *\""),
            ("rate_max_kib_s = -1", "rate_max_kib_s = -1"),
            (
                "[[rate]]\nfrom = \"08:00\"\nto = \"25:00\"\nmax_kib_s = 1",
                "'25:00' is no time: give 00:00 to 24:00",
            ),
            ("schedule_jitter_s = 90000", "take at most 21600"),
            ("[[rate]]\nfrom = \"8\"\nto = \"18:00\"\nmax_kib_s = 1", "'8' is no time"),
            ("[[rate]]\nfrom = \"08:00\"\nto = \"08:00\"\nmax_kib_s = 1", "24:00"),
            (
                "[[rate]]\nfrom = \"08:00\"\nto = \"09:00\"\ndays = [\"monday\"]\nmax_kib_s = 1",
                "monday",
            ),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(words), "{error}");
        }
    }
}
