//! A site's agent in this process: the real store, outbox, flusher, booter, reporter and pulse, without sockets and threads.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Request, Response};
use pureboot_agent::answers::keeper::Answers;
use pureboot_agent::boot::booter::{Booter, Parts};
use pureboot_agent::boot::decide::OfflineAction;
use pureboot_agent::boot::render::Renderer;
use pureboot_agent::boot::reporter::Reporter;
use pureboot_agent::clock::{self, Timer};
use pureboot_agent::data_dir::{self, DataDir};
use pureboot_agent::nodes::follow::Follower;
use pureboot_agent::outbox::{self, Outbox};
use pureboot_agent::policy::site::{self, SitePolicies};
use pureboot_agent::rng::Rng;
use pureboot_agent::store::{Fate, Identity, Judge, Quota, Store, StoreError, StoreOptions};
use pureboot_agent::uplink::controller::{CallError, Controller, Trust, Wire};
use pureboot_agent::uplink::floor::Floor;
use pureboot_agent::uplink::heartbeat::{Measure, Pulse};
use pureboot_agent::uplink::obey::{Content, Obeyer};
use pureboot_agent::uplink::orders::Ending;
use pureboot_agent::uplink::rotate::Rotation;
use pureboot_agent::uplink::standing::Standing;
use pureboot_agent::uplink::tenure::Tenure;
use pureboot_agent::uplink::tls;
use pureboot_protocol::{
    Category, ContentKey, CredentialHash, Epoch, Heartbeat, RegistrationRequest, RegistrationToken,
    Secret, SiteId, Timestamp,
};
use rusqlite::Connection;
use sha2::{Digest as _, Sha256};
use smol::LocalExecutor;
use smol::channel::{Sender, bounded};

use crate::courier::Courier;
use crate::dice::Dice;
use crate::faults::Planted;
use crate::files;

/// The files of a site's database.
const DATABASE: [&str; 2] = ["site.db", "site.db-wal"];

/// So many jobs are lost with a crash where commits are not durable; most jobs only read.
const UNDURABLE_JOBS: usize = 60;

/// How much a site may hold: little, so that a full one is met.
const QUOTA: Quota = Quota { file_bytes: 8 << 20, outbox_rows: 4_000, outbox_bytes: 2 << 20 };

/// A request on its way out of an agent.
pub struct Sent {
    /// Whose.
    pub site: usize,
    /// What.
    pub request: Request<Bytes>,
    /// Where its answer is waited for; nobody waits there if the agent has given up or has ended.
    pub reply: Sender<Result<Response<Bytes>, CallError>>,
}

/// Requests that have left the agents.
pub type Mailbox = Rc<RefCell<VecDeque<Sent>>>;

/// The agents' end of the network.
struct Line {
    site: usize,
    mailbox: Mailbox,
}

impl Wire for Line {
    fn carry(
        &self,
        request: Request<Full<Bytes>>,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Response<Bytes>, CallError>>>> {
        let (site, mailbox) = (self.site, Rc::clone(&self.mailbox));
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let bytes = match body.collect().await {
                Ok(body) => body.to_bytes(),
                Err(never) => match never {},
            };
            let (reply, answer) = bounded(1);
            let request = Request::from_parts(head, bytes);
            mailbox.borrow_mut().push_back(Sent { site, request, reply });
            match answer.recv().await {
                Ok(answer) => answer,
                // Nothing comes any more; whoever asked has a limit of his own.
                Err(_) => std::future::pending().await,
            }
        })
    }
}

/// What becomes of the jobs of a site's store.
#[derive(Debug, Default)]
pub struct Disk {
    /// The process ends at the job that is so many away.
    pub ends_in: Option<u32>,
    /// Whether that is after the job's commit.
    pub ends_after: bool,
    /// It has ended.
    pub has_ended: bool,
    /// Nothing can be written.
    pub is_full: bool,
    /// So many jobs fail.
    pub fails: u32,
    /// The bug that is planted, if the disk is where it is.
    planted: Option<Planted>,
    /// The life of the outbox and how far it was forgotten, as of the last job.
    forgotten: Option<(String, u64)>,
    /// The files as they were before each of the last jobs, where commits are not durable.
    images: VecDeque<files::Image>,
    state_dir: PathBuf,
}

/// A disk that the simulation and the store share.
#[derive(Clone)]
pub struct Bench(Arc<Mutex<Disk>>);

