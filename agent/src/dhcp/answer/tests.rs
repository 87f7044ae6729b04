mod firmware;
mod operator;
mod properties;

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::clock::monotonic;
use crate::dhcp::DhcpConfig;
use crate::dhcp::loaders::LOADER_FILE_LEN_MAX;
use crate::dhcp::quirks::Proof;

const US: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const MACHINE: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const PXE_X64: &[u8] = b"PXEClient:Arch:00007:UNDI:003016";
const PXE_BIOS: &[u8] = b"PXEClient:Arch:00000:UNDI:002001";
const ANYBODY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);
const LEASED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 9, 0, 77), 4011);
const DISCOVER: u8 = 1;
const REQUEST: u8 = 3;
const INFORM: u8 = 8;

/// A request as firmware writes it: the header with these fields, then these options in this order.
#[derive(Clone)]
struct Ask {
    header: Vec<u8>,
    options: Vec<(u8, Vec<u8>)>,
}

impl Ask {
    fn new(kind: u8, class: &[u8], code: Option<u16>) -> Self {
        let mut header = vec![0; 240];
        header[..3].copy_from_slice(&[1, 1, 6]);
        header[4..8].copy_from_slice(&[0xca, 0xfe, 0xba, 0xbe]);
        header[28..34].copy_from_slice(&MACHINE);
        header[236..].copy_from_slice(&[99, 130, 83, 99]);
        let mut options = vec![(53, vec![kind])];
        options.extend(code.map(|code| (93, code.to_be_bytes().to_vec())));
        options.push((60, class.to_vec()));
        Self { header, options }
    }

    fn with(mut self, code: u8, value: &[u8]) -> Self {
        self.options.push((code, value.to_vec()));
        self
    }

    fn field(mut self, at: usize, value: &[u8]) -> Self {
        self.header[at..at + value.len()].copy_from_slice(value);
        self
    }

    fn xid(self, xid: u32) -> Self {
        self.field(4, &xid.to_be_bytes())
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header.clone();
        for (code, value) in &self.options {
            bytes.extend([*code, u8::try_from(value.len()).unwrap()]);
            bytes.extend(value);
        }
        bytes.push(255);
        bytes
    }
}

fn answerer() -> Answerer {
    Answerer::new(Loaders::default(), 8080, [])
}

fn arrival(datagram: &[u8], port: Port) -> Arrival<'_> {
    let source = if port == Port::Dhcp { ANYBODY } else { LEASED };
    Arrival { datagram, source, port, address: US, user_agents: &[] }
}

/// The answer that a fresh answerer gives on port 67.
fn offer(ask: &Ask) -> Reply {
    answerer().handle_packet(&arrival(&ask.bytes(), Port::Dhcp), monotonic()).expect("an answer")
}

/// The reason for which a fresh answerer is silent.
fn silence(ask: &Ask, port: Port) -> Reason {
    let silence = answerer().handle_packet(&arrival(&ask.bytes(), port), monotonic());
    silence.expect_err("silence").reason
}

/// The options of an answer in their order; panics where they are not well-formed.
fn options(packet: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut options = Vec::new();
    let mut rest = &packet[240..];
    while rest[0] != 255 {
        let (value, tail) = rest[2..].split_at(usize::from(rest[1]));
        options.push((rest[0], value.to_vec()));
        rest = tail;
    }
    assert!(rest[1..].iter().all(|byte| *byte == 0), "nothing but padding follows the end");
    options
}

fn option(packet: &[u8], code: u8) -> Option<Vec<u8>> {
    let found: Vec<_> = options(packet).into_iter().filter(|(have, _)| *have == code).collect();
    assert!(found.len() <= 1, "option {code} stands once");
    found.into_iter().next().map(|(_, value)| value)
}

/// The text of a zero-filled field of the header.
fn text(field: &[u8]) -> &str {
    let end = field.iter().position(|byte| *byte == 0).expect("ends in zero");
    std::str::from_utf8(&field[..end]).expect("text")
}

