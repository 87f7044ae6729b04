//! The command line, and the settings that come of it.

mod backup;
mod database;
pub(crate) mod people;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use argh::FromArgs;

pub use crate::config::backup::{BackupArguments, RestoreArguments};
pub use crate::config::people::{TokenArguments, UserArguments};
pub use crate::forwarded::Prefix;
pub use crate::limit::LimitConfig;
pub use crate::remote::Ask;
pub use database::{Database, ServerUrl};

use crate::remote::{
    AgentArguments, AuditArguments, ConflictArguments, ContentArguments, GroupArguments,
    NodeArguments, PluginArguments, SecretArguments, SiteArguments, TemplateArguments,
    WorkflowArguments,
};

/// The largest component of a plugin that may be allowed, in MiB.
const PLUGIN_MAX_MB: u32 = 32;

/// How long what explains the past is kept, in days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptDays {
    /// Rows of the audit.
    pub audit: u32,
    /// Conflicts, from their end on.
    pub conflicts: u32,
    /// Boot sessions.
    pub boots: u32,
}

impl Default for KeptDays {
    /// A year and the time to look back at it; of boots, a season.
    fn default() -> Self {
        Self { audit: 400, conflicts: 400, boots: 90 }
    }
}

/// The centre of PureBoot: REST API and database for many sites.
#[derive(Debug, FromArgs)]
#[argh(
    example = "{command_name} serve --listen 0.0.0.0:8443 --data-dir /var/lib/pureboot \\\n    --tls-cert-file cert.pem --tls-key-file key.pem",
    example = "{command_name} site ls --url https://boot.example.org --token-file token",
    note = "site, group, node, workflow, template, content, plugin, secret, audit, agent and conflict ask a running controller, from any machine; \
            serve, user, token, backup and restore work on a database, on the controller's own machine.",
    error_code(1, "it could not be done, or the controller refused it"),
    error_code(2, "the arguments are wrong")
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
    Backup(BackupArguments),
    Restore(RestoreArguments),
    Site(SiteArguments),
    Group(GroupArguments),
    Node(NodeArguments),
    Workflow(WorkflowArguments),
    Template(TemplateArguments),
    Content(ContentArguments),
    Plugin(PluginArguments),
    Secret(SecretArguments),
    Audit(AuditArguments),
    Agent(AgentArguments),
    Conflict(ConflictArguments),
}

/// Arguments that cannot be meant. Whoever typed them reads this text.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(String);

impl UsageError {
    pub(crate) fn new(text: impl ToString) -> Self {
        Self(text.to_string())
    }
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

    /// address and port where monitoring reads /metrics, /healthz and /readyz without a credential and without TLS, for an
    /// address that only it can reach (default: none; /metrics of --listen wants a viewer's token)
    #[argh(option)]
    metrics_listen: Option<SocketAddr>,

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

    /// where content is kept: a directory, or s3://BUCKET/PREFIX with AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment (default: DATA-DIR/content); the place belongs to this database alone, what the database does not know is deleted after a day
    #[argh(option)]
    content: Option<ContentPlace>,

    /// the largest file that may be uploaded, in units of 10^9 bytes (default: 64)
    #[argh(option, default = "64")]
    content_file_max_gb: u32,

    /// the largest component of a plugin that is compiled, in MiB; Python's have 18 (default: 4)
    #[argh(option, default = "4")]
    plugin_max_mb: u32,

    /// file of the key that manifests are signed with; made if no controller of this database has one yet, to be copied to the others (default: DATA-DIR/signing-key)
    #[argh(option)]
    signing_key_file: Option<PathBuf>,

    /// give up a signing key that is lost: every agent believes the new one only after it has joined again
    #[argh(switch)]
    replace_signing_key: bool,

    /// file of the key that the secrets of templates are sealed with; made if no controller of this database has one yet, to be copied to the others (default: DATA-DIR/secrets.key)
    #[argh(option)]
    secrets_key_file: Option<PathBuf>,

