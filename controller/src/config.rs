//! The command line, and the settings that come of it.

mod database;
pub(crate) mod people;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{bail, ensure};
use argh::FromArgs;

pub use crate::config::people::{TokenArguments, UserArguments};
pub use crate::limit::LimitConfig;
pub use database::{Database, ServerUrl};

/// How long the audit is kept where nothing is said, in days: a year, and the time to look back at it.
pub(crate) const AUDIT_DAYS: u32 = 400;

/// The centre of PureBoot: REST API and database for many sites.
#[derive(Debug, FromArgs)]
#[argh(
    example = "{command_name} serve --listen 0.0.0.0:8443 --data-dir /var/lib/pureboot \\\n    --tls-cert-file cert.pem --tls-key-file key.pem",
    error_code(1, "it could not start, or the arguments are wrong")
)]
pub struct Arguments {
    #[argh(subcommand)]
    command: Command,
}

#[derive(Debug, FromArgs)]
#[argh(subcommand)]
enum Command {
    Serve(Serve),
    User(UserArguments),
    Token(TokenArguments),
}

/// Serve the API until SIGTERM or SIGINT.
///
/// The first start makes the database and an admin's API token, which is printed once and kept in DATA-DIR/operator-token.
/// People who sign in are made by `user add`.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "serve")]
struct Serve {
    /// address and port to listen on; port 0 takes a free one (default: 127.0.0.1:8000)
    #[argh(option, default = "SocketAddr::from(([127, 0, 0, 1], 8000))")]
    listen: SocketAddr,

    /// directory of the database and the operator's token; made if it is not there
    #[argh(option)]
    data_dir: PathBuf,

    /// where the database is: a path for SQLite, or postgres://USER@HOST/NAME, which several controllers may share (default:
    /// $PUREBOOT_DATABASE, or else DATA-DIR/controller.db); a password belongs into PUREBOOT_DATABASE or ~/.pgpass
    #[argh(option)]
    database: Option<String>,

    /// certificate chain in PEM; with it the API speaks HTTPS only
    #[argh(option)]
    tls_cert_file: Option<PathBuf>,

    /// private key of the certificate in PEM
    #[argh(option)]
    tls_key_file: Option<PathBuf>,

    /// how the log on stderr is written: text or json (default: text); RUST_LOG chooses what is logged
    #[argh(option, default = "LogFormat::Text")]
    log_format: LogFormat,

    /// requests a second that one token, session or agent may make, ten seconds' worth at once; 0 for no limit (default: 200)
    #[argh(option, default = "LimitConfig::default().per_credential")]
    rate_per_credential: u32,

    /// requests a second without credential that one address may make, ten seconds' worth at once; 0 for no limit
    /// (default: 100)
    #[argh(option, default = "LimitConfig::default().per_address")]
    rate_per_address: u32,

    /// wrong tokens, credentials or passwords a minute that one address may offer before it has to wait (default: 10)
    #[argh(option, default = "LimitConfig::default().failures")]
    failures_per_minute: u32,

    /// days that the audit is kept (default: 400)
    #[argh(option, default = "AUDIT_DAYS")]
    audit_days: u32,
}

/// What the program is to do.
#[derive(Debug)]
pub enum Config {
    /// Serve the API.
    Serve(ServeConfig),
    /// Look after people.
    User(UserArguments),
    /// Look after tokens.
    Token(TokenArguments),
}

/// How the API is served.
#[derive(Debug)]
pub struct ServeConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where the operator's token is.
    pub data_dir: PathBuf,
    /// Where the database is; none: in the data directory.
    pub database: Option<Database>,
    /// The certificate, for HTTPS.
    pub tls: Option<TlsFiles>,
    /// How the log is written.
    pub log_format: LogFormat,
    /// How much anybody may ask.
    pub limits: LimitConfig,
    /// How long the audit is kept, in days.
    pub audit_days: u32,
}

/// A certificate and its key, as PEM files.
#[derive(Debug)]
pub struct TlsFiles {
    /// The chain, the server's own certificate first.
    pub cert_file: PathBuf,
    /// The private key.
    pub key_file: PathBuf,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("'{text}' is none of text, json")),
        }
    }
}

/// The database that `argument` names, or else the environment; none where neither does.
///
/// # Errors
/// What it names can be none.
pub(crate) fn database(argument: Option<&str>) -> anyhow::Result<Option<Database>> {
    let variable = std::env::var(database::VARIABLE).ok();
    database::choose(argument, variable.as_deref())
}

impl TryFrom<Arguments> for Config {
    type Error = anyhow::Error;

    fn try_from(arguments: Arguments) -> anyhow::Result<Self> {
        let serve = match arguments.command {
            Command::User(arguments) => return Ok(Self::User(arguments)),
            Command::Token(arguments) => return Ok(Self::Token(arguments)),
            Command::Serve(serve) => serve,
        };
        ensure!(
            serve.audit_days > 0,
            "--audit-days 0 would forget everything; keep at least 1 day"
        );
        let tls = match (serve.tls_cert_file, serve.tls_key_file) {
            (Some(cert_file), Some(key_file)) => Some(TlsFiles { cert_file, key_file }),
            (None, None) => None,
            (Some(_), None) => bail!("--tls-cert-file needs --tls-key-file beside it"),
            (None, Some(_)) => bail!("--tls-key-file needs --tls-cert-file beside it"),
        };
        Ok(Self::Serve(ServeConfig {
            listen: serve.listen,
            data_dir: serve.data_dir,
            database: database(serve.database.as_deref())?,
            tls,
            log_format: serve.log_format,
            limits: LimitConfig {
                per_credential: serve.rate_per_credential,
                per_address: serve.rate_per_address,
                failures: serve.failures_per_minute,
            },
            audit_days: serve.audit_days,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(arguments: &[&str]) -> Result<Config, String> {
        let arguments = Arguments::from_args(&["pureboot-controller"], arguments);
        let arguments = arguments.map_err(|exit| exit.output)?;
        Config::try_from(arguments).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_those_of_the_help() {
        let Ok(Config::Serve(serve)) = config(&["serve", "--data-dir", "/d"]) else {
            panic!("the smallest call is valid");
        };
        assert_eq!(serve.listen.to_string(), "127.0.0.1:8000");
        assert_eq!(serve.log_format, LogFormat::Text);
        assert!(serve.tls.is_none());
        assert_eq!((serve.limits, serve.audit_days), (LimitConfig::default(), 400));
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_cure() {
        for (arguments, expected) in [
            (&["serve"][..], "--data-dir"),
            (&["serve", "--data-dir", "/d", "--listen", "8000"], "--listen"),
            (&["serve", "--data-dir", "/d", "--log-format", "xml"], "none of text, json"),
            (&["serve", "--data-dir", "/d", "--tls-cert-file", "c"], "--tls-key-file"),
            (&["serve", "--data-dir", "/d", "--tls-key-file", "k"], "--tls-cert-file"),
            (&[], "serve"),
            (&["serve", "--data-dir", "/d", "--audit-days", "0"], "--audit-days"),
            (&["user", "add", "ada", "--role", "root", "--data-dir", "/d"], "none of viewer"),
            (&["token", "new", "--scope", "all", "--data-dir", "/d"], "none of read"),
            (&["token"], "revoke"),
        ] {
            let error = config(arguments).expect_err("refused");
            assert!(error.contains(expected), "{arguments:?}: {error}");
        }
    }
}