#[test]
fn an_offer_to_uefi_has_every_field_that_firmware_reads() {
    let ask = Ask::new(DISCOVER, PXE_X64, Some(7))
        .with(97, &[0; 17])
        .with(61, b"\x01id")
        .with(55, &[1, 3, 66, 67, 150])
        .field(10, &[0x80, 0])
        .field(8, &[0, 4]);
    let reply = offer(&ask);
    let packet = &reply.packet;
    assert_eq!(packet[..4], [2, 1, 6, 0]);
    assert_eq!(packet[4..8], [0xca, 0xfe, 0xba, 0xbe]);
    assert_eq!(packet[8..10], [0, 0], "secs");
    assert_eq!(packet[10..12], [0x80, 0], "flags");
    assert_eq!(packet[12..20], [0; 8], "ciaddr and yiaddr");
    assert_eq!(packet[20..24], US.octets(), "siaddr");
    assert_eq!(packet[24..28], [0; 4], "giaddr");
    assert_eq!(packet[28..44], [&MACHINE[..], &[0; 10]].concat(), "chaddr");
    assert_eq!(text(&packet[44..108]), "10.9.0.2", "sname");
    assert_eq!(text(&packet[108..236]), "snponly-x64.efi", "file");
    let expected: BTreeMap<u8, Vec<u8>> = [
        (43, vec![6, 1, 8, 255]),
        (53, vec![2]),
        (54, US.octets().to_vec()),
        (60, b"PXEClient".to_vec()),
        (61, b"\x01id".to_vec()),
        (66, b"10.9.0.2".to_vec()),
        (67, b"snponly-x64.efi".to_vec()),
        (97, vec![0; 17]),
        (150, US.octets().to_vec()),
    ]
    .into();
    assert_eq!(options(packet).into_iter().collect::<BTreeMap<_, _>>(), expected);
    assert_eq!(reply.destination.address().to_string(), "255.255.255.255:68");
    assert_eq!(reply.file, "snponly-x64.efi");
}

#[test]
fn what_was_not_asked_for_is_not_sent() {
    let packet = offer(&Ask::new(DISCOVER, PXE_BIOS, Some(0))).packet;
    let codes: Vec<_> = options(&packet).into_iter().map(|(code, _)| code).collect();
    assert_eq!(codes, [43, 53, 54, 60, 66, 67]);
    assert!(packet.len() >= 300);
}

#[test]
fn an_http_client_gets_a_url_with_the_address_and_nothing_of_tftp() {
    let ask = Ask::new(DISCOVER, b"HTTPClient:Arch:00016:UNDI:003001", Some(0x10))
        .with(55, &[66, 67, 150]);
    let packet = offer(&ask).packet;
    let url = "http://10.9.0.2:8080/files/bootloaders/snponly-x64.efi";
    assert_eq!(option(&packet, 67).as_deref(), Some(url.as_bytes()));
    assert_eq!(text(&packet[108..236]), url);
    assert_eq!(option(&packet, 60).as_deref(), Some(&b"HTTPClient"[..]));
    for code in [43, 66, 150] {
        assert_eq!(option(&packet, code), None, "{code}");
    }
    assert_eq!(text(&packet[44..108]), "");
}

#[test]
fn a_url_that_the_header_cannot_hold_stands_in_option_67_alone() {
    let before = "http://10.9.0.2:65535/files/bootloaders/".len();
    for (url_len, is_in_header) in [(LOADER_FILE_LEN_MAX, true), (LOADER_FILE_LEN_MAX + 1, false)] {
        let name = "a".repeat(url_len - before);
        let loaders: Loaders = toml::from_str(&format!("x64 = {name:?}")).unwrap();
        let ask = Ask::new(DISCOVER, b"HTTPClient", Some(0x10)).bytes();
        let reply = Answerer::new(loaders, 65_535, [])
            .handle_packet(&arrival(&ask, Port::Dhcp), monotonic())
            .expect("an offer");
        assert_eq!(reply.file.len(), url_len);
        assert_eq!(option(&reply.packet, 67).as_deref(), Some(reply.file.as_bytes()));
        let in_header = if is_in_header { reply.file.as_str() } else { "" };
        assert_eq!(text(&reply.packet[108..236]), in_header);
    }
}

#[test]
fn a_request_on_port_4011_is_acknowledged_where_it_came_from() {
    let ask = Ask::new(REQUEST, PXE_X64, Some(7)).field(12, &LEASED.ip().octets());
    let reply = answerer()
        .handle_packet(&arrival(&ask.bytes(), Port::BootServer), monotonic())
        .expect("an answer");
    assert_eq!(reply.destination.address(), LEASED);
    assert_eq!(option(&reply.packet, 53), Some(vec![5]));
    assert_eq!(reply.packet[12..16], LEASED.ip().octets(), "ciaddr");
    assert_eq!(reply.packet[16..20], [0; 4], "yiaddr");
    assert_eq!(text(&reply.packet[108..236]), "snponly-x64.efi");
}

