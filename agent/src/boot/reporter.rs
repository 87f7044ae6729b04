//! Takes what machines report: written down first, answered then, delivered at once if the controller is in reach.

use std::rc::Rc;
use std::time::Duration;

use pureboot_protocol::{
    Assignment, BootId, ChangeId, ChangePayload, ChangeResult, ContentKey, Lifecycle, Mac,
    NodeEvent, NodeEventKind, NodeId, PendingCommand, RegisterNode,
};

use crate::clock::{self, Timer};
use crate::nodes::autonomy::{Decides, Step, decides};
use crate::outbox::{NewChange, Outbox};
use crate::store::{CachedNode, KnownRecord, Store, StoreError};
use crate::uplink::connectivity::Line;
use crate::uplink::standing::Standing;

/// How long a machine waits for the controller's own word on its report.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often, and after which pauses, the start of an installation is tried to be written down: for an hour.
const NOTE_TRIES_MAX: u32 = 720;
const NOTE_PAUSE: Duration = Duration::from_secs(5);

/// How long a report may wait for the disk before its machine is told to report again.
const DISK_PATIENCE: Duration = Duration::from_secs(5);

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
    /// What the machine is to do, where its own system has said that it is alive.
    pub pending_command: Option<PendingCommand>,
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
    /// The disk hangs: 503.
    #[error("the report could not be written down in time; report again later")]
    Late,
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

    /// A machine has taken the last byte of `key` in a boot session. If that is the start of its workflow, its installer has begun,
    /// whether or not the installer ever says so: without this a machine whose installer is silent would install in a loop.
    ///
    /// Tried until it is written down; a full disk may take a while to be emptied.
    pub async fn note_fetched(&self, session: BootId, key: &ContentKey) {
        for _ in 0..NOTE_TRIES_MAX {
            match self.report_start(session, Some(key)).await {
                Ok(()) => return,
                Err(error) => {
                    log::error!(session:%, error:%; "an installation began and cannot be written down yet");
                    Timer::after(NOTE_PAUSE).await;
                }
            }
        }
    }

    /// A script says that it starts its workflow now, because no fetch would tell.
    ///
    /// # Errors
    /// It could not be written down; the machine must not start then, or it would install in a loop.
    pub async fn note_started(&self, session: BootId) -> Result<(), Refused> {
        self.report_start(session, None).await
    }

    /// Reports the start of an installation if it is one: if the workflow begins with `key`, or with none and its script says so.
    async fn report_start(&self, session: BootId, key: Option<&ContentKey>) -> Result<(), Refused> {
        let mac = self.store.session_mac(session).await?;
        let Some(node) = mac.and_then(|mac| self.store.node(mac)) else { return Ok(()) };
        let is_start = node.known.as_ref().is_some_and(|known| {
            let workflow = known.record.workflow.as_ref().and_then(Assignment::workflow);
            known.record.state == Lifecycle::Pending
                && workflow.is_some_and(|workflow| workflow.boot.starts_with() == key)
        });
        if is_start {
            self.take(node, session, NodeEvent::new(NodeEventKind::InstallStarted)).await?;
        }
        Ok(())
    }

    async fn take(
        &self,
        node: CachedNode,
        session: BootId,
        event: NodeEvent,
    ) -> Result<Taken, Refused> {
        if in_time(self.store.session_mac(session)).await? != Some(node.mac()) {
            return Err(Refused::Session { session, machine: node.mac().to_string() });
        }
        let agent = self.standing.agent_id().ok_or(Refused::NotJoined)?;
        let mac = node.mac();
        let is_offline = matches!(self.standing.line(), Line::Offline { .. });
        let (kind, acknowledged) = (event.event_type, event.acknowledged_command);
        let change = |payload| NewChange {
            agent,
            node: node.node_id,
            base_version: None,
            at: clock::now(),
            clock: self.standing.clock(),
            session: Some(session),
            payload,
        };
        if node.known.is_none() {
            // The agent was killed between giving the script and telling of the machine: what it reports would be parked, as about
            // nobody. Told twice it is the same change.
            let seen = RegisterNode { request: node.facts.clone(), ip_address: None };
            in_time(self.outbox.record(change(ChangePayload::Registration(seen)), |_| {})).await?;
        }
        let change = change(ChangePayload::Event(event));
        let autonomy = self.standing.autonomy();
        let effect = move |node: &mut CachedNode| {
            let Some(KnownRecord { record, .. }) = &mut node.known else { return };
            let from = record.state;
            if let Some(to) = from.after(kind)
                && decides(autonomy, Step::Seen { from, to }) == Ok(Decides::Site)
            {
                record.state = to;
            }
            if record.pending_command.map(|pending| pending.id) == acknowledged {
                record.pending_command = None;
            }
        };
        let recorded = in_time(self.outbox.record(change, effect)).await?;
        log::info!(mac:%, session:%, event:% = kind, seq = recorded.seq; "{mac} reports {kind}");
        let result = if is_offline {
            None
        } else {
            self.outbox.outcome_of(recorded.seq, clock::monotonic() + PATIENCE).await
        };
        let pending_command = match kind {
            NodeEventKind::Heartbeat => self.pending_command(mac),
            _ => None,
        };
        Ok(Taken { id: recorded.id, result, is_offline, pending_command })
    }

    /// What a machine is to do and has not acknowledged, as the site knows it.
    fn pending_command(&self, mac: Mac) -> Option<PendingCommand> {
        self.store.node(mac)?.known?.record.pending_command
    }
}

/// Waits for the disk, but not for ever. What it was asked for may still happen; a report that comes again is the same one.
async fn in_time<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, Refused> {
    let late = async {
        Timer::after(DISK_PATIENCE).await;
        Err(Refused::Late)
    };
    smol::future::or(async { Ok(work.await?) }, late).await
}
