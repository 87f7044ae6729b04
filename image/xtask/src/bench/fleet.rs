//! Many agents that are none: what they say to a controller, over a few connections that stay open, and how long it takes to
//! be answered.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pureboot_tests::controller::Controller;
use pureboot_tests::site::text;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

/// Connections that the agents share; a controller lets one address have 128.
const CONNECTIONS: usize = 100;
/// Changes in a batch: a machine that boots makes about as many.
const BATCH_LEN: u64 = 10;

/// One simulated agent.
#[derive(Debug)]
struct Agent {
    site_id: String,
    credential: String,
    /// The last sequence number that it has handed over.
    seq: u64,
}

/// What the agents say.
#[derive(Debug, Clone, Copy)]
pub(super) enum Say {
    /// One heartbeat.
    Heartbeat,
    /// A batch of [`BATCH_LEN`] changes.
    Changes,
}

/// How fast they say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// As fast as it goes, and each agent once.
    Once,
    /// The next when the one before is answered, on each connection.
    Fast,
    /// So many a second, whether the controller keeps up or not: a late answer makes those behind it late, and they are
    /// counted from when they were due.
    PerSecond(u32),
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Figures {
    seconds: f64,
    /// From when it was due to its answer, of those answered 200; sorted.
    latencies_ms: Vec<f64>,
    /// Other answers.
    pub(super) refused: usize,
}

impl Figures {
    /// How many were answered.
    pub(super) fn answers(&self) -> usize {
        self.latencies_ms.len()
    }

    /// Answers a second.
    pub(super) fn rate(&self) -> f64 {
        self.latencies_ms.len() as f64 / self.seconds
    }

    /// The latency that so many of 100 answers kept within, in milliseconds.
    pub(super) fn within_ms(&self, percent: usize) -> f64 {
        let at = self.latencies_ms.len() * percent / 100;
        self.latencies_ms.get(at).copied().unwrap_or(f64::NAN)
    }
}

/// The agents of one controller.
#[derive(Debug)]
pub(super) struct Fleet {
    address: SocketAddr,
    agents: Vec<Rc<RefCell<Agent>>>,
}

impl Fleet {
    /// Makes `count` sites more and lets an agent join each, all of it by the API.
    pub(super) fn grow(&mut self, controller: &Controller, count: usize) -> Result<()> {
        let first = self.agents.len();
        let next = Rc::new(Cell::new(first));
        let (address, token) = (self.address, controller.token().to_owned());
        let joined = run_local(async move {
            let tasks: Vec<_> = (0..CONNECTIONS)
                .map(|_| {
                    let (next, token) = (Rc::clone(&next), token.clone());
                    tokio::task::spawn_local(async move {
                        let mut connection = Connection::open(address).await?;
                        let mut joined = Vec::new();
                        while next.get() < first + count {
                            let number = next.replace(next.get() + 1);
                            joined.push(join(&mut connection, &token, number).await?);
                        }
                        anyhow::Ok(joined)
                    })
                })
                .collect();
            let mut joined = Vec::new();
            for task in tasks {
                joined.extend(task.await??);
            }
            anyhow::Ok(joined)
        })?;
        self.agents.extend(joined.into_iter().map(|agent| Rc::new(RefCell::new(agent))));
        Ok(())
    }

    /// Agents that do not exist yet, of a controller.
    pub(super) fn of(controller: &Controller) -> Self {
        Self { address: controller.address(), agents: Vec::new() }
    }

    /// Lets the agents speak one after the other for a while, or once each.
    pub(super) fn speak(&self, say: Say, pace: Pace, duration: Duration) -> Result<Figures> {
        let next = Rc::new(Cell::new(0_usize));
        let agents: Rc<[_]> = self.agents.iter().map(Rc::clone).collect();
        let address = self.address;
        run_local(async move {
            let mut connections = Vec::new();
            for _ in 0..CONNECTIONS {
                connections.push(Connection::open(address).await?);
            }
            let started = Instant::now();
            let tasks: Vec<_> = connections
                .into_iter()
                .map(|connection| {
                    let (agents, next) = (Rc::clone(&agents), Rc::clone(&next));
                    let speaker = Speaker { agents, next, say, pace, started, duration };
                    tokio::task::spawn_local(speaker.run(connection))
                })
                .collect();
            let (mut latencies_ms, mut refused) = (Vec::new(), 0);
            for task in tasks {
                let (latencies, others) = task.await??;
                latencies_ms.extend(latencies);
                refused += others;
            }
            let seconds = started.elapsed().as_secs_f64();
            latencies_ms.sort_by(f64::total_cmp);
            Ok(Figures { seconds, latencies_ms, refused })
        })
    }
}

