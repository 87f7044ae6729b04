//! What happened to a machine in the last two minutes: how often it was answered and what it was offered.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use pureboot_protocol::Mac;

use super::loaders::LoaderKind;

/// How many machines are remembered; the one that has been silent for longest goes first.
const MACHINES_MAX: usize = 4_096;
/// A machine that was offered the same loader this often within [`LOOP_WINDOW`] runs a loader that asks like firmware.
const LOOP_STARTS: usize = 3;
/// Under SeaBIOS iPXE was seen to come back every 20 s; three times within a minute would just miss it.
const LOOP_WINDOW: Duration = Duration::from_secs(120);
/// A request that says more is a repetition: firmware asks again after 4 s.
const FRESH_SECS_MAX: u16 = 3;
/// Requests of one machine that are answered at once, and the time after which one more is.
const BURST: u32 = 10;
const REFILL: Duration = Duration::from_millis(500);

/// A loader that a machine was offered.
#[derive(Debug, Clone, Copy)]
struct Start {
    xid: u32,
    loader: LoaderKind,
    at: Instant,
}

#[derive(Debug)]
struct Machine {
    last_seen: Instant,
    /// Answers that may be given; each costs one, and one comes back every [`REFILL`].
    tokens: u32,
    refilled_at: Instant,
    /// At most [`LOOP_STARTS`], the newest last.
    starts: VecDeque<Start>,
    /// Whether the machine has gone on since its last DISCOVER, so that the next one is no repetition even if it has the same
    /// transaction: iPXE may draw the same number each time that it is loaded.
    has_gone_on: bool,
    /// When firmware with a full vendor class was last offered a loader.
    firmware_at: Option<Instant>,
    /// The last DISCOVER's transaction if a loop was broken in it.
    broken_loop: Option<u32>,
}

/// The machines that asked lately.
#[derive(Debug, Default)]
pub(super) struct Recent {
    machines: BTreeMap<Mac, Machine>,
}

impl Recent {
    /// Whether a request of `mac` may be answered; counts it if so.
    pub(super) fn admit(&mut self, mac: Mac, now: Instant) -> bool {
        let machine = self.machine(mac, now);
        machine.last_seen = now;
        let elapsed = now.saturating_duration_since(machine.refilled_at);
        let refilled = u32::try_from(elapsed.as_millis() / REFILL.as_millis()).unwrap_or(BURST);
        if refilled > 0 {
            machine.tokens = machine.tokens.saturating_add(refilled).min(BURST);
            machine.refilled_at = now;
        }
        let is_admitted = machine.tokens > 0;
        machine.tokens = machine.tokens.saturating_sub(1);
        is_admitted
    }

    /// Notes that firmware was offered a loader. Only the first request of a start counts, not its repetitions.
    pub(super) fn note_start(
        &mut self,
        mac: Mac,
        loader: LoaderKind,
        (xid, secs): (u32, u16),
        is_full_class: bool,
        now: Instant,
    ) {
        let machine = self.machine(mac, now);
        if is_full_class {
            machine.firmware_at = Some(now);
        }
        let is_known = machine.starts.iter().any(|start| start.xid == xid);
        let has_gone_on = std::mem::take(&mut machine.has_gone_on);
        if !has_gone_on && (secs > FRESH_SECS_MAX || is_known) {
            return;
        }
        if machine.starts.len() >= LOOP_STARTS {
            machine.starts.pop_front();
        }
        machine.starts.push_back(Start { xid, loader, at: now });
    }

    /// Notes that a machine asked for its lease, came to port 4011 or fetched a file: its last question is answered.
    pub(super) fn note_gone_on(&mut self, mac: Mac) {
        if let Some(machine) = self.machines.get_mut(&mac) {
            machine.has_gone_on = true;
        }
    }

    /// Notes that iPXE has made itself known: the loader is no loop, however often the machine starts.
    pub(super) fn note_ipxe(&mut self, mac: Mac) {
        if let Some(machine) = self.machines.get_mut(&mac) {
            machine.starts.clear();
        }
    }

    /// Whether a machine that begins the transaction `xid` and is about to be offered `loader` has come back from it too often.
    pub(super) fn breaks_loop(
        &mut self,
        mac: Mac,
        loader: LoaderKind,
        xid: u32,
        now: Instant,
    ) -> bool {
        let machine = self.machine(mac, now);
        let may_repeat = !machine.has_gone_on;
        if may_repeat && machine.broken_loop == Some(xid) {
            return true;
        }
        let counts = |start: &&Start| {
            !(may_repeat && start.xid == xid)
                && start.loader == loader
                && now.saturating_duration_since(start.at) <= LOOP_WINDOW
        };
        let is_loop = machine.starts.iter().filter(counts).count() >= LOOP_STARTS;
        machine.broken_loop = is_loop.then_some(xid);
        if is_loop {
            // The next start is the firmware's again and gets its loader.
            machine.starts.clear();
            machine.has_gone_on = false;
        }
        is_loop
    }

    /// Whether the loop guard acted on the machine's last DISCOVER; what it asks after that may have a transaction of its own.
    pub(super) fn has_broken_loop(&self, mac: Mac) -> bool {
        self.machines.get(&mac).is_some_and(|machine| machine.broken_loop.is_some())
    }

