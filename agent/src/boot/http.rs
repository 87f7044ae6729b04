//! What machines reach over HTTP: scripts, files, answer files, and a place to report to (API.md §4). Who may have the secrets in answer
//! files is [`crate::answers`]' to say; no other secret is behind any of it.

use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode};
use pureboot_protocol::{
    BootId, BootRequest, ChangeId, ContentKey, NodeEvent, PendingCommand, SiteId, Success,
    Timestamp,
};
use pureboot_templates::BaseUrl;
use serde::Serialize;
use serde::de::DeserializeOwned;
use smol::LocalExecutor;

use crate::answers::keeper::Answers;
use crate::answers::serve::{Named, Question};
use crate::boot::booter::Booter;
use crate::boot::library::{self, role};
use crate::boot::report::{self, NodeReport, Report};
use crate::boot::reporter::{Refused, Reporter, Taken};
use crate::boot::request::{self, RequestError};
use crate::cache::{Cache, Wanted};
use crate::clock;
use crate::dhcp::quirks::operator::OperatorQuirk;
use crate::dhcp::quirks::pacing;
use crate::http::{
    CONTENT_STREAMS_MAX, Connection, Content, CorrelationId, Response, Service, Target,
    content_type, invalid, json, not_now, object_response, on_its_way, problem, read_body, script,
    text, unread_status,
};
use crate::session::recorder::Recorder;
use crate::session::ring::StepId;
use crate::session::step::{Ending, Protocol, Role, Transfer};
use crate::store::StoreError;
use crate::sync::demand::{Demand, Found};
use crate::vitals::Vitals;

/// The longest report, in bytes.
pub(super) const REPORT_LEN_MAX: usize = 64 * 1024;

/// Content that is not longer, in bytes, is sent however much else is: a moment later it is over.
const SMALL_LEN_MAX: u64 = 256 * 1024;

/// How long a report may take to come in.
pub(super) const REPORT_TIME: Duration = Duration::from_secs(10);

/// Answers machines.
pub struct BootService {
    /// Runs what outlives an answer.
    pub executor: Rc<LocalExecutor<'static>>,
    /// Scripts.
    pub booter: Rc<Booter>,
    /// Reports.
    pub reporter: Rc<Reporter>,
    /// Answer files.
    pub answers: Rc<Answers>,
    /// Files by name, those too that the controller has yet to send.
    pub demand: Rc<Demand>,
    /// Files by hash.
    pub cache: Cache,
    /// What the operator knows about clients.
    pub quirks: Vec<OperatorQuirk>,
    /// Health.
    pub vitals: Rc<Vitals>,
    /// Hears what machines read and report.
    pub recorder: Rc<Recorder>,
}

impl Service for BootService {
    async fn handle(&self, request: Request<Incoming>, connection: Connection) -> Response {
        let id = CorrelationId::of(&request);
        let target = match Target::parse(request.uri()) {
            Ok(target) => target,
            Err(error) if is_boot_question(request.uri().path()) => {
                return script(self.booter.error(base(connection), &error.to_string()));
            }
            Err(_) => return not_found(&request, &id),
        };
        let segments = target.segments();
        if let ["api", "v1", "report"] | ["api", "v1", "nodes", _, "event"] = segments.as_slice() {
            return self.take_report(request, &segments, &id).await;
        }
        match segments.as_slice() {
            ["api", "v1", "nodes"] => return self.find_node(&request, &target, &id).await,
            ["api", "v1", "nodes", "register"] => {
                return self.register_node(request, connection, &id).await;
            }
            ["api", "v1", "nodes", node, "state"] => {
                return self.move_node(request, node, &id).await;
            }
            _ => {}
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return method_not_allowed(request.method(), "GET, HEAD", &id);
        }
        let query = request.uri().query().unwrap_or_default().to_owned();
        let agent = user_agent(request.headers());
        match segments.as_slice() {
            [name @ ("autoexec.ipxe" | "boot.ipxe")] => self.autoexec(name, connection, &agent),
            ["boot", mac] => {
                self.boot(request::parse_path(mac, &query), &query, connection, &agent).await
            }
            ["api", "v1", "boot"] => {
                self.boot(request::parse_query(&query), &query, connection, &agent).await
            }
            ["files", _, ..] => {
                let session = request::session(&query);
                let response = self.file(&target.rest(1), session, request, connection, &id).await;
                let machine = self.recorder.machine_at(session, address(connection));
                let response = match pacing::pace(&self.quirks, machine, &agent) {
                    Some(pace) => response.map(|body| body.paced(pace)),
                    None => response,
                };
                self.recorder.note_user_agent(session, None, address(connection), &agent);
                response
            }
            ["templates", file] => {
                let mac = target.query("mac").and_then(|mac| mac.parse().ok());
                let named = Named::ByQuery { mac, boot: request::session(&query) };
                self.answer_file(file, named, &request, connection, &id).await
            }
            ["seed", boot, file] if let Ok(boot) = boot.parse() => {
                self.answer_file(file, Named::Seed(boot), &request, connection, &id).await
            }
            ["started"] => self.started(request::session(&query), &request, &id).await,
            ["objects", sha256] => self.object(sha256, request, &id).await,
            ["health"] => json(StatusCode::OK, &self.health().await),
            // An agent that answers is ready: it serves machines without its controller too.
            ["healthz" | "readyz"] => text(StatusCode::OK, "text/plain", "ok\n"),
            _ => not_found(&request, &id),
        }
    }
}

