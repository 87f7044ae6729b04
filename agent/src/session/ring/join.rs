//! Whether something that was seen belongs to the machine's session, begins a new one, or neither.

use std::time::{Duration, Instant};

use super::{Live, Who};
use crate::session::step::{Offer, Phase, Role, Transfer, What};

/// The longest pause between two questions of one attempt: UEFI asks at 0, 4, 12 and 28 s, and iPXE within less (BOOT.md §2).
pub(super) const RETRY_GAP: Duration = Duration::from_secs(32);
/// For how long a packet may be a copy of one that was answered: relays and bridges double them.
const ECHO: Duration = Duration::from_secs(3);
/// How long a machine may be silent between two steps of one attempt that nothing but its address connects.
const IDLE: Duration = Duration::from_secs(600);

/// What is done with an observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// It is a step of the session that was found.
    Join,
    /// It is the first step of a new one.
    Begin,
    /// It says nothing about a boot.
    Ignore,
}

/// An observation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) who: &'a Who,
    pub(super) what: &'a What,
    pub(super) now: Instant,
}

/// What the rules tell apart.
enum Kind {
    /// A question by DHCP, answered or not: of firmware, or of iPXE, which is loaded already or lies in the ROM.
    Dhcp {
        xid: u32,
        is_ipxe: bool,
    },
    /// A request for an address.
    Lease,
    /// A loader, or a file that is not here: what firmware asks for first.
    Loader,
    FirstScript,
    Content,
    Script,
    Report,
}

fn kind(what: &What) -> Kind {
    match what {
        What::Offered(Offer { xid, boots, .. }) => {
            Kind::Dhcp { xid: *xid, is_ipxe: boots.is_script() }
        }
        What::Refused { xid, .. } | What::Unsent { xid, .. } => {
            Kind::Dhcp { xid: *xid, is_ipxe: false }
        }
        What::Leased { .. } => Kind::Lease,
        What::Missing { .. } | What::Transfer(Transfer { role: Role::Loader, .. }) => Kind::Loader,
        What::Transfer(Transfer { role: Role::FirstScript, .. }) => Kind::FirstScript,
        What::Transfer(Transfer {
            role: Role::Content | Role::Answers | Role::AnswersHidden,
            ..
        }) => Kind::Content,
        What::Script { .. } => Kind::Script,
        What::Reported { .. } => Kind::Report,
    }
}

/// The rule for `seen`, where `current` is the session that it may belong to.
pub(super) fn rule(current: Option<&Live>, seen: &Seen<'_>) -> Rule {
    use Phase::{Asking, CalledBack, Files, FirstScript, Loader, Script};
    let kind = kind(seen.what);
    let Some(live) = current else {
        return match kind {
            // The others are of a machine that boots; an address is leased to and content is read by anybody.
            Kind::Lease | Kind::Content => Rule::Ignore,
            _ => Rule::Begin,
        };
    };
    if seen.who.boot == Some(live.session.id) {
        return Rule::Join;
    }
    let since = |then: Instant| seen.now.saturating_duration_since(then);
    let is_idle = since(live.last) > IDLE;
    match (kind, live.session.reached) {
        (Kind::Dhcp { xid, .. }, _)
            if live.asked.is_some_and(|(last, then)| last == xid && since(then) <= ECHO) =>
        {
            Rule::Join
        }
        (Kind::Dhcp { .. }, Asking) if since(live.last) <= RETRY_GAP => Rule::Join,
        // The loader that the firmware has fetched asks for an address of its own.
        (Kind::Dhcp { is_ipxe: true, .. }, Loader | FirstScript) if !is_idle => Rule::Join,
        (Kind::Dhcp { .. }, _) => Rule::Begin,
        (Kind::Lease, Asking | Loader | FirstScript) if !is_idle => Rule::Join,
        (Kind::Lease, _) => Rule::Ignore,
        // One loader may fetch the next, and some firmware fetches a loader twice.
        (Kind::Loader, Asking | Loader) if !is_idle => Rule::Join,
        (Kind::Loader, _) => Rule::Begin,
        (Kind::FirstScript | Kind::Script, Asking | Loader | FirstScript) if !is_idle => Rule::Join,
        (Kind::FirstScript | Kind::Script, _) => Rule::Begin,
        (Kind::Content, Script | Files | CalledBack) if !is_idle => Rule::Join,
        (Kind::Content, _) => Rule::Ignore,
        // It names a session that was forgotten here, or it would have been found by that.
        (Kind::Report, _) => Rule::Begin,
    }
}
