//! The outbox on a real database, joined to a controller that is a value, through losses, repetitions, crashes and pasts that come
//! back on either side (FAULTS I1 to I3, N4 to N6, N12, D9, D10). The controller's own half is tested in the controller.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;
use std::time::Instant;

use proptest::prelude::*;
use pureboot_protocol::{ChainHash, ChangeBatch, ChangeId, ChangeReceipt, ChangeResult, Outcome};
use smol::future::block_on;

use super::chain;
use super::flush::{DeliveryError, Flush, Output};
use super::view::{ITEMS_MAX, Wish};
use crate::clock::monotonic;
use crate::rng::Rng;
use crate::store::Store;
use crate::store::tests::{at, close, event, open};

/// The most changes of a run.
const STEPS_MAX: usize = 60;

/// Custody as FAULTS Q4 to Q8 say.
#[derive(Debug, Clone, Default)]
struct Centre {
    log: Vec<ChangeId>,
    epochs: BTreeMap<String, (u64, ChainHash, Vec<ChangeId>)>,
}

impl Centre {
    fn take(&mut self, batch: &ChangeBatch) -> Result<ChangeReceipt, DeliveryError> {
        let fresh = || (0, ChainHash::GENESIS, Vec::new());
        let (acked_through, hash, places) =
            self.epochs.entry(batch.epoch.to_string()).or_insert_with(fresh);
        let forked = || DeliveryError::Forked("another history".to_owned());
        let mut results = Vec::new();
        if batch.first_seq <= *acked_through + 1 {
            let mut link = batch.prev_hash.expect("an agent of today says it");
            if batch.first_seq == *acked_through + 1 && link != *hash {
                return Err(forked());
            }
            for item in &batch.items {
                link = chain::link(link, &item.head());
                let place = usize::try_from(item.seq - 1).expect("small");
                if places.get(place).is_some_and(|id| *id != item.id) {
                    return Err(forked());
                }
                let is_known = self.log.contains(&item.id);
                if !is_known {
                    self.log.push(item.id);
                }
                if item.seq > *acked_through {
                    places.push(item.id);
                    (*acked_through, *hash) = (item.seq, link);
                }
                results.push(ChangeResult {
                    id: item.id,
                    outcome: if is_known { Outcome::Duplicate } else { Outcome::Applied },
                    node_version: None,
                    conflict_id: None,
                    reason: None,
                });
            }
        }
        Ok(ChangeReceipt {
            nonce: batch.nonce,
            epoch: batch.epoch,
            acked_through: *acked_through,
            hash: *hash,
            results,
            takes: None,
        })
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Record,
    Arrives,
    RequestLost,
    ReceiptLost,
    /// The agent hears the receipt of an older attempt, after the controller has taken the batch.
    OlderReceipt,
    AgentDies,
    CentreIsSaved,
    CentreComesBack,
    DiskIsSaved,
    DiskComesBack,
}

fn step() -> impl Strategy<Value = Step> {
    use Step::*;
    prop_oneof![
        6 => Just(Record),
        4 => Just(Arrives),
        6 => prop::sample::select(vec![RequestLost, ReceiptLost, OlderReceipt, AgentDies]),
        4 => prop::sample::select(vec![CentreIsSaved, CentreComesBack, DiskIsSaved, DiskComesBack]),
    ]
}

/// What happened to a delivery.
fn deliver(
    centre: &mut Centre,
    batch: &ChangeBatch,
    step: Option<Step>,
    older: &mut Option<ChangeReceipt>,
) -> Result<ChangeReceipt, DeliveryError> {
    let lost = || DeliveryError::Unreachable("lost".to_owned());
    match step {
        Some(Step::RequestLost) => Err(lost()),
        Some(Step::ReceiptLost) => {
            *older = centre.take(batch).ok();
            Err(DeliveryError::TimedOut)
        }
        Some(Step::OlderReceipt) => {
            let receipt = centre.take(batch)?;
            older.replace(receipt).ok_or_else(lost)
        }
        _ => {
            let receipt = centre.take(batch);
            *older = receipt.clone().ok();
            receipt
        }
    }
}

/// What an agent does only after somebody has come back from the past. It mends other faults too, and would hide them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Repairs {
    rewinds: u32,
    epochs: u32,
}

