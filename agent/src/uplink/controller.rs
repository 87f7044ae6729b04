//! The controller as the agent sees it: a handful of typed questions over a few kept connections.

mod body;
mod conflicts;
mod nodes;
mod wire;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use futures_rustls::TlsConnector;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HOST, HeaderName, IF_NONE_MATCH, IF_RANGE,
    RANGE,
};
use hyper::http::response::Parts;
use hyper::{Method, Request, Response, StatusCode};
use pureboot_protocol::session::{BootReceipt, BootReport};
use pureboot_protocol::{
    ChangeBatch, ChangeReceipt, ContentHash, CredentialAnnouncement, CredentialHash, Heartbeat,
    HeartbeatAnswer, RegistrationAnswer, RegistrationRequest, Secret, SheetAnswer, SheetQuestion,
    SignedManifest, Success,
};
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use smol::LocalExecutor;
use smol::net::TcpStream;

use self::body::{Body, json, refusal, retry_after, understood};
pub use self::nodes::{NodeAnswer, Trust};
pub use self::wire::Wire;
use crate::exchange::{Connection, ExchangeError, within};
use crate::uplink::url::{CentralUrl, Scheme};

/// For calls that nobody waits for: name, connection, handshake and answer together.
pub const UNHURRIED: Duration = Duration::from_secs(10);

/// For calls that find out whether the controller is in reach.
pub const CHECK: Duration = Duration::from_secs(5);

/// For questions that a booting machine waits for.
pub const AT_BOOT: Duration = Duration::from_millis(700);

/// Connections that are kept for the next question.
const IDLE_MAX: usize = 4;

/// The longest body, in bytes, that goes as it is: below, gzip saves no packet.
const GZIP_LEN_MIN: usize = 1_024;

/// The longest manifest, in bytes: some 25,000 names.
pub const MANIFEST_LEN_MAX: usize = 8 * 1024 * 1024;

/// The longest refusal, in bytes.
const PROBLEM_LEN_MAX: usize = 64 * 1024;

/// How long nothing of a long answer may come. It may take as long as the line needs.
const STALL_TIME: Duration = Duration::from_secs(30);

/// Why the controller gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The host's name or address leads nowhere.
    #[error("cannot connect to {authority}: {error}")]
    Connect {
        /// Host and port.
        authority: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// Somebody answers there, but not with a certificate that the pinned authorities vouch for, or not in TLS.
    #[error("no trusted TLS with {authority}: {error}")]
    Tls {
        /// Host and port.
        authority: String,
        /// What rustls said.
        error: std::io::Error,
    },
    /// The exchange was late or broke off.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// The controller refused.
    #[error("the controller refused: {0}")]
    Refused(Refusal),
    /// Something answered that is not the controller's API, such as a captive portal.
    #[error("the answer is not the controller's: {0}")]
    Foreign(String),
}

/// A refusal in the controller's own words.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The HTTP status.
    pub status: StatusCode,
    /// The stable code.
    pub code: String,
    /// The sentence.
    pub detail: String,
    /// When to come back, as far as the controller said.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {})", self.detail, self.status.as_u16(), self.code)
    }
}

impl CallError {
    /// Whether the line is to blame and not the request.
    pub fn is_line_trouble(&self) -> bool {
        match self {
            Self::Refused(_) => false,
            Self::Connect { .. } | Self::Tls { .. } | Self::Exchange(_) | Self::Foreign(_) => true,
        }
    }
}

/// A client for one controller. Cheap to share within the executor's thread.
pub struct Controller {
    url: CentralUrl,
    tls: Option<TlsConnector>,
    executor: Rc<LocalExecutor<'static>>,
    credential: RefCell<Option<Secret>>,
    /// None before the agent has joined.
    trust: Cell<Option<Trust>>,
    /// How often that has changed.
    changes: Cell<u64>,
    /// Whether bodies are understood in gzip; false once one has been refused, for as long as the agent runs.
    takes_gzip: Cell<bool>,
    /// None: connections carry requests.
    wire: Option<Rc<dyn Wire>>,
    idle: RefCell<Vec<Connection>>,
    /// Content has a connection of its own, so that nothing short waits behind something long (FAULTS N10).
    idle_for_content: RefCell<Option<Connection>>,
}

/// A manifest as the controller has sent it; nothing of it has been checked.
#[derive(Debug)]
pub struct Issue {
    /// What the controller calls these bytes.
    pub etag: Option<String>,
    /// The manifest.
    pub signed: SignedManifest,
}

/// An answer whose body is read as it comes. Dropping it closes the connection, unless it was read to its end.
pub struct Download {
    /// What the controller said before the first byte.
    pub head: Parts,
    body: Incoming,
    /// None once the body has ended.
    connection: Option<Connection>,
    controller: Rc<Controller>,
}

