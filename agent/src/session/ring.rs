//! The last sessions, and which of them an observation belongs to. Without I/O: time and chance come in.
//!
//! DHCP knows a machine's hardware address, TFTP and the first HTTP requests know where they come from, a script's URLs know the
//! session, and the question for the script knows all three. `join.rs` holds the rules.

mod duty;
mod join;
mod live;
mod room;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use pureboot_protocol::{BootId, Mac, Timestamp};

use self::join::{Rule, Seen};
use self::live::{Live, millis, reached, short};
use self::room::Room;
pub use self::room::{ASKING_BYTES_MAX, ASKING_MAX, BYTES_MAX, SESSIONS_MAX};
use super::step::{Answer, Ending, Phase, Session, Transfer, What};

/// How many sessions may be one machine's, so that one that boots over and over does not push out the others.
pub const SESSIONS_PER_MACHINE_MAX: usize = 100;
/// How many steps of a session are kept; what is too much goes from the middle.
pub const STEPS_MAX: usize = 64;
/// The longest text of a step, in bytes.
pub const TEXT_LEN_MAX: usize = 255;
/// How many names of programs a session keeps, and how much of each, in bytes: firmware, loader, kernel and installer have one each.
pub const USER_AGENTS_MAX: usize = 4;
/// The longest of them.
pub const USER_AGENT_LEN_MAX: usize = 64;
/// How long a session that does not come to rest may go without being written down.
const UNSAVED_MAX: Duration = Duration::from_secs(300);
/// How long it may go without being told to the controller, where a machine that went on looks stuck until then.
const UNTOLD_MAX: Duration = Duration::from_secs(60);
/// How long ago a session of an earlier run may have begun to be told to the controller again: which it was told is not kept.
const RETOLD: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Whose something is, as far as the one who saw it can tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Who {
    /// The session that a URL named.
    pub boot: Option<BootId>,
    /// The machine.
    pub mac: Option<Mac>,
    /// Where it is.
    pub address: Option<IpAddr>,
}

/// When something was seen: for the record, and for measuring.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The wall clock.
    pub at: Timestamp,
    /// The monotonic clock.
    pub now: Instant,
}

/// Where a step is found again when it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StepId {
    /// The session.
    pub session: BootId,
    number: u32,
}

/// The last sessions.
#[derive(Debug, Default)]
pub struct Sessions {
    /// By age; those from before the start have negative numbers.
    ring: BTreeMap<i64, Live>,
    next: i64,
    ids: HashMap<BootId, i64>,
    /// The latest of each machine, and at each address.
    machines: HashMap<Mac, i64>,
    addresses: HashMap<IpAddr, i64>,
    room: Room,
    revision: u64,
}

impl Sessions {
    /// Takes up what was seen, in the session that it belongs to; `draw` makes the id of a new one. None if it belongs to no
    /// session and begins none.
    pub fn observe(
        &mut self,
        who: &Who,
        what: What,
        moment: Moment,
        draw: impl FnOnce() -> BootId,
    ) -> Option<StepId> {
        let found = self.find(who);
        let current = found.and_then(|age| self.ring.get(&age));
        let seen = Seen { who, what: &what, now: moment.now };
        let age = match join::rule(current, &seen) {
            Rule::Join => found?,
            Rule::Begin if !self.may_begin(found, &what, moment.now) => return None,
            Rule::Begin => self.begin(self.new_id(who, &what).unwrap_or_else(draw), moment),
            Rule::Ignore => return None,
        };
        self.bind(age, who);
        let step = self.add(age, what, moment);
        self.make_room(age);
        step
    }

    /// A transfer is over; `sent_bytes` were taken.
    pub fn end_transfer(&mut self, id: StepId, ending: Ending, sent_bytes: u64, moment: Moment) {
        self.change(id, moment, |what| {
            if let What::Transfer(transfer) = what {
                transfer.ending = Some(ending);
                transfer.sent_bytes = transfer.sent_bytes.saturating_add(sent_bytes);
            }
        });
    }

    /// A machine gets the answer to its question.
    pub fn answer(&mut self, id: StepId, answer: Answer, moment: Moment) {
        let answer = Answer { because: short(&answer.because), ..answer };
        self.change(id, moment, |what| {
            if let What::Script { answer: given } = what {
                *given = Some(answer);
            }
        });
    }

    /// A program of the machine has said over HTTP what it is called.
    pub fn note_user_agent(&mut self, who: &Who, agent: &str, moment: Moment) {
        let Some(live) = self.find(who).and_then(|age| self.ring.get_mut(&age)) else { return };
        if live.learn_user_agent(agent) {
            self.revision += 1;
            live.touch(self.revision, moment.now);
            self.room.count(live);
        }
    }

