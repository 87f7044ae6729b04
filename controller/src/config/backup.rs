//! `backup` and `restore`.

use std::path::PathBuf;

use argh::FromArgs;

use crate::config::ContentPlace;

/// Write all that the controller keeps into one file, also while it runs.
///
/// The file holds the database, the signing key, the key of the secrets and the content. It can be restored into SQLite or
/// PostgreSQL, whichever it came from. Whoever has it can do what the controller can: keep it safe.
#[derive(Debug, FromArgs)]
#[argh(
    subcommand,
    name = "backup",
    example = "{command_name} /srv/backup/pureboot.tar --data-dir /var/lib/pureboot"
)]
pub struct BackupArguments {
    /// the file to write
    #[argh(positional)]
    pub(crate) file: PathBuf,

    /// replace the file if it is there; it stays whole until the new one is
    #[argh(switch)]
    pub(crate) force: bool,

    /// leave the bytes of content out, where their place has a backup of its own
    #[argh(switch)]
    pub(crate) without_content: bool,

    /// the controller's data directory; the controller may be running
    #[argh(option)]
    pub(crate) data_dir: PathBuf,

    /// where the database is, as for serve
    #[argh(option)]
    pub(crate) database: Option<String>,

    /// where content is kept, as for serve
    #[argh(option)]
    pub(crate) content: Option<ContentPlace>,

    /// file of the signing key, as for serve
    #[argh(option)]
    pub(crate) signing_key_file: Option<PathBuf>,

    /// file of the key of the secrets, as for serve
    #[argh(option)]
    pub(crate) secrets_key_file: Option<PathBuf>,
}

/// Bring back what a backup holds. The controller must not be running.
///
/// The file is checked to its last byte before anything is touched. Agents of sites go on by themselves; people sign in
/// again, and tokens with which agents join are made anew.
#[derive(Debug, FromArgs)]
#[argh(
    subcommand,
    name = "restore",
    example = "{command_name} /srv/backup/pureboot.tar --data-dir /var/lib/pureboot"
)]
pub struct RestoreArguments {
    /// the file that `backup` wrote
    #[argh(positional)]
    pub(crate) file: PathBuf,

    /// replace the database and the keys that are there
    #[argh(switch)]
    pub(crate) force: bool,

    /// only check the file
    #[argh(switch)]
    pub(crate) check: bool,

    /// the controller's data directory; made if it is not there
    #[argh(option)]
    pub(crate) data_dir: PathBuf,

    /// where the database is to be, as for serve
    #[argh(option)]
    pub(crate) database: Option<String>,

    /// where content is to be kept, as for serve
    #[argh(option)]
    pub(crate) content: Option<ContentPlace>,

    /// file for the signing key, as for serve
    #[argh(option)]
    pub(crate) signing_key_file: Option<PathBuf>,

    /// file for the key of the secrets, as for serve
    #[argh(option)]
    pub(crate) secrets_key_file: Option<PathBuf>,
}
