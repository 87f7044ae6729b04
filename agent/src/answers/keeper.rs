//! Brings sheets up to date, and sees to it that no installer starts that would find no answers.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use pureboot_protocol::{
    Assignment, BootId, ContentHash, Lifecycle, Mac, Nonce, PublicKey, SheetAnswer, SheetQuestion,
    SiteId, Workflow,
};
use pureboot_templates::BaseUrl;
use smol::channel::{Receiver, Sender, bounded};
use smol::future::zip;
use smol::lock::Semaphore;

use super::gate::Grant;
use super::render::{Job, Place, Unmade};
use super::sheet::{Said, Subject, Texts, Unbelieved, believe, check, lacks, name_texts, texts_of};
use super::shelf::{Held, Shelf};
use crate::clock::{self, Timer};
use crate::data_dir::DataDir;
use crate::rng::Rng;
use crate::status::AnswersRefused;
use crate::store::{CachedNode, Store, StoreError};
use crate::sync::keeper::pinned_key;
use crate::uplink::controller::{AT_BOOT, CallError, Controller, UNHURRIED};
use crate::uplink::standing::Standing;
use crate::world;

/// How many answers one sheet with its texts may take: as many as a file has texts.
const ANSWERS_MAX: usize = 64;

/// What is left of a boot's time for everything behind the question to the controller.
const REST: Duration = Duration::from_millis(500);

/// How many files are rendered at once: it takes the processor, which boots need too.
const RENDERS_MAX: usize = 2;

