//! Waiting for something to become true, with an end.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const STEP: Duration = Duration::from_millis(20);

/// Asks `probe` again and again until it answers `Some`.
///
/// # Errors
/// `what` did not come true within `limit`; the probe's last error is told.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let outcome = probe();
        if let Ok(Some(value)) = outcome {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            let message = format!("waited {} s in vain until {what}", limit.as_secs());
            return match outcome {
                Err(error) => Err(error).context(message),
                Ok(_) => bail!(message),
            };
        }
        thread::sleep(STEP);
    }
}
