//! Credentials that are shown while others are being looked up wait here and are looked up together, next.

use pureboot_protocol::{CredentialHash, Timestamp};

use crate::auth::Caller;
use crate::store::{Bearer, Store, StoreError};
use crate::together::{Together, Work};

/// Who has which credential. Clones share the way to the database.
#[derive(Debug, Clone)]
pub(crate) struct Callers {
    store: Store,
    bearers: Together<Finding>,
}

#[derive(Debug)]
struct Finding(Store);

impl Work for Finding {
    type Question = CredentialHash;
    type Answer = Option<Bearer>;
    const AT_ONCE: usize = 64;

    async fn answer(
        &self,
        hashes: &[CredentialHash],
    ) -> Result<Vec<Result<Option<Bearer>, StoreError>>, StoreError> {
        Ok(self.0.bearers(hashes).await?.into_iter().map(Ok).collect())
    }
}

impl Callers {
    /// It needs a runtime.
    pub(crate) fn start(store: Store) -> Self {
        Self { bearers: Together::start(Finding(store.clone())), store }
    }

    /// Whom a bearer belongs to. The first use of an agent's next credential ends the one before it.
    ///
    /// # Errors
    /// It is that of an agent which has been sent away, too many ask, or the database fails.
    pub(crate) async fn find(
        &self,
        hash: CredentialHash,
        now: Timestamp,
    ) -> Result<Option<Caller>, StoreError> {
        match self.bearers.ask(hash).await? {
            Some(bearer) => self.store.agent_calls(bearer, hash, now).await.map(Some),
            None => Ok(self.store.token_holder(hash, now).await?.map(Caller::Operator)),
        }
    }
}
