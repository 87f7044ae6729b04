//! Objects of the cache as answers.

use std::fmt;
use std::future::Future;
use std::io;
use std::num::NonZeroU32;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use pureboot_protocol::{Category, ContentHash, ContentKey, Timestamp};
use smol::Timer;
use smol::stream::{Stream, StreamExt as _};

#[cfg(doc)]
use crate::cache::PINNED_BYTES_MAX;
use crate::cache::{Arrival, Object, Reading};
use crate::clock;

use super::loan::Chunk;
use super::pacing::Pacer;
use super::range::http_date;
use super::{Body, CorrelationId, Representation, Response, Selection, problem, select};

/// How long the first byte of an answer is waited for where an object is still coming.
const FIRST_BYTE_TIME: Duration = Duration::from_secs(10);

/// What is not longer is copied into this program and leaves together with its head, in bytes.
const COPIED_LEN_MAX: usize = 64 << 10;

/// When to come back for content that cannot be given, in seconds.
const RETRY_AFTER_S: &str = "5";

/// What is read.
pub struct Content {
    representation: Representation,
    source: Source,
}

enum Source {
    /// An object of the cache, and its arrival where it has not come to its end.
    Held(Object, Option<Arrival>),
    /// Bytes that nobody keeps, from the range on that is asked for.
    Passing(Box<dyn FnOnce(Range<u64>) -> Bytestream>),
}

type Bytestream = Pin<Box<dyn Stream<Item = io::Result<Bytes>>>>;

impl Content {
    /// An object whose end has not come yet; the answer keeps pace with it.
    pub fn coming(object: Object, arrival: Arrival) -> Self {
        Self { source: Source::Held(object.clone(), Some(arrival)), ..Self::from(object) }
    }

    /// Content that is not in the cache: `bytes` gives those of a range as they come.
    pub fn passing<S: Stream<Item = io::Result<Bytes>> + 'static>(
        sha256: ContentHash,
        size_bytes: u64,
        bytes: impl FnOnce(Range<u64>) -> S + 'static,
    ) -> Self {
        Self {
            representation: representation(sha256, size_bytes, clock::now()),
            source: Source::Passing(Box::new(|range| Box::pin(bytes(range)))),
        }
    }
}

impl From<Object> for Content {
    fn from(object: Object) -> Self {
        Self {
            representation: representation(object.sha256, object.size_bytes, object.modified),
            source: Source::Held(object, None),
        }
    }
}

fn representation(sha256: ContentHash, size_bytes: u64, modified: Timestamp) -> Representation {
    Representation { size_bytes, etag: format!("\"{sha256}\""), modified }
}

/// The type that a name's extension stands for. BOOT §5.4: UEFI HTTP Boot compares these as whole texts, and takes a loader
/// without extension only if its type says that it is one.
pub fn content_type(key: &ContentKey) -> &'static str {
    let name = key.path().rsplit('/').next().unwrap_or_default();
    let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    match extension.as_deref() {
        Some("efi") => "application/efi",
        Some("iso") => "application/vnd.efi-iso",
        Some("img") => "application/vnd.efi-img",
        Some("ipxe" | "cfg" | "ks" | "txt" | "yaml" | "yml") => "text/plain",
        Some("json") => "application/json",
        None if key.category() == Category::Bootloaders => "application/efi",
        _ => "application/octet-stream",
    }
}

