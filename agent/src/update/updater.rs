//! The running agent's part in its own updates: it fetches what the controller has signed, lays it down and ends, so that the next
//! start decides; and where it is the one on trial, it proves itself or gives itself up.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use nix::unistd::alarm;
use pureboot_protocol::{
    AgentUpdate, CommandId, ContentHash, ManifestEntry, PublicKey, SignedUpdate, SiteId,
    UpdateEnded, UpdateFate, UpdateReport, program_key,
};
use smol::Timer;
use smol::channel::{Receiver, Sender, bounded};

use super::files::UpdateDir;
use super::journal::{Here, Journal, Slot, Verdict};
use super::pin::Pin;
use super::release;
use crate::cache::evict::Need;
use crate::cache::{Cache, Failure, Object};
use crate::data_dir::DataDir;
use crate::sync::flights::Flights;
use crate::uplink::orders::Ending;
use crate::uplink::standing::Standing;
use crate::{clock, seal, supervise};

/// How much of a program is read at a time, in bytes.
const PIECE_LEN: usize = 256 << 10;

/// How often it is looked whether machines are still being served, or whether what is on trial has proven itself.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How long a program that waits lets machines finish what they are at.
const QUIET_LIMIT: Duration = Duration::from_secs(10 * 60);

/// A program on trial that the controller has not heard in so many of its trial's lengths is given up.
const UNHEARD_MAX: u32 = 3;

/// What else the agent is doing.
pub trait Activity {
    /// Transfers to machines that are under way.
    fn transfers(&self) -> u64;
}

/// Keeps the journal while the agent runs.
pub struct Updater {
    dir: UpdateDir,
    site_id: SiteId,
    /// Which update runs; none: the installed program.
    launched: Option<ContentHash>,
    trial: Duration,
    journal: RefCell<Journal>,
    cache: Cache,
    flights: Rc<Flights>,
    standing: Rc<Standing>,
    pin: Pin,
    end: (Sender<()>, Receiver<()>),
}

/// What an updater works with.
pub struct Parts {
    /// Where everything is.
    pub data_dir: DataDir,
    /// The agent's site.
    pub site_id: SiteId,
    /// Which update runs; none: the installed program.
    pub launched: Option<ContentHash>,
    /// How long a program has to serve before it has proven itself.
    pub trial: Duration,
    /// Where programs arrive.
    pub cache: Cache,
    /// Brings programs.
    pub flights: Rc<Flights>,
    /// Knows when the controller was heard.
    pub standing: Rc<Standing>,
    /// Has the key that programs are checked with.
    pub pin: Pin,
}

impl Updater {
    /// Goes on with what is remembered.
    pub fn load(parts: Parts) -> Self {
        let Parts { data_dir, site_id, launched, trial, cache, flights, standing, pin } = parts;
        let dir = UpdateDir::of(&data_dir);
        let journal = if dir.root().exists() { dir.load() } else { Journal::default() };
        let end = bounded(1);
        Self {
            dir,
            site_id,
            launched,
            trial,
            journal: RefCell::new(journal),
            cache,
            flights,
            standing,
            pin,
            end,
        }
    }

    /// How things stand.
    pub fn report(&self) -> UpdateReport {
        self.journal.borrow().report(self.launched, release::target())
    }

    /// Returns once the agent is to end and be started again.
    pub async fn end_wanted(&self) {
        // The sender lives as long as this does.
        _ = self.end.1.recv().await;
    }

    fn end(&self) {
        _ = self.end.0.try_send(());
    }