impl Download {
    /// The next bytes; none at the end.
    ///
    /// # Errors
    /// The body broke off, or nothing came for half a minute.
    pub async fn next(&mut self) -> Result<Option<Bytes>, CallError> {
        loop {
            let next = within(STALL_TIME, async {
                Ok::<_, ExchangeError>(self.body.frame().await.transpose())
            });
            let Some(frame) = next.await?.map_err(ExchangeError::Broken)? else {
                let whole = self.connection.take().filter(Connection::is_open);
                if let Some(connection) = whole {
                    *self.controller.idle_for_content.borrow_mut() = Some(connection);
                }
                return Ok(None);
            };
            if let Ok(bytes) = frame.into_data() {
                return Ok(Some(bytes));
            }
        }
    }

    /// All of the body.
    ///
    /// # Errors
    /// It broke off, or is longer than `len_max`.
    pub async fn collect(mut self, len_max: usize) -> Result<Vec<u8>, CallError> {
        let mut collected = Vec::new();
        while let Some(bytes) = self.next().await? {
            if collected.len() + bytes.len() > len_max {
                return Err(CallError::Foreign(format!("an answer of more than {len_max} bytes")));
            }
            collected.extend_from_slice(&bytes);
        }
        Ok(collected)
    }

    /// What the controller says by an answer that is no success.
    pub async fn refusal(self) -> CallError {
        let (status, retry_after) = (self.head.status, retry_after(&self.head.headers));
        match self.collect(PROBLEM_LEN_MAX).await {
            Ok(body) => refusal(status, retry_after, &body),
            Err(error) => error,
        }
    }
}
impl Controller {
    /// A client that has not called yet; `tls` is needed for `https`.
    pub fn new(executor: Rc<LocalExecutor<'static>>, url: CentralUrl, tls: TlsConnector) -> Self {
        let tls = (url.scheme() == Scheme::Https).then_some(tls);
        Self {
            url,
            tls,
            executor,
            credential: RefCell::default(),
            trust: Cell::default(),
            changes: Cell::default(),
            takes_gzip: Cell::new(true),
            wire: None,
            idle: RefCell::default(),
            idle_for_content: RefCell::default(),
        }
    }

    /// The same over `wire`. Content is not fetched over it.
    pub fn over(self, wire: Rc<dyn Wire>) -> Self {
        Self { wire: Some(wire), ..self }
    }

    /// Where it calls.
    pub fn url(&self) -> &CentralUrl {
        &self.url
    }

    /// Sends `credential` with every call from now on.
    pub fn authenticate(&self, credential: Secret) {
        *self.credential.borrow_mut() = Some(credential);
        self.changes.update(|changes| changes + 1);
    }

    /// Asks whether the controller is there.
    ///
    /// # Errors
    /// It is not, or something else is.
    pub async fn check(&self) -> Result<(), CallError> {
        let _alive: serde_json::Value = self.call(Method::GET, "/readyz", None, CHECK).await?;
        Ok(())
    }

    /// Asks as [`Controller::check`] does, over a new connection, and hands over the answer as it came: what it is takes a
    /// person to be told.
    ///
    /// # Errors
    /// No answer came within `budget`.
    pub async fn look(&self, budget: Duration) -> Result<Response<Bytes>, CallError> {
        let request = self.request(Method::GET, "/readyz", None);
        within(budget, async {
            Ok::<_, CallError>(self.exchange(self.connect().await?, request, budget).await?)
        })
        .await
    }

