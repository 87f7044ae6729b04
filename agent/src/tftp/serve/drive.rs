//! One transfer's task: the file is looked up, a socket opened, and the transfer fed until it is done.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};
use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt};
use quinn_udp::{Transmit, UdpSockRef, UdpSocketState};
use smol::channel::Recv;
use smol::future::FutureExt;
use smol::{Async, Timer};

use super::listener::Raw;
use super::{Finished, Library, Place, Request, Source};
use crate::clock;
use crate::tftp::options::{Egress, negotiate};
use crate::tftp::packet::{ErrorCode, Options, Packet};
use crate::tftp::transfer::{Datagrams, Outcome, Output, PIECE_BYTES_MAX, Transfer};

/// The MTU if the system does not tell: Ethernet's.
const MTU_BYTES_DEFAULT: usize = 1_500;
/// The memory for reading ahead that all transfers share, in bytes, and the least that each gets of it.
const READ_AHEAD_BYTES: usize = 8 << 20;
const PIECE_BYTES_MIN: usize = 8 << 10;
/// What is read of a machine's datagrams: an ACK, or an error with the beginning of its text.
const ANSWER_LEN_MAX: usize = 128;
/// How long to wait for room in the send buffer. A datagram that finds none counts as lost.
const SEND_MAX: Duration = Duration::from_secs(1);

impl<L: Library + 'static> Place<L> {
    /// Answers a request that was admitted.
    pub(super) async fn answer(self, request: Request, options: Options, answer_to: Raw) {
        let begin = clock::monotonic();
        let server = &self.server;
        let Request { name, peer, local } = &request;
        let mut displaced = pin!(self.displaced.recv());
        let found = async { Some(server.library.find(&request).await) };
        let never_mind = async {
            _ = displaced.as_mut().await;
            None
        };
        let Some(source) = found.or(never_mind).await else { return };
        let Some(source) = source else {
            log::info!(peer:%, file:% = name; "{peer} asks for {name}, which is not here");
            return server.listener.send_error(
                answer_to,
                ErrorCode::FILE_NOT_FOUND,
                b"file not found",
            );
        };
        let socket = match connect(*local, *peer) {
            Ok(Some(socket)) => socket,
            Ok(None) => {
                return log::debug!(peer:%; "dropped a request that was sent to a group of hosts");
            }
            Err(error) => {
                return log::warn!(peer:%, error:%; "cannot open a socket to send {name} to {peer}");
            }
        };
        let size_bytes = source.size_bytes();
        let agreement = negotiate(&options, egress(&socket, *peer), size_bytes);
        let piece_bytes = piece_bytes(server.active.get());
        let mut link = Link {
            socket,
            peer: *peer,
            offload: (agreement.window > 1).then(|| server.listener.offload()),
        };
        let mut transfer = Transfer::new(&agreement, size_bytes, piece_bytes, clock::monotonic());
        let on_answer = || server.admission.borrow_mut().handle_answer(self.id);
        let outcome = drive(&mut transfer, &source, &mut link, displaced, on_answer).await;
        let tally = transfer.tally();
        let duration = clock::monotonic() - begin;
        let finished = Finished { request, size_bytes, outcome, tally, duration };
        finished.log();
        server.library.handle_finished(&finished);
    }
}

impl Finished {
    fn log(&self) {
        let Self { request: Request { name: file, peer, .. }, tally, .. } = self;
        let bytes = tally.acked_bytes;
        let resends = tally.resends;
        let duration_ms = u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX);
        let text = match self.outcome {
            Outcome::Complete => format!("sent {file} to {peer}"),
            Outcome::Unconfirmed => format!("sent {file} to {peer}, the last ACK did not come"),
            Outcome::Probe => format!("told {peer} the size of {file}"),
            Outcome::Refused(code) => format!("{peer} ended {file} with error {code}"),
            Outcome::Silent => format!("{peer} fell silent while reading {file}"),
            Outcome::Displaced => format!("stopped sending {file} to {peer} for another request"),
            Outcome::ReadFailed => format!("stopped sending {file} to {peer}: cannot read it"),
        };
        // Requests under made-up addresses displace each other by the thousand.
        let level = match self.outcome {
            Outcome::Displaced => log::Level::Debug,
            _ => log::Level::Info,
        };
        log::log!(level, peer:%, file:%, bytes, duration_ms, resends, outcome:? = self.outcome; "{text}");
    }
}