struct Agent {
    store: Store,
    flush: Flush,
    now: Instant,
    lives: u64,
    repairs: Repairs,
}

impl Agent {
    fn start(dir: &Path, now: Instant) -> Self {
        Self::begin(dir, now, 1, Repairs::default())
    }

    fn begin(dir: &Path, now: Instant, lives: u64, repairs: Repairs) -> Self {
        let store = open(dir);
        // The disk of a test need not survive a power cut.
        block_on(store.run(|db| Ok(db.pragma_update(None, "synchronous", 0)?))).unwrap();
        Self { store, flush: Flush::new(Rng::from_seed(lives)), now, lives, repairs }
    }

    fn restart(self, dir: &Path, between: impl FnOnce()) -> Self {
        close(self.store);
        between();
        Self::begin(dir, self.now, self.lives + 1, self.repairs)
    }

    /// The changes that it counts as acknowledged, of those that it keeps.
    fn acknowledged(&self) -> Vec<ChangeId> {
        let all = block_on(self.store.queue(Wish::All { limit: ITEMS_MAX, after: 0 })).unwrap();
        let through = all.acked_through;
        all.items.iter().filter(|item| item.seq <= through).map(|item| item.id).collect()
    }

    /// Whether there is nothing to do now.
    fn rests(&mut self) -> bool {
        loop {
            match self.flush.poll_output() {
                Output::Report(_) => {}
                output => return matches!(output, Output::Wait(_)),
            }
        }
    }

    /// Works until there is nothing to do or one batch was delivered; whether there is nothing to do.
    fn work(
        &mut self,
        mut send: impl FnMut(&ChangeBatch) -> Result<ChangeReceipt, DeliveryError>,
    ) -> bool {
        loop {
            match self.flush.poll_output() {
                Output::Load { items_max, bytes_max } => {
                    // Small batches make long stories.
                    let loaded = block_on(self.store.pending(items_max.min(4), bytes_max));
                    self.flush.handle_loaded(loaded.unwrap());
                }
                Output::Deliver(batch) => {
                    match send(&batch) {
                        Ok(receipt) => {
                            let is_of_another = receipt.nonce != batch.nonce;
                            self.flush.handle_receipt(receipt, self.now);
                            assert!(!is_of_another || self.rests(), "N6: it counts");
                        }
                        Err(error) => self.flush.handle_failure(error, self.now),
                    }
                    return false;
                }
                Output::Acknowledge { epoch, through, results } => {
                    block_on(self.store.acknowledge(epoch, through, results, at(0))).unwrap();
                    self.flush.handle_acknowledged();
                }
                Output::Rewind { epoch, through, hash } => {
                    self.repairs.rewinds += 1;
                    let has_more = block_on(self.store.rewind(epoch, through, hash)).unwrap();
                    self.flush.handle_rewound(has_more);
                }
                Output::BeginEpoch { from, to } => {
                    self.repairs.epochs += 1;
                    block_on(self.store.begin_epoch(from, to, at(0))).unwrap();
                    self.flush.handle_epoch_begun();
                }
                Output::Report(_) => {}
                Output::Wait(None) => return true,
                Output::Wait(Some(until)) => {
                    self.now = until;
                    self.flush.handle_timeout(until);
                }
            }
        }
    }
}

/// What has been, whatever the two know of it now.
#[derive(Debug, Default)]
struct Past {
    /// What the controller ever had.
    taken: HashSet<ChangeId>,
    has_centre_returned: bool,
    has_disk_returned: bool,
}