    /// Redeems a token.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub async fn register(
        &self,
        request: &RegistrationRequest,
    ) -> Result<RegistrationAnswer, CallError> {
        self.post("/api/v1/agents/register", request, UNHURRIED).await
    }

    /// Says what the agent will call with from its next use on.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub async fn announce(&self, credential_hash: CredentialHash) -> Result<(), CallError> {
        let announcement = CredentialAnnouncement { credential_hash };
        let _taken: serde_json::Value =
            self.post("/api/v1/agents/credential", &announcement, UNHURRIED).await?;
        Ok(())
    }

    /// Says that the agent lives.
    ///
    /// # Errors
    /// No answer in time, or a refusal.
    pub async fn heartbeat(
        &self,
        heartbeat: &Heartbeat,
        budget: Duration,
    ) -> Result<HeartbeatAnswer, CallError> {
        self.post("/api/v1/agents/heartbeat", heartbeat, budget).await
    }

    /// Hands over changes, in gzip where that is worth it. A controller of an earlier version answers 415 and takes nothing;
    /// it gets them as they are.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub async fn deliver(&self, batch: &ChangeBatch) -> Result<ChangeReceipt, CallError> {
        self.post_packed("/api/v1/agents/changes", batch).await
    }

    /// Hands over boot sessions, as [`Controller::deliver`] does changes.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub async fn hand_over(&self, report: &BootReport) -> Result<BootReceipt, CallError> {
        self.post_packed("/api/v1/agents/boots", report).await
    }

    /// What the answer files of one node are made of; nothing of it has been checked.
    ///
    /// # Errors
    /// No answer in time, or a refusal.
    pub async fn sheet(
        &self,
        question: &SheetQuestion,
        budget: Duration,
    ) -> Result<SheetAnswer, CallError> {
        let answer: Success<SheetAnswer> =
            self.post("/api/v1/agents/answers", question, budget).await?;
        Ok(answer.data)
    }

    /// What the site is to hold; none if that is still what the controller called `etag`.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub async fn manifest(self: &Rc<Self>, etag: Option<&str>) -> Result<Option<Issue>, CallError> {
        let fields = etag.map(|etag| (IF_NONE_MATCH, etag.to_owned()));
        let download = self.open("/api/v1/agents/manifest", fields).await?;
        match download.head.status {
            StatusCode::NOT_MODIFIED if etag.is_some() => {
                // To its end, so that the connection is kept.
                download.collect(0).await?;
                return Ok(None);
            }
            StatusCode::OK => {}
            _ => return Err(download.refusal().await),
        }
        let etag = download.head.headers.get(ETAG).and_then(|etag| etag.to_str().ok());
        let etag = etag.map(ToOwned::to_owned);
        let body = download.collect(MANIFEST_LEN_MAX).await?;
        let answer: Success<SignedManifest> = serde_json::from_slice(&body)
            .map_err(|error| CallError::Foreign(format!("it is no manifest: {error}")))?;
        Ok(Some(Issue { etag, signed: answer.data }))
    }

    /// The bytes in `range` of content by its hash; all of it where none is given. What the controller makes of that is in the
    /// answer's head.
    ///
    /// # Errors
    /// No answer.
    pub async fn object(
        self: &Rc<Self>,
        hash: ContentHash,
        range: Option<Range<u64>>,
    ) -> Result<Download, CallError> {
        let part = range.map(|Range { start, end }| {
            let range = format!("bytes={start}-{}", end.saturating_sub(1));
            [(RANGE, range), (IF_RANGE, object_etag(hash))]
        });
        self.open(&format!("/api/v1/agents/objects/{hash}"), part.into_iter().flatten()).await
    }

    /// The list of an object's chunk hashes, of at most `len_max` bytes.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub async fn object_chunks(
        self: &Rc<Self>,
        hash: ContentHash,
        len_max: usize,
    ) -> Result<Vec<u8>, CallError> {
        let download = self.open(&format!("/api/v1/agents/objects/{hash}/chunks"), None).await?;
        if download.head.status != StatusCode::OK {
            return Err(download.refusal().await);
        }
        download.collect(len_max).await
    }

    /// Asks for something long over the connection for content.
    async fn open(
        self: &Rc<Self>,
        path: &str,
        fields: impl IntoIterator<Item = (HeaderName, String)>,
    ) -> Result<Download, CallError> {
        let mut request = self.request(Method::GET, path, None);
        for (name, value) in fields {
            let value = value.parse().map_err(|_| {
                CallError::Foreign(format!("'{value}' cannot be sent back as {name}"))
            })?;
            request.headers_mut().insert(name, value);
        }
        if let Some(mut kept) = self.idle_for_content.take().filter(Connection::is_open) {
            match kept.begin(request.clone(), UNHURRIED).await {
                // It may have been closed a moment ago.
                Err(ExchangeError::Broken(error)) => {
                    log::debug!(error:%; "the connection for content that was kept is of no use");
                }
                begun => return Ok(self.download(begun?, kept)),
            }
        }
        within(2 * UNHURRIED, async {
            let mut connection = self.connect().await?;
            let begun = connection.begin(request, UNHURRIED).await?;
            Ok(self.download(begun, connection))
        })
        .await
    }

    fn download(self: &Rc<Self>, answer: Response<Incoming>, connection: Connection) -> Download {
        let (head, body) = answer.into_parts();
        Download { head, body, connection: Some(connection), controller: Rc::clone(self) }
    }

    async fn post<Q: Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        question: &Q,
        budget: Duration,
    ) -> Result<A, CallError> {
        self.call(Method::POST, path, Some(Body::plain(json(question))), budget).await
    }

    /// Posts in gzip where that is worth it.
    async fn post_packed<Q: Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        question: &Q,
    ) -> Result<A, CallError> {
        understood(&self.deliver_packed(path, json(question)).await?)
    }

    async fn deliver_packed(
        &self,
        path: &str,
        mut plain: Vec<u8>,
    ) -> Result<Response<Bytes>, CallError> {
        if self.takes_gzip.get() && plain.len() > GZIP_LEN_MIN {
            let packed;
            (packed, plain) = Body::packed(plain).await;
            match self.carry(Method::POST, path, Some(packed), UNHURRIED).await {
                Err(CallError::Refused(refusal))
                    if refusal.status == StatusCode::UNSUPPORTED_MEDIA_TYPE =>
                {
                    log::info!("the controller takes no gzip, bodies go as they are");
                    self.takes_gzip.set(false);
                }
                outcome => return outcome,
            }
        }
        self.carry(Method::POST, path, Some(Body::plain(plain)), UNHURRIED).await
    }

    async fn call<A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Body>,
        budget: Duration,
    ) -> Result<A, CallError> {
        understood(&self.carry(method, path, body, budget).await?)
    }

    /// Asks, whatever is answered: what depends on its type is compiled once for each, and this is much.
    async fn carry(
        &self,
        method: Method,
        path: &str,
        body: Option<Body>,
        budget: Duration,
    ) -> Result<Response<Bytes>, CallError> {
        let changes = self.changes.get();
        let outcome = self.carry_once(method.clone(), path, body.clone(), budget).await;
        match outcome {
            // The credential that it was sent with has ended while it was under way.
            Err(CallError::Refused(refusal))
                if refusal.status == StatusCode::UNAUTHORIZED && self.changes.get() != changes =>
            {
                self.carry_once(method, path, body, budget).await
            }
            outcome => outcome,
        }
    }

    async fn carry_once(
        &self,
        method: Method,
        path: &str,
        body: Option<Body>,
        budget: Duration,
    ) -> Result<Response<Bytes>, CallError> {
        let request = self.request(method, path, body);
        let answer = within(budget, async {
            if let Some(wire) = &self.wire {
                return wire.carry(request).await;
            }
            if let Some(kept) = self.kept() {
                match self.exchange(kept, request.clone(), budget).await {
                    // The controller may have closed the kept connection a moment ago. Every call may be sent twice: a
                    // registration, a heartbeat and a batch all name themselves.
                    Err(ExchangeError::Broken(_)) => {}
                    settled => return Ok(settled?),
                }
            }
            Ok::<_, CallError>(self.exchange(self.connect().await?, request, budget).await?)
        })
        .await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let retry_after = retry_after(answer.headers());
        Err(refusal(answer.status(), retry_after, answer.body()))
    }

    async fn exchange(
        &self,
        mut connection: Connection,
        request: Request<Full<Bytes>>,
        budget: Duration,
    ) -> Result<Response<Bytes>, ExchangeError> {
        let answer = connection.exchange(request, budget).await?;
        let mut idle = self.idle.borrow_mut();
        if connection.is_open() && idle.len() < IDLE_MAX {
            idle.push(connection);
        }
        Ok(answer)
    }

    /// A connection on which a question was answered, the latest of them.
    fn kept(&self) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        idle.retain(Connection::is_open);
        idle.pop()
    }

    fn request(&self, method: Method, path: &str, body: Option<Body>) -> Request<Full<Bytes>> {
        let mut request =
            Request::builder().method(method).uri(path).header(HOST, self.url.authority());
        if let Some(credential) = &*self.credential.borrow() {
            request = request.header(AUTHORIZATION, format!("Bearer {}", credential.reveal()));
        }
        if let Some(body) = &body {
            request = request.header(CONTENT_TYPE, "application/json");
            if body.is_gzip {
                request = request.header(CONTENT_ENCODING, "gzip");
            }
        }
        let bytes = body.map_or_else(Bytes::new, |body| Bytes::from(body.bytes));
        request
            .body(Full::new(bytes))
            .expect("a method, a path of parsed ids and fixed header names make a request")
    }

    async fn connect(&self) -> Result<Connection, CallError> {
        let authority = self.url.authority();
        let stream = TcpStream::connect((self.url.host(), self.url.port()))
            .await
            .map_err(|error| CallError::Connect { authority: authority.clone(), error })?;
        // A failure costs speed only.
        _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else {
            return Ok(Connection::open(&self.executor, stream).await?);
        };
        let name = ServerName::try_from(self.url.host().to_owned()).map_err(|error| {
            CallError::Tls { authority: authority.clone(), error: std::io::Error::other(error) }
        })?;
        let stream =
            tls.connect(name, stream).await.map_err(|error| CallError::Tls { authority, error })?;
        Ok(Connection::open(&self.executor, stream).await?)
    }
}

/// How the controller writes the ETag of an object: content is what its hash says, so nothing else can be meant.
pub fn object_etag(hash: ContentHash) -> String {
    format!("\"{hash}\"")
}

#[cfg(test)]
mod tests;
