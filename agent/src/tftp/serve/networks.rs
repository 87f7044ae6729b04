//! The networks that this host is in, as the system tells them at this moment.

use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;

use crate::tftp::sources::Network;

/// All of them, the loopback's too, and the other ends of links that have no network; none if the system does not tell. It is
/// asked by a system call that waits for nothing.
pub(super) fn own() -> Option<Vec<Network>> {
    let entries = match getifaddrs() {
        Ok(entries) => entries,
        Err(error) => {
            log::warn!(error:%; "cannot tell which networks this host is in: {error}");
            return None;
        }
    };
    let networks = entries.flat_map(|entry| {
        let [address, mask, other_end] =
            [entry.address, entry.netmask, entry.destination].map(|it| it.as_ref().and_then(ip));
        let network = address.zip(mask).and_then(|(address, mask)| Network::of(address, mask));
        [network, other_end.map(Network::from)]
    });
    Some(networks.flatten().collect())
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| address.ip().into());
    v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_among_them_and_no_network_is_everything() {
        let own = own().expect("the system tells");
        assert!(own.contains(&"127.0.0.0/8".parse().expect("a network")), "{own:?}");
        assert!(!own.iter().any(|network| network.to_string().ends_with("/0")), "{own:?}");
    }
}
