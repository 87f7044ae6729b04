//! What real firmware asked, as it was captured, and what it is told.

use std::fmt::Write;

use expect_test::expect;

use super::*;

/// The bytes of a captured datagram, written as hexadecimal text.
fn bytes(text: &str) -> Vec<u8> {
    let digit = |digit: u8| u8::try_from(char::from(digit).to_digit(16).expect("a digit")).unwrap();
    let digits: Vec<_> = text.bytes().filter(u8::is_ascii_hexdigit).map(digit).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// One line per datagram of a session: what it makes the machine do and which options the answer has.
fn play(session: &[(Port, &str)]) -> String {
    let mut answerer = answerer();
    let mut now = monotonic();
    let mut story = String::new();
    for (port, text) in session {
        let datagram = bytes(text);
        match answerer.handle_packet(&arrival(&datagram, *port), now) {
            Ok(reply) => {
                let to = reply.destination.address();
                let codes: Vec<_> =
                    options(&reply.packet).into_iter().map(|(code, _)| code).collect();
                writeln!(story, "{to} {}: {} {codes:?}", reply.boot, reply.file).unwrap();
            }
            Err(silence) => writeln!(story, "{silence}").unwrap(),
        }
        now += Duration::from_secs(1);
    }
    story
}

#[test]
fn the_ipxe_rom_of_a_pc_gets_the_script() {
    let session = [(Port::Dhcp, include_str!("firmware/ipxe-rom-discover.hex"))];
    expect![[r#"
        255.255.255.255:68 iPXE (option 175): http://10.9.0.2:8080/boot.ipxe [53, 54, 60, 61, 66, 67, 97]
    "#]].assert_eq(&play(&session));
}

#[test]
fn ovmf_gets_a_loader_by_either_port_and_its_ipxe_the_script() {
    let session = [
        (Port::Dhcp, include_str!("firmware/ovmf-pxe-discover.hex")),
        (Port::Dhcp, include_str!("firmware/ovmf-pxe-lease.hex")),
        (Port::BootServer, include_str!("firmware/ovmf-pxe-boot-server.hex")),
        (Port::Dhcp, include_str!("firmware/ipxe-efi-discover.hex")),
    ];
    expect![[r#"
        255.255.255.255:68 x64 over TFTP: snponly-x64.efi [43, 53, 54, 60, 66, 67, 97]
        no answer to 52:54:00:00:00:02 (xid 1302e137): Request on port 67 is for the DHCP server that leases addresses
        10.9.0.77:4011 x64 over TFTP: snponly-x64.efi [43, 53, 54, 60, 66, 67, 97]
        255.255.255.255:68 iPXE (option 175): http://10.9.0.2:8080/boot.ipxe [53, 54, 60, 61, 66, 67, 97]
    "#]].assert_eq(&play(&session));
}

#[test]
fn ovmf_gets_a_url_for_http_boot() {
    let session = [(Port::Dhcp, include_str!("firmware/ovmf-http-discover.hex"))];
    expect![[r#"
        255.255.255.255:68 x64 over HTTP: http://10.9.0.2:8080/files/bootloaders/snponly-x64.efi [53, 54, 60, 67, 97]
    "#]].assert_eq(&play(&session));
}
