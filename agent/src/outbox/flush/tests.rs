//! The flusher against receipts of every kind, and against a controller that loses, repeats and delays them.

mod lossy;

use std::collections::{HashSet, VecDeque};
use std::sync::LazyLock;

use proptest::prelude::*;
use pureboot_protocol::{
    BootRequest, Change, ChangePayload, ClockQuality, DEAD_LETTER_PAYLOAD_MAX, DeadLetter, Mac,
    NodeEvent, NodeEventKind, NodeId, RegisterNode, Timestamp,
};

use super::*;
use crate::clock::monotonic;
use crate::outbox::chain;
use crate::rng::Rng;

fn epoch() -> Epoch {
    Epoch::from_bytes([7; 16])
}

fn change(seq: u64) -> Change {
    Change {
        seq,
        id: ChangeId::from_bytes(u128::from(seq).to_be_bytes()),
        node: NodeId::from_random([1; 16]),
        base_version: None,
        prev_seq_same_node: None,
        at: Timestamp::from_unix_ms(0),
        clock: ClockQuality::Synced,
        session: None,
        payload: ChangePayload::Event(NodeEvent::new(NodeEventKind::BootStarted)),
    }
}

/// The links of the changes 0, 1, 2, …
static LINKS: LazyLock<Vec<ChainHash>> = LazyLock::new(|| {
    let mut links = vec![ChainHash::GENESIS];
    for seq in 1..=4_000 {
        links.push(chain::link(*links.last().unwrap(), &change(seq).head()));
    }
    links
});

fn link(seq: u64) -> ChainHash {
    LINKS[usize::try_from(seq).unwrap()]
}

fn loaded(first_seq: u64, changes: Vec<Change>) -> Queued {
    Queued { epoch: epoch(), low_water: 1, before: link(first_seq - 1), changes }
}

fn queued(seqs: std::ops::RangeInclusive<u64>) -> Queued {
    loaded(*seqs.start(), seqs.map(change).collect())
}

/// The receipt of a controller that has taken everything up to `through`.
fn receipt(batch: &ChangeBatch, through: u64) -> ChangeReceipt {
    let taken = batch.items.iter().take_while(|item| item.seq <= through);
    let result = |item: &Change| ChangeResult {
        id: item.id,
        outcome: Outcome::Applied,
        node_version: None,
        conflict_id: None,
        reason: None,
    };
    ChangeReceipt {
        nonce: batch.nonce,
        epoch: batch.epoch,
        acked_through: through,
        hash: link(through),
        results: taken.map(result).collect(),
        takes: None,
    }
}

/// A flusher that has just sent `seqs`.
fn sending(seqs: std::ops::RangeInclusive<u64>) -> (Flush, ChangeBatch) {
    let mut flush = Flush::new(Rng::from_seed(1));
    assert!(matches!(flush.poll_output(), Output::Load { items_max: 100, .. }));
    flush.handle_loaded(queued(seqs));
    let Output::Deliver(batch) = flush.poll_output() else { panic!("nothing to deliver") };
    (flush, batch)
}

fn next(flush: &mut Flush) -> (Vec<Report>, Output) {
    let mut reports = Vec::new();
    loop {
        match flush.poll_output() {
            Output::Report(report) => reports.push(report),
            output => return (reports, output),
        }
    }
}

fn pause_after(flush: &mut Flush, now: Instant) -> Duration {
    match next(flush).1 {
        Output::Wait(Some(until)) => until - now,
        other => panic!("{other:?} is no pause"),
    }
}

fn fail(flush: &mut Flush, error: DeliveryError, now: Instant) -> Duration {
    flush.handle_failure(error, now);
    let pause = pause_after(flush, now);
    flush.handle_timeout(now + pause);
    assert!(matches!(next(flush).1, Output::Load { .. }));
    flush.handle_loaded(queued(1..=1));
    pause
}

#[test]
fn an_empty_outbox_is_waited_on_and_a_new_change_is_sent_at_once() {
    let mut flush = Flush::new(Rng::from_seed(1));
    flush.handle_loaded(loaded(1, vec![]));
    assert_eq!(flush.poll_output(), Output::Wait(None));
    flush.handle_queued();
    assert!(matches!(flush.poll_output(), Output::Load { .. }));
}

