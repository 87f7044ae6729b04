//! A TFTP client made to be faster than any server: one thread, one buffer, nothing kept, every byte compared.
//!
//! Many machines at once are as many sockets, each with an address of its own. A path with delay and loss is played here, on
//! the client's side: what arrives is held back for the round trip, and both directions lose by a seed, the same for all
//! servers.

mod machine;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use self::machine::{Event, Machine};

/// How often the machines' timers are looked at.
const TICK: Duration = Duration::from_millis(10);
/// What is noticed in one wait.
const EVENTS_MAX: usize = 256;
/// When a run is given up.
const RUN_MAX: Duration = Duration::from_secs(90);
/// How often a machine says a word in vain before it fails.
const SENDS_MAX: u32 = 20;

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
    /// Machines at the same time.
    pub(super) clients: usize,
    /// What lies between them and the server.
    pub(super) path: Path,
}

/// The way between machines and server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Path {
    /// How long there and back.
    pub(super) round_trip: Duration,
    /// How many of a thousand datagrams are lost, each way.
    pub(super) lost_per_mille: u64,
    /// After how long a machine says its last word again.
    pub(super) patience: Duration,
    /// What chance begins with.
    pub(super) seed: u64,
}

impl Path {
    /// Nothing but the loopback interface.
    pub(super) const LOOPBACK: Self = Self {
        round_trip: Duration::ZERO,
        lost_per_mille: 0,
        patience: Duration::from_secs(1),
        seed: 1,
    };

    /// Whether there is neither delay nor loss.
    pub(super) fn is_plain(&self) -> bool {
        self.round_trip.is_zero() && self.lost_per_mille == 0
    }
}

/// What came of a run.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Until the last machine had all, or had failed.
    pub(super) elapsed: Duration,
    /// From each machine's request to its first block.
    pub(super) first_byte: Vec<Duration>,
    /// From each machine's request to its last block.
    pub(super) complete: Vec<Duration>,
    /// The window that the server agreed to.
    pub(super) window: usize,
    /// Why machines failed.
    pub(super) failures: Vec<String>,
}

/// Chance that can be repeated (xorshift).
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    fn loses(&mut self, per_mille: u64) -> bool {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % 1_000 < per_mille
    }
}

/// Reads with all machines at once.
pub(super) fn run(load: &Load<'_>, server: SocketAddr) -> Result<Outcome> {
    let mut machines = (0..load.clients)
        .map(|number| Machine::new(number, load, server))
        .collect::<Result<Vec<_>>>()?;
    let mut wire = Wire::new(load, &machines)?;
    let started = Instant::now();
    for machine in &mut machines {
        machine.start(load, &mut wire.chance);
    }
    let mut left = machines.len();
    let mut next_tick = started + TICK;
    while left > 0 {
        ensure!(started.elapsed() < RUN_MAX, "{left} of {} machines are not done", load.clients);
        left -= wire.carry(load, &mut machines)?;
        let now = Instant::now();
        if now >= next_tick {
            next_tick = now + TICK;
            for machine in &mut machines {
                left -= usize::from(machine.handle_time(load, now, &mut wire.chance));
            }
        }
    }
    let mut outcome = Outcome { elapsed: started.elapsed(), ..Outcome::default() };
    for machine in machines {
        outcome.window = outcome.window.max(machine.window());
        match machine.result() {
            Ok((first_byte, complete)) => {
                outcome.first_byte.push(first_byte);
                outcome.complete.push(complete);
            }
            Err(reason) => outcome.failures.push(reason),
        }
    }
    Ok(outcome)
}

/// All sockets, and what is held back.
struct Wire {
    epoll: rustix::fd::OwnedFd,
    events: Vec<epoll::Event>,
    chance: Chance,
    held: VecDeque<(Instant, usize, Vec<u8>)>,
    buffer: Vec<u8>,
    /// One machine on a plain path waits in its socket, without the detour.
    is_single: bool,
}

impl Wire {
    fn new(load: &Load<'_>, machines: &[Machine]) -> Result<Self> {
        let is_single = machines.len() == 1 && load.path.round_trip.is_zero();
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        for (machine, number) in machines.iter().zip(0..) {
            epoll::add(&epoll, machine.socket(), EventData::new_u64(number), EventFlags::IN)?;
            if is_single {
                machine.socket().set_read_timeout(Some(TICK))?;
            } else {
                machine.socket().set_nonblocking(true)?;
            }
        }
        Ok(Self {
            epoll,
            events: Vec::with_capacity(EVENTS_MAX),
            chance: Chance(load.path.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            held: VecDeque::new(),
            buffer: vec![0; load.block_len + 512],
            is_single,
        })
    }

    /// Hands what has arrived to its machines; how many of them are done with it.
    fn carry(&mut self, load: &Load<'_>, machines: &mut [Machine]) -> Result<usize> {
        if self.is_single {
            return self.receive(load, machines, 0);
        }
        let due = self.held.front().map(|(due, ..)| due.saturating_duration_since(Instant::now()));
        let limit = Timespec::try_from(due.unwrap_or(TICK).min(TICK))?;
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<_> = self.events.iter().map(|event| event.data.u64()).collect();
        let mut done = 0;
        for number in ready {
            done += self.receive(load, machines, usize::try_from(number)?)?;
        }
        let now = Instant::now();
        while self.held.front().is_some_and(|(due, ..)| *due <= now) {
            let Some((_, number, datagram)) = self.held.pop_front() else { break };
            let machine = machines.get_mut(number).context("a machine")?;
            done += usize::from(machine.handle_datagram(load, &datagram, now, &mut self.chance));
        }
        Ok(done)
    }

    fn receive(
        &mut self,
        load: &Load<'_>,
        machines: &mut [Machine],
        number: usize,
    ) -> Result<usize> {
        let machine = machines.get_mut(number).context("a machine")?;
        let len = match machine.receive(&mut self.buffer) {
            Event::Datagram(len) => len,
            Event::Nothing => return Ok(0),
            Event::Failed => return Ok(1),
        };
        if self.chance.loses(load.path.lost_per_mille) {
            return Ok(0);
        }
        let now = Instant::now();
        let datagram = self.buffer.get(..len).context("what was received")?;
        if load.path.round_trip.is_zero() {
            return Ok(usize::from(machine.handle_datagram(load, datagram, now, &mut self.chance)));
        }
        self.held.push_back((now + load.path.round_trip, number, datagram.to_vec()));
        Ok(0)
    }
}
