//! The flusher on a real database, with a controller that is a value.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;

use pureboot_protocol::{ChangeId, Outcome};
use smol::LocalExecutor;
use smol::future::block_on;

use super::*;
use crate::outbox::chain;
use crate::store::tests::{close, event, open};

/// Every third delivery is lost on its way, and of every third the receipt.
#[derive(Default)]
struct Lossy {
    deliveries: Cell<u32>,
    log: RefCell<Vec<ChangeId>>,
    line_is_back: RefCell<Option<Outbox>>,
}

impl Courier for Lossy {
    async fn deliver(&self, batch: &ChangeBatch) -> Result<ChangeReceipt, DeliveryError> {
        let count = self.deliveries.get();
        self.deliveries.set(count + 1);
        let is_lossy = self.line_is_back.borrow().as_ref().map(Outbox::line_is_back).is_some();
        let lost = || DeliveryError::Unreachable("lost".to_owned());
        if is_lossy && count.is_multiple_of(3) {
            return Err(lost());
        }
        let mut log = self.log.borrow_mut();
        let known: HashSet<_> = log.iter().copied().collect();
        let mut results = Vec::new();
        for item in &batch.items {
            let outcome =
                if known.contains(&item.id) { Outcome::Duplicate } else { Outcome::Applied };
            if outcome == Outcome::Applied {
                log.push(item.id);
            }
            results.push(ChangeResult {
                id: item.id,
                outcome,
                node_version: None,
                conflict_id: None,
                reason: None,
            });
        }
        if is_lossy && count % 3 == 1 {
            return Err(lost());
        }
        let acked_through = batch.first_seq - 1 + u64::try_from(results.len()).unwrap();
        let hash = batch
            .items
            .iter()
            .fold(batch.prev_hash.unwrap(), |before, item| chain::link(before, &item.head()));
        let (nonce, epoch) = (batch.nonce, batch.epoch);
        Ok(ChangeReceipt { nonce, epoch, acked_through, hash, results, takes: None })
    }
}

fn soon() -> Instant {
    clock::monotonic() + Duration::from_secs(20)
}

#[test]
fn i1_i2_i3_what_was_recorded_arrives_once_and_in_order_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let courier = Lossy::default();
    let mut recorded = Vec::new();
    for life in 0..3 {
        let store = open(dir.path());
        let (outbox, flusher) = Outbox::new(store.clone());
        *courier.line_is_back.borrow_mut() = Some(outbox.clone());
        let executor = LocalExecutor::new();
        let flushing = executor.spawn(run(flusher, &courier, Rng::from_seed(life)));
        let work = async {
            let mut last = 0;
            for n in 0..30 {
                let session = u32::try_from(life).unwrap() * 100 + n;
                let done = outbox.record(event(1, session, 1), |_| {}).await.unwrap();
                recorded.push(done.id);
                last = done.seq;
            }
            // The second life ends with its work undone.
            if life != 1 {
                let result = outbox.outcome_of(last, soon()).await.unwrap();
                assert_eq!(Some(&result.id), recorded.last());
            }
        };
        block_on(executor.run(work));
        courier.line_is_back.take();
        drop((flushing, executor, outbox));
        close(store);
    }
    assert_eq!(*courier.log.borrow(), recorded);
    let left = block_on(open(dir.path()).counts()).unwrap();
    assert!(left.pending <= 100, "the last note of it may be missing, the changes are not");
}

#[test]
fn q1_a_caller_gets_the_controllers_own_answer_or_none_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let courier = Lossy::default();
    let (outbox, flusher) = Outbox::new(open(dir.path()));
    block_on(async {
        let recorded = outbox.record(event(1, 1, 1), |_| {}).await.unwrap();
        // Nobody flushes yet.
        assert_eq!(outbox.outcome_of(recorded.seq, clock::monotonic()).await, None);
        let executor = LocalExecutor::new();
        let _flushing = executor.spawn(run(flusher, &courier, Rng::from_seed(1)));
        executor
            .run(async {
                let result = outbox.outcome_of(recorded.seq, soon()).await.unwrap();
                assert_eq!((result.id, result.outcome), (recorded.id, Outcome::Applied));
                let late = outbox.outcome_of(recorded.seq, soon()).await;
                assert_eq!(late, Some(result), "who asks late is answered at once");
                let second = outbox.record(event(1, 2, 1), |_| {}).await.unwrap();
                assert!(outbox.outcome_of(second.seq, soon()).await.is_some());
            })
            .await;
        assert_eq!(courier.log.borrow().len(), 2);
        assert_eq!(outbox.trouble(), Trouble::default());
    });
}

#[test]
fn c9_trouble_is_visible_and_goes_with_the_next_success() {
    struct Refusing(Cell<bool>);
    impl Courier for Refusing {
        async fn deliver(&self, batch: &ChangeBatch) -> Result<ChangeReceipt, DeliveryError> {
            if self.0.get() {
                return Err(DeliveryError::Unauthorized { status: 401 });
            }
            let result = |outcome| ChangeResult {
                id: batch.items[0].id,
                outcome,
                node_version: None,
                conflict_id: None,
                reason: None,
            };
            Ok(ChangeReceipt {
                nonce: batch.nonce,
                epoch: batch.epoch,
                acked_through: 1,
                hash: chain::link(batch.prev_hash.unwrap(), &batch.items[0].head()),
                results: vec![result(Outcome::Parked)],
                takes: None,
            })
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let (outbox, flusher) = Outbox::new(open(dir.path()));
    let courier = Refusing(Cell::new(true));
    let executor = LocalExecutor::new();
    let _flushing = executor.spawn(run(flusher, &courier, Rng::from_seed(1)));
    block_on(executor.run(async {
        let recorded = outbox.record(event(1, 1, 1), |_| {}).await.unwrap();
        while outbox.trouble().last_error.is_none() {
            smol::future::yield_now().await;
        }
        assert_eq!(outbox.counts().await.unwrap().pending, 1);
        courier.0.set(false);
        outbox.line_is_back();
        let result = outbox.outcome_of(recorded.seq, soon()).await.unwrap();
        assert_eq!(result.outcome, Outcome::Parked);
        assert_eq!(outbox.trouble(), Trouble { conflicts: 0, last_error: None });
        while outbox.counts().await.unwrap().pending > 0 {}
        assert_eq!(outbox.counts().await.unwrap().parked, 1);
    }));
}
