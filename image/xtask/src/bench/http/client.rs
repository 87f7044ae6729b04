//! An HTTP client made to be faster than any server: one thread, one buffer, nothing kept.
//!
//! Each connection has an address of its own, as each machine has. It asks, reads the answer to its end, and asks again.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// What is noticed in one wait.
const EVENTS_MAX: usize = 256;
/// What is read at once, in bytes.
const READ_LEN: usize = 512 << 10;
/// The longest head of an answer.
const HEAD_LEN_MAX: usize = 4_096;
/// When a turn is given up.
const TURN_MAX: Duration = Duration::from_secs(120);

/// What is asked for and how.
#[derive(Debug, Clone)]
pub(in crate::bench) struct Load {
    /// Whole requests; connection number n begins with the nth and goes on with the next.
    pub(in crate::bench) requests: Vec<Vec<u8>>,
    /// Connections at the same time.
    pub(in crate::bench) connections: usize,
    /// When it is over.
    pub(in crate::bench) end: End,
}

/// When a connection asks no more.
#[derive(Debug, Clone, Copy)]
pub(in crate::bench) enum End {
    /// When it has one answer.
    OneAnswer,
    /// When so much time has gone by.
    After(Duration),
}

/// What came of a turn.
#[derive(Debug, Default)]
pub(in crate::bench) struct Outcome {
    pub(in crate::bench) elapsed: Duration,
    /// Bytes of bodies.
    pub(in crate::bench) bytes: u64,
    /// From each request to the last byte of its answer.
    pub(in crate::bench) latency: Vec<Duration>,
    /// Connections that were held to the end, where some were.
    pub(in crate::bench) held: usize,
    /// Answers that were none, or not 200 or 206.
    pub(in crate::bench) failures: usize,
}

/// A request for `target`.
pub(in crate::bench) fn request(target: &str, fields: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: bench\r\nUser-Agent: iPXE/1.21.1\r\n{fields}\r\n")
        .into_bytes()
}

/// A connection from the address of machine `number`; `receive_len` is for one that is to take little.
pub(super) fn connect(
    number: usize,
    server: SocketAddr,
    receive_len: Option<usize>,
) -> Result<TcpStream> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    if let Some(len) = receive_len {
        sockopt::set_socket_recv_buffer_size(&socket, len)?;
    }
    let [high, low] = u16::try_from(number)?.saturating_add(1).to_be_bytes();
    rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::new(127, 77, high, low), 0)))?;
    rustix::net::connect(&socket, &server)?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Reads an image to its end; returns its length.
pub(super) fn read(server: SocketAddr, name: &str, mut take: impl FnMut(&[u8])) -> Result<u64> {
    let mut stream = connect(0, server, None)?;
    stream.write_all(&request(&format!("/files/images/{name}"), "Connection: close\r\n"))?;
    let mut buffer = vec![0; READ_LEN];
    let (mut answer, mut len) = (Answer::default(), 0);
    loop {
        let read = stream.read(&mut buffer)?;
        ensure!(read > 0, "the answer ends after {len} bytes");
        let body = answer.feed(buffer.get(..read).context("what was read")?)?;
        len += u64::try_from(body.len())?;
        take(body);
        if answer.is_whole() {
            return Ok(len);
        }
    }
}