impl Past {
    /// Without this every fault in the prefix would be mended at the next batch, and seen by nobody.
    fn explains(&self, agent: &Agent) -> Result<(), TestCaseError> {
        let acknowledged = agent.acknowledged();
        let are_taken = acknowledged.iter().all(|id| self.taken.contains(id));
        prop_assert!(are_taken, "what counts as acknowledged was taken");
        let Repairs { rewinds, epochs } = agent.repairs;
        prop_assert!(rewinds == 0 || self.has_centre_returned, "nobody has lost anything");
        prop_assert!(epochs == 0 || self.has_disk_returned, "what was lost is in the ring");
        Ok(())
    }
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

fn play(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let (data, aside) = (dir.path().join("data"), dir.path().join("aside"));
    let state = data.join("state");
    let mut agent = Agent::start(&data, monotonic());
    let mut centre = Centre::default();
    let mut older = None;
    let mut made: Vec<ChangeId> = Vec::new();
    let mut on_disk: HashSet<ChangeId> = HashSet::new();
    let (mut saved_centre, mut saved_disk) = (None, None);
    let mut session = 0;
    let mut past = Past::default();
    for step in steps {
        match step {
            Step::Record => {
                session += 1;
                let recorded = block_on(agent.store.record(event(1, session, 1), |_| {})).unwrap();
                made.push(recorded.id);
                on_disk.insert(recorded.id);
                agent.flush.handle_queued();
            }
            Step::AgentDies => {
                agent
                    .work(|batch| deliver(&mut centre, batch, Some(Step::ReceiptLost), &mut older));
                agent = agent.restart(&data, || {});
            }
            Step::CentreIsSaved => saved_centre = Some(centre.clone()),
            Step::CentreComesBack => {
                centre = saved_centre.clone().unwrap_or_default();
                past.has_centre_returned = true;
            }
            Step::DiskIsSaved => {
                agent = agent.restart(&data, || copy(&state, &aside));
                saved_disk = Some(on_disk.clone());
            }
            Step::DiskComesBack => {
                if let Some(saved) = &saved_disk {
                    agent = agent.restart(&data, || copy(&aside, &state));
                    on_disk = saved.clone();
                    past.has_disk_returned = true;
                }
            }
            Step::Arrives | Step::RequestLost | Step::ReceiptLost | Step::OlderReceipt => {
                agent.work(|batch| deliver(&mut centre, batch, Some(step), &mut older));
            }
        }
        past.taken.extend(&centre.log);
        past.explains(&agent)?;
        // What neither side has any more is nobody's to keep.
        made.retain(|id| on_disk.contains(id) || centre.log.contains(id));
    }
    // A change more, so that both see where the other stands.
    let last = block_on(agent.store.record(event(1, u32::MAX, 1), |_| {})).unwrap();
    made.push(last.id);
    agent.flush.handle_queued();
    let mut rounds = 0;
    while !agent.work(|batch| deliver(&mut centre, batch, None, &mut older)) {
        rounds += 1;
        prop_assert!(rounds < 1_000, "it comes to an end");
    }
    past.taken.extend(&centre.log);
    past.explains(&agent)?;
    prop_assert_eq!(&centre.log, &made, "each once, in the order in which they were made");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn i1_i2_i3_nothing_is_lost_doubled_or_reordered_whoever_comes_back_from_the_past(
        steps in proptest::collection::vec(step(), 1..STEPS_MAX),
    ) {
        play(steps)?;
    }
}

#[test]
fn n12_d10_both_come_back_from_different_pasts() {
    use Step::*;
    play(vec![
        Record,
        Record,
        Arrives,
        DiskIsSaved,
        CentreIsSaved,
        Record,
        Arrives,
        Arrives,
        Record,
        Arrives,
        DiskComesBack,
        Record,
        Arrives,
        CentreComesBack,
        Record,
        ReceiptLost,
        OlderReceipt,
    ])
    .unwrap();
}
