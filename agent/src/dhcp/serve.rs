//! The sockets of ProxyDHCP: one on port 67 and one on port 4011 for each interface that the configuration names.
//!
//! Each is bound to its device, so that a broadcast leaves on the right link even where the host has no default route. One
//! task owns the [`Answerer`] and takes one datagram at a time.

use std::future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::ifaddrs;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{setsockopt, sockopt};
use pureboot_protocol::Mac;
use smol::channel::Receiver;
use smol::future::FutureExt;
use smol::stream::StreamExt;
use smol::{Async, Timer};
use socket2::{Domain, Protocol, Socket, Type};

use super::answer::{Answerer, Arrival, Port, Reason, Reply, Silence};
use super::interfaces;
use super::packet::{ParseError, Request};
use super::quirks::Lesson;
use crate::clock;

/// The longest datagram that is read whole. Firmware sends less than 1,500 bytes; of a longer one the last options are lost.
const DATAGRAM_LEN_MAX: usize = 2_048;
/// What waits in the kernel when 1,000 machines are switched on in one moment; a datagram takes about 1 KB there.
const RECEIVE_BUFFER_LEN: usize = 1 << 20;
/// How long an interface's address is believed.
const ADDRESS_LIFETIME: Duration = Duration::from_secs(1);
/// How often the interfaces are looked at: a network that is configured anew may have made one again under the same name, and
/// a socket stays bound to the one that is gone.
const INTERFACE_CHECK: Duration = Duration::from_secs(5);
/// The pause after a failed read: a link that is down fails again at once.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Something that happened. Whoever keeps boot sessions, lessons or statistics hears of it here.
#[derive(Debug)]
pub enum Event<'a> {
    /// A machine was told what to load.
    Answered {
        /// On this interface.
        interface: &'a str,
        /// On this port.
        port: Port,
        /// With this.
        reply: &'a Reply,
    },
    /// An answer could not be sent.
    Unsent {
        /// On this interface.
        interface: &'a str,
        /// This one.
        reply: &'a Reply,
        /// For this reason.
        error: &'a io::Error,
    },
    /// A packet got no answer.
    Silent {
        /// On this interface.
        interface: &'a str,
        /// On this port.
        port: Port,
        /// For this reason.
        silence: &'a Silence,
    },
    /// A machine has taught or confirmed how it must be answered; to be kept over a restart.
    Learned(Lesson),
    /// A machine has fetched something by TFTP or HTTP.
    Fetched(Mac),
}

/// Who hears of events.
pub trait Observer {
    /// Takes note of an event. It is called between two datagrams, so it must not take long.
    fn observe(&mut self, event: &Event<'_>);
}

/// Both hear of everything.
impl<A: Observer, B: Observer> Observer for (A, B) {
    fn observe(&mut self, event: &Event<'_>) {
        self.0.observe(event);
        self.1.observe(event);
    }
}

/// Writes the events to the log.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogObserver;

impl Observer for LogObserver {
    fn observe(&mut self, event: &Event<'_>) {
        match event {
            Event::Answered { interface, reply, .. } => {
                let Reply { client, file, boot, .. } = reply;
                let to = reply.destination.address();
                log::info!(interface, mac:% = client.mac, xid = client.xid, file:%, to:%;
                    "told {client} to load {file}: {boot}");
            }
            Event::Unsent { interface, reply, error } => {
                let (client, to) = (reply.client, reply.destination.address());
                log::warn!(interface, mac:% = client.mac, to:%, error:%;
                    "cannot send the answer for {client} to {to}: {error}");
            }
            // Whom the site does not serve is told by the scribe, once.
            Event::Silent { interface, silence, .. } => match silence.reason {
                Reason::Unreadable(ParseError::NotRequest(_)) | Reason::NotBooting(_) => {
                    log::trace!(interface; "{silence}");
                }
                _ => log::debug!(interface; "{silence}"),
            },
            Event::Learned(lesson) => log::info!(mac:% = lesson.mac; "{lesson}"),
            // The one that served it has logged it.
            Event::Fetched(_) => {}
        }
    }
}

/// A socket on one port of one interface, which nobody waits for yet.
#[derive(Debug)]
pub struct Bound {
    interface: String,
    /// The interface's number when the socket was bound to it.
    index: u32,
    port: Port,
    socket: UdpSocket,
}

impl Bound {
    fn new(interface: &str, port: Port) -> anyhow::Result<Self> {
        let number = port.number();
        let index = if_nametoindex(interface)
            .with_context(|| format!("there is no interface '{interface}'"))?;
        let socket = bind_port(interface, number)?;
        Ok(Self { interface: interface.to_owned(), index, port, socket })
    }

