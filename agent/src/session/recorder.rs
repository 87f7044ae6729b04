//! What the servers tell what they see: it knows the time, draws ids, and looks up whose an address is.
//!
//! Nothing here waits for the disk but [`Recorder::keep`] and [`Recorder::save_all`], which no server calls.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use pureboot_protocol::{BootId, Mac, NodeEvent};
use smol::Timer;

use super::journal::Journal;
use super::neighbours::Neighbours;
use super::ring::{Moment, Sessions, StepId, Who};
use super::step::{Answer, Boots, Ending, Offer, Protocol, Role, Session, Transfer, What};
use crate::clock;
use crate::dhcp::answer::{Boot, Client, IpxeSign, Port, Reason, Reply, Silence};
use crate::dhcp::quirks::OfferMode;
use crate::dhcp::serve::{Event, Observer};
use crate::doctor::servers::is_probe;
use crate::world;

/// How often sessions that have come to rest are written down, if there are any.
const SAVE_INTERVAL: Duration = Duration::from_secs(30);

/// How many transfers may be waited for by where they go: more than TFTP has at a time.
const OPEN_MAX: usize = 4_096;

/// Keeps boot sessions; lives on the executor's thread.
#[derive(Default)]
pub struct Recorder {
    sessions: RefCell<Sessions>,
    neighbours: RefCell<Neighbours>,
    /// Transfers that are found again by where they go.
    open: RefCell<HashMap<SocketAddr, StepId>>,
}

impl Recorder {
    /// A machine at `address` reads a file; `named` is the session that the URL named. Whoever sends the file tells when that is over.
    pub fn begin_transfer(
        &self,
        named: Option<BootId>,
        address: IpAddr,
        transfer: Transfer,
    ) -> Option<StepId> {
        self.observe(&self.reader(named, address), What::Transfer(transfer))
    }

    /// A machine reads the first script; returns the session that the script is to name.
    pub fn begin_first_script(
        &self,
        address: IpAddr,
        by: Protocol,
        name: &str,
    ) -> (BootId, Option<StepId>) {
        let step =
            self.begin_transfer(None, address, Transfer::new(by, Role::FirstScript, name, None));
        (step.map_or_else(new_boot, |step| step.session), step)
    }

    /// A transfer is over.
    pub fn end_transfer(&self, step: StepId, ending: Ending, sent_bytes: u64) {
        self.sessions.borrow_mut().end_transfer(step, ending, sent_bytes, moment());
    }

    /// A transfer that [`Recorder::note_open`] was told of is over.
    pub fn end_transfer_to(&self, peer: SocketAddr, ending: Ending, sent_bytes: u64) {
        if let Some(step) = self.open.borrow_mut().remove(&peer) {
            self.end_transfer(step, ending, sent_bytes);
        }
    }

    /// A transfer goes to `peer`, which is all that the one who sees its end knows of it.
    pub fn note_open(&self, peer: SocketAddr, step: Option<StepId>) {
        let Some(step) = step else { return };
        let mut open = self.open.borrow_mut();
        // A request may be found and never be answered; nobody tells then.
        if open.len() >= OPEN_MAX {
            open.clear();
        }
        open.insert(peer, step);
    }

    /// A machine asked for a file that is not here.
    pub fn note_missing(&self, named: Option<BootId>, address: IpAddr, by: Protocol, name: &str) {
        self.observe(&self.reader(named, address), What::Missing { by, name: name.into() });
    }

    /// A program of the machine at `address` has said over HTTP what it is called; `named` is the session that its URL named, `mac`
    /// the machine if the URL did. What is no text is nothing that anybody could look for.
    pub fn note_user_agent(
        &self,
        named: Option<BootId>,
        mac: Option<Mac>,
        address: IpAddr,
        agent: &str,
    ) {
        let reader = self.reader(named, address);
        let who = Who { mac: mac.or(reader.mac), ..reader };
        self.sessions.borrow_mut().note_user_agent(&who, agent, moment());
    }

    /// What the programs of a machine have called themselves over HTTP.
    pub fn user_agents_of(&self, mac: Mac) -> Vec<Box<str>> {
        self.sessions.borrow().user_agents_of(mac).to_vec()
    }