/// Why a sheet was not brought up to date. The one that is held stands.
#[derive(Debug, thiserror::Error)]
pub enum Stale {
    /// The agent has not joined, or the machine is none that the controller has told of.
    #[error("the controller has not told of this machine yet")]
    Unknown,
    /// The controller gave no answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Its answer is not to be believed, or cannot be used here.
    #[error("the controller's answer files are refused: {0}")]
    Unbelieved(#[from] Unbelieved),
    /// They cannot be kept.
    #[error("answer files cannot be kept: {0}")]
    Store(#[from] StoreError),
    /// The controller's key cannot be read.
    #[error("{0:#}")]
    Key(anyhow::Error),
}

/// What came of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refreshed {
    /// What is held is the controller's last word.
    Unchanged,
    /// There was a newer sheet, and it is held now.
    Changed,
}

/// Why a machine gets no installer. It is told the text.
#[derive(Debug, thiserror::Error)]
pub enum Unready {
    /// There is no sheet, or the one that is here is of another installation.
    #[error("its answer file {file} is not at this site: {why}")]
    Missing {
        /// The file.
        file: String,
        /// Why the controller did not send it.
        why: String,
    },
    /// The installer would get an error.
    #[error("its answer file cannot be made: {0}")]
    Unmade(#[from] Unmade),
    /// What is kept cannot be read, or it cannot be written down who may have secrets.
    #[error("its answer files cannot be looked up: {0}")]
    Store(#[from] StoreError),
}

/// Holds sheets and asks for the next; lives on the executor's thread.
pub struct Answers {
    pub(super) shelf: Shelf,
    pub(super) store: Store,
    data_dir: DataDir,
    site: SiteId,
    controller: Rc<Controller>,
    pub(super) standing: Rc<Standing>,
    /// The last sheet that was refused; none once one of the same machine was taken.
    refused: RefCell<Option<AnswersRefused>>,
    /// Machines whose sheets are to be looked at soon: some of those that the site remembers, each once.
    noted: RefCell<BTreeSet<Mac>>,
    wakes: (Sender<()>, Receiver<()>),
    turns: Semaphore,
}

impl Answers {
    /// Keeps sheets in `store` and asks `controller` for them.
    pub fn new(
        store: Store,
        data_dir: DataDir,
        site: SiteId,
        controller: Rc<Controller>,
        standing: Rc<Standing>,
    ) -> Self {
        Self {
            shelf: Shelf::new(store.clone()),
            store,
            data_dir,
            site,
            controller,
            standing,
            refused: RefCell::default(),
            noted: RefCell::default(),
            // One wake that waits is as good as many.
            wakes: bounded(1),
            turns: Semaphore::new(RENDERS_MAX),
        }
    }

    /// What a person should look at.
    pub fn refused(&self) -> Option<AnswersRefused> {
        self.refused.borrow().clone()
    }

    /// Asks the controller for the sheet of the machine with `mac`, and takes it if it is newer and sound. To be called whenever what the
    /// machine is installed with may have changed.
    ///
    /// # Errors
    /// There is no news; what is held stands.
    pub async fn refresh(&self, mac: Mac) -> Result<Refreshed, Stale> {
        self.refresh_within(mac, UNHURRIED).await
    }

    /// Has the sheet of a machine looked at soon. Nobody waits for it.
    pub fn note(&self, mac: Mac) {
        if self.store.look_at(mac, may_need) == Some(true) {
            self.noted.borrow_mut().insert(mac);
            _ = self.wakes.0.try_send(());
        }
    }

    /// Keeps the sheets of all machines that may be installed up to date, for as long as the agent runs; the secrets of those that have
    /// been installed go.
    pub async fn run(&self, interval: Duration, rng: &mut Rng) {
        loop {
            self.look_at_all(self.needing()).await;
            // Looked up anew: a machine may have been ordered in the meantime.
            if let Err(error) = self.shelf.let_secrets_go(self.needing()).await {
                log::warn!(error:%; "secrets of machines that are installed cannot be let go now");
            }
            let pause = interval - rng.duration_between(Duration::ZERO, interval / 10);
            let noting = async {
                while let Ok(()) = self.wakes.1.recv().await {
                    self.look_at_all(self.noted.take()).await;
                }
            };
            smol::future::or(async { _ = Timer::after(pause).await }, noting).await;
        }
    }

    /// The machines that may be installed soon.
    fn needing(&self) -> BTreeSet<Mac> {
        self.store.nodes().iter().filter(|node| may_need(node)).map(CachedNode::mac).collect()
    }

    /// Four at a time, so that a line of 100 ms brings a thousand sheets in half a minute.
    async fn look_at_all(&self, macs: BTreeSet<Mac>) {
        let waiting = RefCell::new(macs);
        let look = async || {
            loop {
                let next = waiting.borrow_mut().pop_first();
                let Some(mac) = next else { break };
                self.look_at(mac).await;
            }
        };
        // As many as connections to the controller are kept.
        zip(zip(look(), look()), zip(look(), look())).await;
    }

    async fn look_at(&self, mac: Mac) {
        if self.standing.is_worth_asking()
            && let Err(error) = self.refresh(mac).await
        {
            log::debug!(mac:%, error:%; "no news of the answer files of {mac}");
        }
    }

    async fn refresh_within(&self, mac: Mac, budget: Duration) -> Result<Refreshed, Stale> {
        let fetched = self.fetch(mac, budget).await;
        let mut refused = self.refused.borrow_mut();
        match &fetched {
            Err(Stale::Unbelieved(error)) => {
                log::error!(mac:%, error:%; "the answer files of {mac} are refused, what is held stands");
                let reason = error.to_string();
                *refused = Some(AnswersRefused { mac, at: clock::now(), reason });
            }
            Ok(_) if refused.as_ref().is_some_and(|refused| refused.mac == mac) => *refused = None,
            _ => {}
        }
        fetched
    }

    async fn fetch(&self, mac: Mac, budget: Duration) -> Result<Refreshed, Stale> {
        let asked_at = clock::now();
        let known = self.store.node(mac).and_then(|node| node.known);
        let record = known.map(|known| known.record).filter(|record| record.version > 0);
        let node = record.ok_or(Stale::Unknown)?.node_id;
        let subject = Subject { site: self.site, node, mac };
        let key = self.key().await.map_err(Stale::Key)?;
        // A sheet whose secrets are gone has to come anew.
        let held = self.shelf.held(mac).await?.filter(Held::is_whole).map(|held| held.digest);
        let mut texts = Texts::new();
        let mut texts_held = self.shelf.text_names().await?;
        for _ in 0..ANSWERS_MAX {
            let nonce = nonce();
            let question = SheetQuestion { node_id: node, nonce, held, texts_held };
            let answer = self.ask(&question, budget).await?;
            let sheet = match believe(&answer, &nonce, &key, subject, held)? {
                Said::Unchanged => return Ok(Refreshed::Unchanged),
                Said::Sheet(sheet) => sheet,
            };
            let digest = answer.digest;
            let came = name_texts(answer.texts)?;
            let is_over = came.is_empty();
            texts.extend(came);
            let here = self.shelf.texts(&sheet).await?;
            let is_here = |hash: &ContentHash| here.contains_key(hash) || texts.contains_key(hash);
            if texts_of(&sheet).all(|hash| is_here(&hash)) {
                texts.extend(here);
                let (sheet, texts) =
                    smol::unblock(move || check(&sheet, &texts).map(|()| (sheet, texts))).await?;
                log::info!(mac:%, files = sheet.files.len(); "the answer files of {mac} have changed");
                self.shelf.put(*sheet, digest, texts, asked_at).await?;
                return Ok(Refreshed::Changed);
            }
            if is_over {
                break;
            }
            // Only what this sheet is made of matters now.
            texts_held = here.into_keys().chain(texts.keys().copied()).collect();
            texts_held.truncate(SheetQuestion::TEXTS_MAX);
        }
        Err(Unbelieved::Unfinished.into())
    }

    async fn ask(
        &self,
        question: &SheetQuestion,
        budget: Duration,
    ) -> Result<SheetAnswer, CallError> {
        let answer = self.controller.sheet(question, budget).await;
        self.standing.learn_in_a_hurry(&answer, clock::now());
        answer
    }

    async fn key(&self) -> anyhow::Result<PublicKey> {
        let data_dir = self.data_dir.clone();
        smol::unblock(move || pinned_key(&data_dir)).await
    }

    /// Sees to it that a machine that is about to be given the installer of `workflow` finds its answers, and lets its boot session have the
    /// secrets in them. It asks the controller, as far as there is time until `deadline`.
    ///
    /// # Errors
    /// The installer must not be given: it would ask a person.
    pub async fn admit(
        &self,
        guest: Guest<'_>,
        workflow: &Workflow,
        deadline: Instant,
    ) -> Result<(), Unready> {
        if workflow.templates.is_empty() {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(clock::monotonic());
        let why = match self.standing.is_worth_asking() {
            true => {
                let budget = AT_BOOT.min(left.saturating_sub(REST));
                self.refresh_within(guest.mac, budget).await.err().map(|error| error.to_string())
            }
            false => Some("the controller is away".to_owned()),
        };
        let why = why.unwrap_or_else(|| "the controller has another workflow for it".to_owned());
        let Some(node) = self.store.node(guest.mac) else { return Ok(()) };
        let held = self.shelf.held(guest.mac).await?;
        let lacking = match &held {
            Some(held) if held.is_whole() => lacks(&held.sheet, &workflow.templates),
            _ => workflow.templates.keys().next(),
        };
        if let Some(file) = lacking {
            return Err(Unready::Missing { file: file.as_str().to_owned(), why });
        }
        if let Some(held) = held {
            let place = Place { node: &node, boot: guest.session, base: guest.base };
            self.rehearse(&held, place).await?;
        }
        let Guest { mac, session, address, .. } = guest;
        // Without an address nobody is known again.
        if let Some(address) = address {
            let granted_at = clock::now();
            self.shelf.grant(mac, Grant { session, address, granted_at }).await?;
        }
        Ok(())
    }

    /// Renders every file, so that what is wrong is found before a disk is wiped.
    async fn rehearse(&self, held: &Held, place: Place<'_>) -> Result<(), Unready> {
        let texts = self.shelf.texts(&held.sheet).await?;
        for file in &held.sheet.files {
            let job = Job::new(held, file, &texts, place, None)?;
            self.render(job).await?;
        }
        Ok(())
    }

    /// The text of a file, made beside the executor.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) async fn render(&self, job: Job) -> Result<String, Unmade> {
        let _turn = self.turns.acquire().await;
        smol::unblock(move || job.render()).await
    }
}

/// A machine that is about to be given an installer.
#[derive(Debug, Clone, Copy)]
pub struct Guest<'a> {
    /// The machine.
    pub mac: Mac,
    /// Its boot session.
    pub session: BootId,
    /// Where it asks from.
    pub address: Option<IpAddr>,
    /// Where it reached the agent.
    pub base: &'a BaseUrl,
}

/// Whether a machine may be installed soon, with answer files.
fn may_need(node: &CachedNode) -> bool {
    let Some(known) = &node.known else { return false };
    let is_ahead = match known.record.state {
        Lifecycle::Pending
        | Lifecycle::Installing
        | Lifecycle::InstallFailed
        | Lifecycle::Reprovision => true,
        Lifecycle::Discovered
        | Lifecycle::Installed
        | Lifecycle::Active
        | Lifecycle::Deprovisioning
        | Lifecycle::Migrating
        | Lifecycle::ServingSource
        | Lifecycle::CloningTarget
        | Lifecycle::Retired => false,
    };
    let workflow = known.record.workflow.as_ref().and_then(Assignment::workflow);
    is_ahead && workflow.is_some_and(|workflow| !workflow.templates.is_empty())
}

fn nonce() -> Nonce {
    Nonce::from_random(world::random().expect("a system that has started has random numbers"))
}