#[test]
fn q5_a_receipt_that_counts_deletes_what_it_acknowledges_and_the_rest_goes_on() {
    let (mut flush, batch) = sending(4..=6);
    assert_eq!(batch.first_seq, 4);
    let partly = receipt(&batch, 5);
    flush.handle_receipt(partly.clone(), monotonic());
    let order = Output::Acknowledge { epoch: epoch(), through: 5, results: partly.results };
    assert_eq!(next(&mut flush), (vec![Report::Delivered { changes: 2 }], order));
    flush.handle_acknowledged();
    assert!(matches!(flush.poll_output(), Output::Load { .. }));
}

#[test]
fn c8_n6_a_receipt_that_is_not_exactly_ours_is_refused_as_a_whole() {
    let now = monotonic();
    let other = ChangeId::from_bytes([0xee; 16]);
    type Spoil = fn(&mut ChangeReceipt, ChangeId);
    let cases: [(Spoil, ReceiptError); 8] = [
        (|r, other| r.nonce = other, ReceiptError::Nonce),
        (
            |r, _| r.epoch = Epoch::from_bytes([8; 16]),
            ReceiptError::Epoch(Epoch::from_bytes([8; 16])),
        ),
        (|r, _| r.acked_through = 7, ReceiptError::Ahead { acked_through: 7, last_sent: 6 }),
        (
            |r, _| r.acked_through = u64::MAX,
            ReceiptError::Ahead { acked_through: u64::MAX, last_sent: 6 },
        ),
        (|r, _| r.acked_through = 2, ReceiptError::Results { acked: 0, results: 3 }),
        (|r, _| r.hash = link(5), ReceiptError::Hash { acked_through: 6 }),
        (|r, _| r.results.swap(0, 1), ReceiptError::Results { acked: 3, results: 3 }),
        (|r, _| _ = r.results.pop(), ReceiptError::Results { acked: 3, results: 2 }),
    ];
    for (spoil, error) in cases {
        let (mut flush, batch) = sending(4..=6);
        let mut spoilt = receipt(&batch, 6);
        spoil(&mut spoilt, other);
        flush.handle_receipt(spoilt, now);
        let (reports, output) = next(&mut flush);
        assert_eq!(reports, [Report::BadReceipt(error)]);
        let Output::Wait(Some(until)) = output else { panic!("{output:?} is no pause") };
        flush.handle_timeout(until);
        flush.handle_loaded(queued(4..=6));
        let Output::Deliver(again) = flush.poll_output() else { panic!("not sent again") };
        assert_eq!(again.items, batch.items);
        assert_ne!(again.nonce, batch.nonce, "a late answer is known as such");
    }
}

#[test]
fn a_receipt_that_takes_nothing_is_no_progress_and_no_busy_loop() {
    let (mut flush, batch) = sending(4..=6);
    let now = monotonic();
    flush.handle_receipt(receipt(&batch, 3), now);
    assert!(pause_after(&mut flush, now) >= PAUSE_MIN);
}

#[test]
fn c1_pauses_grow_with_jitter_to_five_minutes_and_end_with_a_success() {
    let now = monotonic();
    let (mut flush, _) = sending(1..=1);
    let down = || DeliveryError::Unavailable { status: 502, retry_after: None };
    let pauses: Vec<_> = (0..400).map(|_| fail(&mut flush, down(), now)).collect();
    for (pause, ceiling_s) in pauses.iter().zip([2, 4, 8, 16, 32, 64, 128, 256, 300]) {
        assert!((PAUSE_MIN..=Duration::from_secs(ceiling_s)).contains(pause), "{pause:?}");
    }
    assert!(pauses.iter().all(|pause| *pause <= PAUSE_MAX));
    assert!(pauses.iter().any(|pause| *pause > Duration::from_secs(250)));
    let different: HashSet<_> = pauses.iter().collect();
    assert!(different.len() > 300, "jitter");
    let Output::Deliver(batch) = next(&mut flush).1 else { panic!("nothing to deliver") };
    flush.handle_receipt(receipt(&batch, 1), now);
    flush.handle_acknowledged();
    flush.handle_loaded(queued(1..=1));
    assert!(fail(&mut flush, down(), now) <= Duration::from_secs(2));
}