    /// The machine of a session, if the session is remembered here; the inner none: nothing has named it yet.
    pub fn machine_of(&self, boot: BootId) -> Option<Option<Mac>> {
        self.sessions.borrow().machine_of(boot)
    }

    /// The machine at `address`; `named` is the session that its URL named.
    pub fn machine_at(&self, named: Option<BootId>, address: IpAddr) -> Option<Mac> {
        let reader = self.reader(named, address);
        reader.mac.or_else(|| self.machine_of(reader.boot?).flatten())
    }

    /// A machine asks what to boot; `named` is the session that it names, if it may name that. Returns the session that it is in.
    pub fn begin_script(
        &self,
        mac: Mac,
        named: Option<BootId>,
        address: Option<IpAddr>,
    ) -> (BootId, Option<StepId>) {
        let address = address.map(|address| address.to_canonical());
        let who = Who { boot: named, mac: Some(mac), address };
        let step = self.observe(&who, What::Script { answer: None });
        (step.map_or_else(new_boot, |step| step.session), step)
    }

    /// A machine is told what to boot.
    pub fn end_script(&self, step: StepId, answer: Answer) {
        self.sessions.borrow_mut().answer(step, answer, moment());
    }

    /// A machine's report was taken; `mac` if the report named it.
    pub fn note_report(&self, boot: BootId, mac: Option<Mac>, event: &NodeEvent) {
        let NodeEvent { event_type, progress, message, .. } = event;
        let what =
            What::Reported { event: *event_type, progress: *progress, message: message.clone() };
        self.observe(&Who { boot: Some(boot), mac, address: None }, what);
    }

    /// Looks at the sessions.
    pub fn with_sessions<T>(&self, look: impl FnOnce(&Sessions) -> T) -> T {
        look(&self.sessions.borrow())
    }

    /// Brings back what earlier runs have seen, and writes down what this one sees, for ever.
    pub async fn keep(self: Rc<Self>, journal: Journal) {
        let reader = journal.clone();
        match smol::unblock(move || reader.load()).await {
            Ok(loaded) => {
                for (path, skipped) in loaded.skipped {
                    let file = path.display();
                    log::warn!(file:%, skipped; "{skipped} lines of {file} are no boot sessions and were left out");
                }
                self.sessions.borrow_mut().restore(loaded.sessions, moment());
            }
            Err(error) => log::warn!("earlier boot sessions are not known: {error:#}"),
        }
        let mut is_failing = false;
        loop {
            Timer::after(SAVE_INTERVAL).await;
            let unsaved = self.sessions.borrow_mut().take_unsaved(clock::monotonic());
            if unsaved.is_empty() {
                continue;
            }
            let (writer, lines) = (journal.clone(), unsaved.clone());
            match smol::unblock(move || writer.append(&lines)).await {
                Ok(()) => is_failing = false,
                Err(error) => {
                    self.put_back(&unsaved);
                    // It is tried again until it works; one line is enough.
                    if !is_failing {
                        complain(&journal, &error);
                    }
                    is_failing = true;
                }
            }
        }
    }

    /// What is to be told to the controller now, at most `max` sessions; it then counts as told.
    pub fn take_untold(&self, max: usize) -> Vec<Session> {
        self.sessions.borrow_mut().take_untold(max, clock::monotonic())
    }

    /// These could not be told after all.
    pub fn put_back_untold(&self, sessions: &[Session]) {
        self.sessions.borrow_mut().put_back_untold(sessions, clock::monotonic());
    }

    /// Writes down what is not, at the end.
    pub async fn save_all(&self, journal: Journal) {
        let unsaved = self.sessions.borrow_mut().take_all_unsaved();
        if unsaved.is_empty() {
            return;
        }
        let writer = journal.clone();
        if let Err(error) = smol::unblock(move || writer.append(&unsaved)).await {
            complain(&journal, &error);
        }
    }

    fn put_back(&self, unsaved: &[Session]) {
        self.sessions.borrow_mut().put_back_unsaved(unsaved, clock::monotonic());
    }

    fn observe(&self, who: &Who, what: What) -> Option<StepId> {
        self.sessions.borrow_mut().observe(who, what, moment(), new_boot)
    }

    /// Who reads from an address. The session that it names says more than the neighbours do.
    fn reader(&self, named: Option<BootId>, address: IpAddr) -> Who {
        let boot = named.filter(|boot| self.machine_of(*boot).is_some());
        let mac = match boot {
            Some(_) => None,
            None => self.neighbours.borrow_mut().mac_of(address),
        };
        Who { boot, mac, address: Some(address.to_canonical()) }
    }