impl Bench {
    /// Looks at the disk, or changes it.
    pub fn with<T>(&self, look: impl FnOnce(&mut Disk) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Judge for Bench {
    fn decide(&mut self) -> Fate {
        self.with(Disk::decide)
    }

    fn look(&mut self, db: &mut Connection) {
        self.with(|disk| disk.look(db));
    }
}

impl Disk {
    fn decide(&mut self) -> Fate {
        if self.planted == Some(Planted::AckBeforeCommit) {
            self.images.extend(files::read(&self.state_dir, &DATABASE));
            let excess = self.images.len().saturating_sub(UNDURABLE_JOBS);
            self.images.drain(..excess);
        }
        match self.ends_in {
            Some(0) => {
                self.has_ended = true;
                return if self.ends_after { Fate::EndAfter } else { Fate::EndBefore };
            }
            Some(jobs) => self.ends_in = Some(jobs - 1),
            None => {}
        }
        if self.is_full {
            return Fate::Refused(StoreError::Full);
        }
        if self.fails > 0 {
            self.fails -= 1;
            return Fate::Refused(StoreError::Io("the simulated disk fails".to_owned()));
        }
        Fate::Done
    }

    fn look(&mut self, db: &mut Connection) {
        // A bug that cannot be planted would be found missing by its test.
        let seen = self.plant(db).and_then(|()| forgotten(db));
        self.forgotten = seen.ok().or(self.forgotten.take());
    }

    fn plant(&mut self, db: &Connection) -> rusqlite::Result<()> {
        match self.planted {
            Some(Planted::PrefixOffByOne) => {
                let (epoch, through) = forgotten(db)?;
                let before = self.forgotten.take().filter(|(before, _)| *before == epoch);
                if before.is_some_and(|(_, before)| through > before) {
                    db.execute(
                        "UPDATE meta SET acked_through = acked_through + 1
                         WHERE acked_through < (SELECT max(seq) FROM outbox)",
                        [],
                    )?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// The life of the outbox, and the last change of it that does not wait any more.
fn forgotten(db: &Connection) -> rusqlite::Result<(String, u64)> {
    db.query_row("SELECT epoch, acked_through FROM meta", [], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// A site and its agent.
pub struct Site {
    /// Its place in the run.
    pub number: usize,
    /// Its id.
    pub id: SiteId,
    /// Whether its agent may have forgotten who it is, and needs another token.
    pub needs_token: bool,
    /// What its agent joins with.
    pub token: RegistrationToken,
    /// What its agent speaks with.
    pub credential: Secret,
    /// By how much its clock is wrong.
    pub skew_ms: i64,
    /// The agent, while it runs.
    pub life: Option<Life>,
    /// What machines reach it under.
    pub address: SocketAddr,
    dir: PathBuf,
    dice: Dice,
    planted: Option<Planted>,
    /// The life of its outbox, and how far it has been forgotten.
    forgotten: Option<(Epoch, u64)>,
}

/// A running agent.
pub struct Life {
    /// Runs its tasks. Dropped first, and they with it.
    pub executor: LocalExecutor<'static>,
    /// Its disk.
    pub bench: Bench,
    /// Its store.
    pub store: Store,
    /// Its outbox.
    pub outbox: Outbox,
    /// How it stands with the controller.
    pub standing: Rc<Standing>,
    /// Answers machines.
    pub booter: Rc<Booter>,
    /// Takes reports.
    pub reporter: Rc<Reporter>,
}

impl Site {
    /// A site whose agent has not been started yet.
    pub fn new(
        number: usize,
        id: SiteId,
        token: RegistrationToken,
        dir: PathBuf,
        seed: u64,
        planted: Option<Planted>,
    ) -> Self {
        let mut dice = Dice::new(seed, &format!("site {number}"));
        let mut secret = [0; 32];
        dice.fill(&mut secret);
        let last = u8::try_from(number).unwrap_or(u8::MAX).saturating_add(1);
        Self {
            number,
            id,
            needs_token: false,
            token,
            credential: Secret::from_random(secret),
            skew_ms: 0,
            life: None,
            address: SocketAddr::from(([192, 0, 2, last], 8080)),
            dir,
            dice,
            planted,
            forgotten: None,
        }
    }

    /// What the agent has deleted from its outbox since this was asked last: up to which change of which life.
    pub fn newly_forgotten(&mut self) -> Option<(Epoch, u64)> {
        let (epoch, through) = self.life.as_ref()?.bench.with(|disk| disk.forgotten.clone())?;
        let now = (Epoch::try_from(epoch).ok()?, through);
        let before = self.forgotten.replace(now).filter(|(epoch, _)| *epoch == now.0);
        (through > before.map_or(0, |(_, before)| before)).then_some(now)
    }

    /// Starts the agent from what is on its disk.
    pub fn start(&mut self, mailbox: &Mailbox) -> Result<()> {
        let disk =
            Disk { planted: self.planted, state_dir: self.dir.join("state"), ..Disk::default() };
        let bench = Bench(Arc::new(Mutex::new(disk)));
        let options = StoreOptions { data_dir: self.dir.clone(), quota: QUOTA };
        let store = Store::open_inline(options, Box::new(bench.clone()))?;
        let identity = smol::future::block_on(store.load_identity(self.id))?;
        let standing = Rc::new(Standing::new(identity));
        let url = "http://controller.example:8000".parse()?;
        // Nothing is connected: the line carries everything.
        let unused = Rc::new(LocalExecutor::new());
        let line = Line { site: self.number, mailbox: Rc::clone(mailbox) };
        let controller = Controller::new(unused, url, tls::connector(None)?).over(Rc::new(line));
        let controller = Rc::new(controller);
        controller.authenticate(self.credential.clone());
        let data_dir = DataDir::create(&self.dir)?;
        if let Some(key) = data_dir::signing_key(&data_dir)? {
            controller.trust(Trust { site_id: self.id, key });
        }
        let (outbox, flusher) = Outbox::new(store.clone());
        let (sightings, _) = bounded(1);
        // Nothing here is installed with answer files: they are asked for on threads.
        let answers = Answers::new(
            store.clone(),
            data_dir.clone(),
            self.id,
            Rc::clone(&controller),
            Rc::clone(&standing),
        );
        let answers = Rc::new(answers);
        let follower = Follower::new(
            Rc::clone(&controller),
            store.clone(),
            Rc::clone(&standing),
            Rc::clone(&answers),
        );
        let follower = Rc::new(follower);
        let policies = SitePolicies::new(site::Parts {
            data_dir: data_dir.clone(),
            site_id: self.id,
            content: None,
            store: store.clone(),
            standing: Rc::clone(&standing),
        });
        let booter = Booter::new(Parts {
            store: store.clone(),
            outbox: outbox.clone(),
            standing: Rc::clone(&standing),
            controller: Rc::clone(&controller),
            renderer: Renderer::new()?,
            sightings,
            recorder: Rc::default(),
            answers,
            follower: Rc::clone(&follower),
            policies: Rc::new(policies),
            offline_action: OfflineAction::default(),
        });
        let reporter = Reporter::new(store.clone(), outbox.clone(), Rc::clone(&standing));
        let executor = LocalExecutor::new();
        let uplink = Uplink {
            site: self.id,
            token: self.token.clone(),
            credential: self.credential.clone(),
            tenure: Tenure::begin(&data_dir)?,
            data_dir,
            controller,
            standing: Rc::clone(&standing),
            store: store.clone(),
            outbox: outbox.clone(),
            follower,
            planted: self.planted,
        };
        executor.spawn(uplink.run(flusher, self.dice.rng(), self.dice.rng())).detach();
        let (booter, reporter) = (Rc::new(booter), Rc::new(reporter));
        self.life = Some(Life { executor, bench, store, outbox, standing, booter, reporter });
        Ok(())
    }

    /// Ends the agent as kill -9 would: what the next life finds is what was on the disk at this moment.
    pub fn kill(&mut self) -> Result<()> {
        let Some(life) = self.life.take() else { return Ok(()) };
        let state = self.dir.join("state");
        let mut image = files::read(&state, &DATABASE)?;
        if self.planted == Some(Planted::AckBeforeCommit) {
            image = life.bench.with(|disk| disk.images.pop_front()).unwrap_or(image);
        }
        drop(life);
        files::write(&state, &DATABASE, &image)?;
        if self.planted == Some(Planted::OnceForgotten) {
            let db = Connection::open(state.join("site.db"))?;
            db.execute("UPDATE nodes SET install_given_version = NULL", [])?;
        }
        Ok(())
    }

    /// Damages the database of an agent that does not run.
    pub fn damage(&mut self) -> Result<()> {
        self.needs_token = true;
        let path = self.dir.join("state/site.db");
        let mut bytes = std::fs::read(&path)?;
        // A page in the middle: the header stays, so that it is still known as ours.
        let page = 4_096 * (1 + self.dice.index(bytes.len() / 4_096 - 1));
        if let Some(page) = bytes.get_mut(page..page + 4_096) {
            self.dice.fill(page);
        }
        Ok(std::fs::write(path, bytes)?)
    }

    /// How large the database is, in bytes.
    pub fn size_bytes(&self) -> u64 {
        let size = |name| std::fs::metadata(self.dir.join("state").join(name));
        DATABASE.iter().filter_map(|name| size(name).ok()).map(|file| file.len()).sum()
    }
}

/// What speaks to the controller, as the agent's own `uplink::run` puts it together; that one reads files on threads.
struct Uplink {
    site: SiteId,
    token: RegistrationToken,
    credential: Secret,
    data_dir: DataDir,
    controller: Rc<Controller>,
    standing: Rc<Standing>,
    store: Store,
    outbox: Outbox,
    tenure: Tenure,
    follower: Rc<Follower>,
    planted: Option<Planted>,
}

impl Uplink {
    async fn run(self, flusher: outbox::Flusher, flush_rng: Rng, mut pulse_rng: Rng) {
        while self.standing.agent_id().is_none() {
            self.join().await;
        }
        let courier = Courier::new(&self.controller, &self.standing, &self.tenure, self.planted);
        let rotation = Rotation::new(&self.data_dir, &self.controller);
        let obeyer = Obeyer::new(&self.controller, &self.store, &rotation, &NoContent);
        let vitals = Vitals { site: self.site, standing: &self.standing, outbox: &self.outbox };
        let floor = Floor::default();
        let pulse = Pulse {
            controller: &self.controller,
            vitals: &vitals,
            store: &self.store,
            standing: &self.standing,
            outbox: &self.outbox,
            tenure: &self.tenure,
            floor: &floor,
            obeyer: &obeyer,
            content: &NoContent,
            follower: &self.follower,
        };
        let flusher = flusher.speaking_as(self.tenure.instance());
        let flushing = outbox::run(flusher, &courier, flush_rng);
        let speaking = smol::future::zip(pulse.run(&mut pulse_rng), flushing);
        let speaking = smol::future::zip(speaking, self.follower.run());
        smol::future::zip(obeyer.run(), speaking).await;
    }

    /// Redeems the token, as often as it takes (K9).
    async fn join(&self) {
        let digest = Sha256::digest(self.credential.reveal().as_bytes());
        let request = RegistrationRequest {
            site_id: self.site,
            token: self.token.clone(),
            agent_url: "http://192.0.2.1:8080".to_owned(),
            agent_version: "0.1.0".to_owned(),
            capabilities: Vec::new(),
            credential_hash: Some(CredentialHash::from_digest(digest.into())),
        };
        let outcome = self.controller.register(&request).await;
        self.standing.learn(&outcome, clock::now());
        if let Ok(answer) = outcome {
            let key = answer.signing_key;
            if data_dir::write_private(&self.data_dir.signing_key_file(), &key.to_string()).is_ok()
            {
                self.controller.trust(Trust { site_id: self.site, key });
            }
            let identity = Identity {
                agent_id: answer.agent_id,
                config: answer.config,
                config_version: answer.config_version,
                registered_at: clock::now(),
            };
            if self.store.save_identity(identity.clone()).await.is_ok() {
                return self.standing.join(identity);
            }
        }
        Timer::after(std::time::Duration::from_secs(60)).await;
    }
}

/// A site without content.
struct NoContent;

impl Content for NoContent {
    async fn sync(&self, _: bool, _: &[Category], _: impl Fn(String)) -> Option<Ending> {
        Some(Ending::completed("there is nothing to bring"))
    }

    fn hear(&self, _: Option<u64>, _: Timestamp) {}

    async fn revalidate(&self, _: &ContentKey) -> Option<Ending> {
        Some(Ending::completed("there is nothing to ask about"))
    }
}

struct Vitals<'a> {
    site: SiteId,
    standing: &'a Standing,
    outbox: &'a Outbox,
}

impl Measure for Vitals<'_> {
    async fn measure(&self) -> Heartbeat {
        let pending = self.outbox.counts().await.map_or(0, |counts| counts.pending);
        Heartbeat {
            site_id: self.site,
            timestamp: clock::now(),
            instance: None,
            agent_version: "0.1.0".to_owned(),
            uptime_seconds: 0,
            services: Default::default(),
            nodes_seen_last_hour: 0,
            active_boots: 0,
            cache_hit_rate: None,
            disk_usage_percent: 0.0,
            cache_size_bytes: 0,
            cache_entries: 0,
            node_cache_entries: 0,
            last_sync_at: None,
            last_sync_result: None,
            pending_sync_items: 0,
            is_online: true,
            last_online_at: self.standing.last_online_at(),
            offline_duration_seconds: 0,
            pending_queue_items: pending,
            failed_queue_items: 0,
            conflicts_pending: 0,
            config_version: self.standing.config_version(),
            command_results: Vec::new(),
            plugins: None,
            update: None,
        }
    }
}
