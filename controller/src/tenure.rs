//! Which of two machines under one identity is listened to (FAULTS N13, A5, A17). Values in, values out.
//!
//! Each life of an agent's process has an id of its own and names the life that it follows. A life that follows the one that has the
//! floor is a restart and gets the floor at once. The one that had it until then is dead in that case, and is not heard of again; where it
//! is, two machines live, and the floor goes back to the one that had it first. A life that follows another one waits until the one that has
//! the floor has been silent for three heartbeats, or until the agent is registered anew.

use std::net::IpAddr;

use pureboot_protocol::{Instance, InstanceId, Timestamp};

/// So many heartbeats must fail to come before another machine may take over.
const SILENT_BEATS: i64 = 3;
/// What a life has sent before its end may arrive so much later, in seconds; agents wait no longer for any answer.
const LATE_S: i64 = 10;

/// Who has the floor under an agent's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tenure {
    /// Whom the controller listens to; none before anybody has said who it is.
    pub(crate) holder: Option<InstanceId>,
    /// The life that it follows by its own word.
    pub(crate) succeeds: Option<InstanceId>,
    /// The life that gave way to it.
    pub(crate) former: Option<InstanceId>,
    /// The life that was refused last. It stays refused for as long as another one is heard of.
    pub(crate) rival: Option<InstanceId>,
    /// Since when it has the floor.
    pub(crate) since: Timestamp,
    /// When it was heard of last.
    pub(crate) seen_at: Timestamp,
    /// Seconds between its heartbeats.
    pub(crate) interval_s: i64,
}

/// What becomes of who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is listened to, and nothing changes.
    Pass,
    /// It is listened to from now on.
    Takes(Tenure),
    /// It had the floor first and has it again; the one that had taken it from it is a copy.
    Returns(Tenure),
    /// It is too late by a moment: what a life that has ended had sent.
    Late,
    /// It is not listened to.
    Refused,
}

impl Tenure {
    /// What becomes of a call of `claim` at `now`; none names no life.
    pub(crate) fn judge(&self, claim: Option<Instance>, now: Timestamp) -> Verdict {
        let is_silent =
            now.seconds_since(self.seen_at.max(self.since)) >= SILENT_BEATS * self.interval_s;
        let (holder, claim) = match (self.holder, claim) {
            (None, None) => return Verdict::Pass,
            (None, Some(claim)) => return Verdict::Takes(self.given_to(claim, None, now)),
            (Some(_), None) if is_silent => return Verdict::Pass,
            (Some(_), None) => return Verdict::Refused,
            (Some(holder), Some(claim)) => (holder, claim),
        };
        // An answer may have been lost: then the life before has not noted that it was answered, and this one names the same.
        let follows = claim.succeeds.is_some_and(|it| it == holder || Some(it) == self.succeeds);
        if claim.id == holder {
            Verdict::Pass
        } else if is_silent {
            // Nobody gets the floor back from who has waited for it.
            Verdict::Takes(self.given_to(claim, None, now))
        } else if self.rival == Some(claim.id) {
            Verdict::Refused
        } else if self.former == Some(claim.id) {
            match now.seconds_since(self.since) {
                ..LATE_S => Verdict::Late,
                _ => {
                    let back = self.given_to(claim, None, now);
                    Verdict::Returns(Self { rival: Some(holder), ..back })
                }
            }
        } else if follows {
            Verdict::Takes(self.given_to(claim, Some(holder), now))
        } else {
            Verdict::Refused
        }
    }

    /// How long the one that has the floor must be silent before another machine may take over, in seconds.
    pub(crate) fn silence_s(&self) -> i64 {
        SILENT_BEATS * self.interval_s
    }

    fn given_to(&self, claim: Instance, former: Option<InstanceId>, now: Timestamp) -> Self {
        let (holder, succeeds) = (Some(claim.id), claim.succeeds);
        Self { holder, succeeds, former, since: now, seen_at: now, ..*self }
    }
}

/// A machine that is not listened to, and the one that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rival {
    /// Which life; none of a machine that names none.
    pub(crate) instance: Option<InstanceId>,
    /// From where it called.
    pub(crate) address: Option<IpAddr>,
    /// The life that has the floor.
    pub(crate) holder: Option<InstanceId>,
    /// From where that one called when it got it.
    pub(crate) holder_address: Option<IpAddr>,
    /// When it was last refused.
    pub(crate) at: Timestamp,
}

impl std::fmt::Display for Rival {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let named = |instance: Option<InstanceId>, address: Option<IpAddr>| {
            let instance = instance
                .map_or("a program that names no life".to_owned(), |it| format!("life {it}"));
            address.map_or(instance.clone(), |address| format!("{instance} at {address}"))
        };
        let (holder, rival) =
            (named(self.holder, self.holder_address), named(self.instance, self.address));
        write!(f, "{holder} has the floor and {rival} is refused")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(number: u8) -> InstanceId {
        InstanceId::from_bytes([number; 16])
    }

