//! `pureboot-agent check-config`

use std::path::PathBuf;
use std::process::ExitCode;

use argh::FromArgs;

use crate::config::{Config, TftpConfig};
use crate::data_dir::DataDir;
use crate::dhcp::{DhcpConfig, interfaces};
use crate::uplink::tls;

/// check the settings without starting anything
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "check-config")]
pub(super) struct CheckConfig {
    /// directory that holds all that the agent keeps (default: /var/lib/pureboot)
    #[argh(option, default = "super::default_data_dir()")]
    data_dir: PathBuf,
}

impl CheckConfig {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let data_dir = DataDir::open(&self.data_dir)?;
        let config = Config::load(&data_dir)?;
        tls::connector(config.ca_file.as_deref())?;
        let missing =
            config.dhcp.enabled.then(|| interfaces::missing(&config.dhcp.interfaces)).flatten();
        for complaint in missing.into_iter().chain(config.dhcp.complaint()) {
            super::complain(&format!("warning: {complaint}"));
        }
        super::print(&format!(
            "{} holds: site {}, controller {}, {}, HTTP boot on {}, {}\n",
            data_dir.config_file().display(),
            config.site_id,
            config.central_url,
            tftp(&config.tftp),
            config.boot.listen,
            proxy(&config.dhcp),
        ))
    }
}

/// Where TFTP answers, and whom.
fn tftp(tftp: &TftpConfig) -> String {
    let allowed = tftp.allow_from.iter().map(|network| format!(" and {network}"));
    let allowed: String = allowed.collect();
    let case = if tftp.ignore_case { ", names in any case" } else { "" };
    format!(
        "TFTP on {} for this host's own networks{allowed} (to an address {} transfers at a time, {} requests/s{case})",
        tftp.listen, tftp.transfers_per_address_max, tftp.requests_per_address_per_s,
    )
}

/// Where ProxyDHCP answers.
fn proxy(dhcp: &DhcpConfig) -> String {
    if dhcp.enabled {
        format!("ProxyDHCP on {}", dhcp.interfaces.join(", "))
    } else {
        "ProxyDHCP off".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_tells_whom_tftp_answers() {
        let network = "10.9.0.0/16".parse().expect("a network");
        let config = TftpConfig { allow_from: vec![network], ..TftpConfig::default() };
        assert_eq!(
            tftp(&config),
            "TFTP on 0.0.0.0:69 for this host's own networks and 10.9.0.0/16 (to an address 8 transfers at a time, 20 requests/s)"
        );
    }

    #[test]
    fn the_check_tells_whether_and_where_dhcp_requests_are_answered() {
        let interfaces = vec!["br0".to_owned(), "br1".to_owned()];
        let mut dhcp = DhcpConfig { interfaces, ..DhcpConfig::default() };
        assert_eq!(proxy(&dhcp), "ProxyDHCP off");
        dhcp.enabled = true;
        assert_eq!(proxy(&dhcp), "ProxyDHCP on br0, br1");
    }
}
