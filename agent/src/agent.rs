//! The running agent: binds, opens, puts the parts together, and waits for the end.

mod content;
mod rehearsal;
mod sockets;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use self::content::Content;
use anyhow::{Context as _, anyhow};
use async_signal::{Signal, Signals};
use pureboot_protocol::{ContentHash, Mac};
use smol::LocalExecutor;
use smol::channel::{Receiver, Sender, bounded};
use smol::future::FutureExt as _;
use smol::net::TcpListener;
use smol::net::unix::UnixListener;
use smol::stream::StreamExt as _;

use crate::answers::keeper::Answers;
use crate::boot::booter::{self, Booter};
use crate::boot::http::BootService;
use crate::boot::library::BootLibrary;
use crate::boot::render::Renderer;
use crate::boot::reporter::Reporter;
use crate::cache::Cache;
use crate::cage::rights::Kept;
use crate::cage::{self, Confinement};
use crate::config::Config;
use crate::conflicts::keeper::Conflicts;
use crate::data_dir::{self, DataDir};
use crate::dhcp::answer::Answerer;
use crate::dhcp::loaders::STOCK_CURE;
use crate::dhcp::scribe::{self, Notes, Scribe};
use crate::dhcp::serve::LogObserver;
use crate::http::{DESCRIPTORS_WANTED, Limits};
use crate::manage::Management;
use crate::nodes::follow::Follower;
use crate::nodes::mover::Mover;
use crate::notify::Notifier;
use crate::outbox::{Counts, Flusher, Outbox};
use crate::policy::site::{self, SitePolicies};
use crate::rng::Rng;
use crate::session::journal::Journal;
use crate::session::recall;
use crate::session::recorder::Recorder;
use crate::store::{Quota, Store, StoreOptions};
use crate::sync::keeper::Keeper;
use crate::tftp::refusals::Refusals;
use crate::update::pin::Pin;
use crate::update::release;
use crate::update::updater::{self, Updater};
use crate::uplink::controller::{Controller, Trust};
use crate::uplink::floor::Floor;
use crate::uplink::memory;
use crate::uplink::run::Uplink;
use crate::uplink::standing::Standing;
use crate::uplink::tls;
use crate::vitals::Vitals;
use crate::{clock, descriptors, dhcp, http, store, tftp};

pub use self::rehearsal::rehearse;
use self::sockets::{Sockets, Watched};

/// Machines that have asked for a script and that ProxyDHCP has not taken note of yet; more are not told to it.
const SIGHTINGS_MAX: usize = 64;

/// Why an agent has ended that nothing has failed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was asked to.
    Asked,
    /// Another version of it is here, or this one has given itself up: it is to be started again.
    Restart,
}

/// Runs the agent until SIGTERM or SIGINT; `launched` is the update that this program is, and `announce` gets one line once machines
/// can be served.
///
/// # Errors
/// Something that the agent cannot do without is missing or has ended; the text says what.
pub fn run(
    config: Config,
    data_dir: DataDir,
    launched: Option<ContentHash>,
    announce: impl FnOnce(&str),
) -> anyhow::Result<End> {
    let _lock = store::lock_data_dir(data_dir.root())?;
    if store::is_volatile(data_dir.root()) {
        log::warn!(
            "{} lies in memory: what machines report is lost with the power",
            data_dir.root().display()
        );
    }
    let sockets = Sockets::bind(&config, &data_dir)?;
    let notifier = Notifier::from_environment()?;
    let pin = Pin::open(&data_dir);
    let confinement = confine(&config, &data_dir);
    let executor = Rc::new(LocalExecutor::new());
    #[expect(clippy::disallowed_methods, reason = "shell: the program's one wait")]
    smol::block_on(executor.run(async {
        let sockets = sockets.watch()?;
        let held = Held { launched, confinement, pin };
        let agent = Agent::assemble(&executor, config, data_dir, sockets, held).await?;
        agent.serve(announce, &notifier).await
    }))
}

