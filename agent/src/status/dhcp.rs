//! What `status` tells of ProxyDHCP: lessons and machines that are not served as they wish.

use serde::{Deserialize, Serialize};

use crate::dhcp::lessons::Kept;
use crate::dhcp::notices::Notice;

/// How many of each a person is shown; `--json` has all.
const SHOWN_MAX: usize = 8;

/// ProxyDHCP as `status` tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DhcpReport {
    /// What machines have taught about their firmware, oldest first.
    pub lessons: Vec<Kept>,
    /// Machines that are not served as they wish, since the agent's start, the latest first.
    pub notices: Vec<Notice>,
}

impl DhcpReport {
    /// The rows for a person: a name and a value.
    pub(super) fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = Vec::new();
        let lessons = self.lessons.iter().rev();
        rows.extend(
            lessons
                .take(SHOWN_MAX)
                .map(|kept| ("lesson", format!("{}, since {}", kept.lesson, kept.since))),
        );
        rows.extend(more("lesson", self.lessons.len()));
        rows.extend(self.notices.iter().take(SHOWN_MAX).map(|notice| {
            let Notice { mac, text, since, last_at, count, .. } = notice;
            let times = match count {
                1 => format!("at {since}"),
                _ => format!("{count} times since {since}, last at {last_at}"),
            };
            ("notice", format!("{mac}: {text}, {times}"))
        }));
        rows.extend(more("notice", self.notices.len()));
        rows
    }
}

fn more(name: &'static str, len: usize) -> Option<(&'static str, String)> {
    let hidden = len.saturating_sub(SHOWN_MAX);
    (hidden > 0).then(|| (name, format!("and {hidden} more (--json has all)")))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use expect_test::expect;
    use pureboot_protocol::{Mac, Timestamp};

    use super::*;
    use crate::dhcp::notices::NoticeKind;
    use crate::dhcp::quirks::{Lesson, OfferMode, Proof};

    #[test]
    fn a_person_reads_what_was_learned_and_who_is_not_served() {
        let mac: Mac = "52:54:00:12:34:56".parse().expect("an address");
        let at = |second: i64| Timestamp::from_unix_ms(second * 1_000);
        let kept = |proof| Kept {
            lesson: Lesson { mac, mode: OfferMode::BootServer, proof },
            since: at(0),
        };
        let notice = |count| Notice {
            mac,
            kind: NoticeKind::Unserved,
            text: "there is no loader for Itanium (architecture 0x0002)".to_owned(),
            since: at(60),
            last_at: at(90),
            count,
        };
        let report = DhcpReport {
            lessons: vec![kept(Proof::Worked), kept(Proof::Untried)],
            notices: [vec![notice(1), notice(3)], vec![notice(1); 8]].concat(),
        };
        let mut text = String::new();
        for (name, value) in report.rows() {
            _ = writeln!(text, "{name} {value}");
        }
        let lines: Vec<_> = text.lines().collect();
        let few = [&lines[..4], &lines[lines.len() - 1..]].concat().join("\n");
        expect![[r#"
            lesson 52:54:00:12:34:56 ignored two offers and gets them without option 43 (the file is asked for at port 4011) from now on, since 1970-01-01T00:00:00.000Z
            lesson 52:54:00:12:34:56 boots by offers without option 43 (the file is asked for at port 4011), since 1970-01-01T00:00:00.000Z
            notice 52:54:00:12:34:56: there is no loader for Itanium (architecture 0x0002), at 1970-01-01T00:01:00.000Z
            notice 52:54:00:12:34:56: there is no loader for Itanium (architecture 0x0002), 3 times since 1970-01-01T00:01:00.000Z, last at 1970-01-01T00:01:30.000Z
            notice and 2 more (--json has all)"#]]
        .assert_eq(&few);
    }
}
