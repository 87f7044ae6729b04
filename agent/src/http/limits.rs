//! How much one listener takes on, and who is inside.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// The longest request head, in bytes.
pub(super) const HEAD_LEN_MAX: usize = 8_192;

/// How many bytes of one connection hyper may hold in memory each way, besides the one piece of content being written.
pub(super) const BUFFER_LEN_MAX: usize = 65_536;

/// Bodies of content that are sent at a time. The rest of [`Limits::connections_max`] is left to scripts and loaders: a machine that
/// waits for its image waits for minutes anyway, and one that waits for its loader gives up.
pub const CONTENT_STREAMS_MAX: usize = 96;

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

/// Who is connected.
#[derive(Debug, Default)]
pub(super) struct Occupancy {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Occupancy {
    /// Lets a peer in if there is room. Each success is undone by one [`leave`](Self::leave).
    pub(super) fn enter(&mut self, address: Option<IpAddr>, limits: &Limits) -> bool {
        if self.total >= limits.connections_max {
            return false;
        }
        if let Some(address) = address {
            let count = self.by_address.entry(address.to_canonical()).or_default();
            if *count >= limits.connections_per_address_max {
                return false;
            }
            *count += 1;
        }
        self.total += 1;
        true
    }

    /// The peer is gone.
    pub(super) fn leave(&mut self, address: Option<IpAddr>) {
        self.total = self.total.saturating_sub(1);
        let Some(address) = address.map(|address| address.to_canonical()) else { return };
        if let Some(count) = self.by_address.get_mut(&address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        connections_max: 3,
        connections_per_address_max: 2,
        head_time: Duration::ZERO,
        idle_time: Duration::ZERO,
        stall_time: Duration::ZERO,
    };

    fn address(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, last]))
    }

    #[test]
    fn h1_an_address_has_its_share_and_all_have_theirs() {
        let mut inside = Occupancy::default();
        assert!(inside.enter(address(1), &LIMITS));
        assert!(inside.enter(address(1), &LIMITS));
        assert!(!inside.enter(address(1), &LIMITS), "one address takes its share");
        assert!(inside.enter(address(2), &LIMITS));
        assert!(!inside.enter(address(3), &LIMITS), "the house is full");
        inside.leave(address(1));
        assert!(inside.enter(address(3), &LIMITS));
    }

    #[test]
    fn h1_an_address_in_another_notation_is_the_same_address() {
        let mut inside = Occupancy::default();
        let mapped = "::ffff:192.0.2.1".parse().ok();
        assert!(inside.enter(address(1), &LIMITS));
        assert!(inside.enter(mapped, &LIMITS));
        assert!(!inside.enter(mapped, &LIMITS));
    }

    #[test]
    fn who_left_is_forgotten() {
        let mut inside = Occupancy::default();
        for last in 0..200 {
            assert!(inside.enter(address(last), &LIMITS));
            inside.leave(address(last));
        }
        assert!(inside.by_address.is_empty());
        assert_eq!(inside.total, 0);
    }

    #[test]
    fn a_peer_without_address_counts_in_the_total_only() {
        let mut inside = Occupancy::default();
        assert!((0..3).all(|_| inside.enter(None, &LIMITS)));
        assert!(!inside.enter(None, &LIMITS));
    }
}