    /// give up a secrets' key that is lost, and every secret that was sealed with it
    #[argh(switch)]
    replace_secrets_key: bool,

    /// how the log on stderr is written: text or json (default: text); RUST_LOG chooses what is logged
    #[argh(option, default = "LogFormat::Text")]
    log_format: LogFormat,

    /// address, or addresses such as 10.0.0.0/8, of a reverse proxy whose X-Forwarded-For is believed, for limits by address
    /// and the audit; may be given several times (default: none is believed)
    #[argh(option)]
    trusted_proxy: Vec<Prefix>,

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
    #[argh(option, default = "KeptDays::default().audit")]
    audit_days: u32,

    /// days that a conflict is kept after its end (default: 400); one that waits for a person is kept as long as it waits
    #[argh(option, default = "KeptDays::default().conflicts")]
    conflict_days: u32,

    /// days that boot sessions are kept; of one machine at one site 50 at most (default: 90)
    #[argh(option, default = "KeptDays::default().boots")]
    boot_days: u32,
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
    /// Ask a running controller.
    Ask(Box<dyn Ask>),
    /// Write a backup.
    Backup(BackupArguments),
    /// Bring a backup back.
    Restore(RestoreArguments),
}

/// How the API is served.
#[derive(Debug)]
pub struct ServeConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where to listen for who reads metrics without a credential.
    pub metrics_listen: Option<SocketAddr>,
    /// Where the operator's token is.
    pub data_dir: PathBuf,
    /// Where the database is; none: in the data directory.
    pub database: Option<Database>,
    /// The certificate, for HTTPS.
    pub tls: Option<TlsFiles>,
    /// How content is kept.
    pub content: ContentConfig,
    /// The largest component of a plugin, in bytes.
    pub component_len_max: usize,
    /// The file of the key that secrets are sealed with.
    pub secrets_key_file: PathBuf,
    /// Whether a secrets' key that is lost is given up.
    pub replaces_secrets_key: bool,
    /// How the log is written.
    pub log_format: LogFormat,
    /// Proxies that are believed when they say where a request comes from.
    pub trusted_proxies: Vec<Prefix>,
    /// How much anybody may ask.
    pub limits: LimitConfig,
    /// How long what explains the past is kept.
    pub kept_days: KeptDays,
}

/// How content is kept, and what vouches for it.
#[derive(Debug)]
pub struct ContentConfig {
    /// Where its bytes are.
    pub place: ContentPlace,
    /// The largest file, in bytes.
    pub file_len_max: u64,
    /// The file of the signing key.
    pub signing_key_file: PathBuf,
    /// Whether a signing key that is lost is given up.
    pub replaces_signing_key: bool,
}

/// Where the bytes of content are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContentPlace {
    /// In a directory.
    Dir(PathBuf),
    /// In a bucket of a store that speaks S3.
    S3 {
        /// The bucket.
        bucket: String,
        /// What the keys begin with; may be empty.
        prefix: String,
    },
}

