//! The thread of TFTP: it hears requests, owns the transfers, and sleeps until one of its sockets or deadlines wakes it.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use smol::channel::{Sender, TrySendError};

use super::exchange::{Answer, Inbox, Order};
use super::link::Link;
use super::listener::{Batch, Listener, Received};
use super::networks;
use super::pieces::Pieces;
use super::poller::{BELL, REQUESTS, Ready};
use super::sending::{Asked, Means, Next, Sending};
use super::{Request, Source};
use crate::clock;
use crate::tftp::limits::{Admission, Limits, Refusal, TransferId, Weight};
use crate::tftp::name::Name;
use crate::tftp::packet::{self, ErrorCode, Mode, Options, Packet};
use crate::tftp::refusals::Refusals;
use crate::tftp::transfer::Outcome;

/// How many orders may wait before requests are dropped; their machines ask again.
const ORDERS_MAX: usize = 4_096;
/// How many batches of requests are taken before transfers have their turn: what may be answered in a second.
const BATCHES_MAX: usize = 64;
/// After how long to look whether the executor takes orders again.
const DESK_PAUSE: Duration = Duration::from_millis(1);
/// How long to leave a system alone that only brings errors.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// What decides over requests.
pub(super) struct Judges {
    pub(super) limits: Limits,
    /// Told of those that get no answer.
    pub(super) refusals: Arc<Refusals>,
    /// What a request for a name is for.
    pub(super) weigh: fn(&Name) -> Weight,
}

/// All of TFTP but its files.
pub(super) struct Engine<S> {
    listener: Listener,
    refusals: Arc<Refusals>,
    weigh: fn(&Name) -> Weight,
    block_len_max: u16,
    /// Where orders go, in batches: to wake the executor for each would cost more than most of them.
    desk: Sender<Vec<Order<S>>>,
    orders: Vec<Order<S>>,
    inbox: Arc<Inbox<S>>,
    admission: Admission,
    flows: HashMap<TransferId, Flow<S>>,
    /// When each transfer wakes.
    alarms: BTreeSet<(Instant, TransferId)>,
    pieces: Pieces,
}

/// What has become of an admitted request.
enum Flow<S> {
    /// Its file is looked up.
    Finding(Box<Asked>),
    /// Its file is sent.
    Sending(Box<Sending<S>>),
}

impl<S: Source> Engine<S> {
    pub(super) fn new(
        listener: Listener,
        judges: Judges,
        desk: Sender<Vec<Order<S>>>,
        inbox: Arc<Inbox<S>>,
    ) -> Self {
        let Judges { limits, refusals, weigh } = judges;
        Self {
            listener,
            refusals,
            weigh,
            block_len_max: limits.block_len_max,
            desk,
            orders: Vec::new(),
            inbox,
            admission: Admission::new(limits, clock::monotonic()),
            flows: HashMap::new(),
            alarms: BTreeSet::new(),
            pieces: Pieces::new(),
        }
    }

    /// Answers requests until the inbox is closed.
    pub(super) fn run(mut self) {
        let (mut ready, mut batch) = (Ready::new(), Batch::new());
        while !self.inbox.is_closed() {
            let limit = self.sleep_max();
            if let Err(error) = self.listener.poller.wait(limit, &mut ready) {
                log::warn!(error:%; "cannot wait for datagrams");
                pause();
            }
            for number in ready.numbers() {
                match number {
                    REQUESTS => self.handle_requests(&mut batch),
                    BELL => self.handle_answers(),
                    number => self.handle_datagram(TransferId::from_number(number)),
                }
            }
            self.handle_alarms();
            self.hand_in();
        }
        let ids: Vec<_> = self.flows.keys().copied().collect();
        for id in ids {
            self.displace(id);
        }
        // The desk takes what there is when this thread has ended.
        while !self.orders.is_empty() && !self.desk.is_closed() {
            self.hand_in();
        }
    }

    /// How long nothing is to be done if nothing comes.
    fn sleep_max(&self) -> Option<Duration> {
        if !self.orders.is_empty() {
            return Some(DESK_PAUSE);
        }
        let (first, _) = self.alarms.first()?;
        Some(first.saturating_duration_since(clock::monotonic()))
    }

    /// Gives the executor what has been ordered, if it is done with what it was given before.
    fn hand_in(&mut self) {
        if self.orders.is_empty() {
            return;
        }
        if let Err(TrySendError::Full(orders)) = self.desk.try_send(mem::take(&mut self.orders)) {
            self.orders = orders;
        }
        // On one processor the executor would else wait for this thread to sleep, and machines with it.
        thread::yield_now();
    }

