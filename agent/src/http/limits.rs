//! How much one listener takes on, and who is inside.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// The longest request head, in bytes.
pub(super) const HEAD_LEN_MAX: usize = 8_192;

/// How many bytes of one connection hyper may hold in memory each way, besides the one piece of content being written.
pub(super) const BUFFER_LEN_MAX: usize = 65_536;

/// Bodies of content that are sent at a time. The rest of [`Limits::connections_max`] is left to scripts and loaders: a machine that
/// waits for its image waits for minutes anyway, and one that waits for its loader gives up.
pub const CONTENT_STREAMS_MAX: usize = 256;

/// Connections of machines at a time: those of a large site that stay open while nothing is asked, and room for new ones.
const MACHINES_MAX: usize = 2_048;

/// Descriptors that the program asks for: as many as machines' connections at most, and as many for TFTP, objects and the rest.
pub const DESCRIPTORS_WANTED: u64 = 2 * MACHINES_MAX as u64 + 512;

/// What one listener takes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time.
    pub connections_max: usize,
    /// Connections at a time from one address; a peer without address (a Unix socket) is not counted by it.
    pub connections_per_address_max: usize,
    /// From the first byte of a request, or from the start of a connection, to the end of the request's head.
    pub head_time: Duration,
    /// From the end of an answer to the first byte of the next request.
    pub idle_time: Duration,
    /// How long a peer may take for 16 KiB of an answer, or for the rest of it.
    pub stall_time: Duration,
}

impl Limits {
    /// What the boot listener takes on where this program may have so many descriptors: half of them for connections. An idle one costs
    /// about 27 KB and gives way to a new one; one address has 16, however many there are.
    pub fn for_machines(descriptors: u64) -> Self {
        let least = Self::default();
        let half = usize::try_from(descriptors / 2).unwrap_or(usize::MAX);
        let connections_max = half.clamp(least.connections_max, MACHINES_MAX);
        Self { connections_max, ..least }
    }
}

/// What anybody else's listener takes on, who is few.
impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 128,
            connections_per_address_max: 16,
            head_time: Duration::from_secs(5),
            idle_time: Duration::from_secs(30),
            stall_time: Duration::from_secs(30),
        }
    }
}

/// Somebody who is connected.
pub(super) trait Guest {
    /// Until when it may stay without asking for anything; none while it is being answered, or asks.
    fn idle_until(&self) -> Option<Instant>;
}

/// Who is connected. Where there is no room for one more, whoever has been idle for longest has to go.
#[derive(Debug)]
pub(super) struct Occupancy<G> {
    guests: BTreeMap<u64, (Option<IpAddr>, G)>,
    next: u64,
    by_address: HashMap<IpAddr, usize>,
}

impl<G> Default for Occupancy<G> {
    fn default() -> Self {
        Self { guests: BTreeMap::new(), next: 0, by_address: HashMap::new() }
    }
}

/// Where somebody has been let in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entered<G> {
    /// What it [leaves](Occupancy::leave) by.
    pub(super) number: u64,
    /// Who has to go for it; it has left already as far as places are counted.
    pub(super) dismissed: Option<G>,
}

impl<G: Guest> Occupancy<G> {
    /// Lets a peer in if there is room, or room can be made.
    pub(super) fn enter(
        &mut self,
        address: Option<IpAddr>,
        guest: G,
        limits: &Limits,
    ) -> Option<Entered<G>> {
        let address = address.map(|address| address.to_canonical());
        let count = address.and_then(|address| self.by_address.get(&address)).copied();
        let dismissed = if count.unwrap_or(0) >= limits.connections_per_address_max {
            Some(self.longest_idle(|of| *of == address)?)
        } else if self.guests.len() >= limits.connections_max {
            Some(self.longest_idle(|_| true)?)
        } else {
            None
        };
        let dismissed = dismissed.and_then(|number| self.leave(number));
        if let Some(address) = address {
            *self.by_address.entry(address).or_default() += 1;
        }
        let number = self.next;
        self.next += 1;
        self.guests.insert(number, (address, guest));
        Some(Entered { number, dismissed })
    }

    fn longest_idle(&self, is_eligible: impl Fn(&Option<IpAddr>) -> bool) -> Option<u64> {
        let eligible = self.guests.iter().filter(|(_, (address, _))| is_eligible(address));
        let idle = eligible.filter_map(|(number, (_, guest))| Some((guest.idle_until()?, *number)));
        idle.min().map(|(_, number)| number)
    }

