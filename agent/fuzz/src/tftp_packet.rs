//! A TFTP datagram.

use pureboot_agent::tftp::options::{Egress, WINDOW_MAX, negotiate};
use pureboot_agent::tftp::packet::{Options, Packet};

/// What is read is written as it was read, and what a machine asks for is granted within bounds.
pub fn check(data: &[u8]) {
    let packet = match Packet::parse(data) {
        Ok(packet) => packet,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let mut emitted = Vec::new();
    packet.emit(&mut emitted);
    assert_eq!(Packet::parse(&emitted).as_ref(), Ok(&packet));
    let (Packet::ReadRequest(request) | Packet::WriteRequest(request)) = packet else { return };
    let size_bytes = data.iter().fold(0_u64, |sum, byte| (sum << 5) ^ u64::from(*byte));
    for mtu_bytes in [0, 68, 576, 1_500, 9_000, usize::MAX] {
        for is_ipv6 in [false, true] {
            check_options(&request.options, Egress { mtu_bytes, is_ipv6 }, size_bytes);
        }
    }
}

fn check_options(asked: &Options, egress: Egress, size_bytes: u64) {
    let agreed = negotiate(asked, egress, size_bytes);
    assert!((8..=65_464).contains(&agreed.block_len), "block length {}", agreed.block_len);
    assert!((1..=WINDOW_MAX).contains(&agreed.window), "window {}", agreed.window);
    // RFC 2347: an OACK holds only what was asked.
    let answer = &agreed.answer;
    for (answered, asked) in [
        (answer.blksize, asked.blksize),
        (answer.timeout_s, asked.timeout_s),
        (answer.windowsize, asked.windowsize),
    ] {
        assert!(answered.is_none_or(|answered| asked.is_some_and(|asked| answered <= asked)));
    }
    assert!(answer.tsize_bytes.is_none_or(|len| asked.tsize_bytes.is_some() && len == size_bytes));
}