fn confine(config: &Config, data_dir: &DataDir) -> Confinement {
    if !config.cage.enabled {
        log::warn!("the cage is switched off");
        return Confinement::Off;
    }
    cage::close(&cage::Plan {
        data_dir: data_dir.root(),
        ca_file: config.ca_file.as_deref(),
        controller_port: config.central_url.port(),
        kept: if config.dhcp.enabled { Kept::ForPortsOfDhcp } else { Kept::Nothing },
    })
}

/// What is settled about the process before its parts are put together.
struct Held {
    /// Which update the program is; none: the installed one.
    launched: Option<ContentHash>,
    confinement: Confinement,
    pin: Pin,
}

/// The parts, put together and not yet started.
struct Agent {
    shared: Shared,
    sockets: Watched,
    flusher: Flusher,
    renderer: Renderer,
    rng: Rng,
}

/// What several parts hold.
struct Shared {
    executor: Rc<LocalExecutor<'static>>,
    config: Config,
    data_dir: DataDir,
    store: Store,
    outbox: Outbox,
    cache: Cache,
    standing: Rc<Standing>,
    controller: Rc<Controller>,
    content: Content,
    /// TFTP transfers under way.
    transfers: Rc<Cell<usize>>,
    /// TFTP requests that got no answer.
    refusals: Arc<Refusals>,
    recorder: Rc<Recorder>,
    answers: Rc<Answers>,
    follower: Rc<Follower>,
    conflicts: Rc<Conflicts>,
    confinement: Confinement,
    policies: Rc<SitePolicies>,
    floor: Arc<Floor>,
    updater: Rc<Updater>,
}

