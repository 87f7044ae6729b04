//! A ring that is told what happened by a script.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use pureboot_protocol::{BootId, HardwareFact, Mac, Timestamp};

use super::super::{Moment, Sessions, StepId, Who};
use crate::boot::decide::Mode;
use crate::session::render::BootView;
use crate::session::step::{
    Answer, Boots, Ending, Gives, Offer, Protocol, Role, Session, Transfer, What,
};

/// Machines by letter.
fn mac(letter: &str) -> Mac {
    let last = letter.as_bytes()[0] - b'A';
    format!("52:54:00:00:00:{last:02x}").parse().unwrap()
}

/// Sessions by number, in the order in which their ids are drawn.
fn boot(number: u8) -> BootId {
    BootId::from_random([number; 16])
}

/// Addresses by their last number.
fn address(last: &str) -> IpAddr {
    format!("10.0.0.{last}").parse().unwrap()
}

/// A ring that is told what a script says, line by line: milliseconds, verb, operands.
pub(crate) struct Bench {
    pub(super) sessions: Sessions,
    start: Instant,
    drawn: u8,
    asked: Option<StepId>,
    /// Transfers that were begun, by where they go and what they are.
    open: HashMap<String, StepId>,
    pub(super) now_ms: u64,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let start = crate::clock::monotonic();
        Self {
            sessions: Sessions::default(),
            start,
            drawn: 0,
            asked: None,
            open: HashMap::new(),
            now_ms: 0,
        }
    }

    pub(crate) fn moment(&self) -> Moment {
        let at = Timestamp::from_unix_ms(1_700_000_000_000 + i64::try_from(self.now_ms).unwrap());
        Moment { at, now: self.start + Duration::from_millis(self.now_ms) }
    }

    fn observe(&mut self, who: Who, what: What) -> Option<StepId> {
        let (moment, drawn) = (self.moment(), &mut self.drawn);
        self.sessions.observe(&who, what, moment, || {
            *drawn += 1;
            boot(*drawn)
        })
    }

    pub(crate) fn obey(&mut self, line: &str) {
        let words: Vec<_> = line.split_whitespace().collect();
        let (ms, rest) = words.split_first().unwrap();
        self.now_ms = ms.parse().unwrap();
        let named = |word: &str| word.strip_prefix('#').map(|number| boot(number.parse().unwrap()));
        // `A`, `5` or `#1`: a machine, an address, a session.
        let who = |word: &str| match (named(word), word.parse::<u8>()) {
            (Some(id), _) => Who { boot: Some(id), ..Who::default() },
            (None, Ok(_)) => Who { address: Some(address(word)), ..Who::default() },
            (None, Err(_)) => Who { mac: Some(mac(word)), ..Who::default() },
        };
        match rest {
            ["dhcp", machine, xid, kind, file @ ..] => {
                let (port, boots, usual) = match *kind {
                    "loader" => (67, Boots::Loader, "x64.efi"),
                    "loader4011" => (67, Boots::LoaderByBootServer, "x64.efi"),
                    "ack4011" => (4011, Boots::LoaderByBootServer, "x64.efi"),
                    "loop" => (67, Boots::ScriptByLoopGuard, "http://10.0.0.1:8080/boot.ipxe"),
                    _ => (67, Boots::Script, "http://10.0.0.1:8080/boot.ipxe"),
                };
                let xid = xid.parse().unwrap();
                let file = file.first().copied().unwrap_or(usual);
                let (file, how) = (file.into(), "test".into());
                self.observe(
                    who(machine),
                    What::Offered(Offer { xid, port, arch: Some(7), boots, file, how }),
                );
            }
            ["refuse", machine, xid, port @ ..] => {
                let port = port.first().map_or(67, |port| port.parse().unwrap());
                let xid = xid.parse().unwrap();
                self.observe(who(machine), What::Refused { xid, port, reason: "PC98".into() });
            }
            ["unsent", machine, xid] => {
                let (xid, error) = (xid.parse().unwrap(), "Network is unreachable".into());
                self.observe(who(machine), What::Unsent { xid, error });
            }
            ["lease", machine, xid, wanted] => {
                let IpAddr::V4(wanted) = address(wanted) else { panic!("an IPv4 address") };
                let who = Who { address: Some(wanted.into()), ..who(machine) };
                self.observe(who, What::Leased { xid: xid.parse().unwrap(), wanted: Some(wanted) });
            }
            [
                "tftp" | "http",
                from,
                name,
                ending @ ("begins" | "whole" | "probe" | "cut" | "part" | "silent" | "unread"),
                took,
                bytes @ ..,
            ] => {
                let role = match *name {
                    "autoexec.ipxe" => Role::FirstScript,
                    _ if name.starts_with("images/") => Role::Content,
                    _ => Role::Loader,
                };
                let by = if rest[0] == "tftp" { Protocol::Tftp } else { Protocol::Http };
                let bytes = bytes.first().map_or(1_000, |bytes| bytes.parse().unwrap());
                let transfer = Transfer::new(by, role, name, Some(bytes.max(2_000)));
                let id = self.observe(who(from), What::Transfer(transfer));
                let ending = match *ending {
                    "begins" => {
                        self.open.extend(id.map(|id| (format!("{from} {name}"), id)));
                        return;
                    }
                    "whole" => Ending::Whole,
                    "probe" => Ending::Probe,
                    "part" => Ending::Part,
                    "silent" => Ending::Silent,
                    "unread" => Ending::Unread,
                    _ => Ending::Cut,
                };
                self.now_ms += took.parse::<u64>().unwrap();
                if let Some(id) = id {
                    self.sessions.end_transfer(id, ending, bytes, self.moment());
                }
            }
            ["ends", from, name] => {
                let (id, moment) = (self.open[&format!("{from} {name}")], self.moment());
                self.sessions.end_transfer(id, Ending::Whole, 1_000, moment);
            }
            ["missing", from, name, by @ ..] => {
                let by = if by == ["http"] { Protocol::Http } else { Protocol::Tftp };
                self.observe(who(from), What::Missing { by, name: (*name).into() });
            }
            ["ask", machine, from, rest @ ..] => {
                let who = Who {
                    boot: rest.first().and_then(|word| named(word)),
                    mac: Some(mac(machine)),
                    address: Some(address(from)),
                };
                self.asked = self.observe(who, What::Script { answer: None });
            }
            ["told", gives] => {
                let gives = match *gives {
                    "installer" => Gives::Installer,
                    "wait" => Gives::Wait,
                    "error" => Gives::Error,
                    _ => Gives::Disk,
                };
                let answer = Answer { gives, mode: Mode::Online, because: "so".into() };
                self.sessions.answer(self.asked.unwrap(), answer, self.moment());
            }
            ["report", session, machine, event] => {
                let who = Who { mac: Some(mac(machine)), ..who(session) };
                let what = What::Reported {
                    event: event.parse().unwrap(),
                    progress: None,
                    message: HardwareFact::new("a word"),
                };
                self.observe(who, what);
            }
            ["restart"] => {
                let saved = self.sessions.take_all_unsaved();
                self.sessions = Sessions::default();
                self.sessions.restore(saved, self.moment());
            }
            ["now"] => {}
            _ => panic!("no such line: {line}"),
        }
    }

    /// All sessions, the newest first.
    pub(crate) fn sessions(&self) -> Vec<&Session> {
        self.sessions.newest_first().map(|(session, _)| session).collect()
    }

    pub(super) fn tell(&self) -> String {
        let views = self.sessions.ring.values().map(|live| {
            let view = BootView::new(live.session.clone(), None, self.moment().at);
            let number = (1..=self.drawn.max(99)).find(|number| boot(*number) == live.session.id);
            let text = view.render();
            let (_, steps) = text.split_once("boot session ").unwrap();
            let (_, steps) = steps.split_once('\n').unwrap();
            let header = view
                .header()
                .replace("2023-11-14T22:1", "")
                .replace(&live.session.id.to_string(), "?");
            format!("#{} {header}\n{steps}", number.unwrap())
        });
        views.collect()
    }
}