#[test]
fn an_inform_is_acknowledged_on_both_ports() {
    let ask = Ask::new(INFORM, PXE_BIOS, Some(0)).field(12, &[10, 9, 0, 77]);
    for (port, to) in [(Port::Dhcp, "10.9.0.77:68"), (Port::BootServer, "10.9.0.77:4011")] {
        let reply = answerer().handle_packet(&arrival(&ask.bytes(), port), monotonic()).unwrap();
        assert_eq!(option(&reply.packet, 53), Some(vec![5]));
        assert_eq!(reply.destination.address().to_string(), to);
    }
}

#[test]
fn a_request_on_port_67_is_for_the_leasing_server() {
    let reason = silence(&Ask::new(REQUEST, PXE_X64, Some(7)), Port::Dhcp);
    assert_eq!(reason, Reason::NotForUs(MessageType::Request, 67));
    for kind in [2, 4, 5, 6, 7, 9, 13, 0, 200] {
        for port in [Port::Dhcp, Port::BootServer] {
            let reason = silence(&Ask::new(kind, PXE_X64, Some(7)), port);
            assert!(matches!(reason, Reason::NotForUs(..)), "{kind}");
        }
    }
    let reason = silence(&Ask::new(DISCOVER, PXE_X64, Some(7)), Port::BootServer);
    assert_eq!(reason, Reason::NotForUs(MessageType::Discover, 4011));
}

#[test]
fn a_relayed_request_is_answered_to_the_relay_with_its_information_last() {
    let info: Vec<u8> = (0..200).collect();
    let ask = Ask::new(DISCOVER, PXE_X64, Some(7))
        .with(82, &info)
        .with(97, &[7; 17])
        .field(24, &[10, 20, 0, 1]);
    let reply = offer(&ask);
    assert_eq!(reply.destination.address().to_string(), "10.20.0.1:67");
    assert_eq!(reply.packet[24..28], [10, 20, 0, 1], "giaddr");
    assert_eq!(options(&reply.packet).last(), Some(&(82, info)));
}

#[test]
fn relay_information_in_two_options_comes_back_in_two_options() {
    let ask = Ask::new(DISCOVER, PXE_X64, Some(7)).with(82, &[1; 255]).with(82, &[2; 9]);
    let reply = offer(&ask);
    let options = options(&reply.packet);
    assert_eq!(options[options.len() - 2..], [(82, vec![1; 255]), (82, vec![2; 9])]);
}

#[test]
fn an_answer_goes_to_no_address_that_cannot_be_a_machine_or_a_relay() {
    for address in [[255; 4], [224, 0, 0, 1], [127, 0, 0, 1], US.octets()] {
        for (at, kind) in [(24, DISCOVER), (12, INFORM)] {
            let reason = silence(&Ask::new(kind, PXE_X64, Some(7)).field(at, &address), Port::Dhcp);
            assert_eq!(reason, Reason::Destination(address.into()));
        }
    }
    let ask = Ask::new(REQUEST, PXE_X64, Some(7)).bytes();
    for (source, is_answered) in
        [("127.0.0.1:4011", false), ("10.9.0.7:0", false), ("0.0.0.0:68", true)]
    {
        let arrival =
            Arrival { source: source.parse().unwrap(), ..arrival(&ask, Port::BootServer) };
        assert_eq!(
            answerer().handle_packet(&arrival, monotonic()).is_ok(),
            is_answered,
            "{source}"
        );
    }
}

#[test]
fn an_offer_in_mode_b_has_no_option_43_and_is_completed_on_port_4011() {
    let mac = Mac::from_bytes(MACHINE).unwrap();
    let lesson = |proof| Lesson { mac, mode: OfferMode::BootServer, proof };
    let mut answerer = Answerer::new(Loaders::default(), 8080, [lesson(Proof::Untried)]);
    let ask = Ask::new(DISCOVER, PXE_X64, Some(7)).bytes();
    let reply = answerer.handle_packet(&arrival(&ask, Port::Dhcp), monotonic()).unwrap();
    assert_eq!(option(&reply.packet, 43), None);
    assert_eq!(option(&reply.packet, 67).as_deref(), Some(&b"snponly-x64.efi"[..]));
    let ask = Ask::new(REQUEST, PXE_X64, Some(7)).bytes();
    let reply = answerer.handle_packet(&arrival(&ask, Port::BootServer), monotonic()).unwrap();
    assert_eq!(option(&reply.packet, 43), None);
    assert_eq!(reply.lesson, Some(lesson(Proof::Worked)));
}

