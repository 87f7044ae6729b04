//! Hands answer files to machines: `GET /templates/{file}?mac=&boot=` and `GET /seed/{boot}/{file}`, where cloud-init finds its NoCloud data.

use std::net::IpAddr;

use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, HeaderValue, RETRY_AFTER};
use pureboot_protocol::{AnswerFile, Assignment, BootId, FileName, Mac, NodeId, TemplateKind};
use pureboot_templates::BaseUrl;

use super::gate::{Asker, Hidden};
use super::keeper::Answers;
use super::render::{Job, Place, Unmade, content_type};
use super::shelf::Held;
use crate::clock;
use crate::http::{CorrelationId, Response, problem, text};
use crate::session::recorder::Recorder;
use crate::session::step::{Ending, Protocol, Role, Transfer};
use crate::store::{CachedNode, StoreError};

/// When a machine should come back whose file was not to be had.
const RETRY_AFTER_S: &str = "5";

/// What cloud-init asks for of a seed, and cannot do without.
const META_DATA: &str = "meta-data";
/// What it asks for again and again where there is none.
const VENDOR_DATA: &str = "vendor-data";

/// A question for a file.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The file's name, as it stands in the URL.
    pub file: &'a str,
    /// Whose it is, as far as the URL says.
    pub named: Named,
    /// Where the question comes from.
    pub address: IpAddr,
    /// Where the machine reached the agent.
    pub base: &'a BaseUrl,
    /// Whether only the head of the answer is asked for.
    pub is_head: bool,
}

/// Whom a URL names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// `?mac=` and `&boot=`, as far as they are there.
    ByQuery {
        /// The machine.
        mac: Option<Mac>,
        /// The boot session.
        boot: Option<BootId>,
    },
    /// The boot session of a seed.
    Seed(BootId),
}

impl Named {
    fn boot(self) -> Option<BootId> {
        match self {
            Self::ByQuery { boot, .. } => boot,
            Self::Seed(boot) => Some(boot),
        }
    }
}

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(
        "name the machine: /templates/{{file}}?mac=, or the boot session: /seed/{{boot}}/{{file}}"
    )]
    Nobody,
    #[error("no boot session {0} is known here: boot the machine again")]
    Session(BootId),
    #[error("no machine {0} has asked for a script here")]
    Machine(Mac),
    #[error("there is no answer file '{name}' for {mac}; {}", known(.files))]
    File { name: String, mac: Mac, files: Vec<String> },
    #[error("the answer files of {mac} are not at this site yet: {why}")]
    NotYet { mac: Mac, why: String },
    #[error("the answer file cannot be made: {0}")]
    Unmade(#[from] Unmade),
    #[error("the answer files cannot be looked up: {0}")]
    Store(#[from] StoreError),
}

/// The files that there are, as a sentence.
fn known(files: &[String]) -> String {
    match files {
        [] => "its workflow has none".to_owned(),
        files => format!("its workflow has {}", files.join(", ")),
    }
}

impl Refused {
    fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Nobody => (StatusCode::BAD_REQUEST, "machine_not_named"),
            Self::Session(_) => (StatusCode::NOT_FOUND, "unknown_boot_session"),
            Self::Machine(_) => (StatusCode::NOT_FOUND, "node_not_found"),
            Self::File { .. } => (StatusCode::NOT_FOUND, "answer_not_found"),
            Self::NotYet { .. } => (StatusCode::SERVICE_UNAVAILABLE, "answer_unavailable"),
            // Asking again does not help: somebody has to change the template or set what it asks for.
            Self::Unmade(_) => (StatusCode::INTERNAL_SERVER_ERROR, "answer_broken"),
            Self::Store(_) => (StatusCode::SERVICE_UNAVAILABLE, "storage_busy"),
        }
    }
}

/// A file that was made.
struct Made {
    mac: Mac,
    boot: Option<BootId>,
    kind: TemplateKind,
    text: String,
    secrets: Secrets,
}