impl FromStr for ContentPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix("s3://") else {
            return match text.split_once("://") {
                Some((scheme, _)) => Err(format!("'{scheme}://' is neither s3:// nor a directory")),
                None if text.is_empty() => {
                    Err("expected a directory or s3://BUCKET/PREFIX".to_owned())
                }
                None => Ok(Self::Dir(text.into())),
            };
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(format!("'{text}' names no bucket: expected s3://BUCKET/PREFIX"));
        }
        let prefix = prefix.trim_matches('/').to_owned();
        Ok(Self::S3 { bucket: bucket.to_owned(), prefix })
    }
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
            Command::Backup(arguments) => return Ok(Self::Backup(arguments)),
            Command::Restore(arguments) => return Ok(Self::Restore(arguments)),
            Command::Site(arguments) => return Ok(Self::Ask(Box::new(arguments))),
            Command::Group(arguments) => return Ok(Self::Ask(Box::new(arguments))),
            Command::Node(arguments) => return Ok(Self::Ask(Box::new(arguments))),
            Command::Workflow(arguments) => return Ok(Self::Ask(Box::new(arguments))),
            Command::Template(arguments) => return Ok(Self::Ask(Box::new(arguments))),
            Command::Content(arguments) => return Ok(Self::Ask(Box::new(arguments))),
            Command::Plugin(arguments) => return Ok(Self::Ask(Box::new(arguments))),
            Command::Secret(arguments) => return Ok(Self::Ask(Box::new(arguments))),
            Command::Audit(arguments) => return Ok(Self::Ask(Box::new(arguments))),
            Command::Agent(arguments) => return Ok(Self::Ask(Box::new(arguments))),
            Command::Conflict(arguments) => return Ok(Self::Ask(Box::new(arguments))),
            Command::Serve(serve) => serve,
        };
        let refused = |text| Err(UsageError::new(text).into());
        let kept_days = KeptDays {
            audit: serve.audit_days,
            conflicts: serve.conflict_days,
            boots: serve.boot_days,
        };
        let KeptDays { audit, conflicts, boots } = kept_days;
        for (flag, days) in
            [("--audit-days", audit), ("--conflict-days", conflicts), ("--boot-days", boots)]
        {
            if days == 0 {
                let text = format!("{flag} 0 would forget everything; keep at least 1 day");
                return Err(UsageError::new(text).into());
            }
        }
        let tls = match (serve.tls_cert_file, serve.tls_key_file) {
            (Some(cert_file), Some(key_file)) => Some(TlsFiles { cert_file, key_file }),
            (None, None) => None,
            (Some(_), None) => return refused("--tls-cert-file needs --tls-key-file beside it"),
            (None, Some(_)) => return refused("--tls-key-file needs --tls-cert-file beside it"),
        };
        if serve.content_file_max_gb == 0 {
            return refused("--content-file-max-gb must be at least 1");
        }
        if !(1..=PLUGIN_MAX_MB).contains(&serve.plugin_max_mb) {
            return refused("--plugin-max-mb must be 1 to 32");
        }
        let component_len_max = usize::try_from(serve.plugin_max_mb).unwrap_or(1) << 20;
        let in_data_dir = |name| serve.data_dir.join(name);
        let secrets_key_file = serve.secrets_key_file.unwrap_or_else(|| in_data_dir("secrets.key"));
        let content = ContentConfig {
            place: serve.content.unwrap_or_else(|| ContentPlace::Dir(in_data_dir("content"))),
            file_len_max: u64::from(serve.content_file_max_gb) * 1_000_000_000,
            signing_key_file: serve.signing_key_file.unwrap_or_else(|| in_data_dir("signing-key")),
            replaces_signing_key: serve.replace_signing_key,
        };
        Ok(Self::Serve(ServeConfig {
            listen: serve.listen,
            metrics_listen: serve.metrics_listen,
            data_dir: serve.data_dir,
            database: database(serve.database.as_deref())?,
            tls,
            content,
            component_len_max,
            secrets_key_file,
            replaces_secrets_key: serve.replace_secrets_key,
            log_format: serve.log_format,
            trusted_proxies: serve.trusted_proxy,
            limits: LimitConfig {
                per_credential: serve.rate_per_credential,
                per_address: serve.rate_per_address,
                failures: serve.failures_per_minute,
            },
            kept_days,
        }))
    }
}

