//! What is missing of a manifest, and in which order it is fetched. Values in, values out.
//!
//! The site's policy is not looked at: the controller has chosen by it what the manifest names. Names in one directory change
//! together, so that no machine gets the kernel of one version and the initial RAM disk of another (FAULTS C12).

use std::collections::BTreeMap;

use pureboot_protocol::{Category, ContentHash, ContentKey, ManifestEntry};

/// Names that change at one instant.
#[derive(Debug, PartialEq, Eq)]
pub struct Group {
    /// What they are for.
    pub category: Category,
    /// Objects that have to be fetched before, each once, the shortest first.
    pub missing: Vec<ManifestEntry>,
    /// Names that do not stand for what they are to stand for.
    pub names: Vec<(ContentKey, ContentHash)>,
}

impl Group {
    fn missing_bytes(&self) -> u64 {
        self.missing.iter().map(|entry| entry.size_bytes).sum()
    }
}

/// What is to be done so that the cache holds `entries`: boot loaders first, and within a category what needs least.
///
/// `named` is what a name stands for now, `holds` whether an object is in the cache; only `categories` are looked at.
pub fn plan(
    entries: &[ManifestEntry],
    categories: &[Category],
    named: impl Fn(&ContentKey) -> Option<ContentHash>,
    holds: impl Fn(&ContentHash) -> bool,
) -> Vec<Group> {
    let mut groups: BTreeMap<(Category, &str), Vec<&ManifestEntry>> = BTreeMap::new();
    for entry in entries {
        let is_chosen = categories.contains(&entry.key.category());
        let is_done = named(&entry.key) == Some(entry.sha256) && holds(&entry.sha256);
        if is_chosen && !is_done {
            groups.entry((entry.key.category(), unit(&entry.key))).or_default().push(entry);
        }
    }
    let mut planned: Vec<Group> = Vec::new();
    for ((category, _), entries) in groups {
        let mut missing: Vec<ManifestEntry> = entries
            .iter()
            .filter(|entry| !holds(&entry.sha256))
            .map(|entry| ManifestEntry::clone(entry))
            .collect();
        missing.sort_by_key(|entry| (entry.size_bytes, entry.sha256));
        missing.dedup_by_key(|entry| entry.sha256);
        let names = entries.iter().map(|entry| (entry.key.clone(), entry.sha256)).collect();
        planned.push(Group { category, missing, names });
    }
    planned.sort_by_key(|group| (group.category, group.missing_bytes()));
    planned
}

/// The objects that `groups` are missing, each once, with their sizes in bytes.
pub fn objects(groups: &[Group]) -> BTreeMap<ContentHash, u64> {
    let missing = groups.iter().flat_map(|group| &group.missing);
    missing.map(|entry| (entry.sha256, entry.size_bytes)).collect()
}

/// What of a name others share with it that belong to it: its directory. A name without one stands alone.
pub(super) fn unit(key: &ContentKey) -> &str {
    key.path().rsplit_once('/').map_or(key.path(), |(directory, _)| directory)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::super::testing::entry;
    use super::*;

    /// Contents are single letters; `held` are names with what they stand for now, `objects` what is there without a name.
    fn check(manifest: &[(&str, &str)], held: &[(&str, &str)], objects: &str, expected: Expect) {
        let of = |list: &[(&str, &str)]| -> Vec<ManifestEntry> {
            list.iter().map(|(name, content)| entry(name, content.as_bytes())).collect()
        };
        let (entries, held) = (of(manifest), of(held));
        let loose: Vec<_> = objects
            .chars()
            .map(|letter| entry("images/x", letter.to_string().as_bytes()))
            .collect();
        let named = |key: &ContentKey| {
            held.iter().find(|entry| entry.key == *key).map(|entry| entry.sha256)
        };
        let holds =
            |hash: &ContentHash| held.iter().chain(&loose).any(|entry| entry.sha256 == *hash);
        let mut text = String::new();
        for group in plan(&entries, Category::ALL, named, holds) {
            let missing: Vec<_> = group.missing.iter().map(|entry| entry.key.to_string()).collect();
            let names: Vec<_> = group.names.iter().map(|(key, _)| key.to_string()).collect();
            text += &format!("fetch [{}] name [{}]\n", missing.join(" "), names.join(" "));
        }
        expected.assert_eq(&text);
    }

    #[test]
    fn boot_loaders_come_first_and_then_what_needs_least() {
        check(
            &[
                ("images/large", "aaaaaaaa"),
                ("images/small", "b"),
                ("scripts/s", "cccccccccccc"),
                ("bootloaders/b.efi", "dddddddddddddddd"),
            ],
            &[],
            "",
            expect![[r#"
                fetch [bootloaders/b.efi] name [bootloaders/b.efi]
                fetch [scripts/s] name [scripts/s]
                fetch [images/small] name [images/small]
                fetch [images/large] name [images/large]
            "#]],
        );
    }

    #[test]
    fn an_object_that_two_directories_name_is_counted_once() {
        let entries = [
            entry("images/a/linux", b"333"),
            entry("images/b/linux", b"333"),
            entry("images/b/initrd", b"22"),
        ];
        let groups = plan(&entries, Category::ALL, |_| None, |_| false);
        let sizes: Vec<_> = objects(&groups).into_values().collect();
        assert_eq!((sizes.len(), sizes.iter().sum::<u64>()), (2, 5), "{groups:?}");
    }

    #[test]
    fn c12_names_in_one_directory_change_together() {
        check(
            &[("images/debian/initrd", "22"), ("images/debian/linux", "1"), ("images/other", "o")],
            &[("images/debian/initrd", "9"), ("images/debian/linux", "8"), ("images/other", "o")],
            "",
            expect![[r#"
                fetch [images/debian/linux images/debian/initrd] name [images/debian/initrd images/debian/linux]
            "#]],
        );
    }

    #[test]
    fn what_is_here_is_not_fetched_and_one_object_is_fetched_once() {
        check(
            &[("images/a/x", "same"), ("images/a/y", "same"), ("images/b", "h"), ("images/c", "k")],
            &[("images/c", "k")],
            "h",
            expect![[r#"
                fetch [] name [images/b]
                fetch [images/a/x] name [images/a/x images/a/y]
            "#]],
        );
    }

    #[test]
    fn k14_a_name_whose_object_is_lost_is_fetched_again() {
        let entries = [entry("images/a", b"a")];
        let named = |_: &ContentKey| Some(entries[0].sha256);
        let groups = plan(&entries, Category::ALL, named, |_| false);
        assert_eq!(groups.iter().map(|group| group.missing.len()).sum::<usize>(), 1);
        assert_eq!(plan(&entries, &[Category::Scripts], named, |_| false), []);
    }
}
