//! `pureboot-agent dhcp-snippet`

use std::net::Ipv4Addr;
use std::process::ExitCode;

use crate::cli::arguments::placed;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::dhcp::snippet::{Agent, DhcpServer, render};

placed! {
    /// print settings with which the site's own DHCP server sends machines to this agent
    #[argh(subcommand, name = "dhcp-snippet")]
    pub(super) struct DhcpSnippet {
        /// the DHCP server: dnsmasq, odhcpd, isc or kea (default: dnsmasq)
        #[argh(option, default = "DhcpServer::Dnsmasq", long = "for")]
        server: DhcpServer,
        /// the agent's IPv4 address as machines see it
        #[argh(option, from_str_fn(host_address))]
        address: Ipv4Addr,
    }
}

impl DhcpSnippet {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let config = Config::load(&DataDir::open(&self.data_dir)?)?;
        let agent = Agent {
            address: self.address,
            http_port: config.boot.listen.port(),
            loaders: &config.dhcp.loaders,
        };
        super::print(&render(self.server, &agent))
    }
}

/// An address that a machine can ask; any other in the settings would leave every machine of the site without a loader.
fn host_address(text: &str) -> Result<Ipv4Addr, String> {
    let address: Ipv4Addr = text
        .parse()
        .map_err(|_| format!("'{text}' is not an IPv4 address (expected as in 192.0.2.2)"))?;
    if address.octets().first() == Some(&0)
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_loopback()
    {
        return Err(format!(
            "no machine can reach {address}: give the agent's address on the network of the machines"
        ));
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_no_machine_can_ask_gets_into_no_settings() {
        assert_eq!(host_address("192.0.2.2"), Ok(Ipv4Addr::new(192, 0, 2, 2)));
        for text in ["0.0.0.0", "224.0.0.1", "255.255.255.255", "127.0.0.1", "::1", "agent", ""] {
            let error = host_address(text).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }
}
