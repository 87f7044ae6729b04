//! A network of its own for one test: a namespace with a bridge that stands for the site's LAN.

use std::fs::File;
use std::net::Ipv4Addr;
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use crate::process;

/// The address of the site's box on its LAN.
pub const BOX_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 73, 0, 1);

/// A network namespace with the bridge `lan`; gone when it is dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

fn ip(arguments: &str) -> Result<()> {
    let mut command = process::system("ip")?;
    command.args(arguments.split(' '));
    process::succeed(command).map(|_| ())
}

impl Namespace {
    /// Makes a namespace with a random name; its loopback and its bridge are up.
    ///
    /// # Errors
    /// This needs root.
    pub fn new() -> Result<Self> {
        let name = format!("pureboot-{:08x}", crate::random() >> 32);
        ip(&format!("netns add {name}"))?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        namespace.ip("link add lan type bridge")?;
        namespace.ip(&format!("addr add {BOX_ADDRESS}/24 dev lan"))?;
        namespace.ip("link set lan up")?;
        Ok(namespace)
    }

    /// Runs `ip` inside.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        ip(&format!("-netns {} {arguments}", self.name))
    }

    /// Plugs a new tap device into the bridge.
    ///
    /// # Errors
    /// There is no /dev/net/tun, or the name is taken.
    pub fn add_tap(&self, tap: &str) -> Result<()> {
        self.ip(&format!("tuntap add dev {tap} mode tap"))?;
        self.ip(&format!("link set {tap} master lan up"))
    }

    /// Puts another host on the LAN: a namespace of its own whose only interface, `eth0`, has `address`.
    ///
    /// # Errors
    /// This needs root.
    pub fn add_host(&self, address: Ipv4Addr) -> Result<Self> {
        let name = format!("pureboot-{:08x}", crate::random() >> 32);
        ip(&format!("netns add {name}"))?;
        let host = Self { name };
        let port = format!("to-{:08x}", crate::random() >> 32);
        self.ip(&format!("link add {port} type veth peer name eth0 netns {}", host.name))?;
        self.ip(&format!("link set {port} master lan up"))?;
        host.ip(&format!("addr add {address}/24 dev eth0"))?;
        host.ip("link set eth0 up")?;
        Ok(host)
    }

    /// Runs `inside` in the namespace, and so every socket and every program that it makes.
    ///
    /// # Errors
    /// The namespace cannot be entered, or `inside` fails.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = format!("/run/netns/{}", self.name);
        let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        // A thread of its own: setns moves the calling thread and nothing else, and the thread ends with the visit.
        let (outcome, logs) = thread::scope(|scope| {
            let visit = scope.spawn(|| {
                let outcome = setns(&file, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("cannot enter {path}"))
                    .and_then(|()| inside());
                (outcome, process::take_logs())
            });
            visit.join().map_err(|_| anyhow!("the visit to {path} panicked"))
        })?;
        process::keep_logs(logs);
        outcome
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Nothing can be done about a failure here, and the name is random.
        _ = ip(&format!("netns delete {}", self.name));
    }
}
