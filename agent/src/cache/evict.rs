//! What may leave the cache, and what leaves first. Values in, values out.
//!
//! Boot loaders, what is pinned, what a person put there by hand and what somebody reads are no candidates. Of the rest, what
//! the manifest no longer names goes before what it names, then what the site's policies want to go first, and what was used
//! longest ago.

use pureboot_protocol::{Category, ContentHash, Timestamp};

/// An object that may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The object.
    pub sha256: ContentHash,
    /// What its leaving frees.
    pub size_bytes: u64,
    /// When it was last asked for, or else came.
    pub used_at: Timestamp,
    /// Whether the manifest names it.
    pub is_wanted: bool,
    /// What it is for; of several uses, the one that is kept longest.
    pub category: Category,
    /// Of two that might go, the one with the lower number goes.
    pub priority: u8,
    /// How long it stays.
    pub lifetime: Lifetime,
}

impl Candidate {
    /// When it leaves, if nobody asks for it until then; none where it stays until room is needed. `retention_s` says how many seconds
    /// the usual lifetime has.
    pub fn leaves_at(&self, retention_s: impl Fn(Category) -> i64) -> Option<Timestamp> {
        let lifetime_s = match self.lifetime {
            Lifetime::Usual => retention_s(self.category),
            Lifetime::Seconds(seconds) => i64::from(seconds),
            Lifetime::Endless => return None,
            // Also where the clock has gone back since it was used.
            Lifetime::Over => return (!self.is_wanted).then_some(Timestamp::from_unix_ms(0)),
        };
        (!self.is_wanted).then(|| self.used_at.plus_seconds(lifetime_s))
    }
}

/// The [`Candidate::priority`] of what no policy has an opinion on.
pub const PRIORITY: u8 = 128;

/// How long an object stays that the manifest does not name, after it was last used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// As long as others of its category.
    Usual,
    /// So many seconds.
    Seconds(u32),
    /// Until room is needed.
    Endless,
    /// It is given up.
    Over,
}

/// For whose sake room is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// For nobody's: only what is over the limits leaves.
    Tidiness,
    /// For content that nobody waits for: what the manifest names stays.
    Stock,
    /// For a machine that waits.
    Machine,
}

/// How full the cache and its disk are, and how full they may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes of all objects.
    pub held_bytes: u64,
    /// Bytes that they may have; none: as many as the disk has.
    pub held_bytes_max: Option<u64>,
    /// Bytes that the disk has left for the cache, beyond what it leaves to others; negative where it has taken from that.
    pub spare_bytes: i64,
}

impl Room {
    /// How much has to go before `size_bytes` more fit.
    fn lacks(&self, size_bytes: u64) -> u64 {
        let after = self.held_bytes.saturating_add(size_bytes);
        let over_limit = self.held_bytes_max.map_or(0, |most| after.saturating_sub(most));
        let wanted = i64::try_from(size_bytes).unwrap_or(i64::MAX);
        let over_disk = wanted.saturating_sub(self.spare_bytes).max(0).unsigned_abs();
        over_limit.max(over_disk)
    }
}

/// What leaves so that `size_bytes` more fit, the first to leave first; none if they would not fit whatever left.
pub fn make_room(
    mut candidates: Vec<Candidate>,
    room: &Room,
    size_bytes: u64,
    need: Need,
) -> Option<Vec<Candidate>> {
    candidates.retain(|candidate| !candidate.is_wanted || need == Need::Machine);
    candidates.sort_by_key(|candidate| {
        (candidate.is_wanted, candidate.priority, candidate.used_at, candidate.sha256)
    });
    let lacking = room.lacks(size_bytes);
    let mut freed = 0;
    let mut leaving = Vec::new();
    for candidate in candidates {
        if freed >= lacking {
            break;
        }
        freed += candidate.size_bytes;
        leaving.push(candidate);
    }
    (freed >= lacking || need == Need::Tidiness).then_some(leaving)
}