/// What is answered where content cannot be read, or is not here yet: 503 with `Retry-After`, which iPXE obeys. Firmware that asks for a loader knows
/// no waiting, so it is told at once that it has to try something else. (Loaders are [kept in memory](PINNED_BYTES_MAX); this is
/// for one that does not fit there, or has yet to come.)
pub fn unread_status(key: &ContentKey) -> StatusCode {
    match key.category() {
        Category::Bootloaders => StatusCode::INTERNAL_SERVER_ERROR,
        Category::Scripts
        | Category::Templates
        | Category::Plugins
        | Category::Agents
        | Category::Images => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Answers a GET or HEAD for an object: whole, one range of it, or why not.
///
/// The first bytes are read before the head is sent, so a small file goes out in one write and a file that cannot be read is
/// answered with the status `unread`. A file that ends early later on ends the connection: a body is never filled up.
pub async fn object_response(
    request: &Parts,
    content_type: &'static str,
    unread: StatusCode,
    content: impl Into<Content>,
) -> Response {
    let Content { representation, source } = content.into();
    let correlation_id = CorrelationId::in_extensions(&request.extensions);
    let is_get = request.method == Method::GET;
    if !is_get && request.method != Method::HEAD {
        let detail = format!("content is read with GET and HEAD, not with {}", request.method);
        let status = StatusCode::METHOD_NOT_ALLOWED;
        let mut response = problem(status, "method_not_allowed", detail, &correlation_id);
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let size_bytes = representation.size_bytes;
    let mut response = match select(&request.headers, &representation, is_get) {
        Selection::Whole if is_get => {
            bytes_of(source, 0..size_bytes, unread, &correlation_id).await
        }
        Selection::Whole => {
            // The server takes the body off, and leaves its length.
            Response::new(Body::Object(ObjectBody::new(source, 0..size_bytes)))
        }
        Selection::Part(range) => {
            let content_range = format!("bytes {}-{}/{size_bytes}", range.start, range.end - 1);
            let mut response = bytes_of(source, range, unread, &correlation_id).await;
            if response.status() == StatusCode::OK {
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                insert(&mut response, header::CONTENT_RANGE, &content_range);
            }
            response
        }
        Selection::NotModified => {
            let mut response = Response::new(Body::Empty);
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        }
        Selection::PreconditionFailed => {
            let detail = format!("the content is now {}", representation.etag);
            let status = StatusCode::PRECONDITION_FAILED;
            return problem(status, "precondition_failed", detail, &correlation_id);
        }
        Selection::Unsatisfiable => {
            let detail =
                format!("the content has {size_bytes} bytes, and none of them was asked for");
            let status = StatusCode::RANGE_NOT_SATISFIABLE;
            let mut response = problem(status, "range_not_satisfiable", detail, &correlation_id);
            insert(&mut response, header::CONTENT_RANGE, &format!("bytes */{size_bytes}"));
            return response;
        }
    };
    if !response.status().is_server_error() {
        insert(&mut response, header::ETAG, &representation.etag);
        insert(&mut response, header::LAST_MODIFIED, &http_date(representation.modified));
        insert(&mut response, header::ACCEPT_RANGES, "bytes");
        insert(&mut response, header::CONTENT_TYPE, content_type);
    }
    response
}

/// Puts a field into a head. The text is digits, hexadecimal or a date; one that is no field value is left out.
fn insert(response: &mut Response, name: header::HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        response.headers_mut().insert(name, value);
    }
}

async fn bytes_of(
    source: Source,
    range: Range<u64>,
    unread: StatusCode,
    id: &CorrelationId,
) -> Response {
    let is_coming = !matches!(source, Source::Held(_, None));
    let mut body = ObjectBody::new(source, range);
    let late = async {
        match is_coming {
            true => _ = Timer::after(FIRST_BYTE_TIME).await,
            false => std::future::pending().await,
        }
        Err(io::Error::from(io::ErrorKind::TimedOut))
    };
    match smol::future::or(body.read_ahead(), late).await {
        Ok(()) => Response::new(Body::Object(body)),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => on_its_way(unread, id),
        Err(error) => {
            log::error!(error:%, correlation_id:% = id; "cannot read content");
            let detail = "the content cannot be read at the moment; its loss is in the agent's log";
            not_now(unread, "content_unreadable", detail, id)
        }
    }
}

/// What a machine is told that cannot wait for content which is still coming. iPXE asks again of its own accord after 503.
pub fn on_its_way(unread: StatusCode, id: &CorrelationId) -> Response {
    let detail = "the content is on its way from the controller; ask again";
    not_now(unread, "content_on_its_way", detail, id)
}

/// The status `unread`, with a time to come back after if that is 503.
pub fn not_now(
    unread: StatusCode,
    code: &str,
    detail: impl Into<String>,
    id: &CorrelationId,
) -> Response {
    let mut response = problem(unread, code, detail, id);
    if unread == StatusCode::SERVICE_UNAVAILABLE {
        insert(&mut response, header::RETRY_AFTER, RETRY_AFTER_S);
    }
    response
}

/// A range of an object, one chunk of it in memory at a time.
pub struct ObjectBody {
    feed: Feed,
    /// What has not been handed to hyper, [`next`](Self::next) included.
    rest: Range<u64>,
    next: Next,
    /// How fast they go, where that is not as fast as the peer takes them.
    pacer: Option<Box<Pacer>>,
    /// The length of the whole answer.
    len: u64,
    on_end: Option<Box<dyn FnOnce(Sent)>>,
}

/// Where the bytes come from.
enum Feed {
    Held {
        object: Object,
        /// Where the object is still coming.
        arrival: Option<Arrival>,
        /// Counts as a reader as long as the body lives, which is what the length of chunks depends on.
        reading: Reading,
    },
    /// One reads at a time; it is shared with the future that does.
    Passing(Rc<smol::lock::Mutex<Bytestream>>),
}

/// What a connection has taken of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// So many bytes.
    pub bytes: u64,
    /// Whether that is all of it.
    pub is_whole: bool,
}

enum Next {
    /// Nobody asked yet.
    Unread,
    /// The last chunk was lent, which takes no waiting: the other connections come first.
    Yielding,
    /// A thread reads the next chunk.
    Pending(Pin<Box<dyn Future<Output = io::Result<Chunk>>>>),
    /// The chunk is here.
    Ready(Chunk),
}

impl ObjectBody {
    /// The bytes of `source` in `range`, which lies within it.
    fn new(source: Source, range: Range<u64>) -> Self {
        let feed = match source {
            Source::Held(object, arrival) => {
                Feed::Held { reading: object.reading(), object, arrival }
            }
            Source::Passing(bytes) => {
                Feed::Passing(Rc::new(smol::lock::Mutex::new(bytes(range.clone()))))
            }
        };
        Self {
            feed,
            len: range.end - range.start,
            rest: range,
            next: Next::Unread,
            pacer: None,
            on_end: None,
        }
    }

    /// Has `told` called once: when the connection has taken the last byte, or will take no more.
    pub(super) fn on_end(&mut self, told: Box<dyn FnOnce(Sent)>) {
        self.on_end = Some(told);
    }

    /// Sends no faster than this.
    pub(super) fn pace(&mut self, bytes_per_s: NonZeroU32) {
        self.pacer = Some(Box::new(Pacer::new(bytes_per_s)));
    }

    fn tell_end(&mut self) {
        if let Some(told) = self.on_end.take() {
            told(Sent { bytes: self.len - self.len(), is_whole: self.len() == 0 });
        }
    }

    /// How many bytes are still to come.
    pub(super) fn len(&self) -> u64 {
        self.rest.end - self.rest.start
    }

    /// Reads the first chunk.
    ///
    /// # Errors
    /// The file cannot be read, or ends early.
    async fn read_ahead(&mut self) -> io::Result<()> {
        if self.len() > 0 {
            self.next = Next::Ready(self.read_chunk().await?);
        }
        Ok(())
    }

    /// The next chunk as hyper asks for it; none at the end.
    pub(super) fn poll_chunk(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Chunk>>> {
        if self.len() == 0 {
            return Poll::Ready(None);
        }
        let mut read = match std::mem::replace(&mut self.next, Next::Unread) {
            Next::Ready(chunk) => return self.poll_hand_out(chunk, context).map(Ok).map(Some),
            Next::Pending(read) => read,
            Next::Unread => self.read_chunk(),
            Next::Yielding => {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
        };
        match read.as_mut().poll(context) {
            Poll::Ready(Ok(chunk)) => self.poll_hand_out(chunk, context).map(Ok).map(Some),
            Poll::Ready(Err(error)) => Poll::Ready(Some(Err(error))),
            Poll::Pending => {
                self.next = Next::Pending(read);
                Poll::Pending
            }
        }
    }

    fn poll_hand_out(&mut self, mut chunk: Chunk, context: &mut Context<'_>) -> Poll<Chunk> {
        let Some(pacer) = &mut self.pacer else { return Poll::Ready(self.hand_out(chunk)) };
        let burst = pacer.poll_burst(&mut chunk, context);
        if !chunk.is_empty() {
            self.next = Next::Ready(chunk);
        }
        burst.map(|burst| self.hand_out(burst))
    }

    fn hand_out(&mut self, chunk: Chunk) -> Chunk {
        self.rest.start += chunk.len() as u64;
        if self.len() == 0 {
            self.tell_end();
        } else if matches!((&self.next, &chunk), (Next::Unread, Chunk::Lent(_))) {
            self.next = Next::Yielding;
        }
        chunk
    }

    fn read_chunk(&self) -> Pin<Box<dyn Future<Output = io::Result<Chunk>>>> {
        let rest = self.rest.clone();
        match &self.feed {
            Feed::Held { object, arrival, reading } => {
                Box::pin(read_held(object.clone(), arrival.clone(), rest, reading.chunk_len()))
            }
            Feed::Passing(stream) => {
                let stream = Rc::clone(stream);
                Box::pin(async move {
                    let next = stream.lock().await.next().await;
                    let next = next.unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()));
                    next.map(Chunk::Bytes)
                })
            }
        }
    }
}

/// The first bytes of `rest`: from the kernel's memory where they are there, else read, at most `len_max` of them.
async fn read_held(
    object: Object,
    arrival: Option<Arrival>,
    rest: Range<u64>,
    len_max: usize,
) -> io::Result<Chunk> {
    let end = match arrival {
        Some(arrival) => arrival.beyond(rest.start).await?.min(rest.end),
        None => rest.end,
    };
    let len = usize::try_from(end - rest.start).unwrap_or(usize::MAX);
    if len > COPIED_LEN_MAX
        && let Some(lent) = object.lend(rest.start, len)
    {
        return Ok(Chunk::Lent(lent));
    }
    let len = len.min(len_max);
    let at_once = object.read_now(rest.start, len.min(COPIED_LEN_MAX))?;
    let chunk = match at_once.filter(|chunk| chunk.len() == len) {
        Some(chunk) => chunk,
        None => object.read_at(rest.start, len).await?,
    };
    if chunk.len() == len {
        return Ok(Chunk::Bytes(chunk.into()));
    }
    let end = rest.start + chunk.len() as u64;
    let text = format!("object {} ends at byte {end}, before its length", object.sha256);
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, text))
}

impl Drop for ObjectBody {
    fn drop(&mut self) {
        self.tell_end();
    }
}

impl fmt::Debug for ObjectBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectBody").field("rest", &self.rest).finish_non_exhaustive()
    }
}
