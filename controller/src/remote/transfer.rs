//! Files on their way to the controller and back: streamed, hashed, watched, and told of while they move.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures_util::stream;
use pureboot_protocol::{ContentHash, ContentKey};
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderName};
use reqwest::{Body, Method, Response};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::content::{emit_digest, parse_digest};
use crate::remote::client::{Client, Query};
use crate::remote::progress::Meter;

/// What is read of a file at once, in bytes.
const READ_LEN: usize = 256 << 10;
/// How long nothing may move before a transfer is given up; the controller keeps a large file in this time, too.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// How often a terminal is told.
const TERMINAL_INTERVAL: Duration = Duration::from_millis(250);
/// How often a log is told.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");
const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

/// Where the API has the content `name`.
pub(crate) fn path(name: &ContentKey) -> Vec<&str> {
    ["content", name.category().as_str()].into_iter().chain(name.path().split('/')).collect()
}

/// A file that has crossed the line.
#[derive(Debug)]
pub(crate) struct Moved {
    /// How much in what time.
    pub(crate) summary: String,
    /// What it hashes to.
    pub(crate) sha256: ContentHash,
}

/// Bytes that have passed, counted where they pass and read where it is told.
#[derive(Debug, Clone, Default)]
struct Counter(Arc<AtomicU64>);