/// A read under way.
type Reading<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<u8>>> + 'a>>;

/// What a transfer is fed.
enum Input {
    Datagram,
    Data(io::Result<Vec<u8>>),
    Silence,
    Displaced,
}

async fn drive(
    transfer: &mut Transfer,
    source: &impl Source,
    link: &mut Link<'_>,
    mut displaced: Pin<&mut Recv<'_, Infallible>>,
    on_answer: impl FnOnce(),
) -> Outcome {
    let mut on_answer = Some(on_answer);
    let mut alarm = Alarm::never();
    let mut reading: Option<Reading<'_>> = None;
    loop {
        let deadline = loop {
            match transfer.poll_output() {
                Output::Read { offset, len } => {
                    reading = Some(Box::pin(source.read_at(offset, len)));
                }
                Output::Send(datagrams) => {
                    if let Err(error) = link.send(datagrams).await {
                        link.handle_error(&error, transfer);
                    }
                }
                Output::WaitUntil(deadline) => break deadline,
                Output::Done(outcome) => return outcome,
            }
        };
        alarm.set(deadline);
        let data = async {
            match &mut reading {
                Some(reading) => Input::Data(reading.await),
                None => pending().await,
            }
        };
        // The read first: it begins when it is polled, and goes on while the wire is busy.
        let displaced = async {
            _ = displaced.as_mut().await;
            Input::Displaced
        };
        // What was said before the displacement is heard before it: it may be the last ACK.
        let input = data.or(link.datagram()).or(alarm.silence()).or(displaced).await;
        let now = clock::monotonic();
        match input {
            Input::Data(result) => {
                reading = None;
                match result {
                    Ok(bytes) => transfer.handle_data(bytes, now),
                    Err(error) => {
                        log::warn!(error:%; "cannot read a file that is being sent");
                        transfer.handle_read_error();
                    }
                }
            }
            Input::Datagram => link.receive(transfer, now),
            Input::Silence => transfer.handle_timeout(now),
            Input::Displaced => transfer.handle_displaced(),
        }
        if transfer.is_answered()
            && let Some(on_answer) = on_answer.take()
        {
            on_answer();
        }
    }
}

/// The way to one machine.
struct Link<'a> {
    socket: Async<UdpSocket>,
    peer: SocketAddr,
    /// How to send many datagrams in one call, if that works here.
    offload: Option<&'a UdpSocketState>,
}

