//! The agent's settings: `agent.toml` in the data directory.
//!
//! What concerns security is here and only here; the controller's settings for the site cannot change it.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use pureboot_protocol::SiteId;
use serde::{Deserialize, Serialize};

use crate::boot::decide::OfflineAction;
use crate::cage::CageConfig;
use crate::data_dir::{self, DataDir};
use crate::dhcp::DhcpConfig;
use crate::dhcp::quirks::operator;
use crate::rate::Rate;
use crate::sync::config::SyncConfig;
use crate::tftp::limits::Limits;
use crate::tftp::options::{BLOCK_LEN_DEFAULT, BLOCK_LEN_MAX};
use crate::tftp::sources::Network;
use crate::uplink::url::{CentralUrl, Scheme};

/// All of `agent.toml`. A key that is not here is an error, so that a misspelt one does not go unnoticed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The site that the agent serves.
    pub site_id: SiteId,
    /// The controller.
    pub central_url: CentralUrl,
    /// Certificate authorities (PEM) that the controller's certificate must come from; without it, the web's public ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Allows `http://` to a controller on another machine: everything, the credential too, can then be read on the way.
    #[serde(default)]
    pub allow_plain_http: bool,
    /// The HTTP boot endpoint.
    #[serde(default)]
    pub boot: BootConfig,
    /// The TFTP server.
    #[serde(default)]
    pub tftp: TftpConfig,
    /// Content from the controller.
    #[serde(default)]
    pub sync: SyncConfig,
    /// ProxyDHCP, off unless switched on.
    #[serde(default)]
    pub dhcp: DhcpConfig,
    /// What the agent cannot do once it serves.
    #[serde(default)]
    pub cage: CageConfig,
    /// Other versions of the agent.
    #[serde(default)]
    pub update: UpdateConfig,
}

/// `[update]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpdateConfig {
    /// For how long a new version has to serve, with the controller in reach, before it has proven itself. One that the controller has
    /// not heard in three times as long is gone back from.
    pub trial_seconds: u32,
}

/// What `trial_seconds` may be: up to a day.
const TRIAL_SECONDS: RangeInclusive<u32> = 1..=86_400;

impl Default for UpdateConfig {
    fn default() -> Self {
        Self { trial_seconds: 600 }
    }
}

impl UpdateConfig {
    /// How long a trial takes.
    pub fn trial(&self) -> Duration {
        Duration::from_secs(self.trial_seconds.into())
    }

    fn check(&self) -> anyhow::Result<()> {
        if !TRIAL_SECONDS.contains(&self.trial_seconds) {
            let (min, max) = TRIAL_SECONDS.into_inner();
            bail!("update.trial_seconds is {}: give {min} to {max}", self.trial_seconds);
        }
        Ok(())
    }
}

/// `[boot]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BootConfig {
    /// Where machines ask for scripts and files.
    pub listen: SocketAddr,
    /// What a machine does that asks while the controller is away: `last_known`, `discovery` or `local`.
    pub offline_default_action: OfflineAction,
}

/// `[tftp]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TftpConfig {
    /// Where machines ask for their first file.
    pub listen: SocketAddr,
    /// Networks from which machines may ask besides those that this host is in.
    pub allow_from: Vec<Network>,
    /// Transfers at a time to one address; as many of loaders go beside them.
    pub transfers_per_address_max: usize,
    /// Requests of one address that are answered, in the long run; twice as many at once.
    pub requests_per_address_per_s: u32,
    /// The longest block that is agreed on, in bytes, where a path on the way is narrower than this host can see.
    pub blksize_max: u16,
    /// Answers from the port that was asked, which RFC 1350 §4 has a server change for each transfer, for packet filters, containers
    /// and NAT that let nothing else back.
    pub single_port: bool,
    /// Finds a file also where only the case of its letters differs.
    pub ignore_case: bool,
}

