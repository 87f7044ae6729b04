//! What a machine asks for against what it gets (RFC 2347, 2348, 2349, 7440).
//!
//! An option with a value outside its RFC's range is left out of the answer: RFC 2347 lets an option that is not acknowledged
//! count as never asked, which every client can live with, while ERROR 8 would end a boot over a detail. A value that
//! may be answered smaller (`blksize`, `windowsize`) is.

use std::time::Duration;

use super::packet::{DATA_HEADER_LEN, Options};

/// The length of a block if nobody asks for another, in bytes (RFC 1350).
pub const BLOCK_LEN_DEFAULT: u16 = 512;
/// The most blocks that are sent before an ACK is awaited.
pub const WINDOW_MAX: u16 = 64;
/// The most bytes of a file in one window, so that a transfer needs the same memory whatever is asked.
pub const WINDOW_BYTES_MAX: usize = 128 << 10;

/// The longest block, in bytes (RFC 2348).
pub const BLOCK_LEN_MAX: u16 = 65_464;
const BLOCK_LEN_MIN: u64 = 8;
const UDP_HEADER_LEN: usize = 8;

/// The way out to a machine, as far as the length of a block depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Egress {
    /// The longest IP packet, in bytes.
    pub mtu_bytes: usize,
    /// Whether the packets are IPv6, whose header is longer.
    pub is_ipv6: bool,
}

impl Egress {
    /// The longest block that needs no fragments, in bytes.
    fn block_len_max(self) -> u64 {
        let ip_header_len = if self.is_ipv6 { 40 } else { 20 };
        let overhead = ip_header_len + UDP_HEADER_LEN + DATA_HEADER_LEN;
        let room = self.mtu_bytes.saturating_sub(overhead);
        let block_len_max = u64::from(BLOCK_LEN_MAX);
        u64::try_from(room).unwrap_or(block_len_max).clamp(BLOCK_LEN_MIN, block_len_max)
    }
}

/// How a transfer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreement {
    /// The length of every block but the last, in bytes.
    pub block_len: u16,
    /// How many blocks are sent before an ACK is awaited.
    pub window: u16,
    /// After how long to send again, if the machine said so.
    pub timeout: Option<Duration>,
    /// What the OACK says; empty if none is sent and the first block answers the request.
    pub answer: Options,
}

