//! Batches of changes by HTTP.

use pureboot_protocol::{ChangeBatch, ChangeReceipt, IDENTITY_IN_USE, OUTBOX_FORKED};

use crate::clock;
use crate::exchange::ExchangeError;
use crate::outbox::{Courier, DeliveryError};
use crate::uplink::controller::{CallError, Controller};
use crate::uplink::standing::Standing;
use crate::uplink::tenure::Tenure;

/// Delivers to the controller, and tells the standing how that went.
pub struct HttpCourier<'a> {
    /// The controller.
    pub controller: &'a Controller,
    /// How the agent stands with it.
    pub standing: &'a Standing,
    /// Which life of the agent delivers.
    pub tenure: &'a Tenure,
}

impl Courier for HttpCourier<'_> {
    async fn deliver(&self, batch: &ChangeBatch) -> Result<ChangeReceipt, DeliveryError> {
        let outcome = self.controller.deliver(batch).await;
        self.standing.learn(&outcome, clock::now());
        if outcome.is_ok() {
            self.tenure.hold().await;
        }
        outcome.map_err(DeliveryError::from)
    }
}

impl From<CallError> for DeliveryError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(refusal) => {
                let status = refusal.status.as_u16();
                match status {
                    409 if refusal.code == OUTBOX_FORKED => Self::Forked(refusal.detail),
                    409 if refusal.code == IDENTITY_IN_USE => Self::InUse(refusal.detail),
                    401 | 403 => Self::Unauthorized { status },
                    429 | 500.. => Self::Unavailable { status, retry_after: refusal.retry_after },
                    _ => Self::Refused { status, detail: refusal.detail },
                }
            }
            CallError::Exchange(ExchangeError::Late(_)) => Self::TimedOut,
            CallError::Foreign(text) => Self::Unusable(text),
            CallError::Exchange(error @ ExchangeError::Body(_)) => {
                Self::Unusable(error.to_string())
            }
            error
            @ (CallError::Connect { .. } | CallError::Tls { .. } | CallError::Exchange(_)) => {
                Self::Unreachable(error.to_string())
            }
        }
    }
}