/// What leaves because the manifest does not name it and its lifetime is over at `now`; `retention_s` says how many seconds the usual
/// one has, which depends on what it is for.
pub fn outlived(
    candidates: &[Candidate],
    now: Timestamp,
    retention_s: impl Fn(Category) -> i64,
) -> Vec<Candidate> {
    let is_over =
        |candidate: &&Candidate| candidate.leaves_at(&retention_s).is_some_and(|at| at < now);
    candidates.iter().filter(is_over).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Objects of 10 bytes by number, with the time of their last use.
    fn candidates(wanted: &[(u8, i64)], surplus: &[(u8, i64)]) -> Vec<Candidate> {
        let candidate = |is_wanted| {
            move |(number, used_ms): &(u8, i64)| Candidate {
                sha256: ContentHash::from_digest([*number; 32]),
                size_bytes: 10,
                used_at: Timestamp::from_unix_ms(*used_ms),
                is_wanted,
                category: Category::Images,
                priority: PRIORITY,
                lifetime: Lifetime::Usual,
            }
        };
        let wanted = wanted.iter().map(candidate(true));
        wanted.chain(surplus.iter().map(candidate(false))).collect()
    }

    fn numbers(leaving: Vec<Candidate>) -> Vec<u8> {
        leaving.iter().map(|candidate| candidate.sha256.as_bytes()[0]).collect()
    }

    const FULL: Room = Room { held_bytes: 40, held_bytes_max: Some(40), spare_bytes: 1_000 };

    #[test]
    fn what_nobody_wants_goes_first_and_then_what_was_used_longest_ago() {
        let all = candidates(&[(1, 5), (2, 1)], &[(3, 9), (4, 7)]);
        let leaving = |size, need| make_room(all.clone(), &FULL, size, need).map(numbers);
        assert_eq!(leaving(0, Need::Stock), Some(vec![]));
        assert_eq!(leaving(1, Need::Stock), Some(vec![4]));
        assert_eq!(leaving(20, Need::Stock), Some(vec![4, 3]));
        assert_eq!(leaving(21, Need::Stock), None, "what is wanted stays for mere stock");
        assert_eq!(leaving(21, Need::Machine), Some(vec![4, 3, 2]));
        assert_eq!(leaving(40, Need::Machine), Some(vec![4, 3, 2, 1]));
        assert_eq!(leaving(41, Need::Machine), None);
    }

    #[test]
    fn d2_the_disk_is_a_limit_too() {
        let all = candidates(&[], &[(1, 1), (2, 2)]);
        let room = |spare_bytes| Room { held_bytes_max: None, spare_bytes, ..FULL };
        let leaving = |spare, size| make_room(all.clone(), &room(spare), size, Need::Stock);
        assert_eq!(leaving(5, 5).map(numbers), Some(vec![]));
        assert_eq!(leaving(5, 6).map(numbers), Some(vec![1]));
        assert_eq!(leaving(-5, 6).map(numbers), Some(vec![1, 2]));
        assert_eq!(leaving(-5, 16), None);
        assert_eq!(leaving(5, u64::MAX), None);
    }

    #[test]
    fn a_limit_that_was_lowered_takes_what_nobody_wants_and_no_more() {
        let all = candidates(&[(1, 1)], &[(2, 2), (3, 3)]);
        let room = Room { held_bytes_max: Some(5), ..FULL };
        let leaving = make_room(all, &room, 0, Need::Tidiness).map(numbers);
        assert_eq!(leaving, Some(vec![2, 3]));
    }

    #[test]
    fn what_is_unused_for_long_goes_unless_the_manifest_names_it() {
        let all = candidates(&[(1, 1)], &[(2, 1), (3, 10)]);
        let now = Timestamp::from_unix_ms(10);
        assert_eq!(numbers(outlived(&all, now, |_| 0)), [2]);
        let longer_for_images = |category| match category {
            Category::Images => 1,
            _ => 0,
        };
        assert_eq!(numbers(outlived(&all, now, longer_for_images)), Vec::<u8>::new());
    }

    #[test]
    fn a_policy_s_order_and_time_count_for_what_the_manifest_does_not_name() {
        let now = Timestamp::from_unix_ms(100_000);
        let all = candidates(&[(1, 0), (2, 0)], &[(3, 0), (4, 39_999), (5, 40_000), (6, 0)]);
        let lifetime = |number| match number {
            3 => Lifetime::Endless,
            4 | 5 => Lifetime::Seconds(60),
            6 => Lifetime::Over,
            _ => Lifetime::Usual,
        };
        let candidate = |candidate: &Candidate| {
            let number = candidate.sha256.as_bytes()[0];
            Candidate { lifetime: lifetime(number), priority: 9 - number, ..*candidate }
        };
        let all: Vec<_> = all.iter().map(candidate).collect();
        assert_eq!(numbers(outlived(&all, now, |_| 100)), [4, 6]);
        let leaves_at = |number: usize| {
            let at = all.get(number - 1)?.leaves_at(|_| 100)?;
            Some(at.unix_ms())
        };
        assert_eq!([1, 2, 3].map(leaves_at), [None; 3], "what is wanted and what has no end stays");
        assert_eq!([4, 5, 6].map(leaves_at), [Some(99_999), Some(100_000), Some(0)]);
        let leaving = make_room(all, &FULL, 40, Need::Machine).map(numbers);
        assert_eq!(leaving, Some(vec![6, 5, 4, 3]), "what is wanted stays while others can go");
    }
}