#[test]
fn a_client_that_ignores_the_offer_twice_is_offered_mode_b() {
    let mut answerer = answerer();
    let start = monotonic();
    let ask = Ask::new(DISCOVER, PXE_X64, Some(7));
    let mut modes = Vec::new();
    for secs in [0_u8, 4, 12] {
        let datagram = ask.clone().field(8, &[0, secs]).bytes();
        let now = start + Duration::from_secs(secs.into());
        let reply = answerer.handle_packet(&arrival(&datagram, Port::Dhcp), now).unwrap();
        modes.push((option(&reply.packet, 43).is_some(), reply.lesson.is_some()));
    }
    assert_eq!(modes, [(true, false), (true, false), (false, true)]);
}

#[test]
fn what_follows_an_offer_shows_that_it_was_understood() {
    let mac = Mac::from_bytes(MACHINE).unwrap();
    for follower in [None, Some((REQUEST, PXE_X64)), Some((DISCOVER, b"PXEClient"))] {
        let mut answerer = answerer();
        let start = monotonic();
        for second in [0, 45, 90, 135] {
            let now = start + Duration::from_secs(second);
            let ask = Ask::new(DISCOVER, PXE_X64, Some(7)).bytes();
            let reply = answerer.handle_packet(&arrival(&ask, Port::Dhcp), now).unwrap();
            assert!(option(&reply.packet, 43).is_some());
            if let Some((kind, class)) = follower {
                let next = Ask::new(kind, class, Some(7)).bytes();
                let answer = answerer.handle_packet(&arrival(&next, Port::Dhcp), now);
                assert_eq!(answer.is_ok(), kind == DISCOVER);
            } else {
                assert_eq!(answerer.handle_fetch(mac, now), None);
            }
        }
    }
}

#[test]
fn the_table_of_quirks_chooses_the_form() {
    let hpe = Ask::new(DISCOVER, PXE_X64, Some(7)).field(28, &[0x94, 0x18, 0x82]);
    assert_eq!(option(&offer(&hpe).packet, 43), None);
    let pi = Ask::new(DISCOVER, PXE_BIOS, Some(0)).field(28, &[0xb8, 0x27, 0xeb]);
    let reply = offer(&pi);
    let menu = option(&reply.packet, 43).expect("a menu");
    assert!(menu.windows(17).any(|part| part == b"Raspberry Pi Boot"));
    assert_eq!(reply.file, "bootcode.bin");
}

#[test]
fn ipxe_gets_the_script_whatever_it_calls_itself() {
    let script = "http://10.9.0.2:8080/boot.ipxe";
    for (ask, sign) in [
        (Ask::new(DISCOVER, PXE_BIOS, Some(0)).with(175, &[0xb1, 1, 1]), IpxeSign::Options),
        (Ask::new(DISCOVER, b"PXEClient", None).with(175, &[]), IpxeSign::Options),
        (Ask::new(DISCOVER, b"anything", Some(0x1d)).with(175, &[1]), IpxeSign::Options),
        (Ask::new(DISCOVER, PXE_BIOS, Some(0)).with(77, b"iPXE"), IpxeSign::UserClass),
        (Ask::new(DISCOVER, PXE_BIOS, Some(0)).with(77, b"\x04iPXE"), IpxeSign::UserClass),
    ] {
        let reply = offer(&ask);
        assert_eq!(reply.boot, Boot::Script(sign));
        assert_eq!(option(&reply.packet, 67).as_deref(), Some(script.as_bytes()));
        assert_eq!(text(&reply.packet[108..236]), script);
        assert_eq!(option(&reply.packet, 43), None);
        assert_eq!(option(&reply.packet, 60).as_deref(), Some(&b"PXEClient"[..]));
    }
    let gpxe = Ask::new(DISCOVER, PXE_BIOS, Some(0)).with(77, b"gPXE");
    assert!(matches!(offer(&gpxe).boot, Boot::Loader { .. }));
}

#[test]
fn a_bare_class_after_a_loader_is_ipxe_and_before_it_is_a_rom() {
    let mut answerer = answerer();
    let now = monotonic();
    let bare = Ask::new(DISCOVER, b"PXEClient", Some(0)).xid(9).bytes();
    for _ in 0..2 {
        let reply = answerer.handle_packet(&arrival(&bare, Port::Dhcp), now).unwrap();
        assert!(matches!(reply.boot, Boot::Loader { .. }), "a ROM that repeats itself");
    }
    let full = Ask::new(DISCOVER, PXE_BIOS, Some(0)).bytes();
    answerer.handle_packet(&arrival(&full, Port::Dhcp), now).unwrap();
    let reply = answerer.handle_packet(&arrival(&bare, Port::Dhcp), now).unwrap();
    assert_eq!(reply.boot, Boot::Script(IpxeSign::BareClass));
}