    /// What the programs of a machine called themselves in the last session in which one of them said it.
    pub fn user_agents_of(&self, mac: Mac) -> &[Box<str>] {
        let sessions = self.ring.values().rev().map(|live| &live.session);
        let mut of_machine = sessions.filter(|session| session.mac == Some(mac));
        let last = of_machine.find(|session| !session.user_agents.is_empty());
        last.map_or(&[], |session| &session.user_agents)
    }

    /// Whether a session has asked for a file by a name for which `is` says yes, found or not.
    pub fn has_asked_for(&self, id: BootId, is: impl Fn(&str) -> bool) -> bool {
        let live = self.ids.get(&id).and_then(|age| self.ring.get(age));
        live.into_iter().flat_map(|live| &live.session.steps).any(|step| match &step.what {
            What::Transfer(Transfer { name, .. }) | What::Missing { name, .. } => is(name),
            _ => false,
        })
    }

    /// The machine that a session is of, if the session is here; the inner none: nothing has named it yet.
    pub fn machine_of(&self, id: BootId) -> Option<Option<Mac>> {
        self.ids.get(&id).and_then(|age| self.ring.get(age)).map(|live| live.session.mac)
    }

    /// Counts the changes so far.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// How many sessions there are.
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// All sessions, the newest first, with the revision that each was changed in.
    pub fn newest_first(&self) -> impl Iterator<Item = (&Session, u64)> {
        self.ring.values().rev().map(|live| (&live.session, live.changed))
    }

    /// What is to be written down now; it then counts as written.
    pub fn take_unsaved(&mut self, now: Instant) -> Vec<Session> {
        // A single packet explains nothing, and whoever makes them up would turn over the whole journal.
        let live = self.ring.values_mut().filter(|live| !live.is_glimpse());
        let due = live.filter_map(|live| {
            live.saving.take(live.last, now, UNSAVED_MAX).then_some(&live.session)
        });
        due.cloned().collect()
    }

    /// What is not written down yet, at the end of the agent.
    pub fn take_all_unsaved(&mut self) -> Vec<Session> {
        let live = self.ring.values_mut();
        live.filter_map(|live| live.saving.take_always().then(|| live.session.clone())).collect()
    }

    /// These could not be written down after all.
    pub fn put_back_unsaved(&mut self, sessions: &[Session], now: Instant) {
        for session in sessions {
            let age = self.ids.get(&session.id);
            if let Some(live) = age.and_then(|age| self.ring.get_mut(age)) {
                live.saving.owe(now);
            }
        }
    }

    /// At most `max` sessions that are to be told to the controller now, oldest first; they then count as told.
    pub fn take_untold(&mut self, max: usize, now: Instant) -> Vec<Session> {
        let live = self.ring.values_mut().filter(|live| !live.is_glimpse());
        let due = live.filter_map(|live| {
            live.telling.take(live.last, now, UNTOLD_MAX).then_some(&live.session)
        });
        due.take(max).cloned().collect()
    }

    /// These could not be told after all.
    pub fn put_back_untold(&mut self, sessions: &[Session], now: Instant) {
        for session in sessions {
            let age = self.ids.get(&session.id);
            if let Some(live) = age.and_then(|age| self.ring.get_mut(age)) {
                live.telling.put_back(now);
            }
        }
    }

    /// Takes up sessions of an earlier run, oldest first. One that is here already is left as it is.
    pub fn restore(&mut self, sessions: Vec<Session>, moment: Moment) {
        for session in sessions.into_iter().rev() {
            if self.ids.contains_key(&session.id) {
                continue;
            }
            let oldest = self.ring.keys().next().map_or(0, |age| (*age).min(0));
            let age = oldest - 1;
            let mut live = Live::restored(session, moment);
            if !self.room.has_room_for(&live) {
                continue;
            }
            self.room.count(&mut live);
            let session = &live.session;
            self.ids.insert(session.id, age);
            if let Some(mac) = session.mac {
                self.machines.entry(mac).or_insert(age);
            }
            if let Some(address) = session.address {
                self.addresses.entry(address).or_insert(age);
            }
            self.ring.insert(age, live);
        }
        self.revision += 1;
    }

    /// The session that an observation may belong to: the one that it names, else the latest of its machine or at its address.
    fn find(&self, who: &Who) -> Option<i64> {
        let fits = |age: &&i64| {
            let mac = self.ring.get(age).and_then(|live| live.session.mac);
            mac.is_none() || who.mac.is_none() || mac == who.mac
        };
        let named = who.boot.and_then(|boot| self.ids.get(&boot)).filter(fits);
        let of_machine = who.mac.and_then(|mac| self.machines.get(&mac));
        let there = who.address.and_then(|address| self.addresses.get(&address)).filter(fits);
        named.or(of_machine.max(there)).copied()
    }

    /// The id that a new session has to have: a machine may name one that was forgotten here, and that the store knows.
    fn new_id(&self, who: &Who, what: &What) -> Option<BootId> {
        let is_vouched = matches!(what, What::Script { .. } | What::Reported { .. });
        who.boot.filter(|boot| is_vouched && !self.ids.contains_key(boot))
    }

