//! A controller that says exactly what a test wants said.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use pureboot_protocol::{
    AgentId, Autonomy, CachePolicy, Chunks, ContentHash, Manifest, ManifestEntry, Problem,
    PublicKey, Signature, SignedManifest, SiteConfig, SiteId, Success, Timestamp,
};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use sha2::{Digest as _, Sha256};
use smol::io::{AsyncReadExt as _, AsyncWriteExt as _};
use smol::net::{TcpListener, TcpStream};
use smol::{LocalExecutor, Timer};
use tempfile::TempDir;

use crate::cache::Cache;
use crate::data_dir::{self, DataDir};
use crate::store::Identity;
use crate::uplink::controller::Controller;
use crate::uplink::standing::Standing;
use crate::uplink::tls;

use super::config::SyncConfig;
use super::demand::Demand;
use super::flights::Flights;
use super::housekeeper::Housekeeper;
use super::keeper::Keeper;
use super::line::Line;
use super::pinned::Pinned;
use super::run::{Parts, Sync};
use super::through::Bypass;
use super::wishes::Wishes;

pub(super) fn hash_of(bytes: &[u8]) -> ContentHash {
    ContentHash::from_digest(Sha256::digest(bytes).into())
}

/// How much is sent at once, in bytes.
const PIECE_LEN: usize = 1 << 20;

/// The list of chunks, as the controller serves it. The content says where it is cut: behind 32 KiB at the least, where two bytes
/// are small, and at 512 KiB.
pub(super) fn chunk_list(bytes: &[u8]) -> Vec<u8> {
    let mut list = Vec::new();
    let mut start = 0;
    while start < bytes.len() {
        let is_cut = |end: &usize| bytes[end - 1] == 0 && bytes[end - 2] < 4;
        let last = (start + Chunks::LEN_MAX).min(bytes.len());
        let end = (start + Chunks::LEN_MIN..last).find(is_cut).unwrap_or(last);
        list.extend_from_slice(&u32::try_from(end - start).expect("short").to_be_bytes());
        list.extend_from_slice(&Sha256::digest(&bytes[start..end]));
        start = end;
    }
    list
}

pub(super) fn site() -> SiteId {
    SiteId::from_random([2; 16])
}

pub(super) fn entry(name: &str, bytes: &[u8]) -> ManifestEntry {
    let list = chunk_list(bytes);
    let count = u32::try_from(list.len() / Chunks::ROW_LEN).expect("few");
    ManifestEntry {
        key: name.parse().expect("a name"),
        size_bytes: bytes.len() as u64,
        sha256: hash_of(bytes),
        pinned: name.starts_with("bootloaders/"),
        chunks: (count > 1).then(|| Chunks {
            format: Chunks::FORMAT,
            count,
            sha256: hash_of(&list),
        }),
    }
}

pub(super) fn manifest(version: u64, entries: Vec<ManifestEntry>) -> Manifest {
    Manifest {
        site_id: site(),
        version,
        issued_at: Timestamp::from_unix_ms(1_000),
        expires_at: Timestamp::from_unix_ms(4_000_000_000_000),
        entries,
        policies: Vec::new(),
    }
}

/// The controller's key.
pub(super) struct Signer(Ed25519KeyPair);

impl Signer {
    pub(super) fn new(seed: u8) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("32 bytes are a seed"))
    }

    pub(super) fn public(&self) -> PublicKey {
        let bytes = self.0.public_key().as_ref().try_into().expect("32 bytes");
        PublicKey::from_bytes(bytes)
    }

    pub(super) fn sign(&self, manifest: &Manifest) -> SignedManifest {
        let payload = serde_json::to_string(manifest).expect("JSON");
        let signature = self.0.sign(&SignedManifest::signed_bytes(&payload));
        let signature = Signature::from_bytes(signature.as_ref().try_into().expect("64 bytes"));
        SignedManifest::new(payload, signature, &self.public())
    }
}

/// What is wrong with what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// A page in place of everything.
    Portal,
    /// A page in place of objects.
    PortalForObjects,
    /// One bit of each object.
    WrongBytes,
    /// A byte more than the manifest says.
    Longer,
    /// A byte less.
    Shorter,
    /// No length, and no end.
    Endless,
    /// The line breaks after so many bytes of an object.
    CutAfter(usize),
}