#[test]
fn a_loader_that_asks_like_firmware_is_caught_by_the_loop_guard() {
    for is_fetch_seen in [true, false] {
        let mut answerer = answerer();
        let start = monotonic();
        let mut boots = Vec::new();
        for n in 0..5_u32 {
            // The firmware has its transaction, the loader the same one each time.
            let ask = |kind| Ask::new(kind, PXE_X64, Some(7)).xid(n.min(1)).bytes();
            let now = start + Duration::from_secs(u64::from(n) * 9);
            let reply = answerer.handle_packet(&arrival(&ask(DISCOVER), Port::Dhcp), now);
            boots.push(reply.unwrap().boot);
            if is_fetch_seen {
                answerer.handle_fetch(Mac::from_bytes(MACHINE).unwrap(), now);
            } else {
                answerer.handle_packet(&arrival(&ask(REQUEST), Port::Dhcp), now).unwrap_err();
            }
        }
        let scripts: Vec<_> = boots.iter().map(|boot| matches!(boot, Boot::Script(_))).collect();
        assert_eq!(scripts, [false, false, false, true, false]);
        assert_eq!(boots[3], Boot::Script(IpxeSign::Loop));
    }
}

#[test]
fn a_machine_that_reaches_its_script_may_start_as_often_as_it_likes() {
    let mut answerer = answerer();
    let start = monotonic();
    for n in 0..8_u32 {
        let now = start + Duration::from_secs(u64::from(n) * 5);
        let firmware = Ask::new(DISCOVER, PXE_X64, Some(7)).xid(n).bytes();
        let reply = answerer.handle_packet(&arrival(&firmware, Port::Dhcp), now).unwrap();
        assert!(matches!(reply.boot, Boot::Loader { .. }), "{n}");
        let ipxe = Ask::new(DISCOVER, PXE_X64, Some(7)).with(175, &[]).bytes();
        let reply = answerer.handle_packet(&arrival(&ipxe, Port::Dhcp), now).unwrap();
        assert_eq!(reply.boot, Boot::Script(IpxeSign::Options));
    }
}

#[test]
fn the_request_on_port_4011_gets_what_the_offer_named() {
    let mut answerer = answerer();
    let start = monotonic();
    let mut scripts = Vec::new();
    for n in 0..4_u32 {
        let now = start + Duration::from_secs(u64::from(n) * 9);
        // EDK2 chooses another transaction for its second question.
        for (kind, xid, port) in
            [(DISCOVER, 2 * n, Port::Dhcp), (REQUEST, 2 * n + 1, Port::BootServer)]
        {
            let ask = Ask::new(kind, PXE_X64, Some(7)).xid(xid).bytes();
            let reply = answerer.handle_packet(&arrival(&ask, port), now).unwrap();
            scripts.push(matches!(reply.boot, Boot::Script(_)));
        }
    }
    assert_eq!(scripts, [false, false, false, false, false, false, true, true]);
}

#[test]
fn who_does_not_boot_gets_no_answer() {
    for class in [&b""[..], b"MSFT 5.0", b"udhcp 1.36", b"android-dhcp-13", b"xPXEClient", b"PXE"] {
        let reason = silence(&Ask::new(DISCOVER, class, Some(7)), Port::Dhcp);
        assert!(matches!(reason, Reason::NotBooting(_)), "{class:?}");
    }
    let mut without_class = Ask::new(DISCOVER, b"", Some(7));
    without_class.options.retain(|(code, _)| *code != 60);
    assert_eq!(silence(&without_class, Port::Dhcp), Reason::NotBooting(String::new()));
}

#[test]
fn what_has_no_loader_gets_silence_that_says_so() {
    let itanium = silence(&Ask::new(DISCOVER, PXE_X64, Some(2)), Port::Dhcp);
    assert_eq!(itanium.to_string(), "there is no loader for Itanium (architecture 0x0002)");
    let loaders: Loaders = toml::from_str("x64 = \"\"").unwrap();
    let ask = Ask::new(DISCOVER, PXE_X64, Some(7)).bytes();
    let silence = Answerer::new(loaders, 8080, [])
        .handle_packet(&arrival(&ask, Port::Dhcp), monotonic())
        .expect_err("silence");
    assert_eq!(
        silence.to_string(),
        "no answer to 52:54:00:12:34:56 (xid cafebabe): the site serves no loader for x64; name one in [dhcp.loaders]"
    );
}

