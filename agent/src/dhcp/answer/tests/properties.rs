//! What holds for the answer to any bytes.

use dhcproto::Decodable;
use dhcproto::v4::Message;
use proptest::prelude::*;

use super::*;

/// What holds for every answer to `asked`.
fn check(asked: &[u8], reply: &Reply) {
    let packet = &reply.packet;
    let message = Message::from_bytes(packet).expect("an answer is a DHCP packet");
    assert!(packet.len() >= 300);
    assert_eq!(packet[..3], [2, 1, 6]);
    assert_eq!(packet[4..8], asked[4..8], "xid");
    assert_eq!(packet[10..12], asked[10..12], "flags");
    assert_eq!(packet[16..20], [0; 4], "yiaddr");
    assert_eq!(packet[20..24], US.octets(), "siaddr");
    assert_eq!(packet[24..34], asked[24..34], "giaddr and chaddr");
    assert!(matches!(message.opts().msg_type(), Some(MessageType::Offer | MessageType::Ack)));
    let options = options(packet);
    let once: BTreeMap<_, _> = options.iter().cloned().collect();
    for (code, _) in once.iter().filter(|(code, _)| ![61, 82, 97].contains(*code)) {
        assert_eq!(options.iter().filter(|(have, _)| have == code).count(), 1, "{code}");
    }
    assert_eq!(once[&54], US.octets());
    assert_eq!(once[&67], reply.file.as_bytes());
    let is_http = once[&60] == b"HTTPClient";
    assert!(is_http || once[&60] == b"PXEClient");
    assert_eq!(once.contains_key(&66), !is_http);
    assert!(!is_http || !once.contains_key(&150) && !once.contains_key(&43));
    assert_eq!(text(&packet[108..236]), reply.file);
    let to = reply.destination.address();
    assert!(to.port() != 0 && !to.ip().is_multicast() && !to.ip().is_loopback());
    if let Some(last_other) = options.iter().rposition(|(code, _)| *code != 82) {
        let first_relay = options.iter().position(|(code, _)| *code == 82);
        assert!(first_relay.is_none_or(|at| at > last_other), "82 is last");
    }
}

/// Options as firmware might send them, the meaningful ones more often than the rest.
fn any_option() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let class = prop::sample::select(vec![
        b"PXEClient".to_vec(),
        PXE_X64.to_vec(),
        b"HTTPClient:Arch:00016".to_vec(),
        b"U-Boot.armv8".to_vec(),
        b"iPXE".to_vec(),
    ]);
    prop_oneof![
        3 => class.prop_map(|class| (60, class)),
        2 => (0_u16..0x2c).prop_map(|code| (93, code.to_be_bytes().to_vec())),
        1 => Just((94, vec![1, 0, 0])),
        1 => (0_u8..4).prop_map(|overload| (52, vec![overload])),
        1 => prop::sample::select(vec![DISCOVER, REQUEST, INFORM]).prop_map(|kind| (53, vec![kind])),
        3 => (prop::sample::select(vec![43, 53, 55, 61, 77, 82, 93, 97, 175]),
              prop::collection::vec(any::<u8>(), 0..=255)),
        1 => (any::<u8>(), prop::collection::vec(any::<u8>(), 0..=255)),
    ]
}

proptest! {
    #[test]
    fn any_bytes_are_answered_rightly_or_not_at_all(
        datagram in prop::collection::vec(any::<u8>(), 0..1_500),
        is_dhcp: bool,
    ) {
        let port = if is_dhcp { Port::Dhcp } else { Port::BootServer };
        if let Ok(reply) = answerer().handle_packet(&arrival(&datagram, port), monotonic()) {
            check(&datagram, &reply);
        }
    }

    #[test]
    fn any_request_is_answered_rightly_or_not_at_all(
        kind in prop::sample::select(vec![DISCOVER, REQUEST, INFORM]),
        header: [u8; 32],
        fields in prop::collection::vec(any::<u8>(), 192),
        options in prop::collection::vec(any_option(), 0..12),
        cut in prop::option::weighted(0.2, 240_usize..600),
        is_dhcp: bool,
        lesson: bool,
    ) {
        let mut ask = Ask::new(kind, PXE_X64, Some(7)).field(4, &header[..24]).field(44, &fields);
        ask.options.truncate(1);
        ask.options.extend(options);
        let mut datagram = ask.bytes();
        datagram.truncate(cut.unwrap_or(usize::MAX));
        let mac = Mac::from_bytes(MACHINE).unwrap();
        let lesson = lesson.then_some(Lesson { mac, mode: OfferMode::BootServer, proof: Proof::Untried });
        let mut answerer = Answerer::new(Loaders::default(), 8080, lesson);
        let port = if is_dhcp { Port::Dhcp } else { Port::BootServer };
        let now = monotonic();
        for second in [0, 4, 12] {
            let now = now + Duration::from_secs(second);
            match answerer.handle_packet(&arrival(&datagram, port), now) {
                Ok(reply) => check(&datagram, &reply),
                Err(silence) => prop_assert!(!silence.to_string().is_empty()),
            }
        }
    }

    #[test]
    fn a_changed_byte_does_no_harm(at in 0_usize..320, value: u8, is_dhcp: bool) {
        let ask = Ask::new(DISCOVER, PXE_X64, Some(7)).with(97, &[0; 17]).with(82, &[1, 2, 3, 4]);
        let mut datagram = ask.bytes();
        if let Some(byte) = datagram.get_mut(at) {
            *byte = value;
        }
        let port = if is_dhcp { Port::Dhcp } else { Port::BootServer };
        if let Ok(reply) = answerer().handle_packet(&arrival(&datagram, port), monotonic()) {
            check(&datagram, &reply);
        }
    }
}

#[test]
fn a_request_that_ends_anywhere_is_answered_or_not() {
    let bytes = Ask::new(DISCOVER, PXE_X64, Some(7)).with(97, &[0; 17]).bytes();
    for len in 0..bytes.len() {
        let reply = answerer().handle_packet(&arrival(&bytes[..len], Port::Dhcp), monotonic());
        if let Ok(reply) = reply {
            check(&bytes[..len], &reply);
        }
    }
}
