//! What a machine asked of the network, read from a capture of its cable: the classic format of libpcap, Ethernet, IPv4.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::dhcp;

/// A request, as far as boots have them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// A DHCP message.
    Dhcp {
        /// The port that it went to.
        port: u16,
        /// Its type (option 53).
        kind: u8,
        /// The codes of its options in their order.
        options: Vec<u8>,
    },
    /// A read request by TFTP.
    Tftp {
        /// The server.
        to: Ipv4Addr,
        /// The file.
        name: String,
    },
    /// A request by HTTP.
    Http {
        /// The machine's port, which tells its connections apart.
        port: u16,
        /// The request line without the version.
        line: String,
    },
}

const FILE_HEADER_LEN: usize = 24;
const RECORD_HEADER_LEN: usize = 16;
const ETHERNET_HEADER_LEN: usize = 14;
const UDP_HEADER_LEN: usize = 8;

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The requests of the machine `mac` in a capture, each with its time; a record that is not whole yet ends it.
pub fn read(capture: &[u8], mac: &str) -> Vec<(Duration, Sent)> {
    let mut sent = Vec::new();
    let mut rest = capture.get(FILE_HEADER_LEN..).unwrap_or_default();
    while let Some((at, frame, after)) = record(rest) {
        sent.extend(parse(frame, mac).map(|found| (at, found)));
        rest = after;
    }
    sent
}

/// The first record: its time, its frame, and what follows.
fn record(bytes: &[u8]) -> Option<(Duration, &[u8], &[u8])> {
    let number = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let at = Duration::from_secs(number(0)?.into()) + Duration::from_micros(number(4)?.into());
    let len = usize::try_from(number(8)?).ok()?;
    let (frame, after) = bytes.get(RECORD_HEADER_LEN..)?.split_at_checked(len)?;
    Some((at, frame, after))
}

/// The IPv4 packet in an Ethernet frame that `mac` sent: its destination, its protocol and its payload.
fn ipv4<'a>(frame: &'a [u8], mac: &str) -> Option<(Ipv4Addr, u8, &'a [u8])> {
    let source: Vec<_> = frame.get(6..12)?.iter().map(|byte| format!("{byte:02x}")).collect();
    if source.join(":") != mac || be16(frame, 12)? != 0x0800 {
        return None;
    }
    let packet = frame.get(ETHERNET_HEADER_LEN..)?;
    let header_len = usize::from(packet.first()? & 15) * 4;
    let len = usize::from(be16(packet, 2)?);
    let to = Ipv4Addr::from(*packet.get(16..)?.first_chunk::<4>()?);
    Some((to, *packet.get(9)?, packet.get(header_len..len)?))
}

fn parse(frame: &[u8], mac: &str) -> Option<Sent> {
    match ipv4(frame, mac)? {
        (to, 17, datagram) => {
            let (port, payload) = (be16(datagram, 2)?, datagram.get(UDP_HEADER_LEN..)?);
            match port {
                67 | 4011 => message(port, payload),
                69 if be16(payload, 0)? == 1 => {
                    let name = payload.get(2..)?.split(|byte| *byte == 0).next()?;
                    let name = String::from_utf8_lossy(name).into_owned();
                    Some(Sent::Tftp { to, name })
                }
                _ => None,
            }
        }
        (_, 6, segment) => {
            let payload = segment.get(usize::from(*segment.get(12)? >> 4) * 4..)?;
            let line = payload.split(|byte| *byte == b'\r').next()?;
            let line = String::from_utf8_lossy(line);
            let line = line.strip_suffix(" HTTP/1.1").or_else(|| line.strip_suffix(" HTTP/1.0"))?;
            Some(Sent::Http { port: be16(segment, 0)?, line: line.to_owned() })
        }
        _ => None,
    }
}

fn message(port: u16, message: &[u8]) -> Option<Sent> {
    let (mut kind, mut options) = (0, Vec::new());
    for (code, value) in dhcp::options(message.get(dhcp::HEADER_LEN..)?) {
        if code == 53 {
            kind = *value.first()?;
        }
        options.push(code);
    }
    Some(Sent::Dhcp { port, kind, options })
}

/// The names that a machine asked for by TFTP, each once for every time that it asked anew.
pub fn tftp_names(sent: &[Sent]) -> Vec<&str> {
    sent.iter()
        .filter_map(|sent| match sent {
            Sent::Tftp { name, .. } => Some(name.as_str()),
            _ => None,
        })
        .collect()
}

/// The request lines of a machine by HTTP with the ports that they came from.
pub fn http_lines(sent: &[Sent]) -> Vec<(u16, &str)> {
    sent.iter()
        .filter_map(|sent| match sent {
            Sent::Http { port, line } => Some((*port, line.as_str())),
            _ => None,
        })
        .collect()
}
