//! Follows what the controller changes of the site's nodes, so that a machine which never booted while the line was up boots by its
//! record all the same, and its installer finds its answer files.
//!
//! A site asks when a heartbeat or a machine's question tells of a newer number than the one it has followed to, when somebody
//! wishes it, and otherwise often enough that no record outlives its time while the line is up. Where nothing is new, that is
//! the controller's word on every record.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use pureboot_protocol::{Mac, NodeChange, NodeChanges, Timestamp, VALID_FOR_SECONDS};
use smol::channel::{Receiver, Sender, bounded};

use crate::answers::keeper::Answers;
use crate::clock::{self, Timer};
use crate::nodes::fresh;
use crate::store::{Applied, CachedNode, Store, StoreError};
use crate::uplink::connectivity::Line;
use crate::uplink::controller::{CHECK, CallError, Controller};
use crate::uplink::standing::Standing;
use crate::world;

/// Between two questions where nothing gives reason to ask: half of the time for which a record holds.
const PAUSE: Duration = Duration::from_secs(VALID_FOR_SECONDS / 2);

/// Between two questions at the least, whatever gives reason to ask.
const REST: Duration = Duration::from_secs(1);

/// Nodes that are asked about one by one before the next look at what has changed.
const DUE_MAX: usize = 16;

/// Why the site has not followed to the end. What it has stays.
#[derive(Debug, thiserror::Error)]
enum Behind {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Follows the controller; lives on the executor's thread.
pub struct Follower {
    controller: Rc<Controller>,
    store: Store,
    standing: Rc<Standing>,
    answers: Rc<Answers>,
    wishes: (Sender<()>, Receiver<()>),
    /// The number that was followed to; none before the database has told.
    held: Cell<Option<u64>>,
    confirmed_at: Cell<Option<Timestamp>>,
}

impl Follower {
    /// Has not asked yet. Whose record has changed may need other `answers`.
    pub fn new(
        controller: Rc<Controller>,
        store: Store,
        standing: Rc<Standing>,
        answers: Rc<Answers>,
    ) -> Self {
        // One wish that waits is as good as many.
        let wishes = bounded(1);
        let (held, confirmed_at) = Default::default();
        Self { controller, store, standing, answers, wishes, held, confirmed_at }
    }

    /// The controller has told the newest number that concerns the site, or has answered and does not tell; it was asked at
    /// `asked_at`.
    pub fn hear(&self, newest: Option<u64>, asked_at: Timestamp) {
        if newest.is_some() && newest == self.held.get() {
            self.confirmed_at.set(self.confirmed_at.get().max(Some(asked_at)));
        } else {
            self.wish();
        }
    }

    /// Has the controller asked soon.
    pub fn wish(&self) {
        _ = self.wishes.0.try_send(());
    }

    /// When the controller last said that no record has changed, since the start of the agent.
    pub fn confirmed_at(&self) -> Option<Timestamp> {
        self.confirmed_at.get()
    }

    /// How long ago the controller last stood by what the site knows of `node`; none if it never has.
    pub fn age(&self, node: &CachedNode) -> Option<Duration> {
        let at = fresh::word_at(node, self.confirmed_at())?;
        Some(fresh::age(at, clock::now()))
    }

    /// Whether a machine need not wait for the controller where that is slow: what is known of it holds.
    pub fn is_fresh(&self, node: &CachedNode) -> bool {
        fresh::is_fresh(node, self.confirmed_at(), clock::now())
    }

    /// Follows for as long as the agent runs and is joined.
    pub async fn run(&self) {
        loop {
            match self.follow().await {
                Ok(()) => {}
                Err(Behind::Call(error)) => {
                    log::debug!(error:%; "what has changed of the site's nodes cannot be asked now");
                }
                Err(Behind::Store(error)) => {
                    log::warn!(error:%; "what has changed of the site's nodes cannot be kept");
                }
            }
            Timer::after(REST).await;
            let rest = async { _ = Timer::after(PAUSE).await };
            // The sender lives as long as this does.
            let wish = async { _ = self.wishes.1.recv().await };
            smol::future::or(rest, wish).await;
        }
    }

    /// Asks about one machine at once; what cannot be asked now is asked with the next look at what has changed.
    pub async fn look_again(&self, mac: Mac) {
        if let Err(error) = self.ask_about(mac).await {
            log::debug!(mac:%, error:%; "{mac} cannot be asked about now");
            self.wish();
        }
    }

    /// Asks until there is no more, then about those nodes that the answers leave in doubt.
    async fn follow(&self) -> Result<(), Behind> {
        while !self.take_part().await? {}
        self.ask_about_due().await
    }

    /// Takes over one part; answers whether it was the last.
    async fn take_part(&self) -> Result<bool, Behind> {
        let since = self.store.feed_version().await?;
        self.held.set(Some(since));
        let asked_at = clock::now();
        let outcome = self.controller.node_changes(since).await;
        // It is asked beside the heartbeats, which find out whether the line holds.
        self.standing.learn_in_a_hurry(&outcome, clock::now());
        let changes = outcome?;
        let has_more = changes.has_more;
        let present = macs_of(&changes);
        let Some(applied) = self.store.apply_changes(since, changes, asked_at).await? else {
            return Ok(false);
        };
        present.into_iter().for_each(|mac| self.answers.note(mac));
        let Applied { since_version, taken, due, forgotten, is_restored } = applied;
        self.held.set(Some(since_version));
        if is_restored {
            log::error!(
                "the controller has lost changes that it had told: it was restored from a backup, and everything is asked for anew"
            );
        }
        if taken + due + forgotten > 0 {
            log::info!(since_version, taken, due, forgotten; "the controller tells of {taken} nodes, {forgotten} are gone");
        }
        let begins_anew = is_restored && since_version == 0;
        let is_last = !has_more && !begins_anew;
        if is_last {
            self.confirmed_at.set(Some(asked_at));
        }
        Ok(is_last)
    }

    async fn ask_about_due(&self) -> Result<(), Behind> {
        let nodes = self.store.nodes();
        let due = nodes.iter().filter(|node| node.is_due).map(CachedNode::mac).collect();
        let due = world::in_any_order(due);
        for mac in due.iter().take(DUE_MAX) {
            if matches!(self.standing.line(), Line::Offline { .. }) {
                return Ok(());
            }
            self.ask_about(*mac).await?;
        }
        if due.len() > DUE_MAX {
            self.wish();
        }
        Ok(())
    }

    async fn ask_about(&self, mac: Mac) -> Result<(), Behind> {
        let asked_at = clock::now();
        let outcome = self.controller.node(mac, CHECK).await;
        self.standing.learn_in_a_hurry(&outcome, clock::now());
        match outcome?.record {
            Some(record) => {
                self.store.save_record(record, asked_at).await?;
                self.answers.note(mac);
            }
            None if self.store.forget(mac).await? => {
                log::info!(mac:%; "{mac} is no longer one of the site's nodes");
            }
            None => {}
        }
        Ok(())
    }
}

/// The machines that the controller tells of.
fn macs_of(changes: &NodeChanges) -> Vec<Mac> {
    let mac = |change: &NodeChange| match change {
        NodeChange::Present(record) => Some(record.mac_address),
        NodeChange::Left { .. } => None,
    };
    changes.data.iter().filter_map(mac).collect()
}

#[cfg(test)]
mod tests;
