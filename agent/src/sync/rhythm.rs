//! When the agent syncs of its own accord: by the schedule, which survives a restart, and between its times.

use std::time::Duration;

use anyhow::Context as _;
use chrono::Local;
use pureboot_protocol::{SiteId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::data_dir::{self, DataDir};
use crate::rng::Rng;

use super::config::SyncConfig;
use super::schedule::{Due, Timetable};

/// What is kept on disk.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// When the last sync by the schedule began.
    last_scheduled_at: Timestamp,
}

/// How far a sync of the agent's own goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Everything that the site is to hold.
    All,
    /// Not the images that nobody has asked for: their time is the schedule's.
    Prompt,
}

/// The times of the agent's own syncs.
pub struct Rhythm {
    interval: Duration,
    timetable: Timetable,
    data_dir: DataDir,
    /// Whether no life of the agent has had a schedule before.
    is_first: bool,
}

impl Rhythm {
    /// The rhythm of these settings, gone on with where the last life of the agent has left it.
    ///
    /// # Errors
    /// The schedule is none.
    pub fn load(config: &SyncConfig, site: SiteId, data_dir: &DataDir) -> anyhow::Result<Self> {
        let last = last_run(data_dir).unwrap_or_else(|error| {
            log::warn!("it is not known when content was last synced by the schedule: {error:#}");
            None
        });
        let timetable = Timetable::new(config.schedule(site)?, last, clock::now());
        let (interval, data_dir) = (config.interval(), data_dir.clone());
        Ok(Self { interval, timetable, data_dir, is_first: last.is_none() })
    }

    /// Takes note of when the schedule began to count, so that a restart does not hide what it misses.
    pub(super) async fn begin(&mut self) {
        if std::mem::take(&mut self.is_first) {
            self.handle_run(clock::now()).await;
        }
    }

    /// The time between two questions.
    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    pub(super) fn reach(&mut self, now: Timestamp) -> Reach {
        match self.timetable.due(now, &Local) {
            Due::Now => Reach::All,
            _ if self.timetable.is_empty() => Reach::All,
            Due::At(_) | Due::Never => Reach::Prompt,
        }
    }

    /// When the schedule is due next; none without one.
    pub(super) fn next_at(&mut self, now: Timestamp) -> Option<Timestamp> {
        match self.timetable.due(now, &Local) {
            Due::Now => Some(now),
            Due::At(next) => Some(next),
            Due::Never => None,
        }
    }

    /// A sync of everything that began at `began` has done what could be done.
    pub(super) async fn handle_run(&mut self, began: Timestamp) {
        if self.timetable.is_empty() {
            return;
        }
        self.timetable.handle_run(began);
        let path = self.data_dir.schedule_file();
        let text = serde_json::to_string(&Kept { last_scheduled_at: began });
        let Ok(text) = text else { return };
        let kept = smol::unblock(move || data_dir::write_private(&path, &text)).await;
        if let Err(error) = kept {
            log::warn!("the next start will sync once more: {error:#}");
        }
    }

    /// How long to rest, at most: up to a tenth less than the interval, so that the agents of forty sites do not ask in one
    /// instant, and no longer than to the schedule's next time.
    pub(super) fn pause(&mut self, now: Timestamp, rng: &mut Rng) -> Duration {
        let pause = self.interval - rng.duration_between(Duration::ZERO, self.interval / 10);
        match self.timetable.due(now, &Local) {
            Due::At(next) => {
                let left_ms = next.unix_ms().saturating_sub(now.unix_ms()).max(1);
                pause.min(Duration::from_millis(left_ms.unsigned_abs()))
            }
            Due::Now | Due::Never => pause,
        }
    }
}

fn last_run(data_dir: &DataDir) -> anyhow::Result<Option<Timestamp>> {
    let path = data_dir.schedule_file();
    let Some(text) = data_dir::read_private(&path)? else { return Ok(None) };
    let kept: Kept = serde_json::from_slice(text.as_bytes())
        .with_context(|| format!("{} is damaged", path.display()))?;
    Ok(Some(kept.last_scheduled_at))
}
