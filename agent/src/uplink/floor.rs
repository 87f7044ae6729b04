//! The time that certificates are judged by. A router without a battery begins in 1970, before any certificate holds, and it has the
//! time from nobody but whom it cannot believe yet. So the time is never taken to be earlier than when this program was made, nor than
//! what the controller said last (FAULTS T1). Nothing else goes by it: records carry what the clock shows, and how good that is.

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use pureboot_protocol::{ClockQuality, Timestamp};
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

use crate::clock;
use crate::data_dir::{self, DataDir};
use crate::world;

/// 2026-01-01T00:00:00Z: no build of this version is older.
const WRITTEN_AT_S: i64 = 1_767_225_600;

/// When this program was built, in seconds since 1970, where the build says so (reproducible-builds.org, SOURCE_DATE_EPOCH).
const BUILT_AT_S: i64 = match option_env!("SOURCE_DATE_EPOCH") {
    Some(text) => match i64::from_str_radix(text, 10) {
        Ok(seconds) if seconds > WRITTEN_AT_S => seconds,
        _ => WRITTEN_AT_S,
    },
    None => WRITTEN_AT_S,
};

/// Between two times that are written down, in seconds: so little is lost by a restart, and a flash wears no faster for it.
const NOTED_EVERY_S: i64 = 6 * 3_600;

/// A moment that has certainly passed.
#[derive(Debug)]
pub struct Floor {
    /// None: what is heard is forgotten with this.
    file: Option<PathBuf>,
    at_ms: AtomicI64,
    noted_ms: AtomicI64,
}

impl Default for Floor {
    /// When this program was made, kept nowhere.
    fn default() -> Self {
        let built_at_ms = built_at().unix_ms();
        Self { file: None, at_ms: built_at_ms.into(), noted_ms: built_at_ms.into() }
    }
}

impl Floor {
    /// What the last life of the agent has kept. A file that cannot be read counts as none.
    pub fn load(data_dir: &DataDir) -> Self {
        let file = data_dir.clock_file();
        let noted = data_dir::read_private(&file).unwrap_or_else(|error| {
            log::warn!("cannot read what time it was at the least: {error:#}");
            None
        });
        let noted = noted.and_then(|text| text.trim().parse::<Timestamp>().ok());
        let at_ms = noted.unwrap_or(built_at()).max(built_at()).unix_ms();
        Self { file: Some(file), at_ms: at_ms.into(), noted_ms: at_ms.into() }
    }

    /// The time by which a certificate is judged while the clock shows `now`.
    pub fn judged_at(&self, now: Timestamp) -> Timestamp {
        now.max(Timestamp::from_unix_ms(self.at_ms.load(Ordering::Relaxed)))
    }

    /// The controller's clock showed `server_time` while this one, which is as good as `clock` says, showed `now`.
    ///
    /// Where both agree, or this one was never set, that moment has passed. Where this one was set and they do not agree nobody knows
    /// who is right: a moment that has not come would end every certificate, for good.
    pub async fn hear(&self, server_time: Timestamp, clock: ClockQuality, now: Timestamp) {
        if clock == ClockQuality::Unsynced && now >= built_at() {
            return;
        }
        self.at_ms.fetch_max(server_time.unix_ms(), Ordering::Relaxed);
        let noted = Timestamp::from_unix_ms(self.noted_ms.load(Ordering::Relaxed));
        let Some(file) = self.file.clone() else { return };
        if server_time.seconds_since(noted) < NOTED_EVERY_S {
            return;
        }
        let written =
            world::unblock(move || data_dir::write_private(&file, &format!("{server_time}\n")));
        match written.await {
            Ok(()) => self.noted_ms.store(server_time.unix_ms(), Ordering::Relaxed),
            Err(error) => log::warn!("cannot keep what time it is at the least: {error:#}"),
        }
    }
}

impl TimeProvider for Floor {
    fn current_time(&self) -> Option<UnixTime> {
        let ms = u64::try_from(self.judged_at(clock::now()).unix_ms()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_millis(ms)))
    }
}

fn built_at() -> Timestamp {
    Timestamp::from_unix_ms(BUILT_AT_S.saturating_mul(1_000))
}

#[cfg(test)]
mod tests {
    use smol::future::block_on;

    use super::*;

    const UNSET: i64 = 30;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_ms(seconds * 1_000)
    }

    fn kept() -> (tempfile::TempDir, DataDir) {
        let dir = tempfile::tempdir().expect("a directory");
        let data_dir = DataDir::create(&dir.path().join("data")).expect("made");
        std::fs::create_dir(data_dir.root().join("state")).expect("made");
        (dir, data_dir)
    }

    #[test]
    fn t1_it_is_never_earlier_than_when_the_program_was_made() {
        let (_dir, data_dir) = kept();
        for floor in [Floor::default(), Floor::load(&data_dir)] {
            assert_eq!(floor.judged_at(at(UNSET)), built_at());
            assert_eq!(floor.judged_at(at(BUILT_AT_S + 5)), at(BUILT_AT_S + 5));
        }
    }

    #[test]
    fn t1_what_the_controller_said_last_outlives_a_restart() {
        let (_dir, data_dir) = kept();
        let (first, later) = (at(BUILT_AT_S + 90_000), at(BUILT_AT_S + 90_060));
        let floor = Floor::load(&data_dir);
        // Nobody ever set this clock, so the controller's is the only one.
        block_on(floor.hear(first, ClockQuality::Unsynced, at(UNSET)));
        block_on(floor.hear(later, ClockQuality::Unsynced, at(UNSET + 60)));
        assert_eq!(floor.judged_at(at(UNSET)), later);
        assert_eq!(Floor::load(&data_dir).judged_at(at(UNSET)), first, "a minute is not written");
        let synced = at(BUILT_AT_S + 90_000 + NOTED_EVERY_S);
        block_on(floor.hear(synced, ClockQuality::Synced, synced));
        assert_eq!(Floor::load(&data_dir).judged_at(at(UNSET)), synced);
    }

    #[test]
    fn t5_a_clock_that_was_set_is_not_overruled_by_a_controller_that_is_years_ahead() {
        let (_dir, data_dir) = kept();
        let floor = Floor::load(&data_dir);
        let (now, ahead) = (at(BUILT_AT_S + 1_000), at(BUILT_AT_S + 10 * 365 * 86_400));
        block_on(floor.hear(ahead, ClockQuality::Unsynced, now));
        assert_eq!(floor.judged_at(now), now);
        assert_eq!(Floor::load(&data_dir).judged_at(now), now);
    }

    #[test]
    fn what_is_no_time_counts_as_none() {
        let (_dir, data_dir) = kept();
        data_dir::write_private(&data_dir.clock_file(), "yesterday").expect("written");
        assert_eq!(Floor::load(&data_dir).judged_at(at(UNSET)), built_at());
    }
}
