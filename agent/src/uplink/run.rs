//! The agent's side of the line, from joining to the last heartbeat.

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use anyhow::Context as _;
use pureboot_protocol::{RegistrationToken, Secret};
use smol::net::UdpSocket;

use crate::answers::keeper::Answers;
use crate::config::Config;
use crate::conflicts::keeper::Conflicts;
use crate::data_dir::DataDir;
use crate::exchange::within;
use crate::nodes::follow::Follower;
use crate::outbox::{self, Flusher, Outbox};
use crate::rng::Rng;
use crate::session::recorder::Recorder;
use crate::session::teller;
use crate::store::Store;
use crate::sync::rhythm::Rhythm;
use crate::sync::run::Sync;
use crate::update::updater::{Activity, Updater};
use crate::uplink::controller::{CHECK, CallError, Controller};
use crate::uplink::courier::HttpCourier;
use crate::uplink::floor::Floor;
use crate::uplink::heartbeat::{self, Measure};
use crate::uplink::join::{self, Joining};
use crate::uplink::obey::Obeyer;
use crate::uplink::rotate::Rotation;
use crate::uplink::standing::Standing;
use crate::uplink::tenure::Tenure;

/// Everything that is needed to speak to the controller.
pub struct Uplink<V> {
    /// The controller.
    pub controller: Rc<Controller>,
    /// How the agent stands with it.
    pub standing: Rc<Standing>,
    /// Keeps the identity.
    pub store: Store,
    /// What waits for the controller.
    pub outbox: Outbox,
    /// The right to deliver it.
    pub flusher: Flusher,
    /// What heartbeats say.
    pub vitals: Rc<V>,
    /// Keeps token and credential.
    pub data_dir: DataDir,
    /// The settings.
    pub config: Config,
    /// Where HTTP boot is bound.
    pub http_address: SocketAddr,
    /// Keeps content up to date.
    pub sync: Rc<Sync>,
    /// Keeps boot sessions.
    pub recorder: Rc<Recorder>,
    /// Keeps answer files up to date.
    pub answers: Rc<Answers>,
    /// Keeps records up to date.
    pub follower: Rc<Follower>,
    /// Keeps conflicts up to date.
    pub conflicts: Rc<Conflicts>,
    /// What time it is at the least.
    pub floor: Arc<Floor>,
    /// Brings the agent itself to another version.
    pub updater: Rc<Updater>,
    /// Chance for pauses.
    pub rng: Rng,
}

impl<V: Measure + Activity> Uplink<V> {
    /// Joins if there is a token, then beats and delivers for as long as the agent runs.
    ///
    /// # Errors
    /// Credential or token are open to others or cannot be kept.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let has_joined = self.standing.agent_id().is_some();
        if has_joined {
            self.controller.authenticate(join::credential(&self.data_dir)?);
        }
        match join::pending_token(&self.data_dir)? {
            Some(token) => {
                let credential = self.join(token).await.context("cannot join the site")?;
                self.controller.authenticate(credential);
            }
            None if has_joined => {}
            None => {
                log::error!(
                    "there is no token to join the site with: run `pureboot-agent init` with a new one"
                );
                return std::future::pending().await;
            }
        }
        let tenure = Tenure::begin(&self.data_dir)?;
        let courier =
            HttpCourier { controller: &self.controller, standing: &self.standing, tenure: &tenure };
        let flush_rng = Rng::from_seed(self.rng.next_u64());
        let rotation = Rotation::new(&self.data_dir, &self.controller);
        let obeyer = Obeyer::new(&self.controller, &self.store, &rotation, &*self.sync)
            .updating(&self.updater, &*self.vitals);
        let pulse = heartbeat::Pulse {
            controller: &self.controller,
            vitals: &*self.vitals,
            store: &self.store,
            standing: &self.standing,
            outbox: &self.outbox,
            tenure: &tenure,
            floor: &self.floor,
            obeyer: &obeyer,
            content: &*self.sync,
            follower: &self.follower,
        };
        let mut sync_rng = Rng::from_seed(self.rng.next_u64());
        let mut answers_rng = Rng::from_seed(self.rng.next_u64());
        let rhythm = Rhythm::load(&self.config.sync, self.config.site_id, &self.data_dir)?;
        let interval = self.config.sync.interval();
        let syncing = smol::future::zip(
            self.sync.run(rhythm, &mut sync_rng),
            self.answers.run(interval, &mut answers_rng),
        );
        let flusher = self.flusher.speaking_as(tenure.instance());
        let flushing = outbox::run(flusher, &courier, flush_rng);
        let changing = smol::future::zip(rotation.finish(), obeyer.run());
        let speaking = smol::future::zip(pulse.run(&mut self.rng), flushing);
        let following = smol::future::zip(self.follower.run(), self.conflicts.run());
        let speaking = smol::future::zip(speaking, following);
        let telling = teller::tell(&self.recorder, &self.controller, &self.standing);
        let explaining = smol::future::zip(syncing, telling);
        smol::future::zip(changing, smol::future::zip(speaking, explaining)).await;
        Ok(())
    }

    async fn join(&mut self, token: RegistrationToken) -> anyhow::Result<Secret> {
        let joining = Joining {
            config: &self.config,
            data_dir: &self.data_dir,
            controller: &self.controller,
            store: &self.store,
            standing: &self.standing,
            updater: &self.updater,
            agent_url: format!("http://{}", self.reachable_address().await),
        };
        joining.run(token, &mut self.rng).await
    }

    /// Where machines reach the agent: what it is bound to, or else the address that leads to the controller.
    async fn reachable_address(&self) -> SocketAddr {
        let bound = self.http_address;
        if !bound.ip().is_unspecified() {
            return bound;
        }
        let url = self.controller.url();
        // Connecting a datagram socket sends nothing; it only has the system choose an address.
        let outward = async {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
            socket.connect((url.host(), url.port())).await?;
            socket.local_addr()
        };
        match within(CHECK, async {
            outward.await.map_err(|error| CallError::Connect { authority: url.authority(), error })
        })
        .await
        {
            Ok(local) => SocketAddr::new(local.ip(), bound.port()),
            Err(_) => bound,
        }
    }
}