/// The controller.
pub(super) struct Upstream {
    state: Rc<State>,
    address: SocketAddr,
}

struct State {
    signer: Signer,
    manifest: RefCell<Option<(String, SignedManifest)>>,
    objects: RefCell<HashMap<String, Rc<Vec<u8>>>>,
    withheld: Cell<Option<ContentHash>>,
    fault: Cell<Fault>,
    /// The pause after each MiB of an object.
    pause: Cell<Duration>,
    objects_asked: Cell<usize>,
    manifests_sent: Cell<usize>,
    sent_bytes: Cell<u64>,
}

impl Upstream {
    pub(super) async fn start(executor: &Rc<LocalExecutor<'static>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback is there");
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = Rc::new(State {
            signer: Signer::new(1),
            manifest: RefCell::default(),
            objects: RefCell::default(),
            withheld: Cell::new(None),
            fault: Cell::new(Fault::None),
            pause: Cell::new(Duration::ZERO),
            objects_asked: Cell::new(0),
            manifests_sent: Cell::new(0),
            sent_bytes: Cell::new(0),
        });
        let (acceptor, served) = (Rc::clone(executor), Rc::clone(&state));
        let accept = async move {
            while let Ok((stream, _)) = listener.accept().await {
                let served = Rc::clone(&served);
                acceptor.spawn(async move { _ = served.serve(stream).await }).detach();
            }
        };
        executor.spawn(accept).detach();
        Self { state, address }
    }

    /// From now on the site is to hold these.
    pub(super) fn issue(&self, version: u64, contents: &[(&str, &[u8])]) {
        let mut objects = self.state.objects.borrow_mut();
        let mut entries = Vec::new();
        for (name, bytes) in contents {
            objects.insert(hash_of(bytes).to_string(), Rc::new(bytes.to_vec()));
            entries.push(entry(name, bytes));
        }
        let signed = self.state.signer.sign(&manifest(version, entries));
        *self.state.manifest.borrow_mut() = Some((format!("\"{version}\""), signed));
    }

    pub(super) fn set_fault(&self, fault: Fault) {
        self.state.fault.set(fault);
    }

    pub(super) fn set_pause(&self, pause: Duration) {
        self.state.pause.set(pause);
    }

    /// Answers 404 where this object is asked for.
    pub(super) fn withhold(&self, hash: ContentHash) {
        self.state.withheld.set(Some(hash));
    }

    pub(super) fn withhold_nothing(&self) {
        self.state.withheld.set(None);
    }

    pub(super) fn objects_asked(&self) -> usize {
        self.state.objects_asked.get()
    }

    pub(super) fn manifests_sent(&self) -> usize {
        self.state.manifests_sent.get()
    }

    /// Of objects.
    pub(super) fn sent_bytes(&self) -> u64 {
        self.state.sent_bytes.get()
    }
}

