//! Bytes of a datagram to what a boot request says (RFC 2131 §2, RFC 2132, RFC 4578).
//!
//! The borrowed half of `dhcproto` is used, and options are kept as bytes: firmware sends host names that are no text,
//! lists where one value is usual and relay options that nobody knows, and none of it may cost the machine its answer.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use dhcproto::v4::borrowed::{DhcpOptionIterator, Message};
use dhcproto::v4::{Flags, HType, MessageType, Opcode, OptionCode};
use pureboot_protocol::{Mac, MacError};

const ETHERNET_ADDRESS_LEN: u8 = 6;
/// Where an Ethernet address lies (RFC 2131 §2).
const CHADDR: std::ops::Range<usize> = 28..34;
/// iPXE's own options, sent in every one of its requests whatever its vendor class.
const IPXE_OPTIONS: u8 = 175;

/// Why a datagram is not a request of a machine. Nobody gets an answer; the text is for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Shorter than the header and the magic cookie.
    #[error("a datagram of {0} bytes is too short for DHCP")]
    Truncated(usize),
    /// An answer: of another server, or our own that came back.
    #[error("the packet is an answer (op {0}), not a request")]
    NotRequest(u8),
    /// Not Ethernet, or an address of another length.
    #[error("hardware type {htype} with addresses of {hlen} bytes is not Ethernet")]
    Hardware {
        /// The type.
        htype: u8,
        /// The length of the address in bytes.
        hlen: u8,
    },
    /// The hardware address belongs to no machine.
    #[error("{0}")]
    Address(MacError),
    /// No magic cookie or no option 53: BOOTP.
    #[error("the packet has no DHCP message type (option 53)")]
    Bootp,
}

/// What a machine asks, with the options that matter for booting it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Option 53.
    pub kind: MessageType,
    /// The machine.
    pub mac: Mac,
    /// The transaction.
    pub xid: u32,
    /// For how long it has been asking, in seconds, as it says.
    pub secs: u16,
    /// The header's flags; the highest bit asks for a broadcast.
    pub flags: u16,
    /// The address that it has; zero before it has one.
    pub ciaddr: Ipv4Addr,
    /// The address that it asks the server that leases addresses for (option 50).
    pub requested: Option<Ipv4Addr>,
    /// The relay that forwarded the request; zero without one.
    pub giaddr: Ipv4Addr,
    /// Option 60; empty if absent.
    pub class: Vec<u8>,
    /// Option 93; empty if absent.
    pub codes: Vec<u16>,
    /// Option 94.
    pub undi: Option<[u8; 3]>,
    /// Option 61.
    pub client_id: Option<Vec<u8>>,
    /// Option 97.
    pub machine_id: Option<Vec<u8>>,
    /// Option 82.
    pub relay_info: Option<Vec<u8>>,
    /// Option 55; empty if absent.
    pub wanted: Vec<u8>,
    /// Whether there are options of iPXE (175).
    pub has_ipxe_options: bool,
    /// Option 77 as it came; empty if absent.
    pub user_class: Vec<u8>,
    /// Whether the user class is that of iPXE, raw or with a length before it (RFC 3004).
    pub has_ipxe_class: bool,
}