/// What speaks on one connection.
struct Speaker {
    agents: Rc<[Rc<RefCell<Agent>>]>,
    next: Rc<Cell<usize>>,
    say: Say,
    pace: Pace,
    started: Instant,
    duration: Duration,
}

impl Speaker {
    async fn run(self, mut connection: Connection) -> Result<(Vec<f64>, usize)> {
        let (mut latencies_ms, mut refused) = (Vec::new(), 0);
        loop {
            let number = self.next.replace(self.next.get() + 1);
            let due = match self.pace {
                Pace::Once if number >= self.agents.len() => return Ok((latencies_ms, refused)),
                Pace::Once | Pace::Fast => Instant::now(),
                Pace::PerSecond(rate) => {
                    let due =
                        self.started + Duration::from_secs_f64(number as f64 / f64::from(rate));
                    tokio::time::sleep_until(due.into()).await;
                    due
                }
            };
            if self.pace != Pace::Once && due >= self.started + self.duration {
                return Ok((latencies_ms, refused));
            }
            let agent = self.agents.get(number % self.agents.len()).context("a fleet")?;
            let (path, body, credential) = {
                let mut agent = agent.borrow_mut();
                let (path, body) = words(self.say, &mut agent);
                (path, body, agent.credential.clone())
            };
            let (status, _) = connection.call("POST", path, &credential, &body).await?;
            if status == 200 {
                latencies_ms.push(due.elapsed().as_secs_f64() * 1_000.0);
            } else {
                refused += 1;
            }
        }
    }
}

fn run_local<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, work)
}

