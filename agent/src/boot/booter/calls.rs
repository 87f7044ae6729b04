//! What a machine asks and says of itself besides its boots, by the same knowledge and the same rules.

use std::net::IpAddr;

use pureboot_protocol::{BootId, BootRecord, BootRequest, Mac, NodeId};

use super::{Booter, Found, Unkept, in_time, new_session, soon};
use crate::boot::decide::{Effect, decide};
use crate::clock;

/// What is known of a machine.
#[derive(Debug, Clone)]
pub struct Sighting {
    /// The record.
    pub record: BootRecord,
    /// Whether the controller did not answer, and this is what it said before.
    pub is_past: bool,
}

/// A machine that the site has taken note of.
#[derive(Debug, Clone, Copy)]
pub struct Registered {
    /// Its node.
    pub node_id: NodeId,
    /// The boot session that it reports in from now on.
    pub session: BootId,
}

/// Why a machine was not taken note of.
#[derive(Debug, thiserror::Error)]
pub enum Unregistered {
    /// It is known, and whoever speaks for it must prove to be it: 403.
    #[error("{0} is known here: name a boot session of its own")]
    NotItself(Mac),
    /// New machines wait for the controller: 503.
    #[error(
        "{0} is new, and the site may not take it up while the controller is away; come back later"
    )]
    NotNow(Mac),
    /// It could not be written down: 507.
    #[error("{0} could not be written down: {1}")]
    Unkept(Mac, String),
}

impl Booter {
    /// What is known of a machine: the controller's word if it comes in time, and else the record.
    pub async fn look_up(&self, mac: Mac) -> Option<Sighting> {
        match self.find(mac).await {
            Found::Known { record, freshness } => {
                let is_past = matches!(freshness, crate::boot::decide::Freshness::Past { .. });
                Some(Sighting { record: *record, is_past })
            }
            Found::Elsewhere { .. } | Found::Unknown | Found::Unreachable => None,
        }
    }

    /// Takes note of what a machine at `address` says of itself, as when it boots; `named` is the boot session that it names.
    ///
    /// # Errors
    /// See [`Unregistered`].
    pub async fn register_machine(
        &self,
        request: BootRequest,
        named: Option<BootId>,
        address: IpAddr,
    ) -> Result<Registered, Unregistered> {
        let mac = request.mac;
        let found = self.find(mac).await;
        let owner = match named {
            Some(named) => in_time(soon(), self.store.session_mac(named)).await.ok().flatten(),
            None => None,
        };
        let session = match (&found, named) {
            (Found::Known { .. }, Some(named)) if owner == Some(mac) => named,
            (Found::Known { .. }, _) => return Err(Unregistered::NotItself(mac)),
            (_, Some(named)) if owner == Some(mac) => named,
            _ => new_session(),
        };
        let is_known = found.record().is_some();
        let inputs = self.inputs(request.clone(), found, self.standing.line().into());
        let decision = decide(&inputs.facts());
        let is_told = |effect: &Effect| matches!(effect, Effect::Discover | Effect::Claim);
        if !is_known && !decision.effects.iter().any(is_told) {
            return Err(Unregistered::NotNow(mac));
        }
        let unkept = |error: Unkept| Unregistered::Unkept(mac, error.to_string());
        let noted = async {
            let now = clock::now();
            let begun = self.store.begin_session(session, request, super::new_node(), now);
            let node = begun.await?;
            self.register(&node, session, Some(address), now).await?;
            Ok(node)
        };
        let node = in_time::<_, crate::store::StoreError>(soon(), noted).await.map_err(unkept)?;
        Ok(Registered { node_id: node.node_id, session })
    }
}
