//! How a node changes: by what an operator orders and by what its site has seen or wishes. Values in, values out.
//!
//! Every function that changes a node raises its version by one.

use std::net::IpAddr;

use pureboot_protocol::{
    BootMode, Change, ClockQuality, HardwareFact, HealthStatus, Lifecycle, LifecycleError, Mac,
    Node, NodeEvent, NodeEventKind, NodeId, PendingCommand, RegisterNode, Timestamp,
};
use schemars::JsonSchema;
use serde::Serialize;

/// Failed installations after which a node is not tried again without an operator.
const INSTALL_ATTEMPTS_MAX: u32 = 3;

/// How long an installation may take where no workflow says otherwise.
pub(crate) const INSTALL_TIMEOUT_MINUTES: u32 = 60;
/// Tags that a node may have.
pub(crate) const TAGS_MAX: usize = 100;

/// A move from one state to another, for the state log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Move {
    /// The state that was left.
    pub(crate) from: Lifecycle,
    /// The state that was entered.
    pub(crate) to: Lifecycle,
}

/// How long to wait for an installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Patience {
    /// How long one attempt may take.
    pub(crate) timeout_minutes: u32,
    /// When the node's site was heard of last; none if nobody speaks for it.
    pub(crate) site_heard_at: Option<Timestamp>,
}

impl Patience {
    fn seconds(self) -> i64 {
        i64::from(self.timeout_minutes) * 60
    }
}

/// Why an operator's order is refused. The operator reads this text.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OrderError {
    /// The lifecycle has no such move.
    #[error(transparent)]
    Lifecycle(#[from] LifecycleError),
    /// It has, and an operator has to insist.
    #[error(
        "a node whose installation failed {INSTALL_ATTEMPTS_MAX} times goes from 'install_failed' to 'pending' only with \
         force: true, because its disk is written again"
    )]
    NeedsForce,
}

/// Why a node's tags do not change as an operator asks. The operator reads this text.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TagError {
    /// It is there.
    #[error("the node has the tag '{tag}' already")]
    Present {
        /// The tag.
        tag: String,
    },
    /// It is not there.
    #[error("the node has no tag '{tag}'")]
    Absent {
        /// The tag.
        tag: String,
    },
    /// There is no room for another.
    #[error("the node has {TAGS_MAX} tags, which is the most; remove one first")]
    Full,
}

/// Why a machine is not ordered to do something. The operator reads this text.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CommandError {
    /// It is gone for good.
    #[error("the node is retired, and nobody is there who would obey")]
    Retired,
}

/// Why a site's wish for another state is not followed. Both sides are kept.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Disagreement {
    /// Somebody else changed the node after the version that the site knew.
    #[error("the site knew version {}, the controller has version {central}", match .base {
        Some(base) => base.to_string(),
        None => "none".to_owned(),
    })]
    Base {
        /// What the site knew.
        base: Option<u64>,
        /// What is now.
        central: u64,
    },
    /// The versions agree and the move does not exist.
    #[error("{0}")]
    Lifecycle(LifecycleError),
    /// Only an operator may try a failed installation again.
    #[error("only an operator may move a node from 'install_failed' to 'pending'")]
    NeedsOperator,
}

/// A node as it is when nobody has said more of it than its address.
pub(crate) fn new(id: NodeId, mac: Mac, now: Timestamp) -> Node {
    Node {
        id,
        mac_address: mac,
        hostname: None,
        ip_address: None,
        state: Lifecycle::Discovered,
        workflow_id: None,
        vendor: None,
        model: None,
        serial_number: None,
        system_uuid: None,
        arch: None,
        boot_mode: None,
        group_id: None,
        home_site_id: None,
        tags: Vec::new(),
        install_attempts: 0,
        install_started_at: None,
        last_install_error: None,
        boot_count: 0,
        last_boot_at: None,
        state_changed_at: now,
        created_at: now,
        updated_at: now,
        last_seen_at: None,
        health_status: HealthStatus::Unknown,
        pending_command: None,
        version: 1,
        wish_version: 1,
    }
}

/// Counts a change.
pub(crate) fn touch(node: &mut Node, now: Timestamp) {
    node.version += 1;
    node.updated_at = now;
}

