//! `pureboot-agent init`

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::{Context as _, bail};
use argh::FromArgs;
use pureboot_protocol::{RegistrationToken, SiteId};
use smol::LocalExecutor;

use crate::config::{BootConfig, Config, TftpConfig};
use crate::data_dir::{self, DataDir};
use crate::dhcp::DhcpConfig;
use crate::store;
use crate::uplink::controller::Controller;
use crate::uplink::url::CentralUrl;
use crate::uplink::{join, tls};

/// prepare this machine to serve a site; `start` then joins it
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "init")]
pub(super) struct Init {
    /// the site, as the controller names it (a UUID)
    #[argh(option)]
    site_id: SiteId,
    /// the controller, as in `https://boot.example.org`
    #[argh(option)]
    central_url: CentralUrl,
    /// registration token of the site; other users of this machine can see it here, so prefer --token-file
    #[argh(option)]
    token: Option<String>,
    /// file that holds the registration token; - reads standard input
    #[argh(option)]
    token_file: Option<PathBuf>,
    /// directory that is to hold all that the agent keeps (default: /var/lib/pureboot)
    #[argh(option, default = "super::default_data_dir()")]
    data_dir: PathBuf,
    /// certificate authorities (PEM) that the controller's certificate must come from (default: the web's public ones)
    #[argh(option)]
    ca_file: Option<PathBuf>,
    /// address and port of the HTTP boot endpoint (default: 0.0.0.0:8080)
    #[argh(option, default = "BootConfig::default().listen")]
    boot_listen: SocketAddr,
    /// address and port of the TFTP server (default: 0.0.0.0:69)
    #[argh(option, default = "TftpConfig::default().listen")]
    tftp_listen: SocketAddr,
    /// allow http:// to a controller on another machine; credentials can then be read on the way
    #[argh(switch)]
    allow_plain_http: bool,
    /// join anew although this directory has joined a site before; what waits for the controller is kept
    #[argh(switch)]
    rejoin: bool,
}

impl Init {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let token = self.read_token()?;
        let config = Config {
            site_id: self.site_id,
            central_url: self.central_url.clone(),
            ca_file: self.ca_file.as_deref().map(absolute).transpose()?,
            allow_plain_http: self.allow_plain_http,
            boot: BootConfig { listen: self.boot_listen },
            tftp: TftpConfig { listen: self.tftp_listen },
            dhcp: DhcpConfig::default(),
        };
        config.check()?;
        let tls = tls::connector(config.ca_file.as_deref())?;
        let data_dir = DataDir::create(&self.data_dir)?;
        let _lock = store::lock_data_dir(data_dir.root())
            .context("an agent seems to run on this data directory; stop it first")?;
        self.check_former_life(&data_dir, &config)?;

        let executor = Rc::new(LocalExecutor::new());
        let controller = Controller::new(Rc::clone(&executor), config.central_url.clone(), tls);
        #[expect(clippy::disallowed_methods, reason = "shell: this command's one wait")]
        let answer = smol::block_on(executor.run(controller.check()));

        if self.rejoin {
            // The present one is good until the controller has taken the next one.
            join::make_credential(&data_dir.next_credential_file())?;
        }
        data_dir::write_private(&data_dir.token_file(), &token.reveal())?;
        // Last, because `start` takes this file for the sign that all of `init` is done.
        config.save(&data_dir)?;

        let line = match answer {
            Ok(()) => format!("The controller at {} answers.", config.central_url),
            Err(error) => format!(
                "The controller at {} does not answer now: {error}.\nThat is no obstacle: the agent goes on trying once it runs.",
                config.central_url
            ),
        };
        super::print(&format!(
            "{line}\nWrote {} and the token beside it, readable by this user alone.\nNext: pureboot-agent start{}\n",
            data_dir.config_file().display(),
            self.data_dir_argument(),
        ))
    }

    fn read_token(&self) -> anyhow::Result<RegistrationToken> {
        let text = match (&self.token, &self.token_file) {
            (Some(_), Some(_)) => bail!("give --token or --token-file, not both"),
            (None, None) => bail!(
                "give the site's registration token by --token-file FILE (- for standard input) or --token; \
                 the controller makes one with POST /api/v1/sites/{}/agent-token",
                self.site_id
            ),
            (Some(token), None) => {
                super::complain(
                    "note: other users of this machine can see --token while init runs; --token-file hides it",
                );
                token.clone()
            }
            (None, Some(path)) if path == Path::new("-") => {
                let mut text = String::new();
                std::io::stdin()
                    .take(4_096)
                    .read_to_string(&mut text)
                    .context("cannot read the token from standard input")?;
                text
            }
            (None, Some(path)) => std::fs::read_to_string(path)
                .with_context(|| format!("cannot read the token from {}", path.display()))?,
        };
        Ok(text.trim().parse()?)
    }

    /// An `init` that was cut short is completed; a site that has been joined is not left by accident.
    fn check_former_life(&self, data_dir: &DataDir, config: &Config) -> anyhow::Result<()> {
        let has_joined = data_dir.credential_file().exists() && !data_dir.token_file().exists();
        if has_joined && !self.rejoin {
            bail!(
                "{} has joined a site already; to join with a new token add --rejoin",
                data_dir.root().display()
            );
        }
        match Config::load(data_dir) {
            Ok(former)
                if former.site_id != config.site_id && data_dir.credential_file().exists() =>
            {
                bail!(
                    "{} belongs to site {}, and what its machines reported there may still wait for delivery; use another \
                 --data-dir for site {}",
                    data_dir.root().display(),
                    former.site_id,
                    config.site_id
                )
            }
            _ => Ok(()),
        }
    }

    fn data_dir_argument(&self) -> String {
        if self.data_dir == super::default_data_dir() {
            String::new()
        } else {
            format!(" --data-dir {}", self.data_dir.display())
        }
    }
}

/// `start` may run in another directory.
fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::fs::canonicalize(path).with_context(|| format!("cannot find {}", path.display()))
}