    fn listen(self) -> anyhow::Result<Listener> {
        let Self { interface, index, port, socket } = self;
        let socket = Async::new(socket)
            .with_context(|| format!("cannot watch port {} on {interface}", port.number()))?;
        Ok(Listener { interface, index, port, socket, address: None })
    }
}

/// A socket on one port of one interface.
#[derive(Debug)]
pub struct Listener {
    interface: String,
    /// The interface's number when the socket was bound to it.
    index: u32,
    port: Port,
    socket: Async<UdpSocket>,
    /// The interface's address and when it was read.
    address: Option<(Ipv4Addr, Instant)>,
}

impl Listener {
    /// Binds anew where the interface was made again.
    fn follow_interface(&mut self) {
        let is_same = |index| index == self.index;
        if if_nametoindex(self.interface.as_str()).map_or(true, is_same) {
            return;
        }
        let (interface, port) = (self.interface.clone(), self.port.number());
        match Bound::new(&interface, self.port).and_then(Bound::listen) {
            Ok(listener) => {
                *self = listener;
                log::info!(interface:%, port; "listening again on port {port} of {interface}, which was made anew");
            }
            Err(error) => {
                log::warn!(interface:%, port; "cannot listen on {interface}, which was made anew: {error:#}");
            }
        }
    }

