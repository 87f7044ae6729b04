//! What the cache knows to hold, without I/O: names, and the objects that they stand for.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use pureboot_protocol::{Category, ContentKey, Timestamp};

use super::ContentHash;

/// What is known of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) size_bytes: u64,
    pub(super) modified: Timestamp,
}

/// Names and objects. An object may have several names; one that lost its last name while the index was lost has none.
#[derive(Debug, Default)]
pub(super) struct Index {
    names: BTreeMap<ContentKey, ContentHash>,
    objects: HashMap<ContentHash, Row>,
    /// Names that the manifest has brought. What has another name was put there by hand.
    managed: BTreeSet<ContentKey>,
    uses: HashMap<ContentHash, Use>,
}

/// How an object has been used by those whom the cache is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// How often since the start.
    pub hits: u32,
    /// When last, also before the start; none: never.
    pub at: Option<Timestamp>,
}

/// When an object was last used.
#[derive(Debug, Clone, Copy)]
struct Use {
    at: Timestamp,
    /// As the disk remembers it.
    saved_at: Option<Timestamp>,
    /// How often since the start.
    hits: u32,
}

/// How much older than the truth what the disk remembers of a use may be, in seconds.
const USE_SAVED_S: i64 = 24 * 3_600;

impl Index {
    /// The object that `key` stands for.
    pub(super) fn find(&self, key: &ContentKey) -> Option<(ContentHash, Row)> {
        let hash = self.names.get(key)?;
        Some((*hash, self.object(hash)?))
    }

    /// The first name that differs from `key` in the case of letters at most.
    pub(super) fn name_ignoring_case(&self, key: &ContentKey) -> Option<ContentKey> {
        let is_alike = |name: &&ContentKey| {
            name.category() == key.category() && name.path().eq_ignore_ascii_case(key.path())
        };
        self.names.keys().find(is_alike).cloned()
    }

    pub(super) fn object(&self, hash: &ContentHash) -> Option<Row> {
        self.objects.get(hash).copied()
    }

