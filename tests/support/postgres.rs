//! A PostgreSQL server for the time of a test: in a directory of its own, on a socket that only its owner reaches.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use nix::unistd::{User, chown, geteuid};
use tempfile::TempDir;

use crate::process::{self, Program};
use crate::wait;

/// The program that makes a server's files, by which it is known whether there can be one.
pub const INITDB: &str = "initdb";

/// The user and the database.
const NAME: &str = "pureboot";
/// What the server may take until it answers, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(30);
/// What it may take to end.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Where Debian keeps the programs of its versions, the latest first; they are not on the PATH.
pub(crate) fn program_dirs() -> Vec<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut dirs: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
    dirs.sort();
    dirs.reverse();
    dirs
}

/// A server with an empty database.
#[derive(Debug)]
pub struct Postgres {
    program: Program,
    dir: TempDir,
}

impl Postgres {
    /// Makes the files, starts it, and makes the database. Its order of letters is one of people, not of bytes, so that a
    /// query which leaves the order to chance is found out.
    ///
    /// # Errors
    /// It is not installed, or does not come up.
    pub fn start() -> Result<Self> {
        // What a crash of the machine would leave is not what is tested.
        Self::start_with(&["-c", "fsync=off"])
    }

    /// As [`Postgres::start`], with a server that has written to the disk what it answers, as in real life.
    ///
    /// # Errors
    /// It is not installed, or does not come up.
    pub fn start_durable() -> Result<Self> {
        Self::start_with(&[])
    }

    fn start_with(options: &[&str]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("pureboot-pg-").tempdir()?;
        let owner = owner()?;
        if let Some(owner) = &owner {
            chown(dir.path(), Some(owner.uid), Some(owner.gid))
                .context("cannot give it a directory")?;
        }
        let data = dir.path().join("data");
        let mut initdb = command(INITDB, owner.as_ref(), dir.path())?;
        initdb.args(["--username", NAME, "--auth", "trust", "--encoding", "UTF8", "--no-sync"]);
        initdb.args(["--locale", "C.UTF-8", "--locale-provider", "icu", "--icu-locale", "en-US"]);
        process::succeed({
            initdb.arg("--pgdata").arg(&data);
            initdb
        })?;
        let mut server = command("postgres", owner.as_ref(), dir.path())?;
        server.arg("-D").arg(&data).args(["-c", "listen_addresses=", "-c", "max_connections=200"]);
        server.args(options).arg("-c");
        server.arg(format!("unix_socket_directories={}", dir.path().display()));
        let program = Program::spawn("postgres", server, dir.path())?;
        let server = Self { program, dir };
        wait::until("PostgreSQL answers", START_LIMIT, || {
            server.ask("postgres", "SELECT 1").map(Some)
        })?;
        server.ask("postgres", &format!("CREATE DATABASE {NAME}"))?;
        Ok(server)
    }

    /// The database as `--database` takes it.
    pub fn url(&self) -> String {
        let socket: String =
            self.dir.path().to_string_lossy().bytes().map(|byte| format!("%{byte:02X}")).collect();
        format!("postgres://{NAME}@localhost/{NAME}?host={socket}")
    }

    /// Runs a statement; returns its rows, columns with `|` between them.
    ///
    /// # Errors
    /// The server refuses it.
    pub fn sql(&self, statement: &str) -> Result<String> {
        self.ask(NAME, statement)
    }

    fn ask(&self, database: &str, statement: &str) -> Result<String> {
        let mut psql = process::system("psql")?;
        psql.arg("--host").arg(self.dir.path()).args(["--username", NAME, "--dbname", database]);
        psql.args(["--no-psqlrc", "--no-align", "--tuples-only", "--command", statement]);
        Ok(process::succeed(psql)?.trim().to_owned())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // An orderly end gives the system's shared memory back; if it fails, the program is killed when it is dropped.
        _ = self.program.signal(Signal::SIGINT).and_then(|()| self.program.wait(END_LIMIT));
    }
}

/// Whom the server runs as: it refuses to be root.
fn owner() -> Result<Option<User>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name).context("cannot look up a user")? {
            return Ok(Some(user));
        }
    }
    anyhow::bail!(
        "PostgreSQL does not run as root, and there is neither a user postgres nor nobody"
    )
}

fn command(program: &str, owner: Option<&User>, dir: &Path) -> Result<Command> {
    let mut command = process::system(program)?;
    // Where it is started from may be closed to its user.
    command.current_dir(dir);
    if let Some(owner) = owner {
        command.uid(owner.uid.as_raw()).gid(owner.gid.as_raw());
    }
    Ok(command)
}