    fn begin(&mut self, id: BootId, moment: Moment) -> i64 {
        let age = self.next;
        self.next += 1;
        self.ids.insert(id, age);
        self.ring.insert(age, Live::new(id, moment));
        age
    }

    /// Learns whose the session is and where.
    fn bind(&mut self, age: i64, who: &Who) {
        let Some(live) = self.ring.get_mut(&age) else { return };
        let is_named_now = live.session.mac.is_none() && who.mac.is_some();
        live.session.mac = live.session.mac.or(who.mac);
        live.session.address = who.address.or(live.session.address);
        if let Some(address) = who.address {
            self.addresses.insert(address, age);
        }
        if let Some(mac) = who.mac.filter(|_| is_named_now) {
            let before = self.machines.insert(mac, age);
            if let Some(before) = before.filter(|before| *before < age) {
                self.absorb(age, before);
            }
            self.limit_machine(mac);
        }
    }

    /// The machine of a session that began without a name is found out, and it has asked by DHCP just before: that was the
    /// beginning of the same boot.
    fn absorb(&mut self, age: i64, before: i64) {
        let is_beginning = |first: &Live, second: &Live| {
            first.session.reached == Phase::Asking
                && second.began.saturating_duration_since(first.last) <= join::RETRY_GAP
        };
        let fits = match (self.ring.get(&before), self.ring.get(&age)) {
            (Some(first), Some(second)) => is_beginning(first, second),
            _ => false,
        };
        if !fits {
            return;
        }
        let Some(first) = self.forget(before) else { return };
        let Some(live) = self.ring.get_mut(&age) else { return };
        let later_ms = millis(live.began.saturating_duration_since(first.began));
        live.began = first.began;
        live.asked = live.asked.or(first.asked);
        live.session.started_at = first.session.started_at;
        // Whoever holds the number of a later step must find it again, so the earlier ones get what is left.
        let count = u32::try_from(first.session.steps.len()).unwrap_or(u32::MAX);
        let mut steps = first.session.steps;
        for step in &mut live.session.steps {
            step.at_ms = step.at_ms.saturating_add(later_ms);
        }
        for (number, step) in
            (live.next_number..live.next_number.saturating_add(count)).zip(&mut steps)
        {
            step.number = number;
        }
        live.next_number = live.next_number.saturating_add(count);
        steps.append(&mut live.session.steps);
        live.session.steps = steps;
        live.fold();
    }

    fn add(&mut self, age: i64, what: What, moment: Moment) -> Option<StepId> {
        self.revision += 1;
        let live = self.ring.get_mut(&age)?;
        let number = live.add(what, moment);
        live.touch(self.revision, moment.now);
        self.room.count(live);
        Some(StepId { session: live.session.id, number })
    }

    /// Changes a step that is over with it.
    fn change(&mut self, id: StepId, moment: Moment, change: impl FnOnce(&mut What)) {
        let Some(live) = self.ids.get(&id.session).and_then(|age| self.ring.get_mut(age)) else {
            return;
        };
        if live.end(id.number, moment.now, change) {
            self.revision += 1;
            live.touch(self.revision, moment.now);
            self.room.count(live);
        }
    }

    /// Whether a machine, whose latest session is `found`, may begin another one by `what`.
    fn may_begin(&mut self, found: Option<i64>, what: &What, now: Instant) -> bool {
        let before = found.and_then(|age| self.ring.get(&age));
        let is_known = before.is_some_and(|live| !live.is_glimpse());
        is_known || reached(what, Phase::Asking) > Phase::Asking || self.room.admit(now)
    }

    /// Forgets what is too much; never the session `current`.
    fn make_room(&mut self, current: i64) {
        let surplus = |sessions: &Self| {
            let all = sessions.ring.iter().map(|(age, live)| (*age, live));
            sessions.room.surplus(all.filter(|(age, _)| *age != current))
        };
        while let Some(age) = surplus(self) {
            self.forget(age);
        }
    }

    fn limit_machine(&mut self, mac: Mac) {
        let of_machine = self.ring.iter().filter(|(_, live)| live.session.mac == Some(mac));
        let ages: Vec<_> = of_machine.map(|(age, _)| *age).collect();
        let surplus = ages.len().saturating_sub(SESSIONS_PER_MACHINE_MAX);
        for age in ages.into_iter().take(surplus) {
            self.forget(age);
        }
    }

    fn forget(&mut self, age: i64) -> Option<Live> {
        let mut live = self.ring.remove(&age)?;
        self.room.discount(&mut live);
        self.ids.remove(&live.session.id);
        self.machines.retain(|_, latest| *latest != age);
        self.addresses.retain(|_, latest| *latest != age);
        Some(live)
    }
}

#[cfg(test)]
pub(crate) mod tests;
