//! The world that the agents live in: time that passes only when nobody has anything left to do, and chance by the seed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use pureboot_agent::world::World;
use pureboot_protocol::Timestamp;

use crate::dice::Dice;

/// 2026-11-21T00:00:00Z.
const START_MS: i64 = 1_795_219_200_000;

/// A sleep that is longer than this may be stretched; shorter ones are somebody's patience.
const PATIENCE_MAX: Duration = Duration::from_secs(20);

/// Time and chance of one run. Clones share it.
#[derive(Clone)]
pub struct Kernel(Rc<State>);

struct State {
    /// What the virtual monotonic clock showed at the start; the only thing that is asked of the real one.
    start: Instant,
    elapsed: Cell<Duration>,
    wall_ms: Arc<AtomicI64>,
    /// By how much the clock is wrong of whoever is running.
    skew_ms: Cell<i64>,
    /// How much longer than asked for whoever is running sleeps.
    stride: Cell<u32>,
    sleepers: RefCell<BTreeMap<(Duration, u64), Option<Waker>>>,
    slept: Cell<u64>,
    chance: RefCell<Dice>,
}

impl Kernel {
    /// A world at its start.
    pub fn new(seed: u64) -> Self {
        let start = Instant::now();
        Self(Rc::new(State {
            start,
            elapsed: Cell::default(),
            wall_ms: Arc::new(AtomicI64::new(START_MS)),
            skew_ms: Cell::default(),
            stride: Cell::new(1),
            sleepers: RefCell::default(),
            slept: Cell::default(),
            chance: RefCell::new(Dice::new(seed, "agents")),
        }))
    }

    /// How long the run has lasted.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed.get()
    }

    /// A right clock, for the controller.
    pub fn clock(&self) -> Arc<dyn Fn() -> Timestamp + Send + Sync> {
        let wall_ms = Arc::clone(&self.0.wall_ms);
        Arc::new(move || Timestamp::from_unix_ms(wall_ms.load(Ordering::Relaxed)))
    }

    /// From here on somebody runs whose clock is wrong by `skew_ms`, and who sleeps `stride` times as long as he wants to: where
    /// nothing happens for months, nobody has to see each half minute of it.
    pub fn run_as(&self, skew_ms: i64, stride: u32) {
        self.0.skew_ms.set(skew_ms);
        self.0.stride.set(stride);
    }

    /// Has every sleeper look again how long it sleeps: who ran with a long stride does not any more.
    pub fn rouse(&self) {
        let wakers: Vec<_> =
            self.0.sleepers.borrow_mut().values_mut().filter_map(Option::take).collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// When the next sleeper is to be woken.
    pub fn next_wake(&self) -> Option<Duration> {
        self.0.sleepers.borrow().keys().next().map(|(at, _)| *at)
    }

    /// Lets time pass until `at`, and wakes those whose time has come.
    pub fn pass_until(&self, at: Duration) {
        let at = at.max(self.elapsed());
        self.0.elapsed.set(at);
        let elapsed_ms = i64::try_from(at.as_millis()).unwrap_or(i64::MAX);
        self.0.wall_ms.store(START_MS.saturating_add(elapsed_ms), Ordering::Relaxed);
        loop {
            let mut sleepers = self.0.sleepers.borrow_mut();
            let Some(first) = sleepers.first_entry().filter(|first| first.key().0 <= at) else {
                return;
            };
            let waker = first.remove();
            drop(sleepers);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

impl World for Kernel {
    fn now(&self) -> Timestamp {
        let wall_ms = self.0.wall_ms.load(Ordering::Relaxed);
        Timestamp::from_unix_ms(wall_ms.saturating_add(self.0.skew_ms.get()))
    }

    fn monotonic(&self) -> Instant {
        self.0.start + self.elapsed()
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Future<Output = ()>>> {
        let pause = deadline.saturating_duration_since(self.monotonic());
        let number = self.0.slept.get();
        self.0.slept.set(number + 1);
        let begun = self.elapsed();
        Box::pin(Sleep { kernel: self.clone(), number, begun, pause, key: None })
    }

    fn fill(&self, bytes: &mut [u8]) {
        self.0.chance.borrow_mut().fill(bytes);
    }
}

struct Sleep {
    kernel: Kernel,
    number: u64,
    begun: Duration,
    pause: Duration,
    /// Its place among the sleepers.
    key: Option<(Duration, u64)>,
}

impl Sleep {
    /// When it ends, at the stride of whoever is running now.
    fn end(&self) -> Duration {
        let is_patience = self.pause <= PATIENCE_MAX;
        self.begun + self.pause * if is_patience { 1 } else { self.kernel.0.stride.get() }
    }

    fn leave(&mut self) {
        if let Some(key) = self.key.take() {
            self.kernel.0.sleepers.borrow_mut().remove(&key);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.leave();
        let end = self.end();
        if self.kernel.elapsed() >= end {
            return Poll::Ready(());
        }
        let key = (end, self.number);
        self.key = Some(key);
        let waker = Some(context.waker().clone());
        self.kernel.0.sleepers.borrow_mut().insert(key, waker);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.leave();
    }
}
