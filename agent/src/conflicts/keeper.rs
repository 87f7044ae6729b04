//! Keeps what the controller tells of the site's conflicts, and carries a person's decision to it.

use std::cell::Cell;
use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

use pureboot_protocol::{Conflict, ConflictId, SiteResolution, Timestamp};
use smol::Timer;

use crate::clock;
use crate::nodes::follow::Follower;
use crate::outbox::Outbox;
use crate::store::{HeardConflict, Store, StoreError};
use crate::uplink::controller::{CHECK, CallError, Controller, UNHURRIED};
use crate::uplink::standing::Standing;

/// How long a person who lists conflicts waits for the controller before the list is what the site has kept.
const LOOK: Duration = Duration::from_secs(3);

/// Between two questions while something waits for a person.
const PAUSE: Duration = Duration::from_secs(300);

/// Conflicts that are asked about one by one, because the list of open ones has them no more, before the next list.
const ENDED_MAX: usize = 16;

/// Keeps conflicts; lives on the executor's thread.
pub struct Conflicts {
    controller: Rc<Controller>,
    store: Store,
    outbox: Outbox,
    standing: Rc<Standing>,
    follower: Rc<Follower>,
    heard_at: Cell<Option<Timestamp>>,
}

/// Why what the controller says of conflicts is not kept.
#[derive(Debug, thiserror::Error)]
pub enum Unheard {
    /// It does not answer, or refuses.
    #[error(transparent)]
    Call(#[from] CallError),
    /// It cannot be written down.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Conflicts {
    /// Has not asked yet.
    pub fn new(
        controller: Rc<Controller>,
        store: Store,
        outbox: Outbox,
        standing: Rc<Standing>,
        follower: Rc<Follower>,
    ) -> Self {
        Self { controller, store, outbox, standing, follower, heard_at: Cell::default() }
    }

    /// Asks when a change was set aside, and now and then while something waits, for as long as the agent runs and is joined.
    pub async fn run(&self) {
        loop {
            if let Err(error) = self.hear(UNHURRIED).await {
                log::debug!(error:%; "the site's conflicts cannot be asked for now");
            }
            let is_waiting = self.open().await.map_or(true, |open| open > 0);
            let pause = async {
                match is_waiting {
                    true => _ = Timer::after(PAUSE).await,
                    false => std::future::pending().await,
                }
            };
            let news = async {
                self.outbox.set_aside().await;
                // Its node is in doubt, and the controller's side is to be had at once.
                self.follower.wish();
            };
            smol::future::or(pause, news).await;
        }
    }

    /// The conflicts that the site knows of, asked for just now if the controller answers, the oldest first; and when it last did.
    ///
    /// # Errors
    /// What is kept cannot be read.
    pub async fn list(&self) -> Result<(Vec<HeardConflict>, Option<Timestamp>), StoreError> {
        if self.standing.agent_id().is_some()
            && let Err(error) = self.hear(LOOK).await
        {
            log::debug!(error:%; "the site's conflicts are listed as they were kept");
        }
        Ok((self.store.conflicts().await?, self.heard_at.get()))
    }

    /// One conflict, asked for just now if the controller answers.
    ///
    /// # Errors
    /// What is kept cannot be read.
    pub async fn one(&self, id: ConflictId) -> Result<Option<HeardConflict>, StoreError> {
        if self.standing.agent_id().is_some() {
            match self.hear_of(id, LOOK).await {
                Ok(()) => {}
                Err(Unheard::Store(error)) => return Err(error),
                Err(Unheard::Call(error)) => {
                    log::debug!(error:%; "conflict {id} is shown as it was kept");
                }
            }
        }
        self.store.conflict(id).await
    }

    /// How many wait for a person, as far as the site knows.
    ///
    /// # Errors
    /// What is kept cannot be read.
    pub async fn open(&self) -> Result<u64, StoreError> {
        let kept = self.store.conflicts().await?;
        Ok(kept.iter().filter(|it| it.conflict.outcome.is_none()).count() as u64)
    }

    /// Has the controller end the conflict `id`; both sides have the result when this returns.
    ///
    /// # Errors
    /// The controller does not answer, or refuses; then nothing is decided, or it is and can be asked for again.
    pub async fn resolve(
        &self,
        id: ConflictId,
        decision: &SiteResolution,
    ) -> Result<Conflict, Unheard> {
        let asked_at = clock::now();
        let conflict = self.controller.resolve_conflict(id, decision, CHECK).await?;
        log::info!("the person at the site ended the conflict {id} with {}", decision.resolution);
        self.store.keep_conflicts(vec![conflict.clone()], asked_at).await?;
        self.settle(&conflict).await?;
        Ok(conflict)
    }

    /// Takes over the list of open conflicts, and how those have ended that are no more on it.
    async fn hear(&self, budget: Duration) -> Result<(), Unheard> {
        let asked_at = clock::now();
        let answer = self.controller.open_conflicts(budget).await;
        self.standing.learn_in_a_hurry(&answer, clock::now());
        let told = answer?;
        let (total, open) = (told.total, told.data);
        let is_whole = total <= open.len() as u64;
        let known: HashSet<_> = open.iter().map(|conflict| conflict.id).collect();
        self.store.keep_conflicts(open, asked_at).await?;
        let kept = self.store.conflicts().await?;
        let gone = kept.iter().map(|it| &it.conflict).filter(|conflict| {
            is_whole && conflict.outcome.is_none() && !known.contains(&conflict.id)
        });
        for conflict in gone.take(ENDED_MAX) {
            self.hear_of(conflict.id, budget).await?;
        }
        self.heard_at.set(Some(asked_at));
        Ok(())
    }

    async fn hear_of(&self, id: ConflictId, budget: Duration) -> Result<(), Unheard> {
        let asked_at = clock::now();
        match self.controller.conflict(id, budget).await {
            Ok(conflict) => {
                self.store.keep_conflicts(vec![conflict.clone()], asked_at).await?;
                self.settle(&conflict).await
            }
            Err(CallError::Refused(refusal)) if refusal.status == hyper::StatusCode::NOT_FOUND => {
                Ok(self.store.forget_conflict(id).await?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Asks what a conflict that has ended has made of its node, if the site still goes by the conflict.
    async fn settle(&self, conflict: &Conflict) -> Result<(), Unheard> {
        if conflict.outcome.is_none() {
            return Ok(());
        }
        let nodes = self.store.nodes();
        let is_disputed = |record: &pureboot_protocol::BootRecord| {
            record.conflict_id == Some(conflict.id) || record.node_id == conflict.node_id
        };
        let disputed = nodes
            .iter()
            .find(|node| node.known.as_ref().is_some_and(|known| is_disputed(&known.record)));
        if let Some(node) = disputed {
            self.store.mark_due(node.mac()).await?;
            self.follower.look_again(node.mac()).await;
        }
        Ok(())
    }
}
