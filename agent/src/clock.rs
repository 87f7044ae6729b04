//! Where the time comes from: the one module that asks the operating system, or the [`crate::world`] that a simulation brings.
#![expect(clippy::disallowed_methods, reason = "shell: reads the clock")]

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pureboot_protocol::Timestamp;

use crate::world;

/// The wall clock, for records. It may jump; nothing waits by it.
pub fn now() -> Timestamp {
    if let Some(world) = world::current() {
        return world.now();
    }
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}

/// The monotonic clock, for deadlines.
pub fn monotonic() -> Instant {
    world::current().map_or_else(Instant::now, |world| world.monotonic())
}

/// Ends at a time of the monotonic clock, and answers when that was.
pub struct Timer(Kind);

enum Kind {
    Real(smol::Timer),
    Simulated(Pin<Box<dyn Future<Output = ()>>>),
}

impl Timer {
    /// Ends at `deadline`.
    pub fn at(deadline: Instant) -> Self {
        Self(match world::current() {
            Some(world) => Kind::Simulated(world.sleep_until(deadline)),
            None => Kind::Real(smol::Timer::at(deadline)),
        })
    }

    /// Ends once `pause` is over.
    pub fn after(pause: Duration) -> Self {
        Self(match world::current() {
            Some(world) => Kind::Simulated(world.sleep_until(world.monotonic() + pause)),
            None => Kind::Real(smol::Timer::after(pause)),
        })
    }
}

impl Future for Timer {
    type Output = Instant;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Instant> {
        match &mut self.0 {
            Kind::Real(timer) => Pin::new(timer).poll(context),
            Kind::Simulated(sleep) => {
                ready!(sleep.as_mut().poll(context));
                Poll::Ready(monotonic())
            }
        }
    }
}
