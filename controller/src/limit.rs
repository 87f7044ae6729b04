//! How often an address may fail: a count within a sliding minute, without a clock of its own.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Failures that an address may have within [`WINDOW`].
const FAILURES_MAX: usize = 10;
/// How long a failure counts.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses that are remembered; the one that failed longest ago is forgotten for a further one.
const ADDRESSES_MAX: usize = 4_096;

/// The failures of the last minute, by address.
#[derive(Debug, Default)]
pub(crate) struct FailureLimit {
    failures: HashMap<IpAddr, VecDeque<Instant>>,
}

impl FailureLimit {
    /// How long `address` has to wait before it may try again; none if it may now.
    pub(crate) fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let times = self.failures.get(&source(address))?;
        let counted = times.len().checked_sub(FAILURES_MAX)?;
        let oldest = *times.get(counted)?;
        (oldest + WINDOW).checked_duration_since(now).filter(|wait| !wait.is_zero())
    }

    /// Counts a failure of `address`.
    pub(crate) fn fail(&mut self, address: IpAddr, now: Instant) {
        let address = source(address);
        if !self.failures.contains_key(&address) && self.failures.len() >= ADDRESSES_MAX {
            let latest = |times: &VecDeque<Instant>| times.back().copied();
            let oldest = self.failures.iter().min_by_key(|(_, times)| latest(times));
            if let Some(oldest) = oldest.map(|(address, _)| *address) {
                self.failures.remove(&oldest);
            }
        }
        let times = self.failures.entry(address).or_default();
        times.push_back(now);
        if times.len() > FAILURES_MAX {
            times.pop_front();
        }
    }
}

/// Whoever has one IPv6 address has its whole /64, so that is what is counted.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn a9_the_tenth_failure_of_a_minute_closes_the_door_until_the_first_is_a_minute_old() {
        let (mut limit, start) = (FailureLimit::default(), Instant::now());
        for second in 0..10 {
            let now = start + Duration::from_secs(second);
            assert_eq!(limit.wait(address(1), now), None);
            limit.fail(address(1), now);
        }
        let later = start + Duration::from_secs(20);
        assert_eq!(limit.wait(address(1), later), Some(Duration::from_secs(40)));
        assert_eq!(limit.wait(address(2), later), None);
        assert_eq!(limit.wait(address(1), start + WINDOW), None);
        limit.fail(address(1), start + WINDOW);
        assert_eq!(limit.wait(address(1), start + WINDOW), Some(Duration::from_secs(1)));
    }

    #[test]
    fn a9_an_address_from_the_same_ipv6_network_is_the_same_source() {
        let (mut limit, now) = (FailureLimit::default(), Instant::now());
        for host in 1..=10 {
            limit.fail(format!("2001:db8::{host}").parse().expect("an address"), now);
        }
        assert!(limit.wait("2001:db8::ffff".parse().expect("an address"), now).is_some());
        assert!(limit.wait("2001:db8:0:1::1".parse().expect("an address"), now).is_none());
    }

    #[test]
    fn i7_no_more_addresses_are_remembered_than_the_limit() {
        let (mut limit, start) = (FailureLimit::default(), Instant::now());
        for number in 0..5_000_u32 {
            limit.fail(
                IpAddr::from(number.to_be_bytes()),
                start + Duration::from_millis(number.into()),
            );
        }
        assert_eq!(limit.failures.len(), ADDRESSES_MAX);
        assert!(limit.failures.contains_key(&IpAddr::from(4_999_u32.to_be_bytes())));
    }
}
