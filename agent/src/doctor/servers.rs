//! The DHCP servers of a network: a question as firmware asks it, and what the answers mean for booting machines. Pure.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use dhcproto::Encodable;
use dhcproto::v4::borrowed::Message as Read;
use dhcproto::v4::{DhcpOption, Flags, Message, MessageType, Opcode, OptionCode, UnknownOption};
use pureboot_protocol::Mac;

use super::finding::Finding;
use crate::dhcp::packet::collect_options;

/// As OVMF says it; servers that choose the file by architecture know this one.
const CLASS: &[u8] = b"PXEClient:Arch:00007:UNDI:003016";
const ARCHITECTURE: [u8; 2] = [0, 7];
const UNDI: [u8; 3] = [1, 3, 16];
/// The longest name of a file that is told, in characters.
const FILE_LEN_SHOWN: usize = 128;

/// Addresses that begin so are the doctor's own: locally administered (RFC 7042 §2.1), so no maker gives them to a machine.
const PROBE_PREFIX: [u8; 3] = [0x02, b'p', b'b'];

/// An address that no machine has.
pub fn probe_address(random: [u8; 3]) -> Mac {
    let [a, b, c] = PROBE_PREFIX;
    let [d, e, f] = random;
    Mac::from_bytes([a, b, c, d, e, f]).expect("unicast and not zero")
}

/// Whether a boot is the doctor's own question.
pub fn is_probe(mac: Mac) -> bool {
    mac.as_bytes().starts_with(&PROBE_PREFIX)
}

/// A DISCOVER that asks for an address and for everything that a boot file is named by.
pub fn discover(mac: Mac, xid: u32) -> Vec<u8> {
    let nowhere = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(xid, nowhere, nowhere, nowhere, nowhere, mac.as_bytes());
    message.set_flags(Flags::default().set_broadcast());
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(MessageType::Discover));
    options.insert(DhcpOption::ParameterRequestList(vec![
        OptionCode::SubnetMask,
        OptionCode::Router,
        OptionCode::VendorExtensions,
        OptionCode::ServerIdentifier,
        OptionCode::ClassIdentifier,
        OptionCode::TFTPServerName,
        OptionCode::BootfileName,
        OptionCode::TFTPServerAddress,
    ]));
    options.insert(DhcpOption::ClassIdentifier(CLASS.to_vec()));
    let mut raw = |code: OptionCode, value: &[u8]| {
        options.insert(DhcpOption::Unknown(UnknownOption::new(code, value.to_vec())));
    };
    raw(OptionCode::ClientSystemArchitecture, &ARCHITECTURE);
    raw(OptionCode::ClientNetworkInterface, &UNDI);
    raw(OptionCode::ClientMachineIdentifier, &[0; 17]);
    message.to_vec().expect("what has a fixed place in the header fits there")
}

/// A server that answered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Heard {
    /// Its address (option 54, or where the answer came from).
    pub server: Ipv4Addr,
    /// Whether it offers an address too.
    pub leases: bool,
    /// The boot file (option 67, or the header).
    pub file: Option<String>,
    /// Where that file is (`siaddr`, or option 66).
    pub next_server: Option<String>,
    /// Whether it sends option 43, by which PXE chooses among servers.
    pub has_vendor_options: bool,
}

/// What an answer to the question `xid` says; none for everything else.
pub fn parse_answer(datagram: &[u8], xid: u32, source: Ipv4Addr) -> Option<Heard> {
    let header = Read::new(datagram).ok()?;
    if header.opcode() != Opcode::BootReply || header.xid() != xid {
        return None;
    }
    let mut options = collect_options(&header, datagram);
    let mut take = |code: OptionCode| options.remove(&u8::from(code));
    let offer = u8::from(MessageType::Offer);
    take(OptionCode::MessageType).filter(|kind| kind.first() == Some(&offer))?;
    let server = take(OptionCode::ServerIdentifier)
        .and_then(|value| <[u8; 4]>::try_from(value).ok())
        .map_or(source, Ipv4Addr::from);
    // RFC 2131 §4.1: a field that option 52 gives over to options holds no name.
    let overload = take(OptionCode::OptionOverload).and_then(|value| value.first().copied());
    let in_header = match overload {
        Some(1 | 3) => None,
        _ => text(header.fname()),
    };
    let file = take(OptionCode::BootfileName).and_then(|value| text(&value)).or(in_header);
    let siaddr = Some(header.siaddr()).filter(|address| !address.is_unspecified());
    let next_server = take(OptionCode::TFTPServerName).and_then(|value| text(&value));
    Some(Heard {
        server,
        leases: !header.yiaddr().is_unspecified(),
        file,
        next_server: siaddr.map(|address| address.to_string()).or(next_server),
        has_vendor_options: take(OptionCode::VendorExtensions).is_some(),
    })
}

