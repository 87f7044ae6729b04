//! Which content a site is to hold, by its policy. Values in, values out.

use std::collections::BTreeSet;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use pureboot_protocol::{CachePolicy, Category, ContentKey};

/// The longest pattern, in bytes.
const PATTERN_LEN_MAX: usize = 300;

/// What a site is to hold.
#[derive(Debug)]
pub(crate) struct Selection {
    policy: CachePolicy,
    patterns: GlobSet,
    /// What the workflows of the site load.
    needed: BTreeSet<ContentKey>,
    /// What an operator has assigned.
    assigned: BTreeSet<ContentKey>,
    /// The packages of the policies that the site is to run.
    packages: BTreeSet<ContentKey>,
}

impl Selection {
    /// A selection by `policy`. A pattern that is none chooses nothing; [`check_pattern`] has refused it before.
    pub(crate) fn new(
        policy: CachePolicy,
        patterns: &[String],
        needed: BTreeSet<ContentKey>,
        assigned: BTreeSet<ContentKey>,
    ) -> Self {
        let mut set = GlobSetBuilder::new();
        for glob in patterns.iter().filter_map(|pattern| glob(pattern).ok()) {
            set.add(glob);
        }
        let patterns = set.build().unwrap_or_else(|_| GlobSet::empty());
        Self { policy, patterns, needed, assigned, packages: BTreeSet::new() }
    }

    /// The same selection with these packages of policies, and no others.
    pub(crate) fn with_packages(self, packages: BTreeSet<ContentKey>) -> Self {
        Self { packages, ..self }
    }

    /// Whether the site is to hold `key`. Without boot loaders and what its workflows load, no policy lets a site boot.
    pub(crate) fn holds(&self, key: &ContentKey) -> bool {
        if key.category() == Category::Plugins {
            return self.packages.contains(key);
        }
        // Fetched by who is ordered to run it, and kept by nobody.
        if key.category() == Category::Agents {
            return false;
        }
        let is_chosen = match self.policy {
            CachePolicy::Minimal => false,
            CachePolicy::Assigned => self.assigned.contains(key),
            CachePolicy::Pattern => self.patterns.is_match(key.to_string()),
            CachePolicy::Mirror => true,
        };
        is_chosen || is_pinned(key) || self.needed.contains(key)
    }
}

/// Whether a site keeps `key` whatever is short of space.
pub(crate) fn is_pinned(key: &ContentKey) -> bool {
    matches!(key.category(), Category::Bootloaders | Category::Plugins)
}

/// Says what is wrong with a pattern over `category/path`; none where it is one. `*` and `?` stay within a segment, `**`
/// crosses them.
pub(crate) fn check_pattern(pattern: &str) -> Option<String> {
    if pattern.is_empty() || pattern.len() > PATTERN_LEN_MAX {
        return Some(format!("a pattern has 1 to {PATTERN_LEN_MAX} bytes"));
    }
    glob(pattern).err().map(|error| format!("{:?} is no pattern: {}", pattern, error.kind()))
}

fn glob(pattern: &str) -> Result<globset::Glob, globset::Error> {
    GlobBuilder::new(pattern).literal_separator(true).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(names: &[&str]) -> BTreeSet<ContentKey> {
        names.iter().map(|name| name.parse().expect("a name")).collect()
    }

    #[test]
    fn every_policy_holds_what_a_site_boots_from_and_what_it_says_beside() {
        let all = keys(&[
            "bootloaders/ipxe.efi",
            "images/debian/linux",
            "images/debian/12/linux",
            "images/windows.wim",
            "scripts/post.sh",
            "plugins/a/1.0.0/e.pbp",
            "plugins/b/1.0.0/e.pbp",
            "agents/1.0.0/pureboot-agent-x86_64",
        ]);
        let patterns =
            ["images/*/linux".to_owned(), "{scripts,plugins,agents}/**".to_owned(), "[".to_owned()];
        for (policy, beside) in [
            (CachePolicy::Minimal, &[][..]),
            (CachePolicy::Assigned, &["images/windows.wim"][..]),
            (CachePolicy::Pattern, &["images/debian/linux", "scripts/post.sh"][..]),
            (
                CachePolicy::Mirror,
                &["images/debian/linux", "images/windows.wim", "scripts/post.sh"][..],
            ),
        ] {
            let needed = keys(&["images/debian/12/linux"]);
            let assigned = keys(&["images/windows.wim", "images/gone"]);
            let packages = keys(&["plugins/a/1.0.0/e.pbp"]);
            let selection =
                Selection::new(policy, &patterns, needed, assigned).with_packages(packages);
            let held: BTreeSet<_> =
                all.iter().filter(|key| selection.holds(key)).cloned().collect();
            let mut expected =
                keys(&["bootloaders/ipxe.efi", "images/debian/12/linux", "plugins/a/1.0.0/e.pbp"]);
            expected.append(&mut keys(beside));
            assert_eq!(held, expected, "{policy}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_told_so() {
        for pattern in ["images/**", "images/debian/*", "*/{a,b}", "scripts/[a-c]?.sh"] {
            assert_eq!(check_pattern(pattern), None, "{pattern}");
        }
        for pattern in ["", "[", "images/{a", &"a".repeat(301)] {
            assert!(check_pattern(pattern).is_some(), "{pattern}");
        }
    }
}
