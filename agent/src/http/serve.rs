//! A listener and its connections on the executor.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request};
use smol::future::FutureExt;
use smol::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use smol::net::unix::{UnixListener, UnixStream};
use smol::net::{TcpListener, TcpStream};
use smol::{LocalExecutor, Timer};
use smol_hyper::rt::FuturesIo;

use super::answer::finish;
use super::head::{Refusal, vet};
use super::limits::{BUFFER_LEN_MAX, HEAD_LEN_MAX, Occupancy};
use super::loan::{Piece, Sink};
use super::wire::{Exchange, Wire};
use super::{Body, CorrelationId, Limits, Response, problem};

/// How long a listener rests when it cannot accept. FAULTS H7: it is back within a second when descriptors are.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long, and for how many bytes, what a peer still sends is thrown away after the last answer. Without that the kernel
/// answers it with RST, and the peer may lose the answer.
const LINGER_TIME: Duration = Duration::from_secs(2);
const LINGER_LEN_MAX: usize = 1 << 20;

/// What answers requests.
pub trait Service {
    /// Answers one request. It has no deadline but its own; the connection's are in [`Limits`].
    fn handle(
        &self,
        request: Request<Incoming>,
        connection: Connection,
    ) -> impl Future<Output = Response>;
}

/// Who speaks to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// The peer; none on a Unix socket.
    pub peer: Option<SocketAddr>,
    /// The address that the peer reached, which is what URLs in answers name; none on a Unix socket.
    pub local: Option<SocketAddr>,
}

/// Where connections come from.
pub trait Listener {
    /// One connection; its clones are the same connection.
    type Stream: AsyncRead + AsyncWrite + Sink + Clone + Unpin + 'static;

    /// The next connection.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Connection)>>;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Connection)> {
        let (stream, peer) = TcpListener::accept(self).await?;
        // What hyper writes is whole; waiting for more would cost a script 40 ms.
        stream.set_nodelay(true)?;
        let connection = Connection { peer: Some(peer), local: stream.local_addr().ok() };
        Ok((stream, connection))
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Connection)> {
        let (stream, _) = UnixListener::accept(self).await?;
        Ok((stream, Connection { peer: None, local: None }))
    }
}

