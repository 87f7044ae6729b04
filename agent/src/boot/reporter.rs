//! Takes what machines report: written down first, answered then, delivered at once if the controller is in reach.

use std::rc::Rc;
use std::time::Duration;

use pureboot_protocol::{
    Autonomy, BootId, ChangeId, ChangePayload, ChangeResult, Mac, NodeEvent, NodeId,
};

use crate::boot::booter::mode;
use crate::boot::decide::Mode;
use crate::clock;
use crate::outbox::{NewChange, Outbox};
use crate::store::{CachedNode, Store, StoreError};
use crate::uplink::standing::Standing;

/// How long a machine waits for the controller's own word on its report.
const PATIENCE: Duration = Duration::from_secs(1);

/// Takes reports; lives on the executor's thread.
pub struct Reporter {
    store: Store,
    outbox: Outbox,
    standing: Rc<Standing>,
}

/// A report that exists from now on.
#[derive(Debug)]
pub struct Taken {
    /// What it is found under.
    pub id: ChangeId,
    /// The controller's word, if it came in time.
    pub result: Option<ChangeResult>,
    /// Whether the site was offline.
    pub is_offline: bool,
}

/// Why a report was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The machine must name a session of its own: 403.
    #[error("boot session {session} is not one of {machine}'s")]
    Session {
        /// What it named.
        session: BootId,
        /// Whom it reported about.
        machine: String,
    },
    /// Nobody knows the machine: 404.
    #[error("no machine {0} has asked for a script here")]
    Unknown(String),
    /// There is no controller to tell yet: 503.
    #[error("this agent has not joined its site yet; report again later")]
    NotJoined,
    /// It could not be written down: 507 or 503, never a 2xx.
    #[error("the report could not be written down: {0}")]
    Store(#[from] StoreError),
}

impl Reporter {
    /// Writes to `outbox`.
    pub fn new(store: Store, outbox: Outbox, standing: Rc<Standing>) -> Self {
        Self { store, outbox, standing }
    }

    /// Takes a report about the machine with this address.
    ///
    /// # Errors
    /// See [`Refused`]; the machine should report again then.
    pub async fn report(
        &self,
        mac: Mac,
        session: BootId,
        event: NodeEvent,
    ) -> Result<Taken, Refused> {
        let node = self.store.node(mac).ok_or_else(|| Refused::Unknown(mac.to_string()))?;
        self.take(node, session, event).await
    }

    /// Takes a report about a node that is named by its id.
    ///
    /// # Errors
    /// As [`Reporter::report`].
    pub async fn report_by_id(
        &self,
        id: NodeId,
        session: BootId,
        event: NodeEvent,
    ) -> Result<Taken, Refused> {
        let node = self.store.node_by_id(id).ok_or_else(|| Refused::Unknown(id.to_string()))?;
        self.take(node, session, event).await
    }

    /// The node that began a session.
    ///
    /// # Errors
    /// The store cannot say.
    pub async fn node_of(&self, session: BootId) -> Result<Option<CachedNode>, StoreError> {
        Ok(self.store.session_mac(session).await?.and_then(|mac| self.store.node(mac)))
    }

    async fn take(
        &self,
        node: CachedNode,
        session: BootId,
        event: NodeEvent,
    ) -> Result<Taken, Refused> {
        if self.store.session_mac(session).await? != Some(node.mac()) {
            return Err(Refused::Session { session, machine: node.mac().to_string() });
        }
        let agent = self.standing.agent_id().ok_or(Refused::NotJoined)?;
        let is_offline = matches!(mode(self.standing.line()), Mode::Offline { .. });
        let may_move = !is_offline || self.standing.autonomy() != Autonomy::Readonly;
        let kind = event.event_type;
        let change = NewChange {
            agent,
            node: node.node_id,
            base_version: None,
            at: clock::now(),
            clock: self.standing.clock(),
            session: Some(session),
            payload: ChangePayload::Event(event),
        };
        let effect = move |node: &mut CachedNode| {
            if let Some(known) = &mut node.known
                && let Some(state) = known.record.state.after(kind)
                && may_move
            {
                known.record.state = state;
            }
        };
        let recorded = self.outbox.record(change, effect).await?;
        log::info!(mac:% = node.mac(), session:%, event:% = kind, seq = recorded.seq; "{} reports {kind}", node.mac());
        let result = if is_offline {
            None
        } else {
            self.outbox.outcome_of(recorded.seq, clock::monotonic() + PATIENCE).await
        };
        Ok(Taken { id: recorded.id, result, is_offline })
    }
}