    fn claim(id: u8, succeeds: Option<u8>) -> Option<Instance> {
        Some(Instance { id: life(id), succeeds: succeeds.map(life) })
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_ms(0).plus_seconds(seconds)
    }

    fn nobody() -> Tenure {
        Tenure {
            holder: None,
            succeeds: None,
            former: None,
            rival: None,
            since: at(0),
            seen_at: at(0),
            interval_s: 60,
        }
    }

    /// Feeds calls `second: life[<succeeds]` and writes what becomes of them.
    fn check(calls: &[(i64, u8, Option<u8>)], expected: &str) {
        let mut tenure = nobody();
        let mut told = Vec::new();
        for (second, id, succeeds) in calls {
            let verdict = tenure.judge(claim(*id, *succeeds), at(*second));
            told.push(match verdict {
                Verdict::Pass => "passes",
                Verdict::Takes(_) => "takes",
                Verdict::Returns(_) => "returns",
                Verdict::Late => "late",
                Verdict::Refused => "refused",
            });
            match verdict {
                Verdict::Takes(next) | Verdict::Returns(next) => tenure = next,
                Verdict::Pass => tenure.seen_at = at(*second),
                Verdict::Refused => tenure.rival = Some(life(*id)),
                Verdict::Late => {}
            }
        }
        assert_eq!(told.join(" "), expected, "{calls:?}");
    }

    #[test]
    fn k21_a_restart_is_never_fenced_whatever_was_answered_before_it() {
        check(
            &[(0, 1, None), (60, 1, None), (61, 2, Some(1)), (62, 2, Some(1))],
            "takes passes takes passes",
        );
        // The first answer to life 2, and the one to life 3, never arrived: both are followed as life 1 was.
        check(
            &[(0, 1, None), (61, 2, Some(1)), (62, 3, Some(1)), (63, 4, Some(1))],
            "takes takes takes takes",
        );
        // Nor did the one to life 1, which was noted beforehand because none was before it.
        check(&[(0, 1, None), (1, 2, Some(1)), (2, 3, Some(1))], "takes takes takes");
        // Life 1 was never heard of.
        check(&[(0, 2, Some(1)), (1, 3, Some(1))], "takes takes");
        // The last packet of the life that was killed comes after the first of the next.
        check(
            &[(0, 1, None), (61, 2, Some(1)), (62, 1, None), (63, 2, Some(1))],
            "takes takes late passes",
        );
    }

    #[test]
    fn n13_of_a_machine_and_its_copy_the_copy_is_fenced() {
        // The copy says that it is a restart, until the original is heard of again.
        check(
            &[
                (0, 1, None),
                (60, 2, Some(1)),
                (65, 1, None),
                (120, 1, None),
                (125, 2, Some(1)),
                (180, 1, None),
            ],
            "takes takes late returns refused passes",
        );
        // A copy of a first life that had noted itself and nothing else.
        check(
            &[(0, 1, None), (1, 2, Some(1)), (31, 1, None), (32, 2, Some(1))],
            "takes takes returns refused",
        );
        // Neither does it help the copy to be started again, and the original may be.
        check(
            &[
                (0, 1, None),
                (60, 2, Some(1)),
                (120, 1, None),
                (130, 3, Some(2)),
                (140, 4, Some(1)),
                (150, 3, Some(2)),
            ],
            "takes takes returns refused takes refused",
        );
    }

    #[test]
    fn a5_a17_a_stranger_waits_until_the_holder_has_been_silent_for_three_beats() {
        check(
            &[(0, 1, None), (60, 9, None), (60, 9, Some(7)), (180, 9, Some(7))],
            "takes refused refused takes",
        );
        // The machine that was away finds the other one in its place, and gets it back when that is silent.
        check(
            &[(0, 1, None), (180, 9, None), (200, 1, None), (380, 1, None)],
            "takes takes refused takes",
        );
        check(&[(0, 1, None), (179, 1, None), (181, 9, None)], "takes passes refused");
    }

    #[test]
    fn a5_who_names_no_life_is_a_stranger_to_who_does() {
        assert_eq!(nobody().judge(None, at(0)), Verdict::Pass);
        let Verdict::Takes(tenure) = nobody().judge(claim(1, None), at(0)) else {
            panic!("refused")
        };
        assert_eq!(tenure.judge(None, at(10)), Verdict::Refused);
        assert_eq!(tenure.judge(None, at(180)), Verdict::Pass);
    }
}
