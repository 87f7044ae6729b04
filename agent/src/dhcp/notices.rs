//! What a person should know about machines that are not served as they wish: told once, counted from then on.

use std::collections::BTreeMap;

use pureboot_protocol::{Mac, Timestamp};
use serde::{Deserialize, Serialize};

/// How many are remembered; the one that has not happened again for longest goes first.
pub const NOTICES_MAX: usize = 64;

/// How many are news within [`NEWS_WINDOW_S`]; whoever makes up addresses fills no log.
const NEWS_MAX: usize = 10;
const NEWS_WINDOW_S: i64 = 60;

/// What it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeKind {
    /// There is nothing that firmware of this architecture could start.
    Unserved,
    /// The site serves no loader for this architecture.
    NoLoader,
    /// The operator's settings refuse the machine.
    RefusedByOperator,
    /// The machine came back from the same loader again and again.
    Loop,
    /// An answer could not be sent.
    Unsent,
}

/// Something that happened to a machine, once or often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// The machine.
    pub mac: Mac,
    /// What it is about.
    pub kind: NoticeKind,
    /// A sentence for people, as of the last time.
    pub text: String,
    /// When it happened first.
    pub since: Timestamp,
    /// When it happened last.
    pub last_at: Timestamp,
    /// How often it has happened.
    pub count: u64,
}

/// The notices of a site since the agent's start.
#[derive(Debug, Default)]
pub struct Notices {
    notices: BTreeMap<(Mac, NoticeKind), Notice>,
    /// When the last ones were news, at most [`NEWS_MAX`].
    news: Vec<Timestamp>,
}

impl Notices {
    /// Takes note; answers whether a person should be told now.
    pub fn note(&mut self, mac: Mac, kind: NoticeKind, text: String, now: Timestamp) -> bool {
        if let Some(notice) = self.notices.get_mut(&(mac, kind)) {
            notice.text = text;
            notice.last_at = now;
            notice.count = notice.count.saturating_add(1);
            return false;
        }
        if self.notices.len() >= NOTICES_MAX {
            let oldest = self.notices.iter().min_by_key(|(_, notice)| notice.last_at);
            if let Some(key) = oldest.map(|(key, _)| *key) {
                self.notices.remove(&key);
            }
        }
        let notice = Notice { mac, kind, text, since: now, last_at: now, count: 1 };
        self.notices.insert((mac, kind), notice);
        // A clock that jumped back makes no news old for ever.
        self.news.retain(|at| (0..NEWS_WINDOW_S).contains(&now.seconds_since(*at)));
        let is_news = self.news.len() < NEWS_MAX;
        if is_news {
            self.news.push(now);
        }
        is_news
    }

    /// All of them, the latest first.
    pub fn entries(&self) -> Vec<Notice> {
        let mut entries: Vec<_> = self.notices.values().cloned().collect();
        entries.sort_by_key(|notice| std::cmp::Reverse(notice.last_at));
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(n: usize) -> Mac {
        let [.., high, low] = n.to_be_bytes();
        Mac::from_bytes([0x52, 0x54, 0, 0, high, low]).expect("unicast")
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_unix_ms(second * 1_000)
    }

    #[test]
    fn what_repeats_is_told_once_and_counted() {
        let mut notices = Notices::default();
        let mut note = |kind, second| notices.note(mac(1), kind, "text".to_owned(), at(second));
        assert!(note(NoticeKind::Loop, 0));
        assert!(!note(NoticeKind::Loop, 500));
        assert!(note(NoticeKind::Unserved, 501));
        let entries = notices.entries();
        assert_eq!(entries.iter().map(|notice| notice.count).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(entries.last().map(|n| (n.since, n.last_at)), Some((at(0), at(500))));
    }

    #[test]
    fn made_up_addresses_fill_neither_memory_nor_log() {
        let mut notices = Notices::default();
        let mut note =
            |n, second| notices.note(mac(n), NoticeKind::Unserved, String::new(), at(second));
        assert_eq!((0..1_000).filter(|n| note(*n, 0)).count(), NEWS_MAX);
        assert!(note(2_000, NEWS_WINDOW_S));
        assert_eq!(notices.entries().len(), NOTICES_MAX);
    }
}