/// Accepts connections for ever and answers their requests with `service`. Each connection is a task on `executor`.
pub async fn serve<L: Listener, S: Service + 'static>(
    executor: &Rc<LocalExecutor<'static>>,
    listener: L,
    limits: Limits,
    service: Rc<S>,
) {
    let occupancy = House::default();
    let mut failures: u64 = 0;
    loop {
        match listener.accept().await {
            Ok((stream, connection)) => {
                if failures > 0 {
                    log::info!(failures; "connections are accepted again");
                    failures = 0;
                }
                let exchange = Exchange::new(limits);
                if let Some(seat) = Seat::take(&occupancy, connection, &exchange, &limits) {
                    let service = Rc::clone(&service);
                    let answering = async move {
                        converse(stream, connection, exchange, limits, &*service).await;
                        drop(seat);
                    };
                    executor.spawn(answering).detach();
                    // Whoever waits to be accepted may be gone already: each gets its turn to leave before the next is counted.
                    smol::future::yield_now().await;
                } else {
                    // One line each would let a flood fill the log.
                    log::debug!(connection:?; "closing a connection at once, there are too many");
                }
            }
            Err(error) => {
                if failures == 0 {
                    log::warn!(error:%; "cannot accept connections, trying on");
                }
                failures += 1;
                if error.kind() != io::ErrorKind::ConnectionAborted {
                    Timer::after(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

type House = Rc<RefCell<Occupancy<Rc<RefCell<Exchange>>>>>;

/// One connection's place among [`Limits::connections_max`].
struct Seat {
    house: House,
    number: u64,
}

impl Seat {
    fn take(
        house: &House,
        connection: Connection,
        exchange: &Rc<RefCell<Exchange>>,
        limits: &Limits,
    ) -> Option<Self> {
        let address = connection.peer.map(|peer| peer.ip());
        let entered = house.borrow_mut().enter(address, Rc::clone(exchange), limits)?;
        if let Some(dismissed) = entered.dismissed {
            dismissed.borrow_mut().dismiss();
        }
        Some(Self { house: Rc::clone(house), number: entered.number })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.house.borrow_mut().leave(self.number);
    }
}

/// Serves one connection to its end.
async fn converse<T, S>(
    mut stream: T,
    connection: Connection,
    exchange: Rc<RefCell<Exchange>>,
    limits: Limits,
    service: &S,
) where
    T: AsyncRead + AsyncWrite + Sink + Clone + Unpin + 'static,
    S: Service,
{
    let wire = FuturesIo::new(Wire::new(stream.clone(), Rc::clone(&exchange)));
    let answer = service_fn(|request: Request<Incoming>| {
        exchange.borrow_mut().handle_request(!request.body().is_end_stream());
        let turn = Turn(Rc::clone(&exchange));
        async move {
            let response = respond(service, request, connection).await;
            Ok::<_, Infallible>(response.map(|body| Outgoing { body, turn }))
        }
    });
    let mut http = http1::Builder::new();
    http.max_header_size(HEAD_LEN_MAX).max_buf_size(BUFFER_LEN_MAX);
    // Head and first bytes of a body leave in one system call. The wire has the deadlines, hyper's own is not wanted.
    http.writev(true).header_read_timeout(None);
    let ended = http.serve_connection(wire, answer).await;
    if let Err(error) = &ended {
        log::debug!(error:%, connection:?; "a connection ended before its time");
    }
    if exchange.borrow().is_dismissed {
        // Its place is another's: it may not keep a descriptor any longer.
        return;
    }
    // The wire's reason comes first: hyper takes it for a failure of the socket, or for its end.
    let refusal = exchange.borrow().refusal;
    let refusal = refusal.or_else(|| ended.as_ref().err().and_then(refusal_of));
    match refusal {
        Some(refusal) if exchange.borrow().patience.is_quiet() => {
            let bytes = emit_refusal(refusal);
            let written = async { stream.write_all(&bytes).await };
            if written.or(late(limits.head_time)).await.is_err() {
                return;
            }
        }
        None if ended.is_ok() => {}
        // The peer is gone, or half of an answer is with it: silence is all that is left.
        _ => return,
    }
    linger(stream).await;
}

async fn late<T>(duration: Duration) -> io::Result<T> {
    Timer::after(duration).await;
    Err(io::ErrorKind::TimedOut.into())
}

/// Ends the writing side and throws away what still comes, within limits.
async fn linger<T: AsyncRead + AsyncWrite + Unpin>(mut stream: T) {
    let drained = async {
        stream.close().await?;
        // Not within the task, which would have it for as long as the connection lives.
        let mut buffer = vec![0; 4_096];
        let mut drained_len = 0;
        loop {
            match stream.read(&mut buffer).await? {
                0 => return Ok(()),
                len if drained_len + len > LINGER_LEN_MAX => return Ok(()),
                len => drained_len += len,
            }
        }
    };
    // The connection is over either way.
    _ = drained.or(late(LINGER_TIME)).await;
}

async fn respond<S: Service>(
    service: &S,
    mut request: Request<Incoming>,
    connection: Connection,
) -> Response {
    let is_head = request.method() == Method::HEAD;
    let correlation_id = CorrelationId::from_fields(request.headers());
    request.extensions_mut().insert(correlation_id.clone());
    let (parts, body) = request.into_parts();
    let response = match vet(&parts) {
        // Boxed, so that a connection that is idle has no room for the making of an answer.
        Ok(()) => Box::pin(service.handle(Request::from_parts(parts, body), connection)).await,
        Err(refusal) => refuse(refusal, &correlation_id),
    };
    finish(response, is_head, &correlation_id)
}

fn refuse(refusal: Refusal, correlation_id: &CorrelationId) -> Response {
    let detail = refusal.to_string();
    let mut response = problem(refusal.status(), refusal.code(), detail, correlation_id);
    response.headers_mut().extend(refusal.fields());
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// What an error of hyper's means for the peer; none if the connection itself failed.
fn refusal_of(error: &hyper::Error) -> Option<Refusal> {
    if error.is_parse_too_large() {
        Some(Refusal::HeadTooLong)
    } else if error.is_parse() {
        Some(Refusal::Malformed)
    } else {
        None
    }
}

/// An answer in place of the one that hyper would have written.
fn emit_refusal(refusal: Refusal) -> Vec<u8> {
    let correlation_id = CorrelationId::from_fields(&header::HeaderMap::new());
    let response = finish(refuse(refusal, &correlation_id), false, &correlation_id);
    let mut bytes = format!("HTTP/1.1 {}\r\n", response.status()).into_bytes();
    for (name, value) in response.headers() {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    if let Body::Full(body) = response.body() {
        bytes.extend_from_slice(body);
    }
    bytes
}

/// The time in which an answer belongs to the service.
struct Turn(Rc<RefCell<Exchange>>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.borrow_mut().patience.handle_answer_end();
    }
}

/// A body that ends its service's turn when hyper has taken the last of it.
struct Outgoing {
    body: Body,
    turn: Turn,
}

impl hyper::body::Body for Outgoing {
    type Data = Piece;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Piece>>>> {
        let chunk = ready!(self.body.poll_chunk(context));
        let loans = &mut self.turn.0.borrow_mut().loans;
        Poll::Ready(chunk.map(|chunk| Ok(Frame::data(loans.exchange(chunk?)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.body.len())
    }
}

#[cfg(test)]
mod tests;
