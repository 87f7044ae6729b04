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
use crate::store;
use crate::uplink::controller::{CallError, Controller};
use crate::uplink::url::CentralUrl;
use crate::uplink::{join, tls};

/// More than a token and white space, in bytes.
const TOKEN_FILE_LEN_MAX: u64 = 4_096;

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
    #[argh(option)]
    boot_listen: Option<SocketAddr>,
    /// address and port of the TFTP server (default: 0.0.0.0:69)
    #[argh(option)]
    tftp_listen: Option<SocketAddr>,
    /// allow http:// to a controller on another machine; credentials can then be read on the way
    #[argh(switch)]
    allow_plain_http: bool,
    /// join anew although this directory has joined a site before; what waits for the controller is kept, and so are the
    /// settings that no option names
    #[argh(switch)]
    rejoin: bool,
}

impl Init {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let token = self.read_token()?;
        let former = if self.data_dir.exists() {
            Config::load(&DataDir::open(&self.data_dir)?).ok()
        } else {
            None
        };
        let config = self.config(former.as_ref())?;
        config.check()?;
        let tls = tls::connector(config.ca_file.as_deref())?;
        let data_dir = DataDir::create(&self.data_dir)?;
        let _lock = store::lock_data_dir(data_dir.root())
            .context("an agent seems to run on this data directory; stop it first")?;
        self.check_former_life(&data_dir, former.as_ref())?;

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

        let line = describe(&config, answer);
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
                    .take(TOKEN_FILE_LEN_MAX)
                    .read_to_string(&mut text)
                    .context("cannot read the token from standard input")?;
                text
            }
            (None, Some(path)) => {
                let mut text = String::new();
                std::fs::File::open(path)
                    .and_then(|file| file.take(TOKEN_FILE_LEN_MAX).read_to_string(&mut text))
                    .with_context(|| format!("cannot read the token from {}", path.display()))?;
                text
            }
        };
        Ok(text.trim().parse()?)
    }

    /// An `init` that was cut short is completed; a site that has been joined is not left by accident.
    fn check_former_life(&self, data_dir: &DataDir, former: Option<&Config>) -> anyhow::Result<()> {
        let has_joined = data_dir.credential_file().exists() && !data_dir.token_file().exists();
        if has_joined && !self.rejoin {
            bail!(
                "{} has joined a site already; to join with a new token add --rejoin",
                data_dir.root().display()
            );
        }
        match former {
            Some(former)
                if former.site_id != self.site_id && data_dir.credential_file().exists() =>
            {
                bail!(
                    "{} belongs to site {}, and what its machines reported there may still wait for delivery; use another \
                 --data-dir for site {}",
                    data_dir.root().display(),
                    former.site_id,
                    self.site_id
                )
            }
            _ => Ok(()),
        }
    }

    /// The settings: what was said now, else what was said before, else the defaults.
    fn config(&self, former: Option<&Config>) -> anyhow::Result<Config> {
        let boot = former.map(|former| former.boot.clone()).unwrap_or_default();
        let tftp = former.map(|former| former.tftp.clone()).unwrap_or_default();
        let ca_file = self.ca_file.as_deref().map(absolute).transpose()?;
        Ok(Config {
            site_id: self.site_id,
            central_url: self.central_url.clone(),
            ca_file: ca_file.or_else(|| former.and_then(|former| former.ca_file.clone())),
            allow_plain_http: self.allow_plain_http
                || former.is_some_and(|former| former.allow_plain_http),
            boot: BootConfig { listen: self.boot_listen.unwrap_or(boot.listen), ..boot },
            tftp: TftpConfig { listen: self.tftp_listen.unwrap_or(tftp.listen), ..tftp },
            sync: former.map(|former| former.sync.clone()).unwrap_or_default(),
            dhcp: former.map(|former| former.dhcp.clone()).unwrap_or_default(),
            cage: former.map(|former| former.cage.clone()).unwrap_or_default(),
            update: former.map(|former| former.update.clone()).unwrap_or_default(),
        })
    }

    fn data_dir_argument(&self) -> String {
        if self.data_dir == super::default_data_dir() {
            String::new()
        } else {
            format!(" --data-dir {}", self.data_dir.display())
        }
    }
}

/// What the first call to the controller came to, and what cures it.
fn describe(config: &Config, answer: Result<(), CallError>) -> String {
    let url = &config.central_url;
    match answer {
        Ok(()) => format!(
            "The controller at {url} answers; whether it takes the token shows when the agent starts."
        ),
        Err(error @ CallError::Tls { .. }) => format!(
            "WARNING: {error}.\nThe agent will not speak to {url} like this: name the authority of its certificate with \
             --ca-file, or check that this is the controller's address."
        ),
        Err(error @ CallError::Foreign(_)) => {
            format!("WARNING: what answers at {url} is no PureBoot controller: {error}.")
        }
        Err(error) => format!(
            "The controller at {url} does not answer now: {error}.\nThe agent can start all the same, and goes on trying."
        ),
    }
}

/// `start` may run in another directory.
fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::fs::canonicalize(path).with_context(|| format!("cannot find {}", path.display()))
}
