//! The last sessions, and which of them an observation belongs to. Without I/O: time and chance come in.
//!
//! DHCP knows a machine's hardware address, TFTP and the first HTTP requests know where they come from, a script's URLs know the
//! session, and the question for the script knows all three. `join.rs` holds the rules.

mod join;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use pureboot_protocol::{BootId, Mac, NodeEventKind, Timestamp};

use self::join::{Rule, Seen};
use super::step::{Answer, Ending, Phase, Role, Session, Step, Transfer, What};

/// How many sessions are kept.
pub const SESSIONS_MAX: usize = 1_000;
/// How many of them may be one machine's, so that one that boots over and over does not push out the others.
pub const SESSIONS_PER_MACHINE_MAX: usize = 100;
/// How many may be of machines that only asked, and pushed out first when there are more: whoever makes up addresses does not
/// push out the sessions of machines that boot.
pub const ASKING_MAX: usize = 500;
/// How many steps of a session are kept; what is too much goes from the middle.
pub const STEPS_MAX: usize = 64;
/// How many of them are its first ones, which are never folded.
pub(super) const STEPS_FIRST: usize = 16;
/// What all sessions may take, in bytes, near enough.
pub const BYTES_MAX: usize = 2 << 20;
/// The longest text of a step, in bytes.
pub const TEXT_LEN_MAX: usize = 255;
/// How long a session is left alone after its last step before it is written down: most of a boot is then one line.
const QUIET: Duration = Duration::from_secs(20);
/// How long a session that does not come to rest may go without being written down.
const UNSAVED_MAX: Duration = Duration::from_secs(300);

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