#[test]
fn c2_a_wish_to_be_left_alone_is_obeyed_within_limits() {
    let now = monotonic();
    for (asked_s, obeyed_s) in [(0, 1), (1, 1), (77, 77), (900, 900), (1_000_000_000_000, 900)] {
        let (mut flush, _) = sending(1..=1);
        let retry_after = Some(Duration::from_secs(asked_s));
        flush.handle_failure(DeliveryError::Unavailable { status: 429, retry_after }, now);
        assert_eq!(pause_after(&mut flush, now), Duration::from_secs(obeyed_s));
        flush.handle_online();
        flush.handle_queued();
        flush.handle_timeout(now);
        assert!(matches!(next(&mut flush).1, Output::Wait(Some(_))), "nothing cuts it short");
    }
}

#[test]
fn a_line_that_is_back_ends_a_pause_of_our_own() {
    let now = monotonic();
    let (mut flush, _) = sending(1..=1);
    flush.handle_failure(DeliveryError::Unreachable("no route".to_owned()), now);
    assert!(pause_after(&mut flush, now) >= PAUSE_MIN);
    flush.handle_queued();
    assert!(matches!(flush.poll_output(), Output::Wait(Some(_))), "a new change is no reason");
    flush.handle_online();
    assert!(matches!(flush.poll_output(), Output::Load { .. }));
}

#[test]
fn c9_a_refused_credential_pauses_and_keeps_everything() {
    let now = monotonic();
    let (mut flush, batch) = sending(1..=2);
    flush.handle_failure(DeliveryError::Unauthorized { status: 401 }, now);
    let (reports, output) = next(&mut flush);
    assert_eq!(reports, [Report::Failed(DeliveryError::Unauthorized { status: 401 })]);
    let Output::Wait(Some(until)) = output else { panic!("{output:?} is no pause") };
    flush.handle_timeout(until);
    flush.handle_loaded(queued(1..=2));
    assert!(matches!(flush.poll_output(), Output::Deliver(again) if again.items == batch.items));
}

#[test]
fn n4_a_smaller_batch_after_a_lost_answer_meets_a_controller_that_has_the_larger_one() {
    let (mut flush, _) = sending(1..=10);
    let now = monotonic();
    flush.handle_failure(DeliveryError::TimedOut, now);
    let pause = pause_after(&mut flush, now);
    flush.handle_timeout(now + pause);
    assert!(matches!(next(&mut flush).1, Output::Load { items_max: 5, .. }));
    flush.handle_loaded(queued(1..=5));
    let Output::Deliver(batch) = flush.poll_output() else { panic!("nothing to deliver") };
    // The controller had taken all ten, and has results for the five that it was sent now.
    flush.handle_receipt(receipt(&batch, 10), now);
    match next(&mut flush).1 {
        Output::Acknowledge { through, results, .. } => {
            assert_eq!((through, results.len()), (5, 5))
        }
        other => panic!("{other:?} acknowledges nothing"),
    }
    // What was never sent by anybody is still not believed (C8).
    let (mut flush, batch) = sending(1..=10);
    flush.handle_receipt(receipt(&batch, 11), now);
    assert!(matches!(
        next(&mut flush).0.as_slice(),
        [Report::BadReceipt(ReceiptError::Ahead { .. })]
    ));
}

