//! One machine that reads one file.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pureboot_tests::tftp::{Packet, ack, read_request};

use super::{Chance, Load, SENDS_MAX};

pub(super) struct Machine {
    socket: UdpSocket,
    server: SocketAddr,
    state: State,
    window: usize,
    /// Bytes that are here.
    offset: usize,
    /// The number of the last block that is here.
    block: u16,
    in_window: usize,
    is_gap_told: bool,
    /// What was said last, when, and how often in vain.
    said: Vec<u8>,
    said_at: Instant,
    in_vain: u32,
    started: Instant,
    first_byte: Option<Instant>,
}

#[derive(Debug)]
enum State {
    Asking,
    Receiving,
    Complete(Instant),
    Failed(String),
}

/// What a socket brought.
pub(super) enum Event {
    Datagram(usize),
    Nothing,
    /// The machine has failed with it.
    Failed,
}

impl Machine {
    pub(super) fn new(number: usize, load: &Load<'_>, server: SocketAddr) -> Result<Self> {
        // Each has an address of its own, as in a room full of them.
        let number = u32::try_from(number)?;
        let source = Ipv4Addr::from_bits(Ipv4Addr::new(127, 4, 0, 1).to_bits() + number);
        let socket =
            UdpSocket::bind((source, 0)).with_context(|| format!("cannot bind {source}"))?;
        let (block_len, window) = (load.block_len.to_string(), load.window.to_string());
        let mut options = vec![("blksize", block_len.as_str()), ("tsize", "0")];
        if load.window > 1 {
            options.push(("windowsize", &window));
        }
        let now = Instant::now();
        Ok(Self {
            socket,
            server,
            state: State::Asking,
            window: 1,
            offset: 0,
            block: 0,
            in_window: 0,
            is_gap_told: false,
            said: read_request(load.name, &options),
            said_at: now,
            in_vain: 0,
            started: now,
            first_byte: None,
        })
    }

    pub(super) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// How many blocks the server sends at a time.
    pub(super) fn window(&self) -> usize {
        self.window
    }

    pub(super) fn start(&mut self, load: &Load<'_>, chance: &mut Chance) {
        self.started = Instant::now();
        self.say(load, chance);
    }

    /// How long its first block and all of them took, or why it failed.
    pub(super) fn result(self) -> Result<(Duration, Duration), String> {
        match self.state {
            State::Complete(at) => {
                let first_byte = self.first_byte.unwrap_or(at);
                Ok((first_byte - self.started, at - self.started))
            }
            State::Failed(reason) => Err(reason),
            State::Asking | State::Receiving => Err("not done".to_owned()),
        }
    }

    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> Event {
        let received = match self.state {
            // The server answers from a port of its own.
            State::Asking => self.socket.recv_from(buffer).and_then(|(len, from)| {
                self.socket.connect(from)?;
                Ok(len)
            }),
            _ => self.socket.recv(buffer),
        };
        match received {
            Ok(len) => Event::Datagram(len),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Event::Nothing,
            // A server may close its socket before our last word is there.
            Err(_) if !self.is_active() => Event::Nothing,
            Err(error) => {
                self.state = State::Failed(error.to_string());
                Event::Failed
            }
        }
    }

    /// Takes a datagram; whether the machine is done with it.
    pub(super) fn handle_datagram(
        &mut self,
        load: &Load<'_>,
        datagram: &[u8],
        now: Instant,
        chance: &mut Chance,
    ) -> bool {
        if !self.is_active() {
            return false;
        }
        match datagram {
            [0, 3, high, low, data @ ..] => {
                let block = u16::from_be_bytes([*high, *low]);
                self.handle_block(load, block, data, now, chance);
            }
            [0, 6, ..] if self.block > 0 || self.offset > 0 => {}
            [0, 6, ..] => {
                let oack = Packet::parse(datagram);
                self.window = oack.option("windowsize").and_then(|n| n.parse().ok()).unwrap_or(1);
                let agreed = oack.option("blksize").and_then(|len| len.parse().ok());
                if agreed == Some(load.block_len) {
                    self.state = State::Receiving;
                    self.acknowledge(load, now, chance);
                } else {
                    self.state = State::Failed(format!("the answer was {oack:?}"));
                }
            }
            other => {
                self.state = State::Failed(format!("the answer was {:?}", Packet::parse(other)))
            }
        }
        !self.is_active()
    }

    fn handle_block(
        &mut self,
        load: &Load<'_>,
        block: u16,
        data: &[u8],
        now: Instant,
        chance: &mut Chance,
    ) {
        if block != self.block.wrapping_add(1) {
            // The last block again means that our word was lost, a gap that theirs was; each is told once.
            let is_repeated = block == self.block && self.offset > 0;
            let is_ahead = block.wrapping_sub(self.block) < 0x8000;
            if is_repeated || is_ahead && !self.is_gap_told {
                self.is_gap_told |= is_ahead && !is_repeated;
                self.acknowledge(load, now, chance);
            }
            return;
        }
        let end = self.offset + data.len();
        if load.content.get(self.offset..end) != Some(data) {
            self.state = State::Failed(format!("other bytes came at {}", self.offset));
            return;
        }
        self.first_byte.get_or_insert(now);
        self.state = State::Receiving;
        self.offset = end;
        self.block = block;
        self.in_window += 1;
        self.is_gap_told = false;
        let is_last = data.len() < load.block_len;
        if is_last || self.in_window >= self.window {
            self.acknowledge(load, now, chance);
        } else {
            self.said_at = now;
            self.in_vain = 0;
        }
        if is_last {
            self.state = if end == load.content.len() {
                State::Complete(now)
            } else {
                State::Failed(format!("the file ended at {end}"))
            };
        }
    }

    /// Says the last word again if it was in vain for too long; whether the machine has failed with it.
    pub(super) fn handle_time(
        &mut self,
        load: &Load<'_>,
        now: Instant,
        chance: &mut Chance,
    ) -> bool {
        if !self.is_active() || now.saturating_duration_since(self.said_at) < load.path.patience {
            return false;
        }
        self.in_vain += 1;
        if self.in_vain >= SENDS_MAX {
            self.state = State::Failed(format!("silence at byte {}", self.offset));
            return true;
        }
        self.said_at = now;
        if matches!(self.state, State::Receiving) {
            self.said = ack(self.block).to_vec();
            self.in_window = 0;
        }
        self.say(load, chance);
        false
    }

    fn is_active(&self) -> bool {
        matches!(self.state, State::Asking | State::Receiving)
    }

    fn acknowledge(&mut self, load: &Load<'_>, now: Instant, chance: &mut Chance) {
        self.in_window = 0;
        self.in_vain = 0;
        self.said_at = now;
        let [high, low] = self.block.to_be_bytes();
        self.said.clear();
        self.said.extend([0, 4, high, low]);
        self.say(load, chance);
    }

    fn say(&mut self, load: &Load<'_>, chance: &mut Chance) {
        if chance.loses(load.path.lost_per_mille) {
            return;
        }
        // What does not go out is lost, and said again.
        _ = match self.state {
            State::Asking => self.socket.send_to(&self.said, self.server),
            _ => self.socket.send(&self.said),
        };
    }
}
