//! The agent's side of the line, from joining to the last heartbeat.

use std::rc::Rc;

use anyhow::Context as _;
use pureboot_protocol::RegistrationToken;

use crate::config::Config;
use crate::data_dir::DataDir;
use crate::outbox::{self, Flusher, Outbox};
use crate::rng::Rng;
use crate::store::Store;
use crate::uplink::controller::Controller;
use crate::uplink::courier::HttpCourier;
use crate::uplink::heartbeat::{self, Vitals};
use crate::uplink::join;
use crate::uplink::standing::Standing;

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
    /// Where machines reach the agent, for the controller's operators to read.
    pub agent_url: String,
    /// Chance for pauses.
    pub rng: Rng,
}

impl<V: Vitals> Uplink<V> {
    /// Joins if there is a token, then beats and delivers for as long as the agent runs.
    ///
    /// # Errors
    /// Credential or token are open to others or cannot be kept.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let credential = join::credential(&self.data_dir)?;
        match join::pending_token(&self.data_dir)? {
            Some(token) => self.join(token, &credential).await.context("cannot join the site")?,
            None if self.standing.agent_id().is_none() => {
                log::error!(
                    "there is no token to join the site with: run `pureboot-agent init` with a new one"
                );
                return std::future::pending().await;
            }
            None => {}
        }
        self.controller.authenticate(credential);
        let courier = HttpCourier { controller: &self.controller, standing: &self.standing };
        let flush_rng = Rng::from_seed(self.rng.next_u64());
        let pulse = heartbeat::Pulse {
            controller: &self.controller,
            vitals: &*self.vitals,
            store: &self.store,
            standing: &self.standing,
            outbox: &self.outbox,
        };
        smol::future::zip(pulse.run(&mut self.rng), outbox::run(self.flusher, &courier, flush_rng))
            .await;
        Ok(())
    }

    async fn join(
        &mut self,
        token: RegistrationToken,
        credential: &pureboot_protocol::Secret,
    ) -> anyhow::Result<()> {
        let request = join::request(&self.config, token, credential, self.agent_url.clone());
        join::run(
            &self.controller,
            &request,
            &self.data_dir,
            &self.store,
            &self.standing,
            &mut self.rng,
        )
        .await
    }
}
