//! The agent's sockets: bound first, watched later.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use smol::net::TcpListener;
use smol::net::unix::UnixListener;

use crate::config::Config;
use crate::data_dir::DataDir;
use crate::{dhcp, manage, tftp};

/// Bound before anything else, so that a taken port is told at once, and without a second thread, which the cage would not hold.
pub(super) struct Sockets {
    pub(super) http: std::net::TcpListener,
    pub(super) tftp: tftp::serve::Listener,
    /// Empty where ProxyDHCP is off.
    pub(super) dhcp: Vec<dhcp::serve::Bound>,
    pub(super) management: std::os::unix::net::UnixListener,
}

/// The same, once the executor waits for them.
pub(super) struct Watched {
    pub(super) http: TcpListener,
    pub(super) http_address: SocketAddr,
    pub(super) tftp: tftp::serve::Listener,
    pub(super) tftp_address: SocketAddr,
    pub(super) dhcp: Vec<dhcp::serve::Listener>,
    pub(super) management: UnixListener,
}

/// The settings with which nothing is bound that is in use.
pub(super) fn out_of_the_way(mut config: Config) -> Config {
    config.boot.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    config.tftp.listen = config.boot.listen;
    config.dhcp.enabled = false;
    config
}

impl Sockets {
    pub(super) fn bind(config: &Config, data_dir: &DataDir) -> anyhow::Result<Self> {
        let cure = "is another server using it, or does the agent lack the right to ports below 1024 (CAP_NET_BIND_SERVICE)?";
        let http = std::net::TcpListener::bind(config.boot.listen).with_context(|| {
            format!("cannot listen on {} for HTTP boot; {cure}", config.boot.listen)
        })?;
        let mut tftp = tftp::serve::Listener::bind(config.tftp.listen)
            .with_context(|| format!("cannot listen on {} for TFTP; {cure}", config.tftp.listen))?;
        if config.tftp.single_port {
            tftp.share_port().context("cannot send by TFTP from the port that listens")?;
        }
        Ok(Self {
            http,
            tftp,
            dhcp: if config.dhcp.enabled {
                dhcp::serve::bind(&config.dhcp.interfaces)?
            } else {
                Vec::new()
            },
            management: manage::bind(&data_dir.socket())?,
        })
    }

    pub(super) fn watch(self) -> anyhow::Result<Watched> {
        let Self { http, tftp, dhcp, management } = self;
        Ok(Watched {
            http_address: http.local_addr().context("cannot tell the port of HTTP boot")?,
            http: http.try_into().context("cannot watch the port of HTTP boot")?,
            tftp_address: tftp.local_addr(),
            tftp,
            dhcp: dhcp::serve::listen(dhcp)?,
            management: management.try_into().context("cannot watch the management socket")?,
        })
    }
}

impl Watched {
    /// The line that whoever started the agent waits for.
    pub(super) fn describe(&self) -> String {
        format!("listening on tftp://{} http://{}", self.tftp_address, self.http_address)
    }
}