impl BootService {
    fn autoexec(&self, name: &str, connection: Connection, agent: &str) -> Response {
        let (session, step) =
            self.recorder.begin_first_script(address(connection), Protocol::Http, name);
        self.recorder.note_user_agent(Some(session), None, address(connection), agent);
        let loader = self.loader_before(session, agent);
        if let Some(loader) = &loader {
            log::info!(session:%, loader:%, agent; "'{agent}' is told to load {loader} first: [[dhcp.quirk]]");
        }
        let text = self.booter.autoexec(base(connection), session, loader);
        if let Some(step) = step {
            // It fits into one write; whether that arrives shows in what follows.
            self.recorder.end_transfer(step, Ending::Whole, text.len() as u64);
        }
        script(text)
    }

    /// What the operator has a client load before it asks what to boot; once in a boot session, so that a loader which calls itself
    /// the same is no loop.
    fn loader_before(&self, session: BootId, agent: &str) -> Option<ContentKey> {
        let mac = self.recorder.machine_of(session).flatten();
        let loader = self.quirks.iter().find_map(|quirk| quirk.loader_for(mac, agent))?.key();
        let has_tried = self.recorder.with_sessions(|sessions| {
            sessions.has_asked_for(session, |name| library::key(name).as_ref() == Some(loader))
        });
        (!has_tried).then(|| loader.clone())
    }

    async fn answer_file(
        &self,
        file: &str,
        named: Named,
        request: &Request<Incoming>,
        connection: Connection,
        id: &CorrelationId,
    ) -> Response {
        let (address, base) = (address(connection), &base(connection));
        let is_head = request.method() == Method::HEAD;
        let question = Question { file, named, address, base, is_head };
        self.answers.serve(question, &self.recorder, id).await
    }

    /// Always 200: firmware shows a script to whoever stands before it, and a status to nobody.
    async fn boot(
        &self,
        request: Result<BootRequest, RequestError>,
        query: &str,
        connection: Connection,
        agent: &str,
    ) -> Response {
        script(match request {
            Ok(request) => {
                let (mac, session) = (request.mac, request::session(query));
                let peer = connection.peer.map(|peer| peer.ip());
                let text = self.booter.script(request, session, peer, base(connection)).await;
                self.recorder.note_user_agent(None, Some(mac), address(connection), agent);
                text
            }
            Err(error) => self.booter.error(base(connection), &error.to_string()),
        })
    }

    async fn file(
        &self,
        name: &str,
        session: Option<BootId>,
        request: Request<Incoming>,
        connection: Connection,
        id: &CorrelationId,
    ) -> Response {
        let Ok(key) = name.parse::<ContentKey>() else { return not_found(&request, id) };
        let (size_bytes, content) = match self.demand.find(&key).await {
            Found::Here(object) => (object.size_bytes, Content::from(object)),
            Found::Coming(object, arrival) => (object.size_bytes, Content::coming(object, arrival)),
            Found::Passing(through) => {
                let Wanted { sha256, size_bytes, .. } = *through.wanted();
                (size_bytes, Content::passing(sha256, size_bytes, |range| through.bytes(range)))
            }
            not_here => {
                self.recorder.note_missing(session, address(connection), Protocol::Http, name);
                return without_content(&key, &not_here, id);
            }
        };
        let (parts, _) = request.into_parts();
        let transfer = Transfer::new(Protocol::Http, role(&key), name, Some(size_bytes));
        if self.is_full(&parts, &transfer) {
            return busy(id);
        }
        let step = self.recorder.begin_transfer(session, address(connection), transfer);
        let unread = unread_status(&key);
        let response = object_response(&parts, content_type(&key), unread, content).await;
        self.watch(Reading { session, step, key }, &parts, response)
    }

