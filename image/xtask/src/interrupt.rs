//! Ctrl-C as an event, so that programs are ended and directories removed on the way out.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal};

/// Catches SIGINT, SIGTERM and SIGHUP from its making on.
#[derive(Debug)]
pub(crate) struct Interrupt {
    caught: Receiver<Signal>,
}

impl Interrupt {
    /// Starts catching. Programs started later do not inherit this: the standard library clears the mask for them.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) fn catch() -> Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            set.add(signal);
        }
        // Blocked before any other thread exists, so that all inherit it.
        set.thread_block().context("cannot block signals")?;
        let (sender, caught) = mpsc::channel();
        thread::spawn(move || {
            if let Ok(signal) = set.wait() {
                _ = sender.send(signal);
            }
        });
        Ok(Self { caught })
    }

    /// Ends the story where it is when a signal has come.
    ///
    /// # Errors
    /// A signal has come.
    pub(crate) fn check(&self) -> Result<()> {
        match self.caught.try_recv() {
            Ok(signal) => bail!("interrupted by {signal}"),
            Err(_) => Ok(()),
        }
    }

    /// Waits up to `limit` for a signal; returns whether one came.
    pub(crate) fn wait(&self, limit: Duration) -> bool {
        !matches!(self.caught.recv_timeout(limit), Err(RecvTimeoutError::Timeout))
    }
}
