//! The task around the flusher, and the handle by which the rest of the agent writes changes down.

use std::future::Future;
use std::time::{Duration, Instant};

use pureboot_protocol::{ChangeBatch, ChangeId, ChangeReceipt, ChangeResult, Instance};
use smol::channel::{Receiver, Sender, bounded};
use smol::future::FutureExt;

use super::change::NewChange;
use super::flush::{DeliveryError, Flush, Output, Report};
use super::outcomes::{Flight, Outcomes, Trouble};
use super::record::{Counts, Recorded};
use super::view::{Item, Queue, Wish};
use crate::clock::{self, Timer};
use crate::rng::Rng;
use crate::store::{CachedNode, Store, StoreError};

/// For one batch, from the first packet to the last byte of the receipt, whatever the courier does.
const DELIVERY_DEADLINE: Duration = Duration::from_secs(30);

/// Carries batches to the controller.
pub trait Courier {
    /// Sends the batch and returns the receipt as the controller wrote it; whether it counts is not the courier's concern.
    ///
    /// Dropped when it takes too long.
    fn deliver(
        &self,
        batch: &ChangeBatch,
    ) -> impl Future<Output = Result<ChangeReceipt, DeliveryError>>;
}

/// The way into the outbox.
#[derive(Debug, Clone)]
pub struct Outbox {
    store: Store,
    outcomes: Outcomes,
    queued: Sender<()>,
    online: Sender<()>,
}

/// The right to flush an outbox; there is one for each.
#[derive(Debug)]
pub struct Flusher {
    store: Store,
    outcomes: Outcomes,
    queued: Receiver<()>,
    online: Receiver<()>,
    instance: Option<Instance>,
}

impl Flusher {
    /// Names `instance` as the sender of what is delivered.
    pub fn speaking_as(self, instance: Instance) -> Self {
        Self { instance: Some(instance), ..self }
    }
}

impl Outbox {
    /// The outbox in `store`, and what [`run`] needs to empty it.
    pub fn new(store: Store) -> (Self, Flusher) {
        // One signal that waits is as good as many.
        let (queued, hear_queued) = bounded(1);
        let (online, hear_online) = bounded(1);
        let outcomes = Outcomes::default();
        let flusher = Flusher {
            store: store.clone(),
            outcomes: outcomes.clone(),
            queued: hear_queued,
            online: hear_online,
            instance: None,
        };
        (Self { store, outcomes, queued, online }, flusher)
    }

    /// As [`Store::record`]; the flusher then tries to deliver it at once.
    ///
    /// # Errors
    /// As [`Store::record`].
    pub async fn record(
        &self,
        new: NewChange,
        effect: impl FnOnce(&mut CachedNode) + Send + 'static,
    ) -> Result<Recorded, StoreError> {
        let recorded = self.store.record(new, effect).await?;
        if let Some(result) = &recorded.result {
            self.outcomes.repeat(recorded.seq, result);
        }
        let _ = self.queued.try_send(());
        Ok(recorded)
    }

    /// What the controller did with change `seq`; none if nobody knows by `deadline`. The change stays queued then.
    pub async fn outcome_of(&self, seq: u64, deadline: Instant) -> Option<ChangeResult> {
        let result = self.outcomes.wait_for(seq);
        let give_up = async {
            Timer::at(deadline).await;
            None
        };
        async { result.recv().await.ok() }.or(give_up).await
    }

    /// The controller is in reach again: what waits because of a failure is tried now.
    pub fn line_is_back(&self) {
        let _ = self.online.try_send(());
    }

    /// As [`Store::counts`].
    ///
    /// # Errors
    /// As [`Store::counts`].
    pub async fn counts(&self) -> Result<Counts, StoreError> {
        self.store.counts().await
    }

    /// As [`Store::queue`], with what is on its way.
    ///
    /// # Errors
    /// As [`Store::queue`].
    pub async fn queue(&self, wish: Wish) -> Result<Queue, StoreError> {
        let mut queue = self.store.queue(wish).await?;
        queue.tell_flight(self.outcomes.in_flight(), self.trouble().last_error);
        Ok(queue)
    }

    /// The change with the number `seq`, as [`Outbox::queue`] would list it.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn queued(&self, seq: u64) -> Result<Option<Item>, StoreError> {
        Ok(self.tell(self.store.queued(seq).await?))
    }

    /// As [`Outbox::queued`], of the change with this id.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn queued_as(&self, id: ChangeId) -> Result<Option<Item>, StoreError> {
        Ok(self.tell(self.store.queued_as(id).await?))
    }

    /// How many changes are on their way.
    pub fn in_flight(&self) -> u64 {
        self.outcomes.in_flight().map_or(0, Flight::len)
    }

    fn tell(&self, item: Option<Item>) -> Option<Item> {
        let (flight, last_error) = (self.outcomes.in_flight(), self.trouble().last_error);
        item.map(|item| item.told(flight, last_error.as_deref()))
    }

    /// Returns when the controller has set a change aside, in a conflict or because it could not be applied.
    pub async fn set_aside(&self) {
        self.outcomes.set_aside().await;
    }

    /// How the flusher does.
    pub fn trouble(&self) -> Trouble {
        self.outcomes.trouble()
    }
}

