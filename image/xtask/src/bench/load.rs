//! A TFTP client made to be faster than any server: one buffer, nothing kept, every byte compared.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use pureboot_tests::tftp::{Packet, ack, read_request};

/// When the last acknowledgement is repeated.
const PATIENCE: Duration = Duration::from_millis(500);

const SILENCES_MAX: u32 = 10;

/// What to read and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load<'a> {
    /// The file as the server names it.
    pub(super) name: &'a str,
    /// What it must hold.
    pub(super) content: &'a [u8],
    /// Bytes in a block.
    pub(super) block_len: usize,
    /// Blocks between acknowledgements; the server may choose fewer.
    pub(super) window: usize,
    /// Clients at the same time, each with an address of its own.
    pub(super) clients: u8,
}

/// Reads with all clients at once; returns how long it took until the last one had all.
pub(super) fn run(load: Load<'_>, server: SocketAddr) -> Result<Duration> {
    let started = Instant::now();
    thread::scope(|scope| {
        let clients: Vec<_> = (1..=load.clients)
            .map(|number| scope.spawn(move || read(load, server, Ipv4Addr::new(127, 0, 4, number))))
            .collect();
        for client in clients {
            client.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        Ok(started.elapsed())
    })
}

fn read(load: Load<'_>, server: SocketAddr, source: Ipv4Addr) -> Result<()> {
    let socket = UdpSocket::bind((source, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let (block_len, window) = (load.block_len.to_string(), load.window.to_string());
    let mut options = vec![("blksize", block_len.as_str()), ("tsize", "0")];
    if load.window > 1 {
        options.push(("windowsize", &window));
    }
    let mut buffer = vec![0; load.block_len + 4];
    let request = read_request(load.name, &options);
    let (len, from) = repeat(|| {
        socket.send_to(&request, server)?;
        socket.recv_from(&mut buffer)
    })?;
    let oack = Packet::parse(buffer.get(..len).unwrap_or_default());
    ensure!(oack.option("blksize") == Some(&block_len), "{server} answered {oack:?}");
    let window = oack.option("windowsize").map_or(Ok(1), str::parse::<usize>)?;
    socket.connect(from)?;
    socket.send(&ack(0))?;

    let (mut offset, mut next, mut in_window, mut silences) = (0, 1_u16, 0, 0);
    loop {
        let Ok(len) = socket.recv(&mut buffer) else {
            silences += 1;
            ensure!(silences < SILENCES_MAX, "{server} fell silent at byte {offset}");
            in_window = 0;
            socket.send(&ack(next.wrapping_sub(1)))?;
            continue;
        };
        let (block, data) = match buffer.get(..len) {
            Some([0, 3, high, low, data @ ..]) => (u16::from_be_bytes([*high, *low]), data),
            other => bail!("{server} sent {other:?}"),
        };
        if block != next {
            continue;
        }
        silences = 0;
        let expected = load.content.get(offset..offset + data.len());
        ensure!(expected == Some(data), "{server} sent other bytes at {offset}");
        offset += data.len();
        in_window += 1;
        let is_last = data.len() < load.block_len;
        if is_last || in_window == window {
            socket.send(&ack(block))?;
            in_window = 0;
        }
        if is_last {
            ensure!(offset == load.content.len(), "{server} ended at byte {offset}");
            return Ok(());
        }
        next = next.wrapping_add(1);
    }
}

fn repeat<T>(mut attempt: impl FnMut() -> std::io::Result<T>) -> Result<T> {
    let mut outcome = attempt();
    for _ in 1..SILENCES_MAX {
        if outcome.is_ok() {
            break;
        }
        outcome = attempt();
    }
    outcome.context("no answer to the request")
}