/// Delivers changes 1 to 100 to a controller that refuses to read each batch for which `refuses` holds; answers what it read under 37.
fn deliver_past(refuses: impl Fn(&ChangeBatch) -> bool) -> (Vec<Report>, u32, Option<DeadLetter>) {
    let now = monotonic();
    let mut flush = Flush::new(Rng::from_seed(1));
    let (mut first, mut requests) = (1, 0);
    let (mut reports, mut letter) = (Vec::new(), None);
    loop {
        match flush.poll_output() {
            Output::Load { items_max, .. } => {
                let through = 100.min(first + u64::try_from(items_max).unwrap() - 1);
                flush.handle_loaded(queued(first..=through));
            }
            Output::Deliver(batch) => {
                requests += 1;
                if refuses(&batch) {
                    let detail = "no".to_owned();
                    flush.handle_failure(DeliveryError::Refused { status: 422, detail }, now);
                    continue;
                }
                let found = batch.items.iter().find_map(|item| match &item.payload {
                    ChangePayload::DeadLetter(letter) => Some((item.seq, letter.clone())),
                    _ => None,
                });
                if let Some((seq, found)) = found {
                    assert_eq!((seq, batch.items.len()), (37, 1));
                    letter = Some(found);
                }
                flush.handle_receipt(receipt(&batch, batch.items.last().unwrap().seq), now);
            }
            Output::Acknowledge { through, .. } => {
                first = through + 1;
                flush.handle_acknowledged();
            }
            Output::Report(report) => {
                if !matches!(report, Report::Failed(_) | Report::Delivered { .. }) {
                    reports.push(report);
                }
            }
            Output::Wait(_) => return (reports, requests, letter),
            output => panic!("{output:?}"),
        }
        if first > 100 {
            return (reports, requests, letter);
        }
    }
}

fn is_raw(item: &Change) -> bool {
    !matches!(item.payload, ChangePayload::DeadLetter(_))
}

