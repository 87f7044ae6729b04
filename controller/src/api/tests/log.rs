//! What all tests of this process log, while one of them looks.
//!
//! A subscriber of one thread would not do: as long as it is the only one, tracing asks the thread that comes to a place first
//! whether anybody wants to hear of it, and takes the no of another test's thread for good.

use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use tracing::subscriber::set_global_default;
use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{fmt, registry};

/// What was logged; none while nobody looks.
static KEPT: Mutex<Option<Vec<u8>>> = Mutex::new(None);

/// Takes over the log of this process, once; before that, places that are reached without it may be lost to it.
pub(super) fn init() {
    static START: Once = Once::new();
    START.call_once(|| {
        let log = registry()
            .with(dynamic_filter_fn(|_, _| kept().is_some()))
            .with(fmt::layer().with_writer(|| Keeper));
        set_global_default(log).expect("nobody else takes over the log of a test");
    });
}

/// Keeps everything from now on.
pub(super) fn keep() {
    *kept() = Some(Vec::new());
}

/// What was logged since [`keep`].
pub(super) fn take() -> String {
    String::from_utf8_lossy(&kept().take().unwrap_or_default()).into_owned()
}

fn kept() -> MutexGuard<'static, Option<Vec<u8>>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Keeper;

impl Write for Keeper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(kept) = kept().as_mut() {
            kept.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
