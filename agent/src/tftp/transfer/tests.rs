mod link;
mod transcript;

use std::time::Duration;

use expect_test::{Expect, expect};

use self::transcript::{Transcript, check};
use super::*;
use crate::tftp::options::{Egress, negotiate};

const LOOPBACK: Egress = Egress { mtu_bytes: 65_536, is_ipv6: false };

/// The byte at `offset` of every file here.
fn byte_at(offset: u64) -> u8 {
    u8::try_from(offset % 251).expect("a remainder of 251")
}

fn read(offset: u64, len: usize) -> Vec<u8> {
    (offset..).take(len).map(byte_at).collect()
}

/// Options written as `blksize 8 tsize 0`.
fn options(words: &str) -> Options {
    let mut options = Options::default();
    let words: Vec<_> = words.split_whitespace().collect();
    for pair in words.chunks(2) {
        let value = Some(pair[1].parse().expect("a number"));
        match pair[0] {
            "blksize" => options.blksize = value,
            "timeout" => options.timeout_s = value,
            "tsize" => options.tsize_bytes = value,
            "windowsize" => options.windowsize = value,
            other => panic!("{other} is no option"),
        }
    }
    options
}

#[test]
fn a_short_file_is_one_block() {
    check(
        10,
        "",
        "ack 1",
        expect![[r#"
        0ms data 1 (10 bytes)
        0ms done: Complete
    "#]],
    );
}

#[test]
fn f15_an_empty_file_is_one_empty_block() {
    check(
        0,
        "",
        "ack 1",
        expect![[r#"
        0ms data 1 (0 bytes)
        0ms done: Complete
    "#]],
    );
}

#[test]
fn f15_an_exact_multiple_ends_with_an_empty_block() {
    check(
        1024,
        "",
        "ack 1; ack 2; ack 3",
        expect![[r#"
        0ms data 1 (512 bytes)
        0ms data 2 (512 bytes)
        0ms data 3 (0 bytes)
        0ms done: Complete
    "#]],
    );
}

#[test]
fn options_are_offered_and_accepted_by_ack_0() {
    check(
        2000,
        "blksize 1468 timeout 3 tsize 0 windowsize 4",
        "ack 0; ack 2",
        expect![[r#"
        0ms oack blksize 1468 timeout 3 tsize 2000 windowsize 4
        0ms data 1 (1468 bytes), data 2 (532 bytes)
        0ms done: Complete
    "#]],
    );
}

#[test]
fn a_lost_ack_costs_one_resend() {
    check(
        10,
        "",
        "wait 1000; ack 1",
        expect![[r#"
        0ms data 1 (10 bytes)
        1000ms data 1 (10 bytes)
        1000ms done: Complete
    "#]],
    );
}

#[test]
fn a_lost_oack_is_sent_again() {
    check(
        10,
        "tsize 0",
        "wait 1000; ack 0; ack 1",
        expect![[r#"
        0ms oack tsize 10
        1000ms oack tsize 10
        1000ms data 1 (10 bytes)
        1000ms done: Complete
    "#]],
    );
}

#[test]
fn f9_f10_a_machine_that_never_answers_costs_three_datagrams_and_five_seconds() {
    check(
        10_000,
        "",
        "wait 60000",
        expect![[r#"
        0ms data 1 (512 bytes)
        1000ms data 1 (512 bytes)
        3000ms data 1 (512 bytes)
        5000ms done: Silent
    "#]],
    );
    check(
        10_000,
        "blksize 1468 windowsize 64",
        "wait 60000",
        expect![[r#"
        0ms oack blksize 1468 windowsize 64
        1000ms oack blksize 1468 windowsize 64
        3000ms oack blksize 1468 windowsize 64
        5000ms done: Silent
    "#]],
    );
    check(
        10_000,
        "timeout 255",
        "wait 60000",
        expect![[r#"
        0ms oack timeout 255
        5000ms done: Silent
    "#]],
    );
}

#[test]
fn a_wait_that_the_machine_asked_for_is_kept_exactly() {
    check(
        1000,
        "timeout 2",
        "wait 1; ack 0; wait 60000",
        expect![[r#"
        0ms oack timeout 2
        1ms data 1 (512 bytes)
        2001ms data 1 (512 bytes)
        4001ms data 1 (512 bytes)
        6001ms data 1 (512 bytes)
        8001ms data 1 (512 bytes)
        10001ms done: Silent
    "#]],
    );
}

#[test]
fn the_wait_follows_the_measured_round_trip_and_doubles() {
    check(
        1000,
        "tsize 0",
        "wait 40; ack 0; wait 60000",
        expect![[r#"
        0ms oack tsize 1000
        40ms data 1 (512 bytes)
        160ms data 1 (512 bytes)
        400ms data 1 (512 bytes)
        880ms data 1 (512 bytes)
        1840ms data 1 (512 bytes)
        3760ms data 1 (512 bytes)
        6760ms data 1 (512 bytes)
        9760ms data 1 (512 bytes)
        12760ms done: Silent
    "#]],
    );
}

/// A switch port that comes back, and a machine that waits for the block without a word.
#[test]
fn what_is_lost_for_seconds_is_sent_again_when_the_line_is_back() {
    check(
        10,
        "tsize 0",
        "ack 0; wait 9500; ack 1",
        expect![[r#"
        0ms oack tsize 10
        0ms data 1 (10 bytes)
        100ms data 1 (10 bytes)
        300ms data 1 (10 bytes)
        700ms data 1 (10 bytes)
        1500ms data 1 (10 bytes)
        3100ms data 1 (10 bytes)
        6100ms data 1 (10 bytes)
        9100ms data 1 (10 bytes)
        9500ms done: Complete
    "#]],
    );
}

#[test]
fn f7_a_repeated_ack_resends_nothing_in_lock_step() {
    check(
        2000,
        "",
        "ack 1; ack 1; ack 1; ack 0; ack 7; ack 2; ack 1; ack 3; ack 4",
        expect![[r#"
        0ms data 1 (512 bytes)
        0ms data 2 (512 bytes)
        0ms data 3 (512 bytes)
        0ms data 4 (464 bytes)
        0ms done: Complete
    "#]],
    );
}

#[test]
fn a_machine_that_repeats_itself_is_not_given_up_as_silent() {
    let repeating = "wait 4000; ack 1; ".repeat(4);
    check(
        600,
        "",
        &format!("ack 1; {repeating} ack 2"),
        expect![[r#"
        0ms data 1 (512 bytes)
        0ms data 2 (88 bytes)
        100ms data 2 (88 bytes)
        300ms data 2 (88 bytes)
        700ms data 2 (88 bytes)
        1500ms data 2 (88 bytes)
        3100ms data 2 (88 bytes)
        7000ms data 2 (88 bytes)
        10000ms data 2 (88 bytes)
        13000ms data 2 (88 bytes)
        16000ms data 2 (88 bytes)
        16000ms done: Complete
    "#]],
    );
}

#[test]
fn a_machine_that_only_repeats_itself_is_given_up_after_a_minute() {
    let mut transcript = Transcript::new(600, "");
    transcript.drain();
    for command in ["ack 1"].into_iter().chain(["wait 500", "ack 1"].into_iter().cycle().take(400))
    {
        transcript.step(command);
    }
    let end: Vec<_> = transcript.text.lines().rev().filter(|line| line.contains("done")).collect();
    expect![[r#"
        Some(
            "60100ms done: Unconfirmed",
        )
    "#]]
    .assert_debug_eq(&end.last());
    assert!(transcript.transfer.tally().resends < 30);
}

#[test]
fn a_window_leaves_as_one_burst() {
    check(
        4000,
        "windowsize 4",
        "ack 0; ack 4; ack 8",
        expect![[r#"
        0ms oack windowsize 4
        0ms data 1 (512 bytes), data 2 (512 bytes), data 3 (512 bytes), data 4 (512 bytes)
        0ms data 5 (512 bytes), data 6 (512 bytes), data 7 (512 bytes), data 8 (416 bytes)
        0ms done: Complete
    "#]],
    );
}

#[test]
fn an_ack_below_the_window_goes_back_once() {
    check(
        4000,
        "windowsize 4",
        "ack 0; ack 1; ack 1; ack 1; ack 5; ack 8",
        expect![[r#"
        0ms oack windowsize 4
        0ms data 1 (512 bytes), data 2 (512 bytes), data 3 (512 bytes), data 4 (512 bytes)
        0ms data 2 (512 bytes), data 3 (512 bytes), data 4 (512 bytes), data 5 (512 bytes)
        0ms data 6 (512 bytes), data 7 (512 bytes), data 8 (416 bytes)
        0ms done: Complete
    "#]],
    );
}

#[test]
fn f7_a_repeated_ack_goes_back_once() {
    check(
        4000,
        "windowsize 4",
        "ack 0; ack 0; ack 0; ack 0; wait 2000; ack 4; ack 8",
        expect![[r#"
        0ms oack windowsize 4
        0ms data 1 (512 bytes), data 2 (512 bytes), data 3 (512 bytes), data 4 (512 bytes)
        0ms data 1 (512 bytes), data 2 (512 bytes), data 3 (512 bytes), data 4 (512 bytes)
        100ms data 1 (512 bytes), data 2 (512 bytes), data 3 (512 bytes), data 4 (512 bytes)
        300ms data 1 (512 bytes), data 2 (512 bytes), data 3 (512 bytes), data 4 (512 bytes)
        700ms data 1 (512 bytes), data 2 (512 bytes), data 3 (512 bytes), data 4 (512 bytes)
        1500ms data 1 (512 bytes), data 2 (512 bytes), data 3 (512 bytes), data 4 (512 bytes)
        2000ms data 5 (512 bytes), data 6 (512 bytes), data 7 (512 bytes), data 8 (416 bytes)
        2000ms done: Complete
    "#]],
    );
}

#[test]
fn f7_acks_of_blocks_that_came_twice_do_not_go_back_again() {
    // The machine had blocks 3 and 4 when it was sent them again, and acknowledges each unexpected block as EDK2 does.
    check(
        6000,
        "windowsize 4",
        "ack 0; ack 2; ack 4; ack 4; ack 4; ack 8; ack 12",
        expect![[r#"
        0ms oack windowsize 4
        0ms data 1 (512 bytes), data 2 (512 bytes), data 3 (512 bytes), data 4 (512 bytes)
        0ms data 3 (512 bytes), data 4 (512 bytes), data 5 (512 bytes), data 6 (512 bytes)
        0ms data 7 (512 bytes), data 8 (512 bytes)
        0ms data 9 (512 bytes), data 10 (512 bytes), data 11 (512 bytes), data 12 (368 bytes)
        0ms done: Complete
    "#]],
    );
}

#[test]
fn an_error_after_the_oack_is_a_probe() {
    check(
        10,
        "tsize 0",
        "error 8",
        expect![[r#"
        0ms oack tsize 10
        0ms done: Probe
    "#]],
    );
    check(
        10,
        "tsize 0",
        "error 0",
        expect![[r#"
        0ms oack tsize 10
        0ms done: Probe
    "#]],
    );
    check(
        10,
        "tsize 0",
        "error 4",
        expect![[r#"
        0ms oack tsize 10
        0ms done: Refused(ErrorCode(4))
    "#]],
    );
}

#[test]
fn f8_an_error_ends_the_transfer_at_once() {
    check(
        1000,
        "",
        "ack 1; error 3; ack 2; wait 60000",
        expect![[r#"
        0ms data 1 (512 bytes)
        0ms data 2 (488 bytes)
        0ms done: Refused(ErrorCode(3))
    "#]],
    );
}

#[test]
fn a_machine_that_leaves_after_the_last_block_most_likely_has_it() {
    check(
        10,
        "tsize 0",
        "ack 0; gone",
        expect![[r#"
        0ms oack tsize 10
        0ms data 1 (10 bytes)
        0ms done: Unconfirmed
    "#]],
    );
    check(
        1000,
        "tsize 0",
        "ack 0; gone",
        expect![[r#"
        0ms oack tsize 1000
        0ms data 1 (512 bytes)
        0ms done: Silent
    "#]],
    );
    check(
        1000,
        "tsize 0",
        "gone",
        expect![[r#"
        0ms oack tsize 1000
        0ms done: Silent
    "#]],
    );
    check(
        10,
        "tsize 0",
        "ack 0; wait 60000",
        expect![[r#"
        0ms oack tsize 10
        0ms data 1 (10 bytes)
        100ms data 1 (10 bytes)
        300ms data 1 (10 bytes)
        700ms data 1 (10 bytes)
        1500ms data 1 (10 bytes)
        3100ms data 1 (10 bytes)
        6100ms data 1 (10 bytes)
        9100ms data 1 (10 bytes)
        12100ms done: Unconfirmed
    "#]],
    );
}

#[test]
fn a_transfer_makes_room() {
    check(
        10,
        "tsize 0",
        "displace",
        expect![[r#"
        0ms oack tsize 10
        0ms done: Displaced
    "#]],
    );
    check(
        1000,
        "",
        "displace",
        expect![[r#"
        0ms data 1 (512 bytes)
        0ms done: Displaced
    "#]],
    );
    check(
        10,
        "",
        "displace",
        expect![[r#"
        0ms data 1 (10 bytes)
        0ms done: Unconfirmed
    "#]],
    );
}

#[test]
fn packets_that_only_a_server_sends_are_ignored() {
    check(
        10,
        "",
        "data 1; ack 1",
        expect![[r#"
        0ms data 1 (10 bytes)
        0ms done: Complete
    "#]],
    );
}

#[test]
fn what_is_not_read_yet_is_waited_for() {
    check(
        1000,
        "",
        "slow; wait 2000; read; ack 1; ack 2",
        expect![[r#"
        2000ms data 1 (512 bytes)
        2000ms data 2 (488 bytes)
        2000ms done: Complete
    "#]],
    );
    check(
        1000,
        "",
        "slow; wait 20000",
        expect![[r#"
        10000ms error 0
        10000ms done: ReadFailed
    "#]],
    );
}

#[test]
fn a_file_that_cannot_be_read_is_told() {
    check(
        1000,
        "",
        "ack 1; fail; ack 2",
        expect![[r#"
        0ms data 1 (512 bytes)
        0ms data 2 (488 bytes)
        0ms error 0
        0ms done: ReadFailed
    "#]],
    );
}

#[test]
fn f15_block_numbers_roll_over_to_0() {
    let mut transcript = Transcript::new(8 * 131_073 + 3, "blksize 8 windowsize 1");
    transcript.drain();
    for block in 0..=131_074_u64 {
        if block % 65_536 == 65_533 {
            transcript.text.clear();
        }
        transcript.step(&format!("ack {}", block % 65_536));
        if block == 65_540 {
            expect![[r#"
                0ms data 65534 (8 bytes)
                0ms data 65535 (8 bytes)
                0ms data 0 (8 bytes)
                0ms data 1 (8 bytes)
                0ms data 2 (8 bytes)
                0ms data 3 (8 bytes)
                0ms data 4 (8 bytes)
                0ms data 5 (8 bytes)
            "#]]
            .assert_eq(&transcript.text);
        }
    }
    assert!(transcript.text.ends_with("data 2 (3 bytes)\n0ms done: Complete\n"));
}

#[test]
fn a_burst_fits_what_the_kernel_cuts_into_datagrams() {
    for (asked, bursts) in [
        ("blksize 1468 windowsize 64", vec![44, 20]),
        ("blksize 512 windowsize 64", vec![64]),
        ("blksize 8192 windowsize 64", vec![7, 7, 2]),
        ("blksize 65464 windowsize 2", vec![1, 1]),
    ] {
        let mut transcript = Transcript::new(10_000_000, asked);
        transcript.drain();
        transcript.text.clear();
        transcript.step("ack 0");
        let sent: Vec<_> =
            transcript.text.lines().map(|line| line.matches("data").count()).collect();
        assert_eq!(sent, bursts, "{asked}");
    }
}
