//! The line between an agent and its controller, with a lock in it: content stops at a byte until it is let through, and all else passes.
//! It can be made slow, and it can be made to swallow what is long.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

/// What an agent says first when it asks for an object; lists of chunks are asked for below it.
const OBJECT: &[u8] = b"GET /api/v1/agents/objects/";
/// What it says first when it hands over changes.
const CHANGES: &[u8] = b"POST /api/v1/agents/changes ";
/// Digits of an object's hash.
const HASH_LEN: usize = 64;
/// How much of one connection passes a slow line before the others have their turn, in bytes.
const TURN_LEN: usize = 128;

/// How slow a line is.
#[derive(Debug, Clone, Copy)]
pub struct Slowness {
    /// What passes in each direction, over all connections.
    pub bytes_per_s: u32,
    /// From one end to the other.
    pub delay: Duration,
}

/// A line that is open; it stays until the program ends.
#[derive(Debug)]
pub struct Line {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    content_passed: AtomicU64,
    /// How many bytes of objects may pass.
    lock: Mutex<Option<u64>>,
    turned: Condvar,
    slowness: Mutex<Option<Slowness>>,
    /// Whose turn it is on a slow line, to the controller and from it.
    turns: [Turns; 2],
    /// The longest request that arrives, in bytes; 0: any.
    swallow_above: AtomicU64,
    swallowed: AtomicU64,
}

/// What has come of a request.
#[derive(Debug, Default)]
struct Request {
    len: u64,
    has_changes: bool,
}

impl Request {
    fn handle_bytes(&mut self, bytes: &[u8]) {
        if bytes.starts_with(b"POST ") || bytes.starts_with(b"GET ") {
            *self = Self { len: 0, has_changes: bytes.starts_with(CHANGES) };
        }
        self.len += bytes.len() as u64;
    }
}

/// First come, first served.
#[derive(Debug, Default)]
struct Turns {
    next: AtomicU64,
    served: Mutex<u64>,
    ended: Condvar,
}

impl Turns {
    /// Takes the line for `time`, when those who came before have had it.
    fn take(&self, time: Duration) {
        let mine = self.next.fetch_add(1, Ordering::SeqCst);
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        while *served != mine {
            served = self.ended.wait(served).unwrap_or_else(PoisonError::into_inner);
        }
        drop(served);
        thread::sleep(time);
        *self.served.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.ended.notify_all();
    }
}

impl Line {
    /// A line to the controller at `upstream` on which everything passes.
    ///
    /// # Errors
    /// There is no port left.
    pub fn open(upstream: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let (address, state) = (listener.local_addr()?, Arc::<State>::default());
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for agent in listener.incoming().flatten() {
                let Ok(controller) = TcpStream::connect(upstream) else { continue };
                if let (Ok(from), Ok(to)) = (agent.try_clone(), controller.try_clone()) {
                    let is_object = Arc::<AtomicBool>::default();
                    let (up, down) = (Arc::clone(&shared), Arc::clone(&shared));
                    let asked = Arc::clone(&is_object);
                    thread::spawn(move || {
                        let mut request = Request::default();
                        carry(from, to, &up, 0, |bytes| {
                            note_asked(bytes, &asked);
                            request.handle_bytes(bytes);
                            up.swallow(&request);
                        });
                    });
                    thread::spawn(move || {
                        carry(controller, agent, &down, 1, |bytes| down.pass(bytes, &is_object));
                    });
                }
            }
        });
        Ok(Self { address, state })
    }

    /// What the agent is told that its controller's URL is.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many bytes of answers with objects have passed.
    pub fn content_passed(&self) -> u64 {
        self.state.content_passed.load(Ordering::SeqCst)
    }

    /// Makes the line slow from now on; none: as fast as it can be.
    pub fn slow_down(&self, slowness: Option<Slowness>) {
        *self.state.slowness.lock().unwrap_or_else(PoisonError::into_inner) = slowness;
    }

    /// Has requests of more than so many bytes never arrive to their end, as on a path with a hole for large packets.
    pub fn swallow_above(&self, len: u64) {
        self.state.swallow_above.store(len, Ordering::SeqCst);
    }

    /// How many batches of changes have been swallowed.
    pub fn swallowed(&self) -> u64 {
        self.state.swallowed.load(Ordering::SeqCst)
    }

    /// Lets so many bytes of answers with objects pass from now on, and no more until it is turned again; none: all of them.
    pub fn turn(&self, bytes: Option<u64>) {
        let mut lock = self.state.lock.lock().unwrap_or_else(PoisonError::into_inner);
        *lock = bytes.map(|bytes| self.content_passed() + bytes);
        self.state.turned.notify_all();
    }
}

impl State {
    fn pass(&self, bytes: &[u8], is_object: &AtomicBool) {
        if !is_object.load(Ordering::SeqCst) {
            return;
        }
        let len = bytes.len() as u64;
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while lock.is_some_and(|limit| self.content_passed.load(Ordering::SeqCst) + len > limit) {
            lock = self.turned.wait(lock).unwrap_or_else(PoisonError::into_inner);
        }
        self.content_passed.fetch_add(len, Ordering::SeqCst);
    }

    /// Holds up a request that is too long for ever, and its connection with it.
    fn swallow(&self, request: &Request) {
        let len_max = self.swallow_above.load(Ordering::SeqCst);
        if len_max > 0 && request.len > len_max {
            self.swallowed.fetch_add(u64::from(request.has_changes), Ordering::SeqCst);
            loop {
                thread::park();
            }
        }
    }

    fn slowness(&self) -> Option<Slowness> {
        *self.slowness.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes whether what is asked for on a connection is an object.
fn note_asked(bytes: &[u8], is_object: &AtomicBool) {
    if let Some(target) = bytes.strip_prefix(OBJECT) {
        let is_list = target.get(HASH_LEN..).is_some_and(|rest| rest.starts_with(b"/chunks"));
        is_object.store(!is_list, Ordering::SeqCst);
    } else if bytes.starts_with(b"GET ") || bytes.starts_with(b"POST ") {
        is_object.store(false, Ordering::SeqCst);
    }
}

/// Carries bytes in one direction; `look` may hold them up.
fn carry(
    mut from: TcpStream,
    mut to: TcpStream,
    state: &State,
    direction: usize,
    mut look: impl FnMut(&[u8]),
) {
    let mut buffer = vec![0; 16 << 10];
    // Until when what has been sent last is on its way: what follows it closely waits no longer than it does.
    let mut arriving = Instant::now();
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let bytes = buffer.get(..read).unwrap_or_default();
        look(bytes);
        let is_over = match state.slowness() {
            None => to.write_all(bytes).is_err(),
            Some(Slowness { bytes_per_s, delay }) => bytes.chunks(TURN_LEN).any(|turn| {
                let time = Duration::from_secs_f64(turn.len() as f64 / f64::from(bytes_per_s));
                if let Some(turns) = state.turns.get(direction) {
                    turns.take(time);
                }
                if arriving < Instant::now() {
                    thread::sleep(delay);
                    arriving = Instant::now() + delay;
                }
                to.write_all(turn).is_err()
            }),
        };
        if is_over {
            break;
        }
    }
    _ = to.shutdown(Shutdown::Both);
}
