//! Where time and chance come from: the operating system, or a world that a simulation has put in its place on this thread.
//!
//! Whoever needs the time asks [`crate::clock`], whoever needs an identity or a secret asks `random`. Nothing else of the agent
//! knows that there may be another world.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Instant;

use pureboot_protocol::Timestamp;

/// Time and chance other than the operating system's.
pub trait World {
    /// The wall clock.
    fn now(&self) -> Timestamp;
    /// The monotonic clock.
    fn monotonic(&self) -> Instant;
    /// Returns when the monotonic clock shows `deadline`.
    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Future<Output = ()>>>;
    /// Fills `bytes` by chance.
    fn fill(&self, bytes: &mut [u8]);
}

thread_local! {
    static WORLD: RefCell<Option<Rc<dyn World>>> = const { RefCell::new(None) };
}

/// From here on everything on this thread happens in `world`; in the real one again if there is none.
pub fn enter(world: Option<Rc<dyn World>>) {
    WORLD.set(world);
}

/// The world of this thread; none if that is the real one.
pub(crate) fn current() -> Option<Rc<dyn World>> {
    WORLD.with_borrow(Clone::clone)
}

/// Random bytes that nobody can guess.
///
/// # Errors
/// The operating system has none; only before it has started.
pub(crate) fn random<const LEN: usize>() -> Result<[u8; LEN], getrandom::Error> {
    let mut bytes = [0; LEN];
    match current() {
        Some(world) => world.fill(&mut bytes),
        None => getrandom::fill(&mut bytes)?,
    }
    Ok(bytes)
}

/// Things that have no order of their own: sorted, or in an order by chance in a simulation, so that nothing comes to rest on one.
pub(crate) fn in_any_order<T: Ord>(mut things: Vec<T>) -> Vec<T> {
    things.sort_unstable();
    if let Some(world) = current() {
        for last in (1..things.len()).rev() {
            let mut drawn = [0; 8];
            world.fill(&mut drawn);
            let places = u64::try_from(last).map_or(u64::MAX, |last| last + 1);
            things.swap(last, usize::try_from(u64::from_le_bytes(drawn) % places).unwrap_or(last));
        }
    }
    things
}

/// Does `job`, which may wait for a disk, on a thread that may wait; at once in a simulation, where nothing hangs on the pace of threads.
pub(crate) async fn unblock<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> T {
    match current() {
        Some(_) => job(),
        None => smol::unblock(job).await,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::*;
    use crate::clock::{self, Timer};

    /// A world whose time passes only when somebody sleeps.
    struct Dream {
        start: Instant,
        slept: Rc<Cell<Duration>>,
    }

    impl World for Dream {
        fn now(&self) -> Timestamp {
            Timestamp::from_unix_ms(7)
        }

        fn monotonic(&self) -> Instant {
            self.start + self.slept.get()
        }

        fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Future<Output = ()>>> {
            let (slept, until) = (Rc::clone(&self.slept), deadline - self.start);
            Box::pin(async move { slept.set(until) })
        }

        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(9);
        }
    }

    #[test]
    fn time_and_chance_are_another_worlds_for_as_long_as_somebody_is_in_it() {
        let start = clock::monotonic();
        enter(Some(Rc::new(Dream { start, slept: Rc::default() })));
        let month = Duration::from_secs(30 * 86_400);
        assert_eq!(smol::future::block_on(Timer::after(month)), start + month);
        assert_eq!(clock::now(), Timestamp::from_unix_ms(7));
        assert_eq!(random(), Ok([9; 4]));
        let here = std::thread::current().id();
        let place = || smol::future::block_on(unblock(|| std::thread::current().id()));
        assert_eq!(place(), here);
        assert_eq!(in_any_order(vec![1, 4, 3, 2]), [3, 4, 1, 2], "by chance");
        enter(None);
        assert_eq!(in_any_order(vec![1, 4, 3, 2]), [1, 2, 3, 4]);
        assert!(clock::monotonic() < start + month);
        assert_ne!(random::<16>(), random::<16>());
        assert_ne!(place(), here);
    }
}