#[test]
fn a_machine_that_floods_is_not_answered_every_time() {
    let mut answerer = answerer();
    let now = monotonic();
    let ask = Ask::new(DISCOVER, PXE_X64, Some(7)).bytes();
    let answers = (0..1_000)
        .filter(|_| answerer.handle_packet(&arrival(&ask, Port::Dhcp), now).is_ok())
        .count();
    assert_eq!(answers, 10);
}

#[test]
fn options_in_the_header_and_in_pieces_are_read() {
    // Option 52 = 3: 60 stands in `file`, the halves of 93 in the options field and in `sname`.
    let mut ask = Ask::new(DISCOVER, b"", None).with(52, &[3]).with(93, &[0]);
    ask.options.retain(|(code, _)| *code != 60);
    let ask = ask.field(108, b"\x3c\x09PXEClient\xff").field(44, &[0, 93, 1, 7, 255]);
    assert_eq!(offer(&ask).file, "snponly-x64.efi");
    let list = Ask::new(DISCOVER, PXE_X64, None).with(93, &[0xff, 0, 0, 7, 0, 0]);
    assert_eq!(offer(&list).file, "snponly-x64.efi");
    let odd = Ask::new(DISCOVER, PXE_X64, None).with(93, &[0, 7, 0]);
    assert_eq!(offer(&odd).file, "snponly-x64.efi");
}

#[test]
fn options_that_are_nonsense_cost_nobody_the_answer() {
    let ask = Ask::new(DISCOVER, PXE_X64, Some(7))
        .with(12, &[0xff, 0xfe])
        .with(80, &[1])
        .with(81, &[0])
        .with(94, &[1])
        .with(121, &[200, 1])
        .with(82, &[1]);
    assert_eq!(offer(&ask).file, "snponly-x64.efi");
}

#[test]
fn our_own_answer_that_comes_back_gets_no_answer() {
    let packet = offer(&Ask::new(DISCOVER, PXE_X64, Some(7))).packet;
    for port in [Port::Dhcp, Port::BootServer] {
        let silence = answerer().handle_packet(&arrival(&packet, port), monotonic()).unwrap_err();
        assert_eq!(silence.reason, Reason::Unreadable(ParseError::NotRequest(2)));
    }
}

#[test]
fn a_hardware_address_of_no_machine_gets_no_answer() {
    let ask = Ask::new(DISCOVER, PXE_X64, Some(7));
    for (at, value) in [
        (1, &[6][..]),
        (1, &[32]),
        (2, &[0]),
        (2, &[5]),
        (2, &[16]),
        (2, &[255]),
        (28, &[0; 6]),
        (28, &[255; 6]),
        (28, &[1, 0, 0x5e, 0, 0, 1]),
    ] {
        let reason = silence(&ask.clone().field(at, value), Port::Dhcp);
        assert!(matches!(reason, Reason::Unreadable(_)), "{at} {value:?}");
    }
    let reason = silence(&ask.field(236, &[0; 4]), Port::Dhcp);
    assert_eq!(reason, Reason::Unreadable(ParseError::Bootp));
}

#[test]
fn the_address_that_a_machine_asks_its_own_server_for_is_learnt() {
    let wanted = [10, 9, 0, 77];
    let leases = Ask::new(REQUEST, PXE_X64, Some(7)).with(50, &wanted).bytes();
    let silence = answerer().handle_packet(&arrival(&leases, Port::Dhcp), monotonic()).unwrap_err();
    assert_eq!(silence.client.unwrap().address, Some(Ipv4Addr::from(wanted)));
    // In a DISCOVER it is no more than a wish.
    let discovers = Ask::new(DISCOVER, PXE_X64, Some(7)).with(50, &wanted).bytes();
    let reply = answerer().handle_packet(&arrival(&discovers, Port::Dhcp), monotonic()).unwrap();
    assert_eq!(reply.client.address, None);
    let has_one = Ask::new(INFORM, PXE_X64, Some(7)).field(12, &wanted).bytes();
    let reply = answerer().handle_packet(&arrival(&has_one, Port::Dhcp), monotonic()).unwrap();
    assert_eq!(reply.client.address, Some(Ipv4Addr::from(wanted)));
}
