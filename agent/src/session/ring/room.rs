//! How many sessions there may be, and which one goes when there are too many.
//!
//! Whoever sends one packet under each of ten thousand made-up addresses begins ten thousand sessions. So sessions of machines that
//! only asked have a share of their own and push out each other, never a machine that has read something; of them those of a
//! single packet go first, and of machines that nobody has seen before only so many are taken up in a second.

use std::time::Instant;

use super::live::{Live, cost};
use crate::rate::{Bucket, Rate};
use crate::session::step::Phase;

/// How many sessions of machines that have come further than asking are kept.
pub const SESSIONS_MAX: usize = 1_000;
/// How many sessions of machines that only asked are kept beside them.
pub const ASKING_MAX: usize = 1_000;
/// What the sessions of either kind may take, in bytes, near enough.
pub const BYTES_MAX: usize = 2 << 20;
/// The same for those of machines that only asked.
pub const ASKING_BYTES_MAX: usize = 1 << 20;
/// Sessions of machines that nobody has seen before: all of a site in the moment in which power returns, few after that.
const NEWCOMERS: Rate = Rate { per_second: 20, burst: 1_000 };

/// What a session counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted {
    is_asking: bool,
    bytes: usize,
}

impl Counted {
    fn of(live: &Live) -> Self {
        let is_asking = live.session.reached == Phase::Asking;
        Self { is_asking, bytes: cost(&live.session) }
    }
}

/// What the sessions of one kind take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) count: usize,
    pub(super) bytes: usize,
}

impl Share {
    fn add(&mut self, bytes: usize) {
        self.count += 1;
        self.bytes += bytes;
    }

    fn subtract(&mut self, bytes: usize) {
        self.count -= 1;
        self.bytes -= bytes;
    }
}

/// What all sessions take.
#[derive(Debug, Default)]
pub(super) struct Room {
    pub(super) asking: Share,
    pub(super) proven: Share,
    newcomers: Option<Bucket>,
}

impl Room {
    /// Counts a session as what it has become.
    pub(super) fn count(&mut self, live: &mut Live) {
        self.discount(live);
        let counted = Counted::of(live);
        self.share(counted).add(counted.bytes);
        live.counted = Some(counted);
    }

    /// A session is gone.
    pub(super) fn discount(&mut self, live: &mut Live) {
        if let Some(counted) = live.counted.take() {
            self.share(counted).subtract(counted.bytes);
        }
    }

    /// Whether there is room for one more session of an earlier run.
    pub(super) fn has_room_for(&self, live: &Live) -> bool {
        let Counted { is_asking, bytes } = Counted::of(live);
        let (share, count_max, bytes_max) = match is_asking {
            true => (self.asking, ASKING_MAX, ASKING_BYTES_MAX),
            false => (self.proven, SESSIONS_MAX, BYTES_MAX),
        };
        share.count < count_max && share.bytes + bytes <= bytes_max
    }

    /// Whether a machine that nobody has seen before may begin a session by asking.
    pub(super) fn admit(&mut self, now: Instant) -> bool {
        self.newcomers.get_or_insert_with(|| Bucket::full(NEWCOMERS, now)).take(NEWCOMERS, now)
    }

    /// The session that has to go, if one has to: among `others`, the oldest first, which are all but the one that was just seen.
    pub(super) fn surplus<'a>(
        &self,
        others: impl Iterator<Item = (i64, &'a Live)> + Clone,
    ) -> Option<i64> {
        let first = |is_wanted: fn(&Live) -> bool| {
            others.clone().find(|(_, live)| is_wanted(live)).map(|(age, _)| age)
        };
        let is_asking = |live: &Live| live.session.reached == Phase::Asking;
        let asking = (self.asking.count > ASKING_MAX || self.asking.bytes > ASKING_BYTES_MAX)
            .then(|| first(Live::is_glimpse).or_else(|| first(is_asking)));
        let proven = (self.proven.count > SESSIONS_MAX || self.proven.bytes > BYTES_MAX)
            .then(|| first(|live| live.session.reached > Phase::Asking));
        asking.flatten().or(proven.flatten())
    }

    fn share(&mut self, counted: Counted) -> &mut Share {
        if counted.is_asking { &mut self.asking } else { &mut self.proven }
    }
}