/// A session and what is needed to continue it.
#[derive(Debug)]
struct Live {
    session: Session,
    began: Instant,
    last: Instant,
    /// The last transaction by DHCP and when it was seen.
    asked: Option<(u32, Instant)>,
    next_number: u32,
    /// The revision of the ring that the last change made.
    changed: u64,
    /// Since when something of it has not been written down.
    unsaved_since: Option<Instant>,
    /// When it was last written down.
    saved_at: Option<Instant>,
    bytes: usize,
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
    bytes: usize,
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
        let due = self.take_due(|live, since| {
            let is_older = |then: Instant, limit| now.saturating_duration_since(then) >= limit;
            let is_first = live.saved_at.is_none_or(|saved| is_older(saved, UNSAVED_MAX));
            is_first && is_older(live.last, QUIET) || is_older(since, UNSAVED_MAX)
        });
        for session in &due {
            if let Some(live) = self.ids.get(&session.id).and_then(|age| self.ring.get_mut(age)) {
                live.saved_at = Some(now);
            }
        }
        due
    }

    /// What is not written down yet, at the end of the agent.
    pub fn take_all_unsaved(&mut self) -> Vec<Session> {
        self.take_due(|_, _| true)
    }

    fn take_due(&mut self, is_due: impl Fn(&Live, Instant) -> bool) -> Vec<Session> {
        let mut due = Vec::new();
        for live in self.ring.values_mut() {
            if live.unsaved_since.is_some_and(|since| is_due(live, since)) {
                live.unsaved_since = None;
                due.push(live.session.clone());
            }
        }
        due
    }

    /// These could not be written down after all.
    pub fn put_back_unsaved(&mut self, sessions: &[Session], now: Instant) {
        for session in sessions {
            let age = self.ids.get(&session.id);
            if let Some(live) = age.and_then(|age| self.ring.get_mut(age)) {
                live.unsaved_since.get_or_insert(now);
            }
        }
    }

    /// Takes up sessions of an earlier run, oldest first. One that is here already is left as it is.
    pub fn restore(&mut self, sessions: Vec<Session>, moment: Moment) {
        for session in sessions.into_iter().rev() {
            if self.ids.contains_key(&session.id) || self.ring.len() >= SESSIONS_MAX {
                continue;
            }
            let oldest = self.ring.keys().next().map_or(0, |age| (*age).min(0));
            let age = oldest - 1;
            let live = Live::restored(session, moment);
            if self.bytes + live.bytes > BYTES_MAX {
                break;
            }
            let session = &live.session;
            self.ids.insert(session.id, age);
            if let Some(mac) = session.mac {
                self.machines.entry(mac).or_insert(age);
            }
            if let Some(address) = session.address {
                self.addresses.entry(address).or_insert(age);
            }
            self.bytes += live.bytes;
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
        self.bytes = self.bytes - live.bytes + live.touch(self.revision, moment.now);
        Some(StepId { session: live.session.id, number })
    }

    /// Changes a step that is over with it.
    fn change(&mut self, id: StepId, moment: Moment, change: impl FnOnce(&mut What)) {
        let Some(live) = self.ids.get(&id.session).and_then(|age| self.ring.get_mut(age)) else {
            return;
        };
        if live.end(id.number, moment.now, change) {
            self.revision += 1;
            self.bytes = self.bytes - live.bytes + live.touch(self.revision, moment.now);
        }
    }

    /// Forgets what is too much; never the session `current`.
    fn make_room(&mut self, current: i64) {
        while self.ring.len() > SESSIONS_MAX || self.bytes > BYTES_MAX {
            let others = || self.ring.iter().filter(|(age, _)| **age != current);
            let is_asking = |live: &Live| live.session.reached == Phase::Asking;
            let asking = others().filter(|(_, live)| is_asking(live)).count();
            let oldest = if asking >= ASKING_MAX {
                others().find(|(_, live)| is_asking(live))
            } else {
                others().next()
            };
            let Some(age) = oldest.map(|(age, _)| *age) else { return };
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
        let live = self.ring.remove(&age)?;
        self.bytes -= live.bytes;
        self.ids.remove(&live.session.id);
        self.machines.retain(|_, latest| *latest != age);
        self.addresses.retain(|_, latest| *latest != age);
        Some(live)
    }
}

impl Live {
    fn new(id: BootId, moment: Moment) -> Self {
        let session = Session {
            id,
            mac: None,
            address: None,
            started_at: moment.at,
            reached: Phase::Asking,
            steps_folded: 0,
            steps: Vec::new(),
        };
        Self {
            session,
            began: moment.now,
            last: moment.now,
            asked: None,
            next_number: 0,
            changed: 0,
            unsaved_since: None,
            saved_at: None,
            bytes: 0,
        }
    }

    /// Continues a session of an earlier run: what was under way then is not any more.
    fn restored(mut session: Session, moment: Moment) -> Self {
        session.steps.truncate(STEPS_MAX);
        for step in &mut session.steps {
            if let What::Transfer(Transfer { ending: ending @ None, .. }) = &mut step.what {
                *ending = Some(Ending::Stopped);
            }
        }
        let before_ms = moment.at.unix_ms() - session.started_at.unix_ms();
        let ago = |ms: u64| moment.now.checked_sub(Duration::from_millis(ms)).unwrap_or(moment.now);
        let before_ms = u64::try_from(before_ms).unwrap_or(0);
        let silent_ms = before_ms.saturating_sub(session.last_ms());
        let next_number = session.steps.iter().map(|step| step.number.saturating_add(1)).max();
        Self {
            began: ago(before_ms),
            last: ago(silent_ms),
            asked: None,
            next_number: next_number.unwrap_or(0),
            changed: 0,
            unsaved_since: None,
            saved_at: None,
            bytes: cost(&session),
            session,
        }
    }

    /// Adds a step, or counts it to the last one if that is the same again; returns the step's number.
    fn add(&mut self, what: What, moment: Moment) -> u32 {
        if let What::Offered(super::step::Offer { xid, .. })
        | What::Unsent { xid, .. }
        | What::Refused { xid, .. }
        | What::Leased { xid, .. } = &what
        {
            self.asked = Some((*xid, moment.now));
        }
        let since_start = moment.now.saturating_duration_since(self.began);
        self.session.reached = self.session.reached.max(reached(&what, self.session.reached));
        if let Some(last) = self.session.steps.last_mut()
            && repeats(&last.what, &what)
        {
            last.times = last.times.saturating_add(1);
            last.took_ms = Some(millis(since_start).saturating_sub(last.at_ms));
            take_over(&mut last.what, what);
            return last.number;
        }
        let number = self.next_number;
        self.next_number = self.next_number.saturating_add(1);
        let at_ms = millis(since_start);
        let what = shorten(what);
        self.session.steps.push(Step { number, at_ms, took_ms: None, times: 1, what });
        self.fold();
        number
    }

    /// Whether the step was there to be ended.
    fn end(&mut self, number: u32, now: Instant, change: impl FnOnce(&mut What)) -> bool {
        let since_start = millis(now.saturating_duration_since(self.began));
        let steps = &mut self.session.steps;
        let Some(step) = steps.iter_mut().rev().find(|step| step.number == number) else {
            return false;
        };
        change(&mut step.what);
        step.took_ms = Some(since_start.saturating_sub(step.at_ms));
        self.session.reached = self.session.reached.max(reached(&step.what, self.session.reached));
        true
    }

    fn fold(&mut self) {
        while self.session.steps.len() > STEPS_MAX {
            self.session.steps.remove(STEPS_FIRST);
            self.session.steps_folded = self.session.steps_folded.saturating_add(1);
        }
    }

    /// Notes that it has changed; returns what it takes now.
    fn touch(&mut self, revision: u64, now: Instant) -> usize {
        self.last = now;
        self.changed = revision;
        self.unsaved_since.get_or_insert(now);
        self.bytes = cost(&self.session);
        self.bytes
    }
}

/// How far a machine that was at `before` has come by a step.
fn reached(what: &What, before: Phase) -> Phase {
    match what {
        What::Transfer(Transfer { role: Role::Loader, ending: Some(Ending::Whole), .. }) => {
            Phase::Loader
        }
        What::Transfer(Transfer { role: Role::FirstScript, .. }) => Phase::FirstScript,
        What::Transfer(Transfer { role: Role::Content, ending: Some(Ending::Whole), .. })
            if before >= Phase::Script =>
        {
            Phase::Files
        }
        What::Script { .. } => Phase::Script,
        What::Reported { .. } => Phase::CalledBack,
        _ => Phase::Asking,
    }
}

/// Whether `next` is the same again as `last`.
fn repeats(last: &What, next: &What) -> bool {
    match (last, next) {
        (What::Offered(last), What::Offered(next)) => {
            (last.port, last.boots, &last.file) == (next.port, next.boots, &next.file)
        }
        (What::Unsent { error: last, .. }, What::Unsent { error: next, .. }) => last == next,
        (
            What::Refused { port: p, reason: last, .. },
            What::Refused { port: q, reason: next, .. },
        ) => p == q && last == next,
        (What::Leased { wanted: last, .. }, What::Leased { wanted: next, .. }) => last == next,
        (What::Missing { by: p, name: last }, What::Missing { by: q, name: next }) => {
            p == q && last == next
        }
        // A disk that is read over HTTP is read in many pieces.
        (What::Transfer(last), What::Transfer(next)) => {
            last.ending == Some(Ending::Part)
                && (last.by, last.role, &last.name) == (next.by, next.role, &next.name)
        }
        (What::Reported { event: last, .. }, What::Reported { event: next, .. }) => {
            last == next
                && matches!(next, NodeEventKind::InstallProgress | NodeEventKind::Heartbeat)
        }
        _ => false,
    }
}

/// Brings a step that is seen again up to date.
fn take_over(last: &mut What, next: What) {
    match (last, next) {
        (What::Transfer(last), What::Transfer(_)) => last.ending = None,
        (last, next) => *last = shorten(next),
    }
}

/// Cuts the texts that come from outside.
fn shorten(what: What) -> What {
    match what {
        What::Offered(offer) => What::Offered(super::step::Offer {
            file: short(&offer.file),
            how: short(&offer.how),
            ..offer
        }),
        What::Unsent { xid, error } => What::Unsent { xid, error: short(&error) },
        What::Refused { xid, port, reason } => What::Refused { xid, port, reason: short(&reason) },
        What::Transfer(transfer) => {
            What::Transfer(Transfer { name: short(&transfer.name), ..transfer })
        }
        What::Missing { by, name } => What::Missing { by, name: short(&name) },
        What::Leased { .. } | What::Script { .. } | What::Reported { .. } => what,
    }
}

fn short(text: &str) -> Box<str> {
    text.get(..text.floor_char_boundary(TEXT_LEN_MAX)).unwrap_or(text).into()
}

/// What a session takes in memory, in bytes, near enough: its own fields twice for the indexes, its steps, and their texts.
fn cost(session: &Session) -> usize {
    let text = |what: &What| match what {
        What::Offered(offer) => offer.file.len() + offer.how.len(),
        What::Unsent { error: text, .. } | What::Refused { reason: text, .. } => text.len(),
        What::Transfer(transfer) => transfer.name.len(),
        What::Missing { name, .. } => name.len(),
        What::Script { answer } => answer.as_ref().map_or(0, |answer| answer.because.len()),
        What::Reported { message, .. } => {
            message.as_ref().map_or(0, |message| message.as_str().len())
        }
        What::Leased { .. } => 0,
    };
    let texts: usize = session.steps.iter().map(|step| text(&step.what)).sum();
    2 * size_of::<Live>() + session.steps.len() * size_of::<Step>() + texts
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests;
