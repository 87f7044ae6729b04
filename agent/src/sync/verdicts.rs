//! What the site's policies want of content, and what comes of it. Values in, values out.
//!
//! A policy has a word on what the site may do without: what a person has pinned or put there, boot loaders, what the manifest pins
//! and what somebody reads are never given up, whatever is said here. Names in one directory change together (FAULTS C12), so they are
//! given up together or not at all. And what may be pinned is a part of what the cache may hold, so that there is room for a machine.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use pureboot_plugin_host::chain::Word;
use pureboot_plugin_host::facts::CacheVerdict;
use pureboot_protocol::{Category, ContentHash, ContentKey, Timestamp};
use serde::{Deserialize, Serialize};

use super::plan::unit;
use crate::cache::evict::{Candidate, Lifetime, PRIORITY};

/// A name that policies were asked about, and what they said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// The name.
    pub key: ContentKey,
    /// The length of what it stands for.
    pub size_bytes: u64,
    /// Whether the manifest names it.
    pub is_in_manifest: bool,
    /// Whether a workflow of the site's nodes needs it.
    pub is_needed: bool,
    /// The word that counts, if there is one.
    pub word: Option<Word>,
    /// What a shadow would have said.
    pub shadow: Option<Word>,
}

/// What comes of a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It stays when room is made.
    Pinned,
    /// It was to be pinned, and more is pinned already than may be.
    BeyondBudget,
    /// It goes, and is not fetched ahead.
    GivenUp,
    /// It was to be given up, and others of its directory are not.
    StaysWithOthers,
    /// It was to be given up, and a workflow of the site's nodes needs it.
    Needed,
    /// It goes earlier or later than others.
    Ordered,
    /// Nothing: a shadow has said it.
    Shadow,
}

/// A word on a name, and what comes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opinion {
    /// Whose it is, and what it is.
    #[serde(flatten)]
    pub word: Word,
    /// What comes of it.
    pub effect: Effect,
}

impl Opinion {
    /// Whose it is and what comes of it, for people.
    pub fn words(&self) -> String {
        let Word { by, verdict } = &self.word;
        let wish = wish(verdict);
        match self.effect {
            Effect::Pinned => format!("{by} pins it"),
            Effect::BeyondBudget => format!("{by} would pin it, beyond the budget"),
            Effect::GivenUp => format!("{by} gives it up"),
            Effect::StaysWithOthers => format!("{by} gives it up, its directory stays"),
            Effect::Needed => format!("{by} gives it up, a workflow needs it"),
            Effect::Ordered => format!("{by}: {wish}"),
            Effect::Shadow => format!("{by} would {wish} (shadow)"),
        }
    }
}

/// What a policy wants, for people.
pub fn wish(verdict: &CacheVerdict) -> String {
    match verdict {
        CacheVerdict { store: false, .. } => "give it up".to_owned(),
        CacheVerdict { pin: true, .. } => "pin it".to_owned(),
        CacheVerdict { ttl: Some(ttl), priority, .. } => {
            format!("keep it {ttl} s, rank {priority}")
        }
        CacheVerdict { priority, .. } => format!("keep it, rank {priority}"),
    }
}

/// How many words the site's policies have given on content, and what has come of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictCounts {
    /// When they were given.
    pub given_at: Timestamp,
    /// Names that are pinned.
    pub pinned_count: u64,
    /// Bytes of what they stand for.
    pub pinned_bytes: u64,
    /// Bytes that may be pinned.
    pub pinned_bytes_max: u64,
    /// Names that were to be pinned beyond that.
    pub beyond_budget_count: u64,
    /// Names that are given up, held still or not.
    pub given_up_count: u64,
}

/// What the site's policies have said of content at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdicts {
    given_at: Option<Timestamp>,
    opinions: BTreeMap<ContentKey, Opinion>,
    shadows: BTreeMap<ContentKey, Word>,
    pinned_bytes: u64,
    pinned_bytes_max: u64,
}

