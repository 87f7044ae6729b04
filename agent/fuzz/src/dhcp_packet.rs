//! A DHCP datagram, heard three times on one of the two ports.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use pureboot_agent::clock;
use pureboot_agent::dhcp::answer::{Answerer, Arrival, Port, Reply};
use pureboot_agent::dhcp::loaders::Loaders;

const US: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const LEASED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 9, 0, 77), 4011);

/// An answer is a well-formed reply to the very question, and a silence says why.
pub fn check(data: &[u8]) {
    for port in [Port::Dhcp, Port::BootServer] {
        let mut answerer = Answerer::new(Loaders::default(), 8080, []);
        let start = clock::monotonic();
        for second in [0, 4, 12] {
            let arrival =
                Arrival { datagram: data, source: LEASED, port, address: US, user_agents: &[] };
            match answerer.handle_packet(&arrival, start + Duration::from_secs(second)) {
                Ok(reply) => {
                    check_reply(data, &reply);
                    let echo = Arrival { datagram: &reply.packet, ..arrival };
                    answerer.handle_packet(&echo, start).expect_err("an answer is no question");
                }
                Err(silence) => assert!(!silence.to_string().is_empty()),
            }
        }
    }
}

fn check_reply(asked: &[u8], reply: &Reply) {
    let packet = &reply.packet;
    assert!(packet.len() >= 300, "a relay may drop {} bytes", packet.len());
    assert_eq!(packet.get(..3), Some(&[2, 1, 6][..]));
    for (name, range) in [("xid", 4..8), ("flags", 10..12), ("giaddr and chaddr", 24..34)] {
        assert_eq!(packet.get(range.clone()), asked.get(range), "{name}");
    }
    assert_eq!(packet.get(16..20), Some(&[0; 4][..]), "yiaddr");
    assert_eq!(packet.get(20..24), Some(&US.octets()[..]), "siaddr");
    let to = reply.destination.address();
    assert!(to.port() != 0 && !to.ip().is_multicast() && !to.ip().is_loopback(), "to {to}");
    let mut rest = packet.get(240..).expect("a whole header");
    let mut last = 0;
    loop {
        match rest {
            [255, padding @ ..] => {
                assert!(padding.iter().all(|byte| *byte == 0), "bytes follow the end");
                break;
            }
            [code, len, tail @ ..] if tail.len() >= usize::from(*len) => {
                assert!(last != 82 || *code == 82, "option {code} follows option 82");
                last = *code;
                rest = tail.get(usize::from(*len)..).expect("its length was looked at");
            }
            _ => panic!("the options are not well-formed"),
        }
    }
}
