//! `pureboot-agent dhcp-snippet`

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;

use argh::FromArgs;

use crate::config::Config;
use crate::data_dir::DataDir;
use crate::dhcp::snippet::{Agent, DhcpServer, render};

/// print settings with which the site's own DHCP server sends machines to this agent
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "dhcp-snippet")]
pub(super) struct DhcpSnippet {
    /// the DHCP server: dnsmasq, odhcpd, isc or kea (default: dnsmasq)
    #[argh(option, default = "DhcpServer::Dnsmasq", long = "for")]
    server: DhcpServer,
    /// the agent's IPv4 address as machines see it
    #[argh(option)]
    address: Ipv4Addr,
    /// directory that holds all that the agent keeps (default: /var/lib/pureboot)
    #[argh(option, default = "super::default_data_dir()")]
    data_dir: PathBuf,
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
