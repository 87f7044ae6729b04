//! What systemd wants to hear of a service of `Type=notify` (sd_notify(3)): a datagram once it serves, and another one now and
//! then, so that it is started again when it hangs. Elsewhere nobody listens, and nothing is said.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::future;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use anyhow::Context as _;
use smol::Timer;

/// Says how the agent is to whoever has started it.
#[derive(Debug, Default)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    /// How often it has to be heard of.
    watchdog: Option<Duration>,
}

impl Notifier {
    /// The one that the environment names, connected now: inside the cage there is no way to it any more.
    ///
    /// # Errors
    /// It is named and cannot be reached.
    pub fn from_environment() -> anyhow::Result<Self> {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Ok(Self::default());
        };
        let connect = || {
            let socket = UnixDatagram::unbound()?;
            socket.connect_addr(&address(&name)?)?;
            // What does not fit in at once is not worth waiting for.
            socket.set_nonblocking(true)?;
            Ok::<_, io::Error>(socket)
        };
        let socket = connect()
            .with_context(|| format!("cannot reach NOTIFY_SOCKET {}", name.to_string_lossy()))?;
        let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
        let is_meant =
            number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|_| is_meant).map(Duration::from_micros);
        Ok(Self { socket: Some(socket), watchdog })
    }

    /// Machines are served from now on.
    pub fn ready(&self) {
        self.say("READY=1\nSTATUS=serving machines\n");
    }

    /// The end has begun.
    pub fn stopping(&self) {
        self.say("STOPPING=1\n");
    }

    /// Says that the executor turns, twice as often as it has to be heard of; for ever.
    pub async fn keep_alive(&self) -> Infallible {
        let Some(watchdog) = self.watchdog.filter(|watchdog| !watchdog.is_zero()) else {
            return future::pending().await;
        };
        loop {
            self.say("WATCHDOG=1\n");
            Timer::after(watchdog / 2).await;
        }
    }

    fn say(&self, words: &str) {
        if let Some(Err(error)) = self.socket.as_ref().map(|socket| socket.send(words.as_bytes())) {
            log::debug!(error:%; "the service manager does not hear");
        }
    }
}

/// A path, or `@` and a name that is no file.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_manager_hears_by_path_and_by_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let name = format!("@pureboot-{}", std::process::id());
        for name in [path.as_os_str(), OsStr::new(&name)] {
            let address = address(name).expect("an address");
            let manager = UnixDatagram::bind_addr(&address).expect("bound");
            let socket = UnixDatagram::unbound().expect("a socket");
            socket.connect_addr(&address).expect("connected");
            Notifier { socket: Some(socket), watchdog: None }.ready();
            let mut words = [0; 64];
            let len = manager.recv(&mut words).expect("a datagram");
            assert!(words[..len].starts_with(b"READY=1\n"));
        }
    }
}