    /// Obeys the order `command`. It ends when the program it is about has proven itself or was given up, which is told by whichever
    /// program runs then; none if it could not be tried now.
    pub async fn obey(
        &self,
        command: CommandId,
        signed: SignedUpdate,
        activity: &dyn Activity,
        progress: impl Fn(String),
    ) -> Option<Ending> {
        let update = match self.open(&signed) {
            Ok(update) => update,
            Err(error) => return Some(Ending::failed(format!("{error:#}"))),
        };
        log::info!(command:%, version:% = update.version, sha256:% = update.sha256; "version {} is ordered", update.version);
        let here =
            Here { site_id: self.site_id, target: release::target(), running: release::version() };
        let verdict = self.journal.borrow().weigh(command, &update, here);
        match verdict {
            Err(refusal) => return Some(Ending::failed(refusal.to_string())),
            Ok(Verdict::Runs) => {
                return Some(Ending::completed(format!("version {} runs already", update.version)));
            }
            Ok(Verdict::Ended(ended)) => return Some(ending(&ended)),
            Ok(Verdict::UnderWay) => {}
            // One at a time: what this program goes back to is not settled before it has proven itself.
            Ok(Verdict::Stage) if self.is_on_trial() => return None,
            Ok(Verdict::Stage) => {
                if !supervise::is_supervised() {
                    let cure = "nothing would start this agent again: let systemd or procd do it, or start it with --supervise";
                    return Some(Ending::failed(cure));
                }
                progress(format!("fetching version {}", update.version));
                match self.stage(command, signed, &update).await {
                    Ok(()) => {}
                    Err(Unstaged::Later(error)) => {
                        log::warn!("version {} is not here yet: {error:#}", update.version);
                        return None;
                    }
                    Err(Unstaged::Never(error)) => {
                        return Some(Ending::failed(format!("{error:#}")));
                    }
                }
            }
        }
        if !self.is_on_trial() {
            // A start that cannot count the try does not try, and so would the next.
            let journal = self.journal.borrow().clone();
            if let Err(error) = self.keep(journal).await {
                log::warn!("version {} is not tried now: {error:#}", update.version);
                return None;
            }
            progress(format!(
                "version {} is here and waits until no machine is being served",
                update.version
            ));
            self.until_quiet(activity).await;
            log::info!("version {} waits: ending, to be started again", update.version);
            self.end();
            return std::future::pending().await;
        }
        progress(format!("version {} is on trial", update.version));
        loop {
            if let Ok(Verdict::Ended(ended)) = self.journal.borrow().weigh(command, &update, here) {
                return Some(ending(&ended));
            }
            Timer::after(LOOK_INTERVAL).await;
        }
    }

    /// The agent has joined a controller that signs with `key`.
    pub async fn join(&self, key: PublicKey) {
        self.pin.fix(key).await;
    }

    fn open(&self, signed: &SignedUpdate) -> anyhow::Result<AgentUpdate> {
        Ok(seal::open(signed, &self.pin.key()?)?)
    }

    /// Whether this very program has to prove itself.
    fn is_on_trial(&self) -> bool {
        let journal = self.journal.borrow();
        journal.trial().is_some_and(|slot| Some(slot.sha256) == self.launched)
    }

    async fn stage(
        &self,
        command: CommandId,
        signed: SignedUpdate,
        update: &AgentUpdate,
    ) -> Result<(), Unstaged> {
        let entry = ManifestEntry {
            key: program_key(update.version, update.target),
            size_bytes: update.size_bytes,
            sha256: update.sha256,
            pinned: false,
            chunks: None,
        };
        let busy = || Unstaged::Later(anyhow::anyhow!("too much content is on its way"));
        let arrival = self.flights.join(&entry, Need::Stock).ok_or_else(busy)?;
        let object = arrival.whole().await?;
        self.put(&object, update).await?;
        // It is kept once, and not among what machines may be given.
        if let Err(error) = self.cache.remove(&entry.key).await {
            log::warn!("{} stays in the cache, too: {error:#}", entry.key);
        }
        let mut journal = self.journal.borrow().clone();
        let slot = Slot {
            version: update.version,
            sha256: update.sha256,
            signed,
            installed: self.installed(),
        };
        journal.stage(slot, update.issued_at, command);
        self.keep(journal).await.map_err(Unstaged::Never)
    }

    /// Lays the program down piece by piece, so that never all of it is in memory.
    async fn put(&self, object: &Object, update: &AgentUpdate) -> Result<(), Unstaged> {
        let (dir, meant) = (self.dir.clone(), update.clone());
        let begun = smol::unblock(move || dir.begin(&meant)).await;
        let mut incoming = begun.map_err(Unstaged::Never)?;
        let mut offset = 0;
        while offset < object.size_bytes {
            let left = usize::try_from(object.size_bytes - offset).unwrap_or(PIECE_LEN);
            let piece = object.read_at(offset, left.min(PIECE_LEN)).await;
            let piece = piece.map_err(|error| Unstaged::Later(error.into()))?;
            if piece.is_empty() {
                let error = io::Error::from(io::ErrorKind::UnexpectedEof);
                return Err(Unstaged::Later(error.into()));
            }
            offset += piece.len() as u64;
            let written = smol::unblock(move || incoming.write(&piece).map(|()| incoming)).await;
            incoming = written.map_err(Unstaged::Never)?;
        }
        let meant = update.clone();
        smol::unblock(move || incoming.finish(&meant)).await.map_err(Unstaged::Never)
    }

