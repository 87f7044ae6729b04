//! A line to somewhere far: every byte is half a round trip under way, and the line can come to harm.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

/// What an agent says first when it hands over changes.
const BATCH: &[u8] = b"POST /api/v1/agents/changes ";

/// What something on the way says that has nobody to ask.
const UNAVAILABLE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// A line that is open; it stays until the program ends.
#[derive(Debug)]
pub struct FarLine {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// What becomes of what the agent says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Mood {
    /// It arrives.
    #[default]
    Well,
    /// Connections end.
    Cut,
    /// Connections are taken, and nothing that is said on them arrives.
    Mute,
    /// Batches of changes are answered 503 by something on the way; all else arrives.
    Refusing,
    /// All that the agent says arrives, and what is answered waits on the way.
    Holding,
}

#[derive(Debug, Default)]
struct State {
    mood: Mood,
    /// Both ends of each connection.
    ends: Vec<TcpStream>,
    /// When each batch of changes set out.
    batches: Vec<Instant>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// The mood is another one.
    turned: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, mood: Mood) {
        self.lock().mood = mood;
        self.turned.notify_all();
    }

    /// Returns once answers are not held, or no more.
    fn wait_for_turn(&self) {
        let mut state = self.lock();
        while state.mood == Mood::Holding {
            state = self.turned.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl FarLine {
    /// A line to the controller at `upstream`, with so long a way there and back.
    ///
    /// # Errors
    /// There is no port left.
    pub fn open(upstream: SocketAddr, round_trip: Duration) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let (address, shared) = (listener.local_addr()?, Arc::<Shared>::default());
        let line = Arc::clone(&shared);
        thread::spawn(move || {
            for agent in listener.incoming().flatten() {
                _ = connect(agent, upstream, round_trip / 2, &line);
            }
        });
        Ok(Self { address, shared })
    }

    /// What the agent is told that its controller's URL is.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends every connection, with what is under way on it, and takes no other until [`FarLine::mend`].
    pub fn cut(&self) {
        self.shared.turn(Mood::Cut);
        for end in self.shared.lock().ends.drain(..) {
            _ = end.shutdown(Shutdown::Both);
        }
    }

    /// Takes connections and says nothing on them, until [`FarLine::mend`].
    pub fn mute(&self) {
        self.shared.turn(Mood::Mute);
    }

    /// Answers batches of changes with 503, and lets all else pass, until [`FarLine::mend`].
    pub fn refuse_batches(&self) {
        self.shared.turn(Mood::Refusing);
    }

    /// Lets everything arrive at the controller and keeps its answers on the way, until [`FarLine::mend`].
    pub fn hold_answers(&self) {
        self.shared.turn(Mood::Holding);
    }

    /// All is well again; what was held arrives, if anybody still waits for it.
    pub fn mend(&self) {
        self.shared.turn(Mood::Well);
    }

    /// When each batch of changes set out, since the beginning.
    pub fn batches(&self) -> Vec<Instant> {
        self.shared.lock().batches.clone()
    }
}

fn connect(
    agent: TcpStream,
    upstream: SocketAddr,
    delay: Duration,
    line: &Arc<Shared>,
) -> Result<()> {
    if line.lock().mood == Mood::Cut {
        return Ok(());
    }
    let controller = TcpStream::connect(upstream)?;
    agent.set_nodelay(true)?;
    controller.set_nodelay(true)?;
    line.lock().ends.extend([agent.try_clone()?, controller.try_clone()?]);
    let (up, down) = ((agent.try_clone()?, controller.try_clone()?), (controller, agent));
    let (shared, held) = (Arc::clone(line), Arc::clone(line));
    let mut back = up.0.try_clone()?;
    let passes = move |bytes: &[u8]| {
        let mut state = shared.lock();
        let is_batch = bytes.starts_with(BATCH);
        if is_batch {
            state.batches.push(Instant::now());
        }
        if is_batch && state.mood == Mood::Refusing {
            _ = back.write_all(UNAVAILABLE);
            _ = back.shutdown(Shutdown::Both);
            return false;
        }
        state.mood != Mood::Mute
    };
    // The handshake of a real line takes a round trip of its own.
    carry(up, delay, Instant::now() + 2 * delay, passes);
    carry(down, delay, Instant::now(), move |_| {
        held.wait_for_turn();
        true
    });
    Ok(())
}

/// Carries bytes in one direction, each `delay` late and none before `opens_at`, as far as they pass.
fn carry(
    (mut from, to): (TcpStream, TcpStream),
    delay: Duration,
    opens_at: Instant,
    mut passes: impl FnMut(&[u8]) -> bool + Send + 'static,
) {
    let (sender, under_way) = mpsc::channel();
    thread::spawn(move || deliver(to, &under_way));
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            let bytes = buffer.get(..read).unwrap_or_default();
            let due = Instant::now().max(opens_at) + delay;
            if passes(bytes) && sender.send((due, bytes.to_vec())).is_err() {
                break;
            }
        }
    });
}

fn deliver(mut to: TcpStream, under_way: &Receiver<(Instant, Vec<u8>)>) {
    while let Ok((due, bytes)) = under_way.recv() {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    _ = to.shutdown(Shutdown::Both);
}