    /// Every name with its object, in the order of the names.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&ContentKey, ContentHash, Row)> {
        self.names.iter().filter_map(|(key, hash)| Some((key, *hash, self.object(hash)?)))
    }

    /// Every object once.
    pub(super) fn objects(&self) -> impl Iterator<Item = (ContentHash, Row)> {
        self.objects.iter().map(|(hash, row)| (*hash, *row))
    }

    /// The names that stand for an object.
    pub(super) fn names_of(&self, hash: ContentHash) -> impl Iterator<Item = &ContentKey> {
        self.names.iter().filter(move |(_, named)| **named == hash).map(|(key, _)| key)
    }

    /// Whether firmware loads the object first, so that it is checked at every start.
    pub(super) fn is_bootloader(&self, hash: ContentHash) -> bool {
        self.names_of(hash).any(|key| key.category() == Category::Bootloaders)
    }

    /// The object that has no name left once `key` stands for `successor`, or for nothing.
    pub(super) fn orphan(
        &self,
        key: &ContentKey,
        successor: Option<ContentHash>,
    ) -> Option<ContentHash> {
        let hash = *self.names.get(key)?;
        let is_only_name = self.names_of(hash).all(|name| name == key);
        (is_only_name && successor != Some(hash)).then_some(hash)
    }

    /// The objects that have no name left once `names` stand for what they say.
    pub(super) fn orphans(&self, names: &[(ContentKey, ContentHash)]) -> Vec<ContentHash> {
        let changed: HashMap<&ContentKey, ContentHash> =
            names.iter().map(|(key, hash)| (key, *hash)).collect();
        let before: HashSet<ContentHash> =
            changed.keys().filter_map(|key| self.names.get(key).copied()).collect();
        let is_named = |hash: &ContentHash| {
            changed.values().any(|named| named == hash)
                || self.names_of(*hash).any(|key| !changed.contains_key(key))
        };
        before.into_iter().filter(|hash| !is_named(hash)).collect()
    }

    /// Takes an object in, without a name.
    pub(super) fn insert(&mut self, hash: ContentHash, row: Row) {
        self.objects.insert(hash, row);
    }

    /// Lets `key` stand for an object that is held.
    pub(super) fn name(&mut self, key: ContentKey, hash: ContentHash) {
        self.names.insert(key, hash);
    }

    /// `key` is a name that the manifest has brought.
    pub(super) fn manage(&mut self, key: ContentKey) {
        self.managed.insert(key);
    }

    /// The names that the manifest has brought.
    pub(super) fn managed(&self) -> &BTreeSet<ContentKey> {
        &self.managed
    }

    /// Has the manifest's names be these.
    pub(super) fn set_managed(&mut self, managed: BTreeSet<ContentKey>) {
        self.managed = managed;
    }

    /// An object has been asked for. One that has just left is not remembered.
    pub(super) fn note_use(&mut self, hash: ContentHash, at: Timestamp) {
        if !self.objects.contains_key(&hash) {
            return;
        }
        let used = self.uses.entry(hash).or_insert(Use { at, saved_at: None, hits: 0 });
        used.at = at;
        used.hits = used.hits.saturating_add(1);
    }

    /// The disk remembers this use.
    pub(super) fn note_saved_use(&mut self, hash: ContentHash, at: Timestamp) {
        let used = self.uses.entry(hash).or_insert(Use { at, saved_at: None, hits: 0 });
        used.saved_at = Some(at);
    }

    /// Uses that the disk should remember better.
    pub(super) fn uses_to_save(&self) -> Vec<(ContentHash, Timestamp)> {
        let is_old = |used: &Use| {
            used.saved_at.is_none_or(|saved| used.at.seconds_since(saved) >= USE_SAVED_S)
        };
        let uses = self.uses.iter().filter(|(_, used)| is_old(used));
        uses.map(|(hash, used)| (*hash, used.at)).collect()
    }

    /// When an object was last asked for, or else came.
    pub(super) fn used_at(&self, hash: &ContentHash, row: &Row) -> Timestamp {
        self.uses.get(hash).map_or(row.modified, |used| used.at.max(row.modified))
    }

    /// How an object has been used.
    pub(super) fn used(&self, hash: &ContentHash) -> Used {
        self.uses
            .get(hash)
            .map_or(Used::default(), |used| Used { hits: used.hits, at: Some(used.at) })
    }

    /// Lets `key` stand for nothing.
    pub(super) fn unname(&mut self, key: &ContentKey) {
        self.managed.remove(key);
        self.names.remove(key);
    }

    /// Forgets an object and its names.
    pub(super) fn remove(&mut self, hash: ContentHash) {
        self.objects.remove(&hash);
        self.uses.remove(&hash);
        self.names.retain(|_, named| *named != hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> ContentKey {
        text.parse().unwrap()
    }

    fn index(names: &[(&str, u8)]) -> Index {
        let mut index = Index::default();
        for (name, byte) in names {
            let row = Row { size_bytes: 1, modified: Timestamp::from_unix_ms(0) };
            index.insert(ContentHash::from_digest([*byte; 32]), row);
            index.name(key(name), ContentHash::from_digest([*byte; 32]));
        }
        index
    }

    #[test]
    fn an_object_is_an_orphan_when_its_last_name_goes() {
        let index = index(&[("images/a", 1), ("images/b", 1), ("images/c", 2)]);
        let hash = |byte| ContentHash::from_digest([byte; 32]);
        assert_eq!(index.orphan(&key("images/a"), None), None, "b is left");
        assert_eq!(index.orphan(&key("images/c"), None), Some(hash(2)));
        assert_eq!(index.orphan(&key("images/c"), Some(hash(1))), Some(hash(2)));
        assert_eq!(index.orphan(&key("images/c"), Some(hash(2))), None, "the same again");
        assert_eq!(index.orphan(&key("images/d"), None), None);
    }

    #[test]
    fn names_that_change_places_leave_no_orphan() {
        let index = index(&[("images/a", 1), ("images/b", 2), ("images/c", 3), ("images/d", 3)]);
        let hash = |byte| ContentHash::from_digest([byte; 32]);
        let orphans = |names: &[(&str, u8)]| {
            let names: Vec<_> = names.iter().map(|(name, byte)| (key(name), hash(*byte))).collect();
            index.orphans(&names)
        };
        assert_eq!(orphans(&[("images/a", 2), ("images/b", 1)]), []);
        assert_eq!(orphans(&[("images/a", 9)]), [hash(1)]);
        assert_eq!(orphans(&[("images/a", 1), ("images/c", 1), ("images/new", 1)]), []);
        assert_eq!(orphans(&[("images/c", 1), ("images/d", 1)]), [hash(3)]);
    }

    #[test]
    fn f14_a_name_is_found_in_whatever_case_it_is_asked_for() {
        let index = index(&[("bootloaders/boot/BCD", 1), ("images/Boot/bcd", 2)]);
        let found = |text: &str| index.name_ignoring_case(&key(text)).map(|key| key.to_string());
        assert_eq!(found("bootloaders/Boot/bcd").as_deref(), Some("bootloaders/boot/BCD"));
        assert_eq!(found("images/boot/BCD").as_deref(), Some("images/Boot/bcd"));
        assert_eq!(found("bootloaders/boot/bcd2"), None);
    }

    #[test]
    fn k14_a_name_without_object_finds_nothing() {
        let mut index = index(&[("images/a", 1)]);
        index.remove(ContentHash::from_digest([1; 32]));
        assert_eq!(index.find(&key("images/a")), None);
        assert_eq!(index.entries().count(), 0);
    }
}
