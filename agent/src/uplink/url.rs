//! Where the controller is.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use hyper::Uri;
use serde::{Deserialize, Serialize};

/// The controller's address: scheme, host and port, and nothing behind them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CentralUrl {
    scheme: Scheme,
    host: String,
    port: u16,
}

/// Whether the line is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Plain text, for a controller on the same machine.
    Http,
    /// TLS.
    Https,
}

/// Why a text is not the address of a controller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CentralUrlError {
    /// Not a URL with a scheme and a host.
    #[error("'{0}' is not a URL (expected https://host or https://host:port)")]
    Form(String),
    /// Neither http nor https.
    #[error("'{0}' is neither http nor https")]
    Scheme(String),
    /// A path, a query or a user name, none of which the controller has.
    #[error("'{0}' has more than scheme, host and port (the API's path is added by the agent)")]
    Surplus(String),
}

impl CentralUrl {
    /// Whether to speak TLS.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The name or address, without brackets.
    pub fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Host and port as a `Host` header has them.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Whether the host can only be this machine.
    pub fn is_loopback(&self) -> bool {
        self.host() == "localhost"
            || self.host().parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl FromStr for CentralUrl {
    type Err = CentralUrlError;

    fn from_str(text: &str) -> Result<Self, CentralUrlError> {
        let form = || CentralUrlError::Form(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| form())?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            Some(other) => return Err(CentralUrlError::Scheme(other.to_owned())),
            None => return Err(form()),
        };
        let authority = uri.authority().ok_or_else(form)?;
        let has_path = !matches!(uri.path(), "" | "/");
        if has_path || uri.query().is_some() || authority.as_str().contains('@') {
            return Err(CentralUrlError::Surplus(text.to_owned()));
        }
        let default_port = match scheme {
            Scheme::Http => 80,
            Scheme::Https => 443,
        };
        let host = authority.host().to_owned();
        if host.is_empty() {
            return Err(form());
        }
        Ok(Self { scheme, host, port: authority.port_u16().unwrap_or(default_port) })
    }
}

impl TryFrom<String> for CentralUrl {
    type Error = CentralUrlError;

    fn try_from(text: String) -> Result<Self, CentralUrlError> {
        text.parse()
    }
}

impl From<CentralUrl> for String {
    fn from(url: CentralUrl) -> String {
        url.to_string()
    }
}

impl fmt::Display for CentralUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_with_its_default_port() {
        for (text, written) in [
            ("https://boot.example.org", "https://boot.example.org:443"),
            ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
            ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
        ] {
            assert_eq!(
                text.parse::<CentralUrl>().map(|url| url.to_string()),
                Ok(written.to_owned())
            );
        }
        let url: CentralUrl = "https://[2001:db8::1]".parse().expect("an address");
        assert_eq!(url.host(), "2001:db8::1");
    }

    #[test]
    fn what_is_more_or_less_than_an_address_is_refused() {
        for text in [
            "",
            "boot.example.org",
            "ftp://boot.example.org",
            "https://",
            "https://boot.example.org/api",
            "https://boot.example.org?x",
            "https://user:word@boot.example.org",
            "https://boot example.org",
        ] {
            assert!(text.parse::<CentralUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for (text, is_loopback) in [
            ("http://127.0.0.1", true),
            ("http://127.9.9.9", true),
            ("http://[::1]", true),
            ("http://localhost", true),
            ("http://localhost.example.org", false),
            ("http://10.0.0.1", false),
        ] {
            let url: CentralUrl = text.parse().expect("an address");
            assert_eq!(url.is_loopback(), is_loopback, "{text}");
        }
    }
}