/// What the two numbers of `[tftp]` may be: what all addresses together may have.
const TRANSFERS_PER_ADDRESS: RangeInclusive<usize> = 1..=1_024;
const REQUESTS_PER_ADDRESS: RangeInclusive<u32> = 1..=2_000;
/// RFC 1350 knows no block below 512, and every client takes that.
const BLKSIZE_MAX: RangeInclusive<u16> = BLOCK_LEN_DEFAULT..=BLOCK_LEN_MAX;

impl TftpConfig {
    /// The limits that these settings make.
    pub fn limits(&self) -> Limits {
        let per_second = self.requests_per_address_per_s;
        Limits {
            allow_from: self.allow_from.clone(),
            transfers_per_client_max: self.transfers_per_address_max,
            client_rate: Rate { per_second, burst: per_second.saturating_mul(2) },
            block_len_max: self.blksize_max,
            ..Limits::default()
        }
    }

    fn check(&self) -> anyhow::Result<()> {
        let Self {
            transfers_per_address_max: transfers, requests_per_address_per_s: requests, ..
        } = self;
        if !TRANSFERS_PER_ADDRESS.contains(transfers) {
            let (min, max) = TRANSFERS_PER_ADDRESS.into_inner();
            bail!("tftp.transfers_per_address_max is {transfers}: give {min} to {max}");
        }
        if !REQUESTS_PER_ADDRESS.contains(requests) {
            let (min, max) = REQUESTS_PER_ADDRESS.into_inner();
            bail!("tftp.requests_per_address_per_s is {requests}: give {min} to {max}");
        }
        if !BLKSIZE_MAX.contains(&self.blksize_max) {
            let (min, max) = BLKSIZE_MAX.into_inner();
            bail!("tftp.blksize_max is {}: give {min} to {max}", self.blksize_max);
        }
        Ok(())
    }
}

impl Default for BootConfig {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::UNSPECIFIED, 8080).into(),
            offline_default_action: OfflineAction::default(),
        }
    }
}

impl Default for TftpConfig {
    fn default() -> Self {
        let Limits { allow_from, transfers_per_client_max, client_rate, block_len_max, .. } =
            Limits::default();
        Self {
            listen: (Ipv4Addr::UNSPECIFIED, 69).into(),
            allow_from,
            transfers_per_address_max: transfers_per_client_max,
            requests_per_address_per_s: client_rate.per_second,
            blksize_max: block_len_max,
            single_port: false,
            ignore_case: false,
        }
    }
}

impl Config {
    /// Reads and checks the settings.
    ///
    /// # Errors
    /// They are missing, open to others, or do not hold; the text says what to do.
    pub fn load(data_dir: &DataDir) -> anyhow::Result<Self> {
        let path = data_dir.config_file();
        let Some(text) = data_dir::read_private(&path)? else {
            bail!("there is no {}: run `pureboot-agent init` first", path.display());
        };
        Self::parse(&text).with_context(|| format!("{} does not hold", path.display()))
    }