    /// Takes all requests before transfers go on: a machine that waits for its first byte waits longest.
    fn handle_requests(&mut self, batch: &mut Batch) {
        let listening = self.listener.local_addr().ip();
        for _ in 0..BATCHES_MAX {
            if let Err(error) = self.listener.receive(batch) {
                log::debug!(error:%; "the TFTP socket brought an error");
                return pause();
            }
            for received in batch.datagrams(listening) {
                self.handle_request(&received);
            }
            if !batch.is_full() {
                return;
            }
        }
    }

    fn handle_request(&mut self, received: &Received<'_>) {
        let Received { peer, local, datagram, .. } = *received;
        let parsed = Packet::parse(datagram);
        match &parsed {
            Ok(Packet::ReadRequest(_) | Packet::WriteRequest(_)) => {}
            Err(error) if error.is_answered() => {}
            Ok(_) => return log::trace!(peer:%; "dropped a datagram that belongs to no transfer"),
            Err(error) => return log::trace!(peer:%, error:%; "dropped what is not TFTP"),
        }
        let now = clock::monotonic();
        if self.admission.wants_networks(peer, now) {
            self.admission.set_networks(networks::own(), now);
        }
        if let Err(refusal) = self.admission.handle_datagram(peer, local, now) {
            return self.note_refusal(refusal, peer, now);
        }
        match parsed {
            Ok(Packet::ReadRequest(request)) => self.handle_read_request(received, &request, now),
            Ok(_) => {
                log::info!(peer:%; "{peer} wants to write, which nobody may");
                self.refuse(received, ErrorCode::ACCESS_VIOLATION, "read only");
            }
            Err(error) => {
                log::debug!(peer:%, error:%; "refused a request that is malformed");
                self.refuse(received, ErrorCode::ILLEGAL_OPERATION, &error.to_string());
            }
        }
    }

    fn handle_read_request(
        &mut self,
        received: &Received<'_>,
        asked: &packet::Request<'_>,
        now: Instant,
    ) {
        let Received { peer, local, datagram, .. } = *received;
        if asked.mode != Mode::Octet {
            let mode = asked.mode.as_str();
            log::info!(peer:%, mode; "{peer} asks in mode {mode}, only octet is served");
            // The one text longer than what was asked: whoever types at a client has to learn what to type instead.
            let text = b"only mode octet is served, ask for it (tftp-hpa: -m binary)";
            return self.listener.send_error(received, ErrorCode::NOT_DEFINED, text);
        }
        let name = match Name::parse(asked.name) {
            Ok(name) => name,
            Err(error) => {
                log::info!(peer:%, error:%; "{peer} asks for what nothing is called");
                return self.refuse(received, ErrorCode::FILE_NOT_FOUND, "file not found");
            }
        };
        if self.orders.len() >= ORDERS_MAX {
            return log::debug!(peer:%; "dropped a request: too many wait to be looked up");
        }
        let weight = (self.weigh)(&name);
        let admitted = match self.admission.handle_request(peer, datagram, weight, now) {
            Ok(admitted) => admitted,
            Err(refusal) => return self.note_refusal(refusal, peer, now),
        };
        if let Some(ended) = admitted.ended {
            self.displace(ended);
        }
        let id = admitted.id;
        let request = Request { name, peer, local };
        self.orders.push(Order::Find { id, request: request.clone() });
        let answer_to = received.answer_to();
        let blksize = asked.options.blksize.map(|asked| asked.min(self.block_len_max.into()));
        let options = Options { blksize, ..asked.options };
        let asked = Asked { request, options, answer_to, began: now };
        self.flows.insert(id, Flow::Finding(Box::new(asked)));
    }

    fn note_refusal(&self, refusal: Refusal, peer: SocketAddr, now: Instant) {
        let is_news = self.refusals.note(refusal, peer.ip(), clock::now(), now);
        match refusal.cure().filter(|_| is_news) {
            Some(cure) => log::warn!(peer:%; "{peer} gets no answer: {refusal}; {cure}"),
            None => log::debug!(peer:%; "dropped a request: {refusal}"),
        }
    }

    /// Answers with an error no longer than what was asked, so that nobody gains by asking in another's name (F10).
    fn refuse(&self, received: &Received<'_>, code: ErrorCode, text: &str) {
        const FRAME_LEN: usize = 5;
        let room = received.datagram.len().saturating_sub(FRAME_LEN);
        let text = text.as_bytes();
        self.listener.send_error(received, code, text.get(..room).unwrap_or(text));
    }

    fn handle_answers(&mut self) {
        for answer in self.inbox.take() {
            match answer {
                Answer::Found { id, found } => self.handle_found(id, found),
                Answer::Data { id, data } => {
                    let now = clock::monotonic();
                    if let Some(Flow::Sending(sending)) = self.flows.get_mut(&id) {
                        sending.handle_data(data, now);
                        self.advance(id, now);
                    }
                }
            }
        }
    }

