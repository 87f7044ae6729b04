//! Which controller is asked and with which token: options first, then the environment.

use std::fmt;
use std::path::PathBuf;

use pureboot_protocol::Secret;
use reqwest::Url;

use crate::config::UsageError;
use crate::data_dir::TOKEN_FILE;
use crate::remote::arguments::Connection;

/// The controller that is asked where nobody says which.
const URL_DEFAULT: &str = "http://127.0.0.1:8000";

/// What the environment says.
#[derive(Default)]
pub(crate) struct Environment {
    pub(crate) url: Option<String>,
    pub(crate) token: Option<Secret>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) ca_file: Option<PathBuf>,
}

impl Environment {
    /// That of this process; a variable that is empty says nothing.
    pub(crate) fn read() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            url: variable("PUREBOOT_URL"),
            token: variable("PUREBOOT_TOKEN").map(Secret::new),
            token_file: variable("PUREBOOT_TOKEN_FILE").map(PathBuf::from),
            ca_file: variable("PUREBOOT_CA_FILE").map(PathBuf::from),
        }
    }
}

/// Where the token is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TokenSource {
    /// In the environment.
    Given(Secret),
    /// In a file.
    File(PathBuf),
}

/// A controller, and what is shown to it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) url: BaseUrl,
    pub(crate) token: TokenSource,
    pub(crate) ca_file: Option<PathBuf>,
}

impl Place {
    /// The place that `connection` names, or else `environment`.
    ///
    /// # Errors
    /// The URL is none, two options name a token, or nothing does.
    pub(crate) fn choose(
        connection: &Connection,
        environment: Environment,
    ) -> Result<Self, UsageError> {
        let url = connection.url.as_deref().or(environment.url.as_deref()).unwrap_or(URL_DEFAULT);
        let token = match (&connection.token_file, &connection.data_dir) {
            (Some(_), Some(_)) => {
                return Err(UsageError::new(
                    "--token-file and --data-dir both name a token; leave one out",
                ));
            }
            (Some(file), None) => TokenSource::File(file.clone()),
            (None, Some(dir)) => TokenSource::File(dir.join(TOKEN_FILE)),
            (None, None) => match (environment.token, environment.token_file) {
                (Some(token), _) => TokenSource::Given(token),
                (None, Some(file)) => TokenSource::File(file),
                (None, None) => {
                    return Err(UsageError::new(
                        "no API token: set PUREBOOT_TOKEN or PUREBOOT_TOKEN_FILE, or give --token-file FILE, or the controller's \
                         --data-dir on its own machine",
                    ));
                }
            },
        };
        let ca_file = connection.ca_file.clone().or(environment.ca_file);
        Ok(Self { url: BaseUrl::parse(url)?, token, ca_file })
    }
}

/// The address of a controller: what stands before `/api/v1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BaseUrl(Url);

impl BaseUrl {
    fn parse(text: &str) -> Result<Self, UsageError> {
        let refused = |why| {
            UsageError::new(format!(
                "'{text}' is no controller's address: {why}, such as {URL_DEFAULT}"
            ))
        };
        // What is no URL may hold a token that was pasted into the wrong place, but it came from the operator's own hands.
        let url = Url::parse(text).map_err(|_| refused("expected a URL"))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(refused("expected http:// or https:// and a host"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(UsageError::new(
                "the controller's address holds a user name; tokens belong into PUREBOOT_TOKEN",
            ));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(refused("expected neither '?' nor '#'"));
        }
        Ok(Self(url))
    }

    /// The URL of the API's resource at `path`, a list of segments as they are before they are escaped.
    pub(crate) fn resource(&self, path: &[&str], query: &[(&str, String)]) -> Url {
        let mut url = self.0.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(["api", "v1"]).extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// Whether what is sent there stays on this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        let host = self.0.host_str().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost"
            || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// Whether everybody on the way can read what is sent there.
    pub(crate) fn is_clear(&self) -> bool {
        self.0.scheme() == "http" && !self.is_loopback()
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        Environment {
            url: Some("https://boot.example.org".to_owned()),
            token: Some(Secret::new("from the environment".to_owned())),
            token_file: Some("/env/token".into()),
            ca_file: None,
        }
    }

    fn chosen(connection: Connection, environment: Environment) -> (String, TokenSource) {
        let place = Place::choose(&connection, environment).expect("a place");
        (place.url.to_string(), place.token)
    }

    #[test]
    fn an_option_wins_over_the_environment_and_that_over_the_default() {
        let given = || TokenSource::Given(Secret::new("from the environment".to_owned()));
        let file = |path: &str| TokenSource::File(path.into());
        let url = |url: &str| Connection { url: Some(url.to_owned()), ..Connection::default() };
        assert_eq!(
            chosen(Connection::default(), environment()),
            ("https://boot.example.org".to_owned(), given())
        );
        assert_eq!(
            chosen(url("http://[::1]:1/"), environment()),
            ("http://[::1]:1".to_owned(), given())
        );
        let in_file = || Connection { token_file: Some("/t".into()), ..Connection::default() };
        assert_eq!(chosen(in_file(), environment()).1, file("/t"));
        let in_dir = || Connection { data_dir: Some("/d".into()), ..Connection::default() };
        assert_eq!(chosen(in_dir(), environment()).1, file("/d/operator-token"));
        let without_token = || Environment { token: None, ..environment() };
        assert_eq!(chosen(Connection::default(), without_token()).1, file("/env/token"));
        let nothing = Environment::default;
        assert_eq!(chosen(in_dir(), nothing()).0, "http://127.0.0.1:8000");
        let error = Place::choose(&Connection::default(), nothing()).expect_err("no token");
        assert!(error.to_string().contains("PUREBOOT_TOKEN"), "{error}");
        let both = Connection { data_dir: Some("/d".into()), ..in_file() };
        assert!(Place::choose(&both, nothing()).is_err());
    }

    #[test]
    fn an_address_that_is_none_is_refused_with_the_cure() {
        for (text, expected) in [
            ("boot.example.org", "expected"),
            ("ftp://boot.example.org", "http://"),
            ("http://", "expected"),
            ("http://ada:secret@boot.example.org", "PUREBOOT_TOKEN"),
            ("http://boot.example.org/?a=b", "'?'"),
        ] {
            let error = BaseUrl::parse(text).expect_err("refused").to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_resource_lies_below_the_address_and_its_names_are_escaped() {
        for (base, expected) in [
            ("http://h:1", "http://h:1/api/v1/nodes/a%2Fb%3F?tag=x+y%26"),
            ("http://h:1/", "http://h:1/api/v1/nodes/a%2Fb%3F?tag=x+y%26"),
            ("https://h/boot/", "https://h/boot/api/v1/nodes/a%2Fb%3F?tag=x+y%26"),
        ] {
            let base = BaseUrl::parse(base).expect("an address");
            let url = base.resource(&["nodes", "a/b?"], &[("tag", "x y&".to_owned())]);
            assert_eq!(url.as_str(), expected);
        }
    }

    #[test]
    fn a_token_in_the_clear_is_told_from_one_that_stays_here() {
        for (url, is_clear) in [
            ("http://127.0.0.1:8000", false),
            ("http://[::1]:8000", false),
            ("http://localhost", false),
            ("https://boot.example.org", false),
            ("http://boot.example.org", true),
            ("http://192.0.2.1", true),
        ] {
            assert_eq!(BaseUrl::parse(url).expect("an address").is_clear(), is_clear, "{url}");
        }
    }
}