    /// Whether a machine is to ask later for content, so that others get their loaders and scripts.
    fn is_full(&self, request: &Parts, transfer: &Transfer) -> bool {
        request.method == Method::GET
            && transfer.role == Role::Content
            && transfer.size_bytes.is_some_and(|size| size > SMALL_LEN_MAX)
            && self.cache.streams() >= CONTENT_STREAMS_MAX
    }

    /// Has the recorder told when a file is no longer read, and the reporter when its last byte has been taken in a boot session.
    fn watch(&self, reading: Reading, request: &Parts, response: Response) -> Response {
        let Reading { session, step, key } = reading;
        let recorder = Rc::clone(&self.recorder);
        if request.method != Method::GET || !response.status().is_success() {
            let is_unread = response.status().is_server_error();
            let ending = if is_unread { Ending::Unread } else { Ending::Probe };
            if let Some(step) = step {
                recorder.end_transfer(step, ending, 0);
            }
            return response;
        }
        let is_end = reaches_the_end(&response);
        let (executor, reporter) = (Rc::clone(&self.executor), Rc::clone(&self.reporter));
        response.map(|body| {
            body.on_end(move |sent| {
                if let Some(step) = step {
                    let ending = match (sent.is_whole, is_end) {
                        (false, _) => Ending::Cut,
                        (true, false) => Ending::Part,
                        (true, true) => Ending::Whole,
                    };
                    recorder.end_transfer(step, ending, sent.bytes);
                }
                if let Some(session) = session.filter(|_| sent.is_whole && is_end) {
                    let note = async move { reporter.note_fetched(session, &key).await };
                    executor.spawn(note).detach();
                }
            })
        })
    }

    /// `GET /started?boot=…`, which a script fetches before it starts what is not fetched whole.
    async fn started(
        &self,
        session: Option<BootId>,
        request: &Request<Incoming>,
        id: &CorrelationId,
    ) -> Response {
        let Some(session) = session else { return not_found(request, id) };
        if request.method() != Method::GET {
            return method_not_allowed(request.method(), "GET", id);
        }
        match self.reporter.note_started(session).await {
            Ok(()) => text(StatusCode::OK, "text/plain", "started\n"),
            Err(error) => refuse(&error, id),
        }
    }

    async fn object(
        &self,
        sha256: &str,
        request: Request<Incoming>,
        id: &CorrelationId,
    ) -> Response {
        let Ok(hash) = sha256.parse() else { return not_found(&request, id) };
        let Some(object) = self.cache.find_by_hash(hash).await else {
            let detail = format!("the cache of this site holds no object {hash}");
            return problem(StatusCode::NOT_FOUND, "content_not_found", detail, id);
        };
        let (parts, _) = request.into_parts();
        let unread = StatusCode::SERVICE_UNAVAILABLE;
        object_response(&parts, "application/octet-stream", unread, object).await
    }

    async fn take_report(
        &self,
        request: Request<Incoming>,
        segments: &[&str],
        id: &CorrelationId,
    ) -> Response {
        if request.method() != Method::POST {
            return method_not_allowed(request.method(), "POST", id);
        }
        let deadline = clock::monotonic() + REPORT_TIME;
        let body = match read_body(request.into_body(), REPORT_LEN_MAX, deadline).await {
            Ok(body) => body,
            Err(error) => return error.answer(id),
        };
        let taken = match segments {
            ["api", "v1", "nodes", node, "event"] => {
                let Ok(node) = node.parse() else {
                    let detail = format!("'{node}' is not a node's id");
                    return problem(StatusCode::BAD_REQUEST, "invalid_node_id", detail, id);
                };
                match parse::<NodeReport>(&body, |report| &report.event, id) {
                    Ok(NodeReport { boot, event }) => {
                        let taken = self.reporter.report_by_id(node, boot, event.clone()).await;
                        taken.inspect(|_| self.recorder.note_report(boot, None, &event))
                    }
                    Err(response) => return *response,
                }
            }
            _ => match parse::<Report>(&body, |report| &report.event, id) {
                Ok(Report { mac_address: mac, boot, event }) => {
                    let taken = self.reporter.report(mac, boot, event.clone()).await;
                    taken.inspect(|_| self.recorder.note_report(boot, Some(mac), &event))
                }
                Err(response) => return *response,
            },
        };
        match taken {
            Ok(taken) => answer(&taken),
            Err(error) => refuse(&error, id),
        }
    }