#[test]
fn q10_c10_a_poison_item_goes_as_a_dead_letter_and_the_others_in_order() {
    let refused = || DeliveryError::Refused { status: 422, detail: "no".to_owned() };
    let (reports, requests, letter) =
        deliver_past(|batch| batch.items.iter().any(|item| item.seq == 37 && is_raw(item)));
    assert_eq!(reports, [Report::Enclosed { seq: 37, error: refused() }]);
    assert!(requests < 40, "{requests} requests");
    let letter = letter.expect("a letter");
    assert_eq!((letter.kind.as_str(), letter.size_bytes), ("event", 29));
    assert_eq!(letter.payload.as_deref(), Some(r#"{"event_type":"boot_started"}"#));
    assert!(letter.reason.contains("422: no"), "{}", letter.reason);
    // Not even with its payload.
    let has_payload = |item: &Change| match &item.payload {
        ChangePayload::DeadLetter(letter) => letter.payload.is_some(),
        _ => true,
    };
    let (reports, _, letter) =
        deliver_past(|batch| batch.items.iter().any(|item| item.seq == 37 && has_payload(item)));
    assert_eq!(reports, [37, 37].map(|seq| Report::Enclosed { seq, error: refused() }));
    assert_eq!(letter.expect("a letter").payload, None);
    // Not at all: it stays at the head.
    let (reports, _, letter) = deliver_past(|batch| batch.items.iter().any(|item| item.seq == 37));
    assert_eq!(reports.last(), Some(&Report::Blocked { seq: 37, error: refused() }));
    assert_eq!(letter, None);
}

#[test]
fn q10_a_long_payload_stays_behind() {
    let mut change = change(1);
    let request = BootRequest::new(Mac::from_bytes([2; 6]).unwrap());
    let ip_address = Some("x".repeat(DEAD_LETTER_PAYLOAD_MAX));
    change.payload = ChangePayload::Registration(RegisterNode { request, ip_address });
    let error = DeliveryError::Refused { status: 413, detail: "large".to_owned() };
    Letter::after(None, epoch(), 1, &error).expect("a first form").enclose(&mut change);
    let ChangePayload::DeadLetter(letter) = change.payload else { panic!("no letter") };
    assert_eq!(letter.payload, None);
    assert!(letter.size_bytes > 4096);
}

#[test]
fn a_refusal_that_is_not_about_content_splits_and_encloses_nothing() {
    let now = monotonic();
    for (seqs, status) in [(1..=8, 404), (1..=1, 405), (1..=1, 409)] {
        let (mut flush, batch) = sending(seqs.clone());
        let detail = "there is nothing".to_owned();
        flush.handle_failure(DeliveryError::Refused { status, detail }, now);
        let pause = pause_after(&mut flush, now);
        flush.handle_timeout(now + pause);
        flush.handle_loaded(queued(seqs));
        assert!(matches!(next(&mut flush).1, Output::Deliver(again) if again.items == batch.items));
    }
}

#[test]
fn n12_a_controller_from_a_backup_is_sent_again_what_is_kept() {
    let now = monotonic();
    let (mut flush, batch) = sending(4..=6);
    let mut behind = receipt(&batch, 1);
    behind.results.clear();
    flush.handle_receipt(behind, now);
    let (reports, output) = next(&mut flush);
    assert_eq!(reports, [Report::Behind { acked_through: 1, first_seq: 4 }]);
    assert_eq!(output, Output::Rewind { epoch: epoch(), through: 1, hash: link(1) });
    flush.handle_rewound(true);
    assert!(matches!(flush.poll_output(), Output::Load { .. }));
    flush.handle_loaded(queued(2..=6));
    let Output::Deliver(batch) = flush.poll_output() else { panic!("nothing to deliver") };
    assert_eq!((batch.first_seq, batch.prev_hash), (2, Some(link(1))));
    flush.handle_receipt(receipt(&batch, 6), now);
    assert!(matches!(next(&mut flush).1, Output::Acknowledge { through: 6, .. }));
}

/// The epoch that begins, where one does.
fn begun(flush: &mut Flush) -> Option<Epoch> {
    match next(flush) {
        (reports, Output::BeginEpoch { from, to }) => {
            assert_eq!(reports.last(), Some(&Report::Forked { epoch: epoch() }));
            assert_eq!(from, epoch());
            Some(to)
        }
        _ => None,
    }
}

#[test]
fn q8_d10_a_fork_begins_an_epoch() {
    let now = monotonic();
    let (mut flush, _) = sending(4..=6);
    flush.handle_failure(DeliveryError::Forked("change 4 is another".to_owned()), now);
    let to = begun(&mut flush).expect("a new epoch");
    assert_ne!(to, epoch());
    flush.handle_epoch_begun();
    assert!(matches!(flush.poll_output(), Output::Load { .. }));
    // Nobody has what the controller waits for.
    let (mut flush, batch) = sending(4..=6);
    let mut behind = receipt(&batch, 1);
    behind.results.clear();
    flush.handle_receipt(behind, now);
    assert!(matches!(next(&mut flush).1, Output::Rewind { .. }));
    flush.handle_rewound(false);
    assert!(begun(&mut flush).is_some());
}

#[test]
fn d10_a_controller_that_has_more_than_was_ever_written_is_believed_the_second_time() {
    let now = monotonic();
    type Spoil = fn(&mut ChangeReceipt);
    let spoils: [Spoil; 2] = [|r| r.acked_through = 100, |r| r.hash = link(1)];
    for spoil in spoils {
        let (mut flush, batch) = sending(4..=6);
        let mut spoilt = receipt(&batch, 6);
        spoil(&mut spoilt);
        flush.handle_receipt(spoilt.clone(), now);
        let pause = pause_after(&mut flush, now);
        flush.handle_timeout(now + pause);
        flush.handle_loaded(queued(4..=6));
        let Output::Deliver(batch) = next(&mut flush).1 else { panic!("nothing to deliver") };
        spoilt.nonce = batch.nonce;
        flush.handle_receipt(spoilt, now);
        assert!(begun(&mut flush).is_some());
    }
}

#[test]
fn n13_a_fenced_agent_keeps_everything_and_asks_again() {
    let now = monotonic();
    let (mut flush, batch) = sending(1..=2);
    flush.handle_failure(DeliveryError::InUse("another".to_owned()), now);
    let pause = pause_after(&mut flush, now);
    flush.handle_timeout(now + pause);
    flush.handle_loaded(queued(1..=2));
    assert!(matches!(next(&mut flush).1, Output::Deliver(again) if again.items == batch.items));
}

#[test]
fn n9_a_path_that_swallows_large_batches_gets_smaller_ones_and_later_larger_ones_again() {
    let now = monotonic();
    let mut flush = Flush::new(Rng::from_seed(1));
    let mut sizes = Vec::new();
    let (mut first, mut is_narrow) = (1, true);
    while sizes.len() < 20 {
        match flush.poll_output() {
            Output::Load { items_max, .. } => {
                flush.handle_loaded(queued(first..=first + u64::try_from(items_max).unwrap() - 1));
            }
            Output::Deliver(batch) => {
                sizes.push(batch.items.len());
                if is_narrow && batch.items.len() > 2 {
                    flush.handle_failure(DeliveryError::TimedOut, now);
                } else {
                    is_narrow = sizes.len() < 10;
                    flush.handle_receipt(receipt(&batch, batch.items.last().unwrap().seq), now);
                }
            }
            Output::Acknowledge { through, .. } => {
                first = through + 1;
                flush.handle_acknowledged();
            }
            Output::Report(_) => {}
            Output::Wait(until) => flush.handle_timeout(until.unwrap()),
            output => panic!("{output:?}"),
        }
    }
    assert_eq!(
        sizes,
        [100, 50, 25, 12, 6, 3, 1, 2, 4, 2, 4, 8, 16, 32, 64, 100, 100, 100, 100, 100]
    );
}

/// The sizes of the first batches of a full outbox, with what a controller says that it takes and how long it takes for each.
fn sizes(takes: &[Option<BatchLimits>], seconds: u64) -> Vec<(usize, usize)> {
    let mut now = monotonic();
    let mut flush = Flush::new(Rng::from_seed(1));
    let (mut first, mut sizes, mut told) = (1, Vec::new(), takes.iter());
    loop {
        match flush.poll_output() {
            Output::Load { items_max, bytes_max } => {
                sizes.push((items_max, bytes_max));
                flush.handle_loaded(queued(first..=first + u64::try_from(items_max).unwrap() - 1));
            }
            Output::Deliver(batch) => {
                let Some(takes) = told.next() else { return sizes };
                now += Duration::from_secs(seconds);
                let last = batch.items.last().unwrap().seq;
                flush.handle_receipt(ChangeReceipt { takes: *takes, ..receipt(&batch, last) }, now);
            }
            Output::Acknowledge { through, .. } => {
                first = through + 1;
                flush.handle_acknowledged();
            }
            Output::Report(_) => {}
            output => panic!("{output:?}"),
        }
    }
}

#[test]
fn a_batch_is_as_large_as_both_sides_bear_and_a_controller_that_says_nothing_gets_what_it_always_got()
 {
    let say = |items_max, bytes_max| Some(BatchLimits { items_max, bytes_max });
    let of = |takes: &[Option<BatchLimits>]| -> Vec<_> {
        sizes(takes, 0).into_iter().map(|(items, _)| items).collect()
    };
    assert_eq!(of(&[None; 3]), [100; 4]);
    let much = say(u32::MAX, u32::MAX);
    assert_eq!(of(&[much; 5]), [100, 200, 400, 800, 1_000, 1_000]);
    assert_eq!(of(&[say(250, 1 << 20); 3]), [100, 200, 250, 250]);
    assert_eq!(of(&[much, much, None, None]), [100, 200, 400, 100, 100], "an older one came back");
    assert_eq!(of(&[say(0, 0)]), [100, 1]);
    let bytes: Vec<_> = sizes(&[much, say(9, 70_000)], 0).iter().map(|(_, bytes)| *bytes).collect();
    assert_eq!(bytes, [(256 << 10) - 512, (1 << 20) - 512, 70_000 - 512]);
}

#[test]
fn n10_batches_do_not_outgrow_a_line_that_takes_long_for_each() {
    let takes = [Some(LIMITS); 3];
    assert_eq!(sizes(&takes, 2).last().map(|(items, _)| *items), Some(800));
    // The first one had nobody before it.
    assert_eq!(sizes(&takes, 4).last().map(|(items, _)| *items), Some(200));
}

#[test]
fn what_the_controller_sets_aside_is_told_and_does_not_stop_the_rest() {
    let (mut flush, batch) = sending(1..=3);
    let mut answer = receipt(&batch, 3);
    answer.results[1].outcome = Outcome::Parked;
    answer.results[1].reason = Some("no such node".to_owned());
    let result = answer.results[1].clone();
    flush.handle_receipt(answer, monotonic());
    let (reports, output) = next(&mut flush);
    assert_eq!(reports, [Report::SetAside { seq: 2, result }, Report::Delivered { changes: 3 }]);
    assert!(matches!(output, Output::Acknowledge { through: 3, .. }));
}
