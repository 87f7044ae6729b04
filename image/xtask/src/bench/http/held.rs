//! Fresh requests while others hold connections and do nothing with them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::client::{Answer, Outcome, connect, request};
use super::rows::{self, Held};

/// For how long fresh requests are made.
const PROBE_TIME: Duration = Duration::from_secs(3);
/// Between two of them.
const PROBE_PAUSE: Duration = Duration::from_millis(3);
/// When a fresh request counts as failed.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// Between two bytes of a head that drips.
const DRIP: Duration = Duration::from_secs(1);
/// How long a server may take to notice that those who dripped are gone.
pub(super) const SLOW_END: Duration = Duration::from_secs(1);
/// The receive buffer of a reader that stops, in bytes.
const STALLED_LEN: usize = 4_096;

/// Opens the connections, then makes fresh requests beside them.
pub(super) fn run(held: Held, server: SocketAddr) -> Result<Outcome> {
    let (idle, slow, stalled) = held.counts();
    let mut numbers = 0..;
    let mut next = || numbers.next().unwrap_or_default();
    let mut standing = Vec::with_capacity(idle + slow + stalled);
    for _ in 0..stalled {
        let mut stream = connect(next(), server, Some(STALLED_LEN))?;
        stream.write_all(&request(&format!("/files/images/{}", rows::LARGE), ""))?;
        standing.push(stream);
    }
    for _ in 0..idle {
        let mut stream = connect(next(), server, None)?;
        stream.write_all(&request(&small(), ""))?;
        read_answer(&mut stream).context("a connection that is to be idle")?;
        standing.push(stream);
    }
    let mut dripping = Vec::with_capacity(slow);
    for _ in 0..slow {
        let mut stream = connect(next(), server, None)?;
        write!(stream, "GET {} HTTP/1.1\r\nHost: bench\r\nX-Slow: ", small())?;
        dripping.push(stream);
    }
    let mut outcome = Outcome::default();
    let (started, mut next_drip) = (Instant::now(), Instant::now() + DRIP);
    while started.elapsed() < PROBE_TIME {
        match probe(next(), server) {
            Ok((latency, len)) => {
                outcome.latency.push(latency);
                outcome.bytes += len;
            }
            Err(_) => outcome.failures += 1,
        }
        if Instant::now() >= next_drip {
            next_drip += DRIP;
            // One that the server has closed meanwhile is over; it is not opened again.
            dripping.retain_mut(|stream| stream.write_all(b"x").is_ok());
        }
        thread::sleep(PROBE_PAUSE);
    }
    outcome.elapsed = started.elapsed();
    let open = standing.iter().chain(&dripping).filter(|stream| is_open(stream)).count();
    // Giving up who holds a connection is a way to serve others; a row says how many stood to the end.
    outcome.held = open;
    Ok(outcome)
}

fn small() -> String {
    format!("/files/images/{}", rows::SMALL)
}

/// A request on a connection of its own, from the first packet to the last byte.
fn probe(number: usize, server: SocketAddr) -> Result<(Duration, u64)> {
    let begun = Instant::now();
    let mut stream = connect(number, server, None)?;
    stream.write_all(&request(&small(), "Connection: close\r\n"))?;
    let len = read_answer(&mut stream)?;
    Ok((begun.elapsed(), len))
}

fn read_answer(stream: &mut TcpStream) -> Result<u64> {
    stream.set_read_timeout(Some(PROBE_LIMIT))?;
    let (mut answer, mut buffer, mut body_len) = (Answer::default(), [0; 4_096], 0);
    while !answer.is_whole() {
        let len = stream.read(&mut buffer)?;
        ensure!(len > 0, "the connection ended");
        body_len += u64::try_from(answer.feed(buffer.get(..len).context("what was read")?)?.len())?;
    }
    Ok(body_len)
}

/// Whether the server has not closed it.
fn is_open(stream: &TcpStream) -> bool {
    let mut byte = [0];
    let peeked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut byte));
    match peeked {
        Ok(len) => len > 0,
        Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
    }
}