    /// Whether firmware on this machine was offered a loader lately.
    pub(super) fn has_started(&self, mac: Mac, now: Instant) -> bool {
        let started_at = self.machines.get(&mac).and_then(|machine| machine.firmware_at);
        started_at.is_some_and(|at| now.saturating_duration_since(at) <= LOOP_WINDOW)
    }

    fn machine(&mut self, mac: Mac, now: Instant) -> &mut Machine {
        if self.machines.len() >= MACHINES_MAX && !self.machines.contains_key(&mac) {
            let oldest = self.machines.iter().min_by_key(|(_, machine)| machine.last_seen);
            if let Some(oldest) = oldest.map(|(mac, _)| *mac) {
                self.machines.remove(&oldest);
            }
        }
        self.machines.entry(mac).or_insert_with(|| Machine {
            last_seen: now,
            tokens: BURST,
            refilled_at: now,
            starts: VecDeque::with_capacity(LOOP_STARTS),
            has_gone_on: false,
            firmware_at: None,
            broken_loop: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::monotonic;

    const LOADER: LoaderKind = LoaderKind::X64;

    fn mac(n: usize) -> Mac {
        let [.., high, low] = n.to_be_bytes();
        Mac::from_bytes([0x52, 0x54, 0, 0, high, low]).expect("unicast")
    }

    /// Whether the loop guard acts on each of these requests, given as (second, xid, secs).
    fn play(requests: &[(u64, u32, u16)]) -> Vec<bool> {
        let mut recent = Recent::default();
        let start = monotonic();
        let ask = |(at, xid, secs): &(u64, u32, u16)| {
            let now = start + Duration::from_secs(*at);
            let is_loop = recent.breaks_loop(mac(1), LOADER, *xid, now);
            if !is_loop {
                recent.note_start(mac(1), LOADER, (*xid, *secs), true, now);
            }
            is_loop
        };
        requests.iter().map(ask).collect()
    }

    #[test]
    fn a_loop_is_seen_although_every_round_has_the_same_transaction() {
        let mut recent = Recent::default();
        let start = monotonic();
        let round = |recent: &mut Recent, second: u64, secs: u16| {
            let now = start + Duration::from_secs(second);
            let is_loop = recent.breaks_loop(mac(1), LOADER, 7, now);
            if !is_loop {
                recent.note_start(mac(1), LOADER, (7, secs), true, now);
            }
            is_loop
        };
        for (second, is_loop) in [(0, false), (9, false), (18, false), (27, true), (36, false)] {
            assert_eq!(round(&mut recent, second, 0), is_loop, "{second}");
            assert_eq!(round(&mut recent, second + 4, 4), is_loop, "{second}, asked again");
            recent.note_gone_on(mac(1));
        }
    }

    #[test]
    fn the_fourth_start_within_two_minutes_is_a_loop() {
        for round_s in [9, 21, 40] {
            let starts = [(0, 1, 0), (round_s, 2, 0), (2 * round_s, 3, 0), (3 * round_s, 4, 0)];
            assert_eq!(play(&starts), [false, false, false, true], "{round_s}");
        }
    }

    #[test]
    fn the_transaction_that_broke_a_loop_stays_broken_and_the_next_starts_anew() {
        let requests = [(0, 1, 0), (9, 2, 0), (18, 3, 0), (27, 4, 0), (28, 4, 1), (40, 5, 0)];
        assert_eq!(play(&requests), [false, false, false, true, true, false]);
    }

    #[test]
    fn repetitions_are_no_loop() {
        assert_eq!(play(&[(0, 1, 0), (4, 1, 4), (12, 1, 12), (28, 1, 28)]), [false; 4]);
        assert_eq!(play(&[(0, 1, 0), (4, 2, 4), (12, 3, 12), (28, 4, 28)]), [false; 4]);
        assert_eq!(play(&[(0, 1, 0), (1, 1, 1), (2, 1, 2), (3, 1, 3), (10, 2, 0)]), [false; 5]);
    }

    #[test]
    fn starts_with_another_loader_are_no_loop() {
        let mut recent = Recent::default();
        let now = monotonic();
        for xid in 0..3 {
            recent.note_start(mac(1), LOADER, (xid, 0), true, now);
        }
        assert!(!recent.breaks_loop(mac(1), LoaderKind::Bios, 3, now));
        assert!(recent.breaks_loop(mac(1), LOADER, 3, now));
    }

    #[test]
    fn slow_restarts_are_no_loop() {
        assert_eq!(play(&[(0, 1, 0), (41, 2, 0), (82, 3, 0), (123, 4, 0)]), [false; 4]);
    }

    #[test]
    fn one_machine_cannot_take_all_answers() {
        let mut recent = Recent::default();
        let start = monotonic();
        let admitted = (0..100).filter(|_| recent.admit(mac(1), start)).count();
        assert_eq!(admitted, 10);
        assert!(recent.admit(mac(2), start));
        assert!(!recent.admit(mac(1), start + REFILL / 2));
        assert!(recent.admit(mac(1), start + REFILL));
        assert!(!recent.admit(mac(1), start + REFILL));
    }

    #[test]
    fn a_flood_of_addresses_costs_bounded_memory() {
        let mut recent = Recent::default();
        let start = monotonic();
        for n in 0..MACHINES_MAX + 10 {
            recent.admit(mac(n), start + Duration::from_millis(n as u64));
        }
        assert_eq!(recent.machines.len(), MACHINES_MAX);
        assert!(!recent.machines.contains_key(&mac(0)));
    }
}
