//! What one change does: to a node, to a conflict, or nothing for a reason that is kept.

use pureboot_protocol::{
    Change, ChangePayload, ChangeResult, ConflictId, ConflictKind, ConflictResolution, Decider,
    Lifecycle, Node, NodeEvent, Outcome, RegisterNode, Resolution, Timestamp,
};
use serde_json::Value;

use super::ledger::Ledger;
use super::{Item, Outbox};
use crate::conflict::{self, Verdict};
use crate::node::{self, Disagreement, Move};
use crate::store::conflicts::{self, Link, NewConflict};
use crate::store::logs::{self, Trigger};
use crate::store::nodes::{self, Central, Kept, Origin, Run};
use crate::store::row::DbConnection;
use crate::store::{StoreError, claims, sites, tree};

/// The longest reason that is kept, in characters; texts of a parser may repeat what they were given.
const REASON_LEN_MAX: usize = 300;
/// Machines of one site that may be unknown to operators at a time; whoever floods a site with random addresses fills no more.
const UNKNOWN_NODES_MAX: u64 = 1_000;

/// What a change has done.
enum Effect {
    /// It is in the node, which has this version; in spite of a conflict if one is named.
    Applied(u64, Option<ConflictId>),
    /// It is kept beside the controller's side.
    Conflict(ConflictId, String),
    /// It is kept for somebody to look at.
    Parked(String),
}

/// A wish that meets another change.
struct Dispute<'a> {
    change: &'a Change,
    wished: Option<Lifecycle>,
    kind: ConflictKind,
    cause: String,
}

/// Takes the changes of one outbox, within one transaction.
pub(super) struct Taker<'a> {
    pub(super) db: &'a mut DbConnection,
    pub(super) outbox: &'a Outbox,
    pub(super) ledger: &'a mut Ledger,
    pub(super) origin: Origin<'a>,
}