    fn observe_reply(&self, reply: &Reply, port: u16) {
        let boots = match &reply.boot {
            Boot::Script(IpxeSign::Loop) => Boots::ScriptByLoopGuard,
            Boot::Script(_) => Boots::Script,
            boot if boot.mode() == Some(OfferMode::BootServer) => Boots::LoaderByBootServer,
            Boot::Loader { .. } | Boot::Named { .. } => Boots::Loader,
        };
        let offer = Offer {
            xid: reply.client.xid,
            port,
            arch: reply.boot.code(),
            boots,
            file: reply.file.as_str().into(),
            how: reply.boot.to_string().into(),
        };
        self.observe_client(&reply.client, What::Offered(offer));
    }

    /// What the doctor asks is of no machine.
    fn observe_client(&self, client: &Client, what: What) {
        if is_probe(client.mac) {
            return;
        }
        let address = client.address.map(IpAddr::V4);
        self.observe(&Who { boot: None, mac: Some(client.mac), address }, what);
    }

    fn observe_unsent(&self, reply: &Reply, error: &io::Error) {
        let what = What::Unsent { xid: reply.client.xid, error: error.to_string().into() };
        self.observe_client(&reply.client, what);
    }

    fn observe_silence(&self, silence: &Silence, port: Port) {
        let Some(client) = silence.client else { return };
        let xid = client.xid;
        let what = match &silence.reason {
            Reason::Unserved(_)
            | Reason::NoLoader(_)
            | Reason::RefusedByOperator
            | Reason::Destination(_) => {
                let reason = silence.reason.to_string().into();
                What::Refused { xid, port: port.number(), reason }
            }
            Reason::NotForUs(dhcproto::v4::MessageType::Request, _) => {
                What::Leased { xid, wanted: client.address }
            }
            Reason::Unreadable(_)
            | Reason::NotBooting(_)
            | Reason::NotForUs(..)
            | Reason::TooOften => return,
        };
        self.observe_client(&client, what);
    }
}

/// Hears what ProxyDHCP does.
impl Observer for Rc<Recorder> {
    fn observe(&mut self, event: &Event<'_>) {
        match event {
            Event::Answered { port, reply, .. } => self.observe_reply(reply, port.number()),
            Event::Silent { port, silence, .. } => self.observe_silence(silence, *port),
            Event::Unsent { reply, error, .. } => self.observe_unsent(reply, error),
            Event::Learned(_) | Event::Fetched(_) => {}
        }
    }
}

fn complain(journal: &Journal, error: &io::Error) {
    let file = journal.path().display();
    log::warn!(file:%, error:%; "boot sessions cannot be written down in {file}: {error}");
}

fn moment() -> Moment {
    Moment { at: clock::now(), now: clock::monotonic() }
}

fn new_boot() -> BootId {
    BootId::from_random(world::random().expect("a system that has started has random numbers"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::servers::probe_address;
    use crate::session::step::Step;

    #[test]
    fn a_question_without_answer_is_a_step_with_its_port_and_the_doctors_own_is_none() {
        let mut recorder = Rc::new(Recorder::default());
        let machine = Mac::from_bytes([0x52, 0x54, 0, 0, 0, 1]).expect("unicast");
        for mac in [probe_address([1, 2, 3]), machine] {
            let client = Some(Client { mac, xid: 1, address: None });
            let silence = Silence { client, reason: Reason::RefusedByOperator, lesson: None };
            let (interface, port) = ("lan", Port::BootServer);
            recorder.observe(&Event::Silent { interface, port, silence: &silence });
        }
        let seen = recorder.with_sessions(|sessions| {
            let seen = sessions.newest_first().map(|(it, _)| (it.mac, it.steps.clone()));
            seen.collect::<Vec<_>>()
        });
        let [(mac, steps)] = seen.as_slice() else { panic!("{seen:?}") };
        assert_eq!(*mac, Some(machine));
        let is_refusal = |step: &Step| matches!(step.what, What::Refused { port: 4011, .. });
        assert!(matches!(steps.as_slice(), [step] if is_refusal(step)), "{steps:?}");
    }
}