    /// The version of the installed program: this one's, or what was noted when this one came.
    fn installed(&self) -> pureboot_protocol::ProgramVersion {
        let journal = self.journal.borrow();
        let launched = self.launched.and(journal.settled());
        launched.map_or_else(release::version, |slot| slot.installed)
    }

    async fn keep(&self, journal: Journal) -> anyhow::Result<()> {
        let (dir, saved) = (self.dir.clone(), journal.clone());
        smol::unblock(move || {
            dir.save(&saved)?;
            dir.sweep(&saved);
            Ok::<_, anyhow::Error>(())
        })
        .await?;
        self.journal.replace(journal);
        Ok(())
    }

    async fn until_quiet(&self, activity: &dyn Activity) {
        let begun = clock::monotonic();
        while activity.transfers() > 0 && clock::monotonic().duration_since(begun) < QUIET_LIMIT {
            Timer::after(LOOK_INTERVAL).await;
        }
    }

    /// Where this program is on trial: proves it once it has served for as long as a trial takes, the controller has been heard and
    /// `check` finds that machines are answered; or gives it up, and has the agent end.
    pub async fn prove(&self, check: impl AsyncFn() -> Result<(), String>) {
        let Some(sha256) = self.launched.filter(|_| self.is_on_trial()) else {
            // The start may have set one that nobody waits for any more.
            alarm::cancel();
            return;
        };
        let limit = self.trial * UNHEARD_MAX;
        // A program that hangs from now on is ended by the kernel.
        let grace = u32::try_from(limit.as_secs()).unwrap_or(u32::MAX).saturating_add(60);
        alarm::set(grace);
        let begun = clock::monotonic();
        let why = loop {
            Timer::after(LOOK_INTERVAL.min(self.trial)).await;
            let served = clock::monotonic().duration_since(begun);
            let is_heard = self.standing.last_heartbeat_at().is_some();
            if served >= self.trial && is_heard {
                match check().await {
                    Ok(()) => return self.prove_now(sha256).await,
                    Err(why) => break why,
                }
            }
            if served >= limit {
                break format!("the controller has not been heard within {} s", limit.as_secs());
            }
        };
        log::error!("version {} is given up: {why}", release::version());
        let mut journal = self.journal.borrow().clone();
        journal.go_back(why, clock::now());
        if let Err(error) = self.keep(journal).await {
            log::error!("this cannot be written down; the next starts count: {error:#}");
        }
        self.end();
    }

    async fn prove_now(&self, sha256: ContentHash) {
        let mut journal = self.journal.borrow().clone();
        journal.prove(sha256, clock::now());
        loop {
            match self.keep(journal.clone()).await {
                Ok(()) => break,
                Err(error) => log::warn!(
                    "that version {} serves cannot be written down yet: {error:#}",
                    release::version()
                ),
            }
            Timer::after(self.trial.max(LOOK_INTERVAL)).await;
        }
        alarm::cancel();
        log::info!("version {} has proven itself", release::version());
    }
}

/// Why a program is not here.
enum Unstaged {
    /// It may come yet.
    Later(anyhow::Error),
    /// It is not to be had, or not to be kept.
    Never(anyhow::Error),
}

impl From<Failure> for Unstaged {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Line(_) => Self::Later(failure.into()),
            Failure::Refused(_)
            | Failure::Corrupt(_)
            | Failure::NoSpace(_)
            | Failure::Storage(_) => Self::Never(failure.into()),
        }
    }
}

/// What the centre is told of an update that has ended.
fn ending(ended: &UpdateEnded) -> Ending {
    let UpdateEnded { version, fate, why, .. } = ended;
    match fate {
        UpdateFate::Proven => Ending::completed(format!("version {version} runs")),
        UpdateFate::GoneBack => {
            Ending::failed(format!("version {version} was tried and gone back from: {why}"))
        }
        UpdateFate::Refused => Ending::failed(format!("version {version} was not tried: {why}")),
    }
}
