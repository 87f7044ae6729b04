//! Programs that end when their owner does.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{postgres, wait};

/// The longest part of a program's log that is shown when a test fails, in bytes.
const LOG_TAIL_LEN_MAX: usize = 6_000;

/// The longest that a program which was told to end may take before the test fails.
const END_LIMIT: Duration = Duration::from_secs(10);

thread_local! {
    /// What the programs that this thread ended had written to standard error.
    static LOGS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Takes the logs of all programs that have ended in this thread since the last call.
pub fn take_logs() -> Vec<String> {
    LOGS.take()
}

/// Adds logs that another thread took.
pub(crate) fn keep_logs(more: Vec<String>) {
    LOGS.with_borrow_mut(|logs| logs.extend(more));
}

/// One of the workspace's own programs, as cargo put it beside the one that runs.
///
/// # Errors
/// It has not been built.
pub fn own(name: &str) -> Result<PathBuf> {
    let me = std::env::current_exe().context("cannot tell which program runs")?;
    // Tests run from `target/<profile>/deps`, programs from `target/<profile>`.
    let found =
        me.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "{name} is not beside {}: build it with `cargo build --workspace`, or use `cargo xtask test`",
            me.display()
        )
    })
}

/// The full path of a program of the system.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let dirs = std::env::split_paths(&path).chain(sbin).chain(postgres::program_dirs());
    dirs.map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// A command for a program of the system.
///
/// # Errors
/// It is not installed.
pub fn system(name: &str) -> Result<Command> {
    Ok(Command::new(find(name).with_context(|| format!("{name} is not installed"))?))
}

/// Runs a command to its end.
///
/// # Errors
/// It cannot be started, or does not end within `limit`.
pub fn output(mut command: Command, limit: Duration) -> Result<Output> {
    let what = format!("{command:?}");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().with_context(|| format!("cannot start {what}"))?;
    let pid = child.id();
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || _ = sender.send(child.wait_with_output()));
    match ended.recv_timeout(limit) {
        Ok(output) => output.with_context(|| format!("cannot wait for {what}")),
        Err(_) => {
            send(pid, Signal::SIGKILL)?;
            bail!("{what} did not end within {} s", limit.as_secs())
        }
    }
}

/// Runs a command that must succeed and returns what it printed.
///
/// # Errors
/// It cannot be started, takes longer than a minute, or fails; then its own words are told.
pub fn succeed(command: Command) -> Result<String> {
    let what = format!("{command:?}");
    let output = output(command, Duration::from_secs(60))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{what} ended with {}: {said}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(said)
}

fn send(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).context("a process id beyond 2^31")?;
    kill(Pid::from_raw(pid), signal).with_context(|| format!("cannot send {signal} to {pid}"))
}

/// A running program: killed and reaped when it is dropped, its standard error kept for [`take_logs`].
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    lines: Receiver<String>,
    log: PathBuf,
}

impl Program {
    /// Starts `command` with its standard error in a new file in `dir`.
    ///
    /// # Errors
    /// The file cannot be made or the program not be started.
    pub fn spawn(name: &str, mut command: Command, dir: &Path) -> Result<Self> {
        let log = (0..)
            .map(|number| dir.join(format!("{name}.{number}.log")))
            .find(|path| !path.exists())
            .context("no name left for a log")?;
        let stderr =
            File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let stdout = child.stdout.take().context("standard output is piped")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            // Read to the end even when nobody listens, or the program would block on a full pipe.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                _ = sender.send(line);
            }
        });
        Ok(Self { name: name.to_owned(), child, lines, log })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it has written to standard error so far.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    /// Waits for a line on standard output that begins with `prefix`, and returns the rest of it.
    ///
    /// # Errors
    /// The program ends or `limit` passes before that.
    pub fn line(&self, prefix: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            let name = &self.name;
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(rest) = line.strip_prefix(prefix) {
                        return Ok(rest.to_owned());
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("{name} ended before it printed '{prefix}…': {}", self.log().trim())
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{name} did not print '{prefix}…' within {} s", limit.as_secs())
                }
            }
        }
    }

    /// Whether it has not ended yet.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        send(self.pid(), signal)
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// `limit` passes before that.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} ends", self.name);
        wait::until(&what, limit, || Ok(self.child.try_wait()?))
    }

    /// Sends SIGTERM and waits for the end; returns how it ended and how long that took.
    ///
    /// # Errors
    /// It does not end.
    pub fn terminate(&mut self) -> Result<(ExitStatus, Duration)> {
        let started = Instant::now();
        self.signal(Signal::SIGTERM)?;
        let status = self.wait(END_LIMIT)?;
        Ok((status, started.elapsed()))
    }

    /// Kills it as a power cut would and waits for the end.
    ///
    /// # Errors
    /// It does not end.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait(END_LIMIT).map(|_| ())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself: then there is nothing to kill.
        _ = self.child.kill();
        let end = self.child.wait().map_or_else(|error| error.to_string(), |end| end.to_string());
        let log = self.log();
        let from = log.ceil_char_boundary(log.len().saturating_sub(LOG_TAIL_LEN_MAX));
        let tail = log.get(from..).unwrap_or_default().trim();
        keep_logs(vec![format!("--- {} ended with {end}; its log:\n{tail}", self.name)]);
    }
}