impl State {
    async fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        loop {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).await?;
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).expect("a head is ASCII");
            let path = head.split(' ').nth(1).expect("a request line").to_owned();
            let field = |name: &str| {
                let line =
                    head.lines().find_map(|line| line.split_once(": ").filter(|(n, _)| *n == name));
                line.map(|(_, value)| value.to_owned())
            };
            let fault = self.fault.get();
            if fault == Fault::Portal {
                stream.write_all(&page()).await?;
                continue;
            }
            match path.trim_start_matches("/api/v1/agents/").split('/').collect::<Vec<_>>()[..] {
                ["manifest"] => {
                    let (etag, signed) = self.manifest.borrow().clone().expect("it is issued");
                    if field("if-none-match").as_ref() == Some(&etag) {
                        stream.write_all(b"HTTP/1.1 304 Not Modified\r\n\r\n").await?;
                        continue;
                    }
                    self.manifests_sent.set(self.manifests_sent.get() + 1);
                    let body = serde_json::to_vec(&Success::new(signed)).expect("JSON");
                    stream
                        .write_all(&answer("200 OK", &format!("etag: {etag}\r\n"), &body))
                        .await?;
                }
                ["objects", hash, "chunks"] => {
                    let object = self.objects.borrow()[hash].clone();
                    stream.write_all(&answer("200 OK", "", &chunk_list(&object))).await?;
                }
                ["objects", hash] => {
                    let is_withheld =
                        self.withheld.get().is_some_and(|held| held.to_string() == hash);
                    if is_withheld {
                        stream.write_all(&missing()).await?;
                        continue;
                    }
                    let object = self.objects.borrow()[hash].clone();
                    self.objects_asked.set(self.objects_asked.get() + 1);
                    let range = field("range").and_then(|range| {
                        let (from, last) = range.strip_prefix("bytes=")?.split_once('-')?;
                        let last: Option<usize> = last.parse().ok();
                        Some(from.parse().ok()?..last.map_or(object.len(), |last| last + 1))
                    });
                    self.send(&mut stream, hash, &object, range, fault).await?;
                }
                _ => panic!("nobody asks for {path}"),
            }
        }
    }

    async fn send(
        &self,
        stream: &mut TcpStream,
        hash: &str,
        object: &[u8],
        range: Option<Range<usize>>,
        fault: Fault,
    ) -> std::io::Result<()> {
        let mut body = object[range.clone().unwrap_or(0..object.len())].to_vec();
        match fault {
            Fault::PortalForObjects => return stream.write_all(&page()).await,
            Fault::WrongBytes => {
                let middle = body.len() / 2;
                body[middle] ^= 1;
            }
            Fault::Longer => body.push(0),
            Fault::Shorter => _ = body.pop(),
            _ => {}
        }
        let (status, place) = match range {
            Some(Range { start: from, end }) => {
                let (last, len) = (end - 1, object.len());
                ("206 Partial Content", format!("content-range: bytes {from}-{last}/{len}\r\n"))
            }
            None => ("200 OK", String::new()),
        };
        let length = match fault {
            Fault::Endless => "transfer-encoding: chunked".to_owned(),
            _ => format!("content-length: {}", body.len()),
        };
        let head = format!("HTTP/1.1 {status}\r\netag: \"{hash}\"\r\n{place}{length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        if fault == Fault::Endless {
            loop {
                stream.write_all(b"8\r\nendless!\r\n").await?;
                self.sent_bytes.set(self.sent_bytes.get() + 8);
            }
        }
        let cut_at = match fault {
            Fault::CutAfter(len) => len.min(body.len()),
            _ => body.len(),
        };
        for piece in body[..cut_at].chunks(PIECE_LEN) {
            stream.write_all(piece).await?;
            self.sent_bytes.set(self.sent_bytes.get() + piece.len() as u64);
            if !self.pause.get().is_zero() {
                Timer::after(self.pause.get()).await;
            }
        }
        if cut_at < body.len() {
            return Err(std::io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

fn answer(status: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\n{fields}content-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn page() -> Vec<u8> {
    answer("200 OK", "content-type: text/html\r\n", b"<html>Please log in</html>")
}

fn missing() -> Vec<u8> {
    let problem = Problem {
        kind: "about:blank".to_owned(),
        title: "Not Found".to_owned(),
        status: 404,
        detail: "there is no such object".to_owned(),
        code: "object_not_found".to_owned(),
        correlation_id: "test".to_owned(),
        errors: Vec::new(),
    };
    answer("404 Not Found", "", &serde_json::to_vec(&problem).expect("JSON"))
}

/// An agent's content, without the rest of the agent.
pub(super) struct Site {
    pub(super) cache: Cache,
    pub(super) keeper: Rc<Keeper>,
    pub(super) demand: Rc<Demand>,
    pub(super) sync: Rc<Sync>,
    pub(super) flights: Rc<Flights>,
    pub(super) housekeeper: Rc<Housekeeper>,
    pub(super) pinned: Rc<Pinned>,
    pub(super) standing: Rc<Standing>,
    pub(super) data_dir: DataDir,
    directory: Option<TempDir>,
}

impl Site {
    pub(super) fn new(executor: &Rc<LocalExecutor<'static>>, upstream: &Upstream) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let site = Self::at(executor, upstream, directory.path());
        Self { directory: Some(directory), ..site }
    }

    /// A site with other settings.
    pub(super) fn with(
        executor: &Rc<LocalExecutor<'static>>,
        upstream: &Upstream,
        config: &SyncConfig,
    ) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let site = Self::assemble(executor, upstream, directory.path(), config);
        Self { directory: Some(directory), ..site }
    }

    /// A site whose data are in `directory`, from its last life or from none.
    pub(super) fn at(
        executor: &Rc<LocalExecutor<'static>>,
        upstream: &Upstream,
        directory: &Path,
    ) -> Self {
        Self::assemble(executor, upstream, directory, &SyncConfig::default())
    }

    fn assemble(
        executor: &Rc<LocalExecutor<'static>>,
        upstream: &Upstream,
        directory: &Path,
        config: &SyncConfig,
    ) -> Self {
        let data_dir = DataDir::create(&directory.join("data")).expect("made");
        std::fs::create_dir_all(data_dir.root().join("state")).expect("made");
        let key = upstream.state.signer.public().to_string();
        data_dir::write_private(&data_dir.signing_key_file(), &key).expect("pinned");
        let cache = Cache::open(&data_dir.cache()).expect("a cache");
        let standing = Rc::new(Standing::new(Some(identity())));
        let controller = Rc::new(controller(executor, upstream));
        let keeper = Keeper::load(&data_dir, site(), Rc::clone(&controller), Rc::clone(&standing));
        let keeper = Rc::new(keeper);
        let pinned = Rc::new(Pinned::load(&data_dir).expect("nothing is pinned yet"));
        let housekeeper = Rc::new(Housekeeper::new(
            cache.clone(),
            Rc::clone(&keeper),
            Rc::clone(&standing),
            Rc::clone(&pinned),
        ));
        let line = Rc::new(Line::new(config));
        let flights = Flights::new(
            Rc::clone(executor),
            cache.clone(),
            Rc::clone(&controller),
            Rc::clone(&housekeeper),
            Rc::clone(&line),
        );
        let (flights, wishes) = (Rc::new(flights), Wishes::default());
        let demand = Demand::new(
            cache.clone(),
            Rc::clone(&keeper),
            Rc::clone(&flights),
            Bypass::new(cache.clone(), controller, line),
            Rc::clone(&standing),
            wishes.clone(),
        );
        let sync = Sync::new(Parts {
            cache: cache.clone(),
            keeper: Rc::clone(&keeper),
            flights: Rc::clone(&flights),
            housekeeper: Rc::clone(&housekeeper),
            pinned: Rc::clone(&pinned),
            wishes,
            jury: None,
        });
        Self {
            cache,
            keeper,
            demand: Rc::new(demand),
            sync: Rc::new(sync),
            flights,
            housekeeper,
            pinned,
            standing,
            data_dir,
            directory: None,
        }
    }

    /// The next life.
    pub(super) fn restart(
        self,
        executor: &Rc<LocalExecutor<'static>>,
        upstream: &Upstream,
    ) -> Self {
        let directory = self.directory.expect("this life made its directory");
        drop((self.cache, self.keeper, self.demand, self.sync, self.flights, self.housekeeper));
        let site = Self::at(executor, upstream, directory.path());
        Self { directory: Some(directory), ..site }
    }

    /// Other settings of the site.
    pub(super) fn set_config(&self, change: impl FnOnce(&mut SiteConfig)) {
        let mut identity = identity();
        change(&mut identity.config);
        self.standing.join(identity);
    }

    /// The manifest's version as the next life would find it.
    pub(super) fn kept_version(
        &self,
        executor: &Rc<LocalExecutor<'static>>,
        upstream: &Upstream,
    ) -> Option<u64> {
        let controller = Rc::new(controller(executor, upstream));
        let keeper = Keeper::load(&self.data_dir, site(), controller, Rc::clone(&self.standing));
        keeper.catalog().map(|catalog| catalog.version())
    }
}

fn controller(executor: &Rc<LocalExecutor<'static>>, upstream: &Upstream) -> Controller {
    let url = format!("http://{}", upstream.address).parse().expect("an address");
    Controller::new(Rc::clone(executor), url, tls::connector(None).expect("the web's authorities"))
}

fn identity() -> Identity {
    Identity {
        agent_id: AgentId::from_random([1; 16]),
        config: SiteConfig {
            site_id: site(),
            site_name: "berlin".to_owned(),
            autonomy_level: Autonomy::Readonly,
            cache_policy: CachePolicy::Assigned,
            cache_patterns: Vec::new(),
            cache_max_size_gb: None,
            cache_retention_days: 30,
            heartbeat_interval: 60,
        },
        config_version: 1,
        registered_at: Timestamp::from_unix_ms(0),
    }
}