    /// Reads settings from the text of a file.
    ///
    /// # Errors
    /// The text is not TOML, has unknown keys or values, or a value that is not allowed.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let config: Self = toml::from_str(text)?;
        config.check()?;
        Ok(config)
    }

    /// Writes the settings whole or not at all.
    ///
    /// # Errors
    /// A value is not allowed, or the file cannot be written.
    pub fn save(&self, data_dir: &DataDir) -> anyhow::Result<()> {
        self.check()?;
        let settings = toml::to_string(self).context("cannot write the settings as TOML")?;
        data_dir::write_private(&data_dir.config_file(), &format!("{HEADER}{settings}"))
    }

    /// Whether the values are allowed, each by itself and together.
    ///
    /// # Errors
    /// One is not; the text says what to do.
    pub fn check(&self) -> anyhow::Result<()> {
        let is_plain = self.central_url.scheme() == Scheme::Http;
        if is_plain && !self.central_url.is_loopback() && !self.allow_plain_http {
            bail!(
                "central_url is {}: without TLS the credential can be read on the way. Use https://, or allow it with \
                 allow_plain_http = true (init: --allow-plain-http) where the line is safe by itself",
                self.central_url
            );
        }
        if is_plain && self.ca_file.is_some() {
            bail!("ca_file is of no use with {}: use https://", self.central_url);
        }
        if self.dhcp.enabled && self.dhcp.interfaces.is_empty() {
            bail!("dhcp is enabled without an interface: name one, as in interfaces = [\"br0\"]");
        }
        let mut named = std::collections::BTreeSet::new();
        if let Some(twice) = self.dhcp.interfaces.iter().find(|name| !named.insert(name.as_str())) {
            bail!("dhcp.interfaces names '{twice}' twice: name it once");
        }
        self.tftp.check()?;
        self.update.check()?;
        self.sync.check(self.site_id)?;
        operator::check(&self.dhcp.quirks)?;
        for (key, listen) in [("boot", self.boot.listen), ("tftp", self.tftp.listen)] {
            if listen.ip().is_multicast() || listen.ip() == Ipv4Addr::BROADCAST {
                bail!(
                    "{key}.listen is {listen}, which is no address of a host: give one of this host, or 0.0.0.0 for all"
                );
            }
        }
        if self.boot.listen.is_ipv6() || self.tftp.listen.is_ipv6() {
            bail!("boot.listen and tftp.listen take IPv4 addresses: machines boot by IPv4");
        }
        Ok(())
    }
}

const HEADER: &str = r#"# Settings of the PureBoot agent, written by `pureboot-agent init`.
# After a change: `pureboot-agent check-config`, then start the agent again.
#
# [tftp] answers machines in the networks that this host is in. Where a router, relay or NAT is between them and the agent:
#   allow_from = ["10.9.0.0/16"]         networks that are answered besides; ["0.0.0.0/0"] answers everybody
#   transfers_per_address_max = 8        transfers at a time to one address; many machines behind one address need more
#   requests_per_address_per_s = 20      requests of one address; twice as many at once
#   blksize_max = 1380                   longest block, where a tunnel on the way is narrower than this host can see
#   single_port = true                   answers from the port that was asked, where NAT or a container lets nothing else back
#   ignore_case = true                   finds files also where only the case of letters differs
#
# [sync] fetches what the site is to hold as soon as a heartbeat tells of it, as fast as the line; where heartbeats do not tell, the
# controller is asked every interval_s seconds. Times are the host's.
#   schedule = "0 2 * * *"               images are fetched ahead every night at two (cron); what a machine asks for comes at once
#   schedule_jitter_s = 600              each site begins by a part of its own later
#   rate_max_kib_s = 2000                limit in KiB per second, over all content
#   [[sync.rate]]                        another limit at a time of the day; 0 is none
#   from = "08:00"
#   to = "18:00"
#   days = ["mon", "tue", "wed", "thu", "fri"]
#   max_kib_s = 500