/// Settles how a file of `size_bytes` is sent to a machine behind `egress` that asks for `asked`.
pub fn negotiate(asked: &Options, egress: Egress, size_bytes: u64) -> Agreement {
    let block_len = asked
        .blksize
        .filter(|asked| *asked >= BLOCK_LEN_MIN)
        .and_then(|asked| u16::try_from(asked.min(egress.block_len_max())).ok());
    let in_window = WINDOW_BYTES_MAX / usize::from(block_len.unwrap_or(BLOCK_LEN_DEFAULT));
    let window_max = u64::from(WINDOW_MAX).min(in_window.try_into().unwrap_or(1));
    let window = asked
        .windowsize
        .filter(|asked| *asked >= 1)
        .and_then(|asked| u16::try_from(asked.min(window_max)).ok());
    let timeout_s = asked.timeout_s.filter(|asked| (1..=255).contains(asked));
    Agreement {
        block_len: block_len.unwrap_or(BLOCK_LEN_DEFAULT),
        window: window.unwrap_or(1),
        timeout: timeout_s.map(Duration::from_secs),
        answer: Options {
            blksize: block_len.map(u64::from),
            timeout_s,
            tsize_bytes: asked.tsize_bytes.map(|_| size_bytes),
            windowsize: window.map(u64::from),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::option::of;
    use proptest::prelude::*;

    use super::*;

    const ETHERNET: Egress = Egress { mtu_bytes: 1500, is_ipv6: false };
    const LOOPBACK: Egress = Egress { mtu_bytes: 65_536, is_ipv6: false };

    #[track_caller]
    fn check_blksize(asked: u64, egress: Egress, answered: Option<u64>) {
        let asked = Options { blksize: Some(asked), ..Options::default() };
        let agreement = negotiate(&asked, egress, 1);
        assert_eq!(agreement.answer, Options { blksize: answered, ..Options::default() });
        assert_eq!(u64::from(agreement.block_len), answered.unwrap_or(512));
    }

    #[test]
    fn f3_a_block_length_is_answered_as_far_as_it_fits() {
        check_blksize(0, ETHERNET, None);
        check_blksize(7, ETHERNET, None);
        check_blksize(8, ETHERNET, Some(8));
        check_blksize(1468, ETHERNET, Some(1468));
        check_blksize(1469, ETHERNET, Some(1468));
        check_blksize(65_464, ETHERNET, Some(1468));
        check_blksize(65_464, LOOPBACK, Some(65_464));
        check_blksize(65_465, LOOPBACK, Some(65_464));
        check_blksize(u64::MAX, LOOPBACK, Some(65_464));
        check_blksize(1468, Egress { mtu_bytes: 1420, is_ipv6: false }, Some(1388));
        check_blksize(1468, Egress { mtu_bytes: 1500, is_ipv6: true }, Some(1448));
        check_blksize(1468, Egress { mtu_bytes: 0, is_ipv6: false }, Some(8));
    }

    #[track_caller]
    fn check_windowsize(asked: u64, blksize: u64, answered: Option<u64>) {
        let asked =
            Options { blksize: Some(blksize), windowsize: Some(asked), ..Options::default() };
        let agreement = negotiate(&asked, LOOPBACK, 1);
        assert_eq!(agreement.answer.windowsize, answered);
        assert_eq!(u64::from(agreement.window), answered.unwrap_or(1));
    }

    #[test]
    fn f3_a_window_is_answered_as_far_as_the_memory_goes() {
        check_windowsize(0, 512, None);
        check_windowsize(1, 512, Some(1));
        check_windowsize(64, 1468, Some(64));
        check_windowsize(65_535, 1468, Some(64));
        check_windowsize(u64::MAX, 1468, Some(64));
        check_windowsize(64, 8192, Some(16));
        check_windowsize(64, 65_464, Some(2));
    }

    #[test]
    fn f3_a_timeout_is_echoed_equal_or_not_at_all() {
        for (asked, answered) in [(0, None), (1, Some(1)), (255, Some(255)), (256, None)] {
            let asked = Options { timeout_s: Some(asked), ..Options::default() };
            let agreement = negotiate(&asked, ETHERNET, 1);
            assert_eq!(agreement.answer.timeout_s, answered);
            assert_eq!(agreement.timeout, answered.map(Duration::from_secs));
        }
    }

    #[test]
    fn the_size_is_exact() {
        let asked = Options { tsize_bytes: Some(0), ..Options::default() };
        assert_eq!(
            negotiate(&asked, ETHERNET, 5_000_000_000).answer.tsize_bytes,
            Some(5_000_000_000)
        );
    }

    proptest! {
        #[test]
        fn only_what_was_asked_is_answered_and_memory_is_bounded(
            blksize in of(any::<u64>()),
            timeout_s in of(0..300u64),
            tsize_bytes in of(any::<u64>()),
            windowsize in of(any::<u64>()),
            mtu_bytes in any::<usize>(),
            is_ipv6 in any::<bool>(),
        ) {
            let asked = Options { blksize, timeout_s, tsize_bytes, windowsize };
            let agreement = negotiate(&asked, Egress { mtu_bytes, is_ipv6 }, 9);
            let answer = agreement.answer;
            prop_assert!(answer.blksize <= blksize);
            prop_assert!(answer.windowsize <= windowsize);
            prop_assert!(answer.timeout_s.is_none() || answer.timeout_s == timeout_s);
            prop_assert_eq!(answer.tsize_bytes, tsize_bytes.map(|_| 9));
            let window_bytes = usize::from(agreement.block_len) * usize::from(agreement.window);
            prop_assert!((8..=WINDOW_BYTES_MAX).contains(&window_bytes));
        }
    }
}
