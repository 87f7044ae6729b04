//! Bytes on a connection of the boot listener, from the first to the machine's end of it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use pureboot_agent::boot::request;
use pureboot_agent::cache::Lent;
use pureboot_agent::clock;
use pureboot_agent::http::{
    Connection, CorrelationId, Limits, Listener, Representation, Response, Selection, Service,
    Sink, Target, problem, select, serve, text,
};
use smol::LocalExecutor;
use smol::io::{AsyncRead, AsyncWrite};

/// A connection that ends must be over after so many steps of the executor, whatever was said on it.
const STEPS_MAX: usize = 10_000;

/// What the agent writes is a row of whole answers, each with its length, and a body with each refusal.
pub fn check(data: &[u8]) {
    let mut written = converse(data);
    while !written.is_empty() {
        written = check_answer(&written).to_vec();
    }
}

/// Checks the first answer; returns what follows it.
fn check_answer(written: &[u8]) -> &[u8] {
    let end = written.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a whole head");
    let (head, rest) = written.split_at(end + 4);
    let head = std::str::from_utf8(head).expect("a head of ASCII");
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.")).expect("a status line");
    let status: u16 = status.get(2..5).and_then(|code| code.parse().ok()).expect("a status");
    if status == 100 {
        return rest;
    }
    let lens: Vec<usize> = lines
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .filter_map(|(_, value)| value.trim().parse().ok())
        .collect();
    assert!(!head.to_ascii_lowercase().contains("transfer-encoding"), "chunks:\n{head}");
    if status == 304 {
        return rest;
    }
    // BOOT §5.2: firmware follows no redirect.
    assert!(!(300..400).contains(&status), "a redirect:\n{head}");
    let &[len] = lens.as_slice() else { panic!("not one length:\n{head}") };
    assert!(status < 400 || len > 0, "a refusal without a body:\n{head}");
    // The answer to HEAD has the length and no body; the next answer or the end follows at once.
    if rest.is_empty() || rest.starts_with(b"HTTP/1.") {
        rest
    } else {
        rest.get(len..).expect("a whole body")
    }
}

/// Plays a connection to its end, and returns what the agent wrote.
fn converse(data: &[u8]) -> Vec<u8> {
    let executor = Rc::new(LocalExecutor::new());
    let wire = Rc::new(RefCell::new(Wire { unread: data.to_vec().into(), ..Wire::default() }));
    let listener = OneConnection(RefCell::new(Some(Stream(Rc::clone(&wire)))));
    let serving = Rc::clone(&executor);
    let task = executor.spawn(async move {
        serve(&serving, listener, Limits::default(), Rc::new(Boots)).await;
    });
    for _ in 0..STEPS_MAX {
        executor.try_tick();
        if wire.borrow().is_accepted && Rc::strong_count(&wire) == 1 {
            // The task holds the executor that holds it; it is let go of when the executor next looks at it.
            drop(task);
            while executor.try_tick() {}
            return std::mem::take(&mut wire.borrow_mut().written);
        }
    }
    panic!("the connection is not over, although the machine has ended it");
}

/// Answers as the boot listener does, from nothing but the request.
struct Boots;

impl Service for Boots {
    async fn handle(&self, request: Request<Incoming>, _: Connection) -> Response {
        let id = CorrelationId::of(&request);
        let Ok(target) = Target::parse(request.uri()) else {
            return problem(StatusCode::NOT_FOUND, "not_found", "no such thing", &id);
        };
        let query = request.uri().query().unwrap_or_default();
        for segment in target.segments() {
            assert!(!segment.is_empty() && segment != "." && segment != "..");
            _ = request::parse_path(segment, query);
        }
        let file = Representation {
            size_bytes: 1_000,
            etag: "\"0123\"".to_owned(),
            modified: clock::now(),
        };
        match select(request.headers(), &file, request.method() == Method::GET) {
            Selection::Part(range) => {
                assert!(range.start < range.end && range.end <= file.size_bytes, "{range:?}");
                text(StatusCode::PARTIAL_CONTENT, "text/plain", "part")
            }
            // A body that begins like an answer could not be told from the one after a HEAD.
            Selection::Whole => {
                text(StatusCode::OK, "text/plain", format!("path {}", target.rest(0)))
            }
            Selection::NotModified => {
                let mut response = text(StatusCode::OK, "text/plain", "");
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                response
            }
            // Refusals without a body: the server has to add one.
            Selection::PreconditionFailed => {
                text(StatusCode::PRECONDITION_FAILED, "text/plain", "")
            }
            Selection::Unsatisfiable => text(StatusCode::RANGE_NOT_SATISFIABLE, "text/plain", ""),
        }
    }
}

/// What has not been read and what was written.
#[derive(Default)]
struct Wire {
    unread: VecDeque<u8>,
    written: Vec<u8>,
    is_accepted: bool,
}

#[derive(Clone)]
struct Stream(Rc<RefCell<Wire>>);

struct OneConnection(RefCell<Option<Stream>>);

impl Listener for OneConnection {
    type Stream = Stream;

    async fn accept(&self) -> io::Result<(Stream, Connection)> {
        let next = self.0.borrow_mut().take();
        match next {
            Some(stream) => {
                stream.0.borrow_mut().is_accepted = true;
                Ok((stream, Connection { peer: None, local: None }))
            }
            None => future::pending().await,
        }
    }
}

/// Nothing that is asked here is a file's.
impl Sink for Stream {
    fn poll_send(&self, _: &mut Lent, _: &mut Context<'_>) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }

    fn poll_write_ahead(
        &self,
        _: &[io::IoSlice<'_>],
        _: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }

    fn poll_readable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut wire = self.0.borrow_mut();
        let len = buffer.len().min(wire.unread.len());
        for (place, byte) in buffer.iter_mut().zip(wire.unread.drain(..len)) {
            *place = byte;
        }
        Poll::Ready(Ok(len))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().written.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