impl Counter {
    fn add(&self, len: usize) {
        self.0.fetch_add(u64::try_from(len).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a file hashes to, and its length in bytes.
///
/// # Errors
/// It cannot be read.
pub(crate) async fn hash(file: &Path, name: &ContentKey) -> anyhow::Result<(ContentHash, u64)> {
    let what = || format!("cannot read {}", file.display());
    let mut open =
        File::open(file).await.with_context(|| format!("cannot open {}", file.display()))?;
    let metadata = open.metadata().await.with_context(what)?;
    ensure!(metadata.is_file(), "{} is not a regular file", file.display());
    let counter = Counter::default();
    let meter = Meter::new(format!("hashing {name}"), metadata.len(), Instant::now());
    let read = async {
        let (mut sha256, mut buffer) = (Sha256::new(), vec![0; READ_LEN]);
        loop {
            let len = open.read(&mut buffer).await.with_context(what)?;
            match buffer.get(..len) {
                Some(bytes @ [_, ..]) => sha256.update(bytes),
                _ => break,
            }
            counter.add(len);
        }
        Ok(ContentHash::from_digest(sha256.finalize().into()))
    };
    let (sha256, _) = watched(meter, &counter, read).await?;
    Ok((sha256, counter.get()))
}

/// Sends a file of `size_bytes` that hashes to `sha256`; returns what the controller says of it.
///
/// # Errors
/// The controller refuses it, has got something else, or nothing moves any more.
pub(crate) async fn upload(
    client: &Client,
    name: &ContentKey,
    file: &Path,
    (sha256, size_bytes): (ContentHash, u64),
) -> anyhow::Result<(Value, Moved)> {
    let open = File::open(file).await.with_context(|| format!("cannot open {}", file.display()))?;
    let counter = Counter::default();
    let meter = Meter::new(format!("sending {name}"), size_bytes, Instant::now());
    let body = Body::wrap_stream(stream::try_unfold(
        // No byte beyond what was hashed: the length is promised.
        (open.take(size_bytes), counter.clone()),
        async |(mut open, counter)| -> std::io::Result<_> {
            let mut buffer = vec![0; READ_LEN];
            let len = open.read(&mut buffer).await?;
            buffer.truncate(len);
            counter.add(len);
            Ok((len > 0).then_some((buffer, (open, counter))))
        },
    ));
    let path = path(name);
    let request = client
        .request(Method::PUT, &path, &Query::new())
        .header(CONTENT_LENGTH, size_bytes)
        .header(CONTENT_DIGEST, emit_digest(&sha256))
        .body(body);
    let send = async {
        let response = request.send().await.map_err(|error| client.unreachable(&error))?;
        Ok(client.answer(response).await?)
    };
    let (mut answer, summary) = watched(meter, &counter, send).await?;
    let entry = answer.get_mut("data").map(Value::take).unwrap_or_default();
    let kept = entry.get("sha256").and_then(Value::as_str).unwrap_or_default();
    ensure!(
        kept == sha256.to_string(),
        "{name} arrived as something else: SHA-256 {kept} in place of {sha256}; upload it again"
    );
    Ok((entry, Moved { summary, sha256 }))
}

/// Where the bytes of a download go.
pub(crate) enum Target {
    /// To a file, which has its name only when it is whole.
    File(PathBuf),
    /// To stdout, as they come.
    Stdout,
}

/// Fetches a file and checks it.
///
/// # Errors
/// The controller refuses it, what came is something else, it cannot be written, or nothing moves any more.
pub(crate) async fn download(
    client: &Client,
    name: &ContentKey,
    target: &Target,
) -> anyhow::Result<Moved> {
    let path = path(name);
    let request = client.request(Method::GET, &path, &Query::new()).send();
    let Ok(response) = tokio::time::timeout(SILENCE_MAX, request).await else {
        bail!("the controller at {} does not answer", client.url());
    };
    let response = response.map_err(|error| client.unreachable(&error))?;
    let response = client.success(response).await?;
    let promised = promised(response.headers());
    let total = response.content_length().unwrap_or_default();
    let counter = Counter::default();
    let meter = Meter::new(format!("fetching {name}"), total, Instant::now());
    match target {
        Target::Stdout => {
            let copy = copy(client, response, tokio::io::stdout(), &counter, promised);
            let (sha256, summary) = watched(meter, &counter, copy).await?;
            Ok(Moved { summary, sha256 })
        }
        Target::File(file) => {
            let part = Part::beside(file)?;
            let what = || format!("cannot make {}", part.0.display());
            let open = File::create_new(&part.0).await.with_context(what)?;
            let copy = copy(client, response, open, &counter, promised);
            let (sha256, summary) = watched(meter, &counter, copy).await?;
            part.name(file)?;
            Ok(Moved { summary, sha256 })
        }
    }
}

/// The SHA-256 that the controller promises.
fn promised(headers: &HeaderMap) -> Option<ContentHash> {
    let value = headers.get(REPR_DIGEST)?.to_str().ok()?;
    parse_digest(value).ok().flatten()
}

async fn copy(
    client: &Client,
    mut response: Response,
    mut to: impl tokio::io::AsyncWrite + Unpin,
    counter: &Counter,
    promised: Option<ContentHash>,
) -> anyhow::Result<ContentHash> {
    let mut sha256 = Sha256::new();
    while let Some(bytes) = response.chunk().await.map_err(|error| client.unreachable(&error))? {
        sha256.update(&bytes);
        to.write_all(&bytes).await.context("cannot write what came")?;
        counter.add(bytes.len());
    }
    to.flush().await.context("cannot write what came")?;
    let sha256 = ContentHash::from_digest(sha256.finalize().into());
    match promised {
        Some(promised) if promised != sha256 => {
            bail!(
                "what came hashes to {sha256}, and the controller promised {promised}; fetch it again"
            )
        }
        _ => Ok(sha256),
    }
}

/// A file that is not whole yet; it goes away unless it gets its name.
struct Part(PathBuf);

impl Part {
    fn beside(file: &Path) -> anyhow::Result<Self> {
        let name = file.file_name().with_context(|| format!("{} names no file", file.display()))?;
        let name = format!(".{}.{}.part", name.display(), std::process::id());
        Ok(Self(file.with_file_name(name)))
    }

    fn name(self, file: &Path) -> anyhow::Result<()> {
        std::fs::rename(&self.0, file).with_context(|| format!("cannot make {}", file.display()))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It has its name, or was never made.
        _ = std::fs::remove_file(&self.0);
    }
}

/// Waits for `work` while what it counts is told, and no longer than something moves; returns a summary beside its outcome.
async fn watched<T>(
    mut meter: Meter,
    counter: &Counter,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<(T, String)> {
    let is_terminal = std::io::stderr().is_terminal();
    let interval = if is_terminal { TERMINAL_INTERVAL } else { LOG_INTERVAL };
    let (mut moved_at, mut told_at, mut before) = (Instant::now(), Instant::now(), 0);
    tokio::pin!(work);
    let outcome = loop {
        tokio::select! {
            outcome = &mut work => break outcome,
            () = tokio::time::sleep(TERMINAL_INTERVAL) => {
                let (now, done) = (Instant::now(), counter.get());
                if done != before {
                    (before, moved_at) = (done, now);
                }
                meter.record(done, now);
                if now.duration_since(moved_at) > SILENCE_MAX {
                    break Err(anyhow::anyhow!(
                        "nothing has moved for {} s; given up after {done} bytes", SILENCE_MAX.as_secs()
                    ));
                }
                if now.duration_since(told_at) >= interval {
                    told_at = now;
                    tell(is_terminal, &meter.line(done, now));
                }
            }
        }
    };
    if is_terminal {
        tell(is_terminal, "");
    }
    Ok((outcome?, meter.summary(Instant::now())))
}

/// A line on stderr; a terminal's takes the place of the one before (ECMA-48 §8.3.41: EL).
fn tell(is_terminal: bool, line: &str) {
    let (begin, end) = if is_terminal { ("\r\x1b[K", "") } else { ("", "\n") };
    let mut stderr = std::io::stderr().lock();
    // Whether anybody reads it does not matter to the transfer.
    _ = write!(stderr, "{begin}{line}{end}").and_then(|()| stderr.flush());
}
