//! What carries requests between agents and controller, and what it does to them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::{Request, Response};
use pureboot_agent::uplink::controller::CallError;
use pureboot_protocol::{
    BootRecord, Change, ChangeBatch, ChangePayload, ChangeReceipt, Lifecycle, NodeChange,
    NodeRecords, Outcome, SignedRecords, Success, Told,
};
use serde_json::json;
use smol::channel::Sender;

use crate::faults::{Fault, Planted};
use crate::oracle::Stop;
use crate::scenario::{DAY, Event, HOUR, Scenario};
use crate::site::Sent;

/// Where changes are handed over.
const CHANGES: &str = "/api/v1/agents/changes";

/// The line of one site.
#[derive(Debug, Default)]
pub struct Link {
    /// Nothing gets through.
    pub is_down: bool,
    /// What does not get through is swallowed and not refused.
    pub is_hole: bool,
}

/// What is on its way.
#[derive(Debug, Default)]
pub struct Post {
    letters: BTreeMap<u64, Letter>,
    next: u64,
    /// The last answer to each site's changes that nobody has got.
    late: BTreeMap<usize, Response<Bytes>>,
}

#[derive(Debug)]
struct Letter {
    site: usize,
    request: Request<Bytes>,
    /// None for a repetition, whose answer nobody waits for.
    reply: Option<Reply>,
}

type Reply = Sender<Result<Response<Bytes>, CallError>>;

/// What the centre tells a site of a machine.
#[derive(Debug, Clone, Copy)]
pub struct News {
    machine: usize,
    /// Whether its site has asked about this very machine.
    was_asked: bool,
    /// When the centre has wished for an installation of it last, in milliseconds.
    wishes: u64,
}

/// Something has come to the end of its way.
#[derive(Debug)]
pub enum Arrival {
    /// A request, at the controller.
    Request(u64),
    /// An answer, at the agent that waits for it, and what it tells of a machine.
    Answer(Reply, Response<Bytes>, Vec<News>),
    /// That there is no connection.
    Refusal(Reply),
}

fn refused() -> CallError {
    let error = io::Error::from(io::ErrorKind::ConnectionRefused);
    CallError::Connect { authority: "controller.example:8000".to_owned(), error }
}

impl Scenario {
    /// Takes what agents have sent; answers whether there was anything.
    pub fn carry(&mut self) -> Result<bool, Stop> {
        let mut was_any = false;
        loop {
            let sent = self.mailbox.borrow_mut().pop_front();
            let Some(Sent { site, request, reply }) = sent else { return Ok(was_any) };
            was_any = true;
            self.send(site, request, reply)?;
        }
    }

    fn send(&mut self, site: usize, request: Request<Bytes>, reply: Reply) -> Result<(), Stop> {
        let link = &self.links[site];
        if link.is_down {
            if !link.is_hole {
                self.after(Duration::from_millis(5), Event::Arrival(Arrival::Refusal(reply)));
            }
            return Ok(());
        }
        let way = self.way();
        if let Some(late) = self.late_answer(site, &request) {
            self.after(way, Event::Arrival(Arrival::Answer(reply, late, Vec::new())));
            return Ok(());
        }
        if self.befalls(Fault::LoseRequest, "network", 15) {
            self.note(&format!("site {site}: a request to {} is lost", request.uri().path()));
            return Ok(());
        }
        if self.befalls(Fault::Portal, "network", 5) {
            let page = Response::new(Bytes::from_static(b"<html>Welcome. Please sign in.</html>"));
            self.after(way, Event::Arrival(Arrival::Answer(reply, page, Vec::new())));
            return Ok(());
        }
        if self.is_refused(&request)? {
            self.tally.faults += 1;
            let answer = self.refusal();
            self.after(way, Event::Arrival(Arrival::Answer(reply, answer, Vec::new())));
            return Ok(());
        }
        if self.befalls(Fault::Unavailable, "network", 10) {
            let answer = self.unavailable();
            self.after(way, Event::Arrival(Arrival::Answer(reply, answer, Vec::new())));
            return Ok(());
        }
        if self.befalls(Fault::Repeat, "network", 15) {
            let later = self.draw("network").span(Duration::from_millis(10), DAY);
            let number = self.post(Letter { site, request: request.clone(), reply: None });
            self.after(later, Event::Arrival(Arrival::Request(number)));
        }
        let number = self.post(Letter { site, request, reply: Some(reply) });
        self.after(way, Event::Arrival(Arrival::Request(number)));
        Ok(())
    }

    fn post(&mut self, letter: Letter) -> u64 {
        self.post.next += 1;
        self.post.letters.insert(self.post.next, letter);
        self.post.next
    }

    /// How long something is under way.
    fn way(&mut self) -> Duration {
        let longest = if self.is_chaos && self.has(Fault::Slow) { 30_000 } else { 100 };
        self.draw("network").span(Duration::from_millis(5), Duration::from_millis(longest))
    }