/// Up to the first zero; none if there is nothing before it.
fn text(bytes: &[u8]) -> Option<String> {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let text: String = String::from_utf8_lossy(bytes).chars().take(FILE_LEN_SHOWN).collect();
    (!text.is_empty()).then_some(text)
}

/// What the servers on `interface` mean for machines that are to boot from an agent with the addresses `own`, which itself
/// answers by ProxyDHCP or not.
pub fn judge(
    interface: &str,
    heard: &BTreeSet<Heard>,
    own: &[Ipv4Addr],
    is_proxy_on: bool,
) -> Vec<Finding> {
    let name = format!("dhcp {interface}");
    let is_own = |address: &str| own.iter().any(|own| own.to_string() == address);
    let mut findings = Vec::new();
    for Heard { server, leases, file, next_server, has_vendor_options } in heard {
        let is_this_agent = own.contains(server) && !leases;
        let points_here = next_server.as_deref().map_or(own.contains(server), is_own)
            || file.as_deref().is_some_and(|file| {
                own.iter().any(|own| file.starts_with(&format!("http://{own}")))
            });
        let role = if *leases { "leases addresses" } else { "is a boot server" };
        findings.push(match file {
            _ if is_this_agent => Finding::ok(&name, "this agent answers"),
            Some(file) if points_here => {
                Finding::ok(&name, format!("{server} {role} and names '{file}' at this agent"))
            }
            Some(file) => {
                let at = next_server.as_deref().unwrap_or("an address it leaves out");
                let what = format!("{server} {role} and names the boot file '{file}' at {at}");
                let finding = if is_proxy_on {
                    Finding::fail(&name, what)
                } else {
                    Finding::warn(&name, what)
                };
                finding
                    .because("UEFI may take this agent's file and iPXE obeys that server, so machines load something else")
                    .cure(format!("remove options 66 and 67 (next-server, filename) from {server}, or point them here: `pureboot-agent dhcp-snippet`"))
            }
            None if *has_vendor_options && !leases => {
                Finding::warn(&name, format!("{server} is another boot server (option 43 without a file)"))
                    .because("machines may go to its port 4011 and not to this agent's")
                    .cure(format!("switch PXE off on {server}"))
            }
            None => Finding::ok(&name, format!("{server} {role} and names no boot file")),
        });
    }
    let leasing: Vec<_> =
        heard.iter().filter(|heard| heard.leases).map(|heard| heard.server).collect();
    let distinct: BTreeSet<_> = leasing.iter().collect();
    if leasing.is_empty() {
        findings.push(
            Finding::warn(&name, "nobody offered an address within 3 s")
                .because("a machine without an address boots nothing; ProxyDHCP leases none")
                .cure("start the site's DHCP server, or look for a filter on port 67/udp"),
        );
    } else if distinct.len() > 1 {
        let list: Vec<_> = distinct.iter().map(ToString::to_string).collect();
        findings.push(
            Finding::warn(
                &name,
                format!("{} servers lease addresses: {}", list.len(), list.join(", ")),
            )
            .because("which of them a machine obeys changes from boot to boot")
            .cure("switch off all but one, unless they are a pair that knows of each other"),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::packet::Request;
    use crate::doctor::finding::Severity;

    const XID: u32 = 0xcafe_babe;
    const ROGUE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
    const US: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);

    fn offer(yiaddr: [u8; 4], siaddr: Ipv4Addr, file: &[u8], options: Vec<DhcpOption>) -> Vec<u8> {
        let zero = Ipv4Addr::UNSPECIFIED;
        let mut message =
            Message::new_with_id(XID, zero, yiaddr.into(), siaddr, zero, &[2, 0, 0, 0, 0, 1]);
        message.set_opcode(Opcode::BootReply).set_fname(file);
        message.opts_mut().insert(DhcpOption::MessageType(MessageType::Offer));
        message.opts_mut().insert(DhcpOption::ServerIdentifier(ROGUE));
        for option in options {
            message.opts_mut().insert(option);
        }
        message.to_vec().expect("a packet")
    }

    fn heard(leases: bool, file: Option<&str>, next_server: Option<&str>) -> Heard {
        Heard {
            server: ROGUE,
            leases,
            file: file.map(ToOwned::to_owned),
            next_server: next_server.map(ToOwned::to_owned),
            has_vendor_options: false,
        }
    }

    #[test]
    fn the_question_is_one_of_firmware_with_an_address_of_nobody() {
        for random in [[0; 3], [0xff; 3], [1, 2, 3]] {
            let mac = probe_address(random);
            assert_eq!(mac.as_bytes()[0] & 3, 2, "locally administered and unicast");
            assert!(is_probe(mac));
            let request = Request::parse(&discover(mac, XID)).expect("a request");
            assert_eq!((request.mac, request.xid, request.codes), (mac, XID, vec![7]));
            assert_eq!((request.kind, request.flags), (MessageType::Discover, 0x8000));
            assert!(!request.has_ipxe_options && request.class == CLASS);
        }
    }

    #[test]
    fn what_a_server_names_is_read_from_options_and_header() {
        let file = |text: &str| DhcpOption::BootfileName(text.as_bytes().to_vec());
        let name = |text: &str| DhcpOption::TFTPServerName(text.as_bytes().to_vec());
        let zero = Ipv4Addr::UNSPECIFIED;
        let read = |packet: Vec<u8>| parse_answer(&packet, XID, Ipv4Addr::LOCALHOST);
        assert_eq!(
            read(offer([10, 9, 0, 50], US, b"rogue.0", vec![])),
            Some(heard(true, Some("rogue.0"), Some("10.9.0.2")))
        );
        assert_eq!(
            read(offer([0; 4], zero, b"", vec![file("a.efi\0"), name("boot.lan")])),
            Some(heard(false, Some("a.efi"), Some("boot.lan")))
        );
        assert_eq!(read(offer([10, 9, 0, 50], zero, b"", vec![])), Some(heard(true, None, None)));
        let vendor = read(offer([0; 4], zero, b"", vec![DhcpOption::VendorExtensions(vec![255])]));
        assert!(vendor.is_some_and(|heard| heard.has_vendor_options));
    }

    #[test]
    fn what_is_no_answer_to_the_question_is_left_out() {
        let packet = offer([10, 9, 0, 50], US, b"", vec![]);
        assert_eq!(parse_answer(&packet, XID + 1, ROGUE), None);
        assert_eq!(parse_answer(&discover(probe_address([7; 3]), XID), XID, ROGUE), None);
        for len in [0, 1, 100, 239, 240] {
            assert_eq!(parse_answer(&packet[..len], XID, ROGUE), None, "{len}");
        }
    }

    #[test]
    fn a_server_with_a_boot_file_of_its_own_is_named() {
        let us = US.to_string();
        let judge = |heard: &[Heard], is_proxy_on| {
            judge("br0", &heard.iter().cloned().collect(), &[US], is_proxy_on)
        };
        let rogue = judge(&[heard(true, Some("rogue.0"), Some("10.9.0.9"))], true);
        let [finding] = rogue.as_slice() else { panic!("{rogue:#?}") };
        assert_eq!(finding.severity, Severity::Fail);
        assert_eq!(
            finding.what,
            "10.9.0.1 leases addresses and names the boot file 'rogue.0' at 10.9.0.9"
        );
        for (heard, is_proxy_on, severities) in [
            (vec![heard(true, Some("rogue.0"), None)], false, vec![Severity::Warn]),
            (vec![heard(true, Some("ipxe.efi"), Some(&us))], false, vec![Severity::Ok]),
            (
                vec![heard(true, Some("http://10.9.0.2:8080/boot.ipxe"), None)],
                true,
                vec![Severity::Ok],
            ),
            (vec![heard(true, None, Some("10.9.0.1"))], true, vec![Severity::Ok]),
            (vec![], true, vec![Severity::Warn]),
            (
                vec![Heard { server: US, ..heard(false, Some("ipxe.efi"), Some(&us)) }],
                true,
                vec![Severity::Ok, Severity::Warn],
            ),
            (
                vec![heard(true, None, None), Heard { server: US, ..heard(true, None, None) }],
                true,
                vec![Severity::Ok, Severity::Ok, Severity::Warn],
            ),
            (
                vec![Heard { has_vendor_options: true, ..heard(false, None, None) }],
                true,
                vec![Severity::Warn, Severity::Warn],
            ),
        ] {
            let found: Vec<_> =
                judge(&heard, is_proxy_on).iter().map(|finding| finding.severity).collect();
            assert_eq!(found, severities, "{heard:?}");
        }
    }
}
