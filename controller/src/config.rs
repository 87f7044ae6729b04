//! The command line, and the settings that come of it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::bail;
use argh::FromArgs;

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
}

/// What the program is to do.
#[derive(Debug)]
pub enum Config {
    /// Serve the API.
    Serve(ServeConfig),
    /// Make a further operator's token.
    Token {
        /// Where the database is.
        data_dir: PathBuf,
    },
}

/// How the API is served.
#[derive(Debug)]
pub struct ServeConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where the database and the operator's token are.
    pub data_dir: PathBuf,
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
        let serve = match arguments.command {
            Command::Token(Token { data_dir }) => return Ok(Self::Token { data_dir }),
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
