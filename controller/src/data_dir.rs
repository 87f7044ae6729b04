//! The data directory: the lock that keeps a second controller out, the database's place, the operator's token file.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use pureboot_protocol::{Secret, Timestamp};

use crate::auth::rank::Rank;
use crate::auth::{self, token};
use crate::config::Database;
use crate::random;
use crate::store::{NewToken, Store};
use crate::vault::KEY_LEN;

/// The file in the data directory that keeps the operator's token.
pub(crate) const TOKEN_FILE: &str = "operator-token";
/// More than a token or a key has, in bytes.
const SECRET_LEN_MAX: u64 = 128;

/// An operator's token, on its way to the screen.
#[derive(Debug)]
pub(crate) struct OperatorToken {
    /// The token.
    pub(crate) secret: Secret,
    /// Where it is kept.
    pub(crate) file: PathBuf,
}

/// Where the controller keeps what is its own.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
}

impl DataDir {
    /// The directory at `path`, made for the owner alone if it is not there.
    ///
    /// # Errors
    /// It cannot be made, or others than its owner can read or change it.
    pub(crate) fn make(path: &Path) -> anyhow::Result<Self> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.with_context(|| format!("cannot make the data directory {}", path.display()))?;
        let metadata = std::fs::metadata(path);
        let metadata = metadata
            .with_context(|| format!("cannot look at the data directory {}", path.display()))?;
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            bail!(
                "{} has mode {mode:o}, so others could read or change what the controller keeps: chmod 700 it",
                path.display()
            );
        }
        Ok(Self { path: path.to_owned() })
    }

    /// The directory at `path`, whose database must be there.
    ///
    /// # Errors
    /// It is not.
    pub(crate) fn existing(path: &Path, database: Option<&Database>) -> anyhow::Result<Self> {
        let data_dir = Self { path: path.to_owned() };
        let file = match database {
            Some(Database::File(file)) => file.clone(),
            Some(Database::Server(_)) | None => data_dir.file("controller.db"),
        };
        if !file.is_file() {
            bail!("there is no database {}; `pureboot-controller serve` makes one", file.display());
        }
        Ok(data_dir)
    }

    /// Keeps every other controller out for as long as the file lives.
    ///
    /// # Errors
    /// Another controller runs on this directory.
    pub(crate) fn lock(&self) -> anyhow::Result<File> {
        let path = self.file("controller.lock");
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => bail!(
                "another controller runs on {}; stop it, or give this one another --data-dir",
                self.path.display()
            ),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }

    /// The database `named`, or else the one in this directory. A file that is not there is made for the owner alone; SQLite
    /// gives its other files the same mode.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn database(&self, named: Option<&Database>) -> anyhow::Result<Database> {
        let path = match named {
            Some(Database::Server(url)) => return Ok(Database::Server(url.clone())),
            Some(Database::File(path)) => path.clone(),
            None => self.file("controller.db"),
        };
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        file.with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Database::File(path))
    }

    /// The operator's token of a first start, which is to be shown; none at later starts.
    ///
    /// # Errors
    /// It cannot be kept, or the file that keeps it can be read by others.
    pub(crate) async fn first_token(
        &self,
        store: &Store,
        now: Timestamp,
    ) -> anyhow::Result<Option<OperatorToken>> {
        let file = self.file(TOKEN_FILE);
        let kept = private_text(&file)?.filter(|secret| token::is_whole(secret.reveal()));
        if store.has_token().await? {
            if kept.is_none() {
                let (file, dir) = (file.display(), self.path.display());
                tracing::warn!(
                    "{file} is gone; `pureboot-controller token new --role admin --data-dir {dir}` makes another token"
                );
            }
            return Ok(None);
        }
        // A file without a row is what a first start leaves that was cut short between the two.
        let secret = match kept {
            Some(secret) => secret,
            None => keep(&file, &token::secret())?,
        };
        let token = NewToken {
            hash: auth::hash(&secret),
            name: TOKEN_FILE.to_owned(),
            user: None,
            role: Rank::Admin,
            scopes: None,
            expires_at: None,
        };
        store.create_token(token, now).await?;
        Ok(Some(OperatorToken { secret, file }))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// The secret in the file at `path`, if there is one.
///
/// # Errors
/// It is no regular file, others can read it, or nobody can.
pub(crate) fn private_text(path: &Path) -> anyhow::Result<Option<Secret>> {
    let metadata = match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        metadata => metadata.with_context(|| format!("cannot look at {}", path.display()))?,
    };
    if !metadata.is_file() {
        bail!("{} is not a regular file; move it away", path.display());
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        bail!("{0} can be read by others; `chmod 600 {0}`", path.display());
    }
    let mut text = String::new();
    let read =
        File::open(path).and_then(|file| file.take(SECRET_LEN_MAX).read_to_string(&mut text));
    read.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Some(Secret::new(text.trim().to_owned())))
}

/// Puts `secret` into the file, whole or not at all, and never readable by others.
fn keep(path: &Path, secret: &Secret) -> anyhow::Result<Secret> {
    let new = path.with_added_extension("new");
    let write = || -> io::Result<()> {
        // What a start that was cut short has left.
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        writeln!(file, "{}", secret.reveal())?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        File::open(dir.unwrap_or(Path::new(".")))?.sync_all()
    };
    write().with_context(|| format!("cannot keep a secret in {}", path.display()))?;
    Ok(secret.clone())
}

