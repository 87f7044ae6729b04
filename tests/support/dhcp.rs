//! A DHCP client that says exactly what it is told to, over a real socket.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};

/// The fixed part of a message with its cookie (RFC 2131 §2).
pub const HEADER_LEN: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];

/// Everybody on the link, at the servers' port.
pub const SERVERS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::BROADCAST, 67);

/// DHCPDISCOVER.
pub const DISCOVER: u8 = 1;
/// DHCPREQUEST.
pub const REQUEST: u8 = 3;
/// DHCPINFORM.
pub const INFORM: u8 = 8;

/// A message to be sent: the header, then options in this order.
#[derive(Debug, Clone)]
pub struct Ask {
    header: Vec<u8>,
    options: Vec<(u8, Vec<u8>)>,
}

/// The six bytes of an address that is written with colons.
///
/// # Errors
/// It is not.
pub fn mac_bytes(mac: &str) -> Result<[u8; 6]> {
    let bytes: Result<Vec<_>, _> =
        mac.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
    let bytes = bytes.with_context(|| format!("'{mac}' is no address"))?;
    bytes.try_into().ok().with_context(|| format!("'{mac}' has not six bytes"))
}

impl Ask {
    /// A request of the machine `mac` with a random transaction. It asks for an answer to everybody, as UEFI does: what is
    /// sent to an address that the machine does not have yet reaches no socket.
    pub fn new(kind: u8, mac: [u8; 6]) -> Self {
        let header = vec![0; HEADER_LEN];
        let xid = crate::random().to_le_bytes();
        let ask = Self { header, options: vec![(53, vec![kind])] };
        let ask = ask.field(0, &[1, 1, 6]).field(4, &xid).field(8, &[0, 0, 0x80, 0]);
        ask.field(28, &mac).field(236, &COOKIE)
    }

    /// A request of firmware: its class and its architecture.
    pub fn firmware(kind: u8, mac: [u8; 6], class: &str, arch: u16) -> Self {
        Self::new(kind, mac).with(60, class.as_bytes()).with(93, &arch.to_be_bytes())
    }

    /// The same with one more option.
    pub fn with(mut self, code: u8, value: &[u8]) -> Self {
        self.options.push((code, value.to_vec()));
        self
    }

    /// The same with these bytes in the header.
    pub fn field(mut self, at: usize, value: &[u8]) -> Self {
        for (byte, new) in self.header.iter_mut().skip(at).zip(value) {
            *byte = *new;
        }
        self
    }

    /// As a relay at `address` passes it on.
    pub fn relayed(self, address: Ipv4Addr) -> Self {
        self.field(24, &address.octets())
    }

    /// As a machine says it that has `address` already.
    pub fn leased(self, address: Ipv4Addr) -> Self {
        self.field(12, &address.octets())
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header.clone();
        for (code, value) in &self.options {
            bytes.extend([*code, u8::try_from(value.len()).unwrap_or(u8::MAX)]);
            bytes.extend(value);
        }
        bytes.push(0xff);
        bytes
    }
}

/// The options after a header as (code, value), to the first that is cut off.
pub fn options(bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut options = Vec::new();
    let mut rest = bytes;
    loop {
        rest = match rest {
            [0, tail @ ..] => tail,
            [code, len, tail @ ..] if *code != 0xff => {
                let Some((value, after)) = tail.split_at_checked(usize::from(*len)) else {
                    return options;
                };
                options.push((*code, value));
                after
            }
            _ => return options,
        };
    }
}

/// An answer as it came.
#[derive(Debug, Clone)]
pub struct Heard {
    /// Who sent it.
    pub from: SocketAddr,
    /// How long after the question.
    pub after: Duration,
    message: Vec<u8>,
}

impl Heard {
    /// Whether the message is an answer to `ask`.
    fn answers(&self, ask: &Ask) -> bool {
        self.message.first() == Some(&2) && self.message.get(4..8) == ask.header.get(4..8)
    }

    /// The options by code; of two with the same code the later one.
    pub fn options(&self) -> BTreeMap<u8, Vec<u8>> {
        let list = self.option_list().into_iter();
        list.map(|(code, value)| (code, value.to_vec())).collect()
    }

    /// The options in their order.
    pub fn option_list(&self) -> Vec<(u8, &[u8])> {
        options(self.message.get(HEADER_LEN..).unwrap_or_default())
    }

    /// An option as text; empty where it is absent. EDK2 and dnsmasq end some with a zero.
    pub fn text(&self, code: u8) -> String {
        let options = self.options();
        let value = options.get(&code).map(Vec::as_slice).unwrap_or_default();
        String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
    }

    /// What the answer names for loading: option 67, else the header's field.
    pub fn file(&self) -> String {
        let field = self.message.get(108..236).unwrap_or_default();
        let field = field.split(|byte| *byte == 0).next().unwrap_or_default();
        match self.text(67) {
            text if text.is_empty() => String::from_utf8_lossy(field).into_owned(),
            text => text,
        }
    }

    /// Where to load it from (`siaddr`).
    pub fn next_server(&self) -> Option<Ipv4Addr> {
        let octets: &[u8; 4] = self.message.get(20..)?.first_chunk()?;
        Some(Ipv4Addr::from(*octets))
    }
}

/// A socket of a machine or of a relay.
#[derive(Debug)]
pub struct Client {
    socket: UdpSocket,
}

impl Client {
    /// Binds `port` on one interface, as firmware does that has no address and no route.
    ///
    /// # Errors
    /// This needs root, and the port.
    pub fn bind(interface: &str, port: u16) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))
            .with_context(|| format!("cannot bind port {port}"))?;
        setsockopt(&socket, sockopt::BindToDevice, &OsString::from(interface))
            .with_context(|| format!("cannot bind to {interface}"))?;
        socket.set_broadcast(true)?;
        Ok(Self { socket })
    }

    /// Asks once and listens for `time`: every answer to the question, in the order of their coming.
    ///
    /// # Errors
    /// The question cannot be sent.
    pub fn ask(&self, ask: &Ask, to: SocketAddrV4, time: Duration) -> Result<Vec<Heard>> {
        let asked = Instant::now();
        self.socket.send_to(&ask.bytes(), to).with_context(|| format!("cannot send to {to}"))?;
        let mut heard = Vec::new();
        let mut buffer = [0; 2_048];
        loop {
            let rest = time.saturating_sub(asked.elapsed());
            if rest.is_zero() {
                return Ok(heard);
            }
            self.socket.set_read_timeout(Some(rest))?;
            match self.socket.recv_from(&mut buffer) {
                Ok((len, from)) => {
                    let message = buffer.get(..len).unwrap_or_default().to_vec();
                    let answer = Heard { from, after: asked.elapsed(), message };
                    if answer.answers(ask) {
                        heard.push(answer);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(heard),
                Err(error) => return Err(error).context("cannot listen for answers"),
            }
        }
    }

    /// Asks until `from` answers.
    ///
    /// # Errors
    /// It does not within `limit`.
    pub fn ask_until(
        &self,
        ask: &Ask,
        to: SocketAddrV4,
        from: Ipv4Addr,
        limit: Duration,
    ) -> Result<Heard> {
        crate::wait::until(&format!("{from} answers"), limit, || {
            let answers = self.ask(ask, to, Duration::from_millis(700))?;
            Ok(answers.into_iter().find(|answer| answer.from.ip() == from))
        })
    }
}
