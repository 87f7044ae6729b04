//! The line to the controller as content has it: so much at a time as its limits allow at this hour.

use std::cell::RefCell;
use std::time::Duration;

use chrono::{Datelike as _, Local, TimeZone as _, Timelike as _};
use smol::Timer;

use crate::clock;

use super::config::SyncConfig;
use super::pace::{Day, Moment, Pace, RateWindow, limit};

/// How often who waits looks whether another limit holds.
const LOOK: Duration = Duration::from_millis(500);

/// What all content together may take of the line.
pub struct Line {
    usual: Option<u64>,
    windows: Vec<RateWindow>,
    pace: RefCell<Pace>,
}

impl Line {
    /// A line with the limits of these settings.
    pub fn new(config: &SyncConfig) -> Self {
        let (usual, windows) = (config.bytes_per_second(), config.rate.clone());
        Self { usual, windows, pace: RefCell::default() }
    }

    /// `len` bytes have come: returns when more may.
    pub async fn take(&self, len: usize) {
        self.pace.borrow_mut().handle_bytes(len);
        loop {
            let limit = limit(&self.windows, self.usual, moment());
            let wait = self.pace.borrow_mut().wait(limit, clock::monotonic());
            if wait.is_zero() {
                return;
            }
            Timer::after(wait.min(LOOK)).await;
        }
    }
}

/// What the clock on the wall shows at this site.
fn moment() -> Moment {
    let Some(now) = Local.timestamp_millis_opt(clock::now().unix_ms()).earliest() else {
        return Moment { day: Day::Mon, minute: 0 };
    };
    let day = Day::ALL.into_iter().nth(now.weekday().num_days_from_monday() as usize);
    let minute = u16::try_from(now.hour() * 60 + now.minute()).unwrap_or(0);
    Moment { day: day.unwrap_or(Day::Mon), minute }
}