/// The key that seals the secrets of templates, in a file of its own.
pub(crate) mod secrets_key {
    use super::*;

    /// The key in `path`; none if there is no such file.
    ///
    /// # Errors
    /// It cannot be read, others can read it too, or it is damaged.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Option<[u8; KEY_LEN]>> {
        private_text(path)?.map(|secret| parse(path, &secret)).transpose()
    }

    /// Makes a key and keeps it in `path`.
    ///
    /// # Errors
    /// It cannot be kept.
    pub(crate) fn make(path: &Path) -> anyhow::Result<[u8; KEY_LEN]> {
        parse(path, &keep(path, &Secret::from_random(random::bytes()))?)
    }

    fn parse(path: &Path, secret: &Secret) -> anyhow::Result<[u8; KEY_LEN]> {
        let digits = secret.reveal().as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let key: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
        key.and_then(|key| key.try_into().ok()).with_context(|| {
            let digits = 2 * KEY_LEN;
            format!("{} does not hold a key of {digits} digits; restore it", path.display())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Caller;
    use crate::callers::Callers;
    use crate::store::testing::database;

    fn now() -> Timestamp {
        Timestamp::from_unix_ms(1_000)
    }

    fn private_dir() -> tempfile::TempDir {
        let only_mine = std::fs::Permissions::from_mode(0o700);
        tempfile::Builder::new().permissions(only_mine).tempdir().expect("a directory")
    }

    async fn opened(path: &Path) -> (DataDir, Store) {
        let data_dir = DataDir::make(path).expect("a directory");
        let store = Store::open(&database(path).await).await.expect("a database");
        (data_dir, store)
    }

    #[test]
    fn a_key_is_made_once_and_a_damaged_one_is_not_replaced() {
        let dir = private_dir();
        let file = dir.path().join("secrets.key");
        assert_eq!(secrets_key::load(&file).expect("nothing is wrong"), None);
        let key = secrets_key::make(&file).expect("a key");
        assert_eq!(secrets_key::load(&file).expect("readable"), Some(key));
        assert_ne!(key, [0; KEY_LEN]);
        let mode = file.metadata().expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(&file, "cut short").expect("written");
        assert!(secrets_key::load(&file).is_err());
    }

    #[tokio::test]
    async fn the_first_start_makes_a_token_for_the_owner_alone_and_later_ones_do_not() {
        let dir = private_dir();
        let (data_dir, store) = opened(&dir.path().join("data")).await;
        let token = data_dir.first_token(&store, now()).await.expect("kept").expect("a token");
        let mode = token.file.metadata().expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let kept = std::fs::read_to_string(&token.file).expect("readable");
        assert_eq!(kept.trim(), token.secret.reveal());
        let caller = Callers::start(store.clone())
            .find(auth::hash(&token.secret), now())
            .await
            .expect("an answer");
        let Some(Caller::Operator(operator)) = caller else { panic!("{caller:?}") };
        assert_eq!((operator.rank, operator.user), (Rank::Admin, None));
        assert!(data_dir.first_token(&store, now()).await.expect("fine").is_none());
        std::fs::remove_file(&token.file).expect("lost");
        assert!(data_dir.first_token(&store, now()).await.expect("fine").is_none());
    }

    #[tokio::test]
    async fn k8_a_first_start_that_was_cut_short_is_completed_with_the_token_that_it_kept() {
        let dir = private_dir();
        let (data_dir, store) = opened(dir.path()).await;
        let secret = keep(&data_dir.file(TOKEN_FILE), &Secret::from_random([7; 32])).expect("kept");
        let token = data_dir.first_token(&store, now()).await.expect("kept").expect("a token");
        assert_eq!(token.secret, secret);
        assert!(store.has_token().await.expect("an answer"));
    }

    #[tokio::test]
    async fn a11_a_token_that_others_can_read_is_refused() {
        let dir = private_dir();
        let (data_dir, store) = opened(dir.path()).await;
        let token = data_dir.first_token(&store, now()).await.expect("kept").expect("a token");
        let open = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(&token.file, open).expect("changed");
        let error = data_dir.first_token(&store, now()).await.expect_err("refused");
        assert!(error.to_string().contains("chmod 600"), "{error}");
        std::fs::remove_file(&token.file).expect("removed");
        std::os::unix::fs::symlink("/dev/null", &token.file).expect("planted");
        assert!(data_dir.first_token(&store, now()).await.is_err());
    }

    #[test]
    fn d16_a_second_controller_on_the_same_directory_is_refused() {
        let dir = private_dir();
        let data_dir = DataDir::make(dir.path()).expect("a directory");
        let lock = data_dir.lock().expect("the first one gets it");
        let error = data_dir.lock().expect_err("the second one does not");
        assert!(error.to_string().contains("another controller runs on"), "{error}");
        drop(lock);
        assert!(data_dir.lock().is_ok());
    }

    #[test]
    fn a11_a_directory_that_others_can_reach_is_refused() {
        let dir = private_dir();
        DataDir::make(dir.path()).expect("the owner's alone");
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(dir.path(), open).expect("the owner may");
        let error = DataDir::make(dir.path()).expect_err("open to all").to_string();
        assert!(error.contains("has mode 777") && error.contains("chmod 700"), "{error}");
    }
}
