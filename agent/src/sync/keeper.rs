//! The manifest that this site goes by: on disk whole or not at all (FAULTS K15), and in memory.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use pureboot_protocol::{ClockQuality, PublicKey, SignedManifest, SiteId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::data_dir::{self, DataDir};
use crate::uplink::controller::{CallError, Controller, Issue, MANIFEST_LEN_MAX};
use crate::uplink::standing::Standing;

use super::manifest::{Catalog, Unbelieved};

/// The manifest's file as JSON. The text is escaped once more, which at worst doubles it.
const FILE_LEN_MAX: u64 = 2 * MANIFEST_LEN_MAX as u64;

/// After how long the controller is asked itself, whatever its heartbeats say: it gives a manifest that stays a new date each day.
const TRUST: Duration = Duration::from_secs(3_600);

/// The manifest as it was accepted, with what the controller calls these bytes.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    etag: Option<String>,
    #[serde(flatten)]
    signed: SignedManifest,
}

/// Why there is no news of the manifest. What was held stands.
#[derive(Debug, thiserror::Error)]
pub enum Stale {
    /// The controller gave no answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Its answer is not to be believed.
    #[error("the manifest is refused: {0}")]
    Unbelieved(#[from] Unbelieved),
    /// The agent has not joined, or its files are no good.
    #[error("{0:#}")]
    Local(anyhow::Error),
}

/// Holds the manifest and asks for the next.
pub struct Keeper {
    data_dir: DataDir,
    site_id: SiteId,
    controller: Rc<Controller>,
    standing: Rc<Standing>,
    catalog: RefCell<Option<Rc<Catalog>>>,
    etag: RefCell<Option<String>>,
    /// When the controller was last asked.
    asked: Cell<Option<Instant>>,
    /// When it last said what the manifest is.
    confirmed_at: Cell<Option<Timestamp>>,
    /// When it last said without being asked that the manifest is still the one that is held.
    told: Cell<Option<Instant>>,
    /// The version that it told last, where that is not the one that was held.
    other: Cell<Option<u64>>,
    /// One asks, and who comes meanwhile waits for that answer.
    asking: smol::lock::Mutex<()>,
}

impl Keeper {
    /// Takes up what a former life of the agent has kept. A file that is damaged, or that the pinned key has not signed, is
    /// nothing: the controller is asked anew.
    pub fn load(
        data_dir: &DataDir,
        site_id: SiteId,
        controller: Rc<Controller>,
        standing: Rc<Standing>,
    ) -> Self {
        let (catalog, etag) = match load(data_dir, site_id) {
            Ok(Some((catalog, etag))) => (Some(Rc::new(catalog)), etag),
            Ok(None) => (None, None),
            Err(error) => {
                log::warn!("the manifest that was kept is of no use: {error:#}");
                (None, None)
            }
        };
        Self {
            data_dir: data_dir.clone(),
            site_id,
            controller,
            standing,
            catalog: RefCell::new(catalog),
            etag: RefCell::new(etag),
            asked: Cell::new(None),
            confirmed_at: Cell::new(None),
            told: Cell::new(None),
            other: Cell::new(None),
            asking: smol::lock::Mutex::new(()),
        }
    }

    /// The manifest that the site goes by; none before the controller has given one.
    pub fn catalog(&self) -> Option<Rc<Catalog>> {
        self.catalog.borrow().clone()
    }

    /// The version of a manifest that the controller has told of and that is not here yet.
    pub fn coming(&self) -> Option<u64> {
        let held = self.catalog().map(|catalog| catalog.version());
        self.other.get().filter(|version| Some(*version) > held)
    }

    /// When the controller last said what the manifest is, by the wall clock.
    pub fn confirmed_at(&self) -> Option<Timestamp> {
        self.confirmed_at.get()
    }

    /// How long it takes until the controller was last asked longer ago than `age`.
    pub fn until_older_than(&self, age: Duration) -> Duration {
        let asked = self.asked.get().map(|asked| clock::monotonic().duration_since(asked));
        asked.map_or(Duration::ZERO, |ago| age.saturating_sub(ago))
    }

