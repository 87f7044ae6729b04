//! Who is right when a site and somebody else changed the same node. Values in, values out.
//!
//! What a machine was seen to do always applies ([`crate::node::observe`], [`crate::node::learn`]); only wishes meet here, and
//! only those whose base is not what the controller has.

use std::time::Duration;

use pureboot_protocol::{
    Change, ClockQuality, ConflictKind, ConflictResolution, Lifecycle, Node, SiteId, Timestamp,
};

/// The most that a clock may have been off when a site called it agreed: what agents call so, with room for the way there.
const CLOCK_OFF_MAX: Duration = Duration::from_secs(60);

/// Whose side a site's strategy takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The site's wish is followed.
    Site,
    /// The controller's side stands.
    Centre,
    /// A person has to decide.
    Person,
}

/// What `site` and the controller disagree about. `base` is the version that the site knew, `central` the node as it is.
pub(crate) fn kind(site: SiteId, base: Option<u64>, central: Option<&Node>) -> ConflictKind {
    match central {
        None => ConflictKind::MissingCentral,
        Some(node) if is_foreign(site, node) => ConflictKind::SiteMismatch,
        Some(node) if node.state == Lifecycle::Retired => ConflictKind::MissingCentral,
        Some(_) if base.unwrap_or_default() == 0 => ConflictKind::MissingLocal,
        Some(_) => ConflictKind::StateMismatch,
    }
}

/// Whether `node` is at home at another site than `site`.
pub(crate) fn is_foreign(site: SiteId, node: &Node) -> bool {
    node.home_site_id.is_some_and(|home| home != site)
}

/// Whose side `strategy` takes. `is_possible` is whether the site's wish could be followed at all, `wished_at` when it was made
/// as [`corrected`] says, `central_at` when somebody else than a site last changed the node.
pub(crate) fn decide(
    strategy: ConflictResolution,
    is_possible: bool,
    wished_at: Option<Timestamp>,
    central_at: Timestamp,
) -> Verdict {
    let is_later = wished_at.is_some_and(|wished_at| wished_at > central_at);
    match strategy {
        ConflictResolution::Manual => Verdict::Person,
        ConflictResolution::CentralWins => Verdict::Centre,
        ConflictResolution::LastWrite if !is_later => Verdict::Centre,
        ConflictResolution::LastWrite | ConflictResolution::SiteWins if is_possible => {
            Verdict::Site
        }
        ConflictResolution::LastWrite | ConflictResolution::SiteWins => Verdict::Person,
    }
}

/// When `change` was made by the controller's clock, `offset_ms` being what the site's lacked when it was last compared; none
/// if that cannot be told. It is never later than when the change arrived.
pub(crate) fn corrected(
    change: &Change,
    offset_ms: i64,
    received_at: Timestamp,
) -> Option<Timestamp> {
    let is_agreed = Duration::from_millis(offset_ms.unsigned_abs()) <= CLOCK_OFF_MAX;
    let at = Timestamp::from_unix_ms(change.at.unix_ms().saturating_add(offset_ms));
    (change.clock == ClockQuality::Synced && is_agreed).then(|| at.min(received_at))
}

#[cfg(test)]
mod tests;