impl Agent {
    async fn assemble(
        executor: &Rc<LocalExecutor<'static>>,
        config: Config,
        data_dir: DataDir,
        sockets: Watched,
        held: Held,
    ) -> anyhow::Result<Self> {
        let Held { launched, confinement, pin } = held;
        let options =
            StoreOptions { data_dir: data_dir.root().to_owned(), quota: Quota::default() };
        let store = Store::open(options).await.context("cannot open the site's database")?;
        let cache = Cache::open(&data_dir.cache()).context("cannot open the cache")?;
        let identity = store.load_identity(config.site_id).await;
        let identity = identity.context("cannot read who this agent is")?;
        recall::sessions(&store, &data_dir).await?;
        let floor = Arc::new(Floor::load(&data_dir));
        let tls = tls::connector_by(config.ca_file.as_deref(), Arc::clone(&floor) as _)?;
        let controller =
            Rc::new(Controller::new(Rc::clone(executor), config.central_url.clone(), tls));
        let remembered = store.load_line().await.context("cannot read how the line was")?;
        let standing = Rc::new(Standing::new(identity).resuming(remembered));
        let keeper = Rc::new(Keeper::load(
            &data_dir,
            config.site_id,
            Rc::clone(&controller),
            Rc::clone(&standing),
        ));
        let policies = Rc::new(SitePolicies::new(site::Parts {
            data_dir: data_dir.clone(),
            site_id: config.site_id,
            content: Some(site::Content { cache: cache.clone(), manifest: Rc::clone(&keeper) }),
            store: store.clone(),
            standing: Rc::clone(&standing),
        }));
        let content = Content::assemble(content::Parts {
            executor,
            config: &config,
            data_dir: &data_dir,
            cache: &cache,
            store: &store,
            controller: &controller,
            standing: &standing,
            keeper,
            policies: &policies,
        })?;
        if let Some(key) = data_dir::signing_key(&data_dir)? {
            controller.trust(Trust { site_id: config.site_id, key });
        }
        let (outbox, flusher) = Outbox::new(store.clone());
        let seed = getrandom::u64().context("the system has no random numbers")?;
        log::info!(seed; "starting agent {} for site {}", release::version(), config.site_id);
        let answers = Answers::new(
            store.clone(),
            data_dir.clone(),
            config.site_id,
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
        let conflicts = Conflicts::new(
            Rc::clone(&controller),
            store.clone(),
            outbox.clone(),
            Rc::clone(&standing),
            Rc::clone(&follower),
        );
        let (keeper, line, changes) = (store.clone(), Rc::clone(&standing), standing.listen());
        let keeping = async move { memory::keep(&keeper, &line, changes, remembered).await };
        executor.spawn(keeping).detach();
        // Before a machine is answered: what a policy refuses must not pass because the agent has just been started.
        policies.apply().await;
        let updater = Updater::load(updater::Parts {
            data_dir: data_dir.clone(),
            site_id: config.site_id,
            launched,
            trial: config.update.trial(),
            cache: cache.clone(),
            flights: Rc::clone(&content.flights),
            standing: Rc::clone(&standing),
            pin,
        });
        let shared = Shared {
            executor: Rc::clone(executor),
            config,
            data_dir,
            store,
            outbox,
            cache,
            standing,
            controller,
            content,
            transfers: Rc::default(),
            refusals: Arc::default(),
            recorder: Rc::default(),
            answers,
            follower,
            conflicts: Rc::new(conflicts),
            confinement,
            floor,
            policies,
            updater: Rc::new(updater),
        };
        let renderer = Renderer::new().context("the templates do not compile")?;
        Ok(Self { shared, sockets, flusher, renderer, rng: Rng::from_seed(seed) })
    }

    /// Starts every part as a task and waits for the end.
    async fn serve(self, announce: impl FnOnce(&str), notifier: &Notifier) -> anyhow::Result<End> {
        let mut signals =
            Signals::new([Signal::Term, Signal::Int]).context("cannot listen for signals")?;
        let store = self.shared.store.clone();
        let recorder = Rc::clone(&self.shared.recorder);
        let journal = Journal::new(&self.shared.data_dir);
        let listening = self.sockets.describe();
        let updater = Rc::clone(&self.shared.updater);
        let uplink = self.start();
        announce(&listening);
        notifier.ready();
        let asked_to_stop = async {
            signals.next().await;
            log::info!("asked to stop");
            Ok(End::Asked)
        };
        let other_version = async {
            updater.end_wanted().await;
            Ok(End::Restart)
        };
        let store_ended = async {
            store.stopped().await;
            Err(anyhow!("the thread that owns the site's database has ended"))
        };
        let alive = async { match notifier.keep_alive().await {} };
        // What is under way is cut off: whatever was answered is on disk already, and kill -9 is a normal way to stop.
        let uplink = async { uplink.run().await.map(|()| End::Asked) };
        let ended = asked_to_stop.or(store_ended).or(uplink).or(other_version).or(alive).await;
        notifier.stopping();
        recorder.save_all(journal).await;
        ended
    }

    /// Starts to serve machines; what is returned is to be run for the controller's sake.
    fn start(self) -> Uplink<Vitals> {
        let Self { shared, sockets, flusher, renderer, rng } = self;
        let (sightings, seen) = bounded(SIGHTINGS_MAX);
        let notes = shared.notes(&sockets);
        let vitals = Rc::new(shared.vitals(&sockets, notes.clone()));
        let booter = Rc::new(shared.booter(renderer, sightings));
        shared.recover_cache();
        let policies = Rc::clone(&shared.policies);
        shared.spawn(policies.records().clone().keep());
        shared.spawn(policies.judgements().clone().keep());
        shared.spawn(async move { policies.run().await });
        let sync = Rc::clone(&shared.content.sync);
        shared.spawn(async move { sync.mend().await });
        shared.renew_judgements();
        shared.spawn(Rc::clone(&shared.recorder).keep(Journal::new(&shared.data_dir)));
        shared.serve_management(sockets.management, sockets.http_address, &vitals, &booter);
        if let Some(notes) = notes {
            shared.warn_of_loaders(&vitals);
            shared.serve_dhcp(sockets.dhcp, sockets.http_address.port(), seen, notes);
        }
        shared.prove(&booter, sockets.http_address);
        shared.serve_tftp(sockets.tftp, &booter, sockets.http_address.port());
        shared.serve_http(sockets.http, booter, &vitals);
        Uplink {
            controller: shared.controller,
            standing: shared.standing,
            store: shared.store,
            outbox: shared.outbox,
            flusher,
            vitals,
            data_dir: shared.data_dir,
            config: shared.config,
            http_address: sockets.http_address,
            sync: shared.content.sync,
            recorder: shared.recorder,
            answers: shared.answers,
            follower: shared.follower,
            conflicts: shared.conflicts,
            floor: shared.floor,
            updater: shared.updater,
            rng,
        }
    }
}

impl Shared {
    /// What ProxyDHCP has written down in an earlier run; none where it is off.
    fn notes(&self, sockets: &Watched) -> Option<Rc<RefCell<Notes>>> {
        let is_on = !sockets.dhcp.is_empty();
        let load = || scribe::load(&self.data_dir.lessons_file());
        is_on.then(|| Rc::new(RefCell::new(Notes { lessons: load(), ..Notes::default() })))
    }