    /// The controller has told the version of the manifest, or has answered and does not tell. Answers whether there is one to ask for.
    pub fn hear(&self, version: Option<u64>, now: Timestamp) -> bool {
        let held = self.catalog().map(|catalog| catalog.version());
        self.other.set(version.filter(|version| Some(*version) != held));
        if version.is_some() && version == held {
            self.told.set(Some(clock::monotonic()));
            self.confirmed_at.set(Some(now));
            return false;
        }
        self.told.set(None);
        version.is_some()
    }

    /// Whether it is known without asking that the manifest is still the one that is held: the controller has said so within
    /// `age_max`, and has been asked itself within the hour.
    pub fn is_told(&self, age_max: Duration) -> bool {
        let told = self.told.get().map(|told| clock::monotonic().duration_since(told));
        told.is_some_and(|ago| ago <= age_max) && !self.until_older_than(TRUST).is_zero()
    }

    /// Asks the controller for a manifest that is newer, unless somebody has asked within `age_max`. With `is_forced` the
    /// controller sends it even if nothing has changed.
    ///
    /// # Errors
    /// There is no news; what is held stands.
    pub async fn refresh(&self, age_max: Duration, is_forced: bool) -> Result<(), Stale> {
        let _turn = self.asking.lock().await;
        if !is_forced && !self.until_older_than(age_max).is_zero() {
            return Ok(());
        }
        self.asked.set(Some(clock::monotonic()));
        let etag = self.etag.borrow().clone().filter(|_| !is_forced);
        let answer = self.controller.manifest(etag.as_deref()).await;
        self.standing.learn(&answer, clock::now());
        if let Some(issue) = answer? {
            self.take(issue).await?;
        }
        self.confirmed_at.set(Some(clock::now()));
        Ok(())
    }

    async fn take(&self, Issue { etag, signed }: Issue) -> Result<(), Stale> {
        let key = self.pinned_key().await.map_err(Stale::Local)?;
        let catalog = Catalog::verify(&signed, &key, self.site_id)?;
        let is_kept_clock = self.standing.clock() == ClockQuality::Synced;
        let held = self.catalog();
        catalog.check_successor(held.as_deref(), is_kept_clock.then(clock::now))?;
        // On disk first: a version that was obeyed must not be forgotten, or an older one could come after it.
        let text = serde_json::to_string(&Kept { etag: etag.clone(), signed })
            .context("cannot write the manifest as JSON")
            .map_err(Stale::Local)?;
        let path = self.data_dir.manifest_file();
        smol::unblock(move || data_dir::write_private(&path, &text)).await.map_err(Stale::Local)?;
        if held.is_none_or(|held| held.version() != catalog.version()) {
            let (version, names) = (catalog.version(), catalog.entries().len());
            log::info!(version, names; "the manifest of this site is version {version} with {names} names");
        }
        *self.catalog.borrow_mut() = Some(Rc::new(catalog));
        *self.etag.borrow_mut() = etag;
        Ok(())
    }

    async fn pinned_key(&self) -> anyhow::Result<PublicKey> {
        let data_dir = self.data_dir.clone();
        smol::unblock(move || pinned_key(&data_dir)).await
    }
}

/// The key that was pinned when the agent joined.
///
/// # Errors
/// There is none, or its file is no good.
pub(crate) fn pinned_key(data_dir: &DataDir) -> anyhow::Result<PublicKey> {
    data_dir::signing_key(data_dir)?.with_context(|| {
        let path = data_dir.signing_key_file();
        format!(
            "there is no {}, so no manifest can be believed: make a new token for the site and run `pureboot-agent init --rejoin`",
            path.display()
        )
    })
}

fn load(data_dir: &DataDir, site: SiteId) -> anyhow::Result<Option<(Catalog, Option<String>)>> {
    let path = data_dir.manifest_file();
    let Some(text) = data_dir::read_private_up_to(&path, FILE_LEN_MAX)? else { return Ok(None) };
    let kept: Kept = serde_json::from_slice(text.as_bytes())
        .with_context(|| format!("{} is damaged", path.display()))?;
    let key = pinned_key(data_dir)?;
    Ok(Some((Catalog::verify(&kept.signed, &key, site)?, kept.etag)))
}