/// Gives `node` the tag `tag`; tags stay sorted.
///
/// # Errors
/// It has the tag, or as many as there may be.
pub(crate) fn add_tag(node: &mut Node, tag: &str, now: Timestamp) -> Result<(), TagError> {
    let Err(at) = node.tags.binary_search_by(|known| known.as_str().cmp(tag)) else {
        return Err(TagError::Present { tag: tag.to_owned() });
    };
    if node.tags.len() >= TAGS_MAX {
        return Err(TagError::Full);
    }
    node.tags.insert(at, tag.to_owned());
    touch(node, now);
    Ok(())
}

/// Takes the tag `tag` away from `node`.
///
/// # Errors
/// It has no such tag.
pub(crate) fn remove_tag(node: &mut Node, tag: &str, now: Timestamp) -> Result<(), TagError> {
    let Ok(at) = node.tags.binary_search_by(|known| known.as_str().cmp(tag)) else {
        return Err(TagError::Absent { tag: tag.to_owned() });
    };
    node.tags.remove(at);
    touch(node, now);
    Ok(())
}

/// Moves `node` to `to` because an operator says so.
///
/// # Errors
/// The lifecycle has no such move, or it takes `force`.
pub(crate) fn order(
    node: &mut Node,
    to: Lifecycle,
    force: bool,
    now: Timestamp,
) -> Result<Move, OrderError> {
    node.state.transition(to)?;
    if (node.state, to) == (Lifecycle::InstallFailed, Lifecycle::Pending) && !force {
        return Err(OrderError::NeedsForce);
    }
    touch(node, now);
    Ok(enter(node, to, now))
}

/// Has `node` told to do `order`, in the place of what it was to do before, or to do nothing; answers whether it was not
/// to do so already.
///
/// # Errors
/// It is retired.
pub(crate) fn command(
    node: &mut Node,
    order: Option<PendingCommand>,
    now: Timestamp,
) -> Result<bool, CommandError> {
    if order.is_some() && node.state == Lifecycle::Retired {
        return Err(CommandError::Retired);
    }
    let what = |pending: Option<PendingCommand>| pending.map(|pending| pending.command);
    let is_new = what(node.pending_command) != what(order);
    if is_new {
        node.pending_command = order;
        touch(node, now);
    }
    Ok(is_new)
}

/// Takes over what a machine said about itself.
pub(crate) fn learn(node: &mut Node, seen: &RegisterNode, seen_at: Timestamp, now: Timestamp) {
    fn update<T: Clone>(known: &mut Option<T>, said: &Option<T>) {
        if let Some(said) = said {
            *known = Some(said.clone());
        }
    }
    let request = &seen.request;
    // Operators read this beside what is certain, so that only an address may stand there.
    let address = seen.ip_address.as_deref().and_then(|text| text.parse::<IpAddr>().ok());
    update(&mut node.ip_address, &address.map(|address| address.to_string()));
    update(&mut node.vendor, &request.vendor);
    update(&mut node.model, &request.product);
    update(&mut node.serial_number, &request.serial);
    update(&mut node.system_uuid, &request.uuid);
    update(&mut node.arch, &request.arch);
    update(&mut node.boot_mode, &request.platform.map(BootMode::from));
    node.last_seen_at = node.last_seen_at.max(Some(seen_at));
    touch(node, now);
}

/// Lets a machine that is seen for the first time be installed without an operator, because its group or site says so. That
/// is part of being seen, and counts no change of its own.
pub(crate) fn provision(node: &mut Node, now: Timestamp) -> Option<Move> {
    (node.state == Lifecycle::Discovered).then(|| enter(node, Lifecycle::Pending, now))
}

/// Takes over what a machine reported. An event that does not fit the state moves nothing.
pub(crate) fn observe(
    node: &mut Node,
    event: &NodeEvent,
    seen_at: Timestamp,
    now: Timestamp,
) -> Option<Move> {
    touch(node, now);
    node.last_seen_at = node.last_seen_at.max(Some(seen_at));
    // Another order may have taken the place of the one that is acknowledged.
    if event.acknowledged_command == node.pending_command.map(|pending| pending.id) {
        node.pending_command = None;
    }
    match event.event_type {
        NodeEventKind::BootStarted => {
            node.boot_count += 1;
            node.last_boot_at = node.last_boot_at.max(Some(seen_at));
            None
        }
        NodeEventKind::Heartbeat => {
            node.health_status = health(event.status.as_ref());
            None
        }
        NodeEventKind::InstallFailed if node.state == Lifecycle::Installing => {
            let reason = event.message.as_ref().or(event.status.as_ref());
            let reason = reason.map_or("the installer gave no reason", HardwareFact::as_str);
            fail(node, reason.to_owned(), now)
        }
        kind => node.state.after(kind).map(|to| enter(node, to, now)),
    }
}