    /// The peer is gone. One that was dismissed is gone already.
    pub(super) fn leave(&mut self, number: u64) -> Option<G> {
        let (address, guest) = self.guests.remove(&number)?;
        if let Some(address) = address
            && let Some(count) = self.by_address.get_mut(&address)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_address.remove(&address);
            }
        }
        Some(guest)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test needs some moment to begin at")]

    use super::*;

    const LIMITS: Limits = Limits {
        connections_max: 3,
        connections_per_address_max: 2,
        head_time: Duration::ZERO,
        idle_time: Duration::ZERO,
        stall_time: Duration::ZERO,
    };

    impl Guest for Option<Instant> {
        fn idle_until(&self) -> Option<Instant> {
            *self
        }
    }

    fn address(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, last]))
    }

    type House = Occupancy<Option<Instant>>;

    fn enter_busy(house: &mut House, address: Option<IpAddr>) -> Option<u64> {
        house.enter(address, None, &LIMITS).map(|entered| entered.number)
    }

    #[test]
    fn h1_an_address_has_its_share_and_all_have_theirs() {
        let mut inside = House::default();
        let first = enter_busy(&mut inside, address(1)).expect("room");
        assert!(enter_busy(&mut inside, address(1)).is_some());
        assert_eq!(enter_busy(&mut inside, address(1)), None, "one address takes its share");
        assert!(enter_busy(&mut inside, address(2)).is_some());
        assert_eq!(enter_busy(&mut inside, address(3)), None, "the house is full");
        inside.leave(first);
        assert!(enter_busy(&mut inside, address(3)).is_some());
    }

    #[test]
    fn h1_an_address_in_another_notation_is_the_same_address() {
        let mut inside = House::default();
        let mapped = "::ffff:192.0.2.1".parse().ok();
        assert!(enter_busy(&mut inside, address(1)).is_some());
        assert!(enter_busy(&mut inside, mapped).is_some());
        assert_eq!(enter_busy(&mut inside, mapped), None);
    }

    #[test]
    fn h1_who_has_been_idle_for_longest_makes_room() {
        let start = Instant::now();
        let idle = |seconds| Some(start + Duration::from_secs(seconds));
        let mut inside = House::default();
        for (last, until) in [(1, idle(9)), (2, idle(5)), (3, None)] {
            assert!(inside.enter(address(last), until, &LIMITS).is_some());
        }
        let entered = inside.enter(address(4), None, &LIMITS).expect("somebody is idle");
        assert_eq!(entered.dismissed, Some(idle(5)));
        assert_eq!(inside.guests.len(), LIMITS.connections_max);
        let entered = inside.enter(address(5), None, &LIMITS).expect("somebody is idle");
        assert_eq!(entered.dismissed, Some(idle(9)));
        assert_eq!(inside.enter(address(6), None, &LIMITS), None, "all that are left are busy");
    }

    #[test]
    fn h1_an_address_makes_room_among_its_own() {
        let until = |seconds| Some(Instant::now() + Duration::from_secs(seconds));
        let mut inside = House::default();
        let (first, second) = (until(5), until(9));
        for (last, until) in [(1, first), (2, second)] {
            assert!(inside.enter(address(last), until, &LIMITS).is_some());
        }
        assert!(enter_busy(&mut inside, address(2)).is_some());
        let entered = inside.enter(address(2), None, &LIMITS).expect("one of its own is idle");
        assert_eq!(entered.dismissed, Some(second), "and not the one that is idle for longer");
    }

    #[test]
    fn who_left_is_forgotten() {
        let mut inside = House::default();
        for last in 0..200 {
            let number = enter_busy(&mut inside, address(last)).expect("room");
            assert_eq!(inside.leave(number), Some(None));
            assert_eq!(inside.leave(number), None);
        }
        assert!(inside.by_address.is_empty());
        assert!(inside.guests.is_empty());
    }

    #[test]
    fn a_peer_without_address_counts_in_the_total_only() {
        let mut inside = House::default();
        assert!((0..3).all(|_| enter_busy(&mut inside, None).is_some()));
        assert_eq!(enter_busy(&mut inside, None), None);
    }

    #[test]
    fn i7_connections_leave_descriptors_to_all_else() {
        for (descriptors, expected) in [(256, 128), (1_024, 512), (4_608, 2_048), (1 << 20, 2_048)]
        {
            assert_eq!(Limits::for_machines(descriptors).connections_max, expected);
        }
    }
}
