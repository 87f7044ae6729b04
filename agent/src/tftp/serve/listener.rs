//! The socket that hears requests, and the errors that answer them.

use std::convert::Infallible;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use smol::{Async, Timer};
use socket2::{Domain, Protocol, Socket, Type};

use crate::tftp::packet::{ErrorCode, Packet};

/// Room for a thousand requests at once: a request that finds no room costs its machine a second.
const RECEIVE_BUFFER_LEN: usize = 4 << 20;
/// A datagram that is longer is no request; what is cut off is not missed.
const DATAGRAM_LEN_MAX: usize = 1_024;
/// How long to leave a socket alone that only brings errors.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// The socket that hears requests.
#[derive(Debug)]
pub struct Listener {
    socket: Async<UdpSocket>,
    offload: UdpSocketState,
    local: SocketAddr,
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

impl Received<'_> {
    /// What is needed to answer it later.
    pub(super) fn answer_to(&self) -> Raw {
        self.raw
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
        let socket = Async::new(UdpSocket::from(socket))?;
        let offload = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let local = socket.get_ref().local_addr()?;
        Ok(Self { socket, offload, local })
    }

    /// The address that it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// What the system knows of sending many datagrams in one call.
    pub(super) fn offload(&self) -> &UdpSocketState {
        &self.offload
    }

    /// Hands each datagram to `handle`, and goes on after errors: an interface may come back.
    pub(super) async fn receive(&self, mut handle: impl FnMut(Received<'_>)) -> Infallible {
        let mut storage = [0; DATAGRAM_LEN_MAX * BATCH_SIZE];
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        loop {
            let batch = match self.socket.readable().await {
                Ok(()) => {
                    let mut buffers: Vec<_> =
                        storage.chunks_mut(DATAGRAM_LEN_MAX).map(IoSliceMut::new).collect();
                    self.offload.recv(UdpSockRef::from(&self.socket), &mut buffers, &mut metas)
                }
                Err(error) => Err(error),
            };
            match batch {
                Ok(count) => {
                    for (meta, buffer) in
                        metas.iter().zip(storage.chunks(DATAGRAM_LEN_MAX)).take(count)
                    {
                        let bytes = buffer.get(..meta.len).unwrap_or(buffer);
                        // The kernel may have joined datagrams of one sender.
                        for datagram in bytes.chunks(meta.stride.max(1)) {
                            handle(self.received(meta, datagram));
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    log::debug!(error:%; "the TFTP socket brought an error");
                    Timer::after(ERROR_PAUSE).await;
                }
            }
        }
    }

    fn received<'a>(&self, meta: &RecvMeta, datagram: &'a [u8]) -> Received<'a> {
        let mut peer = meta.addr;
        peer.set_ip(peer.ip().to_canonical());
        let local = meta.dst_ip.unwrap_or(self.local.ip()).to_canonical();
        Received { peer, local, datagram, raw: Raw { peer: meta.addr, local: meta.dst_ip } }
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