    /// Whether something on the way refuses a request for what is in it: always the same reports, so that they stay what is refused.
    fn is_refused(&self, request: &Request<Bytes>) -> Result<bool, Stop> {
        if !self.is_chaos || !self.has(Fault::Refuses) || request.uri().path() != CHANGES {
            return Ok(false);
        }
        let is_poison = |item: &Change| {
            matches!(item.payload, ChangePayload::Event(_)) && item.id.to_string().starts_with('0')
        };
        Ok(batch_of(request)?.is_some_and(|batch| batch.items.iter().any(is_poison)))
    }

    fn refusal(&mut self) -> Response<Bytes> {
        let status = [400, 413, 422][self.draw("network").index(3)];
        Response::builder().status(status).body(problem(status)).unwrap_or_default()
    }

    fn unavailable(&mut self) -> Response<Bytes> {
        let dice = self.draw("network");
        let status = [502, 503, 429, 500][dice.index(4)];
        let retry_after = ["", "0", "-1", "120", "1000000000000", "soon"][dice.index(6)];
        let mut answer = Response::builder().status(status);
        if !retry_after.is_empty() {
            answer = answer.header("retry-after", retry_after);
        }
        answer.body(problem(status)).unwrap_or_default()
    }

    /// Something has come to the end of its way.
    pub fn arrive(&mut self, arrival: Arrival) -> Result<(), Stop> {
        match arrival {
            Arrival::Request(number) => self.serve(number)?,
            // Whoever has given up is not there any more.
            Arrival::Answer(reply, answer, news) => {
                if reply.try_send(Ok(answer)).is_ok() {
                    news.iter().for_each(|news| self.learn(*news));
                }
            }
            Arrival::Refusal(reply) => _ = reply.try_send(Err(refused())),
        }
        Ok(())
    }

    fn serve(&mut self, number: u64) -> Result<(), Stop> {
        let Some(Letter { site, request, reply }) = self.post.letters.remove(&number) else {
            return Ok(());
        };
        let path = request.uri().clone();
        let is_changes = path.path() == CHANGES;
        let batch = if is_changes { batch_of(&request)? } else { None };
        let Some(answer) = self.centre.answer(request)? else {
            if let Some(reply) = reply {
                self.after(Duration::from_millis(5), Event::Arrival(Arrival::Refusal(reply)));
            }
            return Ok(());
        };
        self.tally.requests += 1;
        let is_new = reply.is_some();
        let line = format!(
            "site {site} {} {}{}",
            path,
            answer.status().as_u16(),
            if is_new { "" } else { " (again)" }
        );
        self.note(&line);
        if let (Some(batch), true) = (&batch, answer.status().is_success()) {
            let receipt: ChangeReceipt = serde_json::from_slice(answer.body())?;
            let line = format!(
                "  {} from {}: {} taken, through {}",
                batch.items.len(),
                batch.first_seq,
                receipt.results.len(),
                receipt.acked_through
            );
            self.note(&line);
            self.tally.changes += u64::try_from(receipt.results.len())?;
            self.note_wishes(batch, &receipt);
            let moves = self.moves(self.oracle.silently_moved(batch, &receipt))?;
            self.oracle.take(site, batch, &receipt, &moves)?;
            self.note_parked(batch, &receipt)?;
        }
        let news = if is_changes { Vec::new() } else { self.news(&answer)? };
        let Some(reply) = reply else { return Ok(()) };
        let doom = if is_changes { self.doom.take() } else { None };
        if let Some(fault) = doom {
            self.note(&format!("site {site}: the controller takes the changes, and then: {fault}"));
            self.post.late.insert(site, answer);
            return self.strike_centre(fault);
        }
        self.answer(site, batch.as_ref(), reply, answer, news)
    }

    /// What has become of the wishes in a batch.
    fn note_wishes(&mut self, batch: &ChangeBatch, receipt: &ChangeReceipt) {
        for (item, result) in batch.items.iter().zip(&receipt.results) {
            let ChangePayload::StateChange { state, .. } = &item.payload else { continue };
            let base = item.base_version.unwrap_or_default();
            let version = result.node_version.map(|version| format!(" as version {version}"));
            let conflict = result.conflict_id.map(|conflict| format!(", conflict {conflict}"));
            let line = format!(
                "  {}: {state} on version {base} of node {}: {}{}{}",
                item.seq,
                item.node,
                result.outcome,
                version.unwrap_or_default(),
                conflict.unwrap_or_default()
            );
            self.note(&line);
        }
    }

    /// The controller has parked some of a batch, and does not know what it says.
    fn note_parked(&mut self, batch: &ChangeBatch, receipt: &ChangeReceipt) -> Result<(), Stop> {
        let parked = batch.items.iter().zip(&receipt.results);
        for (item, _) in parked.filter(|(_, result)| result.outcome == Outcome::Parked) {
            self.note(&format!("  {} is parked", item.seq));
            if self.options.planted == Some(Planted::PoisonOvertaken) {
                self.centre.swap_last_events(item.node)?;
            }
        }
        Ok(())
    }

    fn learn(&mut self, News { machine, was_asked, wishes }: News) {
        let machine = &mut self.machines[machine];
        machine.was_asked |= was_asked;
        machine.wishes_seen = wishes;
    }

