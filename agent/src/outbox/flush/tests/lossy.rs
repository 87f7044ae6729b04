//! Any delivery may be lost, repeated, late or refused, and the agent may die at each.

use super::*;

/// What happens to one delivery on its way.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Arrives,
    RequestLost,
    ReceiptLost,
    /// The controller answers, and the agent hears an older answer.
    OlderReceipt,
    /// Taken only in part.
    Partly,
    Refused,
    /// Taken, and the agent dies before it has deleted the prefix.
    AgentDies,
}

fn fate() -> impl Strategy<Value = Fate> {
    use Fate::*;
    prop::sample::select(vec![
        Arrives,
        RequestLost,
        ReceiptLost,
        OlderReceipt,
        Partly,
        Refused,
        AgentDies,
    ])
}

/// Takes custody in order, each id once, as FAULTS Q4 and Q6 say.
#[derive(Default)]
struct Controller {
    log: Vec<ChangeId>,
    taken: HashSet<ChangeId>,
    acked_through: u64,
}

impl Controller {
    fn take(&mut self, batch: &ChangeBatch, items_max: usize) -> ChangeReceipt {
        assert!(batch.first_seq <= self.acked_through + 1, "a gap");
        let mut results = Vec::new();
        for item in batch.items.iter().take(items_max) {
            let is_new = self.taken.insert(item.id);
            if is_new {
                self.log.push(item.id);
            }
            let outcome = if is_new { Outcome::Applied } else { Outcome::Duplicate };
            results.push(ChangeResult {
                id: item.id,
                outcome,
                node_version: None,
                conflict_id: None,
                reason: None,
            });
            self.acked_through = self.acked_through.max(item.seq);
        }
        let acked_through = batch.first_seq - 1 + u64::try_from(results.len()).unwrap();
        let hash = link(acked_through);
        let (nonce, epoch) = (batch.nonce, batch.epoch);
        ChangeReceipt { nonce, epoch, acked_through, hash, results, takes: None }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn i1_i2_i3_each_change_arrives_exactly_once_and_in_order(
        seed: u64,
        total in 1u64..250,
        bursts in proptest::collection::vec(1u64..40, 1..40),
        fates in proptest::collection::vec(fate(), 0..40),
    ) {
        let mut now = monotonic();
        let mut flush = Flush::new(Rng::from_seed(seed));
        let mut controller = Controller::default();
        let mut outbox: VecDeque<Change> = VecDeque::new();
        let (mut made, mut bursts) = (0, bursts.into_iter().cycle());
        let mut fates = fates.into_iter();
        let mut older: Option<ChangeReceipt> = None;
        for step in 0.. {
            prop_assert!(step < 100_000, "it comes to an end");
            match flush.poll_output() {
                Output::Load { items_max, .. } => {
                    let changes: Vec<_> = outbox.iter().take(items_max).cloned().collect();
                    let first_seq = changes.first().map_or(1, |first| first.seq);
                    flush.handle_loaded(loaded(first_seq, changes));
                }
                Output::Deliver(batch) => {
                    let unreachable = || DeliveryError::Unreachable("cut".to_owned());
                    match fates.next().unwrap_or(Fate::Arrives) {
                        Fate::Arrives => {
                            let receipt = controller.take(&batch, usize::MAX);
                            older = Some(receipt.clone());
                            flush.handle_receipt(receipt, now);
                        }
                        Fate::RequestLost => flush.handle_failure(unreachable(), now),
                        Fate::ReceiptLost => {
                            older = Some(controller.take(&batch, usize::MAX));
                            flush.handle_failure(DeliveryError::TimedOut, now);
                        }
                        Fate::OlderReceipt => {
                            let receipt = controller.take(&batch, usize::MAX);
                            match older.replace(receipt) {
                                Some(older) => flush.handle_receipt(older, now),
                                None => flush.handle_failure(unreachable(), now),
                            }
                        }
                        Fate::Partly => {
                            let receipt = controller.take(&batch, batch.items.len() / 2);
                            flush.handle_receipt(receipt, now);
                        }
                        Fate::Refused => {
                            let refused = DeliveryError::Refused { status: 400, detail: String::new() };
                            flush.handle_failure(refused, now);
                        }
                        Fate::AgentDies => {
                            older = Some(controller.take(&batch, usize::MAX));
                            flush = Flush::new(Rng::from_seed(seed ^ step));
                        }
                    }
                }
                Output::Acknowledge { through, .. } => {
                    while outbox.front().is_some_and(|change| change.seq <= through) {
                        let gone = outbox.pop_front().unwrap();
                        prop_assert!(controller.taken.contains(&gone.id), "deleted before it arrived");
                    }
                    flush.handle_acknowledged();
                }
                Output::Report(_) => {}
                Output::Rewind { .. } | Output::BeginEpoch { .. } => {
                    prop_assert!(false, "nobody came back from the past");
                }
                Output::Wait(until) => {
                    if made == total && outbox.is_empty() {
                        break;
                    }
                    let burst = bursts.next().unwrap().min(total - made);
                    outbox.extend((made + 1..=made + burst).map(change));
                    made += burst;
                    flush.handle_queued();
                    if let Some(until) = until {
                        now = until;
                        flush.handle_timeout(now);
                    }
                }
            }
        }
        let expected: Vec<_> = (1..=total).map(|seq| change(seq).id).collect();
        prop_assert_eq!(controller.log, expected);
    }
}