impl Link<'_> {
    async fn datagram(&self) -> Input {
        match self.socket.readable().await {
            Ok(()) => Input::Datagram,
            Err(_) => pending().await,
        }
    }

    /// Takes the datagram that has arrived.
    fn receive(&self, transfer: &mut Transfer, now: Instant) {
        let mut buffer = [0; ANSWER_LEN_MAX];
        match self.socket.get_ref().recv(&mut buffer) {
            Ok(len) => match Packet::parse(buffer.get(..len).unwrap_or(&buffer)) {
                Ok(packet) => transfer.handle_packet(packet, now),
                Err(error) => {
                    log::debug!(peer:% = self.peer, error:%; "dropped what is not TFTP");
                }
            },
            Err(error) => self.handle_error(&error, transfer),
        }
    }

    fn handle_error(&self, error: &io::Error, transfer: &mut Transfer) {
        match error.kind() {
            io::ErrorKind::WouldBlock => {}
            io::ErrorKind::ConnectionRefused => transfer.handle_unreachable(),
            // A datagram that does not go out is one that is lost, and sent again.
            _ => {
                log::debug!(peer:% = self.peer, error:%; "the socket of a transfer brought an error")
            }
        }
    }

    async fn send(&mut self, datagrams: Datagrams<'_>) -> io::Result<()> {
        let Datagrams { bytes, datagram_len } = datagrams;
        if let Some(offload) = self.offload.filter(|offload| offload.max_gso_segments() > 1)
            && bytes.len() > datagram_len
        {
            let transmit = Transmit {
                destination: self.peer,
                ecn: None,
                contents: bytes,
                segment_size: Some(datagram_len),
                src_ip: None,
            };
            let socket = &self.socket;
            let send = || offload.try_send(UdpSockRef::from(socket), &transmit);
            match self.when_writable(send).await {
                Err(error) if error.kind() != io::ErrorKind::ConnectionRefused => {
                    log::debug!(peer:% = self.peer, error:%; "sending datagrams one by one");
                    self.offload = None;
                }
                result => return result,
            }
        }
        for datagram in bytes.chunks(datagram_len) {
            self.when_writable(|| self.socket.get_ref().send(datagram).map(drop)).await?;
        }
        Ok(())
    }

    /// Sends, if need be when there is room.
    async fn when_writable(&self, send: impl Fn() -> io::Result<()>) -> io::Result<()> {
        loop {
            match send() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let give_up = async {
                        Timer::after(SEND_MAX).await;
                        Err(io::ErrorKind::TimedOut.into())
                    };
                    self.socket.writable().or(give_up).await?;
                }
                result => return result,
            }
        }
    }
}

/// A timer that rings at a deadline or before it. Deadlines mostly move away, so it is set again only once it has rung: setting
/// it costs a system call, and there is a new deadline for every datagram.
struct Alarm {
    timer: Timer,
    rings_at: Option<Instant>,
}

impl Alarm {
    fn never() -> Self {
        Self { timer: Timer::never(), rings_at: None }
    }

    fn set(&mut self, deadline: Instant) {
        if self.rings_at.is_none_or(|rings_at| deadline < rings_at) {
            self.timer.set_at(deadline);
            self.rings_at = Some(deadline);
        }
    }

    async fn silence(&mut self) -> Input {
        (&mut self.timer).await;
        self.rings_at = None;
        Input::Silence
    }
}

/// A socket from the address that was asked to the machine that did, or none if that is no address of this host's alone.
fn connect(local: IpAddr, peer: SocketAddr) -> io::Result<Option<Async<UdpSocket>>> {
    let address = match (local, peer) {
        // A link-local address says nothing without its link.
        (IpAddr::V6(ip), SocketAddr::V6(peer)) => {
            SocketAddr::V6(SocketAddrV6::new(ip, 0, 0, peer.scope_id()))
        }
        _ => SocketAddr::new(local, 0),
    };
    let socket = UdpSocket::bind(address)?;
    socket.connect(peer)?;
    // RFC 1123 §4.2.3.5: a request that was broadcast gets no answer. The system knows the broadcast addresses: it takes one
    // for binding, but never sends from it.
    let is_own = local.is_unspecified() || socket.local_addr()?.ip() == local;
    Ok(if is_own { Some(Async::new(socket)?) } else { None })
}

fn egress(socket: &Async<UdpSocket>, peer: SocketAddr) -> Egress {
    // IP_MTU is IPv4's; the default holds on any link that carries IPv6 from a LAN.
    let mtu = getsockopt(socket, sockopt::IpMtu).ok();
    let mtu_bytes = mtu.and_then(|mtu| usize::try_from(mtu).ok()).unwrap_or(MTU_BYTES_DEFAULT);
    Egress { mtu_bytes, is_ipv6: peer.is_ipv6() }
}

/// How much of a file to read at a time while `active` transfers run.
fn piece_bytes(active: usize) -> usize {
    (READ_AHEAD_BYTES / active.max(1)).clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX)
}