impl Request {
    /// Reads a datagram.
    ///
    /// # Errors
    /// See [`ParseError`].
    pub fn parse(datagram: &[u8]) -> Result<Self, ParseError> {
        let truncated = || ParseError::Truncated(datagram.len());
        let header = Message::new(datagram).map_err(|_| truncated())?;
        match header.opcode() {
            Opcode::BootRequest => {}
            Opcode::BootReply => return Err(ParseError::NotRequest(2)),
            Opcode::Unknown(op) => return Err(ParseError::NotRequest(op)),
        }
        // `chaddr` slices by the length that the packet claims.
        if header.htype() != HType::Eth || header.hlen() != ETHERNET_ADDRESS_LEN {
            let (htype, hlen) = (header.htype().into(), header.hlen());
            return Err(ParseError::Hardware { htype, hlen });
        }
        let address = header.chaddr().try_into().map_err(|_| truncated())?;
        let mac = Mac::from_bytes(address).map_err(ParseError::Address)?;
        let mut options = collect_options(&header, datagram);
        let kind = options.get(&OptionCode::MessageType.into()).and_then(|kind| kind.first());
        let kind = MessageType::from(*kind.ok_or(ParseError::Bootp)?);
        let mut take = |code: OptionCode| options.remove(&code.into());
        let codes = take(OptionCode::ClientSystemArchitecture).unwrap_or_default();
        let codes = codes.chunks_exact(2).filter_map(|code| code.try_into().ok());
        let user_class = take(OptionCode::UserClass).unwrap_or_default();
        Ok(Self {
            kind,
            mac,
            xid: header.xid(),
            secs: header.secs(),
            flags: Flags::into(header.flags()),
            ciaddr: header.ciaddr(),
            requested: take(OptionCode::RequestedIpAddress)
                .and_then(|address| <[u8; 4]>::try_from(address).ok())
                .map(Ipv4Addr::from),
            giaddr: header.giaddr(),
            class: take(OptionCode::ClassIdentifier).unwrap_or_default(),
            codes: codes.map(u16::from_be_bytes).collect(),
            undi: take(OptionCode::ClientNetworkInterface).and_then(|undi| undi.try_into().ok()),
            client_id: take(OptionCode::ClientIdentifier),
            machine_id: take(OptionCode::ClientMachineIdentifier),
            relay_info: take(OptionCode::RelayAgentInformation),
            wanted: take(OptionCode::ParameterRequestList).unwrap_or_default(),
            has_ipxe_class: is_ipxe_class(&user_class),
            user_class,
            has_ipxe_options: options.contains_key(&IPXE_OPTIONS),
        })
    }

    /// The machine that a datagram seems to be of; what is no request is of none, and nothing is checked.
    pub fn mac_of(datagram: &[u8]) -> Option<Mac> {
        Mac::from_bytes(*datagram.get(CHADDR)?.first_chunk()?).ok()
    }

    /// Whether the request asks for an option.
    pub fn wants(&self, code: OptionCode) -> bool {
        self.wanted.contains(&code.into())
    }
}

/// All options by code, those of one code joined (RFC 3396), also from the header fields that option 52 gives over to them.
pub(crate) fn collect_options(header: &Message<'_>, datagram: &[u8]) -> BTreeMap<u8, Vec<u8>> {
    let mut options = BTreeMap::<u8, Vec<u8>>::new();
    for option in header.opts() {
        options.entry(option.code().into()).or_default().extend_from_slice(option.data());
    }
    let overload = options.get(&OptionCode::OptionOverload.into()).and_then(|value| value.first());
    // RFC 2131 §4.1: after the options field `file` is read, then `sname`. Where they lie: RFC 2131 §2.
    let fields: &[(usize, usize)] = match overload {
        Some(1) => &[(108, 236)],
        Some(2) => &[(44, 108)],
        Some(3) => &[(108, 236), (44, 108)],
        _ => &[],
    };
    for (start, end) in fields {
        for option in DhcpOptionIterator::new(datagram.get(*start..*end).unwrap_or_default()) {
            options.entry(option.code().into()).or_default().extend_from_slice(option.data());
        }
    }
    options
}

/// What the user class may be: the option as it is, and those that it is made of where each has its length before it (RFC 3004).
pub fn user_classes(option: &[u8]) -> Vec<&[u8]> {
    let mut classes = vec![option];
    let mut rest = option;
    while let [len, tail @ ..] = rest {
        let Some((instance, others)) = tail.split_at_checked(usize::from(*len)) else { break };
        classes.push(instance);
        rest = others;
    }
    classes
}

fn is_ipxe_class(class: &[u8]) -> bool {
    user_classes(class).contains(&&b"iPXE"[..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_class_of_ipxe_is_known_raw_and_with_lengths() {
        for class in [&b"iPXE"[..], b"\x04iPXE", b"\x03abc\x04iPXE", b"\x04iPXE\x01x"] {
            assert!(is_ipxe_class(class), "{class:?}");
        }
        for class in
            [&b""[..], b"\0", b"iPXE2", b"\x05iPXE", b"gPXE", b"\x04gPXE", b"\xff", b"ipxe"]
        {
            assert!(!is_ipxe_class(class), "{class:?}");
        }
    }
}
