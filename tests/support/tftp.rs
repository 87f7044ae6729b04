//! A TFTP client of our own: RFC 1350 with any options, and datagrams with any content.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// What one datagram can hold at most, in bytes.
const DATAGRAM_LEN_MAX: usize = 65_536;

/// The block length without options (RFC 1350 §2).
const BLOCK_LEN: usize = 512;

/// How long to wait for the next datagram before the last word is said again.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often a word is said in vain.
const SENDS_MAX: u32 = 5;

/// A datagram of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// A block and its number.
    Data(u16, Vec<u8>),
    /// A code and a text.
    Error(u16, String),
    /// The options that the server agreed to (RFC 2347).
    Oack(Vec<(String, String)>),
    /// Anything else.
    Other(Vec<u8>),
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Packet {
    /// Reads a datagram.
    pub fn parse(datagram: &[u8]) -> Self {
        match datagram {
            [0, 3, high, low, data @ ..] => {
                Self::Data(u16::from_be_bytes([*high, *low]), data.to_vec())
            }
            [0, 5, high, low, message @ .., 0] => {
                Self::Error(u16::from_be_bytes([*high, *low]), text(message))
            }
            [0, 6, options @ .., 0] => {
                let words: Vec<_> = options.split(|byte| *byte == 0).map(text).collect();
                let pairs = words.chunks(2).filter_map(|pair| match pair {
                    [name, value] => Some((name.to_ascii_lowercase(), value.clone())),
                    _ => None,
                });
                Self::Oack(pairs.collect())
            }
            other => Self::Other(other.to_vec()),
        }
    }

    /// The value of an option in an OACK.
    pub fn option(&self, name: &str) -> Option<&str> {
        match self {
            Self::Oack(options) => {
                options.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
            }
            _ => None,
        }
    }
}

/// A read request with the given words after the opcode, each ended by NUL (RFC 1350 §5).
pub fn request(opcode: u16, words: &[&str]) -> Vec<u8> {
    let mut datagram = opcode.to_be_bytes().to_vec();
    for word in words {
        datagram.extend(word.as_bytes());
        datagram.push(0);
    }
    datagram
}

/// A read request in octet mode with options.
pub fn read_request(name: &str, options: &[(&str, &str)]) -> Vec<u8> {
    let options = options.iter().flat_map(|(option, value)| [*option, *value]);
    request(1, &[name, "octet"].into_iter().chain(options).collect::<Vec<_>>())
}

/// An acknowledgement.
pub fn ack(block: u16) -> Vec<u8> {
    let [high, low] = block.to_be_bytes();
    vec![0, 4, high, low]
}

/// The error that a client ends a transfer with after the OACK: it wanted the size only (RFC 2347).
pub fn refuse_options() -> Vec<u8> {
    [&[0, 5, 0, 8], b"User aborted the transfer\0".as_slice()].concat()
}

/// A file and how it came.
#[derive(Debug)]
pub struct Download {
    /// The options of the OACK, if there was one.
    pub options: Vec<(String, String)>,
    /// The content.
    pub bytes: Vec<u8>,
    /// Blocks of data received, repeated ones included.
    pub blocks: u64,
    /// The address that answered.
    pub from: SocketAddr,
}

/// One end of a conversation: a socket of its own.
#[derive(Debug)]
pub struct Client {
    socket: UdpSocket,
    server: SocketAddr,
}