/// Asks until the end.
pub(in crate::bench) fn run(load: &Load, server: SocketAddr) -> Result<Outcome> {
    let mut peers = (0..load.connections)
        .map(|number| Peer::connect(number, server))
        .collect::<Result<Vec<_>>>()?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    for (peer, number) in peers.iter().zip(0..) {
        epoll::add(&epoll, &peer.stream, EventData::new_u64(number), EventFlags::IN)?;
    }
    let mut outcome = Outcome::default();
    let started = Instant::now();
    for peer in &mut peers {
        peer.ask(load)?;
    }
    let mut left = peers.len();
    let mut events: Vec<epoll::Event> = Vec::with_capacity(EVENTS_MAX);
    let mut buffer = vec![0; READ_LEN];
    let limit = Timespec::try_from(TURN_MAX)?;
    while left > 0 {
        ensure!(started.elapsed() < TURN_MAX, "{left} connections have no answer");
        events.clear();
        match epoll::wait(&epoll, spare_capacity(&mut events), Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let peer = peers.get_mut(usize::try_from(event.data.u64())?).context("a peer")?;
            let is_done = match peer.read(&mut buffer, &mut outcome) {
                Ok(false) => false,
                Ok(true) if load.wants_more(started) => {
                    peer.ask(load)?;
                    false
                }
                Ok(true) => true,
                Err(_) => {
                    outcome.failures += 1;
                    true
                }
            };
            if is_done {
                epoll::delete(&epoll, &peer.stream)?;
                left -= 1;
            }
        }
    }
    outcome.elapsed = started.elapsed();
    Ok(outcome)
}

impl Load {
    fn wants_more(&self, started: Instant) -> bool {
        match self.end {
            End::OneAnswer => false,
            End::After(duration) => started.elapsed() < duration,
        }
    }
}

struct Peer {
    stream: TcpStream,
    next: usize,
    asked_at: Instant,
    answer: Answer,
}

impl Peer {
    fn connect(number: usize, server: SocketAddr) -> Result<Self> {
        let stream = connect(number, server, None)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, next: number, asked_at: Instant::now(), answer: Answer::default() })
    }

    fn ask(&mut self, load: &Load) -> Result<()> {
        let request = load.requests.get(self.next % load.requests.len()).context("a request")?;
        // With as many requests as connections each machine goes on asking for its own.
        self.next += load.connections;
        self.answer = Answer::default();
        self.asked_at = Instant::now();
        // A request is short, and the answer before it was read: there is room for it.
        Ok(self.stream.write_all(request)?)
    }

    /// Reads once; returns whether the answer is whole.
    fn read(&mut self, buffer: &mut [u8], outcome: &mut Outcome) -> Result<bool> {
        let len = match self.stream.read(buffer) {
            Ok(0) => bail!("the connection ended"),
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let body = self.answer.feed(buffer.get(..len).context("what was read")?)?;
        outcome.bytes += u64::try_from(body.len())?;
        let is_whole = self.answer.is_whole();
        if is_whole {
            outcome.latency.push(self.asked_at.elapsed());
        }
        Ok(is_whole)
    }
}

/// How far an answer has come.
#[derive(Debug, Default)]
pub(super) struct Answer {
    head: Vec<u8>,
    /// None before the head is whole.
    body_left: Option<u64>,
}

impl Answer {
    pub(super) fn is_whole(&self) -> bool {
        self.body_left == Some(0)
    }

    /// Takes bytes up; returns those of the body.
    pub(super) fn feed<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8]> {
        let body = match self.body_left {
            Some(_) => bytes,
            None => {
                let before = self.head.len();
                self.head.extend_from_slice(bytes.get(..HEAD_LEN_MAX).unwrap_or(bytes));
                let end = self.head.windows(4).position(|end| end == b"\r\n\r\n");
                let Some(end) = end.map(|end| end + 4) else {
                    ensure!(self.head.len() < HEAD_LEN_MAX, "the head has no end");
                    return Ok(&[]);
                };
                self.body_left = Some(parse(self.head.get(..end).unwrap_or_default())?);
                bytes.get(end - before..).unwrap_or_default()
            }
        };
        let left = self.body_left.unwrap_or_default();
        let left = left.checked_sub(u64::try_from(body.len())?).context("more than was said")?;
        self.body_left = Some(left);
        Ok(body)
    }
}

/// The length of the body that follows a head.
fn parse(head: &[u8]) -> Result<u64> {
    let is_good = head.starts_with(b"HTTP/1.1 200 ") || head.starts_with(b"HTTP/1.1 206 ");
    let text = String::from_utf8_lossy(head);
    ensure!(is_good, "{}", text.lines().next().unwrap_or_default());
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    length.context("no Content-Length")
}
