//! `pureboot-agent check-config`

use std::path::PathBuf;
use std::process::ExitCode;

use argh::FromArgs;

use crate::config::Config;
use crate::data_dir::DataDir;
use crate::dhcp::DhcpConfig;
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
        super::print(&format!(
            "{} holds: site {}, controller {}, TFTP on {}, HTTP boot on {}, {}\n",
            data_dir.config_file().display(),
            config.site_id,
            config.central_url,
            config.tftp.listen,
            config.boot.listen,
            proxy(&config.dhcp),
        ))
    }
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
    fn the_check_tells_whether_and_where_dhcp_requests_are_answered() {
        let interfaces = vec!["br0".to_owned(), "br1".to_owned()];
        let mut dhcp = DhcpConfig { interfaces, ..DhcpConfig::default() };
        assert_eq!(proxy(&dhcp), "ProxyDHCP off");
        dhcp.enabled = true;
        assert_eq!(proxy(&dhcp), "ProxyDHCP on br0, br1");
    }
}