    /// What policies want kept counts as soon as they have come or changed.
    fn renew_judgements(&self) {
        let (policies, sync) = (Rc::clone(&self.policies), Rc::clone(&self.content.sync));
        self.spawn(async move {
            loop {
                policies.stock_changed().await;
                sync.wish();
            }
        });
    }

    fn vitals(&self, sockets: &Watched, dhcp: Option<Rc<RefCell<Notes>>>) -> Vitals {
        let mut services = BTreeMap::from([
            ("http", sockets.http_address.to_string()),
            ("tftp", sockets.tftp_address.to_string()),
        ]);
        if self.config.dhcp.enabled {
            services.insert(
                "dhcp",
                format!("{}, ports 67 and 4011", self.config.dhcp.interfaces.join(", ")),
            );
        }
        Vitals {
            site_id: self.config.site_id,
            central_url: self.config.central_url.to_string(),
            data_dir: self.data_dir.clone(),
            standing: Rc::clone(&self.standing),
            store: self.store.clone(),
            outbox: self.outbox.clone(),
            cache: self.cache.clone(),
            sync: Rc::clone(&self.content.sync),
            transfers: Rc::clone(&self.transfers),
            refusals: Arc::clone(&self.refusals),
            services,
            confinement: self.confinement.clone(),
            loaders: self.config.dhcp.files().cloned().collect(),
            recorder: Rc::clone(&self.recorder),
            answers: Rc::clone(&self.answers),
            policies: Rc::clone(&self.policies),
            updater: Rc::clone(&self.updater),
            dhcp,
            counted: Cell::new(Counts::default()),
            started_at: clock::now(),
            started: clock::monotonic(),
        }
    }

    fn booter(&self, renderer: Renderer, sightings: Sender<Mac>) -> Booter {
        Booter::new(booter::Parts {
            store: self.store.clone(),
            outbox: self.outbox.clone(),
            standing: Rc::clone(&self.standing),
            controller: Rc::clone(&self.controller),
            renderer,
            sightings,
            recorder: Rc::clone(&self.recorder),
            answers: Rc::clone(&self.answers),
            follower: Rc::clone(&self.follower),
            policies: Rc::clone(&self.policies),
            offline_action: self.config.boot.offline_default_action,
        })
    }

    /// After the loss of the index: brings back what is on disk, while machines are served already.
    fn recover_cache(&self) {
        let cache = self.cache.clone();
        self.spawn(async move {
            match cache.recover().await {
                Ok(0) => {}
                Ok(objects) => {
                    log::info!(objects; "brought {objects} objects back into the cache's index")
                }
                Err(error) => log::error!("the cache's index is not complete: {error:#}"),
            }
        });
    }

