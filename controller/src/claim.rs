//! When a node moves to the site where it boots. Values in, values out.
//!
//! A node of the site A is seen at the site B: B has a claim on it. It moves without a person where A lets its nodes go and B
//! takes what comes; else a person decides, or the claim expires. By `migration_policy` of A (rows) and B:
//!
//! | A gives \ B takes | manual | auto_release | auto_accept | bidirectional |
//! |---|---|---|---|---|
//! | manual | person | person | person | person |
//! | auto_accept | person | person | person | person |
//! | auto_release | person | person | moves | moves |
//! | bidirectional | person | person | moves | moves |
//!
//! Only what is newer counts: a claim of before the node was last seen at home is what a site tells that was away, and waits for
//! a person whatever the policies say.

use pureboot_protocol::{MigrationPolicy, Timestamp};

/// Days that a claim waits after the node was last seen there.
pub(crate) const CLAIM_DAYS: i64 = 7;

/// Whether a node goes from a site with the policy `from` to one with the policy `to` without a person. `seen_at` is when it
/// was seen there, `seen_at_home` when it was last seen by its own site.
pub(crate) fn moves(
    from: MigrationPolicy,
    to: MigrationPolicy,
    seen_at: Timestamp,
    seen_at_home: Option<Timestamp>,
) -> bool {
    use MigrationPolicy::{AutoAccept, AutoRelease, Bidirectional};
    let is_newer = seen_at_home.is_none_or(|at_home| seen_at > at_home);
    is_newer
        && matches!(from, AutoRelease | Bidirectional)
        && matches!(to, AutoAccept | Bidirectional)
}

/// When a claim expires.
pub(crate) fn expiry(seen_at: Timestamp) -> Timestamp {
    seen_at.plus_seconds(CLAIM_DAYS * 24 * 3_600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_moves_by_itself_where_one_site_gives_and_the_other_takes() {
        let at = Timestamp::from_unix_ms;
        let moving: Vec<_> = MigrationPolicy::ALL
            .iter()
            .flat_map(|from| MigrationPolicy::ALL.iter().map(move |to| (*from, *to)))
            .filter(|(from, to)| moves(*from, *to, at(2), Some(at(1))))
            .map(|(from, to)| format!("{from} {to}"))
            .collect();
        assert_eq!(
            moving,
            [
                "auto_release auto_accept",
                "auto_release bidirectional",
                "bidirectional auto_accept",
                "bidirectional bidirectional"
            ]
        );
    }

    #[test]
    fn what_is_not_newer_than_the_last_sight_at_home_moves_nothing() {
        let at = Timestamp::from_unix_ms;
        let both = MigrationPolicy::Bidirectional;
        for (seen, at_home, expected) in
            [(2, Some(1), true), (1, Some(1), false), (1, Some(2), false), (1, None, true)]
        {
            assert_eq!(moves(both, both, at(seen), at_home.map(at)), expected);
        }
    }
}