/// 32 hexadecimal digits that are the same for the same words.
fn digits(words: &str) -> String {
    Sha256::digest(words).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// The same as a UUID.
fn uuid(words: &str) -> String {
    let digits = digits(words);
    let part = |range| digits.get(range).unwrap_or_default();
    format!("{}-{}-4{}-8{}-{}", part(0..8), part(8..12), part(13..16), part(17..20), part(20..32))
}

async fn join(connection: &mut Connection, token: &str, number: usize) -> Result<Agent> {
    let site = json!({"name": format!("site-{number:06}")});
    let site = connection.data("/api/v1/sites", token, &site).await?;
    let site_id = text(&site, "id")?;
    let issued =
        connection.data(&format!("/api/v1/sites/{site_id}/agent-token"), token, &json!({})).await?;
    let credential = digits(&site_id) + &digits(&format!("{site_id} more"));
    let hash: String =
        Sha256::digest(&credential).iter().map(|byte| format!("{byte:02x}")).collect();
    let request = json!({
        "site_id": site_id,
        "token": text(&issued, "token")?,
        "agent_url": "http://192.0.2.1:8080",
        "agent_version": "0.1.0",
        "capabilities": [],
        "credential_hash": hash,
    });
    let body = request.to_string();
    let (status, answer) = connection.call("POST", "/api/v1/agents/register", "", &body).await?;
    ensure!(
        status == 200,
        "registering was answered {status}: {}",
        String::from_utf8_lossy(&answer)
    );
    Ok(Agent { site_id, credential, seq: 0 })
}

/// What an agent says next: the path and the body.
fn words(say: Say, agent: &mut Agent) -> (&'static str, String) {
    match say {
        Say::Heartbeat => ("/api/v1/agents/heartbeat", heartbeat(agent)),
        Say::Changes => ("/api/v1/agents/changes", changes(agent)),
    }
}

/// A heartbeat as an agent of this version sends it.
fn heartbeat(agent: &Agent) -> String {
    json!({
        "site_id": agent.site_id,
        "timestamp": "2026-11-21T00:00:00.000Z",
        "agent_version": "0.1.0",
        "uptime_seconds": 86_400,
        "services": {
            "http": {"running": true, "address": "192.0.2.1:8080"},
            "tftp": {"running": true, "address": "192.0.2.1:69"},
        },
        "nodes_seen_last_hour": 12,
        "active_boots": 1,
        "cache_hit_rate": 0.98,
        "disk_usage_percent": 41.5,
        "cache_size_bytes": 5_000_000_000_u64,
        "cache_entries": 40,
        "node_cache_entries": 120,
        "last_sync_at": null,
        "last_sync_result": null,
        "pending_sync_items": 0,
        "is_online": true,
        "last_online_at": "2026-11-21T00:00:00.000Z",
        "offline_duration_seconds": 0,
        "pending_queue_items": 0,
        "failed_queue_items": 0,
        "conflicts_pending": 0,
        "config_version": 1,
    })
    .to_string()
}

/// A batch: a machine that registers and boots, or goes on.
fn changes(agent: &mut Agent) -> String {
    let first_seq = agent.seq + 1;
    let node = uuid(&format!("{} node", agent.site_id));
    let hash = digits(&agent.site_id);
    let mac: Vec<_> = hash.as_bytes().chunks(2).take(5).map(String::from_utf8_lossy).collect();
    let mac = format!("02:{}", mac.join(":"));
    let items: Vec<Value> = (first_seq..first_seq + BATCH_LEN)
        .map(|seq| {
            let (kind, payload) = if seq == 1 {
                (
                    "registration",
                    json!({"request": {"mac": mac, "arch": "x86_64", "platform": "efi",
                    "uuid": null, "serial": null, "vendor": "QEMU", "product": "KVM"}}),
                )
            } else {
                ("event", json!({"event_type": "heartbeat", "message": "still here"}))
            };
            json!({
                "seq": seq,
                "id": digits(&format!("{} {seq}", agent.site_id)),
                "node": node,
                "at": "2026-11-21T00:00:00.000Z",
                "clock": "synced",
                "kind": kind,
                "payload": payload,
            })
        })
        .collect();
    agent.seq += BATCH_LEN;
    json!({"nonce": digits(&format!("{first_seq}")), "epoch": hash, "first_seq": first_seq, "items": items})
        .to_string()
}

/// A connection that stays open.
struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::new() })
    }

    async fn data(&mut self, path: &str, bearer: &str, body: &Value) -> Result<Value> {
        let (status, answer) = self.call("POST", path, bearer, &body.to_string()).await?;
        let answer = String::from_utf8_lossy(&answer);
        ensure!(matches!(status, 200 | 201), "{path} was answered {status}: {answer}");
        let answer: Value = serde_json::from_str(&answer)?;
        answer.get("data").cloned().with_context(|| format!("{path} was answered without data"))
    }

    /// Sends a request and reads its answer: the status and the body.
    async fn call(
        &mut self,
        verb: &str,
        path: &str,
        bearer: &str,
        body: &str,
    ) -> Result<(u16, Vec<u8>)> {
        let request = format!(
            "{verb} {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {bearer}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.write_all(request.as_bytes()).await?;
        self.received.clear();
        loop {
            if let Some((status, at, len)) = head(&self.received)? {
                while self.received.len() < at + len {
                    self.receive().await?;
                }
                return Ok((status, self.received.get(at..at + len).unwrap_or_default().to_vec()));
            }
            self.receive().await?;
        }
    }

    async fn receive(&mut self) -> Result<()> {
        let len = self.stream.read_buf(&mut self.received).await?;
        ensure!(len > 0, "the controller has closed the connection");
        Ok(())
    }
}

/// The status of an answer, where its body begins, and how long that is; none while the head is not whole.
fn head(received: &[u8]) -> Result<Option<(u16, usize, usize)>> {
    let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text =
        String::from_utf8_lossy(received.get(..end).unwrap_or_default()).to_ascii_lowercase();
    let status = text.split(' ').nth(1).context("a status line")?.parse()?;
    let len = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    Ok(Some((status, end + 4, len.context("an answer says its length")?.trim().parse()?)))
}