    async fn health(&self) -> HealthView {
        let report = self.vitals.report().await;
        let offline_since = report.line.offline_since();
        HealthView {
            mode: report.line.as_str(),
            site_id: report.site_id,
            is_online: offline_since.is_none(),
            offline_duration_seconds: offline_since
                .map_or(0, |since| clock::now().seconds_since(since).max(0)),
            last_online_at: report.last_online_at,
            cache_hit_rate: report.cache.hit_rate,
            nodes_seen: report.nodes_seen_last_hour,
            disk_usage_percent: report.disk_usage_percent,
            queue_stats: QueueStats {
                pending: report.queue_pending,
                processing: report.queue_processing,
                failed: report.queue_parked,
                total: report.queue_pending + report.queue_parked,
            },
        }
    }
}

/// A file that a machine reads.
struct Reading {
    /// In the session that the URL named.
    session: Option<BootId>,
    /// As which step of which session.
    step: Option<StepId>,
    key: ContentKey,
}

/// `GET /health`
#[derive(Serialize)]
struct HealthView {
    mode: &'static str,
    site_id: SiteId,
    is_online: bool,
    offline_duration_seconds: i64,
    last_online_at: Option<Timestamp>,
    cache_hit_rate: Option<f64>,
    nodes_seen: u64,
    disk_usage_percent: f64,
    queue_stats: QueueStats,
}

#[derive(Serialize)]
struct QueueStats {
    pending: u64,
    /// Of those that are pending: what is on its way is pending until it is acknowledged.
    processing: u64,
    failed: u64,
    total: u64,
}

/// What a machine is told about its report.
#[derive(Serialize)]
struct TakenView {
    /// The controller's outcome, or `queued`.
    status: &'static str,
    offline: bool,
    queue_id: ChangeId,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pending_command: Option<PendingCommand>,
}

pub(super) fn answer(taken: &Taken) -> Response {
    let (status, word) = match &taken.result {
        Some(result) => (StatusCode::OK, result.outcome.as_str()),
        None => (StatusCode::ACCEPTED, "queued"),
    };
    let view = TakenView {
        status: word,
        offline: taken.is_offline,
        queue_id: taken.id,
        node_version: taken.result.as_ref().and_then(|result| result.node_version),
        pending_command: taken.pending_command,
    };
    json(status, &Success::new(view))
}

pub(super) fn refuse(error: &Refused, id: &CorrelationId) -> Response {
    let (status, code) = match error {
        Refused::Session { .. } => (StatusCode::FORBIDDEN, "unknown_boot_session"),
        Refused::Unknown(_) => (StatusCode::NOT_FOUND, "node_not_found"),
        Refused::NotJoined => (StatusCode::SERVICE_UNAVAILABLE, "not_joined"),
        Refused::Late => (StatusCode::SERVICE_UNAVAILABLE, "storage_busy"),
        Refused::Store(StoreError::Full | StoreError::Io(_)) => {
            (StatusCode::INSUFFICIENT_STORAGE, "storage_full")
        }
        Refused::Store(StoreError::Busy | StoreError::Damaged(_) | StoreError::Stopped) => {
            (StatusCode::SERVICE_UNAVAILABLE, "storage_busy")
        }
        Refused::Store(StoreError::Other(_)) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "storage_failed")
        }
    };
    log::warn!(correlation_id:% = id; "a report was not taken: {error}");
    let mut response = problem(status, code, error.to_string(), id);
    if status.is_server_error() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
    }
    response
}

