//! The calls about nodes on the listener that machines reach (API.md §4), besides scripts and events. Each has a function of its
//! own: nothing that a machine sent becomes part of a path or a header of a call to the controller but an address or id that was
//! parsed (FAULTS H16).

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use pureboot_protocol::{
    BootId, BootRequest, HardwareFact, Lifecycle, LifecycleError, Mac, NodeEvent, NodeEventKind,
    NodeId, Page, PendingCommand, Success,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::boot::booter::{Registered, Sighting, Unregistered};
use crate::boot::http::{
    BootService, REPORT_LEN_MAX, REPORT_TIME, address, answer, method_not_allowed, refuse,
};
use crate::clock;
use crate::http::{Connection, CorrelationId, Response, Target, json, not_now, problem, read_body};

/// A node as machines are told of it. What its workflow says may hold secrets, and stays out of it.
#[derive(Debug, Serialize)]
struct NodeView {
    id: NodeId,
    mac_address: Mac,
    hostname: Option<String>,
    state: Lifecycle,
    version: u64,
    pending_command: Option<PendingCommand>,
    /// Whether the controller did not answer.
    offline: bool,
}

impl From<Sighting> for NodeView {
    fn from(Sighting { record, is_past }: Sighting) -> Self {
        Self {
            id: record.node_id,
            mac_address: record.mac_address,
            hostname: record.hostname,
            state: record.state,
            version: record.version,
            pending_command: record.pending_command,
            offline: is_past,
        }
    }
}

/// `PATCH /api/v1/nodes/{id}/state`
#[derive(Debug, Deserialize)]
struct Move {
    state: Lifecycle,
    boot: BootId,
    message: Option<HardwareFact>,
}

/// `POST /api/v1/nodes/register`; what is not understood says nothing.
#[derive(Debug, Deserialize)]
struct Registration {
    mac_address: Mac,
    boot: Option<BootId>,
    #[serde(flatten)]
    facts: std::collections::BTreeMap<String, serde_json::Value>,
}

impl Registration {
    fn request(&self) -> BootRequest {
        let mut request = BootRequest::new(self.mac_address);
        for (name, value) in &self.facts {
            request.learn(name, value.as_str().unwrap_or_default());
        }
        request
    }
}

/// What a machine is told that was taken note of.
#[derive(Debug, Serialize)]
struct RegisteredView {
    status: &'static str,
    node_id: NodeId,
    boot: BootId,
}

/// Why a machine's word on its state does not count.
#[derive(Debug, PartialEq, Eq)]
enum Unreported {
    /// The lifecycle has no such move.
    Impossible(LifecycleError),
    /// It is for the centre to decide.
    NotTheMachines(Lifecycle),
}

/// The event by which a machine in state `from` reports to be in state `to`. A machine says what it has done, in the course of its
/// installation; nothing that it says has a disk written or a node retired.
fn event_of(from: Lifecycle, to: Lifecycle) -> Result<NodeEventKind, Unreported> {
    let kind = match to {
        Lifecycle::Installing => NodeEventKind::InstallStarted,
        Lifecycle::Installed => NodeEventKind::InstallComplete,
        Lifecycle::Active => NodeEventKind::FirstBoot,
        Lifecycle::InstallFailed => NodeEventKind::InstallFailed,
        _ => return Err(Unreported::NotTheMachines(to)),
    };
    // What it said before it may say again.
    let is_failure = (from, to) == (Lifecycle::Installing, Lifecycle::InstallFailed);
    if from == to || is_failure || from.after(kind) == Some(to) {
        return Ok(kind);
    }
    from.transition(to).map_err(Unreported::Impossible)?;
    Err(Unreported::NotTheMachines(to))
}

impl BootService {
    /// `GET /api/v1/nodes?mac=`
    pub(super) async fn find_node(
        &self,
        request: &Request<Incoming>,
        target: &Target,
        id: &CorrelationId,
    ) -> Response {
        if request.method() != Method::GET {
            return method_not_allowed(request.method(), "GET", id);
        }
        let mac = target.query("mac").unwrap_or_default();
        match mac.parse::<Mac>() {
            Ok(mac) => {
                let found = self.booter.look_up(mac).await.map(NodeView::from);
                let total = u64::from(found.is_some());
                let data: Vec<_> = found.into_iter().collect();
                json(StatusCode::OK, &Page { success: true, data, total, next_cursor: None })
            }
            Err(error) => {
                let detail = format!("say whose node it is, as in ?mac=52:54:00:12:34:56: {error}");
                problem(StatusCode::BAD_REQUEST, "invalid_mac", detail, id)
            }
        }
    }

    /// `PATCH /api/v1/nodes/{id}/state`: what a machine may say of its state is an event in other words.
    pub(super) async fn move_node(
        &self,
        request: Request<Incoming>,
        node: &str,
        id: &CorrelationId,
    ) -> Response {
        if request.method() != Method::PATCH {
            return method_not_allowed(request.method(), "PATCH", id);
        }
        let Ok(node) = node.parse::<NodeId>() else {
            let detail = format!("'{node}' is not a node's id");
            return problem(StatusCode::BAD_REQUEST, "invalid_node_id", detail, id);
        };
        let Move { state, boot, message } = match read(request, id).await {
            Ok(body) => body,
            Err(response) => return *response,
        };
        let from = self.vitals.store.node_by_id(node).and_then(|node| node.known);
        let Some(from) = from.map(|known| known.record.state) else {
            let detail = format!("no machine {node} has asked for a script here");
            return problem(StatusCode::NOT_FOUND, "node_not_found", detail, id);
        };
        let kind = match event_of(from, state) {
            Ok(kind) => kind,
            Err(Unreported::Impossible(error)) => {
                let detail = error.to_string();
                return problem(StatusCode::BAD_REQUEST, "invalid_transition", detail, id);
            }
            Err(Unreported::NotTheMachines(state)) => {
                let detail =
                    format!("from {from} to {state} is for the centre to decide: ask an operator");
                return problem(StatusCode::FORBIDDEN, "not_the_machines_to_decide", detail, id);
            }
        };
        let event = NodeEvent { message, ..NodeEvent::new(kind) };
        let taken = self.reporter.report_by_id(node, boot, event.clone()).await;
        match taken.inspect(|_| self.recorder.note_report(boot, None, &event)) {
            Ok(taken) => answer(&taken),
            Err(error) => refuse(&error, id),
        }
    }

    /// `POST /api/v1/nodes/register`
    pub(super) async fn register_node(
        &self,
        request: Request<Incoming>,
        connection: Connection,
        id: &CorrelationId,
    ) -> Response {
        if request.method() != Method::POST {
            return method_not_allowed(request.method(), "POST", id);
        }
        let body: Registration = match read(request, id).await {
            Ok(body) => body,
            Err(response) => return *response,
        };
        let registered =
            self.booter.register_machine(body.request(), body.boot, address(connection)).await;
        match registered {
            Ok(Registered { node_id, session }) => {
                let view = RegisteredView { status: "queued", node_id, boot: session };
                json(StatusCode::ACCEPTED, &Success::new(view))
            }
            Err(error @ Unregistered::NotItself(_)) => {
                problem(StatusCode::FORBIDDEN, "unknown_boot_session", error.to_string(), id)
            }
            Err(error @ Unregistered::NotNow(_)) => {
                let status = StatusCode::SERVICE_UNAVAILABLE;
                not_now(status, "controller_away", error.to_string(), id)
            }
            Err(error @ Unregistered::Unkept(..)) => {
                let status = StatusCode::INSUFFICIENT_STORAGE;
                not_now(status, "storage_full", error.to_string(), id)
            }
        }
    }
}

async fn read<T: DeserializeOwned>(
    request: Request<Incoming>,
    id: &CorrelationId,
) -> Result<T, Box<Response>> {
    let deadline = clock::monotonic() + REPORT_TIME;
    let body = read_body(request.into_body(), REPORT_LEN_MAX, deadline).await;
    let body = body.map_err(|error| Box::new(error.answer(id)))?;
    serde_json::from_slice(&body).map_err(|error| {
        let detail = format!("the body does not say what is needed: {error}");
        Box::new(problem(StatusCode::BAD_REQUEST, "invalid_report", detail, id))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h19_a_machine_reports_its_installation_and_decides_nothing() {
        use Lifecycle::*;
        let mut taken = Vec::new();
        for from in Lifecycle::ALL {
            for to in Lifecycle::ALL {
                match event_of(*from, *to) {
                    Ok(_) => taken.push((*from, *to)),
                    Err(Unreported::Impossible(error)) => {
                        assert_eq!(from.transition(*to), Err(error));
                    }
                    Err(Unreported::NotTheMachines(state)) => assert_eq!(state, *to),
                }
            }
        }
        let moves: Vec<_> = taken.iter().copied().filter(|(from, to)| from != to).collect();
        let expected = [
            (Pending, Installing),
            (Installing, InstallFailed),
            (Installing, Installed),
            (Installed, Active),
        ];
        assert_eq!(moves, expected);
        let repeated: Vec<_> = taken.iter().filter(|(from, to)| from == to).collect();
        assert_eq!(repeated.len(), 4, "{repeated:?}");
    }

    #[test]
    fn h20_a_registration_learns_only_what_it_understands() {
        let text = r#"{"mac_address": "52-54-00-12-34-56", "serial": "a\nb", "vendor": 7, "url": "http://169.254.169.254", "arch": "x86_64"}"#;
        let request = serde_json::from_str::<Registration>(text).expect("a registration").request();
        let mut expected = BootRequest::new("52:54:00:12:34:56".parse().expect("an address"));
        expected.learn("serial", "a_b");
        expected.learn("arch", "x86_64");
        assert_eq!(request, expected);
    }
}
