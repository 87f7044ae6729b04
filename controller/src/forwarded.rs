//! Where a request comes from that a reverse proxy has handed on: what `X-Forwarded-For` says counts as far as it was written
//! by proxies that the operator has named, and no further. From anybody else the field is a claim and means nothing.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderName;
use axum::middleware::Next;
use axum::response::Response;
use ipnet::IpNet;

use crate::extract::Peer;

const FIELD: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The addresses of a proxy that is believed: `10.0.0.0/8`, `2001:db8::/32`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix(IpNet);

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = || text.parse::<IpAddr>().map(IpNet::from).ok();
        let net = text.parse().ok().or_else(address);
        let net: IpNet = net.ok_or_else(|| {
            format!("'{text}' is neither an address nor a prefix such as 10.0.0.0/8")
        })?;
        if net.prefix_len() == 0 {
            return Err(format!(
                "'{text}' would believe everybody; name the proxies' own addresses"
            ));
        }
        Ok(Self(net))
    }
}

/// The proxies that are believed. Clones share the list.
#[derive(Debug, Clone, Default)]
pub(crate) struct Proxies(Arc<[Prefix]>);

impl Proxies {
    /// Believes these.
    pub(crate) fn new(prefixes: Vec<Prefix>) -> Self {
        Self(prefixes.into())
    }

    /// Whether `address` is that of a proxy that is believed.
    pub(crate) fn trust(&self, address: IpAddr) -> bool {
        self.0.iter().any(|prefix| prefix.0.contains(&address.to_canonical()))
    }

    /// The nearest address on the way of a request that is no proxy of ours; `forwarded` are the fields in their order. Where
    /// there is none, or something else than an address, it is the nearest that is known.
    fn client<'a>(
        &self,
        peer: IpAddr,
        forwarded: impl DoubleEndedIterator<Item = &'a str>,
    ) -> IpAddr {
        let mut nearest = peer;
        for hop in forwarded.rev().flat_map(|field| field.rsplit(',')) {
            if !self.trust(nearest) {
                break;
            }
            let Some(address) = parse(hop.trim()) else { break };
            nearest = address;
        }
        nearest
    }
}

/// An address as proxies write it: some add the port.
fn parse(text: &str) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    address.or_else(with_port).or_else(bracketed).map(|address| address.to_canonical())
}

/// The layer that puts the client's address in the place of the proxy's.
pub(crate) async fn look_through(
    State(proxies): State<Proxies>,
    mut request: Request,
    next: Next,
) -> Response {
    let peer: Option<Peer> = request.extensions().get().copied();
    if let Some(Peer(peer)) = peer.filter(|peer| proxies.trust(peer.ip())) {
        let fields: Vec<_> = request
            .headers()
            .get_all(FIELD)
            .iter()
            .map(|value| value.to_str().unwrap_or("?"))
            .collect();
        let client = proxies.client(peer.ip(), fields.into_iter());
        request.extensions_mut().insert(Peer(SocketAddr::new(client, peer.port())));
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, fields: &[&str]) -> String {
        let prefixes = ["10.0.0.0/8", "2001:db8::1"].map(|text| text.parse().expect("a prefix"));
        let proxies = Proxies::new(prefixes.to_vec());
        proxies.client(peer.parse().expect("an address"), fields.iter().copied()).to_string()
    }

    #[test]
    fn a9_only_what_proxies_of_ours_wrote_is_believed() {
        for (peer, fields, expected) in [
            ("10.0.0.1", &["192.0.2.7"][..], "192.0.2.7"),
            ("10.0.0.1", &["203.0.113.9, 192.0.2.7"], "192.0.2.7"),
            ("10.0.0.1", &["192.0.2.7, 10.0.0.2"], "192.0.2.7"),
            ("10.0.0.1", &["203.0.113.9", "192.0.2.7"], "192.0.2.7"),
            ("198.51.100.1", &["192.0.2.7"], "198.51.100.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["192.0.2.7, rubbish, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            ("::ffff:10.0.0.1", &["192.0.2.7:4711"], "192.0.2.7"),
            ("2001:db8::1", &["[2001:db8::2]:80"], "2001:db8::2"),
        ] {
            assert_eq!(client(peer, fields), expected, "{peer} {fields:?}");
        }
    }

    #[test]
    fn a_prefix_that_means_everybody_or_nothing_is_refused() {
        for text in ["0.0.0.0/0", "::/0", "proxy", "10.0.0.0/33", ""] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
    }
}