impl Taker<'_> {
    /// Takes `item`, which came as `raw` in the place `seq`.
    pub(super) async fn take(
        &mut self,
        seq: u64,
        item: &Item,
        raw: &Value,
    ) -> Result<ChangeResult, StoreError> {
        let effect = match item {
            Item::Good(change) => self.apply(change).await?,
            Item::Poison { reason, .. } => Effect::Parked(reason.clone()),
        };
        let (outcome, node_version, conflict_id, reason) = match effect {
            Effect::Applied(version, conflict) => (Outcome::Applied, Some(version), conflict, None),
            Effect::Conflict(conflict, cause) => {
                (Outcome::Conflict, None, Some(conflict), Some(cause))
            }
            Effect::Parked(reason) => (Outcome::Parked, None, None, Some(reason)),
        };
        let (id, reason) = (item.id(), reason.map(|reason| readable(&reason)));
        let result = ChangeResult { id, outcome, node_version, conflict_id, reason };
        self.ledger.note(seq, &result, raw);
        if outcome != Outcome::Applied {
            let (site, reason) = (self.outbox.site, result.reason.as_deref().unwrap_or_default());
            tracing::warn!(%site, seq, change = %id, %outcome, "change {seq} of site {site}: {outcome}: {reason:?}");
        }
        Ok(result)
    }

    async fn apply(&mut self, change: &Change) -> Result<Effect, StoreError> {
        match &change.payload {
            ChangePayload::Registration(seen) => self.register(change, seen).await,
            ChangePayload::Event(event) => match self.own_node(change).await? {
                Ok(kept) => self.observe(change, event, kept).await,
                Err(effect) => Ok(effect),
            },
            ChangePayload::DeadLetter(letter) => Ok(Effect::Parked(format!(
                "the agent could not hand over this {} as it is: {}",
                letter.kind, letter.reason
            ))),
            ChangePayload::StateChange { state, .. } => match self.own_node(change).await? {
                Ok(kept) => self.wish(change, *state, kept).await,
                Err(effect) => Ok(effect),
            },
        }
    }

    /// The node that `change` is about, or what becomes of it where it may be about none.
    async fn own_node(&mut self, change: &Change) -> Result<Result<Kept, Effect>, StoreError> {
        Ok(match self.ledger.called(change.node) {
            None => Err(self.miss(change).await?),
            Some(kept) if conflict::is_foreign(self.outbox.site, &kept.node) => {
                Err(self.claim(change, &kept).await?)
            }
            Some(kept) => Ok(kept),
        })
    }

    async fn register(
        &mut self,
        change: &Change,
        seen: &RegisterNode,
    ) -> Result<Effect, StoreError> {
        let (site, now) = (self.outbox.site, self.origin.now);
        let mac = seen.request.mac;
        let named = self.ledger.called(change.node);
        let known = match &named {
            Some(named) if named.node.mac_address == mac => Some(named.clone()),
            _ => nodes::find_by_mac(self.db, mac).await?,
        };
        // What this batch has made of it is not in the database yet.
        let known = known.map(|known| self.ledger.node(known.node.id).unwrap_or(known));
        let Kept { mut node, run, central } = match (known, named) {
            (Some(known), _) if conflict::is_foreign(site, &known.node) => {
                return self.claim(change, &known).await;
            }
            (_, Some(other)) if other.node.mac_address != mac => {
                return Ok(Effect::Parked(format!(
                    "the id {} belongs to another machine than {mac}",
                    change.node
                )));
            }
            (Some(known), None) => {
                nodes::alias(self.db, site, change.node, known.node.id).await?;
                self.ledger.learn(change.node, known.clone());
                known
            }
            (Some(known), Some(_)) => known,
            (None, _) => {
                if nodes::count_unknown(self.db, site).await? >= UNKNOWN_NODES_MAX {
                    return Ok(Effect::Parked(format!(
                        "site {site} has {UNKNOWN_NODES_MAX} machines already that nobody has looked at; retire them or take \
                         them in, and {mac} is registered when it boots again"
                    )));
                }
                self.meet(change, seen).await?
            }
        };
        let link = self.link(change, &node).await?;
        let (base, is_new) = (node.version, node.last_seen_at.is_none());
        node::learn(&mut node, seen, node::seen_at(change, now), now);
        let inherited = tree::inherited(self.db, node.group_id, node.home_site_id).await?;
        let moved = match inherited.auto_provision {
            Some(true) if is_new => node::provision(&mut node, now),
            _ => None,
        };
        let kept = Kept { node, run, central };
        let version = self.keep(kept, base, moved, Trigger::AutoProvision).await?;
        Ok(Effect::Applied(version, link.map(|link| link.id)))
    }

    /// Makes the node that a machine becomes which nobody knows. What follows counts the change, and the first version is 1.
    async fn meet(&mut self, change: &Change, seen: &RegisterNode) -> Result<Kept, StoreError> {
        let now = self.origin.now;
        let mut node = node::new(change.node, seen.request.mac, now);
        (node.home_site_id, node.version) = (Some(self.outbox.site), 0);
        // Aliases and histories refer to it before the batch ends.
        let run = Run { outbox_id: self.outbox.id, base: 0 };
        nodes::save(self.db, &node, Some(run)).await?;
        let central = Central { version: 0, at: Timestamp::from_unix_ms(0) };
        let kept = Kept { node, run: Some(run), central };
        self.ledger.learn(change.node, kept.clone());
        Ok(kept)
    }

    async fn observe(
        &mut self,
        change: &Change,
        event: &NodeEvent,
        mut kept: Kept,
    ) -> Result<Effect, StoreError> {
        let now = self.origin.now;
        let link = self.link(change, &kept.node).await?;
        self.ledger.note_event(kept.node.id, change, event);
        let base = kept.node.version;
        let moved = node::observe(&mut kept.node, event, node::seen_at(change, now), now);
        let version = self.keep(kept, base, moved, Trigger::Site).await?;
        Ok(Effect::Applied(version, link.map(|link| link.id)))
    }

    /// Follows the site's wish, if nobody else changed the node since, or if its strategy says so.
    async fn wish(
        &mut self,
        change: &Change,
        to: Lifecycle,
        mut kept: Kept,
    ) -> Result<Effect, StoreError> {
        let link = self.link(change, &kept.node).await?;
        let base = match link {
            // It was made on top of a wish that has not come true, whatever the versions say.
            Some(Link { id, kept_local: None, .. }) => {
                conflicts::join(self.db, id, change, Some(to)).await?;
                let cause = "it follows a change that met another one, see the conflict";
                return Ok(Effect::Conflict(id, cause.to_owned()));
            }
            Some(Link { kept_local: Some(version), .. }) => change.base_version.max(Some(version)),
            None => change.base_version,
        };
        let before = kept.node.version;
        let run_base = self.own_run(kept.run).map(|run| run.base);
        let cause = match node::wish(&mut kept.node, to, base, run_base, self.origin.now) {
            Ok(moved) => {
                let version = self.keep(kept, before, moved, Trigger::Site).await?;
                return Ok(Effect::Applied(version, link.map(|link| link.id)));
            }
            Err(cause) => cause,
        };
        let kind = conflict::kind(self.outbox.site, change.base_version, Some(&kept.node));
        let dispute = Dispute { change, wished: Some(to), kind, cause: cause.to_string() };
        if let Some(open) = self.open_conflict(&dispute, &kept.node).await? {
            return Ok(open);
        }
        self.decide(dispute, to, kept, &cause).await
    }

    /// Lets the site's strategy decide over a wish that met another change.
    async fn decide(
        &mut self,
        mut dispute: Dispute<'_>,
        to: Lifecycle,
        kept: Kept,
        cause: &Disagreement,
    ) -> Result<Effect, StoreError> {
        let (before, now) = (kept.clone(), self.origin.now);
        let mut followed = kept.node.clone();
        let moved = node::follow(&mut followed, to, now);
        let strategy = self.strategy().await?;
        let wished_at = match strategy {
            ConflictResolution::LastWrite => {
                let at = dispute.change.at;
                let offset_ms = conflicts::clock_offset(self.db, self.outbox.site, at).await?;
                conflict::corrected(dispute.change, offset_ms, now)
            }
            _ => None,
        };
        let verdict = conflict::decide(strategy, moved.is_ok(), wished_at, kept.central.at);
        let ending = match (verdict, moved) {
            (Verdict::Site, Ok(moved)) => {
                let kept = Kept { node: followed, ..kept };
                let version = self.keep(kept, before.node.version, moved, Trigger::Site).await?;
                Some((Resolution::KeepLocal, version))
            }
            (Verdict::Centre, _) => Some((Resolution::KeepCentral, before.node.version)),
            (Verdict::Site | Verdict::Person, Err(refusal)) if refusal != *cause => {
                dispute.cause = format!("{cause}; {refusal}");
                None
            }
            (Verdict::Site | Verdict::Person, _) => None,
        };
        let decided = ending
            .map(|(resolution, version)| (resolution, Decider::from(strategy), Some(version)));
        let cause = dispute.cause.clone();
        let id = self.begin(dispute, Some(&before), decided).await?;
        Ok(match ending {
            Some((Resolution::KeepLocal, version)) => Effect::Applied(version, Some(id)),
            _ => Effect::Conflict(id, cause),
        })
    }

    /// A change about a node that is at home at another site. No strategy takes it from there.
    async fn claim(&mut self, change: &Change, kept: &Kept) -> Result<Effect, StoreError> {
        let (kind, wished) = (ConflictKind::SiteMismatch, wished(change));
        let (site, now) = (self.outbox.site, self.origin.now);
        if wished.is_none() {
            // The machine itself was seen there, and not only wished something.
            claims::note(self.db, site, &kept.node, node::seen_at(change, now), now).await?;
        }
        let cause = match &change.payload {
            ChangePayload::Registration(seen) => {
                format!("{} belongs to node {} of another site", seen.request.mac, kept.node.id)
            }
            _ => format!("node {} belongs to another site", kept.node.id),
        };
        let dispute = Dispute { change, wished, kind, cause: cause.clone() };
        if let Some(open) = self.open_conflict(&dispute, &kept.node).await? {
            return Ok(open);
        }
        Ok(Effect::Conflict(self.begin(dispute, Some(kept), None).await?, cause))
    }

    /// A change about a node that the controller does not have.
    async fn miss(&mut self, change: &Change) -> Result<Effect, StoreError> {
        let cause = format!("there is no node {}", change.node);
        let Some(wished) = wished(change) else { return Ok(Effect::Parked(cause)) };
        let kind = conflict::kind(self.outbox.site, change.base_version, None);
        let strategy = self.strategy().await?;
        let never = Timestamp::from_unix_ms(i64::MAX);
        let verdict = conflict::decide(strategy, false, None, never);
        let ending = (verdict == Verdict::Centre)
            .then(|| (Resolution::KeepCentral, Decider::from(strategy), None));
        let dispute = Dispute { change, wished: Some(wished), kind, cause: cause.clone() };
        let open = conflicts::find_open(self.db, self.outbox.site, change.node).await?;
        if let Some(id) = open {
            conflicts::join(self.db, id, change, Some(wished)).await?;
            return Ok(Effect::Conflict(id, cause));
        }
        Ok(Effect::Conflict(self.begin(dispute, None, ending).await?, cause))
    }

    /// Makes the change of `dispute` a part of the conflict about `node` that waits for a person, if there is one.
    async fn open_conflict(
        &mut self,
        dispute: &Dispute<'_>,
        node: &Node,
    ) -> Result<Option<Effect>, StoreError> {
        let open = conflicts::find_open(self.db, self.outbox.site, node.id).await?;
        let Some(id) = open else { return Ok(None) };
        conflicts::join(self.db, id, dispute.change, dispute.wished).await?;
        Ok(Some(Effect::Conflict(id, dispute.cause.clone())))
    }

    async fn begin(
        &mut self,
        dispute: Dispute<'_>,
        before: Option<&Kept>,
        ending: Option<(Resolution, Decider, Option<u64>)>,
    ) -> Result<ConflictId, StoreError> {
        let Dispute { change, wished, kind, cause } = dispute;
        let new = NewConflict {
            site: self.outbox.site,
            change,
            node: before.map_or(change.node, |kept| kept.node.id),
            kind,
            cause: &readable(&cause),
            wished,
            before: before.map(|kept| (&kept.node, kept.central)),
            ending,
            now: self.origin.now,
        };
        conflicts::begin(self.db, new).await
    }

    /// What the site's change of `node` before `change`, which it was made on top of, belongs to or follows.
    async fn link(&mut self, change: &Change, node: &Node) -> Result<Option<Link>, StoreError> {
        let Some(seq) = change.prev_seq_same_node.filter(|seq| *seq < change.seq) else {
            return Ok(None);
        };
        let conflict = match self.ledger.conflict_of(seq) {
            Some(conflict) => conflict,
            None => conflicts::conflict_of(self.db, self.outbox.id, seq).await?,
        };
        let Some(id) = conflict else { return Ok(None) };
        let link = conflicts::link(self.db, id).await?;
        Ok(link.filter(|link| link.node == node.id))
    }

    async fn strategy(&mut self) -> Result<ConflictResolution, StoreError> {
        Ok(sites::load(self.db, self.outbox.site).await?.conflict_resolution)
    }

    /// The run that a node is in, if it is one of this outbox.
    fn own_run(&self, run: Option<Run>) -> Option<Run> {
        run.filter(|run| run.outbox_id == self.outbox.id)
    }

    /// Keeps what a change has made of a node that had the version `base`, and answers the new one.
    async fn keep(
        &mut self,
        kept: Kept,
        base: u64,
        moved: Option<Move>,
        trigger: Trigger,
    ) -> Result<u64, StoreError> {
        let Kept { node, run, central } = kept;
        let run = self.own_run(run).unwrap_or(Run { outbox_id: self.outbox.id, base });
        if let Some(moved) = moved {
            logs::log_move(self.db, &node, moved, trigger, None, self.origin).await?;
        }
        let version = node.version;
        self.ledger.put(node, run, central);
        Ok(version)
    }
}

/// The state that a change wishes for, if it does.
fn wished(change: &Change) -> Option<Lifecycle> {
    match change.payload {
        ChangePayload::StateChange { state, .. } => Some(state),
        ChangePayload::Registration(_) | ChangePayload::Event(_) | ChangePayload::DeadLetter(_) => {
            None
        }
    }
}

/// The part of a reason that is kept. PostgreSQL has no NUL in its texts.
fn readable(reason: &str) -> String {
    reason.chars().filter(|c| *c != '\0').take(REASON_LEN_MAX).collect()
}
