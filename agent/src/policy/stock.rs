//! What policies are asked about the site's content, from what the cache has and the manifest names. Pure.

use std::collections::{BTreeMap, BTreeSet};

use pureboot_plugin_host::facts::CacheItem;
use pureboot_protocol::{ContentHash, ContentKey, ManifestEntry, Timestamp};

use crate::cache::{Entry, Used};

/// A name that policies are asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stock {
    /// The question.
    pub item: CacheItem,
    /// The length of what it stands for.
    pub size_bytes: u64,
    /// Whether the manifest names it.
    pub is_in_manifest: bool,
}

/// Everything that is held or that the manifest names, in the order of names; but for policies themselves, which have no say on that.
///
/// `is_required` says what the site keeps whatever is said of it, `assigned` what workflows of its nodes need.
pub fn stock(
    held: Vec<Entry>,
    wanted: &[ManifestEntry],
    used: impl Fn(ContentHash) -> Used,
    is_required: impl Fn(&ContentKey) -> bool,
    assigned: &BTreeSet<ContentKey>,
    now: Timestamp,
) -> Vec<Stock> {
    let mut names: BTreeMap<ContentKey, (Option<ContentHash>, u64, bool)> = BTreeMap::new();
    for Entry { key, sha256, size_bytes, .. } in held {
        names.insert(key, (Some(sha256), size_bytes, false));
    }
    for entry in wanted {
        let name = names.entry(entry.key.clone()).or_insert((None, entry.size_bytes, true));
        name.2 = true;
    }
    names.retain(|key, _| key.category().is_for_machines());
    let stock = |(key, known): (ContentKey, (Option<ContentHash>, u64, bool))| {
        let (hash, size_bytes, is_in_manifest) = known;
        let Used { hits, at } = hash.map(&used).unwrap_or_default();
        let idle = |at| u32::try_from(now.seconds_since(at).max(0)).unwrap_or(u32::MAX);
        let item = CacheItem {
            size_kib: Some(kib(size_bytes)),
            required: is_required(&key),
            assigned: assigned.contains(&key),
            hits,
            idle: at.map(idle),
            key,
        };
        Stock { item, size_bytes, is_in_manifest }
    };
    names.into_iter().map(stock).collect()
}

fn kib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1_024)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ContentKey {
        name.parse().expect("a name")
    }

    fn hash(byte: u8) -> ContentHash {
        ContentHash::from_digest([byte; 32])
    }

    #[test]
    fn a_policy_is_asked_about_what_is_held_and_what_may_come_but_not_about_policies() {
        let at = Timestamp::from_unix_ms;
        let held = |name, byte, size_bytes| Entry {
            key: key(name),
            sha256: hash(byte),
            size_bytes,
            modified: at(0),
            used_at: at(0),
        };
        let wanted = |name, byte| ManifestEntry {
            key: key(name),
            size_bytes: 1_025,
            sha256: hash(byte),
            pinned: false,
            chunks: None,
        };
        let stock = stock(
            vec![held("images/a", 1, 10), held("images/old", 2, 2_048), held("plugins/p", 3, 1)],
            &[wanted("images/a", 1), wanted("images/new", 4), wanted("plugins/q", 5)],
            |hash| match hash.as_bytes()[0] {
                1 => Used { hits: 3, at: Some(at(40_000)) },
                _ => Used::default(),
            },
            |key| key.path() == "old",
            &BTreeSet::from([key("images/new")]),
            at(100_000),
        );
        let told: Vec<_> = stock
            .iter()
            .map(|Stock { item, is_in_manifest, .. }| {
                let CacheItem { key, size_kib, required, assigned, hits, idle } = item;
                let size = size_kib.expect("it is known");
                format!("{key} {size} {required} {assigned} {hits} {idle:?} {is_in_manifest}")
            })
            .collect();
        let expected = [
            "images/a 1 false false 3 Some(60) true",
            "images/new 2 false true 0 None true",
            "images/old 2 true false 0 None false",
        ];
        assert_eq!(told, expected);
    }
}