/// What became of a file's secrets.
enum Secrets {
    /// It has none.
    None,
    /// They are in it.
    Given,
    /// They are hidden.
    Hidden(Hidden),
}

impl Answers {
    /// Answers `question`, and has `recorder` told.
    pub async fn serve(
        &self,
        question: Question<'_>,
        recorder: &Recorder,
        id: &CorrelationId,
    ) -> Response {
        match self.make(question, recorder).await {
            Ok(made) => answer(question, made, recorder),
            Err(refused) => {
                let Question { file, address, named, .. } = question;
                log::warn!(correlation_id:% = id, address:%; "no answer file {file:?}: {refused}");
                recorder.note_missing(named.boot(), address, Protocol::Http, &shown(file));
                let (status, code) = refused.status();
                let mut response = problem(status, code, refused.to_string(), id);
                if status == StatusCode::SERVICE_UNAVAILABLE {
                    let after = HeaderValue::from_static(RETRY_AFTER_S);
                    response.headers_mut().insert(RETRY_AFTER, after);
                }
                response
            }
        }
    }

    async fn make(&self, question: Question<'_>, recorder: &Recorder) -> Result<Made, Refused> {
        let mac = self.machine(question, recorder).await?;
        let node = self.store.node(mac).ok_or(Refused::Machine(mac))?;
        let granted = self.shelf.granted(mac).await?;
        let boot = question.named.boot().or(granted.map(|grant| grant.session));
        let held = self.held(question, &node).await?;
        let name: Option<FileName> = question.file.parse().ok();
        let Some((name, file)) =
            name.as_ref().and_then(|name| held.sheet.files.get_key_value(name))
        else {
            return default_seed(question, &node, boot).ok_or_else(|| Refused::File {
                name: shown(question.file),
                mac,
                files: held.sheet.files.keys().map(|name| name.as_str().to_owned()).collect(),
            });
        };
        let secrets = match file.secrets.is_empty() {
            true => Secrets::None,
            false => self.judge(question, &node, (name, file), &held, recorder).await?,
        };
        let texts = self.shelf.texts(&held.sheet).await?;
        // A machine that names no session, of which none is known, is in one that nobody can report for.
        let session = boot.unwrap_or_else(|| BootId::from_random([0; 16]));
        let place = Place { node: &node, boot: session, base: question.base };
        let given = match secrets {
            Secrets::Given => held.secrets.as_ref(),
            Secrets::None | Secrets::Hidden(_) => None,
        };
        let job = Job::new(&held, (name, file), &texts, place, given)?;
        let text = self.render(job).await?;
        Ok(Made { mac, boot, kind: file.kind, text, secrets })
    }

    /// The machine that a question is about.
    async fn machine(&self, question: Question<'_>, recorder: &Recorder) -> Result<Mac, Refused> {
        if let Named::ByQuery { mac: Some(mac), .. } = question.named {
            return Ok(mac);
        }
        let boot = question.named.boot().ok_or(Refused::Nobody)?;
        let known = match recorder.machine_of(boot).flatten() {
            Some(mac) => Some(mac),
            None => self.store.session_mac(boot).await?,
        };
        known.ok_or(Refused::Session(boot))
    }

    /// The sheet of a machine; where there is none, the controller is asked.
    async fn held(&self, question: Question<'_>, node: &CachedNode) -> Result<Held, Refused> {
        let mac = node.mac();
        if let Some(held) = self.shelf.held(mac).await? {
            return Ok(held);
        }
        let record = node.known.as_ref().map(|known| &known.record);
        let workflow = record.and_then(|record| record.workflow.as_ref());
        let has_files = workflow
            .and_then(Assignment::workflow)
            .is_some_and(|workflow| !workflow.templates.is_empty());
        let why = match self.standing.is_worth_asking() {
            true if has_files => self.refresh(mac).await.err().map(|error| error.to_string()),
            _ => None,
        };
        match self.shelf.held(mac).await? {
            Some(held) => Ok(held),
            None if has_files => {
                let why = why.unwrap_or_else(|| "the controller is away".to_owned());
                Err(Refused::NotYet { mac, why })
            }
            None => {
                let name = shown(question.file);
                Err(Refused::File { name, mac, files: Vec::new() })
            }
        }
    }