impl Client {
    /// A client with the loopback address `source`, or any address where the server is not on loopback.
    ///
    /// # Errors
    /// No socket.
    pub fn new(server: SocketAddr, source: Ipv4Addr) -> Result<Self> {
        let socket = UdpSocket::bind((IpAddr::V4(source), 0))
            .with_context(|| format!("cannot bind {source}"))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket, server })
    }

    /// Sends a datagram to the server's well-known port.
    ///
    /// # Errors
    /// The system refuses.
    pub fn send(&self, datagram: &[u8]) -> Result<()> {
        self.send_to(datagram, self.server)
    }

    /// Sends a datagram into a transfer.
    ///
    /// # Errors
    /// The system refuses.
    pub fn send_to(&self, datagram: &[u8], to: SocketAddr) -> Result<()> {
        let sent = self.socket.send_to(datagram, to);
        sent.map(|_| ()).with_context(|| format!("cannot send {} bytes to {to}", datagram.len()))
    }

    /// The next datagram from anybody; none within two seconds is an error.
    ///
    /// # Errors
    /// Nothing came.
    pub fn receive(&self) -> Result<(Packet, SocketAddr)> {
        let mut buffer = vec![0; DATAGRAM_LEN_MAX];
        let (len, from) = self.socket.recv_from(&mut buffer).context("no answer by TFTP")?;
        Ok((Packet::parse(buffer.get(..len).unwrap_or_default()), from))
    }

    /// What has arrived by now, without waiting.
    ///
    /// # Errors
    /// The system refuses.
    pub fn arrived(&self) -> Result<Option<Packet>> {
        self.socket.set_nonblocking(true)?;
        let packet = self.receive().ok().map(|(packet, _)| packet);
        self.socket.set_nonblocking(false)?;
        Ok(packet)
    }

    /// Sends a request and returns the first answer.
    ///
    /// # Errors
    /// No answer came, however often it was asked.
    pub fn ask(&self, datagram: &[u8]) -> Result<(Packet, SocketAddr)> {
        let mut last = None;
        for _ in 0..SENDS_MAX {
            self.send(datagram)?;
            match self.receive() {
                Ok(answer) => return Ok(answer),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("asked at least once")?)
    }

    /// Reads a whole file.
    ///
    /// # Errors
    /// The server answers with an error, or falls silent, or breaks the protocol.
    pub fn read(&self, name: &str, options: &[(&str, &str)]) -> Result<Download> {
        let (first, from) = self.ask(&read_request(name, options))?;
        let mut download = Download { options: Vec::new(), bytes: Vec::new(), blocks: 0, from };
        let mut next: u16 = 1;
        let mut held = None;
        match first {
            Packet::Error(code, message) => bail!("{name}: error {code}: {message}"),
            Packet::Oack(agreed) => {
                download.options = agreed;
                self.send_to(&ack(0), from)?;
            }
            data => held = Some(data),
        }
        let agreed = |name: &str, default: usize| {
            let value = download.options.iter().find(|(known, _)| known == name);
            value.map_or(Ok(default), |(_, value)| value.parse().context("an option's value"))
        };
        let (block_len, window) = (agreed("blksize", BLOCK_LEN)?, agreed("windowsize", 1)?);
        let (mut silences, mut in_window) = (0, 0);
        loop {
            let packet = match held.take() {
                Some(packet) => packet,
                None => match self.receive() {
                    Ok((packet, sender)) if sender == from => packet,
                    Ok((packet, sender)) => bail!("{packet:?} came from {sender}, not from {from}"),
                    Err(error) if silences == SENDS_MAX => return Err(error),
                    Err(_) => {
                        silences += 1;
                        in_window = 0;
                        self.send_to(&ack(next.wrapping_sub(1)), from)?;
                        continue;
                    }
                },
            };
            let Packet::Data(block, data) = packet else {
                bail!("{name}: expected block {next}, got {packet:?}");
            };
            download.blocks += 1;
            if block != next {
                continue;
            }
            silences = 0;
            ensure!(data.len() <= block_len, "block {block} has {} bytes", data.len());
            let is_last = data.len() < block_len;
            download.bytes.extend(data);
            in_window += 1;
            if is_last || in_window == window {
                self.send_to(&ack(block), from)?;
                in_window = 0;
            }
            if is_last {
                return Ok(download);
            }
            next = next.wrapping_add(1);
        }
    }
}