    fn serve_management(
        &self,
        listener: UnixListener,
        boot_address: SocketAddr,
        vitals: &Rc<Vitals>,
        booter: &Rc<Booter>,
    ) {
        let service = Rc::new(Management {
            executor: Rc::clone(&self.executor),
            vitals: Rc::clone(vitals),
            cache: self.cache.clone(),
            sync: Rc::clone(&self.content.sync),
            housekeeper: Rc::clone(&self.content.housekeeper),
            pinned: Rc::clone(&self.content.pinned),
            recorder: Rc::clone(&self.recorder),
            answers: Rc::clone(&self.answers),
            base: boot_address.into(),
            follower: Rc::clone(&self.follower),
            conflicts: Rc::clone(&self.conflicts),
            mover: Mover::new(self.store.clone(), self.outbox.clone(), Rc::clone(&self.standing)),
            booter: Rc::clone(booter),
            policies: Rc::clone(&self.policies),
        });
        let executor = Rc::clone(&self.executor);
        self.spawn(
            async move { http::serve(&executor, listener, Limits::default(), service).await },
        );
    }

    fn serve_http(&self, listener: TcpListener, booter: Rc<Booter>, vitals: &Rc<Vitals>) {
        let reporter =
            Reporter::new(self.store.clone(), self.outbox.clone(), Rc::clone(&self.standing));
        let service = Rc::new(BootService {
            executor: Rc::clone(&self.executor),
            booter,
            reporter: Rc::new(reporter),
            answers: Rc::clone(&self.answers),
            demand: Rc::clone(&self.content.demand),
            cache: self.cache.clone(),
            quirks: self.config.dhcp.quirks.clone(),
            vitals: Rc::clone(vitals),
            recorder: Rc::clone(&self.recorder),
        });
        let executor = Rc::clone(&self.executor);
        let limits = Limits::for_machines(descriptors::ask_for(DESCRIPTORS_WANTED));
        self.spawn(async move { http::serve(&executor, listener, limits, service).await });
    }

    fn serve_tftp(&self, listener: tftp::serve::Listener, booter: &Rc<Booter>, http_port: u16) {
        let library = BootLibrary {
            booter: Rc::clone(booter),
            demand: Rc::clone(&self.content.demand),
            cache: self.cache.clone(),
            recorder: Rc::clone(&self.recorder),
            http_port,
            ignore_case: self.config.tftp.ignore_case,
        };
        let executor = Rc::clone(&self.executor);
        let (transfers, refusals) = (Rc::clone(&self.transfers), Arc::clone(&self.refusals));
        let (library, limits) = (Rc::new(library), self.config.tftp.limits());
        self.spawn(async move {
            match tftp::serve::serve(listener, library, executor, limits, transfers, refusals).await
            {
            }
        });
    }

    fn serve_dhcp(
        &self,
        listeners: Vec<dhcp::serve::Listener>,
        http_port: u16,
        seen: Receiver<Mac>,
        notes: Rc<RefCell<Notes>>,
    ) {
        let lessons = notes.borrow().lessons.entries().into_iter().map(|kept| kept.lesson);
        let answerer = Answerer::new(self.config.dhcp.loaders.clone(), http_port, lessons)
            .with_quirks(self.config.dhcp.quirks.clone());
        let (scribe, changes) = Scribe::new(Rc::clone(&notes));
        self.spawn(scribe::keep(self.data_dir.lessons_file(), notes, changes));
        let observer = (LogObserver, (Rc::clone(&self.recorder), scribe));
        let recorder = Rc::clone(&self.recorder);
        // Nobody has to remember what no entry asks for.
        let is_asked_for = self.config.dhcp.quirks.iter().any(|quirk| quirk.user_agent.is_some());
        let user_agents_of = move |mac| match is_asked_for {
            true => recorder.user_agents_of(mac),
            false => Vec::new(),
        };
        self.spawn(dhcp::serve::run(listeners, answerer, seen, user_agents_of, observer));
    }

    /// Machines whose loader is not there, or cannot work, get an offer that leads nowhere, so somebody should know before they do.
    fn warn_of_loaders(&self, vitals: &Vitals) {
        if let Some(complaint) = self.config.dhcp.complaint() {
            log::warn!("{complaint}");
        }
        if let Some(missing) = vitals.stock().complaint() {
            log::warn!(
                "ProxyDHCP offers loaders that the cache does not hold: {missing}; {STOCK_CURE}"
            );
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.executor.spawn(task).detach();
    }
}