/// What a machine's word for how it is means. One that says no more than that it is alive is well.
fn health(status: Option<&HardwareFact>) -> HealthStatus {
    status.map_or(HealthStatus::Healthy, |word| {
        word.as_str().parse().unwrap_or(HealthStatus::Unknown)
    })
}

/// Whether the attempt of `node` to install has taken too long.
///
/// The site must have been heard of after the time was over: what it could not report until then is not known to have failed.
pub(crate) fn is_overdue(node: &Node, patience: Patience, now: Timestamp) -> bool {
    let Some(started_at) = node.install_started_at else { return false };
    let deadline = started_at.plus_seconds(patience.seconds());
    node.state == Lifecycle::Installing
        && now > deadline
        && patience.site_heard_at.is_none_or(|heard_at| heard_at > deadline)
}

/// Whether `node` has been installing for longer than one attempt may take, however many it has made.
pub(crate) fn is_stalled(node: &Node, patience: Patience, now: Timestamp) -> bool {
    node.state == Lifecycle::Installing
        && now > node.state_changed_at.plus_seconds(patience.seconds())
}

/// Counts the attempt of `node` to install as failed, because it has taken too long.
pub(crate) fn expire(node: &mut Node, patience: Patience, now: Timestamp) -> Option<Move> {
    touch(node, now);
    fail(node, format!("not installed within {} minutes", patience.timeout_minutes), now)
}

/// Moves `node` to `to` because its site decided so, knowing version `base`; none where it is there already.
///
/// `run_base` is the version before the unbroken run of this site's own changes that made the present one. A base within
/// that run is as good as the present version: nobody else has changed the node in between.
///
/// # Errors
/// Somebody else has, or [`follow`] refuses.
pub(crate) fn wish(
    node: &mut Node,
    to: Lifecycle,
    base: Option<u64>,
    run_base: Option<u64>,
    now: Timestamp,
) -> Result<Option<Move>, Disagreement> {
    let oldest = run_base.unwrap_or(node.version);
    let is_current = base.is_some_and(|base| (oldest..=node.version).contains(&base));
    if node.state != to && !is_current {
        return Err(Disagreement::Base { base, central: node.version });
    }
    follow(node, to, now)
}

/// Moves `node` to `to` as its site wishes, whatever the site knew; none where it is there already.
///
/// # Errors
/// The lifecycle has no such move for a site.
pub(crate) fn follow(
    node: &mut Node,
    to: Lifecycle,
    now: Timestamp,
) -> Result<Option<Move>, Disagreement> {
    if node.state == to {
        touch(node, now);
        return Ok(None);
    }
    node.state.transition(to).map_err(Disagreement::Lifecycle)?;
    if (node.state, to) == (Lifecycle::InstallFailed, Lifecycle::Pending) {
        return Err(Disagreement::NeedsOperator);
    }
    touch(node, now);
    Ok(Some(enter(node, to, now)))
}

/// When a change happened, as far as its clock can be believed: never after it arrived.
pub(crate) fn seen_at(change: &Change, received_at: Timestamp) -> Timestamp {
    match change.clock {
        ClockQuality::Synced => change.at.min(received_at),
        ClockQuality::Unsynced => received_at,
    }
}

/// Counts a failed attempt to install. The next one begins at once, unless it was the last.
fn fail(node: &mut Node, reason: String, now: Timestamp) -> Option<Move> {
    node.install_attempts += 1;
    node.last_install_error = Some(reason);
    node.install_started_at = Some(now);
    (node.install_attempts >= INSTALL_ATTEMPTS_MAX)
        .then(|| enter(node, Lifecycle::InstallFailed, now))
}

fn enter(node: &mut Node, to: Lifecycle, now: Timestamp) -> Move {
    if to == Lifecycle::Pending {
        node.wish_version = node.version;
        node.install_attempts = 0;
        node.last_install_error = None;
        node.health_status = HealthStatus::Unknown;
    }
    if to == Lifecycle::Retired {
        node.pending_command = None;
        node.health_status = HealthStatus::Unknown;
    }
    if to == Lifecycle::Installing {
        node.install_started_at = Some(now);
    }
    let from = std::mem::replace(&mut node.state, to);
    node.state_changed_at = now;
    Move { from, to }
}

#[cfg(test)]
mod tests;