    /// The address on this interface, looked up again when the last answer is old: it may come late or change.
    fn address(&mut self, now: Instant) -> Option<Ipv4Addr> {
        let fresh = self
            .address
            .filter(|(_, read_at)| now.saturating_duration_since(*read_at) < ADDRESS_LIFETIME);
        if fresh.is_none() {
            self.address = interface_address(&self.interface).map(|address| (address, now));
        }
        self.address.map(|(address, _)| address)
    }
}

/// Binds both ports on every interface.
///
/// # Errors
/// There is no such interface, the right to bind is missing, or another program has the port.
pub fn bind(interfaces: &[String]) -> anyhow::Result<Vec<Bound>> {
    if interfaces.is_empty() {
        bail!("[dhcp] is enabled without an interface; name one, as in interfaces = [\"br0\"]");
    }
    if let Some(complaint) = interfaces::missing(interfaces) {
        bail!(complaint);
    }
    let mut bound = Vec::with_capacity(2 * interfaces.len());
    for interface in interfaces {
        for port in [Port::Dhcp, Port::BootServer] {
            bound.push(Bound::new(interface, port)?);
        }
        match interface_address(interface) {
            Some(address) => {
                log::info!(interface:%, address:%; "answering boot requests on {interface} as {address}")
            }
            None => {
                log::warn!(interface:%; "{interface} has no IPv4 address; boot requests wait for one")
            }
        }
    }
    Ok(bound)
}

/// Has the executor wait for what was bound.
///
/// # Errors
/// The system has no room to wait for one more.
pub fn listen(bound: Vec<Bound>) -> anyhow::Result<Vec<Listener>> {
    bound.into_iter().map(Bound::listen).collect()
}

/// Answers on the listeners for ever. `fetches` brings the machines that load something by TFTP or HTTP; `user_agents_of` remembers
/// without waiting for anything what programs of a machine have called themselves over HTTP.
pub async fn run(
    mut listeners: Vec<Listener>,
    mut answerer: Answerer,
    fetches: Receiver<Mac>,
    user_agents_of: impl Fn(Mac) -> Vec<Box<str>>,
    mut observer: impl Observer,
) {
    let mut buffer = [0; DATAGRAM_LEN_MAX];
    let mut first = 0;
    let mut interface_check = Timer::interval(INTERFACE_CHECK);
    loop {
        let received = async {
            let (index, received) =
                future::poll_fn(|cx| poll_receive(&listeners, first, &mut buffer, cx)).await;
            Input::Datagram(index, received)
        };
        let fetched = async {
            match fetches.recv().await {
                Ok(mac) => Input::Fetch(mac),
                Err(_) => future::pending().await,
            }
        };
        let check_due = async {
            interface_check.next().await;
            Input::CheckDue
        };
        match received.or(fetched).or(check_due).await {
            Input::CheckDue => listeners.iter_mut().for_each(Listener::follow_interface),
            Input::Fetch(mac) => {
                observer.observe(&Event::Fetched(mac));
                if let Some(lesson) = answerer.handle_fetch(mac, clock::monotonic()) {
                    observer.observe(&Event::Learned(lesson));
                }
            }
            Input::Datagram(index, received) => {
                // The next socket has its turn, however much comes in on this one.
                first = index + 1;
                let Some(listener) = listeners.get_mut(index) else { continue };
                match received {
                    Ok((len, SocketAddr::V4(source))) => {
                        let datagram = buffer.get(..len).unwrap_or_default();
                        let user_agents =
                            Request::mac_of(datagram).map(&user_agents_of).unwrap_or_default();
                        let came = Came { datagram, source, user_agents: &user_agents };
                        answer(listener, &mut answerer, came, &mut observer).await;
                    }
                    Ok((_, SocketAddr::V6(_))) => {}
                    Err(error) => {
                        let interface = &listener.interface;
                        log::debug!(interface:%, error:%; "cannot read from {interface}: {error}");
                        Timer::after(ERROR_PAUSE).await;
                    }
                }
            }
        }
        // A flood keeps every future above ready; the rest of the agent lives on the same thread.
        smol::future::yield_now().await;
    }
}

enum Input {
    Datagram(usize, io::Result<(usize, SocketAddr)>),
    Fetch(Mac),
    CheckDue,
}

/// Takes the next datagram, beginning at the listener `first`; answers which listener it is from.
fn poll_receive(
    listeners: &[Listener],
    first: usize,
    buffer: &mut [u8],
    cx: &mut TaskContext<'_>,
) -> Poll<(usize, io::Result<(usize, SocketAddr)>)> {
    let (before, after) = listeners.split_at(first % listeners.len().max(1));
    let in_turn = after.iter().chain(before);
    for (listener, offset) in in_turn.zip(0..) {
        let index = (before.len() + offset) % listeners.len();
        loop {
            match listener.socket.get_ref().recv_from(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                received => return Poll::Ready((index, received)),
            }
            match listener.socket.poll_readable(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready((index, Err(error))),
            }
        }
    }
    Poll::Pending
}

/// A datagram that came.
struct Came<'a> {
    datagram: &'a [u8],
    source: SocketAddrV4,
    user_agents: &'a [Box<str>],
}

async fn answer(
    listener: &mut Listener,
    answerer: &mut Answerer,
    came: Came<'_>,
    observer: &mut impl Observer,
) {
    let Came { datagram, source, user_agents } = came;
    let now = clock::monotonic();
    let Some(address) = listener.address(now) else {
        let interface = &listener.interface;
        log::debug!(interface:%; "no answer on {interface}: it has no IPv4 address");
        return;
    };
    let interface = listener.interface.as_str();
    let arrival = Arrival { datagram, source, port: listener.port, address, user_agents };
    let lesson = match answerer.handle_packet(&arrival, now) {
        Ok(reply) => {
            let to = reply.destination.address();
            match listener.socket.send_to(&reply.packet, to).await {
                Ok(_) => {
                    let port = arrival.port;
                    observer.observe(&Event::Answered { interface, port, reply: &reply });
                }
                Err(error) => {
                    observer.observe(&Event::Unsent { interface, reply: &reply, error: &error });
                }
            }
            reply.lesson
        }
        Err(silence) => {
            let port = arrival.port;
            observer.observe(&Event::Silent { interface, port, silence: &silence });
            silence.lesson
        }
    };
    if let Some(lesson) = lesson {
        observer.observe(&Event::Learned(lesson));
    }
}