/// Every command with its verb, as the help lists them.
#[cfg(test)]
pub(crate) fn verbs() -> Vec<String> {
    let mut commands = tests::below(&[]);
    for noun in commands.clone() {
        commands.extend(tests::below(&[&noun]).iter().map(|verb| format!("{noun} {verb}")));
    }
    commands
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
        assert_eq!((serve.limits, serve.kept_days), (LimitConfig::default(), KeptDays::default()));
        assert_eq!(serve.content.place, ContentPlace::Dir("/d/content".into()));
        assert_eq!(serve.content.file_len_max, 64_000_000_000);
        assert_eq!(serve.content.signing_key_file, PathBuf::from("/d/signing-key"));
        assert_eq!(serve.secrets_key_file, PathBuf::from("/d/secrets.key"));
    }

    /// The commands below `command`, as its help lists them.
    pub(super) fn below(command: &[&str]) -> Vec<String> {
        let help = help(command);
        let commands = help.split_once("\nCommands:\n").map_or("", |(_, commands)| commands);
        let lines = commands.lines().take_while(|line| !line.is_empty());
        let names = lines.filter_map(|line| {
            line.strip_prefix("  ")?.split_whitespace().next().filter(|_| !line.starts_with("   "))
        });
        names.map(str::to_owned).collect()
    }

    fn help(command: &[&str]) -> String {
        let arguments = [command, &["--help"]].concat();
        let exit = Arguments::from_args(&["pureboot-controller"], &arguments).expect_err("help");
        assert_eq!(exit.status, Ok(()), "{command:?}: {}", exit.output);
        exit.output
    }

    #[test]
    fn every_command_that_asks_a_controller_has_an_example() {
        let nouns = below(&[]);
        assert!(nouns.contains(&"site".to_owned()) && nouns.len() == 16, "{nouns:?}");
        // These work on the controller's own machine.
        let nouns = nouns.iter().filter(|noun| {
            !["serve", "user", "token", "backup", "restore"].contains(&noun.as_str())
        });
        for noun in nouns {
            assert!(help(&[noun]).contains("\nExamples:\n"), "{noun}");
            for verb in below(&[noun]) {
                assert!(help(&[noun, &verb]).contains("\nExamples:\n"), "{noun} {verb}");
            }
        }
    }

    #[test]
    fn a_place_for_content_is_a_directory_or_a_bucket() {
        let bucket = |bucket: &str, prefix: &str| ContentPlace::S3 {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        };
        assert_eq!("s3://boot".parse(), Ok(bucket("boot", "")));
        assert_eq!("s3://boot/a/b/".parse(), Ok(bucket("boot", "a/b")));
        assert_eq!("/srv/content".parse(), Ok(ContentPlace::Dir("/srv/content".into())));
        for text in ["", "s3://", "s3:///a", "gs://boot"] {
            assert!(text.parse::<ContentPlace>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_cure() {
        for (arguments, expected) in [
            (&["serve"][..], "--data-dir"),
            (&["serve", "--data-dir", "/d", "--listen", "8000"], "--listen"),
            (&["serve", "--data-dir", "/d", "--content", "ftp://x"], "neither s3://"),
            (&["serve", "--data-dir", "/d", "--content-file-max-gb", "0"], "at least 1"),
            (&["serve", "--data-dir", "/d", "--plugin-max-mb", "33"], "1 to 32"),
            (&["serve", "--data-dir", "/d", "--log-format", "xml"], "none of text, json"),
            (&["serve", "--data-dir", "/d", "--trusted-proxy", "0.0.0.0/0"], "everybody"),
            (&["serve", "--data-dir", "/d", "--tls-cert-file", "c"], "--tls-key-file"),
            (&["serve", "--data-dir", "/d", "--tls-key-file", "k"], "--tls-cert-file"),
            (&[], "serve"),
            (&["serve", "--data-dir", "/d", "--audit-days", "0"], "--audit-days"),
            (&["serve", "--data-dir", "/d", "--conflict-days", "0"], "--conflict-days"),
            (&["serve", "--data-dir", "/d", "--boot-days", "0"], "--boot-days"),
            (&["user", "add", "ada", "--role", "root", "--data-dir", "/d"], "none of viewer"),
            (&["token", "new", "--scope", "all", "--data-dir", "/d"], "none of read"),
            (&["token"], "revoke"),
        ] {
            let error = config(arguments).expect_err("refused");
            assert!(error.contains(expected), "{arguments:?}: {error}");
        }
    }
}
