//! From where machines may ask: networks that this host is in, and those that the operator names (FAULTS §11).
//!
//! A source address on a datagram proves nothing, and an answer to one that was made up hits somebody who never asked. On the
//! links of this host that is somebody of the site; anywhere else it may be anybody. Without I/O: which networks the host is in
//! comes in, and is asked for again as long as addresses come and go.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// For how long what the system said is believed (N14: an interface that changes its address is followed within 5 s).
const LIFETIME: Duration = Duration::from_secs(5);
/// The same if an address is not among them: it may be of a network that has just come.
const LIFETIME_FOR_STRANGERS: Duration = Duration::from_secs(1);

/// A network, written `10.9.0.0/16`; an address alone is a network of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network(IpNet);

/// A text is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Neither an address nor one with the length of a prefix.
    #[error("'{0}' is no network (expected as in 10.9.0.0/16)")]
    Form(String),
    /// The address says more than the prefix takes in.
    #[error("'{0}' is an address within a network: is {1} meant?")]
    Host(String, IpNet),
}

impl Network {
    /// The network that an address with its mask is in; none if the mask is none.
    pub fn of(address: IpAddr, mask: IpAddr) -> Option<Self> {
        IpNet::with_netmask(address, mask).ok().map(|network| Self(network.trunc()))
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        Self(address.into())
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let shown = || text.chars().take(64).collect();
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        match network {
            Ok(network) if network.addr() != network.network() => {
                Err(NetworkError::Host(shown(), network.trunc()))
            }
            Ok(network) => Ok(Self(network)),
            Err(_) => Err(NetworkError::Form(shown())),
        }
    }
}

impl TryFrom<String> for Network {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// From where machines may ask.
#[derive(Debug)]
pub(super) struct Sources {
    allowed: Vec<Network>,
    own: Vec<Network>,
    /// When the host's own networks were last told.
    told_at: Option<Instant>,
}

impl Sources {
    /// From `allowed`, and from networks of this host once they are told.
    pub(super) fn new(allowed: Vec<Network>) -> Self {
        Self { allowed, own: Vec::new(), told_at: None }
    }

    /// Whether what is known of the host's networks is too old to judge this address by.
    pub(super) fn wants_networks(&self, address: IpAddr, now: Instant) -> bool {
        let lifetime = if self.admit(address) { LIFETIME } else { LIFETIME_FOR_STRANGERS };
        self.told_at.is_none_or(|told_at| now.saturating_duration_since(told_at) >= lifetime)
    }

    /// Learns the networks of this host; where the system does not tell, those known before go on to hold.
    pub(super) fn set_networks(&mut self, networks: Option<Vec<Network>>, now: Instant) {
        self.told_at = Some(now);
        if let Some(networks) = networks {
            self.own = networks;
        }
    }

    /// Whether a machine may ask from here.
    pub(super) fn admit(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.own.iter().chain(&self.allowed).any(|network| network.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::monotonic;

    fn network(text: &str) -> Network {
        text.parse().expect(text)
    }

    #[test]
    fn a_text_that_is_no_network_is_named_with_what_was_expected() {
        for (text, expected) in [
            ("10.0.0", "'10.0.0' is no network (expected as in 10.9.0.0/16)"),
            ("10.0.0.0/33", "'10.0.0.0/33' is no network"),
            ("site", "'site' is no network"),
            ("10.9.0.1/16", "'10.9.0.1/16' is an address within a network: is 10.9.0.0/16 meant?"),
        ] {
            let error = text.parse::<Network>().expect_err(text).to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        assert_eq!(network("10.9.0.7").to_string(), "10.9.0.7/32");
        assert!(network("0.0.0.0/0").contains("192.0.2.1".parse().expect("an address")));
    }

    #[test]
    fn n14_a_network_that_comes_or_goes_is_noticed() {
        let start = monotonic();
        let at = |ms| start + Duration::from_millis(ms);
        let machine: IpAddr = "10.1.0.5".parse().expect("an address");
        let mut sources = Sources::new(Vec::new());
        assert!(sources.wants_networks(machine, start), "nothing is known yet");
        sources.set_networks(Some(vec![network("10.1.0.0/24")]), start);
        assert!(sources.admit(machine) && !sources.wants_networks(machine, at(4_999)));
        assert!(sources.wants_networks(machine, at(5_000)));
        // The interface has another address from now on.
        sources.set_networks(Some(vec![network("10.2.0.0/24")]), at(5_000));
        assert!(!sources.admit(machine) && !sources.wants_networks(machine, at(5_999)));
        assert!(sources.wants_networks(machine, at(6_000)), "it may have come back");
        sources.set_networks(None, at(6_000));
        let other = "10.2.0.5".parse().expect("an address");
        assert!(sources.admit(other), "what the system does not tell has not changed");
    }

    #[test]
    fn an_ipv4_address_in_the_form_of_ipv6_is_the_same_address() {
        let mut sources = Sources::new(vec![network("192.0.2.0/24")]);
        assert!(sources.admit("::ffff:192.0.2.7".parse().expect("an address")));
        sources.set_networks(Some(vec![network("fe80::/64")]), monotonic());
        assert!(sources.admit("fe80::1".parse().expect("an address")));
        assert!(!sources.admit("fe81::1".parse().expect("an address")));
    }
}
