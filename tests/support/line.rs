//! The line between an agent and its controller, with a lock in it: content stops at a byte until it is let through, and all else passes.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use anyhow::Result;

/// What an agent says first when it asks for an object; lists of chunks are asked for below it.
const OBJECT: &[u8] = b"GET /api/v1/agents/objects/";
/// Digits of an object's hash.
const HASH_LEN: usize = 64;

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
                    let down = Arc::clone(&shared);
                    let asked = Arc::clone(&is_object);
                    thread::spawn(move || carry(from, to, |bytes| note_asked(bytes, &asked)));
                    thread::spawn(move || {
                        carry(controller, agent, |bytes| down.pass(bytes, &is_object));
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
fn carry(mut from: TcpStream, mut to: TcpStream, look: impl Fn(&[u8])) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let bytes = buffer.get(..read).unwrap_or_default();
        look(bytes);
        if to.write_all(bytes).is_err() {
            break;
        }
    }
    _ = to.shutdown(Shutdown::Both);
}