/// Empties the outbox for as long as the store's thread lives.
pub async fn run<C: Courier>(flusher: Flusher, courier: &C, rng: Rng) {
    let Flusher { store, outcomes, queued, online, instance } = flusher;
    let mut flush = Flush::new(rng);
    if let Some(instance) = instance {
        flush = flush.speaking_as(instance);
    }
    loop {
        match flush.poll_output() {
            Output::Load { items_max, bytes_max } => {
                match store.pending(items_max, bytes_max).await {
                    Ok(loaded) => flush.handle_loaded(loaded),
                    Err(StoreError::Stopped) => return,
                    Err(error) => {
                        log::warn!(error:%; "cannot read the outbox");
                        flush.handle_store_failure(clock::monotonic());
                    }
                }
            }
            Output::Deliver(batch) => {
                let late = async {
                    Timer::after(DELIVERY_DEADLINE).await;
                    Err(DeliveryError::TimedOut)
                };
                outcomes.set_in_flight(Some(Flight::of(&batch)));
                let answer = courier.deliver(&batch).or(late).await;
                outcomes.set_in_flight(None);
                match answer {
                    Ok(receipt) => flush.handle_receipt(receipt, clock::monotonic()),
                    Err(error) => flush.handle_failure(error, clock::monotonic()),
                }
            }
            Output::Acknowledge { epoch, through, results } => {
                // The controller has them whatever becomes of our own note of it.
                outcomes.publish(epoch, through, &results);
                match store.acknowledge(epoch, through, results, clock::now()).await {
                    Ok(()) => flush.handle_acknowledged(),
                    Err(StoreError::Stopped) => return,
                    Err(error) => {
                        log::warn!(error:%; "cannot note what the controller has acknowledged");
                        flush.handle_store_failure(clock::monotonic());
                    }
                }
            }
            Output::Rewind { epoch, through, hash } => {
                match store.rewind(epoch, through, hash).await {
                    Ok(has_more) => flush.handle_rewound(has_more),
                    Err(StoreError::Stopped) => return,
                    Err(error) => {
                        log::warn!(error:%; "cannot put back what the controller has lost");
                        flush.handle_store_failure(clock::monotonic());
                    }
                }
            }
            Output::BeginEpoch { from, to } => {
                match store.begin_epoch(from, to, clock::now()).await {
                    Ok(()) => flush.handle_epoch_begun(),
                    Err(StoreError::Stopped) => return,
                    Err(error) => {
                        log::warn!(error:%; "cannot begin a new epoch");
                        flush.handle_store_failure(clock::monotonic());
                    }
                }
            }
            Output::Report(report) => {
                log_report(&report);
                outcomes.note(&report);
            }
            Output::Wait(until) => {
                let timer = async {
                    match until {
                        Some(until) => _ = Timer::at(until).await,
                        None => smol::future::pending().await,
                    }
                    Signal::Timeout
                };
                let hear =
                    async { queued.recv().await.map_or(Signal::Closed, |()| Signal::Queued) };
                let hear_online =
                    async { online.recv().await.map_or(Signal::Closed, |()| Signal::Online) };
                match hear.or(hear_online).or(timer).await {
                    Signal::Queued => flush.handle_queued(),
                    Signal::Online => flush.handle_online(),
                    Signal::Timeout => flush.handle_timeout(clock::monotonic()),
                    Signal::Closed => return,
                }
            }
        }
    }
}

enum Signal {
    Queued,
    Online,
    Timeout,
    /// Nobody is left who could write a change.
    Closed,
}

fn log_report(report: &Report) {
    match report {
        Report::Delivered { changes } => {
            log::info!(changes; "delivered {changes} changes to the controller");
        }
        Report::SetAside { seq, result } => log::warn!(
            seq, id:% = result.id, reason = result.reason.as_deref();
            "the controller answers '{}' to change {seq}", result.outcome
        ),
        Report::Failed(error @ DeliveryError::Unauthorized { .. }) => {
            log::error!(error:%; "no changes are delivered until the agent is registered anew");
        }
        Report::Failed(error @ DeliveryError::InUse(_)) => {
            log::error!(
                error:%;
                "no changes are delivered while another machine uses this agent's identity; boots go on; stop that machine, or \
                 make a new token for the site and run `pureboot-agent init --rejoin` on the one that stays"
            );
        }
        Report::Failed(error) => log::warn!(error:%; "changes wait for the controller"),
        Report::Enclosed { seq, error } => {
            log::error!(seq, error:%; "the controller refuses change {seq}, it is sent on as a dead letter");
        }
        Report::Behind { acked_through, first_seq } => {
            log::error!(
                acked_through, first_seq;
                "the controller has come to change {acked_through} and had acknowledged all before {first_seq}: it is from a \
                 backup; what is kept is sent again"
            );
        }
        Report::Forked { epoch } => {
            log::error!(epoch:%; "the controller has other changes in epoch {epoch}; what is kept is sent in a new one");
        }
        Report::Blocked { seq, error } => {
            log::error!(seq, error:%; "the controller refuses change {seq}, and all after it wait");
        }
        Report::BadReceipt(error) => {
            log::error!(error:%; "the receipt does not count, sending the changes again");
        }
    }
}

#[cfg(test)]
mod tests;