impl Verdicts {
    /// What comes of words that were given at `given_at`, of which as many pin as have `pinned_bytes_max` together.
    pub fn new(given_at: Timestamp, judged: Vec<Judged>, pinned_bytes_max: u64) -> Self {
        let kept_units = kept_units(&judged);
        let mut pins: Vec<(Reverse<u8>, ContentKey, u64)> = Vec::new();
        let mut verdicts = Self { given_at: Some(given_at), pinned_bytes_max, ..Self::default() };
        for Judged { key, size_bytes, is_in_manifest, is_needed, word, shadow } in judged {
            if let Some(shadow) = shadow {
                verdicts.shadows.insert(key.clone(), shadow);
            }
            let Some(word) = word else { continue };
            let effect = match word.verdict {
                CacheVerdict { store: false, .. } if is_needed => Effect::Needed,
                CacheVerdict { store: false, .. } => {
                    let stays =
                        is_in_manifest && kept_units.contains(&(key.category(), unit(&key).into()));
                    if stays { Effect::StaysWithOthers } else { Effect::GivenUp }
                }
                CacheVerdict { pin: true, priority, .. } => {
                    pins.push((Reverse(priority), key.clone(), size_bytes));
                    Effect::BeyondBudget
                }
                _ => Effect::Ordered,
            };
            verdicts.opinions.insert(key, Opinion { word, effect });
        }
        verdicts.pin(pins);
        verdicts
    }

    /// Pins what fits into the budget, what matters most first.
    fn pin(&mut self, mut pins: Vec<(Reverse<u8>, ContentKey, u64)>) {
        pins.sort_unstable();
        for (_, key, size_bytes) in pins {
            let after = self.pinned_bytes.saturating_add(size_bytes);
            if after > self.pinned_bytes_max {
                continue;
            }
            if let Some(opinion) = self.opinions.get_mut(&key) {
                opinion.effect = Effect::Pinned;
                self.pinned_bytes = after;
            }
        }
    }

    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        self.opinions.is_empty()
    }

    /// Their counts; none before the first was asked for.
    pub fn counts(&self) -> Option<VerdictCounts> {
        let count = |effect| {
            let has_come_to = |opinion: &&Opinion| opinion.effect == effect;
            self.opinions.values().filter(has_come_to).count() as u64
        };
        Some(VerdictCounts {
            given_at: self.given_at?,
            pinned_count: count(Effect::Pinned),
            pinned_bytes: self.pinned_bytes,
            pinned_bytes_max: self.pinned_bytes_max,
            beyond_budget_count: count(Effect::BeyondBudget),
            given_up_count: count(Effect::GivenUp),
        })
    }

    /// What is said of a name: what counts, or else what a shadow says.
    pub fn told(&self, key: &ContentKey) -> Option<Opinion> {
        let shadow = || {
            let word = self.shadows.get(key)?.clone();
            Some(Opinion { word, effect: Effect::Shadow })
        };
        self.opinions.get(key).cloned().or_else(shadow)
    }

    /// The names that are given up, with whose word that is.
    pub fn given_up(&self) -> impl Iterator<Item = (&ContentKey, &Word)> {
        let given_up = |(_, opinion): &(_, &Opinion)| opinion.effect == Effect::GivenUp;
        self.opinions.iter().filter(given_up).map(|(key, opinion)| (key, &opinion.word))
    }

    /// Whether the words on `key` are the same in another judgement.
    pub fn agrees(&self, judged: &Judged) -> bool {
        self.opinions.get(&judged.key).map(|opinion| &opinion.word) == judged.word.as_ref()
            && self.shadows.get(&judged.key) == judged.shadow.as_ref()
    }

    fn has_come_to(&self, key: &ContentKey, effect: Effect) -> bool {
        self.opinions.get(key).is_some_and(|opinion| opinion.effect == effect)
    }

    /// Whether a name stays when room is made.
    pub fn is_pinned(&self, key: &ContentKey) -> bool {
        self.has_come_to(key, Effect::Pinned)
    }

    /// Whether a name is not fetched ahead, and goes.
    pub fn is_given_up(&self, key: &ContentKey) -> bool {
        self.has_come_to(key, Effect::GivenUp)
    }

    /// What may leave, with the policies' words heeded. `names` are all names by what they stand for. While nothing could be fetched
    /// again, what the manifest names is not given up; nor is what somebody has asked for since the words were given.
    pub fn heed(
        &self,
        mut candidates: Vec<Candidate>,
        names: &HashMap<ContentHash, Vec<ContentKey>>,
        is_cut_off: bool,
    ) -> Vec<Candidate> {
        let names_of =
            |candidate: &Candidate| names.get(&candidate.sha256).map_or(&[][..], Vec::as_slice);
        candidates.retain(|candidate| !names_of(candidate).iter().any(|key| self.is_pinned(key)));
        for candidate in &mut candidates {
            let keys = names_of(candidate);
            let priority = |key| {
                self.opinions.get(key).map_or(PRIORITY, |opinion| opinion.word.verdict.priority)
            };
            candidate.priority = keys.iter().map(priority).max().unwrap_or(PRIORITY);
            candidate.lifetime = self.lifetime(keys);
            if candidate.lifetime == Lifetime::Over {
                let is_asked_for_since = self.given_at.is_none_or(|at| candidate.used_at >= at);
                if is_asked_for_since || candidate.is_wanted && is_cut_off {
                    candidate.lifetime = Lifetime::Usual;
                } else {
                    candidate.is_wanted = false;
                }
            }
        }
        candidates
    }

    /// How long what has these names stays: as long as the one that stays longest.
    fn lifetime(&self, keys: &[ContentKey]) -> Lifetime {
        let mut longest = Lifetime::Over;
        for key in keys {
            let Some(Opinion { word, effect }) = self.opinions.get(key) else {
                return Lifetime::Usual;
            };
            longest = match (longest, effect, word.verdict.ttl) {
                (longest, Effect::GivenUp, _) => longest,
                (_, Effect::StaysWithOthers | Effect::Needed, _) => return Lifetime::Usual,
                (Lifetime::Endless, ..) | (_, _, None) => Lifetime::Endless,
                (Lifetime::Seconds(longest), _, Some(ttl)) => Lifetime::Seconds(longest.max(ttl)),
                (_, _, Some(ttl)) => Lifetime::Seconds(ttl),
            };
        }
        // What has no name waits for the rest of its directory.
        if keys.is_empty() { Lifetime::Usual } else { longest }
    }
}