/// Too much content is being sent; iPXE asks again by itself.
fn busy(id: &CorrelationId) -> Response {
    let detail = format!("{CONTENT_STREAMS_MAX} files are being sent, ask again soon");
    not_now(StatusCode::SERVICE_UNAVAILABLE, "content_busy", detail, id)
}

/// What a machine is told that asked for content which is not here.
fn without_content(key: &ContentKey, found: &Found, id: &CorrelationId) -> Response {
    match found {
        Found::Failed(failure) => {
            let detail = format!("{key} does not come from the controller: {failure}");
            not_now(unread_status(key), "content_unavailable", detail, id)
        }
        Found::Later => on_its_way(unread_status(key), id),
        Found::Here(_) | Found::Coming(..) | Found::Passing(_) | Found::Unknown => {
            let detail = format!("the cache of this site does not hold {key}");
            problem(StatusCode::NOT_FOUND, "content_not_found", detail, id)
        }
    }
}

/// When a machine whose report or question was not taken should come again.
const RETRY_AFTER_S: &str = "5";

/// Reads a report, and refuses one whose event does not hold.
fn parse<T: DeserializeOwned>(
    body: &[u8],
    event: impl Fn(&T) -> &NodeEvent,
    id: &CorrelationId,
) -> Result<T, Box<Response>> {
    let report = serde_json::from_slice::<T>(body).map_err(|error| {
        let detail = format!("the body is not a report: {error}");
        Box::new(problem(StatusCode::BAD_REQUEST, "invalid_report", detail, id))
    })?;
    let errors = report::check(event(&report));
    if errors.is_empty() { Ok(report) } else { Err(Box::new(invalid(errors, id))) }
}

/// Whether an answer carries the last byte of its file: whole, or the last of its ranges.
fn reaches_the_end(response: &Response) -> bool {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return response.status() == StatusCode::OK;
    }
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
    let end_and_len = range.and_then(|range| range.rsplit_once('-')?.1.split_once('/'));
    end_and_len.is_some_and(|(end, len)| {
        end.parse::<u64>().ok().and_then(|end| end.checked_add(1)) == len.parse().ok()
    })
}

/// Whether a path asks for a script, whatever stands where the address should be.
fn is_boot_question(path: &str) -> bool {
    path.strip_prefix("/boot/").is_some_and(|mac| !mac.contains('/'))
}

/// What the client calls itself; empty if it does not, or not in ASCII.
fn user_agent(fields: &HeaderMap) -> String {
    let agent = fields.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
    agent.unwrap_or_default().to_owned()
}

/// Where the machine is.
pub(super) fn address(connection: Connection) -> IpAddr {
    connection.peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip())
}

/// Where the machine reached the agent, which is what every URL in its script begins with.
fn base(connection: Connection) -> BaseUrl {
    let unspecified = (Ipv4Addr::UNSPECIFIED, 0).into();
    BaseUrl::from(connection.local.unwrap_or(unspecified))
}

fn not_found(request: &Request<Incoming>, id: &CorrelationId) -> Response {
    let detail = format!("there is no {} here", request.uri().path());
    problem(StatusCode::NOT_FOUND, "not_found", detail, id)
}

pub(super) fn method_not_allowed(
    method: &Method,
    allowed: &'static str,
    id: &CorrelationId,
) -> Response {
    let detail = format!("{method} is not for this; it takes {allowed}");
    let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail, id);
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

#[cfg(test)]
mod tests {
    use hyper::header::CONTENT_RANGE;

    use super::*;

    #[test]
    fn the_last_byte_is_in_a_whole_answer_or_in_the_last_range() {
        let part = |range: &'static str| {
            let mut response = text(StatusCode::PARTIAL_CONTENT, "text/plain", "x");
            response.headers_mut().insert(CONTENT_RANGE, HeaderValue::from_static(range));
            response
        };
        assert!(reaches_the_end(&text(StatusCode::OK, "text/plain", "x")));
        assert!(reaches_the_end(&part("bytes 0-9/10")));
        assert!(reaches_the_end(&part("bytes 5-9/10")));
        assert!(!reaches_the_end(&part("bytes 0-8/10")));
        assert!(!reaches_the_end(&part("bytes 0-18446744073709551615/0")));
        assert!(!reaches_the_end(&text(StatusCode::NOT_MODIFIED, "text/plain", "")));
    }
}