    /// What an answer tells of machines, if it is one about nodes.
    fn news(&self, answer: &Response<Bytes>) -> Result<Vec<News>, Stop> {
        let Ok(signed) = serde_json::from_slice::<Success<SignedRecords>>(answer.body()) else {
            return Ok(Vec::new());
        };
        let records: NodeRecords = serde_json::from_str(&signed.data.payload)?;
        let (was_asked, records): (_, Vec<_>) = match records.told {
            Told::Node { record, .. } => (true, record.into_iter().collect()),
            Told::Changes(changes) => {
                (false, changes.data.into_iter().filter_map(present).collect())
            }
        };
        let pending = records.iter().filter(|record| record.state == Lifecycle::Pending);
        let wishes = self.centre.wishes(pending.map(|record| record.node_id))?;
        let machine = |mac| self.machines.iter().position(|machine| machine.mac == mac);
        let news = records.iter().filter_map(|record| {
            let machine = machine(record.mac_address)?;
            let wishes = wishes.get(&record.node_id).copied();
            let wishes = wishes.unwrap_or(self.machines[machine].wishes_seen);
            Some(News { machine, was_asked, wishes })
        });
        Ok(news.collect())
    }

    /// The versions in which the state of each of these machines' nodes has changed.
    fn moves(&self, machines: BTreeSet<usize>) -> Result<BTreeMap<usize, BTreeSet<u64>>, Stop> {
        let mut moves = BTreeMap::new();
        for machine in machines {
            let Some(node) = self.node(machine)? else { continue };
            let id = node["id"].as_str().unwrap_or_default();
            let history = self.centre.list(&format!("/api/v1/nodes/{id}/history"))?;
            moves.insert(machine, history.iter().filter_map(|it| it["version"].as_u64()).collect());
        }
        Ok(moves)
    }

    /// Sends an answer on its way, or whatever becomes of it.
    fn answer(
        &mut self,
        site: usize,
        batch: Option<&ChangeBatch>,
        reply: Reply,
        answer: Response<Bytes>,
        news: Vec<News>,
    ) -> Result<(), Stop> {
        let way = self.way();
        let link_broke = self.links[site].is_down;
        if link_broke || self.befalls(Fault::LoseAnswer, "network", 15) {
            self.note(&format!("site {site}: an answer is lost"));
            if batch.is_some() {
                self.post.late.insert(site, answer);
            }
            return Ok(());
        }
        if self.befalls(Fault::Truncate, "network", 10) {
            let (head, body) = answer.into_parts();
            let answer = Response::from_parts(head, body.slice(..body.len() / 2));
            self.after(way, Event::Arrival(Arrival::Answer(reply, answer, Vec::new())));
            return Ok(());
        }
        self.after(way, Event::Arrival(Arrival::Answer(reply, answer, news)));
        Ok(())
    }

    /// The answer to an older request, if it comes in the place of the one to this. What was to be answered never arrives.
    fn late_answer(&mut self, site: usize, request: &Request<Bytes>) -> Option<Response<Bytes>> {
        if request.uri().path() != CHANGES || !self.befalls(Fault::LateAnswer, "network", 30) {
            return None;
        }
        let late = self.post.late.remove(&site)?;
        self.note(&format!("site {site}: the answer to an older request comes"));
        Some(late)
    }

    /// A site's line breaks, or is mended.
    pub fn change_link(&mut self, site: usize) {
        if !self.is_chaos {
            return;
        }
        let has_holes = self.has(Fault::BlackHole);
        let dice = self.draw("lines");
        let is_hole = has_holes && dice.percent(50);
        let is_down = !self.links[site].is_down;
        let dice = self.draw("lines");
        let pause = match is_down {
            true => dice.span(Duration::from_secs(30), 60 * DAY),
            false => dice.span(HOUR, 40 * DAY),
        };
        self.links[site] = Link { is_down, is_hole };
        self.tally.faults += u64::from(is_down);
        self.note(&format!("the line of site {site} is {}", if is_down { "down" } else { "up" }));
        self.after(pause, Event::Link(site));
    }
}

fn problem(status: u16) -> Bytes {
    let problem = json!({
        "type": "about:blank", "title": "not taken", "status": status, "detail": "not now, not this", "code": "busy",
        "correlation_id": "x",
    });
    Bytes::from(problem.to_string())
}

fn present(change: NodeChange) -> Option<Box<BootRecord>> {
    match change {
        NodeChange::Present(record) => Some(record),
        NodeChange::Left { .. } => None,
    }
}

/// The batch in a request, if it can be read.
fn batch_of(request: &Request<Bytes>) -> Result<Option<ChangeBatch>, Stop> {
    Ok(serde_json::from_slice(&plain(request)?).ok())
}

/// The body of a request without gzip.
fn plain(request: &Request<Bytes>) -> Result<Vec<u8>, Stop> {
    if !request.headers().contains_key("content-encoding") {
        return Ok(request.body().to_vec());
    }
    let mut plain = Vec::new();
    io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&request.body()[..]), &mut plain)?;
    Ok(plain)
}