/// The directories of the manifest of which something is not to be given up.
fn kept_units(judged: &[Judged]) -> BTreeSet<(Category, Box<str>)> {
    let is_kept = |judged: &&Judged| {
        let is_given_up = judged.word.as_ref().is_some_and(|word| !word.verdict.store);
        judged.is_in_manifest && (judged.is_needed || !is_given_up)
    };
    let unit = |judged: &Judged| (judged.key.category(), unit(&judged.key).into());
    judged.iter().filter(is_kept).map(unit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN_UP: CacheVerdict =
        CacheVerdict { store: false, ttl: None, pin: false, priority: 0 };
    const PINNED: CacheVerdict = CacheVerdict { store: true, ttl: None, pin: true, priority: 200 };

    fn key(name: &str) -> ContentKey {
        name.parse().expect("a name")
    }

    /// A name of 10 bytes that the manifest has.
    fn judged(name: &str, verdict: Option<CacheVerdict>) -> Judged {
        let by = "tonight".parse().expect("a name");
        let word = verdict.map(|verdict| Word { by, verdict });
        Judged {
            key: key(name),
            size_bytes: 10,
            is_in_manifest: true,
            is_needed: false,
            word,
            shadow: None,
        }
    }

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(ms)
    }

    fn verdicts(judged: Vec<Judged>) -> Verdicts {
        Verdicts::new(at(1_000), judged, 20)
    }

    fn candidate(number: u8, is_wanted: bool, used_ms: i64) -> Candidate {
        Candidate {
            sha256: ContentHash::from_digest([number; 32]),
            size_bytes: 10,
            used_at: at(used_ms),
            is_wanted,
            category: Category::Images,
            priority: PRIORITY,
            lifetime: Lifetime::Usual,
        }
    }

    fn names(names: &[(u8, &[&str])]) -> HashMap<ContentHash, Vec<ContentKey>> {
        let entry = |(number, names): &(u8, &[&str])| {
            let names = names.iter().map(|name| key(name)).collect();
            (ContentHash::from_digest([*number; 32]), names)
        };
        names.iter().map(entry).collect()
    }

    #[test]
    fn p12_a_pin_counts_as_far_as_the_budget_goes_and_what_matters_most_comes_first() {
        let less = CacheVerdict { priority: 100, ..PINNED };
        let verdicts = verdicts(vec![
            judged("images/a", Some(less)),
            judged("images/b", Some(PINNED)),
            judged("images/c", Some(PINNED)),
        ]);
        assert!(verdicts.is_pinned(&key("images/b")) && verdicts.is_pinned(&key("images/c")));
        let told = verdicts.told(&key("images/a")).expect("it is judged").words();
        assert_eq!(told, "tonight would pin it, beyond the budget");
        let counts = verdicts.counts().expect("they are given");
        let pinned = (counts.pinned_count, counts.pinned_bytes, counts.pinned_bytes_max);
        assert_eq!((pinned, counts.beyond_budget_count), ((2, 20, 20), 1));
    }

    #[test]
    fn c12_a_directory_is_given_up_as_a_whole_or_not_at_all() {
        let verdicts = verdicts(vec![
            judged("images/debian/initrd", Some(GIVEN_UP)),
            judged("images/debian/linux", None),
            judged("images/old/initrd", Some(GIVEN_UP)),
            judged("images/old/linux", Some(GIVEN_UP)),
            judged("scripts/old/linux", None),
        ]);
        assert!(!verdicts.is_given_up(&key("images/debian/initrd")));
        assert!(verdicts.is_given_up(&key("images/old/initrd")));
        assert!(verdicts.is_given_up(&key("images/old/linux")));
        let told = verdicts.told(&key("images/debian/initrd")).expect("it is judged").words();
        assert_eq!(told, "tonight gives it up, its directory stays");
        let given_up: Vec<_> = verdicts.given_up().map(|(key, _)| key.to_string()).collect();
        assert_eq!(given_up, ["images/old/initrd", "images/old/linux"]);
    }

    #[test]
    fn p12_what_a_workflow_needs_is_not_given_up_nor_what_lies_beside_it() {
        let needed = Judged { is_needed: true, ..judged("images/flow/linux", Some(GIVEN_UP)) };
        let verdicts = verdicts(vec![needed, judged("images/flow/initrd", Some(GIVEN_UP))]);
        assert_eq!(verdicts.given_up().count(), 0);
        let told = verdicts.told(&key("images/flow/linux")).expect("it is judged").words();
        assert_eq!(told, "tonight gives it up, a workflow needs it");
        let candidate = candidate(1, true, 0);
        let heeded = verdicts.heed(vec![candidate], &names(&[(1, &["images/flow/linux"])]), false);
        assert_eq!(heeded, [Candidate { priority: 0, ..candidate }]);
    }

    #[test]
    fn p12_what_is_given_up_stays_while_it_could_not_come_back_and_when_somebody_has_asked_since() {
        let verdicts = verdicts(vec![judged("images/a", Some(GIVEN_UP))]);
        let names = names(&[(1, &["images/a"])]);
        let heed = |candidate, is_cut_off| {
            let heeded = verdicts.heed(vec![candidate], &names, is_cut_off);
            heeded.first().map(|candidate| (candidate.is_wanted, candidate.lifetime))
        };
        assert_eq!(heed(candidate(1, true, 999), false), Some((false, Lifetime::Over)));
        assert_eq!(heed(candidate(1, true, 999), true), Some((true, Lifetime::Usual)));
        assert_eq!(heed(candidate(1, false, 999), true), Some((false, Lifetime::Over)));
        assert_eq!(heed(candidate(1, true, 1_000), false), Some((true, Lifetime::Usual)));
    }

    #[test]
    fn an_object_stays_as_long_as_the_name_that_stays_longest() {
        let short = CacheVerdict { ttl: Some(60), pin: false, ..PINNED };
        let long = CacheVerdict { ttl: Some(90), priority: 7, ..short };
        let endless = CacheVerdict { pin: false, ..PINNED };
        let verdicts = verdicts(vec![
            judged("images/short", Some(short)),
            judged("images/long", Some(long)),
            judged("images/endless", Some(endless)),
            judged("images/gone", Some(GIVEN_UP)),
            judged("images/pinned", Some(PINNED)),
            judged("images/usual", None),
        ]);
        let names = names(&[
            (1, &["images/short", "images/long"]),
            (2, &["images/gone", "images/short"]),
            (3, &["images/endless", "images/long"]),
            (4, &["images/usual", "images/gone"]),
            (5, &["images/gone", "images/pinned"]),
            (6, &[]),
        ]);
        let all = (1..=6).map(|number| candidate(number, false, 0)).collect();
        let heeded = verdicts.heed(all, &names, false);
        let lives: Vec<_> = heeded
            .iter()
            .map(|candidate| {
                (candidate.sha256.as_bytes()[0], candidate.lifetime, candidate.priority)
            })
            .collect();
        let expected = [
            (1, Lifetime::Seconds(90), 200),
            (2, Lifetime::Seconds(60), 200),
            (3, Lifetime::Endless, 200),
            (4, Lifetime::Usual, PRIORITY),
            (6, Lifetime::Usual, PRIORITY),
        ];
        assert_eq!(lives, expected, "what has a name that is pinned is no candidate");
    }

    #[test]
    fn a_shadow_s_word_is_seen_and_nothing_comes_of_it() {
        let by = "later".parse().expect("a name");
        let shadow = Some(Word { by, verdict: GIVEN_UP });
        let judged = Judged { shadow, ..judged("images/a", None) };
        let verdicts = verdicts(vec![judged.clone()]);
        assert!(!verdicts.is_given_up(&judged.key) && verdicts.agrees(&judged));
        assert!(!Verdicts::default().agrees(&judged));
        let told = verdicts.told(&judged.key).expect("it is judged").words();
        assert_eq!(told, "later would give it up (shadow)");
    }
}
