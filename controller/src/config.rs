//! The command line, and the settings that come of it.

mod database;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::bail;
use argh::FromArgs;

pub use database::{Database, ServerUrl};

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
    Token(Token),
}

/// Serve the API until SIGTERM or SIGINT.
///
/// The first start makes the database and an operator's API token, which is printed once and kept in DATA-DIR/operator-token.
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
}

/// Make a further operator's API token and print it; the old ones stay valid.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "token")]
struct Token {
    /// the controller's data directory; the controller may be running
    #[argh(option)]
    data_dir: PathBuf,

    /// where the database is, as for serve
    #[argh(option)]
    database: Option<String>,
}

/// What the program is to do.
#[derive(Debug)]
pub enum Config {
    /// Serve the API.
    Serve(ServeConfig),
    /// Make a further operator's token.
    Token {
        /// Where the token is kept.
        data_dir: PathBuf,
        /// Where the database is; none: in the data directory.
        database: Option<Database>,
    },
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

impl TryFrom<Arguments> for Config {
    type Error = anyhow::Error;

    fn try_from(arguments: Arguments) -> anyhow::Result<Self> {
        let variable = std::env::var(database::VARIABLE).ok();
        let database = |argument: Option<&str>| database::choose(argument, variable.as_deref());
        let serve = match arguments.command {
            Command::Token(token) => {
                let database = database(token.database.as_deref())?;
                return Ok(Self::Token { data_dir: token.data_dir, database });
            }
            Command::Serve(serve) => serve,
        };
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
        ] {
            let error = config(arguments).expect_err("refused");
            assert!(error.contains(expected), "{arguments:?}: {error}");
        }
    }
}
