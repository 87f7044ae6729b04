//! The doctor's memory of recent boots, from what ProxyDHCP tells: the one place where events become [`Step`]s.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use dhcproto::v4::{MessageType, SERVER_PORT};
use pureboot_protocol::{Mac, Timestamp};

use super::trace::{Step, Trace};
use crate::clock;
use crate::dhcp::answer::{Boot, Destination, IpxeSign, Reason};
use crate::dhcp::serve::{Event, Observer};

/// How many machines are remembered; the one that has been silent for longest goes first.
const MACHINES_MAX: usize = 64;

/// How many steps of each; the earliest goes first.
const STEPS_MAX: usize = 32;

/// After so much silence the next step is of another boot, in seconds.
const BOOT_GAP_S: i64 = 300;

/// The machines that booted lately.
#[derive(Debug, Default)]
pub struct Recent(BTreeMap<Mac, VecDeque<(Timestamp, Step)>>);

impl Recent {
    /// Takes note of what a machine was seen doing.
    pub fn note(&mut self, mac: Mac, step: Step, now: Timestamp) {
        if self.0.len() >= MACHINES_MAX && !self.0.contains_key(&mac) {
            let last_seen = |steps: &VecDeque<(Timestamp, Step)>| steps.back().map(|(at, _)| *at);
            let oldest = self.0.iter().min_by_key(|(_, steps)| last_seen(steps));
            if let Some(oldest) = oldest.map(|(mac, _)| *mac) {
                self.0.remove(&oldest);
            }
        }
        let steps = self.0.entry(mac).or_default();
        if steps.back().is_some_and(|(at, _)| now.seconds_since(*at) >= BOOT_GAP_S) {
            steps.clear();
        }
        if steps.len() >= STEPS_MAX {
            steps.pop_front();
        }
        steps.push_back((now, step));
    }

    /// What the diagnosis reads.
    pub fn traces(&self) -> Vec<Trace> {
        let trace = |(mac, steps): (&Mac, &VecDeque<_>)| Trace {
            mac: *mac,
            steps: steps.iter().cloned().collect(),
        };
        self.0.iter().map(trace).collect()
    }
}

/// Hears of events for [`Recent`].
#[derive(Debug)]
pub struct Watch(pub Rc<RefCell<Recent>>);

impl Observer for Watch {
    fn observe(&mut self, event: &Event<'_>) {
        if let Some((mac, step)) = step(event) {
            self.0.borrow_mut().note(mac, step, clock::now());
        }
    }
}

fn step(event: &Event<'_>) -> Option<(Mac, Step)> {
    match event {
        // Only what came to port 4011 is answered where it came from.
        Event::Answered { reply, .. } if matches!(reply.destination, Destination::Source(_)) => {
            Some((reply.client.mac, Step::BootServerAsked { is_answered: true }))
        }
        Event::Answered { reply, .. } => {
            let step = match &reply.boot {
                Boot::Script(IpxeSign::Loop) => Step::LoopBroken,
                Boot::Script(_) => Step::ScriptOffered,
                Boot::Loader { mode, .. } => {
                    Step::Offered { file: reply.file.clone(), mode: *mode }
                }
            };
            Some((reply.client.mac, step))
        }
        Event::Unsent { reply, error, .. } => {
            Some((reply.client.mac, Step::Unsent { error: error.to_string() }))
        }
        Event::Silent { silence, .. } => {
            let mac = silence.client?.mac;
            let step = match &silence.reason {
                Reason::NotForUs(MessageType::Request, SERVER_PORT) => Step::LeaseAsked,
                Reason::Unserved(_) | Reason::NoLoader(_) | Reason::RefusedByOperator => {
                    Step::Refused { reason: silence.reason.to_string() }
                }
                _ => return None,
            };
            Some((mac, step))
        }
        Event::Fetched(mac) => Some((*mac, Step::Scripted)),
        Event::Learned(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_keeps_the_latest() {
        let mut recent = Recent::default();
        let mac = |n: u8| Mac::from_bytes([0x52, 0x54, 0, 0, 0, n]).expect("unicast");
        for n in 0..=64 {
            recent.note(mac(n), Step::LeaseAsked, Timestamp::from_unix_ms(n.into()));
        }
        assert_eq!(recent.traces().len(), MACHINES_MAX);
        assert!(recent.traces().iter().all(|trace| trace.mac != mac(0)));
        for n in 0..100 {
            recent.note(mac(9), Step::Scripted, Timestamp::from_unix_ms(100 + n));
        }
        let traces = recent.traces();
        let steps = &traces.iter().find(|trace| trace.mac == mac(9)).expect("known").steps;
        assert_eq!(steps.len(), STEPS_MAX);
        assert_eq!(steps.last().map(|(at, _)| at.unix_ms()), Some(199));
        recent.note(mac(9), Step::LeaseAsked, Timestamp::from_unix_ms(199 + BOOT_GAP_S * 1_000));
        let traces = recent.traces();
        let steps = &traces.iter().find(|trace| trace.mac == mac(9)).expect("known").steps;
        assert_eq!(steps.len(), 1, "another boot");
    }
}