/// The first IPv4 address of an interface.
fn interface_address(interface: &str) -> Option<Ipv4Addr> {
    let addresses = ifaddrs::getifaddrs().ok()?;
    addresses
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address?.as_sockaddr_in().map(|address| address.ip()))
}

fn bind_port(interface: &str, port: u16) -> anyhow::Result<UdpSocket> {
    // Sharing the port would take the unicast requests from the server that has it: first see whether anybody does. Then
    // share it nevertheless, because a DHCP server that is started later must not fail on our account where it shares too.
    let bound = bind_to(interface, port, false).and_then(|probe| {
        let port = probe.local_addr()?.as_socket_ipv4().map_or(port, |address| address.port());
        drop(probe);
        bind_to(interface, port, true)
    });
    Ok(bound.map_err(|error| explain(interface, port, error))?.into())
}

fn bind_to(interface: &str, port: u16, is_shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.set_broadcast(true)?;
    socket.set_reuse_address(is_shared)?;
    // As much as the host allows without the capability CAP_NET_ADMIN, and all of it with that: neither is worth failing for.
    _ = socket.set_recv_buffer_size(RECEIVE_BUFFER_LEN);
    _ = setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_LEN);
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into())?;
    Ok(socket)
}

/// The error with its cure.
fn explain(interface: &str, port: u16, error: io::Error) -> anyhow::Error {
    let cure = match error.kind() {
        io::ErrorKind::AddrInUse if port == Port::BootServer.number() => format!(
            "another boot server on this host has port {port} on {interface}; stop it (dnsmasq: remove pxe-service), or leave [dhcp] disabled here"
        ),
        io::ErrorKind::AddrInUse => format!(
            "another DHCP server on this host has port {port} on {interface}; leave [dhcp] disabled and let that server name the loader in options 66 and 67: `pureboot-agent dhcp-snippet` prints the settings"
        ),
        io::ErrorKind::PermissionDenied => format!(
            "port {port} on {interface} needs the capabilities CAP_NET_BIND_SERVICE and CAP_NET_RAW"
        ),
        _ => format!("cannot listen on port {port} of the interface '{interface}'"),
    };
    anyhow::Error::new(error).context(cure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_another_server_has_is_refused_with_the_alternative() {
        let other = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        other.set_reuse_address(true).unwrap();
        other.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0).into()).unwrap();
        let port = other.local_addr().unwrap().as_socket_ipv4().unwrap().port();
        let error = bind_port("lo", port).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("dhcp-snippet") && text.contains("66 and 67"), "{text}");
    }

    #[test]
    fn a_server_that_starts_later_is_not_kept_from_its_port() {
        let ours = bind_port("lo", 0).unwrap();
        let later = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        later.set_reuse_address(true).unwrap();
        let port = ours.local_addr().unwrap().port();
        later.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into()).unwrap();
    }

    #[test]
    fn an_interface_that_does_not_exist_is_named() {
        let text = format!("{:#}", bind(&["pureboot-none".to_owned()]).unwrap_err());
        assert!(text.contains("'pureboot-none': correct interfaces in [dhcp]"), "{text}");
        let text = format!("{:#}", bind(&[]).unwrap_err());
        assert!(text.contains("interfaces = ["), "{text}");
    }

    #[test]
    fn the_address_of_an_interface_is_found() {
        assert_eq!(interface_address("lo"), Some(Ipv4Addr::LOCALHOST));
        assert_eq!(interface_address("pureboot-none"), None);
    }
}
