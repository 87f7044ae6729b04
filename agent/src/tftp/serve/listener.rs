//! The socket that hears requests, and the errors that answer them.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};

use nix::sys::socket::{setsockopt, sockopt};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::poller::{BELL, Bell, Poller, REQUESTS};
use crate::tftp::packet::{ErrorCode, Packet};

/// Room for a thousand requests at once: a request that finds no room costs its machine a second.
const RECEIVE_BUFFER_LEN: usize = 4 << 20;
/// A datagram that is longer is no request; what is cut off is not missed.
const DATAGRAM_LEN_MAX: usize = 1_024;

/// The socket that hears requests.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: UdpSocket,
    /// What the system knows of sending many datagrams in one call.
    pub(super) offload: UdpSocketState,
    /// What everybody who serves waits with, made here so that a lack of descriptors is told at the start.
    pub(super) poller: Poller,
    pub(super) bell: Bell,
    local: SocketAddr,
    /// Whether transfers have this port too, each on a socket that is connected to its machine.
    is_port_shared: bool,
}

/// Room for datagrams that come together.
#[derive(Debug)]
pub(super) struct Batch {
    storage: Vec<u8>,
    metas: [RecvMeta; BATCH_SIZE],
    len: usize,
}

/// A datagram as it came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received<'a> {
    /// Who sent it, an IPv4 address as such.
    pub(super) peer: SocketAddr,
    /// The address to which it was sent.
    pub(super) local: IpAddr,
    pub(super) datagram: &'a [u8],
    /// Both as the socket writes them.
    raw: Raw,
}

/// Where an error goes to and comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Raw {
    peer: SocketAddr,
    local: Option<IpAddr>,
}

impl<'a> Received<'a> {
    fn new(meta: &RecvMeta, datagram: &'a [u8], listening: IpAddr) -> Self {
        let mut peer = meta.addr;
        peer.set_ip(peer.ip().to_canonical());
        let local = meta.dst_ip.unwrap_or(listening).to_canonical();
        Self { peer, local, datagram, raw: Raw { peer: meta.addr, local: meta.dst_ip } }
    }

    /// What is needed to answer it later.
    pub(super) fn answer_to(&self) -> Raw {
        self.raw
    }
}

impl Batch {
    pub(super) fn new() -> Self {
        Self {
            storage: vec![0; DATAGRAM_LEN_MAX * BATCH_SIZE],
            metas: [RecvMeta::default(); BATCH_SIZE],
            len: 0,
        }
    }

    /// Whether there may be more.
    pub(super) fn is_full(&self) -> bool {
        self.len == self.metas.len()
    }

    /// What came, to the address `listening` where the system does not say to which.
    pub(super) fn datagrams(&self, listening: IpAddr) -> impl Iterator<Item = Received<'_>> {
        let pairs = self.metas.iter().zip(self.storage.chunks(DATAGRAM_LEN_MAX)).take(self.len);
        pairs.flat_map(move |(meta, buffer)| {
            let bytes = buffer.get(..meta.len).unwrap_or(buffer);
            // The kernel may have joined datagrams of one sender.
            bytes
                .chunks(meta.stride.max(1))
                .map(move |datagram| Received::new(meta, datagram, listening))
        })
    }
}

impl From<&Received<'_>> for Raw {
    fn from(received: &Received<'_>) -> Self {
        received.raw
    }
}

impl Listener {
    /// Listens on `address`; the unspecified IPv6 address hears IPv4 too.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        // Only a privileged process may have more than the system's limit; the rest gets what there is.
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_LEN).is_err()
            && let Err(error) = socket.set_recv_buffer_size(RECEIVE_BUFFER_LEN)
        {
            log::debug!(error:%; "the receive buffer of TFTP stays as it is");
        }
        socket.bind(&address.into())?;
        let socket = UdpSocket::from(socket);
        // This also makes it answer at once when nothing is there.
        let offload = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let local = socket.local_addr()?;
        let (poller, bell) = (Poller::new()?, Bell::new()?);
        poller.add(&socket, REQUESTS)?;
        poller.add(&bell, BELL)?;
        Ok(Self { socket, offload, poller, bell, local, is_port_shared: false })
    }

    /// Has transfers leave from this port. The system hands what a machine says to the socket that is connected to it, and all else
    /// to this one. Only now: while it was bound, a port that another program has was to be refused.
    ///
    /// # Errors
    /// The system does not take the option.
    pub fn share_port(&mut self) -> io::Result<()> {
        SockRef::from(&self.socket).set_reuse_address(true)?;
        self.is_port_shared = true;
        Ok(())
    }

    /// The port that a transfer leaves from; none if the system is to choose one.
    pub(super) fn transfer_port(&self) -> Option<u16> {
        self.is_port_shared.then(|| self.local.port())
    }

    /// The address that it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Takes the datagrams that have arrived, as far as they fit; there may be none.
    ///
    /// # Errors
    /// The socket's, which may be over next time: an interface may come back.
    pub(super) fn receive(&self, batch: &mut Batch) -> io::Result<()> {
        batch.len = 0;
        let mut buffers: Vec<_> =
            batch.storage.chunks_mut(DATAGRAM_LEN_MAX).map(IoSliceMut::new).collect();
        match self.offload.recv(UdpSockRef::from(&self.socket), &mut buffers, &mut batch.metas) {
            Ok(count) => batch.len = count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Answers with an error, from the port of requests: an error needs no socket of its own, so that it can be sent also when
    /// there are no descriptors left. If it does not go out, the machine asks again.
    pub(super) fn send_error(&self, to: impl Into<Raw>, code: ErrorCode, text: &[u8]) {
        let Raw { peer, local } = to.into();
        let mut datagram = Vec::new();
        Packet::Error { code, text }.emit(&mut datagram);
        let transmit = Transmit {
            destination: peer,
            ecn: None,
            contents: &datagram,
            segment_size: None,
            src_ip: local.filter(|ip| !ip.is_unspecified()),
        };
        if let Err(error) = self.offload.try_send(UdpSockRef::from(&self.socket), &transmit) {
            log::debug!(peer:%, error:%; "cannot send an error");
        }
    }
}
