//! Where the time comes from: the one module that asks the operating system.
#![expect(clippy::disallowed_methods, reason = "shell: reads the clock")]

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use pureboot_protocol::Timestamp;

/// The wall clock, for records. It may jump; nothing waits by it.
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}

/// The monotonic clock, for deadlines.
pub fn monotonic() -> Instant {
    Instant::now()
}
