//! The bytes of an answer, and where they go.

use std::net::Ipv4Addr;

use dhcproto::Encodable;
use dhcproto::v4::{DhcpOption, Flags, MIN_PACKET_SIZE, Message, MessageType, Opcode, OptionCode};

use super::{Arrival, Choice, Destination, Port, Reason};
use crate::dhcp::arch::Family;
use crate::dhcp::loaders::LOADER_FILE_LEN_MAX;
use crate::dhcp::packet::Request;
use crate::dhcp::quirks::OfferMode;

/// Where the answer goes (RFC 2131 §4.1; PXE 2.1 §2.2.3 for port 4011).
pub(super) fn destination(request: &Request, arrival: &Arrival<'_>) -> Result<Destination, Reason> {
    let is_machine = |address: Ipv4Addr| {
        !(address.is_unspecified()
            || address.is_broadcast()
            || address.is_multicast()
            || address.is_loopback()
            || address == arrival.address)
    };
    let (address, destination) = match arrival.port {
        Port::BootServer if arrival.source.ip().is_unspecified() => {
            return Ok(Destination::Broadcast);
        }
        Port::BootServer => (*arrival.source.ip(), Destination::Source(arrival.source)),
        Port::Dhcp if !request.giaddr.is_unspecified() => {
            (request.giaddr, Destination::Relay(request.giaddr))
        }
        Port::Dhcp if !request.ciaddr.is_unspecified() => {
            (request.ciaddr, Destination::Machine(request.ciaddr))
        }
        Port::Dhcp => return Ok(Destination::Broadcast),
    };
    let has_port = destination.address().port() != 0;
    if is_machine(address) && has_port {
        Ok(destination)
    } else {
        Err(Reason::Destination(address))
    }
}

/// The bytes of an answer.
pub(super) fn emit(request: &Request, kind: MessageType, choice: &Choice, us: Ipv4Addr) -> Vec<u8> {
    let ciaddr = match kind {
        MessageType::Ack => request.ciaddr,
        _ => Ipv4Addr::UNSPECIFIED,
    };
    let unassigned = Ipv4Addr::UNSPECIFIED;
    let mac = request.mac.as_bytes();
    let mut message =
        Message::new_with_id(request.xid, ciaddr, unassigned, us, request.giaddr, mac);
    message.set_opcode(Opcode::BootReply).set_flags(Flags::new(request.flags));
    // shim reads only the header, EDK2 prefers option 67.
    if choice.file.len() <= LOADER_FILE_LEN_MAX {
        message.set_fname(choice.file.as_bytes());
    }
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ServerIdentifier(us));
    options.insert(DhcpOption::ClassIdentifier(choice.family.class().into()));
    options.insert(DhcpOption::BootfileName(choice.file.clone().into_bytes()));
    if let Some(value) = choice.boot.mode().and_then(OfferMode::vendor_options) {
        options.insert(DhcpOption::VendorExtensions(value.to_vec()));
    }
    // RFC 6842 §3 for the client identifier; some ROMs accept no answer without their machine identifier.
    if let Some(id) = &request.client_id {
        options.insert(DhcpOption::ClientIdentifier(id.clone()));
    }
    if let Some(id) = &request.machine_id {
        options.insert(DhcpOption::ClientMachineIdentifier(id.clone()));
    }
    if choice.family == Family::Pxe {
        options.insert(DhcpOption::TFTPServerName(us.to_string().into_bytes()));
        if request.wants(OptionCode::TFTPServerAddress) {
            options.insert(DhcpOption::TFTPServerAddress(us));
        }
        message.set_sname(us.to_string().as_bytes());
    }
    let mut packet = message.to_vec().expect("what has a fixed place in the header fits there");
    if let Some(relay_info) = &request.relay_info {
        append_relay_info(&mut packet, relay_info);
    }
    // RFC 1542 §2.1: relays may drop what is shorter.
    packet.resize(packet.len().max(MIN_PACKET_SIZE), 0);
    packet
}

/// Puts option 82 last (RFC 3046 §2.2), as it came: `dhcproto` would read it and write its own order.
fn append_relay_info(packet: &mut Vec<u8>, relay_info: &[u8]) {
    packet.pop_if(|last| *last == u8::from(OptionCode::End));
    for chunk in relay_info.chunks(usize::from(u8::MAX)) {
        packet.push(OptionCode::RelayAgentInformation.into());
        packet.push(u8::try_from(chunk.len()).unwrap_or(u8::MAX));
        packet.extend_from_slice(chunk);
    }
    packet.push(OptionCode::End.into());
}