    /// Whether the secrets of a file are given; if they are to be sent, that is on disk when this returns.
    async fn judge(
        &self,
        question: Question<'_>,
        node: &CachedNode,
        (name, file): (&FileName, &AnswerFile),
        held: &Held,
        recorder: &Recorder,
    ) -> Result<Secrets, Refused> {
        let secrets = held.secrets.as_ref();
        if !file.secrets.iter().all(|name| secrets.is_some_and(|it| it.contains_key(name))) {
            return Ok(Secrets::Hidden(Hidden::Gone));
        }
        let mac = node.mac();
        let asker = Asker {
            session: question.named.boot(),
            address: question.address,
            is_machine: recorder.machine_at(None, question.address) == Some(mac),
        };
        let state = node.known.as_ref().map(|known| known.record.state);
        let (now, taken) = (clock::now(), !question.is_head);
        let verdict = self.shelf.open(mac, name.clone(), asker, state, now, taken).await?;
        Ok(match verdict {
            Ok(()) => Secrets::Given,
            Err(hidden) => Secrets::Hidden(hidden),
        })
    }
}

/// What a seed has that its workflow does not name: cloud-init starts with nothing at all where it finds no meta-data, and looks for
/// vendor-data for seconds.
fn default_seed(question: Question<'_>, node: &CachedNode, boot: Option<BootId>) -> Option<Made> {
    let Named::Seed(_) = question.named else { return None };
    let text = match question.file {
        META_DATA => meta_data(node),
        VENDOR_DATA => String::new(),
        _ => return None,
    };
    let (mac, kind) = (node.mac(), TemplateKind::CloudInit);
    Some(Made { mac, boot, kind, text, secrets: Secrets::None })
}

/// The least that makes an instance: its id, which is the node's, and its name.
fn meta_data(node: &CachedNode) -> String {
    let id: NodeId = node.node_id;
    let hostname = node.known.as_ref().and_then(|known| known.record.hostname.as_deref());
    let is_name = |c: char| c.is_ascii_alphanumeric() || ".-".contains(c);
    match hostname.filter(|name| name.chars().all(is_name)) {
        Some(name) => format!("instance-id: {id}\nlocal-hostname: {name}\n"),
        None => format!("instance-id: {id}\n"),
    }
}

/// Sends what was made, and has it told.
fn answer(question: Question<'_>, made: Made, recorder: &Recorder) -> Response {
    let Question { file, address, is_head, .. } = question;
    let Made { mac, boot, kind, text: body, secrets } = made;
    let role = match &secrets {
        Secrets::Given | Secrets::None => Role::Answers,
        Secrets::Hidden(_) => Role::AnswersHidden,
    };
    let len = u64::try_from(body.len()).unwrap_or(u64::MAX);
    match &secrets {
        Secrets::Hidden(why) => {
            log::warn!(mac:%, address:%; "{file} of {mac} goes to {address} with its secrets hidden: {why}");
        }
        Secrets::Given if !is_head => {
            log::info!(mac:%, address:%, bytes = len; "{file} of {mac} goes to {address} with its secrets");
        }
        Secrets::Given | Secrets::None => {
            log::debug!(mac:%, address:%, bytes = len; "{file} of {mac} goes to {address}");
        }
    }
    let transfer = Transfer::new(Protocol::Http, role, file, Some(len));
    if let Some(step) = recorder.begin_transfer(boot, address, transfer) {
        // Whether it arrives shows in what follows.
        let (ending, sent) = if is_head { (Ending::Probe, 0) } else { (Ending::Whole, len) };
        recorder.end_transfer(step, ending, sent);
    }
    let mut response = text(StatusCode::OK, content_type(kind), body);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A name of a stranger's making, short enough to be shown.
fn shown(name: &str) -> String {
    name.chars().take(64).collect()
}
