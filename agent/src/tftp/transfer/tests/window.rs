//! Windows of more than one block (RFC 7440): what leaves at once, and what a loss costs.

use expect_test::expect;

use super::*;

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
