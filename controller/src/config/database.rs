//! Where the database is, as the command line and the environment say it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, bail};
use sqlx::postgres::PgConnectOptions;

/// The environment variable that says it where the command line does not.
pub(super) const VARIABLE: &str = "PUREBOOT_DATABASE";

/// Where the database is.
#[derive(Debug, Clone)]
pub enum Database {
    /// An SQLite file of one controller.
    File(PathBuf),
    /// A PostgreSQL database that several controllers may share.
    Server(ServerUrl),
}

impl FromStr for Database {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text.split_once("://") {
            Some(("postgres" | "postgresql", _)) => Ok(Self::Server(text.parse()?)),
            Some((scheme, _)) => bail!(
                "'{scheme}://' is no database that is known: give a path for SQLite, or postgres://USER@HOST/NAME"
            ),
            None if text.is_empty() => bail!("the database is an empty text: give a path or a URL"),
            None => Ok(Self::File(text.into())),
        }
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Server(url) => write!(f, "{url}"),
        }
    }
}

/// The URL of a PostgreSQL database. It may hold a password, so it is shown without.
#[derive(Clone)]
pub struct ServerUrl {
    url: String,
    shown: String,
    has_password: bool,
    /// Whether it was an argument of the program.
    is_argument: bool,
}

impl ServerUrl {
    /// Whether everybody on the machine can read the password in the list of processes.
    pub(crate) fn is_password_public(&self) -> bool {
        self.has_password && self.is_argument
    }

    /// The URL with all that is in it, for the one who connects.
    pub(crate) fn reveal(&self) -> &str {
        &self.url
    }
}

impl FromStr for ServerUrl {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let options: PgConnectOptions = text
            .parse()
            .context("the URL of the database is not postgres://USER@HOST:PORT/NAME")?;
        let (user, port) = (options.get_username(), options.get_port());
        let socket = options.get_socket().map(|path| path.display().to_string());
        let host = socket.unwrap_or_else(|| options.get_host().to_owned());
        let name = options.get_database().unwrap_or(user);
        let authority = text.split_once("://").map_or(text, |(_, rest)| rest);
        let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
        let user_info = authority.rsplit_once('@').map_or("", |(user_info, _)| user_info);
        Ok(Self {
            shown: format!("postgres://{user}@{host}:{port}/{name}"),
            has_password: user_info.contains(':') || text.contains("password="),
            url: text.to_owned(),
            is_argument: false,
        })
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// The database that is named by `argument`, or else by `variable`; none: the file in the data directory.
///
/// # Errors
/// It is not named right.
pub(super) fn choose(
    argument: Option<&str>,
    variable: Option<&str>,
) -> anyhow::Result<Option<Database>> {
    let (text, by) = match (argument, variable.filter(|text| !text.is_empty())) {
        (Some(argument), _) => (argument, "--database"),
        (None, Some(variable)) => (variable, VARIABLE),
        (None, None) => return Ok(None),
    };
    let mut database: Database = text.parse().context(by)?;
    if let Database::Server(url) = &mut database {
        url.is_argument = argument.is_some();
    }
    Ok(Some(database))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "postgres://boot:s%3Acret@db.example:5433/pureboot";

    #[test]
    fn a11_a_password_is_never_shown_and_one_that_others_can_read_is_noticed() {
        for url in [SECRET, "postgres://db.example:5433/pureboot?user=boot&password=s3cret"] {
            for (argument, variable, is_public) in
                [(Some(url), None, true), (None, Some(url), false)]
            {
                let database = choose(argument, variable).expect("valid").expect("named");
                let shown = format!("{database} {database:?}");
                assert!(shown.contains("postgres://boot@db.example:5433/pureboot"), "{shown}");
                assert!(!shown.contains("cret"), "{shown}");
                let Database::Server(url) = database else { panic!("a server") };
                assert_eq!(url.is_password_public(), is_public);
            }
        }
        let plain = choose(Some("postgres://boot@db.example/pureboot"), None).expect("valid");
        assert!(matches!(plain, Some(Database::Server(url)) if !url.is_password_public()));
    }

    #[test]
    fn the_argument_wins_over_the_environment_and_a_path_is_a_file() {
        let file = choose(Some("/d/x.db"), Some(SECRET)).expect("valid");
        assert!(matches!(file, Some(Database::File(path)) if path.ends_with("x.db")));
        for nothing in [None, Some("")] {
            assert!(choose(None, nothing).expect("valid").is_none());
        }
    }

    #[test]
    fn what_is_no_database_is_refused_with_the_cure() {
        for (text, expected) in [
            ("mysql://h/d", "postgres://USER@HOST/NAME"),
            ("", "empty"),
            ("postgres://h:port/d", "postgres://USER@HOST:PORT/NAME"),
        ] {
            let error = format!("{:#}", choose(Some(text), None).expect_err("refused"));
            assert!(error.contains(expected) && error.contains("--database"), "{text}: {error}");
        }
    }
}
