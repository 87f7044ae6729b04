//! HTTP as a client that we did not write says it (minreq), and as bytes on a connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// What a request may take when nothing else is said, in seconds, on a busy machine.
const TIMEOUT_SECONDS: u64 = 30;
/// The slowest that a long body passes there, in bytes a second.
const SLOWEST_BYTES_PER_S: u64 = 1 << 20;

/// An answer that was read to its end.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The fields, with names in lower case.
    pub fields: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a field; `name` in lower case.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// It is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("status {}, but not JSON: {}", self.status, self.text()))
    }

    /// Refuses an answer with another status.
    ///
    /// # Errors
    /// The status is another one; then the body is told.
    pub fn expect(self, status: u16) -> Result<Self> {
        ensure!(
            self.status == status,
            "expected status {status}, got {}: {}",
            self.status,
            self.text()
        );
        Ok(self)
    }
}

/// Asks without a body on a Unix socket, which minreq does not know.
///
/// # Errors
/// No complete answer came.
pub fn ask_socket(socket: &Path, method: &str, path: &str) -> Result<Answer> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("{}", socket.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(TIMEOUT_SECONDS)))?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")?;
    let mut received = Vec::new();
    stream.read_to_end(&mut received)?;
    parse(&received).with_context(|| format!("{method} {path}"))
}

/// Reads an answer whose body ends with the connection.
fn parse(received: &[u8]) -> Result<Answer> {
    let text = String::from_utf8_lossy(received);
    let (head, body) = text.split_once("\r\n\r\n").context("the head does not end")?;
    let mut lines = head.lines();
    let status = match statuses(lines.next().unwrap_or_default().as_bytes()).as_slice() {
        [status] => *status,
        _ => bail!("not an answer: {head}"),
    };
    let fields = lines.filter_map(|line| line.split_once(':'));
    let fields: Vec<_> =
        fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    Ok(Answer { status, fields, body: body.as_bytes().to_vec() })
}

/// Sends a request made with minreq; redirects are not followed.
///
/// # Errors
/// No complete answer came within 30 s.
pub fn send(request: minreq::Request) -> Result<Answer> {
    send_within(request, TIMEOUT_SECONDS)
}

/// As [`send`], with a body of so many bytes there or back, which may take longer.
///
/// # Errors
/// No complete answer came in the time that such a body may take.
pub fn send_long(request: minreq::Request, body_len: usize) -> Result<Answer> {
    send_within(request, TIMEOUT_SECONDS + body_len as u64 / SLOWEST_BYTES_PER_S)
}

fn send_within(request: minreq::Request, limit_s: u64) -> Result<Answer> {
    let response = request.with_timeout(limit_s).with_follow_redirects(false).send()?;
    let status = response.status_code;
    let fields: Vec<_> = response
        .headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
        .collect();
    let answer = Answer { status, fields, body: response.into_bytes() };
    // minreq takes a truncated answer for a whole one. HEAD and 304 have a length and no body.
    if let Some(length) = answer.field("content-length").filter(|_| !answer.body.is_empty()) {
        ensure!(
            length == answer.body.len().to_string(),
            "{} bytes came of {length}",
            answer.body.len()
        );
    }
    Ok(answer)
}

/// Asks with GET.
///
/// # Errors
/// No complete answer came.
pub fn get(url: &str) -> Result<Answer> {
    send(minreq::get(url)).with_context(|| format!("GET {url}"))
}

/// Sends JSON with POST.
///
/// # Errors
/// No complete answer came.
pub fn post(url: &str, body: &Value) -> Result<Answer> {
    let request = minreq::post(url)
        .with_header("content-type", "application/json")
        .with_body(body.to_string());
    send(request).with_context(|| format!("POST {url}"))
}

/// Writes `bytes` on a new connection and reads until the other side closes or `limit` passes.
///
/// Returns what came, and whether the other side closed the connection.
///
/// # Errors
/// No connection.
pub fn exchange(address: SocketAddr, bytes: &[u8], limit: Duration) -> Result<(Vec<u8>, bool)> {
    let mut stream = TcpStream::connect_timeout(&address, limit)
        .with_context(|| format!("cannot connect to {address}"))?;
    // The server may refuse early and close: what it said before that is what counts.
    _ = stream.write_all(bytes);
    Ok(drain(&mut stream, limit))
}

/// Reads until the other side closes or `limit` passes; returns what came, and whether it closed.
pub fn drain(stream: &mut TcpStream, limit: Duration) -> (Vec<u8>, bool) {
    let deadline = Instant::now() + limit;
    let mut received = Vec::new();
    let mut buffer = [0; 4_096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return (received, false);
        }
        match stream.read(&mut buffer) {
            Ok(0) => return (received, true),
            Ok(len) => received.extend(buffer.iter().take(len)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return (received, false);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return (received, true),
        }
    }
}

/// The statuses of all answers in what came back on one connection.
pub fn statuses(received: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(received);
    let starts = text.match_indices("HTTP/1.").filter_map(|(at, _)| text.get(at + 9..at + 12));
    starts.filter_map(|status| status.parse().ok()).collect()
}