"#;

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(lines: &str) -> String {
        format!("site_id = \"0b8f5c1e-6f0e-4d52-9a55-0c8f3f1c2a77\"\n{lines}")
    }

    #[test]
    fn settings_survive_their_own_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let data_dir = DataDir::create(&dir.path().join("data")).expect("made");
        assert!(
            Config::load(&data_dir)
                .expect_err("nothing there")
                .to_string()
                .contains("pureboot-agent init")
        );
        let config = Config::parse(&settings("central_url = \"https://boot.example.org\""))
            .expect("a config");
        config.save(&data_dir).expect("saved");
        assert_eq!(Config::load(&data_dir).expect("loaded"), config);
        assert_eq!(config.boot.listen.port(), 8080);
        assert_eq!(config.tftp.listen.port(), 69);
    }

    #[test]
    fn n8_plain_http_needs_loopback_or_a_decision() {
        for (lines, holds) in [
            ("central_url = \"http://127.0.0.1:8000\"", true),
            ("central_url = \"http://10.0.0.1:8000\"", false),
            ("central_url = \"http://10.0.0.1:8000\"\nallow_plain_http = true", true),
            ("central_url = \"http://127.0.0.1\"\nca_file = \"/etc/ca.pem\"", false),
        ] {
            assert_eq!(Config::parse(&settings(lines)).is_ok(), holds, "{lines}");
        }
    }

    #[test]
    fn proxydhcp_is_off_and_wants_an_interface() {
        let url = "central_url = \"https://boot.example.org\"\n";
        let config = Config::parse(&settings(url)).expect("a config");
        assert!(!config.dhcp.enabled);
        assert!(Config::parse(&settings(&format!("{url}[dhcp]\nenabled = true"))).is_err());
        let lines = format!("{url}[dhcp]\nenabled = true\ninterfaces = [\"br0\"]");
        assert_eq!(Config::parse(&settings(&lines)).expect("a config").dhcp.interfaces, ["br0"]);
        let lines = format!("{url}[dhcp]\nenabled = true\ninterfaces = [\"br0\", \"br0\"]");
        let error = Config::parse(&settings(&lines)).expect_err("named twice");
        assert!(format!("{error:#}").contains("'br0' twice"), "{error:#}");
    }

    #[test]
    fn a_quirk_that_cannot_be_meant_is_refused() {
        let url = "central_url = \"https://boot.example.org\"\n";
        let holds =
            |lines: &str| Config::parse(&settings(&format!("{url}[[dhcp.quirk]]\n{lines}")));
        assert_eq!(holds("arch = [7]\nrefuse = true").expect("a config").dhcp.quirks.len(), 1);
        assert!(holds("refuse = true").is_err());
    }

    #[test]
    fn limits_of_tftp_are_set_by_address_and_checked() {
        let url = "central_url = \"https://boot.example.org\"\n";
        let parse = |lines: &str| Config::parse(&settings(&format!("{url}[tftp]\n{lines}")));
        assert_eq!(parse("").expect("a config").tftp.limits(), Limits::default());
        let lines = "allow_from = [\"10.9.0.0/16\", \"192.0.2.7\"]\ntransfers_per_address_max = 200\n\
                     requests_per_address_per_s = 100\nblksize_max = 1380\nignore_case = true";
        let config = parse(lines).expect("a config");
        let limits = config.tftp.limits();
        assert_eq!(limits.transfers_per_client_max, 200);
        assert_eq!(limits.client_rate, Rate { per_second: 100, burst: 200 });
        assert_eq!(limits.allow_from.len(), 2);
        assert_eq!((limits.block_len_max, config.tftp.ignore_case), (1_380, true));
        let text = toml::to_string(&config).expect("it can be written");
        assert_eq!(Config::parse(&text).expect("a config"), config);
        for (lines, words) in [
            ("transfers_per_address_max = 0", "transfers_per_address_max is 0: give 1 to 1024"),
            ("requests_per_address_per_s = 2001", "is 2001: give 1 to 2000"),
            ("blksize_max = 511", "blksize_max is 511: give 512 to 65464"),
            ("blksize_max = 65465", "blksize_max is 65465: give 512 to 65464"),
            ("allow_from = [\"10.9.0.1/16\"]", "is 10.9.0.0/16 meant?"),
            ("allow_from = [\"site\"]", "'site' is no network (expected as in 10.9.0.0/16)"),
        ] {
            let error = format!("{:#}", parse(lines).expect_err(lines));
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn an_address_of_no_host_is_listened_on_by_nobody() {
        let url = "central_url = \"https://boot.example.org\"\n";
        for (section, address) in [("boot", "224.0.0.1"), ("tftp", "255.255.255.255")] {
            let lines = format!("{url}[{section}]\nlisten = \"{address}:69\"");
            let error = Config::parse(&settings(&lines)).expect_err(address).to_string();
            assert!(error.contains(&format!("{section}.listen is {address}:69")), "{error}");
        }
    }

    #[test]
    fn a_misspelt_key_is_named() {
        let lines = "central_url = \"https://boot.example.org\"\n[tftp]\nlistne = \"0.0.0.0:69\"";
        let error = format!("{:#}", Config::parse(&settings(lines)).expect_err("no such key"));
        assert!(error.contains("listne"), "{error}");
    }
}
