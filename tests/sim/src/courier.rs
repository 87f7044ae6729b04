//! The agent's courier, and the bugs that are planted in it.

use pureboot_agent::outbox::{self, DeliveryError};
use pureboot_agent::uplink::controller::Controller;
use pureboot_agent::uplink::courier::HttpCourier;
use pureboot_agent::uplink::standing::Standing;
use pureboot_agent::uplink::tenure::Tenure;
use pureboot_protocol::{ChainHash, Change, ChangeBatch, ChangeReceipt, ChangeResult, Outcome};
use sha2::{Digest as _, Sha256};

use crate::faults::Planted;

/// Delivers as the agent does.
pub(crate) struct Courier<'a> {
    courier: HttpCourier<'a>,
    planted: Option<Planted>,
}

impl<'a> Courier<'a> {
    /// The agent's own, or one with a bug in it.
    pub(crate) fn new(
        controller: &'a Controller,
        standing: &'a Standing,
        tenure: &'a Tenure,
        planted: Option<Planted>,
    ) -> Self {
        Self { courier: HttpCourier { controller, standing, tenure }, planted }
    }
}

impl outbox::Courier for Courier<'_> {
    async fn deliver(&self, batch: &ChangeBatch) -> Result<ChangeReceipt, DeliveryError> {
        match (self.courier.deliver(batch).await, self.planted) {
            (Err(DeliveryError::Unusable(_)), Some(Planted::AnyAnswerCounts)) => Ok(believe(batch)),
            (receipt, _) => receipt,
        }
    }
}

/// The receipt of a controller that has taken all of `batch`.
fn believe(batch: &ChangeBatch) -> ChangeReceipt {
    let link = |before: ChainHash, change: &Change| {
        ChainHash::from_digest(Sha256::digest(change.head().link(before)).into())
    };
    let taken = |change: &Change| ChangeResult {
        id: change.id,
        outcome: Outcome::Applied,
        node_version: None,
        conflict_id: None,
        reason: None,
    };
    ChangeReceipt {
        nonce: batch.nonce,
        epoch: batch.epoch,
        acked_through: batch.items.last().map_or(0, |change| change.seq),
        hash: batch.items.iter().fold(batch.prev_hash.unwrap_or(ChainHash::GENESIS), link),
        results: batch.items.iter().map(taken).collect(),
        takes: None,
    }
}
