//! The way to one machine: a socket of its own, connected, so that the system drops what others send to it.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};

use quinn_udp::{Transmit, UdpSockRef, UdpSocketState};
use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};

use crate::tftp::options::Egress;
use crate::tftp::packet::Packet;
use crate::tftp::transfer::Datagrams;

/// The MTU if the system does not tell: Ethernet's.
const MTU_BYTES_DEFAULT: usize = 1_500;
/// What is read of a machine's datagrams: an ACK, an error with the beginning of its text, or another request by the same ports.
const ANSWER_LEN_MAX: usize = 128;

/// The way to one machine.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) socket: UdpSocket,
    peer: SocketAddr,
    /// Whether many datagrams may leave in one call.
    is_offloaded: bool,
}

/// What came from the machine.
pub(super) enum Heard<'a> {
    Packet(Packet<'a>),
    /// Something that is to be ignored.
    Noise,
    /// Nobody listens there any more.
    Unreachable,
    /// All that came has been taken.
    Nothing,
}

/// Room for what a machine says.
#[derive(Debug)]
pub(super) struct Ear([u8; ANSWER_LEN_MAX]);

impl Ear {
    pub(super) fn new() -> Self {
        Self([0; ANSWER_LEN_MAX])
    }
}

impl Link {
    /// A socket from the address that was asked to the machine that did, or none if that is no address of this host's alone; from
    /// `port`, if that is to be the one that listens.
    pub(super) fn connect(
        local: IpAddr,
        peer: SocketAddr,
        port: Option<u16>,
    ) -> io::Result<Option<Self>> {
        let local_port = port.unwrap_or(0);
        let address = match (local, peer) {
            // A link-local address says nothing without its link.
            (IpAddr::V6(ip), SocketAddr::V6(peer)) => {
                SocketAddr::V6(SocketAddrV6::new(ip, local_port, 0, peer.scope_id()))
            }
            _ => SocketAddr::new(local, local_port),
        };
        let kind = Type::DGRAM.nonblocking();
        let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::UDP))?;
        socket.set_reuse_address(port.is_some())?;
        socket.bind(&address.into())?;
        socket.connect(&peer.into())?;
        let socket = UdpSocket::from(socket);
        // RFC 1123 §4.2.3.5: a request that was broadcast gets no answer. The system knows the broadcast addresses: it takes one
        // for binding, but never sends from it.
        let is_own = local.is_unspecified() || socket.local_addr()?.ip() == local;
        Ok(is_own.then_some(Self { socket, peer, is_offloaded: false }))
    }

    /// What the system knows of the way.
    pub(super) fn egress(&self) -> Egress {
        let is_ipv6 = self.peer.is_ipv6();
        let mtu =
            if is_ipv6 { sockopt::ipv6_mtu(&self.socket) } else { sockopt::ip_mtu(&self.socket) };
        let mtu_bytes = mtu.ok().and_then(|mtu| usize::try_from(mtu).ok());
        Egress { mtu_bytes: mtu_bytes.unwrap_or(MTU_BYTES_DEFAULT), is_ipv6 }
    }

    /// Lets many datagrams leave in one call where that works.
    pub(super) fn offload(&mut self) {
        self.is_offloaded = true;
    }

    /// Takes one datagram that has arrived.
    pub(super) fn receive<'a>(&self, ear: &'a mut Ear) -> Heard<'a> {
        match self.socket.recv(&mut ear.0) {
            Ok(len) => match Packet::parse(ear.0.get(..len).unwrap_or(&ear.0)) {
                Ok(packet) => Heard::Packet(packet),
                Err(error) => {
                    log::debug!(peer:% = self.peer, error:%; "dropped what is not TFTP");
                    Heard::Noise
                }
            },
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => Heard::Nothing,
                io::ErrorKind::ConnectionRefused => Heard::Unreachable,
                _ => {
                    log::debug!(peer:% = self.peer, error:%; "the socket of a transfer brought an error");
                    Heard::Noise
                }
            },
        }
    }

    /// Puts datagrams on the wire. Those that find no room in the send buffer, which holds more than a window, are lost like
    /// others that a line loses, and sent again.
    ///
    /// # Errors
    /// Nobody listens there any more.
    pub(super) fn send(
        &mut self,
        datagrams: Datagrams<'_>,
        offload: &UdpSocketState,
    ) -> Result<(), Unreachable> {
        let Datagrams { bytes, datagram_len } = datagrams;
        if self.is_offloaded && bytes.len() > datagram_len && offload.max_gso_segments() > 1 {
            let transmit = Transmit {
                destination: self.peer,
                ecn: None,
                contents: bytes,
                segment_size: Some(datagram_len),
                src_ip: None,
            };
            match offload.try_send(UdpSockRef::from(&self.socket), &transmit) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    return Err(Unreachable);
                }
                Err(error) => {
                    log::debug!(peer:% = self.peer, error:%; "sending datagrams one by one");
                    self.is_offloaded = false;
                }
            }
        }
        for datagram in bytes.chunks(datagram_len) {
            match self.socket.send(datagram) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    return Err(Unreachable);
                }
                Err(error) => {
                    log::debug!(peer:% = self.peer, error:%; "a datagram did not go out");
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Nobody listens at the machine's port any more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreachable;