    fn handle_found(&mut self, id: TransferId, found: io::Result<Option<S>>) {
        // It may have been displaced meanwhile.
        let Some(Flow::Finding(asked)) = self.flows.remove(&id) else { return };
        let source = match found {
            Ok(Some(source)) => source,
            Ok(None) => {
                let code = ErrorCode::FILE_NOT_FOUND;
                self.listener.send_error(asked.answer_to, code, b"file not found");
                return self.forget(id);
            }
            // It has been said. The machine asks again.
            Err(_) => return self.forget(id),
        };
        let Request { name, peer, local } = &asked.request;
        let link = Link::connect(*local, *peer, self.listener.transfer_port()).and_then(|link| {
            if let Some(link) = &link {
                self.listener.poller.add(&link.socket, id.number())?;
            }
            Ok(link)
        });
        let link = match link {
            Ok(Some(link)) => link,
            Ok(None) => {
                log::debug!(peer:%; "dropped a request that was sent to a group of hosts");
                return self.forget(id);
            }
            Err(error) => {
                log::warn!(peer:%, error:%; "cannot open a socket to send {name} to {peer}: {error}");
                return self.forget(id);
            }
        };
        let active = self.flows.len() + 1;
        let now = clock::monotonic();
        self.admission.handle_begin(id, now);
        let sending = Sending::new(id, *asked, source, link, active, now);
        self.flows.insert(id, Flow::Sending(Box::new(sending)));
        self.advance(id, now);
    }

    fn handle_datagram(&mut self, id: TransferId) {
        let now = clock::monotonic();
        // Sockets of transfers that have just ended are closed, and may be reported once more.
        if let Some(Flow::Sending(sending)) = self.flows.get_mut(&id)
            && sending.receive(now)
        {
            self.advance(id, now);
        }
    }

    fn handle_alarms(&mut self) {
        let Some((first, _)) = self.alarms.first() else { return };
        let now = clock::monotonic();
        if *first > now {
            return;
        }
        while let Some(alarm) = self.alarms.first().copied().filter(|(at, _)| *at <= now) {
            self.alarms.remove(&alarm);
            let (_, id) = alarm;
            if let Some(Flow::Sending(sending)) = self.flows.get_mut(&id) {
                sending.wakes_at = None;
                sending.handle_timeout(now);
                self.advance(id, now);
            }
        }
    }

    /// Lets a transfer do what it can, and notes when it wakes.
    fn advance(&mut self, id: TransferId, now: Instant) {
        let active = self.flows.len();
        let Some(Flow::Sending(sending)) = self.flows.get_mut(&id) else { return };
        let mut means = Means {
            orders: &mut self.orders,
            pieces: &mut self.pieces,
            offload: &self.listener.offload,
            active,
        };
        let next = sending.advance(&mut means, now);
        if sending.is_answered() {
            self.admission.handle_answer(id);
        }
        match next {
            Next::Input(deadline) => {
                if sending.wakes_at.is_none_or(|wakes_at| deadline < wakes_at) {
                    if let Some(wakes_at) = sending.wakes_at.replace(deadline) {
                        self.alarms.remove(&(wakes_at, id));
                    }
                    self.alarms.insert((deadline, id));
                }
            }
            Next::Nothing(outcome) => self.end(id, outcome, now),
        }
    }

    /// Ends a transfer for another's sake, or with the server.
    fn displace(&mut self, id: TransferId) {
        let now = clock::monotonic();
        // What was said before the displacement is heard before it: it may be the last ACK.
        while let Some(Flow::Sending(sending)) = self.flows.get_mut(&id)
            && sending.receive(now)
        {
            self.advance(id, now);
        }
        if let Some(Flow::Sending(sending)) = self.flows.get_mut(&id) {
            sending.handle_displaced();
            self.advance(id, now);
        }
        if self.flows.remove(&id).is_some() {
            self.forget(id);
        }
    }

    fn end(&mut self, id: TransferId, outcome: Outcome, now: Instant) {
        let Some(Flow::Sending(sending)) = self.flows.remove(&id) else { return };
        if let Some(wakes_at) = sending.wakes_at {
            self.alarms.remove(&(wakes_at, id));
        }
        self.admission.handle_end(id);
        self.orders.push(Order::Ended(Some(Box::new(sending.finish(outcome, now)))));
    }

    /// Gives back the place of a request that became no transfer.
    fn forget(&mut self, id: TransferId) {
        self.admission.handle_end(id);
        self.orders.push(Order::Ended(None));
    }
}

fn pause() {
    #[expect(clippy::disallowed_methods, reason = "shell: this thread is not the executor's")]
    thread::sleep(ERROR_PAUSE);
}
